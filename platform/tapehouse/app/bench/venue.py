"""A venue of our own: the order core alone, without frames and numbers of clients. Risk, price-time matching and the
records of both sides, a request at a time.

The stream has new orders of many kinds, cancels and replaces on one instrument of 60 accounts, some two thousand orders
resting. Every pass must reject what the first one rejected, and end with money that adds up to zero; the plain desk
must reject the same of the first requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from tapehouse.app.bench.measure import Goal, Measure, Peer, measure, peer_of
from tapehouse.app.bench.registry import Options
from tapehouse.app.bench.timer import middle, new_histogram
from tapehouse.app.bench.venue_loops import decide_timed
from tapehouse.app.bench.venue_stream import (
    ACCOUNTS,
    LIMITS,
    MAKER_PPM,
    REFERENCE,
    TAKER_PPM,
    TICK,
    Ints,
    make_stream,
    make_venue,
)
from tapehouse.book import make_books
from tapehouse.core.check import check
from tapehouse.desk import LADDER, POWERS, Desk
from tapehouse.desk.conservation import verify_conservation
from tapehouse.desk.reference import Limits, Market, ReferenceDesk, Request
from tapehouse.desk.requests import (
    REQUEST_ACCOUNT,
    REQUEST_FLAGS,
    REQUEST_KIND,
    REQUEST_NUMBER,
    REQUEST_PRICE,
    REQUEST_SIDE,
    REQUEST_SIZE,
    REQUEST_TARGET,
    REQUEST_TIME_IN_FORCE,
    REQUEST_TYPE,
)
from tapehouse.desk.state import DECISIONS, FILL_COUNT, MONEY_EXPONENT, OUT_ROWS
from tapehouse.desk.venue import OUT_ROWS_MADE
from tapehouse.desk.venue_loop import run_requests

REQUESTS = 1_000_000
CALLS = 50_000  # from Python
PEER_REQUESTS = 1_500  # of the plain desk, which sorts all that rests for each
GOALS = (
    Goal(at_most=80.0),
    Goal(figure="p99", at_most=1_000.0),
    Goal(figure="throughput", at_least=5.0),
)


def run(options: Options) -> Iterator[Measure]:
    """Two rows."""
    options.on_step("requests")
    requests, times, reasons = make_stream(options.count(REQUESTS, 5_000))
    yield _decided(options, requests, times, reasons)
    yield _calls(options, requests, times)


def _touched() -> Desk:
    """A fresh venue, every page of it touched."""
    desk = make_venue()
    for array in (desk.own.levels, desk.own.orders, desk.own.table, desk.orders):
        array[:] = array
    return desk


def _decide(desk: Desk, requests: Ints, times: Ints, reasons: Ints, out: Ints) -> None:
    """As `Venue.run`, but that records are dropped where `out` ends."""
    books, ladder, row = make_books(1, orders=1), np.zeros((2, LADDER), np.int64), 0
    while row < len(requests):
        desk.counters[OUT_ROWS] = 0
        row = run_requests(desk, books, ladder, requests, times, reasons, row, out, POWERS)


def _decided(options: Options, requests: Ints, times: Ints, wanted: Ints) -> Measure:
    options.on_step("risk, matching, records")
    timer = options.timer
    out = np.zeros((OUT_ROWS_MADE, 8), np.int64)
    reasons = np.zeros(len(requests), np.int64)
    means, spreads = [], []
    for attempt in range(1 + options.repeat):
        desk = _touched()
        mean = timer.ns_each(partial(_decide, desk, requests, times, reasons, out), len(requests))
        check(np.array_equal(reasons, wanted), "the requests were decided otherwise")
        verify_conservation(desk.accounts, desk.legs, desk.booking, desk.instruments, 1)
        histogram = new_histogram()
        scratch = make_books(1, orders=1), np.zeros((2, LADDER), np.int64)
        decide_timed(_touched(), *scratch, requests, times, out, POWERS, timer.overhead, histogram)
        if attempt:
            means.append(mean)
            spreads.append(timer.spread(histogram))
    matches, records = int(desk.counters[FILL_COUNT]), int(desk.counters[DECISIONS])
    note = f"{len(requests):,} requests, {matches:,} matches, {records:,} records of 128 bytes; {ACCOUNTS} accounts"
    return measure(
        "venue: risk and match", "ns", means, goals=GOALS, peers=(_plain(options, requests, times, wanted),), note=note,
        **middle(spreads),
    )  # fmt: skip


def _plain(options: Options, requests: Ints, times: Ints, wanted: Ints) -> Peer:
    """The plain desk that the kernels are held against."""
    few = options.count(PEER_REQUESTS, 200)
    exponent = int(make_venue().instruments[0, MONEY_EXPONENT])
    asked = [_request(row) for row in requests[:few].tolist()]
    reasons: list[int] = []

    def work() -> None:
        reasons.clear()
        market = Market(money_exponent=exponent, tick=TICK, crossing=True, last_trade=REFERENCE * TICK)
        desk = ReferenceDesk([market], maker_fee_ppm=MAKER_PPM, taker_fee_ppm=TAKER_PPM)
        for account in range(ACCOUNTS):
            desk.limits[account, 0] = Limits(
                LIMITS.order_size, LIMITS.position, LIMITS.notional, LIMITS.open_orders, LIMITS.band_ppm
            )
        for ordinal, (request, time) in enumerate(zip(asked, times.tolist(), strict=False), 1):
            desk.begin(ordinal, time)
            reasons.append(desk.decide(request))

    values = []
    for _ in range(options.repeat):
        values.append(options.timer.ns_each(work, few))
        check(reasons == wanted[:few].tolist(), "the plain desk decides otherwise")
    return peer_of("plain Python", values, f"the oracle of the tests, the first {few:,} requests")


def _request(row: list[int]) -> Request:
    return Request(
        kind=row[REQUEST_KIND], account=row[REQUEST_ACCOUNT], side=row[REQUEST_SIDE], order_type=row[REQUEST_TYPE],
        time_in_force=row[REQUEST_TIME_IN_FORCE], flags=row[REQUEST_FLAGS], price=row[REQUEST_PRICE],
        size=row[REQUEST_SIZE], target=row[REQUEST_TARGET], number=row[REQUEST_NUMBER],
    )  # fmt: skip


def _calls(options: Options, requests: Ints, times: Ints) -> Measure:
    """One call from CPython for each request."""
    options.on_step("one request from CPython")
    calls = min(options.count(CALLS, 200), len(requests))
    out, reasons = np.zeros((OUT_ROWS_MADE, 8), np.int64), np.zeros(1, np.int64)
    rows = [(requests[row : row + 1], times[row : row + 1]) for row in range(calls)]
    books, ladder = make_books(1, orders=1), np.zeros((2, LADDER), np.int64)

    def work(desk: Desk) -> None:
        for row, time in rows:
            desk.counters[OUT_ROWS] = 0
            run_requests(desk, books, ladder, row, time, reasons, 0, out, POWERS)

    values = [options.timer.ns_each(partial(work, _touched()), calls) for _ in range(1 + options.repeat)]
    return measure(
        "venue: one call from CPython", "ns", values[1:], note="any kind of request; the loop of Python included"
    )
