"""Projections at a moment: from the nearest states in SNAPS before it, and the tails of the logs behind them.

What counts is what `query.books.Moment` says of the tape: up to an *engine time* all records with a `ts_recv` at or
before it, or all records up to the one that holds a *cell*. Of EVENTS that is what was decided on these records, and
all of it. So every projection, and the books, stand at one cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapehouse.app.placed import Placed
from tapehouse.app.projections import READS, Projections, Source, make_projections, require
from tapehouse.core.errors import MissingError, UsageError
from tapehouse.core.units import format_time_ns
from tapehouse.log import FrameHeader, Log, decode_frame, open_frame, read_header, read_tail
from tapehouse.log.machine_snaps import StatePlace
from tapehouse.log.snaps import Snaps
from tapehouse.market import Cells
from tapehouse.query.books import Moment
from tapehouse.query.read import cut_at


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPlace:
    """How far one log counts in a state.

    Attributes:
        log_id: Of the branch, in hex.
        sequence: The last frame of which something counts, 0 for none.
        next_ordinal: Of the first cell that does not.
        ts_ns: Engine time of the last record that counts, None where there is none.
    """

    log_id: str
    sequence: int
    next_ordinal: int
    ts_ns: int | None


class StateAt:
    """The projections of a desk at a moment; nothing in it changes any more.

    Attributes:
        positions: Of each log that was folded (`tape`, `events`), how far it counts.
        complete: Whether EVENTS shows that the desk had decided on everything up to the moment. It says so at the
            latest with the desk's next decision; until then a desk that is behind looks like one with nothing to say.
        snapshots: Of each machine, the ordinal of the state in SNAPS that it began from, None for none.
        cells_folded: Of each machine, behind that.
        refused: States that were passed over, and why.
    """

    def __init__(self, machines: list[Placed], positions: dict[str, LogPlace], *, complete: bool | None) -> None:
        self._read = Projections({placed.machine.name: placed.machine for placed in machines})
        self.positions = positions
        self.complete = complete
        self.snapshots = {one.machine.name: one.begun.ordinal if one.begun else None for one in machines}
        self.cells_folded = {one.machine.name: one.cells_folded for one in machines}
        self.refused = [refused for one in machines for refused in one.refused]

    def get(self, key: str) -> Any:
        """The value under a key such as `positions/strategy/AAPL`.

        Raises:
            MissingError: There was no such key then; the nearest are offered.
        """
        return require(self._read, key)

    def items(self, prefix: str = "") -> dict[str, Any]:
        """All values whose keys begin with `prefix`, by key."""
        return dict(self._read.items(prefix))

    def digests(self) -> dict[str, str]:
        """Each machine's state digest, in hex: that of a whole refold up to the moment."""
        return self._read.digests()

    def describe(self) -> dict[str, Any]:
        """All but the values, ready for JSON."""
        return {
            "positions": {
                name: {
                    "log_id": at.log_id, "sequence": at.sequence, "next_ordinal": at.next_ordinal,
                    "ts": None if at.ts_ns is None else format_time_ns(at.ts_ns), "ts_ns": at.ts_ns,
                }
                for name, at in self.positions.items()
            },
            "complete": self.complete,
            "snapshots": self.snapshots,
            "cells_folded": self.cells_folded,
            "refused": self.refused,
        }  # fmt: skip


async def read_state_at(
    tape: Log,
    events: Log | None,
    snaps: Snaps | None,
    *,
    name: str,
    moment: Moment | None = None,
    names: Iterable[str] | None = None,
) -> StateAt:
    """The projections of a desk after the last record that counts.

    Args:
        events: None where the tape has no desk.
        snaps: Where states are; None to fold the logs from their beginnings.
        name: The tape's, as users know it.
        moment: None for the ends of the logs.
        names: Only these projections and what they are read from; logs that none of them needs are not folded.

    Raises:
        MissingError: The tape is empty or begins later, or a projection of EVENTS is asked for and there is no desk.
        UsageError: The tape has not come so far; where it ends is named.
        GapError, DecodeError, IntegrityError: A log is damaged; the sequence is named.
    """
    moment = moment or Moment()
    await _require_inside(tape, events, moment)
    wanted = None if names is None else {machine for one in names for machine in READS[one]}
    machines: list[Placed] = []
    positions: dict[str, LogPlace] = {}
    complete: bool | None = None
    for source, made in make_projections(wanted).items():
        group = [Placed(machine=one, source=source) for one in made]
        log = tape if source == "tape" else events
        if not group or (log is None and wanted is None):
            continue
        if log is None:
            raise MissingError("the tape has no desk, so nothing was decided", subject=name, hint="tapehouse host")
        positions[source], ended = await _fold(log, group, snaps, name, moment)
        machines += group
        if source == "events":
            complete = ended or await _decided_through(tape, log, moment)
    return StateAt(machines, positions, complete=complete)


