"""What a book looks like: best price, level sizes, depth. Nothing here changes a book."""

from __future__ import annotations

import numpy as np

from tapehouse.book.bits import next_below
from tapehouse.book.layout import ASK, BASE, BEST, BID, COUNT, LEVELS, OCCUPIED, SHIFT, SIZE, TICK, TOP, Books
from tapehouse.book.queues import locate
from tapehouse.core.errors import UsageError
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED


@kernel()
def has_side(books: State, slot: Int, side: Int) -> Int:
    """Whether there is such a slot and such a side."""
    return 0 <= slot < books.slots.shape[0] and side in (BID, ASK)


@kernel()
def price_of(books: State, slot: Int, side: Int, rank: Int) -> Int:
    """The price of a rank of one side, in tape units."""
    if side == ASK:
        return books.slots[slot, TOP] - rank * books.slots[slot, TICK]
    return books.slots[slot, BASE] + rank * books.slots[slot, TICK]


@kernel()
def best_price(books: State, slot: Int, side: Int) -> Int:
    """The best price of a side (0 bid, 1 ask) in tape units, UNDEFINED where the side is empty."""
    if not has_side(books, slot, side) or books.slots[slot, BEST + side] < 0:
        return UNDEFINED
    return price_of(books, slot, side, books.slots[slot, BEST + side])


@kernel()
def best_size(books: State, slot: Int, side: Int) -> Int:
    """The size at the best price of a side, 0 where the side is empty."""
    if not has_side(books, slot, side) or books.slots[slot, BEST + side] < 0:
        return 0
    return books.levels[((2 * slot + side) << books.pool[SHIFT]) + books.slots[slot, BEST + side], SIZE]


@kernel()
def level_size(books: State, slot: Int, side: Int, price: Int) -> Int:
    """The whole size at a price of a side; 0 where there is none, or no such price."""
    if not has_side(books, slot, side):
        return 0
    place = locate(books, slot, side, price)
    return books.levels[place, SIZE] if place >= 0 else 0


@kernel()
def depth(books: State, slot: Int, side: Int, prices_out: Array, sizes_out: Array) -> Int:
    """Write a side's levels, best first, as far as the shorter of the arrays goes; return how many were written."""
    if not has_side(books, slot, side):
        return 0
    book = 2 * slot + side
    first = book << books.pool[SHIFT]
    rank = books.slots[slot, BEST + side]
    limit = min(prices_out.shape[0], sizes_out.shape[0])
    written = 0
    while rank >= 0 and written < limit:
        prices_out[written] = price_of(books, slot, side, rank)
        sizes_out[written] = books.levels[first + rank, SIZE]
        written += 1
        rank = next_below(books.bitmap, books.pool, book, rank)
    return written


@kernel()
def order_counts(books: State, slot: Int, side: Int, counts_out: Array) -> Int:
    """As `depth`, the number of known orders of each level."""
    if not has_side(books, slot, side):
        return 0
    book = 2 * slot + side
    first = book << books.pool[SHIFT]
    rank = books.slots[slot, BEST + side]
    written = 0
    while rank >= 0 and written < counts_out.shape[0]:
        counts_out[written] = books.levels[first + rank, COUNT]
        written += 1
        rank = next_below(books.bitmap, books.pool, book, rank)
    return written


def levels(books: Books, slot: int, side: int) -> list[tuple[int, int, int]]:
    """A side's (price, size, known orders) of each level, best first.

    Raises:
        UsageError: There is no such slot or side.
    """
    if not has_side(books, slot, side):
        raise UsageError(f"there is no side {side} of slot {slot} in {len(books.slots)} books")
    prices, sizes, orders = np.zeros((3, int(books.slots[slot, OCCUPIED + side])), np.int64)
    depth(books, slot, side, prices, sizes)
    order_counts(books, slot, side, orders)
    return list(zip(prices.tolist(), sizes.tolist(), orders.tolist(), strict=True))


def window(books: Books, slot: int) -> tuple[int, int] | None:
    """The lowest and highest price that a slot's book can hold, None before its first price.

    Raises:
        UsageError: There is no such slot.
    """
    if not 0 <= slot < len(books.slots):
        raise UsageError(f"there is no slot {slot} in {len(books.slots)} books")
    base = int(books.slots[slot, BASE])
    return None if base == UNDEFINED else (base, base + (int(books.pool[LEVELS]) - 1) * int(books.slots[slot, TICK]))
