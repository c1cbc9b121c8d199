"""The sequencer: the only writer of a TAPE, and so the one who says what came before what.

It takes a feed's cells, the commands of CMDS and the clock, allots instrument ids, and appends whole records in one
order. Every take-over begins with an EPOCH record that says by whom, in which mode, with which clock and which code. A
frame's `input_ordinal` is the CMDS sequence that the tape has consumed through, so that a successor knows where to go
on; how much of a feed is there is counted from the tape itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from tapehouse.core.clock import Clock
from tapehouse.core.errors import DataError
from tapehouse.core.metrics import Metrics
from tapehouse.log import FrameWriter, Log, Message, Progress, open_frame
from tapehouse.market import (
    PAYLOAD_BYTES_MAX,
    Cells,
    Instrument,
    Kind,
    empty_cells,
    pack_payload,
    read_definition,
    records_of,
    unpack_payload,
    whole_records,
)

ClockSource = Literal["wall", "history"]
FEED_SOURCE, DESK_SOURCE = 1, 2  # the `source` of a feed's cells, and of those that the sequencer adds
APPEND_CELLS = 65_536  # appended in one go: several frames, whose encoding overlaps their acknowledgements
COMMANDS_QUEUED_MAX = 4096
CLOCK_INTERVAL_NS = 100_000_000


@dataclass(slots=True)
class TapeState:
    """What a successor must know of a tape."""

    instruments: dict[int, Instrument] = field(default_factory=dict)
    feed_cells: int = 0
    now: int = 0
    clock: str = ""
    feed: str = ""
    progress: Progress | None = None
    commands_through: int = 0


async def read_tape(log: Log) -> TapeState:
    """Fold a whole tape into what its next sequencer must know."""
    state = TapeState()
    extent = await log.extent()
    progress = Progress(log_id=extent.log_id_at(extent.first), sequence=extent.first - 1, next_ordinal=-1)
    async for message in log.read(extent.first):
        header, cells = open_frame(log.name, message, extent, progress)
        progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
        # From the cells, not from the header: a header's position covers an append whose last frames may be missing.
        commands = (cells["kind"] == Kind.COMMAND) & (cells["cells"] > 0)
        state.commands_through = max(state.commands_through, int(cells["sequence"][commands].max(initial=0)))
        state.now = max(state.now, int(cells["ts_recv"][cells["cells"] > 0].max(initial=0)))
        state.feed_cells += int((cells["source"] == FEED_SOURCE).sum())
        for _, record in records_of(cells, Kind.DEFINITION):
            instrument = read_definition(record)
            state.instruments[instrument.id] = instrument
        for _, record in records_of(cells, Kind.EPOCH):
            epoch = json.loads(unpack_payload(record))
            state.clock, state.feed = epoch["clock"], epoch.get("feed") or state.feed
    state.progress = progress
    return state


class Sequencer:
    """Writes one tape from one life of one process."""

    def __init__(
        self,
        log: Log,
        writer: FrameWriter,
        state: TapeState,
        *,
        clock_source: ClockSource,
        clock: Clock,
        code: str,
        metrics: Metrics | None = None,
    ) -> None:
        if state.clock and state.clock != clock_source:
            raise DataError(
                f"its clock is {state.clock!r}, not {clock_source!r}",
                subject=log.name,
                hint="record each history into a tape of its own",
            )
        self._log = log
        self._writer = writer
        self.clock_source = clock_source
        self._clock = clock
        self._code = code
        self.state = state
        self.metrics = metrics or Metrics()
        self._ids = {(i.venue, i.symbol): i.id for i in state.instruments.values()}
        self._commands: asyncio.Queue[Message] = asyncio.Queue(COMMANDS_QUEUED_MAX)
        self._arrived = asyncio.Event()
        self._pending: list[Cells] = []
        self._pending_cells = 0

    @property
    def now(self) -> int:
        """The tape's present time: wall time, or the last receive time of a history."""
        if self.clock_source == "wall":
            self.state.now = max(self.state.now, self._clock.time_ns())
        return self.state.now

    async def begin(self, *, feed: str = "", mode: str = "gated") -> None:
        """Take over: append the EPOCH record under the fence.

        Raises:
            ConflictError: Another sequencer took over meanwhile.
        """
        body = {
            "type": "epoch",
            "version": 1,
            "mode": mode,
            "clock": self.clock_source,
            "code": self._code,
            "epoch": self._writer.epoch,
            "feed": feed,
        }
        payload = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        self._add(pack_payload(Kind.EPOCH, payload, ts_event=self.now, ts_recv=self.now, source=DESK_SOURCE))
        await self.flush()

    def define(self, instruments: tuple[Instrument, ...]) -> np.ndarray:
        """Allot tape ids to a feed's instruments and write the definitions of new ones.

        Returns:
            Shape (highest feed id + 1,), dtype uint32: the tape's id of each feed id.
        """
        table = np.zeros(max((i.id for i in instruments), default=0) + 1, np.uint32)
        for instrument in instruments:
            key = (instrument.venue, instrument.symbol)
            if key not in self._ids:
                self._ids[key] = len(self._ids) + 1
                underlying = int(table[instrument.underlying]) if instrument.underlying else 0
                defined = replace(instrument, id=self._ids[key], underlying=underlying)
                self.state.instruments[defined.id] = defined
                self._add(defined.definition(ts_recv=self.now, source=DESK_SOURCE))
            table[instrument.id] = self._ids[key]
        return table

    async def feed(self, cells: Cells, table: np.ndarray) -> None:
        """Append a feed's cells with the tape's instrument ids; earlier commands go first."""
        cells = cells.copy()
        ids = cells["instrument"]
        if len(ids) and (int(ids.max()) >= len(table) or not table[ids].all()):
            raise DataError("a feed used an instrument that it did not declare", subject=self._log.name)
        cells["instrument"] = table[ids]
        cells["source"] = FEED_SOURCE
        self.state.feed_cells += len(cells)
        start = 0
        while start < len(cells):
            self.admit_commands()
            end = start + whole_records(cells[start:], APPEND_CELLS)
            piece = cells[start:end]
            self.state.now = max(self.state.now, int(piece["ts_recv"][piece["cells"] > 0].max()))
            self._add(piece)
            if self._pending_cells >= APPEND_CELLS:
                await self.flush()
            start = end

    async def tick(self) -> None:
        """Append a CLOCK cell, so that timers fire while the market is quiet."""
        cell = empty_cells(1)
        cell["ts_event"] = cell["ts_recv"] = self.now
        cell["kind"], cell["cells"], cell["source"] = Kind.CLOCK, 1, DESK_SOURCE
        self._add(cell)
        await self.flush()

    async def offer_command(self, message: Message) -> None:
        """Queue a message of CMDS; waits while COMMANDS_QUEUED_MAX are queued."""
        await self._commands.put(message)
        self._arrived.set()

    async def command_or(self, due_ns: int, clock: Clock) -> None:
        """Return when a command is queued, at the latest at a monotonic time."""
        if not self._commands.empty():
            return
        arrival = asyncio.ensure_future(self._arrived.wait())
        timer = asyncio.ensure_future(clock.sleep_until(due_ns))
        try:
            await asyncio.wait({arrival, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrival.cancel()
            timer.cancel()

    def admit_commands(self) -> int:
        """Give every queued command its place on the tape, now; returns how many."""
        admitted = 0
        self._arrived.clear()
        while not self._commands.empty():
            message = self._commands.get_nowait()
            if message.sequence <= self.state.commands_through:
                continue
            self.state.commands_through = message.sequence
            payload = message.payload
            if len(payload) > PAYLOAD_BYTES_MAX:
                payload = json.dumps({"refused": f"{len(payload)} bytes"}).encode()
                self.metrics.add("commands_refused_total")
            self._add(
                pack_payload(
                    Kind.COMMAND,
                    payload,
                    ts_event=self.now,
                    ts_recv=self.now,
                    sequence=message.sequence,
                    source=DESK_SOURCE,
                )
            )
            admitted += 1
        self.metrics.add("commands_total", admitted)
        return admitted

    async def flush(self) -> None:
        """Append everything that is pending."""
        if not self._pending:
            return
        cells = np.concatenate(self._pending)
        self._pending.clear()
        self._pending_cells = 0
        await self._writer.append(cells, input_ordinal=self.state.commands_through)
        self.metrics.set("tape_cells_total", self._writer.next_ordinal)

    def _add(self, cells: Cells) -> None:
        self._pending.append(cells)
        self._pending_cells += len(cells)

    @property
    def writer(self) -> FrameWriter:
        """The tape's writer."""
        return self._writer


async def catch_up(sequencer: Sequencer, commands: Log) -> int:
    """Put what waits in CMDS on the tape; returns the last sequence that was looked at."""
    extent = await commands.extent()
    first = max(extent.first, sequencer.state.commands_through + 1)
    async for message in commands.read(first, through=extent.last):
        await sequencer.offer_command(message)
        sequencer.admit_commands()
    await sequencer.flush()
    return max(extent.last, sequencer.state.commands_through)


async def listen(sequencer: Sequencer, commands: Log, *, after: int) -> None:
    """Hand every message of CMDS that follows sequence `after` to the sequencer; runs until cancelled."""
    async for message in commands.read(after + 1, follow=True):
        await sequencer.offer_command(message)


async def record(
    sequencer: Sequencer,
    batches: AsyncIterator[Cells],
    table: np.ndarray,
    *,
    skip: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Put a whole feed on the tape.

    Args:
        table: What `Sequencer.define` returned for the feed's instruments.
        skip: Cells of the feed that the tape already holds, from an earlier run that was stopped.
        on_progress: Called with the number of cells taken from the feed.
    """
    taken = 0
    async for cells in batches:
        taken += len(cells)
        if taken <= skip:
            continue
        fresh = cells[len(cells) - (taken - skip) :] if taken - len(cells) < skip else cells
        await sequencer.feed(fresh, table)
        if on_progress:
            on_progress(taken)
    sequencer.admit_commands()
    await sequencer.flush()


__all__ = ["ClockSource", "Sequencer", "TapeState", "catch_up", "listen", "read_tape", "record"]
