"""One instrument's book as a fold of a tape: the records that tell it, and nothing else.

A book of its own, not a slot of a shared one: its state follows from its instrument's records alone, whatever else the
tape holds, so a snapshot of it and the tail of the tape give the book of a whole refold, byte for byte. It is told by
quotes until a record by order or by level comes; from then on quotes say nothing new, and are left out. What it is
worth GAP records say: those of its instrument, and those of all that its source feeds.
"""

from __future__ import annotations

import numpy as np

from tapehouse.book.canonical import snapshot
from tapehouse.book.kernels import apply
from tapehouse.book.layout import LINKS, ORDER_ID, QUEUE, REMAINING, Books, Ints, define, make_books
from tapehouse.book.places import locate
from tapehouse.book.queues import clear
from tapehouse.book.standing import set_confidence, told_confidence
from tapehouse.book.table import high, low
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.market import Action, Instrument, Kind

ORDERS_MAX = 1 << 18  # live orders of one book
LEVELS = 1 << 16  # ticks in its window, and levels a side
NOTHING, QUOTES, RECORDS = 0, 1, 2  # what has told a book so far
TOLD, SOURCE = 0, 1  # entries of a book's origin
TOLD_MAX = RECORDS

_MBO, _MBP, _QUOTE, _GAP = int(Kind.MBO), int(Kind.MBP), int(Kind.QUOTE), int(Kind.GAP)
_ADD, _CANCEL, _MODIFY, _CLEAR = int(Action.ADD), int(Action.CANCEL), int(Action.MODIFY), int(Action.CLEAR)
_DEFINITION_KIND = int(Kind.DEFINITION)


@kernel(inline=True)
def tells(head: Int, packed: Int) -> Int:
    """What a record whose words 6 and 7 these are would tell a book by: RECORDS, QUOTES, or NOTHING."""
    kind, action = (head >> 48) & 0xFF, packed & 0xFF
    if (head >> 56) & 0xFF == 0:
        return NOTHING
    if kind == _QUOTE:
        return QUOTES
    if (kind == _MBO or kind == _MBP) and (
        action == _ADD or action == _CANCEL or action == _MODIFY or action == _CLEAR
    ):
        return RECORDS
    return NOTHING


@kernel(inline=True)
def is_gap(head: Int) -> Int:
    """Whether a record whose word 6 this is says what books are worth."""
    return (head >> 48) & 0xFF == _GAP and (head >> 56) & 0xFF != 0


@kernel()
def fold_book(books: State, origin: Array, array: Array, start: Int, end: Int, instrument: Int) -> None:
    """Apply what the rows from `start` to before `end` say of an instrument's book.

    Args:
        origin: Of TOLD and SOURCE: what has told the book so far, and the `source` of the last record that did.
    """
    for row in range(start, end):
        head, packed = array[row, 6], array[row, 7]
        said_of, source = head & 0xFFFFFFFF, (head >> 32) & 0xFFFF
        if said_of != instrument and said_of != 0:
            continue
        if is_gap(head):
            told = origin[TOLD] != NOTHING
            ours = source == 0 or origin[SOURCE] == 0 or source == origin[SOURCE]
            if said_of == instrument or (told and ours):
                set_confidence(books, 0, told_confidence(packed & 0xFF, (packed >> 24) & 0xFF))
            continue
        by = tells(head, packed)
        if said_of == 0 or by == NOTHING or by < origin[TOLD]:
            continue
        if by > origin[TOLD] and origin[TOLD] != NOTHING:
            clear(books, 0)  # What quotes told is no level that a record would ever take away.
        origin[TOLD], origin[SOURCE] = by, source
        apply(books, 0, array, row)


