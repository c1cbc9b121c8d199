"""A long stream of requests to a venue, and a venue to send it to.

Each request is chosen while the stream before it is carried out, so that cancels name live orders and crossing orders
cross: 38 in 100 are cancels, a quarter of the others trade, accounts meet themselves as often as chance has it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tapehouse.app.bench.material import SEED
from tapehouse.book import Books, best_price, define, make_books
from tapehouse.book.layout import LIVE
from tapehouse.book.resting import find_order
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.matching import run_requests
from tapehouse.desk.money import POWERS
from tapehouse.desk.state import (
    INDEX_BITS,
    INSTRUMENT_ID,
    LAST_TRADE,
    LIMIT_NOTIONAL,
    LIMIT_ORDER_SIZE,
    LIMIT_POSITION,
    LOT,
    MULTIPLIER,
    ORDINAL,
    OUT_ROWS,
)
from tapehouse.desk.state import TICK as TICK_COLUMN
from tapehouse.desk.venue_state import BAND as BAND_COLUMN
from tapehouse.desk.venue_state import (
    CANCEL,
    FOK,
    IOC,
    LIMIT,
    MARKET,
    POST_ONLY,
    REPLACE,
    REQUEST_ACCOUNT,
    REQUEST_COLUMNS,
    REQUEST_KIND,
    REQUEST_NUMBER,
    REQUEST_PRICE,
    REQUEST_ROWS_MAX,
    REQUEST_SIDE,
    REQUEST_SIZE,
    REQUEST_TARGET,
    REQUEST_TIME,
    VenueState,
    make_venue_state,
)

TICK = 10_000_000
REFERENCE = 32_768
BAND = 500
ACCOUNTS = 64
OUT_ROWS_NEEDED = 4_096 + REQUEST_ROWS_MAX
GAP_NS = 300
RING = 1 << 18
LIVE_MIN = 2_000  # orders that rest: below, nothing is cancelled
TRIES = 1 << 14  # orders to look at for one that is live

Ints = npt.NDArray[np.int64]


def make_venue(*, accounts: int = ACCOUNTS, orders: int = 1 << 17) -> tuple[VenueState, Books]:
    """A venue of one instrument, whose prices begin at 32,768 ticks."""
    books = make_books(1, orders=orders)
    define(books, 0, TICK)
    venue = make_venue_state(accounts=accounts, instruments=1, orders=orders, maker_fee_ppm=-10, taker_fee_ppm=30)
    row = venue.instruments[0]
    row[[INSTRUMENT_ID, TICK_COLUMN, LOT, MULTIPLIER]] = 1, TICK, 1, 1
    row[LAST_TRADE], row[BAND_COLUMN] = REFERENCE * TICK, BAND * TICK
    venue.limits[:, [LIMIT_ORDER_SIZE, LIMIT_POSITION, LIMIT_NOTIONAL]] = 5_000, 3_000_000, 10**18
    return venue, books


@kernel()
def choose(venue: State, books: State, dice: Array, ring: Array, sent: Int, middle: Int, request: Array) -> Int:
    """Write one request; returns whether it announces an order."""
    bid, ask = best_price(books, 0, 0), best_price(books, 0, 1)
    if bid == UNDEFINED:
        bid = middle - TICK
    if ask == UNDEFINED:
        ask = middle + TICK
    request[:] = 0
    if dice[0] < 380 and books.slots[0, LIVE] > LIVE_MIN:
        back = dice[1] if dice[2] < 800 else dice[1] * 20
        at = (sent - 1 - min(back, min(sent, RING) - 1)) & (RING - 1)
        if dice[3] % 100 != 0:  # one in a hundred names whatever comes, the others an order that is live
            for _ in range(TRIES):
                if find_order(books, 0, ring[at, 0] >> INDEX_BITS) >= 0:
                    break
                at = (at - 1) & (RING - 1)
        request[REQUEST_KIND] = CANCEL if dice[3] < 970 else REPLACE
        request[REQUEST_ACCOUNT], request[REQUEST_TARGET] = ring[at, 1], ring[at, 0]
        request[REQUEST_PRICE], request[REQUEST_SIZE] = ring[at, 2], 100 + 100 * (dice[4] & 3)
        return request[REQUEST_KIND] == REPLACE
    side = dice[3] & 1
    sign = -1 if side == 0 else 1
    against = ask if side == 0 else bid
    kind, price, size = LIMIT, middle + sign * TICK * (1 + dice[5]), 100 * (1 + dice[4])
    if dice[2] < 150:
        price = against
    elif dice[2] < 220:
        kind, price = IOC, against - sign * 2 * TICK
    elif dice[2] < 250:
        kind = MARKET
    elif dice[2] < 270:
        kind, price, size = FOK, against - sign * 3 * TICK, size * 4
    elif dice[2] < 330:
        kind = POST_ONLY
    elif dice[2] < 337:
        size = 600_000  # beyond the limit
    request[REQUEST_KIND], request[REQUEST_ACCOUNT], request[REQUEST_SIDE] = kind, dice[6] % ACCOUNTS, side
    request[REQUEST_PRICE], request[REQUEST_SIZE] = price, size
    return 1


@kernel()
def fill_stream(
    venue: State, books: State, dice: Array, ring: Array, requests: Array, reasons: Array, out: Array, powers: Array
) -> None:
    """Choose and carry out every request of a stream."""
    sent = 0
    middle = REFERENCE * TICK
    for row in range(requests.shape[0]):
        if dice[row, 7] == 0:
            middle += TICK
        elif dice[row, 7] == 1:
            middle -= TICK
        request = requests[row]
        announces = choose(venue, books, dice[row], ring, sent, middle, request)
        request[REQUEST_NUMBER], request[REQUEST_TIME] = row, row * GAP_NS
        venue.counters[OUT_ROWS] = 0
        run_requests(venue, books, requests[row : row + 1], reasons[row : row + 1], 0, out, powers)
        if announces:
            at = sent & (RING - 1)
            ring[at, 0] = venue.counters[ORDINAL] << INDEX_BITS
            ring[at, 1], ring[at, 2] = request[REQUEST_ACCOUNT], request[REQUEST_PRICE]
            sent += 1


def make_stream(count: int) -> tuple[Ints, Ints]:
    """So many requests for a fresh `make_venue()`, and what became of each."""
    chance = np.random.default_rng(SEED)
    dice = np.empty((count, 8), np.int64)
    dice[:, 0], dice[:, 2], dice[:, 3] = chance.integers(0, 1_000, (3, count))
    dice[:, 1] = chance.exponential(3_000, count)
    dice[:, 4] = chance.exponential(2, count)
    dice[:, 5] = chance.exponential(10, count)
    dice[:, 6] = chance.integers(0, 1 << 30, count)
    dice[:, 7] = chance.integers(0, 4_000, count)
    venue, books = make_venue()
    requests, reasons = np.zeros((count, REQUEST_COLUMNS), np.int64), np.zeros(count, np.int64)
    out = np.zeros((OUT_ROWS_NEEDED, 8), np.int64)
    fill_stream(venue, books, dice, np.zeros((RING, 3), np.int64), requests, reasons, out, POWERS)
    return requests, reasons
