"""Levels and their queues: how a level's size changes, how orders queue in it.

Each takes the whole `Books`. Nothing here reads memory by a number that a record holds: a price becomes a place only
through `places.py`, an order id a row only through the hash table.
"""

from __future__ import annotations

import numpy as np

from tapehouse.book.apart import stay_apart
from tapehouse.book.bits import flip_bit
from tapehouse.book.far import drop_far, far_first
from tapehouse.book.layout import (
    ANONYMOUS,
    BEST,
    COUNT,
    FAR,
    FAR_RANK,
    LEVELS,
    LINKS,
    LIVE,
    NO_RANK,
    OCCUPIED,
    ORDER_ID,
    PLACE,
    QUEUE,
    REMAINING,
    ROW,
    SHIFT,
    SIZE,
    SIZE_MAX,
    Status,
)
from tapehouse.book.places import next_inside, next_rank, place_of, rank_of, window_rank
from tapehouse.book.table import erase, find, give_row, high, insert, low, pack, take_row
from tapehouse.core.kernel import Array, Int, State, kernel

OK = int(Status.OK)
TABLE_FULL = int(Status.TABLE_FULL)
BAD_SIZE = int(Status.BAD_SIZE)


@kernel(inline=True)
def resize(books: State, place: Int, change: Int) -> None:
    """Add to a level's size, which must stay from 0 to SIZE_MAX; `change` is not 0."""
    size = books.levels[place, SIZE] + change
    books.levels[place, SIZE] = size
    if size == 0 or size == change:
        book = place >> books.pool[SHIFT]
        if book < 2 * books.slots.shape[0]:
            toggle(books.slots, books.bitmap, books.pool, place, size != 0)
            slot, side = book >> 1, book & 1
            if size == 0 and books.slots[slot, BEST + side] == NO_RANK and books.slots[slot, FAR + side] != 0:
                books.slots[slot, BEST + side] = books.far[far_first(books, slot, side), FAR_RANK]
        else:
            toggle_far(books, place, size != 0)


@kernel(inline=True)
def toggle(slots: Array, bitmap: Array, pool: Array, place: Int, occupied: Int) -> None:
    """Note that a level of the window has come to have a size, or no longer has one."""
    book = place >> pool[SHIFT]
    slot, side, index = book >> 1, book & 1, place & (pool[LEVELS] - 1)
    rank = window_rank(slots, pool, place)
    flip_bit(bitmap, pool, book, index)
    slots[slot, OCCUPIED + side] += 1 if occupied else -1
    if rank >= slots[slot, BEST + side]:
        slots[slot, BEST + side] = rank if occupied else next_inside(slots, bitmap, pool, slot, side, rank)


@kernel()
def toggle_far(books: State, place: Int, occupied: Int) -> None:
    """As `toggle`, for a far level: one without a size is taken off the list."""
    stay_apart()
    book = (place >> books.pool[SHIFT]) - 2 * books.slots.shape[0]
    slot, side = book >> 1, book & 1
    rank = rank_of(books, place)
    if occupied:
        books.slots[slot, OCCUPIED + side] += 1
        if rank > books.slots[slot, BEST + side]:
            books.slots[slot, BEST + side] = rank
    else:
        drop_far(books, slot, side, rank)
        books.slots[slot, OCCUPIED + side] -= 1
        if rank == books.slots[slot, BEST + side]:
            books.slots[slot, BEST + side] = next_rank(books, slot, side, rank)


@kernel()
def release(books: State, place: Int) -> None:
    """Take a far level off the list that was claimed and got no size."""
    stay_apart()
    book = (place >> books.pool[SHIFT]) - 2 * books.slots.shape[0]
    if book >= 0 and books.levels[place, SIZE] == 0:
        drop_far(books, book >> 1, book & 1, rank_of(books, place))


