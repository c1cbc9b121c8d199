"""A long stream of requests to a venue, and a venue to send it to.

Each request is chosen while the stream before it is carried out, so that cancels name live orders and crossing orders
cross: 38 in 100 are cancels, a quarter of the others trade, accounts meet themselves as often as chance has it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tapehouse.app.bench.material import SEED
from tapehouse.book import best_price, make_books
from tapehouse.book.layout import LIVE
from tapehouse.book.resting import find_order
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.desk import LADDER, Desk
from tapehouse.desk.money import POWERS
from tapehouse.desk.records import key_of
from tapehouse.desk.requests import (
    CANCEL,
    FOK,
    IOC,
    MARKET,
    POST_ONLY_FLAG,
    REPLACE,
    REQUEST_ACCOUNT,
    REQUEST_COLUMNS,
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
from tapehouse.desk.state import INDEX_BITS, ORDINAL, OUT_ROWS
from tapehouse.desk.venue import OUT_ROWS_MADE, AccountLimits, Venue
from tapehouse.desk.venue_loop import run_requests
from tapehouse.market import Instrument

TICK = 10_000_000
REFERENCE = 32_768
LIMITS = AccountLimits(order_size=5_000, position=3_000_000, notional=10**18, band_ppm=15_000)
ACCOUNTS = 60
MAKER_PPM, TAKER_PPM = -10, 30
GAP_NS = 300
RING = 1 << 18
LIVE_MIN = 2_000  # orders that rest: below, nothing is cancelled
TRIES = 1 << 14  # orders to look at for one that is live

Ints = npt.NDArray[np.int64]


def make_venue() -> Desk:
    """The state of a venue of one instrument, whose prices begin at 32,768 ticks."""
    share = Instrument(id=1, symbol="CROSS", tick_size=TICK)
    venue = Venue([share], maker_fee_ppm=MAKER_PPM, taker_fee_ppm=TAKER_PPM)
    venue.open_at(0, REFERENCE * TICK)
    for account in range(ACCOUNTS):
        venue.limit(account, LIMITS)
    return venue.desk


@kernel()
def choose(desk: State, dice: Array, ring: Array, sent: Int, middle: Int, request: Array) -> Int:
    """Write one request; returns whether it announces an order."""
    own = desk.own
    bid, ask = best_price(own, 0, 0), best_price(own, 0, 1)
    if bid == UNDEFINED:
        bid = middle - TICK
    if ask == UNDEFINED:
        ask = middle + TICK
    request[:] = 0
    if dice[0] < 380 and own.slots[0, LIVE] > LIVE_MIN:
        back = dice[1] if dice[2] < 800 else dice[1] * 20
        at = (sent - 1 - min(back, min(sent, RING) - 1)) & (RING - 1)
        if dice[3] % 100 != 0:  # one in a hundred names whatever comes, the others an order that is live
            for _ in range(TRIES):
                if find_order(own, 0, key_of(ring[at, 0])) >= 0:
                    break
                at = (at - 1) & (RING - 1)
        replaces = dice[3] >= 970
        request[REQUEST_KIND] = REPLACE if replaces else CANCEL
        request[REQUEST_ACCOUNT], request[REQUEST_TARGET] = ring[at, 1], ring[at, 0]
        if replaces:
            request[REQUEST_PRICE], request[REQUEST_SIZE] = ring[at, 2], 100 + 100 * (dice[4] & 3)
        return replaces
    side = dice[3] & 1
    sign = -1 if side == 0 else 1
    against = ask if side == 0 else bid
    price, size = middle + sign * TICK * (1 + dice[5]), 100 * (1 + dice[4])
    if dice[2] < 150:
        price = against
    elif dice[2] < 220:
        request[REQUEST_TIME_IN_FORCE], price = IOC, against - sign * 2 * TICK
    elif dice[2] < 250:
        request[REQUEST_TYPE] = MARKET
    elif dice[2] < 270:
        request[REQUEST_TIME_IN_FORCE], price, size = FOK, against - sign * 3 * TICK, size * 4
    elif dice[2] < 330:
        request[REQUEST_FLAGS] = POST_ONLY_FLAG
    elif dice[2] < 337:
        size = 600_000  # beyond the limit
    request[REQUEST_ACCOUNT], request[REQUEST_SIDE] = dice[6] % ACCOUNTS, side
    request[REQUEST_PRICE], request[REQUEST_SIZE] = price, size
    return 1


@kernel()
def fill_stream(
    desk: State, books: State, ladder: Array, dice: Array, ring: Array, requests: Array, times: Array, reasons: Array,
    out: Array, powers: Array,
) -> None:  # fmt: skip
    """Choose and carry out every request of a stream."""
    sent = 0
    middle = REFERENCE * TICK
    for row in range(requests.shape[0]):
        if dice[row, 7] == 0:
            middle += TICK
        elif dice[row, 7] == 1:
            middle -= TICK
        request = requests[row]
        announces = choose(desk, dice[row], ring, sent, middle, request)
        request[REQUEST_NUMBER], times[row] = row, row * GAP_NS
        desk.counters[OUT_ROWS] = 0
        run_requests(desk, books, ladder, requests[: row + 1], times, reasons, row, out, powers)
        if announces:
            at = sent & (RING - 1)
            ring[at, 0] = desk.counters[ORDINAL] << INDEX_BITS
            ring[at, 1], ring[at, 2] = request[REQUEST_ACCOUNT], request[REQUEST_PRICE]
            sent += 1


def make_stream(count: int) -> tuple[Ints, Ints, Ints]:
    """So many requests for a fresh `make_venue()`, their times, and what became of each."""
    chance = np.random.default_rng(SEED)
    dice = np.empty((count, 8), np.int64)
    dice[:, 0], dice[:, 2], dice[:, 3] = chance.integers(0, 1_000, (3, count))
    dice[:, 1] = chance.exponential(3_000, count)
    dice[:, 4] = chance.exponential(2, count)
    dice[:, 5] = chance.exponential(10, count)
    dice[:, 6] = chance.integers(0, 1 << 30, count)
    dice[:, 7] = chance.integers(0, 4_000, count)
    requests, times = np.zeros((count, REQUEST_COLUMNS), np.int64), np.zeros(count, np.int64)
    reasons, out = np.zeros(count, np.int64), np.zeros((OUT_ROWS_MADE, 8), np.int64)
    fill_stream(
        make_venue(), make_books(1, orders=1), np.zeros((2, LADDER), np.int64), dice, np.zeros((RING, 3), np.int64),
        requests, times, reasons, out, POWERS,
    )  # fmt: skip
    return requests, times, reasons
