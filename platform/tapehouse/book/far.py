"""Far levels: those outside of the window, in a list per side that is sorted by rank, best first.

A book has few of them (stub quotes, the tails of a deep book), so a binary search and a shift of the list's tail do.
A level keeps its row while it is far, so the list names rows and is not a list of them.
"""

from __future__ import annotations

from tapehouse.book.apart import stay_apart
from tapehouse.book.layout import FAR, FAR_FREE, FAR_FRESH, FAR_RANK, FAR_ROW, NEXT_FREE, NO_RANK, RANK_OF, SHIFT
from tapehouse.core.kernel import Int, State, kernel


@kernel()
def far_first(books: State, slot: Int, side: Int) -> Int:
    """The first of a side's rows of `far`."""
    return (2 * slot + side) << books.pool[SHIFT]


@kernel()
def far_place(books: State, slot: Int, side: Int, row: Int) -> Int:
    """The place of a far row."""
    return ((2 * (books.slots.shape[0] + slot) + side) << books.pool[SHIFT]) + row


@kernel()
def far_position(books: State, slot: Int, side: Int, rank: Int) -> Int:
    """The first position of the list whose rank is not above `rank`; the list's length where all are."""
    first = far_first(books, slot, side)
    start, end = 0, books.slots[slot, FAR + side]
    while start < end:
        middle = (start + end) >> 1
        if books.far[first + middle, FAR_RANK] > rank:
            start = middle + 1
        else:
            end = middle
    return start


@kernel()
def find_far(books: State, slot: Int, side: Int, rank: Int) -> Int:
    """The place of the far level with that rank, -1 where there is none."""
    stay_apart()
    at = far_position(books, slot, side, rank)
    if at == books.slots[slot, FAR + side]:
        return -1
    entry = far_first(books, slot, side) + at
    return far_place(books, slot, side, books.far[entry, FAR_ROW]) if books.far[entry, FAR_RANK] == rank else -1


@kernel()
def next_far(books: State, slot: Int, side: Int, rank: Int) -> Int:
    """The best far rank below `rank`, NO_RANK where there is none."""
    stay_apart()
    at = far_position(books, slot, side, rank - 1)
    if at == books.slots[slot, FAR + side]:
        return NO_RANK
    return books.far[far_first(books, slot, side) + at, FAR_RANK]


@kernel()
def add_far(books: State, slot: Int, side: Int, rank: Int) -> Int:
    """The place of a new, empty far level. There is a row for it, because a side has no more levels than rows."""
    stay_apart()
    first = far_first(books, slot, side)
    free = books.slots[slot, FAR_FREE + side]
    if free != 0:
        row = free - 1
        books.slots[slot, FAR_FREE + side] = books.far[first + row, NEXT_FREE]
    else:
        row = books.slots[slot, FAR_FRESH + side]
        books.slots[slot, FAR_FRESH + side] = row + 1
    at = first + far_position(books, slot, side, rank)
    for entry in range(first + books.slots[slot, FAR + side], at, -1):
        books.far[entry, FAR_RANK] = books.far[entry - 1, FAR_RANK]
        books.far[entry, FAR_ROW] = books.far[entry - 1, FAR_ROW]
    books.far[at, FAR_RANK] = rank
    books.far[at, FAR_ROW] = row
    books.far[first + row, RANK_OF] = rank
    books.slots[slot, FAR + side] += 1
    return far_place(books, slot, side, row)


@kernel()
def give_far(books: State, slot: Int, side: Int, row: Int) -> None:
    """Return the row of a level that is far no longer; the caller takes it off the list."""
    books.far[far_first(books, slot, side) + row, NEXT_FREE] = books.slots[slot, FAR_FREE + side]
    books.slots[slot, FAR_FREE + side] = row + 1


@kernel()
def drop_far(books: State, slot: Int, side: Int, rank: Int) -> None:
    """Take an empty far level off the list."""
    stay_apart()
    first = far_first(books, slot, side)
    at = first + far_position(books, slot, side, rank)
    give_far(books, slot, side, books.far[at, FAR_ROW])
    count = books.slots[slot, FAR + side] - 1
    books.slots[slot, FAR + side] = count
    for entry in range(at, first + count):
        books.far[entry, FAR_RANK] = books.far[entry + 1, FAR_RANK]
        books.far[entry, FAR_ROW] = books.far[entry + 1, FAR_ROW]
