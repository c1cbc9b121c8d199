"""The window of each slot: from a price to a place and back, from a level to the next, and where the window lies.

Where it lies is no part of a book: it says only which levels are found by arithmetic and which by a search (`far.py`).
A change within the window takes none of the longer ways here, which are functions of their own for that reason.
"""

from __future__ import annotations

import numpy as np

from tapehouse.book.apart import stay_apart
from tapehouse.book.bits import flip_bit, highest, next_below, next_from
from tapehouse.book.far import add_far, far_first, far_place, find_far, give_far, next_far
from tapehouse.book.layout import (
    ASK,
    BEST,
    BID,
    FAR,
    FAR_RANK,
    FAR_ROW,
    FLOOR,
    INVERSE,
    LEVELS,
    LINKS,
    LOW,
    MISSES,
    MOVED,
    NO_RANK,
    OCCUPIED,
    PLACE,
    PRICE_MAX,
    QUEUE,
    RANK_OF,
    ROTATE,
    SHIFT,
    SIZE,
    TICK,
    Status,
)
from tapehouse.book.table import high, low
from tapehouse.core.kernel import Array, Int, State, kernel

OUT_OF_WINDOW = int(Status.OUT_OF_WINDOW)
OFF_TICK = int(Status.OFF_TICK)
TOO_MANY_LEVELS = int(Status.TOO_MANY_LEVELS)
NO_LEVEL = 64  # no status: the price is right, and there is nothing
LEVEL_COLUMNS = 4
MASK_64 = np.uint64(63)


@kernel(inline=True)
def ticks_of(books: State, slot: Int, price: Int) -> Int:
    """How many ticks a price is above its slot's floor, as a uint64; beyond every tick where it is no whole number."""
    product = np.uint64(price - books.slots[slot, FLOOR]) * np.uint64(books.slots[slot, INVERSE])
    right = np.uint64(books.slots[slot, ROTATE])
    return (product >> right) | (product << ((np.uint64(0) - right) & MASK_64))


@kernel(inline=True)
def rank_at(side: Int, ticks: Int) -> Int:
    """The rank of a price, and the ticks of a rank."""
    return -ticks if side == ASK else ticks


@kernel(inline=True)
def price_of(books: State, slot: Int, side: Int, rank: Int) -> Int:
    """The price of a rank of one side, in tape units."""
    return books.slots[slot, FLOOR] + rank_at(side, rank) * books.slots[slot, TICK]


@kernel(inline=True)
def lowest_rank(slots: Array, pool: Array, slot: Int, side: Int) -> Int:
    """The lowest rank of a side that lies inside the window."""
    if side == ASK:
        return 1 - slots[slot, LOW] - pool[LEVELS]
    return slots[slot, LOW]


@kernel(inline=True)
def window_place(books: State, slot: Int, side: Int, rank: Int) -> Int:
    """The place of a rank inside the window."""
    return ((2 * slot + side) << books.pool[SHIFT]) + (rank & (books.pool[LEVELS] - 1))


@kernel(inline=True)
def is_inside(books: State, slot: Int, side: Int, rank: Int) -> Int:
    """Whether a rank lies inside the window."""
    return 0 <= rank - lowest_rank(books.slots, books.pool, slot, side) < books.pool[LEVELS]


@kernel(inline=True)
def window_rank(slots: Array, pool: Array, place: Int) -> Int:
    """The rank of a place in the window."""
    book = place >> pool[SHIFT]
    lowest = lowest_rank(slots, pool, book >> 1, book & 1)
    return lowest + ((place - lowest) & (pool[LEVELS] - 1))


@kernel(inline=True)
def rank_of(books: State, place: Int) -> Int:
    """The rank of a place that has a size."""
    far = place - 2 * (books.slots.shape[0] << books.pool[SHIFT])
    return window_rank(books.slots, books.pool, place) if far < 0 else books.far[far, RANK_OF]


@kernel(inline=True)
def place_of(books: State, slot: Int, side: Int, rank: Int) -> Int:
    """The place of a level that has a size."""
    if is_inside(books, slot, side, rank):
        return window_place(books, slot, side, rank)
    return find_far(books, slot, side, rank)


@kernel(inline=True)
def next_inside(slots: Array, bitmap: Array, pool: Array, slot: Int, side: Int, rank: Int) -> Int:
    """The best occupied rank of the window below `rank`, NO_RANK where there is none."""
    lowest = lowest_rank(slots, pool, slot, side)
    at = min(rank, lowest + pool[LEVELS])
    if at <= lowest:
        return NO_RANK
    book = 2 * slot + side
    mask = pool[LEVELS] - 1
    found = next_below(bitmap, pool, book, at & mask)
    if found < 0:
        found = highest(bitmap, pool, book)
        if found < 0:
            return NO_RANK
    down = ((at - 1 - found) & mask) + 1  # a step past the window's end finds a level above `rank`: no level below
    return at - down if down <= at - lowest else NO_RANK


