"""What a book looks like: top, depth, level sizes, how its sides stand to each other. Nothing here changes a book.

All but `levels`, `state` and `window` are kernels; each may be called from Python too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tapehouse.book.layout import (
    ASK,
    BEST,
    BID,
    COUNT,
    FLOOR,
    INVERSE,
    LEVELS,
    LOW,
    NO_RANK,
    OCCUPIED,
    SIZE,
    TICK,
    Books,
    BookState,
)
from tapehouse.book.places import locate, next_rank, place_of, price_of
from tapehouse.book.standing import standing
from tapehouse.core.errors import UsageError
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED

PRICES, SIZES, COUNTS = 0, 1, 2  # columns of a ladder
LADDER_COLUMNS = 3


class Top(NamedTuple):
    """The best level of each side: UNDEFINED and 0 where a side is empty."""

    bid: Int
    bid_size: Int
    ask: Int
    ask_size: Int


@kernel(inline=True)
def has_side(books: State, slot: Int, side: Int) -> Int:
    """Whether there is such a slot and such a side."""
    return 0 <= slot < books.slots.shape[0] and (side == BID or side == ASK)


@kernel(inline=True)
def best_price(books: State, slot: Int, side: Int) -> Int:
    """The best price of a side (0 bid, 1 ask) in tape units, UNDEFINED where the side is empty."""
    if not has_side(books, slot, side) or books.slots[slot, BEST + side] == NO_RANK:
        return UNDEFINED
    return price_of(books, slot, side, books.slots[slot, BEST + side])


@kernel(inline=True)
def best_size(books: State, slot: Int, side: Int) -> Int:
    """The size at the best price of a side, 0 where the side is empty."""
    if not has_side(books, slot, side) or books.slots[slot, BEST + side] == NO_RANK:
        return 0
    return books.levels[place_of(books, slot, side, books.slots[slot, BEST + side]), SIZE]


@kernel(inline=True)
def top(books: State, slot: Int) -> Top:
    """The best bid, its size, the best ask, its size; as `best_price` and `best_size` of both sides."""
    return Top(
        best_price(books, slot, BID),
        best_size(books, slot, BID),
        best_price(books, slot, ASK),
        best_size(books, slot, ASK),
    )


@kernel()
def state_of(books: State, slot: Int) -> Int:
    """The `BookState` of a slot, as a number: empty where there is no such slot.

    A crossed or locked book is told, never repaired: before an open it is legitimate, and which side is wrong the book
    cannot know.
    """
    return standing(books, slot) if 0 <= slot < books.slots.shape[0] else 0


@kernel(inline=True)
def level_size(books: State, slot: Int, side: Int, price: Int) -> Int:
    """The whole size at a price of a side; 0 where there is none, or no such price."""
    if not has_side(books, slot, side) or books.slots[slot, INVERSE] == 0:
        return 0
    place = locate(books, slot, side, price)
    return books.levels[place, SIZE] if place >= 0 else 0


@kernel()
def depth(books: State, slot: Int, side: Int, prices_out: Array, sizes_out: Array) -> Int:
    """Write a side's levels, best first, as far as the shorter of the arrays goes; return how many were written."""
    if not has_side(books, slot, side):
        return 0
    rank = books.slots[slot, BEST + side]
    limit = min(prices_out.shape[0], sizes_out.shape[0])
    written = 0
    while rank != NO_RANK and written < limit:
        prices_out[written] = price_of(books, slot, side, rank)
        sizes_out[written] = books.levels[place_of(books, slot, side, rank), SIZE]
        written += 1
        rank = next_rank(books, slot, side, rank)
    return written


@kernel()
def order_counts(books: State, slot: Int, side: Int, counts_out: Array) -> Int:
    """As `depth`, the number of known orders of each level."""
    if not has_side(books, slot, side):
        return 0
    rank = books.slots[slot, BEST + side]
    written = 0
    while rank != NO_RANK and written < counts_out.shape[0]:
        counts_out[written] = books.levels[place_of(books, slot, side, rank), COUNT]
        written += 1
        rank = next_rank(books, slot, side, rank)
    return written


@kernel()
def ladder(books: State, slot: Int, out: Array) -> Int:
    """Write the best levels of both sides at once.

    Args:
        out: Shape (2, n, 3) int64: n levels of the bids, then n of the asks, best first; of each its price, its size
            and its known orders. Rows that the book has no level for become UNDEFINED, 0, 0.

    Returns:
        How many levels were written, of both sides together; -1, and nothing written, where `out` has another shape.
    """
    if out.shape[0] != 2 or out.shape[2] != LADDER_COLUMNS:
        return -1
    written = 0
    for side in range(2):
        rank = books.slots[slot, BEST + side] if has_side(books, slot, side) else NO_RANK
        for row in range(out.shape[1]):
            if rank == NO_RANK:
                out[side, row, PRICES] = UNDEFINED
                out[side, row, SIZES] = 0
                out[side, row, COUNTS] = 0
                continue
            place = place_of(books, slot, side, rank)
            out[side, row, PRICES] = price_of(books, slot, side, rank)
            out[side, row, SIZES] = books.levels[place, SIZE]
            out[side, row, COUNTS] = books.levels[place, COUNT]
            written += 1
            rank = next_rank(books, slot, side, rank)
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


def state(books: Books, slot: int) -> BookState:
    """How the two sides of a slot's book stand to each other.

    Raises:
        UsageError: There is no such slot.
    """
    _check_slot(books, slot)
    return BookState(state_of(books, slot))


def window(books: Books, slot: int) -> tuple[int, int] | None:
    """The lowest and highest price that lie in a slot's window now, None while the slot is undefined.

    A book takes prices beyond it too; those inside are found quickest.

    Raises:
        UsageError: There is no such slot.
    """
    _check_slot(books, slot)
    low, floor, tick = (int(books.slots[slot, column]) for column in (LOW, FLOOR, TICK))
    return (floor + low * tick, floor + (low + int(books.pool[LEVELS]) - 1) * tick) if tick else None


def _check_slot(books: Books, slot: int) -> None:
    if not 0 <= slot < len(books.slots):
        raise UsageError(f"there is no slot {slot} in {len(books.slots)} books")
