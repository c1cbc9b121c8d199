"""The engine in `gated` mode: it reads TAPE, and an output counts only when the EVENTS frame that holds it is durable.

After a restart it restores its snapshot, folds the tail of TAPE again and compares what it decides with what EVENTS
already holds: the same is skipped, a difference halts. One EVENTS append is in flight while the next frame is folded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from tapehouse.core.errors import IntegrityError, InvariantError
from tapehouse.engine.machine import Engine
from tapehouse.log import FrameWriter, Host, Log, Progress, SnapshotStore, open_frame, read_header, read_tail
from tapehouse.market import Cells

SNAPSHOT_CELLS = 2_000_000  # of TAPE, between two snapshots
KNOWN_FRAMES_MAX = 64  # of EVENTS, held while they are met again


class GatedEngine:
    """Runs an engine over TAPE and writes EVENTS."""

    def __init__(
        self,
        engine: Engine,
        tape: Log,
        events: Log,
        *,
        writer: int,
        snapshots: SnapshotStore | None = None,
        snapshot_cells: int = SNAPSHOT_CELLS,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self.engine = engine
        self._tape = tape
        self._events = events
        self._writer_id = writer
        self._snapshots = snapshots
        self._snapshot_cells = snapshot_cells
        self._on_progress = on_progress
        self._host = Host(engine, tape, snapshots=snapshots, snapshot_cells=2**62)
        self._writer: FrameWriter | None = None
        self._known = _Known(events)
        self._decided: tuple[Cells, int] | None = None  # taken from the engine, not yet on its way
        self._in_flight: asyncio.Task[int] | None = None
        self._decided_through = 0  # TAPE cells; what they led to was in EVENTS when this engine took over, all of it
        self._published = 0  # TAPE sequence through which every decision is in flight at least
        self._advanced = asyncio.Condition()
        self.recovered = 0

    async def open(self) -> None:
        """Restore, take over EVENTS, and find what of it must be met again.

        Raises:
            IntegrityError: EVENTS does not fit the snapshot or TAPE.
        """
        await self._host.open()
        self._published = self.sequence
        self._writer = await FrameWriter.open(self._events, writer=self._writer_id)
        decided = self._writer.next_ordinal
        if decided < self.engine.outputs:
            raise IntegrityError(
                f"EVENTS ends at cell {decided}, behind the snapshot's {self.engine.outputs}",
                subject=self._events.name,
                hint="restore EVENTS, or remove the engine's snapshot to decide everything anew",
            )
        await self._known.open(self.engine.outputs)
        events, tape = await read_tail(self._events), await read_tail(self._tape)
        if events.header is not None and not events.header.is_partial:
            self._decided_through = events.header.input_ordinal
        if events.header is not None and events.header.input_ordinal > tape.next_ordinal:
            raise IntegrityError(
                f"EVENTS was decided on {events.header.input_ordinal} cells of {self._tape.name}, "
                f"which has {tape.next_ordinal}",
                subject=self._events.name,
                hint="the tape lost its end: restore both logs from one backup",
            )

    async def run(self, *, through: int | None = None, follow: bool = False) -> None:
        """Fold TAPE through a sequence (None: what is there; `follow`: until cancelled).

        Raises:
            IntegrityError: A decision differs from the one that EVENTS holds.
            ConflictError: Another engine has taken over EVENTS.
        """
        if self._writer is None:
            await self.open()
        since_snapshot = 0
        try:
            await self._publish()
            async for message in self._tape.read(self.sequence + 1, through=through, follow=follow):
                header, cells = self._host.fold(message)
                self._decided = self.engine.take_outputs(), header.next_ordinal
                await self._publish()
                since_snapshot += len(cells)
                if self._on_progress:
                    self._on_progress(header.next_ordinal)
                if self._snapshots is not None and since_snapshot >= self._snapshot_cells:
                    await self.save()
                    since_snapshot = 0
                async with self._advanced:
                    self._published = message.sequence
                    self._advanced.notify_all()
        finally:
            await self._settle()

    async def until(self, sequence: int) -> None:
        """Return when TAPE has been folded through that sequence and all decisions are durable."""
        async with self._advanced:
            await self._advanced.wait_for(lambda: self._published >= sequence)
        await self._settle()

    @property
    def sequence(self) -> int:
        """The last TAPE sequence that was folded."""
        progress = self._host.progress
        return progress.sequence if progress else 0

    @property
    def writer(self) -> FrameWriter:
        """The writer of EVENTS, for one who goes on from here.

        Raises:
            InvariantError: It was not opened.
        """
        if self._writer is None:
            raise InvariantError("an engine that was not opened has no writer", subject=self._events.name)
        return self._writer

    def moved_to(self, progress: Progress) -> None:
        """Take note that the engine was brought to a place of TAPE by another way, with EVENTS complete to there."""
        self._host.progress = progress

    async def save(self) -> None:
        """Write a snapshot, once everything decided so far is durable; none of an engine that halted in a frame."""
        if self.engine.halted:
            return
        await self._publish()
        await self._settle()
        self._host.save()

    async def _settle(self) -> None:
        """Wait until what is in flight is durable; raises what its append raised."""
        while self._in_flight is not None:
            task = self._in_flight
            await asyncio.shield(task)
            if self._in_flight is task:
                self._in_flight = None

    async def _publish(self) -> None:
        """Send what was decided on its way; where this is cancelled, the next call goes on with it."""
        if self._decided is None:
            return
        await self._meet_again()
        await self._settle()
        assert self._writer is not None
        outputs, input_ordinal = self._decided
        self._decided = None
        if len(outputs):
            append = self._writer.append(outputs, input_ordinal=input_ordinal)
            self._in_flight = asyncio.create_task(append)

    async def _meet_again(self) -> None:
        """Compare what was decided with what EVENTS holds; leave of it what EVENTS does not hold yet.

        Raises:
            IntegrityError: A decision is another one, is missing, or was not made before; its input is named.
        """
        while self._decided is not None:
            known = await self._known.next_cells()
            outputs, input_ordinal = self._decided
            if known is None:
                if len(outputs) and int(outputs["sequence"][0]) < self._decided_through:
                    raise self._differs("a decision was not made before", outputs[0])
                return
            if not len(outputs):
                if int(known["sequence"][0]) < input_ordinal:
                    raise self._differs("a decision that was made before is not made again", known[0])
                return
            common = min(len(known), len(outputs))
            differ = np.flatnonzero(known[:common] != outputs[:common])
            if len(differ):
                at = int(np.flatnonzero(outputs["cells"][: int(differ[0]) + 1])[-1])
                earlier = min(outputs[at], known[at], key=lambda cell: (int(cell["sequence"]), int(cell["count"])))
                raise self._differs("a decision differs from the one that was made before", earlier)
            self._known.met(common)
            self.recovered += common
            self._decided = outputs[common:], input_ordinal

    def _differs(self, what: str, cell: np.void) -> IntegrityError:
        return IntegrityError(
            what,
            subject=self._events.name,
            position=f"input cell {int(cell['sequence'])}, index {int(cell['count'])}",
            hint="code, strategy or tape changed under a running desk: start a new epoch from a snapshot",
        )


class _Known:
    """What EVENTS held when this engine took over, beyond the snapshot: read piece by piece while it is met again."""

    def __init__(self, events: Log) -> None:
        self._events = events
        self._frames: list[Cells] = []
        self._progress: Progress | None = None
        self._through = 0

    async def open(self, outputs: int) -> None:
        """Find the frame that holds output `outputs`; raises IntegrityError where it is trimmed away."""
        extent = await self._events.extent()
        self._through = extent.last
        low, high = extent.first, extent.last + 1
        while low < high:  # the first frame that ends beyond `outputs`
            middle = (low + high) // 2
            async for message in self._events.read(middle, through=middle):
                if read_header(message.payload).next_ordinal > outputs:
                    high = middle
                else:
                    low = middle + 1
        self._progress = Progress(log_id=extent.log_id_at(low), sequence=low - 1, next_ordinal=-1)
        await self._read()
        if self._frames:
            first_ordinal = self._progress.next_ordinal - sum(map(len, self._frames))
            if first_ordinal > outputs:
                raise IntegrityError(
                    f"EVENTS begins at cell {first_ordinal}, beyond cell {outputs} that is to be met again",
                    subject=self._events.name,
                    hint="it was trimmed beyond the engine's snapshot: restore the older frames",
                )
            self._frames[0] = self._frames[0][outputs - first_ordinal :]

    async def next_cells(self) -> Cells | None:
        """The cells to be met next, None where all have been."""
        if not self._frames:
            await self._read()
        return self._frames[0] if self._frames else None

    def met(self, cells: int) -> None:
        """So many of `next_cells` were decided again."""
        if cells == len(self._frames[0]):
            self._frames.pop(0)
        else:
            self._frames[0] = self._frames[0][cells:]

    async def _read(self) -> None:
        """Read on; at most KNOWN_FRAMES_MAX frames."""
        progress = self._progress
        if progress is None or progress.sequence >= self._through:
            return
        extent = await self._events.extent()
        through = min(progress.sequence + KNOWN_FRAMES_MAX, self._through)
        async for message in self._events.read(progress.sequence + 1, through=through):
            header, cells = open_frame(self._events.name, message, extent, progress)
            progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
            self._frames.append(cells)
            self._progress = progress