@kernel(inline=True)
def next_rank(books: State, slot: Int, side: Int, rank: Int) -> Int:
    """The best occupied rank of a side below `rank`, NO_RANK where there is none."""
    found = next_inside(books.slots, books.bitmap, books.pool, slot, side, rank)
    if books.slots[slot, FAR + side] == 0 or (found != NO_RANK and is_inside(books, slot, side, rank)):
        return found  # between two levels of the window there is no far one
    return max(found, next_far(books, slot, side, rank))


@kernel()
def worst_rank(books: State, slot: Int, side: Int) -> Int:
    """The worst occupied rank of a side that is not empty."""
    stay_apart()
    worst = -NO_RANK
    lowest = lowest_rank(books.slots, books.pool, slot, side)
    mask = books.pool[LEVELS] - 1
    book = 2 * slot + side
    found = next_from(books.bitmap, books.pool, book, lowest & mask)
    if found < 0:
        found = next_from(books.bitmap, books.pool, book, np.int64(0))
    if found >= 0:
        worst = lowest + ((found - lowest) & mask)
    count = books.slots[slot, FAR + side]
    if count != 0:
        worst = min(worst, books.far[far_first(books, slot, side) + count - 1, FAR_RANK])
    return worst


@kernel()
def price_fault(books: State, slot: Int, price: Int) -> Int:
    """Why no level can have this price; 0 where one can."""
    if price > PRICE_MAX or price < -PRICE_MAX:
        return OUT_OF_WINDOW
    return OFF_TICK if price % books.slots[slot, TICK] != 0 else 0


@kernel()
def locate_far(books: State, slot: Int, side: Int, price: Int) -> Int:
    """As `locate`, for a price outside of the window."""
    stay_apart()
    fault = price_fault(books, slot, price)
    if fault != 0:
        return -fault
    if books.slots[slot, FAR + side] == 0:
        return -NO_LEVEL
    place = find_far(books, slot, side, rank_at(side, np.int64(ticks_of(books, slot, price))))
    return place if place >= 0 else -NO_LEVEL


@kernel(inline=True)
def locate(books: State, slot: Int, side: Int, price: Int) -> Int:
    """The place of a price on one side of a defined slot, or minus the status (or NO_LEVEL) that says why not.

    Inside the window every price has a place, with or without a size.
    """
    ticks = ticks_of(books, slot, price)
    if ticks - np.uint64(books.slots[slot, LOW]) < np.uint64(books.pool[LEVELS]):
        return window_place(books, slot, side, rank_at(side, np.int64(ticks)))
    return locate_far(books, slot, side, price)


@kernel(inline=True)
def claim(books: State, slot: Int, side: Int, price: Int) -> Int:
    """As `locate`, for a price that is about to have a size: outside of the window the level is made.

    The window may move then, and with it the place of any level: read no place before it that is used after.
    """
    ticks = ticks_of(books, slot, price)
    if ticks - np.uint64(books.slots[slot, LOW]) < np.uint64(books.pool[LEVELS]):
        place = window_place(books, slot, side, rank_at(side, np.int64(ticks)))
        if books.slots[slot, OCCUPIED + side] < books.pool[LEVELS] or books.levels[place, SIZE] != 0:
            return place
        return -TOO_MANY_LEVELS
    return claim_far(books, slot, side, price)


@kernel()
def claim_far(books: State, slot: Int, side: Int, price: Int) -> Int:
    """As `claim`, for a price outside of the window; moves it there where that pays."""
    stay_apart()
    fault = price_fault(books, slot, price)
    if fault != 0:
        return -fault
    rank = rank_at(side, np.int64(ticks_of(books, slot, price)))
    follow(books, slot, side, rank)
    full = books.slots[slot, OCCUPIED + side] >= books.pool[LEVELS]
    if is_inside(books, slot, side, rank):
        place = window_place(books, slot, side, rank)
        return -TOO_MANY_LEVELS if full and books.levels[place, SIZE] == 0 else place
    place = find_far(books, slot, side, rank)
    if place >= 0:
        return place
    return -TOO_MANY_LEVELS if full else add_far(books, slot, side, rank)