async def _fold(log: Log, group: list[Placed], snaps: Snaps | None, name: str, moment: Moment) -> tuple[LogPlace, bool]:
    """Bring machines on one log to the moment; returns how far, and whether the log goes on behind it."""
    extent = await log.extent()
    for placed in group:
        await placed.begin(snaps, name, extent, may=lambda place: _may_begin(place, moment))
    ended = False
    first = min(placed.sequence for placed in group) + 1
    if first <= extent.last:
        async for message in log.read(first, through=extent.last):
            behind = [placed for placed in group if placed.sequence < message.sequence]
            header, cells = open_frame(log.name, message, extent, behind[0].progress)
            end = _end(group[0].source, cells, header.first_ordinal, moment)
            for placed in behind if end else ():
                placed.fold(header, cells, message.sequence, end)
            ended = end < len(cells)
            if ended:
                break
            await asyncio.sleep(0)
    last = group[0]
    at = LogPlace(
        log_id=last.log_id.hex(), sequence=last.sequence, next_ordinal=last.next_ordinal,
        ts_ns=last.time if last.next_ordinal else None,
    )  # fmt: skip
    return at, ended


def _may_begin(place: StatePlace, moment: Moment) -> bool:
    if moment.ordinal is not None:
        return place.reached <= moment.ordinal
    return moment.time is None or place.time <= moment.time


def _end(source: Source, cells: Cells, first_ordinal: int, moment: Moment) -> int:
    """How many cells of a frame count."""
    if source == "tape":
        return moment.end(cells, first_ordinal)
    if moment.ordinal is None:
        return len(cells) if moment.time is None else cut_at(cells, moment.time)
    late = np.flatnonzero((cells["cells"] > 0) & (cells["sequence"] > moment.ordinal))
    return int(late[0]) if len(late) else len(cells)


async def _decided_through(tape: Log, events: Log, moment: Moment) -> bool:
    """Whether the end of EVENTS says that the desk had come as far as the moment."""
    last = (await read_tail(events)).header
    if last is None or last.is_partial:
        return False
    through = (await read_tail(tape)).next_ordinal
    if moment.ordinal is not None:
        through = min(through, moment.ordinal + 1)
    return last.input_ordinal >= through


async def _require_inside(tape: Log, events: Log | None, moment: Moment) -> None:
    """Refuse a moment that the tape does not have, with the range that it has."""
    extent = await tape.extent()
    if extent.last < extent.first:
        raise MissingError("the tape is empty", subject=tape.name)
    tail = await tape.last()
    assert tail is not None  # A log that is not empty has a last message.
    header, cells = decode_frame(tail.payload)
    if moment.ordinal is not None and moment.ordinal >= header.next_ordinal:
        raise UsageError(
            f"the tape has not come to cell {moment.ordinal}",
            subject=tape.name,
            hint=f"its cells are 0 to {header.next_ordinal - 1}",
        )
    if moment.time is None:
        return
    begins = await _first_header(tape, extent.first)
    ends = max(int(cells["ts_recv"][cells["cells"] > 0].max()), await _last_decision(events))
    between = f"its records are of {format_time_ns(begins.first_time)} to {format_time_ns(ends)}"
    if moment.time < begins.first_time and begins.first_ordinal == 0:
        raise MissingError(f"the tape begins after {format_time_ns(moment.time)}", subject=tape.name, hint=between)
    if moment.time > ends:
        raise UsageError(
            f"the tape has not come to {format_time_ns(moment.time)}",
            subject=tape.name,
            hint=f"{between}; without a time you get its end",
        )


async def _first_header(log: Log, first: int) -> FrameHeader:
    async for message in log.read(first, through=first):
        return read_header(message.payload)
    raise MissingError("the log was trimmed while it was read", subject=log.name)


async def _last_decision(events: Log | None) -> int:
    """The engine time of the last decision: the tape has come at least so far."""
    header = None if events is None else (await read_tail(events)).header
    return -(2**63) if header is None else header.last_time
