"""What a book is like at one moment: spread, mid, microprice, imbalance, depth, queues. Nothing here changes a book.

Prices and sizes stay exact integers; the mid is kept as twice the mid, which is whole. Ratios are float64 of one
written order of IEEE operations. A sum of sizes that 64 bits cannot hold is told as SIZE_MAX.

A book that is locked or crossed is measured as it stands (a spread of 0 or below); `MEASURED_STATE` says so.
"""

from __future__ import annotations

import numpy as np

from tapehouse.book.layout import ASK, BEST, BID, COUNT, NO_RANK, SIZE, SIZE_MAX
from tapehouse.book.places import next_rank, place_of, price_of
from tapehouse.book.standing import standing
from tapehouse.book.view import best_price, best_size, has_side
from tapehouse.core.kernel import Array, Float, Int, State, kernel
from tapehouse.core.units import UNDEFINED

BPS_MAX = 10_000  # basis points: as far below the mid as there can be
# Columns of what `measure` writes, exact.
BID_PRICE, BID_SIZE, ASK_PRICE, ASK_SIZE = range(4)
SPREAD = 4  # ask minus bid, in price units
TWICE_MID = 5  # bid plus ask, in price units
BID_ORDERS, ASK_ORDERS = 6, 7  # known orders at the best price
BID_DEPTH, ASK_DEPTH = 8, 9  # the sizes of the best levels, together
BID_NEAR, ASK_NEAR = 10, 11  # the sizes within some basis points of the mid, together
MEASURED_STATE = 12  # the `BookState`
MEASURES = 13
# And as float64.
MICROPRICE = 0  # in price units
IMBALANCE = 1  # of the best sizes: -1 all ask, 1 all bid
DEPTH_IMBALANCE = 2  # of the best levels
RATIOS = 3
_NAN = float("nan")


@kernel(inline=True)
def add_capped(total: Int, part: Int) -> Int:
    """The sum of two integers of at most SIZE_MAX either way, held at SIZE_MAX or -SIZE_MAX where it is beyond."""
    if part >= 0:
        return SIZE_MAX if total > SIZE_MAX - part else total + part
    return -SIZE_MAX if total < -SIZE_MAX - part else total + part


@kernel(inline=True)
def spread(books: State, slot: Int) -> Int:
    """Best ask minus best bid, in price units; below 0 where the book is crossed, UNDEFINED where a side is empty."""
    bid, ask = best_price(books, slot, BID), best_price(books, slot, ASK)
    return UNDEFINED if bid == UNDEFINED or ask == UNDEFINED else ask - bid


@kernel(inline=True)
def twice_mid(books: State, slot: Int) -> Int:
    """Best bid plus best ask, in price units: twice the mid, exact; UNDEFINED where a side is empty."""
    bid, ask = best_price(books, slot, BID), best_price(books, slot, ASK)
    return UNDEFINED if bid == UNDEFINED or ask == UNDEFINED else bid + ask


@kernel(inline=True)
def imbalance_of(bid_size: Int, ask_size: Int) -> Float:
    """(bid - ask) / (bid + ask) of two sizes, from -1 to 1; NaN where both are 0."""
    if bid_size == 0 and ask_size == 0:
        return _NAN
    return np.float64(bid_size - ask_size) / (np.float64(bid_size) + np.float64(ask_size))


@kernel(inline=True)
def microprice_of(bid: Int, bid_size: Int, ask: Int, ask_size: Int) -> Float:
    """The mid weighted by the sizes across: bid + (ask - bid) * bid size / both sizes; NaN where a side is empty."""
    if bid_size == 0 or ask_size == 0:
        return _NAN
    share = np.float64(bid_size) / (np.float64(bid_size) + np.float64(ask_size))
    return np.float64(bid) + np.float64(ask - bid) * share


@kernel(inline=True)
def queue_orders(books: State, slot: Int, side: Int) -> Int:
    """The known orders at the best price of a side; `best_size` is their size, with what is anonymous."""
    if not has_side(books, slot, side) or books.slots[slot, BEST + side] == NO_RANK:
        return 0
    return books.levels[place_of(books, slot, side, books.slots[slot, BEST + side]), COUNT]


@kernel()
def depth_of_levels(books: State, slot: Int, side: Int, levels: Int) -> Int:
    """The sizes of a side's best `levels` levels, together."""
    if not has_side(books, slot, side):
        return 0
    rank = books.slots[slot, BEST + side]
    total = 0
    seen = 0
    while rank != NO_RANK and seen < levels:
        total = add_capped(total, books.levels[place_of(books, slot, side, rank), SIZE])
        seen += 1
        rank = next_rank(books, slot, side, rank)
    return total


@kernel()
def depth_near_mid(books: State, slot: Int, side: Int, bps: Int) -> Int:
    """The sizes of a side at prices at most `bps` basis points of the mid away from it, together.

    Exact: |2 price - twice mid| * 10,000 <= |twice mid| * bps. 0 where a side is empty, so that there is no mid.

    Args:
        bps: 0 to BPS_MAX.
    """
    middle = twice_mid(books, slot)
    if middle == UNDEFINED or not has_side(books, slot, side) or bps < 0 or bps > BPS_MAX:
        return 0
    size = abs(middle)
    reach = size // BPS_MAX * bps + size % BPS_MAX * bps // BPS_MAX
    rank = books.slots[slot, BEST + side]
    total = 0
    while rank != NO_RANK:
        price = price_of(books, slot, side, rank)
        if (side == BID and 2 * price < middle - reach) or (side == ASK and 2 * price - reach > middle):
            break
        total = add_capped(total, books.levels[place_of(books, slot, side, rank), SIZE])
        rank = next_rank(books, slot, side, rank)
    return total


@kernel()
def measure(books: State, slot: Int, levels: Int, bps: Int, exact: Array, ratios: Array) -> None:
    """Write every measure of a slot's book.

    Args:
        levels: How many levels of each side are their depth.
        bps: 0 to BPS_MAX: how near the mid is near.
        exact: Shape (at least MEASURES,) int64; UNDEFINED for a price that there is not, and 0 for its size.
        ratios: Shape (at least RATIOS,) float64; NaN where the sides that it needs are empty.
    """
    bid, ask = best_price(books, slot, BID), best_price(books, slot, ASK)
    bid_size, ask_size = best_size(books, slot, BID), best_size(books, slot, ASK)
    exact[BID_PRICE] = bid
    exact[BID_SIZE] = bid_size
    exact[ASK_PRICE] = ask
    exact[ASK_SIZE] = ask_size
    exact[SPREAD] = spread(books, slot)
    exact[TWICE_MID] = twice_mid(books, slot)
    exact[MEASURED_STATE] = standing(books, slot) if 0 <= slot < books.slots.shape[0] else 0
    for side in range(2):
        exact[BID_ORDERS + side] = queue_orders(books, slot, side)
        exact[BID_DEPTH + side] = depth_of_levels(books, slot, side, levels)
        exact[BID_NEAR + side] = depth_near_mid(books, slot, side, bps)
    ratios[MICROPRICE] = microprice_of(bid, bid_size, ask, ask_size)
    ratios[IMBALANCE] = imbalance_of(bid_size, ask_size)
    ratios[DEPTH_IMBALANCE] = imbalance_of(exact[BID_DEPTH], exact[ASK_DEPTH])
