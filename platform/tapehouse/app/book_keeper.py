"""Writes the books of a tape into SNAPS while it follows the tape: every so many cells, and every so much engine time.

Where snapshots are taken follows from the tape alone (`book.tape_book.scan`), and each has a subject of its own that is
stored once. So any number of keepers may follow one tape, and one that was killed anywhere goes on from the last mark
and stores what is missing. Nothing is kept beside SNAPS.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np

from tapehouse.book.layout import Ints
from tapehouse.book.stored import (
    Mark,
    Place,
    read_book,
    read_definitions,
    read_mark,
    store_book,
    store_definitions,
    store_mark,
)
from tapehouse.book.tape_book import (
    ALL_DOUBTED,
    BAD_RECORD,
    BOUNDARY,
    CELL_SPAN,
    DEFINITION,
    DONE,
    NOW,
    STARTED,
    UNDEFINED_INSTRUMENT,
    TapeBook,
    scan,
    scan_state,
)
from tapehouse.core.errors import DataError, DecodeError, IntegrityError, InvariantError, UsageError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.log import FrameHeader, Log, Message, Progress, open_frame
from tapehouse.log.snaps import Snaps
from tapehouse.market import Cells, Instrument, read_definition, words
from tapehouse.query.stored_books import DEFINITIONS, MARK, StoredBooks, refusal

CELLS_EVERY = 100_000
SECONDS_EVERY = 60
BOOKS_MAX = 256  # of one tape; the books of instruments that are first told after these are not kept
INSTRUMENT_ID_MAX = (1 << 22) - 1
_FIRST_ROOM = 1024


@dataclass(slots=True, kw_only=True)
class Kept:
    """What a keeper did since it was opened.

    Attributes:
        begun_at: The ordinal from which on it folded.
        boundaries: Passed.
        books: Snapshots of books at these boundaries.
        messages: Stored, of books, definitions and marks; what was there already is not counted.
        bytes: Of these messages.
        refused: Stored snapshots that could not be used to begin from, and why.
        left_out: Instruments whose books are not kept, because there are BOOKS_MAX others.
    """

    begun_at: int = 0
    cells: int = 0
    boundaries: int = 0
    books: int = 0
    messages: int = 0
    bytes: int = 0
    refused: list[str] = field(default_factory=list)
    left_out: int = 0


class BookKeeper:
    """Follows one tape.

    Args:
        cells_every, seconds_every: The spans of ordinals and of engine time at whose borders snapshots are taken.
    """

    def __init__(
        self,
        tape: Log,
        snaps: Snaps,
        *,
        cells_every: int = CELLS_EVERY,
        seconds_every: float = SECONDS_EVERY,
        books_max: int = BOOKS_MAX,
    ) -> None:
        ns_every = int(seconds_every * NS_PER_SECOND)
        if cells_every < 1 or ns_every < 1:
            raise UsageError(f"snapshots every {cells_every} cells and {seconds_every} s", hint="both are above 0")
        self._tape = tape
        self._snaps = snaps
        self._books_max = books_max
        self._state = scan_state(cells_every=cells_every, ns_every=ns_every)
        self._every = (cells_every, ns_every)
        self._forget()
        self.kept = Kept()

    def _forget(self) -> None:
        """Become a keeper at the tape's beginning."""
        self._state = scan_state(cells_every=self._every[0], ns_every=self._every[1])
        self._rows = np.full(_FIRST_ROOM, -1, np.int64)  # of each instrument id, in `_listed` and `_touched`
        self._touched = np.zeros(_FIRST_ROOM, np.int64)
        self._listed: list[Instrument] = []
        self._defined = 0  # definitions and revisions
        self._fresh: list[Instrument] = []  # defined since the last boundary
        self._books: dict[int, TapeBook] = {}
        self._changed: set[int] = set()  # instruments told since the last boundary
        self._newest: dict[int, Place | None] = {}
        self._progress: Progress | None = None
        self._skip_to = 0

    async def open(self) -> Kept:
        """Begin at the last mark from which everything can be read, else at the tape's beginning."""
        extent = await self._tape.extent()
        self._extent = extent
        stored = self._stored = StoredBooks(self._snaps, self._tape.name, extent)
        told = await self._definitions(stored)
        for mark in reversed(await stored.marks()):
            try:
                await self._begin_at(stored, mark, told)
            except (DecodeError, IntegrityError) as error:
                self.kept.refused.append(refusal("mark", mark, error))
                self._forget()
                continue
            break
        if self._progress is None:
            first = extent.first
            self._progress = Progress(log_id=extent.log_id_at(first), sequence=first - 1, next_ordinal=0)
        self.kept.begun_at = self._skip_to
        return self.kept

    async def _definitions(self, stored: StoredBooks) -> list[tuple[Place, list[Instrument] | DecodeError]]:
        """All definitions stored, with their places, up to the first that cannot be read."""
        found: list[tuple[Place, list[Instrument] | DecodeError]] = []
        for place in await stored.places(DEFINITIONS):
            try:
                found.append((place, read_definitions(await stored.load(DEFINITIONS, place))))
            except (DecodeError, IntegrityError) as error:
                found.append((place, DecodeError(error.message)))
                break
        return found

    async def _begin_at(
        self, stored: StoredBooks, mark: Place, told: list[tuple[Place, list[Instrument] | DecodeError]]
    ) -> None:
        seen: set[Instrument] = set()
        for place, found in told:
            if place.ordinal > mark.ordinal:
                break
            if isinstance(found, DecodeError):
                raise found
            for instrument in found:
                if instrument not in seen:  # Keepers with other spans have told it again.
                    seen.add(instrument)
                    self._define(instrument)
        self._fresh.clear()
        said = read_mark(await stored.load(MARK, mark))
        if said.defined != self._defined:
            raise DecodeError(f"{said.defined} definitions came before it, and {self._defined} are there")
        self._newest = said.newest
        for instrument_id, newest in self._newest.items():
            if newest is not None:
                self._books[instrument_id] = read_book(await stored.load(instrument_id, newest))
        self._state[NOW] = mark.time
        self._skip_to = mark.ordinal
        self._progress = Progress(log_id=mark.log_id, sequence=mark.sequence - 1, next_ordinal=-1)
        self.kept.left_out = sum(place is None for place in self._newest.values())

    async def run(self, *, follow: bool = False) -> Kept:
        """Fold what is there; with `follow`, go on with what comes until cancelled.

        Raises:
            GapError, DecodeError, IntegrityError: The tape is damaged; the sequence is named.
            BusUnavailableError: SNAPS took nothing for longer than an election.
        """
        if self._progress is None:
            await self.open()
        assert self._progress is not None
        async for message in self._tape.read(self._progress.sequence + 1, follow=follow):
            await self._take(message)
            await asyncio.sleep(0)
        return self.kept

    async def _take(self, message: Message) -> None:
        assert self._progress is not None
        header, cells = open_frame(self._tape.name, message, self._extent, self._progress)
        await self._fold(header, message.sequence, cells)
        self._progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)

    async def _fold(self, header: FrameHeader, sequence: int, cells: Cells) -> None:
        """Fold one frame, and store what its boundaries ask for."""
        array = words(cells)
        at = begun = max(0, self._skip_to - header.first_ordinal)
        self.kept.cells += len(cells) - at
        while True:
            row, why = scan(self._state, self._rows, self._touched, array, at, header.first_ordinal)
            at, why = int(row), int(why)
            if why == DEFINITION:
                end = at + int(cells["cells"][at])
                begun = self._define_in(array, read_definition(cells[at:end]), begun, at)
                at = end
            elif why in (DONE, BOUNDARY):
                self._apply(array, begun, at)
                if why == DONE:
                    return
                begun = at
                place = Place(
                    ordinal=header.first_ordinal + at, sequence=sequence, time=int(self._state[NOW]),
                    log_id=header.log_id,
                )  # fmt: skip
                await self._keep(place)
                self._state[STARTED] = 0
            elif why == UNDEFINED_INSTRUMENT:  # The desk halted there, or was told to skip it.
                self._apply(array, begun, at)
                at += int(cells["cells"][at])
                begun = at
            else:
                self._halt(why, cells[at], header.first_ordinal + at)

    def _apply(self, array: Ints, start: int, end: int) -> None:
        """Fold a range of rows into the books of the instruments that it touches."""
        if self._state[ALL_DOUBTED]:
            self._touched[self._rows[list(self._books)]] = 1
            self._state[ALL_DOUBTED] = 0
        for row in np.flatnonzero(self._touched).tolist():
            instrument = self._listed[row]
            book = self._books.get(instrument.id)
            if book is None and instrument.id not in self._newest:
                if len(self._books) < self._books_max:
                    book = self._books[instrument.id] = TapeBook(instrument)
                else:
                    self._newest[instrument.id] = None
                    self.kept.left_out += 1
            if book is not None:
                book.fold(array, start, end)
                self._changed.add(instrument.id)
        self._touched[:] = 0

    async def _keep(self, place: Place) -> None:
        """Store what changed since the last boundary, and the mark last."""
        self.kept.boundaries += 1
        for instrument_id in sorted(self._changed):
            await self._store(instrument_id, place, store_book(self._books[instrument_id], place))
            self._newest[instrument_id] = place
            self.kept.books += 1
        if self._fresh:
            await self._store(DEFINITIONS, place, store_definitions(self._fresh, place))
        if self._changed or self._fresh or self._is_border_of_cells(place):
            await self._store(MARK, place, store_mark(Mark(newest=self._newest, defined=self._defined), place))
        self._changed.clear()
        self._fresh.clear()

    def _is_border_of_cells(self, place: Place) -> bool:
        """Whether a boundary came by count: it is marked though nothing changed, so that no tail is too long."""
        return place.ordinal // self._every[0] != int(self._state[CELL_SPAN])

    async def _store(self, what: str | int, place: Place, messages: list[bytes]) -> None:
        fresh = await self._stored.store(what, place, messages)
        self.kept.messages += fresh
        self.kept.bytes += sum(map(len, messages)) if fresh else 0

    def _define_in(self, array: Ints, instrument: Instrument, start: int, end: int) -> int:
        """Take a definition at row `end`; returns from which row on nothing was folded yet, which was `start`."""
        if 0 < instrument.id < len(self._rows) and self._rows[instrument.id] >= 0:
            self._apply(array, start, end)  # What came before it is of the old terms.
            start = end
        self._define(instrument)
        return start

    def _define(self, instrument: Instrument) -> None:
        known = int(self._rows[instrument.id]) if 0 < instrument.id < len(self._rows) else -1
        if known >= 0:
            if self._listed[known] != instrument:
                self._revise(known, instrument)
            return
        if not 0 < instrument.id <= INSTRUMENT_ID_MAX:
            raise DataError(f"an instrument with the id {instrument.id}", subject=instrument.symbol)
        if instrument.id >= len(self._rows):
            longer = np.full(1 << instrument.id.bit_length(), -1, np.int64)
            longer[: len(self._rows)] = self._rows
            self._rows = longer
        if len(self._listed) >= len(self._touched):
            self._touched = np.concatenate([self._touched, np.zeros_like(self._touched)])
        self._rows[instrument.id] = len(self._listed)
        self._listed.append(instrument)
        self._fresh.append(instrument)
        self._defined += 1

    def _revise(self, row: int, instrument: Instrument) -> None:
        """New terms of an instrument that is known."""
        instrument.require_revision_of(self._listed[row])
        self._listed[row] = instrument
        self._fresh.append(instrument)
        self._defined += 1
        if instrument.id in self._books:
            self._books[instrument.id].revise(instrument)
            self._changed.add(instrument.id)

    def _halt(self, why: int, cell: np.void, ordinal: int) -> None:
        position = f"cell {ordinal}"
        if why == BAD_RECORD:
            raise DecodeError("a record is cut short", subject=self._tape.name, position=position)
        raise InvariantError(f"a scan stopped for {why}", subject=self._tape.name, position=position)
