"""One instrument's book at any moment of a tape: the nearest snapshot before it, and the tail of the tape.

The newest mark that is not after the moment says where the book's newest snapshot before it is. From the mark on the
tape is folded. A snapshot or mark that is damaged is passed over, told, and an earlier one is used, at last the tape's
beginning: the tape is the truth, snapshots only shorten the way.
"""

from __future__ import annotations

import asyncio
import difflib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from tapehouse.book import ASK, BID, confidence, levels, state
from tapehouse.book.projection import fixed_text
from tapehouse.book.stored import Place, read_book, read_definitions, read_mark
from tapehouse.book.tape_book import TapeBook
from tapehouse.core.errors import DecodeError, IntegrityError, MissingError, UsageError
from tapehouse.core.units import format_time_ns, from_fixed
from tapehouse.log import Extent, FrameHeader, Log, Progress, open_frame
from tapehouse.log.snaps import Snaps
from tapehouse.market import Cells, Instrument, Kind, read_definition, records_of, words
from tapehouse.query.read import cut_at
from tapehouse.query.stored_books import DEFINITIONS, MARK, StoredBooks, refusal
from tapehouse.query.table import Table

REFUSED_MAX = 1000  # marks that are tried before the tape is folded from its beginning
NEAREST_MAX = 5
_NOWHERE = -(2**63)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Which records count: all, those up to an engine time, or those up to the one that holds an ordinal."""

    time: int | None = None
    ordinal: int | None = None

    def __post_init__(self) -> None:
        if self.time is not None and self.ordinal is not None:
            raise UsageError("a time or an ordinal, not both")
        if self.ordinal is not None and self.ordinal < 0:
            raise UsageError(f"there is no cell {self.ordinal}", hint="ordinals begin at 0")

    def reaches(self, place: Place) -> bool:
        """Whether all records before a place count."""
        if self.ordinal is not None:
            return place.ordinal <= self.ordinal + 1
        return self.time is None or place.time <= self.time

    def end(self, cells: Cells, first_ordinal: int) -> int:
        """How many of these cells count."""
        if self.ordinal is not None:
            late = np.flatnonzero(cells["cells"][max(0, self.ordinal + 1 - first_ordinal) :])
            return max(0, self.ordinal + 1 - first_ordinal) + int(late[0]) if len(late) else len(cells)
        return len(cells) if self.time is None else cut_at(cells, self.time)


@dataclass(slots=True, kw_only=True)
class BookAt:
    """A book at a moment, and how it was found.

    Attributes:
        next_ordinal: Of the first cell that does not count.
        sequence: Of the frame in which folding ended.
        log_id: Of the branch that it belongs to.
        time: Engine time, UTC ns: of the last record that counts.
        snapshot: Where the snapshot was taken that it began from, None for an empty book.
        mark: From where on the tape was folded; None for its beginning.
        cells_folded: Of the tape, of all instruments.
        refused: Snapshots that were passed over, and why.
    """

    book: TapeBook
    next_ordinal: int
    sequence: int
    log_id: bytes
    time: int
    snapshot: Place | None
    mark: Place | None
    cells_folded: int
    refused: list[str] = field(default_factory=list)

    def levels(self, depth: int | None = None, *, orders: bool = False) -> dict[str, list[dict[str, Any]]]:
        """Bids and asks, best first: price and size as exact decimals, and the number of known orders.

        Args:
            orders: With them, oldest first, as `queue`; what they do not explain of a size nobody told.
        """
        return {
            name: [self._level(side, level, orders) for level in levels(self.book.books, 0, side)[:depth]]
            for name, side in (("bids", BID), ("asks", ASK))
        }

    def _level(self, side: int, level: tuple[int, int, int], orders: bool) -> dict[str, Any]:
        price, size, count = level
        instrument = self.book.instrument
        told: dict[str, Any] = {
            "price": fixed_text(price, instrument.price_exponent),
            "size": fixed_text(size, instrument.size_exponent),
            "orders": count,
        }
        if orders:
            told["queue"] = [
                {"order_id": order_id, "size": fixed_text(left, instrument.size_exponent)}
                for order_id, left in self.book.orders(side, price)
            ]
        return told

    def table(self, depth: int | None = None) -> Table:
        """One row a level: side, level (0 is the best), price, price_fixed, size, size_fixed, orders."""
        instrument = self.book.instrument
        rows = [
            (
                name,
                at,
                float(instrument.price(price)),
                price,
                float(from_fixed(size, instrument.size_exponent)),
                size,
                n,
            )
            for name, side in (("bid", BID), ("ask", ASK))
            for at, (price, size, n) in enumerate(levels(self.book.books, 0, side)[:depth])
        ]
        schema = {
            "side": pl.String, "level": pl.Int64, "price": pl.Float64, "price_fixed": pl.Int64, "size": pl.Float64,
            "size_fixed": pl.Int64, "orders": pl.Int64,
        }  # fmt: skip
        return Table(pl.DataFrame(rows, schema=schema, orient="row"))

    def describe(self) -> dict[str, Any]:
        """All but the levels, ready for JSON."""
        return {
            "symbol": self.book.instrument.symbol,
            "instrument": self.book.instrument.id,
            "state": state(self.book.books, 0).name.lower(),
            "confidence": confidence(self.book.books, 0).name.lower(),
            "ts": format_time_ns(self.time),
            "ts_ns": self.time,
            "position": {"log_id": self.log_id.hex(), "sequence": self.sequence, "next_ordinal": self.next_ordinal},
            "snapshot": None if self.snapshot is None else {
                "ordinal": self.snapshot.ordinal, "sequence": self.snapshot.sequence,
                "ts": format_time_ns(self.snapshot.time),
            },
            "folded_from": 0 if self.mark is None else self.mark.ordinal,
            "cells_folded": self.cells_folded,
            "refused": self.refused,
        }  # fmt: skip


@dataclass(slots=True, kw_only=True)
class _Known:
    """Instruments of a tape by id, with the ordinal from which on each is known."""

    instruments: dict[int, Instrument] = field(default_factory=dict)
    seen: set[Instrument] = field(default_factory=set)  # every revision of each

    def learn(self, found: list[Instrument]) -> None:
        """Take definitions in their order; those told again say nothing."""
        for instrument in found:
            if instrument not in self.seen:
                self.seen.add(instrument)
                self.instruments[instrument.id] = instrument

    def named(self, symbol: str) -> Instrument | None:
        """The instrument of a symbol, or of SYMBOL@ID; raises UsageError where several have the symbol."""
        found = [one for one in self.instruments.values() if symbol in (one.symbol, f"{one.symbol}@{one.id}")]
        if len(found) > 1:
            names = ", ".join(f"{one.symbol}@{one.id} ({one.venue})" for one in found[:NEAREST_MAX])
            raise UsageError(f"{len(found)} instruments have this symbol", subject=symbol, hint=f"one of {names}")
        return found[0] if found else None

    def missing(self, symbol: str, tape: str) -> MissingError:
        symbols = sorted({one.symbol for one in self.instruments.values()})
        near = difflib.get_close_matches(symbol, symbols, n=NEAREST_MAX, cutoff=0.3) or symbols[:NEAREST_MAX]
        return MissingError(
            "no such instrument on the tape by then", subject=symbol, position=tape,
            hint=f"nearest: {', '.join(near)}" if near else "nothing is defined by then",
        )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class _Start:
    """Where folding begins, and with what."""

    known: _Known
    mark: Place | None = None
    snapshot: Place | None = None
    book: TapeBook | None = None
    refused: list[str] = field(default_factory=list)


async def read_book_at(tape: Log, snaps: Snaps | None, symbol: str, *, moment: Moment | None = None) -> BookAt:
    """The book of an instrument after the last record that counts.

    Args:
        snaps: Where snapshots are; None to fold the tape from its beginning.
        symbol: The venue's spelling, or SYMBOL@ID where several instruments have it.
        moment: None for the end of the tape.

    Raises:
        MissingError: No instrument of that symbol is defined by then, or nothing of the tape is; the nearest are named.
        UsageError: Several instruments have that symbol, or the tape has not come so far.
        GapError, DecodeError, IntegrityError: The tape is damaged; the sequence is named.
    """
    moment = moment or Moment()
    extent = await tape.extent()
    if extent.last < extent.first:
        raise MissingError("the tape is empty", subject=tape.name)
    start = _Start(known=_Known())
    if snaps is not None:
        start = await _find_start(StoredBooks(snaps, tape.name, extent), symbol, moment)
    return await _fold_tail(tape, extent, symbol, moment, start)


async def _find_start(stored: StoredBooks, symbol: str, moment: Moment) -> _Start:
    """The newest mark, and the book that it leads to, of which nothing is damaged."""
    start = _Start(known=_Known())
    marks = [place for place in await stored.marks() if moment.reaches(place)]
    told: list[tuple[int, Instrument]] = []  # each definition with the ordinal of the boundary after it, ascending
    known = _Known()
    for place in await stored.places(DEFINITIONS):
        if not marks or place.ordinal > marks[-1].ordinal:
            break
        try:
            found = read_definitions(await stored.load(DEFINITIONS, place))
        except (DecodeError, IntegrityError) as error:
            start.refused.append(refusal("definitions", place, error))
            marks = [mark for mark in marks if mark.ordinal < place.ordinal]
            break
        told += [(place.ordinal, one) for one in found if one not in known.seen]
        known.learn(found)
    instrument = known.named(symbol)
    for mark in reversed(marks[-REFUSED_MAX:]):
        if start.snapshot is not None and mark.ordinal >= start.snapshot.ordinal:
            continue  # This mark leads to the snapshot that was refused.
        start.snapshot = None
        try:
            said = read_mark(await stored.load(MARK, mark))
            start.known = _Known()
            start.known.learn([one for ordinal, one in told if ordinal <= mark.ordinal])
            if said.defined != len(start.known.seen):
                raise IntegrityError("not all definitions before it are there")
        except (DecodeError, IntegrityError) as error:
            start.refused.append(refusal("mark", mark, error))
            continue
        if instrument is None or instrument.id not in said.newest:
            start.mark = mark
            return start  # No record has told this book before the mark.
        start.snapshot = said.newest[instrument.id]
        if start.snapshot is None:
            continue  # A book that is not kept.
        try:
            start.mark = mark
            start.book = read_book(await stored.load(instrument.id, start.snapshot))
            return start
        except (DecodeError, IntegrityError) as error:
            start.refused.append(refusal(f"book of {symbol}", start.snapshot, error))
    start.mark, start.snapshot, start.known = None, None, _Known()
    return start


async def _fold_tail(tape: Log, extent: Extent, symbol: str, moment: Moment, start: _Start) -> BookAt:
    """Fold what counts of the tape from the start on."""
    known, book, mark = start.known, start.book, start.mark
    sequence = extent.first if mark is None else mark.sequence
    skip_to = 0 if mark is None else mark.ordinal
    progress = Progress(log_id=extent.log_id_at(sequence), sequence=sequence - 1, next_ordinal=0 if not mark else -1)
    at = BookAt(
        book=TapeBook(Instrument(id=0, symbol="")) if book is None else book,
        next_ordinal=skip_to, sequence=sequence, log_id=progress.log_id, time=_NOWHERE if mark is None else mark.time,
        snapshot=start.snapshot, mark=mark, cells_folded=0, refused=start.refused,
    )  # fmt: skip
    begins: int | None = None
    ended = False
    async for message in tape.read(sequence, through=extent.last):
        header, cells = open_frame(tape.name, message, extent, progress)
        progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
        begins = header.first_time if begins is None else begins
        if mark is not None and message.sequence == mark.sequence:
            _require_inside(tape.name, header, mark)
        first, end = max(0, skip_to - header.first_ordinal), moment.end(cells, header.first_ordinal)
        if end > first:
            part = cells[first:end]
            if (part["kind"] == Kind.DEFINITION).any():
                book, first = _fold_definitions(cells[:end], first, known, symbol, book)
            if book is None and (instrument := known.named(symbol)) is not None:
                book = TapeBook(instrument)
            if book is not None:
                book.fold(words(cells), first, end)
            at.cells_folded += len(part)
            at.next_ordinal, at.sequence, at.log_id = header.first_ordinal + end, message.sequence, header.log_id
            at.time = max(at.time, int(part["ts_recv"][part["cells"] > 0].max()))
        if end < len(cells):
            ended = True
            break
        await asyncio.sleep(0)
    if at.next_ordinal == 0:
        said = format_time_ns(begins) if begins is not None else "nothing"
        raise MissingError("the tape begins later", subject=tape.name, hint=f"its first record is of {said}")
    if moment.ordinal is not None and not ended and at.next_ordinal <= moment.ordinal:
        raise UsageError(
            f"the tape has not come to cell {moment.ordinal}",
            subject=tape.name,
            hint=f"its last is {at.next_ordinal - 1}",
        )
    if book is None:
        raise known.missing(symbol, tape.name)
    at.book = book
    return at


def _fold_definitions(
    cells: Cells, first: int, known: _Known, symbol: str, book: TapeBook | None
) -> tuple[TapeBook | None, int]:
    """Learn the definitions from a row on; what comes before a revision of our instrument is folded with its old terms.

    Returns:
        The book, and from which row on nothing was folded yet.
    """
    for at, record in records_of(cells[first:], Kind.DEFINITION):
        instrument = read_definition(record)
        if book is None and (ours := known.named(symbol)) is not None:
            book = TapeBook(ours)
        known.learn([instrument])
        if book is not None and book.instrument.id == instrument.id and book.instrument != instrument:
            row = first + at
            book.fold(words(cells), first, row)
            book.revise(instrument)
            return _fold_definitions(cells, row + int(record["cells"][0]), known, symbol, book)
    return book, first


def _require_inside(name: str, header: FrameHeader, mark: Place) -> None:
    """Refuse a mark whose frame does not hold its cell."""
    if not header.first_ordinal <= mark.ordinal < header.next_ordinal:
        raise IntegrityError(
            f"a mark at cell {mark.ordinal} names a frame of the cells from {header.first_ordinal}",
            subject=name,
            position=f"sequence {mark.sequence}",
            hint="the snapshots are of another tape with the same log id",
        )


__all__ = ["BookAt", "Moment", "read_book_at"]
