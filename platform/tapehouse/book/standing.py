"""How the two sides of a book stand to each other, what the book is worth, and when that changes."""

from __future__ import annotations

from tapehouse.book.layout import ASK, BEST, BID, CONFIDENCE, DOUBTED, ENTERED, NO_RANK, STATE, BookState, Status
from tapehouse.core.kernel import Int, State, kernel
from tapehouse.market import gap
from tapehouse.market.gap import Confidence

EMPTY, ONE_SIDED, NORMAL = int(BookState.EMPTY), int(BookState.ONE_SIDED), int(BookState.NORMAL)
OK, OUT_OF_RANGE = int(Status.OK), int(Status.OUT_OF_RANGE)
CONFIDENCE_MAX = int(max(Confidence))
LOCKED, CROSSED = int(BookState.LOCKED), int(BookState.CROSSED)

told_confidence = kernel(inline=True)(gap.told_confidence)  # the same rule where cells are folded


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


@kernel()
def set_confidence(books: State, slot: Int, confidence: Int) -> Int:
    """Say what a slot's book is worth from here on, a `Confidence`; a slot may be told before it is defined.

    Returns:
        OK, or OUT_OF_RANGE where there is no such slot or confidence, and nothing changed. Neither is counted among
        the statuses: this is no record of a market.
    """
    if slot < 0 or slot >= books.slots.shape[0] or confidence < 0 or confidence > CONFIDENCE_MAX:
        return OUT_OF_RANGE
    if confidence != books.slots[slot, CONFIDENCE]:
        books.slots[slot, CONFIDENCE] = confidence
        books.stats[slot, DOUBTED + confidence] += 1
    return OK
