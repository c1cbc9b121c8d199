"""Requests to the order core one after the other, without a tape: each is an input of its own, with its own time."""

from __future__ import annotations

from tapehouse.book.resting import expect_order
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.reference import refer
from tapehouse.desk.orders import catch_up, decide
from tapehouse.desk.records import key_of
from tapehouse.desk.requests import REQUEST_KIND, REQUEST_SLOT, REQUEST_TARGET, SUBMIT
from tapehouse.desk.state import (
    ID_BASE,
    INDEX,
    INSTRUMENTS_MAX,
    NEXT_DUE,
    NOW,
    ORDINAL,
    OUT_ROWS,
    OVERFLOWS,
    UNFINISHED,
    UNSETTLED_SLOTS,
)

REQUEST_ROWS_MAX = 32_768  # that one request may write: its matches, the stops they reach, what they cut down
REQUESTS_AHEAD = 4  # of those that wait, whose target is fetched meanwhile
ORDERS_AHEAD = 16  # ids count up, so where the orders to come will be kept is known


@kernel(inline=True)
def begin_request(desk: State, books: State, ladder: Array, out: Array, powers: Array, time: Int, limit: Int) -> Int:
    """Begin the next input: what is due before it is done; 1 where `out` has no room for all of that.

    Args:
        time: UTC ns; engine time is the largest so far.
        limit: Of rows of `out`.
    """
    counters = desk.counters
    if counters[UNFINISHED] == 0:
        counters[ORDINAL] += 1
        counters[INDEX] = 0
        counters[ID_BASE] = 0
    counters[UNFINISHED] = 0
    counters[NOW] = max(counters[NOW], time)
    if counters[NOW] >= counters[NEXT_DUE] or counters[UNSETTLED_SLOTS] != 0:
        more = catch_up(desk, books, ladder, out, powers, limit)
        if more != 0 or counters[OUT_ROWS] > limit:
            counters[UNFINISHED] = 1
            return 1
    return 0


@kernel()
def run_requests(
    desk: State, books: State, ladder: Array, requests: Array, times: Array, reasons: Array, start: Int, out: Array,
    powers: Array,
) -> Int:  # fmt: skip
    """Decide on requests from row `start` on, in order; returns the row to go on with once `out` was emptied.

    Args:
        ladder: Scratch, shape (2, LADDER) int64.
        requests: Shape (n, REQUEST_COLUMNS) int64: see `requests.py`.
        times: Shape (n,): UTC ns.
        reasons: Shape (n,): OK or why a request was rejected.
        out: Shape (rows, 8) of more than REQUEST_ROWS_MAX rows; records are written from row `counters[OUT_ROWS]` on.
    """
    counters = desk.counters
    limit = out.shape[0] - REQUEST_ROWS_MAX
    by_reference, recorded = refer(desk), refer(books)
    row = start
    while row < requests.shape[0] and counters[OUT_ROWS] <= limit and counters[OVERFLOWS] == 0:
        if row + REQUESTS_AHEAD < requests.shape[0]:
            later = requests[row + REQUESTS_AHEAD]
            if later[REQUEST_KIND] != SUBMIT and 0 <= later[REQUEST_SLOT] < INSTRUMENTS_MAX:
                expect_order(desk.own, later[REQUEST_SLOT], key_of(later[REQUEST_TARGET]))
        request = requests[row]
        if 0 <= request[REQUEST_SLOT] < INSTRUMENTS_MAX:
            expect_order(desk.own, request[REQUEST_SLOT], counters[ORDINAL] + ORDERS_AHEAD)
        if begin_request(desk, books, ladder, out, powers, times[row], limit) != 0:
            return row
        reasons[row] = decide(by_reference, recorded, ladder, out, powers, request)
        row += 1
    return row