class TapeBook:
    """A book and its instrument.

    Args:
        books: Of one slot, defined; None for an empty one.
        told: What has told it: NOTHING, QUOTES or RECORDS.
        source: Of the last record that did.
    """

    def __init__(
        self, instrument: Instrument, *, books: Books | None = None, told: int = NOTHING, source: int = 0
    ) -> None:
        self.instrument = instrument
        self._origin = np.array([told, source], np.int64)
        if books is None:
            books = make_books(1, orders=ORDERS_MAX, levels=LEVELS)
            define(books, 0, instrument.tick_size)
        self.books = books

    @property
    def told(self) -> int:
        """What has told it so far: NOTHING, QUOTES or RECORDS."""
        return int(self._origin[TOLD])

    @property
    def source(self) -> int:
        """The source of the last record that did."""
        return int(self._origin[SOURCE])

    def fold(self, array: Ints, start: int, end: int) -> None:
        """Apply what a range of rows says of this instrument's book.

        Args:
            array: Cells as `market.words` shapes them, whole records.
        """
        fold_book(self.books, self._origin, array, start, end, self.instrument.id)

    def revise(self, instrument: Instrument) -> None:
        """Take new terms of the instrument; a book of another tick begins empty."""
        if instrument.tick_size != self.instrument.tick_size:
            clear(self.books, 0)
            define(self.books, 0, instrument.tick_size)
        self.instrument = instrument

    def orders(self, side: int, price: int) -> list[tuple[int, int]]:
        """The known orders at a price, oldest first: id and what remains of each."""
        place = int(locate(self.books, 0, side, price))
        found: list[tuple[int, int]] = []
        row = int(low(self.books.levels[place, QUEUE])) if place >= 0 else 0
        while row:
            found.append((int(self.books.orders[row, ORDER_ID]) % 2**64, int(self.books.orders[row, REMAINING])))
            row = int(high(self.books.orders[row, LINKS]))
        return found

    def canonical(self) -> bytes:
        """The book's canonical bytes."""
        return snapshot(self.books)


# Why `scan` stopped at a row.
DONE, DEFINITION, BOUNDARY, UNDEFINED_INSTRUMENT, BAD_RECORD = range(5)
# Entries of the state of a scan.
NOW, CELLS_EVERY, NS_EVERY, CELL_SPAN, TIME_SPAN, STARTED, ALL_DOUBTED = range(7)
SCAN_ENTRIES = 7


@kernel()
def scan(state: Array, rows: Array, touched: Array, array: Array, start: Int, first_ordinal: Int) -> tuple[Int, Int]:
    """Look for the next boundary; return (row, why it stopped there).

    A boundary lies before a record whose ordinal, in spans of CELLS_EVERY, or whose engine time, in spans of NS_EVERY,
    is in another span than that of the record before it. It depends on these two records alone.

    Args:
        state: SCAN_ENTRIES; its spans are those of the last record, and STARTED is 0 before the first. The caller that
            is told of a boundary makes STARTED 0: the record after it is then taken as it is. ALL_DOUBTED becomes 1 at
            a GAP record of no single instrument; the caller makes it 0.
        rows: The row of each instrument id in `touched`, -1 for none.
        touched: Set to 1 where a record tells a book.
        first_ordinal: Of row 0.
    """
    at = start
    n = array.shape[0]
    while at < n:
        head = array[at, 6]
        length = (head >> 56) & 0xFF
        if length == 0 or at + length > n:
            return at, BAD_RECORD
        now = max(state[NOW], array[at, 1])
        cell_span, time_span = (first_ordinal + at) // state[CELLS_EVERY], now // state[NS_EVERY]
        if state[STARTED] != 0 and (cell_span != state[CELL_SPAN] or time_span != state[TIME_SPAN]):
            return at, BOUNDARY
        state[NOW], state[CELL_SPAN], state[TIME_SPAN], state[STARTED] = now, cell_span, time_span, 1
        if (head >> 48) & 0xFF == _DEFINITION_KIND:
            return at, DEFINITION
        if tells(head, array[at, 7]) != NOTHING:
            instrument = head & 0xFFFFFFFF
            if instrument >= rows.shape[0] or rows[instrument] < 0:
                return at, UNDEFINED_INSTRUMENT
            touched[rows[instrument]] = 1
        elif is_gap(head):
            instrument = head & 0xFFFFFFFF
            if instrument == 0:
                state[ALL_DOUBTED] = 1
            elif instrument < rows.shape[0] and rows[instrument] >= 0:
                touched[rows[instrument]] = 1
        at += length
    return at, DONE


def scan_state(*, cells_every: int, ns_every: int, now: int = -(2**63)) -> Ints:
    """The state of a scan that begins; `now` is the engine time of the record before it, if there is one."""
    state = np.zeros(SCAN_ENTRIES, np.int64)
    state[NOW], state[CELLS_EVERY], state[NS_EVERY] = now, cells_every, ns_every
    return state
