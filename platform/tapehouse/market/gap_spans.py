"""Spans of missing data, folded from the GAP records of a tape: what was doubtful, from when to when, and why.

A span lasts from the record that leaves GOOD to the one that comes back to it; records between the two extend it. One
of a whole source (instrument 0) concerns the instruments that the source feeds, and ends where the last of them is made
good, each by itself or all at once. A venue that begins anew and leaves nothing out (RESET, GOOD) is a span of one
record. Which feed an instrument has the sequencer's RAW records say; one whose feed the tape does not name is taken for
everybody's. These are the rules by which the engine marks its books, extended to instruments without a book (options).
An instrument begins GOOD where it is defined; of one that the tape has not defined yet, a record says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DataError
from tapehouse.market.cell import Cells, Kind
from tapehouse.market.gap import Cause, Confidence, told_confidence

SPANS_MAX = 1 << 20  # of one tape
CHANGES_MAX = 1 << 24  # of the confidence of all instruments together
SEQUENCER_SOURCE = 2  # the `source` of what the sequencer adds to a tape
_FOLDED = (int(Kind.GAP), int(Kind.DEFINITION), int(Kind.RAW))

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class GapSpan:
    """One span; times are engine times in UTC ns, ordinals those of the GAP records."""

    instrument: int  # 0 for several of the source's
    source: int
    causes: tuple[Cause, ...]  # each once, in the order in which they came
    begin_ordinal: int
    begin_ns: int
    end_ordinal: int | None = None  # None while it is open
    end_ns: int | None = None
    missing: int = 0  # records, as far as anybody knows
    recovered_by: Cause | None = None


@dataclass(slots=True, kw_only=True)
class _Open:
    """A span that goes on; `members` are the instruments of a whole source's that are not good yet."""

    number: int
    instrument: int
    source: int
    begin_ordinal: int
    begin_ns: int
    causes: list[Cause]
    missing: int
    members: set[int]
    is_for_nobody: bool = False  # no instrument was known when it began

    def extend(self, cause: Cause, missing: int) -> None:
        if cause not in self.causes:
            self.causes.append(cause)
        self.missing += missing


@dataclass(slots=True)
class _Instrument:
    feed: int = 0  # the source that declared it last, 0 unknown
    ordinals: list[int] = field(default_factory=list)  # where its confidence changed
    worth: list[int] = field(default_factory=list)  # to what


@dataclass(frozen=True, slots=True)
class _Record:
    """A GAP record, and where it stood."""

    ordinal: int
    ns: int
    instrument: int
    source: int
    cause: Cause
    worth: int
    missing: int