@kernel(inline=True)
def append(books: State, place: Int, row: Int) -> None:
    """Queue an order behind all others of a level; the level's size stays."""
    queue = books.levels[place, QUEUE]
    first, last = low(queue), high(queue)
    books.orders[row, PLACE] = place
    books.orders[row, LINKS] = pack(last, 0)
    if last == 0:
        first = row
    else:
        books.orders[last, LINKS] = pack(low(books.orders[last, LINKS]), row)
    books.levels[place, QUEUE] = pack(first, row)
    books.levels[place, COUNT] += 1


@kernel(inline=True)
def detach(books: State, place: Int, row: Int) -> None:
    """Take an order out of its level's queue; the level's size stays."""
    links = books.orders[row, LINKS]
    queue = books.levels[place, QUEUE]
    before, after = low(links), high(links)
    first, last = low(queue), high(queue)
    if before == 0:
        first = after
    else:
        books.orders[before, LINKS] = pack(low(books.orders[before, LINKS]), after)
    if after == 0:
        last = before
    else:
        books.orders[after, LINKS] = pack(before, high(books.orders[after, LINKS]))
    books.levels[place, QUEUE] = pack(first, last)
    books.levels[place, COUNT] -= 1


@kernel(inline=True)
def forget(books: State, slot: Int, entry: Int) -> None:
    """Take the order at an entry of the table out of everything but its level's size."""
    row = low(books.table[entry, ROW])
    erase(books.table, books.pool, entry)
    detach(books, books.orders[row, PLACE], row)
    give_row(books.orders, books.pool, row)
    books.slots[slot, LIVE] -= 1


@kernel(inline=True)
def remove(books: State, slot: Int, entry: Int) -> None:
    """Take the order at an entry of the table out of everything."""
    row = low(books.table[entry, ROW])
    place, size = books.orders[row, PLACE], books.orders[row, REMAINING]
    forget(books, slot, entry)
    resize(books, place, -size)


@kernel(inline=True)
def enter(books: State, slot: Int, place: Int, order_id: Int, size: Int) -> Int:
    """Put a new order behind the others of a level, whose size the caller adds to; id 0 adds to the anonymous size."""
    if size > SIZE_MAX - books.levels[place, SIZE]:
        return BAD_SIZE
    if order_id == 0:
        books.levels[place, ANONYMOUS] += size
        return OK
    row = take_row(books.orders, books.pool)
    if row == 0:
        release(books, place)
        return TABLE_FULL
    books.orders[row, ORDER_ID] = order_id
    books.orders[row, REMAINING] = size
    insert(books.table, books.pool, slot, order_id, row)
    append(books, place, row)
    books.slots[slot, LIVE] += 1
    return OK


@kernel()
def drop_newest(books: State, slot: Int, place: Int, known_max: Int) -> Int:
    """Forget a level's orders, newest first, until they sum to at most `known_max`; return to what.

    The level's size stays, for the caller to change at once: a far level must not be empty in between.
    """
    stay_apart()
    known = books.levels[place, SIZE] - books.levels[place, ANONYMOUS]
    while known > known_max:
        newest = high(books.levels[place, QUEUE])
        known -= books.orders[newest, REMAINING]
        forget(books, slot, find(books.table, books.pool, slot, books.orders[newest, ORDER_ID]))
    return known


@kernel()
def empty_level(books: State, slot: Int, place: Int) -> None:
    """Take everything out of a level that has a size."""
    stay_apart()
    drop_newest(books, slot, place, np.int64(0))  # a bare 0 would be a type of its own, compiled anew
    books.levels[place, ANONYMOUS] = 0
    resize(books, place, -books.levels[place, SIZE])


@kernel()
def clear_side(books: State, slot: Int, side: Int) -> None:
    """Empty one side."""
    while books.slots[slot, BEST + side] != NO_RANK:
        empty_level(books, slot, place_of(books, slot, side, books.slots[slot, BEST + side]))


@kernel()
def clear(books: State, slot: Int) -> None:
    """Empty both sides."""
    stay_apart()
    for side in range(2):
        clear_side(books, slot, side)