@kernel()
def follow(books: State, slot: Int, side: Int, rank: Int) -> None:
    """Move the window for a level outside of it, where that pays.

    Where all levels and this one fit, they are laid into the middle at once: no level has to be moved but far ones that
    come in. Else the window is laid around the touch, after as many misses as half the levels that there are, so that
    the cost of a move is spread over them, and only where the touch is out of the window's middle half.
    """
    stay_apart()
    levels = books.pool[LEVELS]
    least = rank_at(side, rank)
    most = least
    for each in range(2):
        if books.slots[slot, BEST + each] != NO_RANK:
            worst = rank_at(each, worst_rank(books, slot, each))
            best = rank_at(each, books.slots[slot, BEST + each])
            least = min(least, worst, best)
            most = max(most, worst, best)
    if most - least < levels:
        lay(books, slot, least - ((levels - 1 - (most - least)) >> 1))
        return
    books.slots[slot, MISSES] += 1
    if 2 * books.slots[slot, MISSES] < books.slots[slot, OCCUPIED] + books.slots[slot, OCCUPIED + 1]:
        return
    wanted = touch(books, slot, side, rank) - (levels >> 1)
    if abs(wanted - books.slots[slot, LOW]) > levels >> 2:
        lay(books, slot, wanted)
    books.slots[slot, MISSES] = 0


@kernel()
def touch(books: State, slot: Int, side: Int, rank: Int) -> Int:
    """The ticks around which a book trades, with a new level of `rank` in it: where bid and ask are near each other,
    their middle, else the best price of the side that has more levels."""
    bid, ask = books.slots[slot, BEST + BID], books.slots[slot, BEST + ASK]
    bids, asks = books.slots[slot, OCCUPIED + BID], books.slots[slot, OCCUPIED + ASK]
    if side == BID:
        bid = max(bid, rank)
        bids += 1
    else:
        ask = max(ask, rank)
        asks += 1
    if bid != NO_RANK and ask != NO_RANK and abs(bid + ask) < books.pool[LEVELS] >> 1:
        return bid - ((bid + ask) >> 1)
    return bid if bids >= asks else -ask


@kernel()
def lay(books: State, slot: Int, lowest: Int) -> None:
    """Lay the window from `lowest` ticks on, or as near to that as prices go; levels go out and come in."""
    stay_apart()
    levels = books.pool[LEVELS]
    ticks_max = -2 * (books.slots[slot, FLOOR] // books.slots[slot, TICK])
    target = max(0, min(lowest, ticks_max - levels + 1))
    shift = target - books.slots[slot, LOW]
    books.slots[slot, MISSES] = 0
    if shift == 0:
        return
    books.stats[slot, MOVED] += 1
    for side in range(2):
        expel(books, slot, side, -shift if side == ASK else shift)
    books.slots[slot, LOW] = target
    for side in range(2):
        if books.slots[slot, FAR + side] != 0:
            admit(books, slot, side)


@kernel()
def expel(books: State, slot: Int, side: Int, shift: Int) -> None:
    """Make those levels far that are outside of the window when its ranks have grown by `shift`."""
    lowest = lowest_rank(books.slots, books.pool, slot, side) + shift
    end = lowest + books.pool[LEVELS]
    rank = next_inside(books.slots, books.bitmap, books.pool, slot, side, -NO_RANK)
    while rank != NO_RANK:
        if rank >= end or rank < lowest:
            from_place = window_place(books, slot, side, rank)
            move_level(books, from_place, add_far(books, slot, side, rank))
            flip_bit(books.bitmap, books.pool, 2 * slot + side, rank & (books.pool[LEVELS] - 1))
            rank = next_inside(books.slots, books.bitmap, books.pool, slot, side, rank)
        else:  # on to the first that is below the window to come
            rank = next_inside(books.slots, books.bitmap, books.pool, slot, side, lowest)


@kernel()
def admit(books: State, slot: Int, side: Int) -> None:
    """Take the far levels that are inside the window into it."""
    first = far_first(books, slot, side)
    kept = first
    for entry in range(first, first + books.slots[slot, FAR + side]):
        rank, row = books.far[entry, FAR_RANK], books.far[entry, FAR_ROW]
        if is_inside(books, slot, side, rank):
            place = window_place(books, slot, side, rank)
            move_level(books, far_place(books, slot, side, row), place)
            flip_bit(books.bitmap, books.pool, 2 * slot + side, rank & (books.pool[LEVELS] - 1))
            give_far(books, slot, side, row)
        else:
            books.far[kept, FAR_RANK], books.far[kept, FAR_ROW] = rank, row
            kept += 1
    books.slots[slot, FAR + side] = kept - first


@kernel()
def move_level(books: State, from_place: Int, to_place: Int) -> None:
    """Move a level's row to an empty one, and tell its orders."""
    for column in range(LEVEL_COLUMNS):
        books.levels[to_place, column] = books.levels[from_place, column]
        books.levels[from_place, column] = 0
    row = low(books.levels[to_place, QUEUE])
    while row != 0:
        books.orders[row, PLACE] = to_place
        row = high(books.orders[row, LINKS])
