"""How the two sides of a book stand to each other, and when that changes."""

from __future__ import annotations

from tapehouse.book.layout import ASK, BEST, BID, ENTERED, NO_RANK, STATE, BookState
from tapehouse.core.kernel import Int, State, kernel

EMPTY, ONE_SIDED, NORMAL = int(BookState.EMPTY), int(BookState.ONE_SIDED), int(BookState.NORMAL)
LOCKED, CROSSED = int(BookState.LOCKED), int(BookState.CROSSED)


@kernel(inline=True)
def standing(books: State, slot: Int) -> Int:
    """The `BookState` of a slot that exists."""
    bid, ask = books.slots[slot, BEST + BID], books.slots[slot, BEST + ASK]
    if bid == NO_RANK or ask == NO_RANK:
        return EMPTY if bid == ask else ONE_SIDED
    if bid + ask < 0:  # ranks of asks are minus their ticks
        return NORMAL
    return LOCKED if bid + ask == 0 else CROSSED


@kernel(inline=True)
def note_state(books: State, slot: Int) -> None:
    """Count it where a record led a book into another state."""
    state = standing(books, slot)
    if state != books.slots[slot, STATE]:
        books.slots[slot, STATE] = state
        books.stats[slot, ENTERED + state] += 1