class GapFold:
    """Folds a tape, in order and in any batches of whole records; spans and confidences can be asked for at any time.

    Raises, from `take`:
        DataError: There are more than SPANS_MAX spans, or CHANGES_MAX changes.
    """

    def __init__(self) -> None:
        self._instruments: dict[int, _Instrument] = {}
        self._own: dict[int, _Open] = {}  # by instrument
        self._wide: dict[int, list[_Open]] = {}  # by source; no instrument is a member of two of one source
        self._spans: dict[int, GapSpan] = {}  # those that ended, by number
        self._begun = 0
        self._changes = 0

    def take(self, cells: Cells, first_ordinal: int) -> None:
        """Fold cells, of which the first has that ordinal."""
        rows = np.flatnonzero(np.isin(cells["kind"], _FOLDED) & (cells["cells"] > 0))
        for row in rows.tolist():
            cell = cells[row]
            kind, instrument = int(cell["kind"]), int(cell["instrument"])
            if kind == Kind.DEFINITION:
                self._instruments.setdefault(instrument, _Instrument())
            elif kind == Kind.GAP:
                self._fold(_read(cell, first_ordinal + row))
            elif int(cell["source"]) == SEQUENCER_SOURCE and 0 < int(cell["size"]) < 1 << 16:
                known = self._instruments.get(instrument)
                if known is not None:
                    known.feed = int(cell["size"])

    def spans(self) -> list[GapSpan]:
        """All spans in the order in which they began; those that are open have no end."""
        going = [*self._own.values(), *(span for spans in self._wide.values() for span in spans)]
        found = {**self._spans, **{span.number: _seal(span) for span in going}}
        return [found[number] for number in sorted(found)]

    def concerns(self, span: GapSpan, instrument: int) -> bool:
        """Whether a span is one of an instrument's, as far as its feed is known."""
        if span.instrument:
            return span.instrument == instrument
        known = self._instruments.get(instrument)
        return known is not None and _is_fed(known, span.source)

    def confidence(self, instruments: npt.NDArray[np.integer], ordinals: Ints) -> npt.NDArray[np.int8]:
        """The `Confidence` of each instrument at a place of the tape: as the records before that ordinal left it."""
        found = np.zeros(len(instruments), np.int8)
        for number in np.unique(instruments).tolist():
            known = self._instruments.get(number)
            if known is None or not known.ordinals:
                continue
            rows = np.flatnonzero(instruments == number)
            last = np.searchsorted(np.array(known.ordinals), ordinals[rows], side="left") - 1
            found[rows] = np.where(last < 0, np.int8(0), np.array(known.worth, np.int8)[last])
        return found

    # One record.

    def _fold(self, record: _Record) -> None:
        if record.instrument and record.instrument not in self._instruments:
            return
        if record.cause == Cause.RESET and record.worth == Confidence.GOOD:
            self._end(self._open(record, set()), record)  # Nothing is missing, and yet the books begin anew here.
        if record.instrument:
            self._mark(record.instrument, record)
            if record.worth == Confidence.GOOD:
                self._restore(record.instrument, record)
            elif record.instrument in self._own:
                self._own[record.instrument].extend(record.cause, record.missing)
            else:
                self._own[record.instrument] = self._open(record, set())
            return
        concerned = {number for number, known in self._instruments.items() if _is_fed(known, record.source)}
        for number in concerned:
            self._mark(number, record)
        if record.worth == Confidence.GOOD:
            for number in concerned:
                self._restore(number, record)
            for source in [record.source] if record.source else list(self._wide):
                self._close_empty(source, record)
            return
        going = self._wide.setdefault(record.source, [])
        fresh = concerned.difference(*(span.members for span in going))
        for span in going:
            span.extend(record.cause, 0)
        if fresh or not going:
            going.append(self._open(record, fresh))
        else:
            going[-1].missing += record.missing

    def _restore(self, instrument: int, record: _Record) -> None:
        """An instrument is good again, whatever had made it doubtful."""
        own = self._own.pop(instrument, None)
        if own is not None:
            self._end(own, record)
        known = self._instruments.get(instrument)
        for source, going in list(self._wide.items()):
            for span in going:
                if instrument in span.members or (span.is_for_nobody and known is not None and _is_fed(known, source)):
                    span.members.discard(instrument)
                    span.is_for_nobody = False
            self._close_done(source, record)

    def _close_empty(self, source: int, record: _Record) -> None:
        for span in self._wide.get(source, ()):
            span.is_for_nobody = False
        self._close_done(source, record)

    def _close_done(self, source: int, record: _Record) -> None:
        """End the spans of a source that have nobody left."""
        going = self._wide.get(source, [])
        for span in going:
            if not span.members and not span.is_for_nobody:
                self._end(span, record)
        left = [span for span in going if span.members or span.is_for_nobody]
        if left:
            self._wide[source] = left
        else:
            self._wide.pop(source, None)

    def _mark(self, instrument: int, record: _Record) -> None:
        known = self._instruments.get(instrument)
        if known is None or record.worth == (known.worth[-1] if known.worth else Confidence.GOOD):
            return
        self._changes += 1
        if self._changes > CHANGES_MAX:
            raise DataError(f"confidence changes more than {CHANGES_MAX} times", position=f"cell {record.ordinal}")
        known.ordinals.append(record.ordinal)
        known.worth.append(record.worth)

    def _open(self, record: _Record, members: set[int]) -> _Open:
        if self._begun >= SPANS_MAX:
            raise DataError(f"more than {SPANS_MAX} spans of missing data", position=f"cell {record.ordinal}")
        self._begun += 1
        return _Open(
            number=self._begun,
            instrument=record.instrument,
            source=record.source,
            begin_ordinal=record.ordinal,
            begin_ns=record.ns,
            causes=[record.cause],
            missing=record.missing,
            members=members,
            is_for_nobody=not record.instrument and not members,
        )

    def _end(self, span: _Open, record: _Record) -> None:
        self._spans[span.number] = _seal(span, record)


def _is_fed(known: _Instrument, source: int) -> bool:
    """Whether a record of all of a source's concerns an instrument."""
    return source == 0 or known.feed in (0, source)


def _read(cell: np.void, ordinal: int) -> _Record:
    code = int(cell["action"])
    return _Record(
        ordinal=ordinal,
        ns=int(cell["ts_recv"]),
        instrument=int(cell["instrument"]),
        source=int(cell["source"]),
        cause=Cause(code) if code in set(Cause) else Cause.UNKNOWN,
        worth=int(told_confidence(code, int(cell["depth"]))),
        missing=int(cell["count"]),
    )


def _seal(span: _Open, record: _Record | None = None) -> GapSpan:
    return GapSpan(
        instrument=span.instrument,
        source=span.source,
        causes=tuple(span.causes),
        begin_ordinal=span.begin_ordinal,
        begin_ns=span.begin_ns,
        end_ordinal=None if record is None else record.ordinal,
        end_ns=None if record is None else record.ns,
        missing=span.missing,
        recovered_by=None if record is None else record.cause,
    )
