"""Levels and their queues: where a price lies, how a level's size changes, how orders queue in it.

Each takes the whole `Books`. Nothing here reads memory by a number that a record holds: a price becomes a place only
inside the window, an order id a row only through the hash table.
"""

from __future__ import annotations

import numpy as np

from tapehouse.book.bits import clear_bit, next_below, set_bit
from tapehouse.book.layout import (
    ANONYMOUS,
    ASK,
    BASE,
    BEST,
    COUNT,
    LEVELS,
    LINKS,
    LIVE,
    OCCUPIED,
    ORDER_ID,
    PINNED,
    PLACE,
    PRICE_MAX,
    QUEUE,
    REMAINING,
    ROW,
    SHIFT,
    SIZE,
    SIZE_MAX,
    TICK,
    TOP,
    Status,
)
from tapehouse.book.table import erase, find, give_row, high, insert, low, pack, take_row
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED

OK = int(Status.OK)
OUT_OF_WINDOW = int(Status.OUT_OF_WINDOW)
OFF_TICK = int(Status.OFF_TICK)
TABLE_FULL = int(Status.TABLE_FULL)
BAD_SIZE = int(Status.BAD_SIZE)


@kernel(inline=True)
def locate(books: State, slot: Int, side: Int, price: Int) -> Int:
    """The place of a price on one side of a defined slot, or minus the status that says why there is none."""
    base = books.slots[slot, BASE]
    if price < base or price > books.slots[slot, TOP]:
        return -OUT_OF_WINDOW
    distance = np.uint64(price - base)
    tick = np.uint64(books.slots[slot, TICK])
    ticks = distance // tick
    if ticks * tick != distance:
        return -OFF_TICK
    rank = np.int64(ticks)
    if side == ASK:
        rank = books.pool[LEVELS] - 1 - rank
    return ((2 * slot + side) << books.pool[SHIFT]) + rank


@kernel(inline=True)
def claim(books: State, slot: Int, side: Int, price: Int) -> Int:
    """As `locate`, for a price that is about to have a size: the first one lays the window around itself."""
    if books.slots[slot, BASE] == UNDEFINED:
        if price > PRICE_MAX or price < -PRICE_MAX:
            return -OUT_OF_WINDOW
        tick = books.slots[slot, TICK]
        if price % tick != 0:
            return -OFF_TICK
        base = price - (books.pool[LEVELS] >> 1) * tick
        if base < 0 and price >= 0:
            base = 0
        books.slots[slot, BASE] = base
        books.slots[slot, TOP] = base + (books.pool[LEVELS] - 1) * tick
    return locate(books, slot, side, price)


@kernel()
def toggle(slots: Array, bitmap: Array, pool: Array, place: Int, occupied: Int) -> None:
    """Note that a level has come to have a size, or no longer has one."""
    shift = pool[SHIFT]
    book = place >> shift
    rank = place - (book << shift)
    slot = book >> 1
    side = book & 1
    if occupied:
        set_bit(bitmap, pool, book, rank)
        slots[slot, OCCUPIED + side] += 1
        if rank > slots[slot, BEST + side]:
            slots[slot, BEST + side] = rank
    else:
        clear_bit(bitmap, pool, book, rank)
        slots[slot, OCCUPIED + side] -= 1
        if rank == slots[slot, BEST + side]:
            slots[slot, BEST + side] = next_below(bitmap, pool, book, rank)


@kernel(inline=True)
def resize(books: State, place: Int, change: Int) -> None:
    """Add to a level's size, which must stay from 0 to SIZE_MAX; `change` is not 0."""
    size = books.levels[place, SIZE] + change
    books.levels[place, SIZE] = size
    if size in (0, change):
        toggle(books.slots, books.bitmap, books.pool, place, size != 0)


@kernel(inline=True)
def link(books: State, place: Int, row: Int, size: Int) -> None:
    """Queue an order behind all others of a level."""
    first, last = low(books.levels[place, QUEUE]), high(books.levels[place, QUEUE])
    books.orders[row, REMAINING] = size
    books.orders[row, PLACE] = place
    books.orders[row, LINKS] = pack(last, 0)
    if last == 0:
        first = row
    else:
        books.orders[last, LINKS] = pack(low(books.orders[last, LINKS]), row)
    books.levels[place, QUEUE] = pack(first, row)
    books.levels[place, COUNT] += 1
    resize(books, place, size)


@kernel(inline=True)
def unlink(books: State, row: Int) -> None:
    """Take an order out of its level; its row and its entry in the table stay."""
    place = books.orders[row, PLACE]
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
    resize(books, place, -books.orders[row, REMAINING])


@kernel(inline=True)
def remove(books: State, slot: Int, entry: Int) -> None:
    """Forget the order at an entry of the table."""
    row = low(books.table[entry, ROW])
    erase(books.table, books.pool, entry)
    unlink(books, row)
    give_row(books.orders, books.pool, row)
    books.slots[slot, LIVE] -= 1


@kernel(inline=True)
def enter(books: State, slot: Int, place: Int, order_id: Int, size: Int) -> Int:
    """Put a new order behind the others of a level; id 0 adds to the anonymous size."""
    if size > SIZE_MAX - books.levels[place, SIZE]:
        return BAD_SIZE
    if order_id == 0:
        books.levels[place, ANONYMOUS] += size
        resize(books, place, size)
        return OK
    row = take_row(books.orders, books.pool)
    if row == 0:
        return TABLE_FULL
    books.orders[row, ORDER_ID] = order_id
    insert(books.table, books.pool, slot, order_id, row)
    link(books, place, row, size)
    books.slots[slot, LIVE] += 1
    return OK


@kernel()
def drop_newest(books: State, slot: Int, place: Int, known_max: Int) -> None:
    """Forget a level's orders, newest first, until they sum to at most `known_max`."""
    while books.levels[place, SIZE] - books.levels[place, ANONYMOUS] > known_max:
        newest = high(books.levels[place, QUEUE])
        remove(books, slot, find(books.table, books.pool, slot, books.orders[newest, ORDER_ID]))


@kernel()
def clear(books: State, slot: Int) -> None:
    """Empty both sides; the next price lays the window anew, unless `define` pinned it."""
    shift = books.pool[SHIFT]
    for side in range(2):
        while books.slots[slot, BEST + side] >= 0:
            place = ((2 * slot + side) << shift) + books.slots[slot, BEST + side]
            drop_newest(books, slot, place, 0)
            rest = books.levels[place, SIZE]
            if rest != 0:
                books.levels[place, ANONYMOUS] = 0
                resize(books, place, -rest)
    pinned = books.slots[slot, PINNED]
    books.slots[slot, BASE] = pinned
    if pinned == UNDEFINED:
        books.slots[slot, TOP] = -UNDEFINED
