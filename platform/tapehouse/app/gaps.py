"""The spans of missing data of a tape, by the names that users give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapehouse.app.replaying import tape_source
from tapehouse.core.errors import MissingError
from tapehouse.core.units import format_time_ns
from tapehouse.market import GapSpan
from tapehouse.query.columns import Dictionary
from tapehouse.query.read import read_frames


@dataclass(frozen=True, slots=True, kw_only=True)
class TapeGaps:
    """What was found: a row for each span that was asked for, and how many of these are open."""

    cells: int  # of the tape
    rows: list[dict[str, Any]]

    @property
    def open(self) -> int:
        """Spans that nothing has ended yet."""
        return sum(row["end"] is None for row in self.rows)


async def gaps_of(
    tape: str,
    *,
    instrument: str | None = None,
    only_open: bool = False,
    store: str | None = None,
    nats: str | None = None,
    home: Path | None = None,
) -> TapeGaps:
    """Read a whole tape and fold its GAP records.

    Args:
        instrument: Only spans that concern this symbol: its own, and those of whole sources that feed it.
        only_open: Only spans without an end.
        store: Read the tape from the newest backup in this store instead of the broker.

    Raises:
        MissingError: There is no such tape, backup or symbol.
    """
    dictionary, cells_read = Dictionary(), 0
    async with tape_source(tape, nats=nats, store=store, home=home) as log:
        async for header, cells in read_frames(log):
            dictionary.learn(header, cells)
            cells_read += len(cells)
    spans = dictionary.gaps.spans()
    if instrument is not None:
        numbers = [number for number, known in dictionary.instruments.items() if known.symbol == instrument]
        if not numbers:
            known = sorted({each.symbol for each in dictionary.instruments.values()})
            raise MissingError(
                f"no instrument {instrument!r}", subject=tape, hint=f"there are {', '.join(known[:10]) or 'none yet'}"
            )
        spans = [span for span in spans if any(dictionary.gaps.concerns(span, number) for number in numbers)]
    if only_open:
        spans = [span for span in spans if span.end_ns is None]
    return TapeGaps(cells=cells_read, rows=[_row(span, dictionary) for span in spans])


def _row(span: GapSpan, dictionary: Dictionary) -> dict[str, Any]:
    instrument = dictionary.instruments.get(span.instrument)
    return {
        "begin": format_time_ns(span.begin_ns),
        "end": None if span.end_ns is None else format_time_ns(span.end_ns),
        "duration_ns": None if span.end_ns is None else span.end_ns - span.begin_ns,
        "begin_ns": span.begin_ns,
        "end_ns": span.end_ns,
        "begin_ordinal": span.begin_ordinal,
        "end_ordinal": span.end_ordinal,
        "instrument": None if instrument is None else instrument.symbol,
        "source": span.source,
        "causes": [cause.name.lower() for cause in span.causes],
        "missing": span.missing,
        "recovered_by": None if span.recovered_by is None else span.recovered_by.name.lower(),
    }
