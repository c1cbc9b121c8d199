"""The engine in `gated` mode: it reads TAPE, and an output counts only when the EVENTS frame that holds it is durable.

After a restart it restores its snapshot, folds the tail of TAPE again and compares what it decides with what EVENTS
already holds: the same is skipped, a difference halts. One EVENTS append is in flight while the next frame is folded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
from tapehouse.core.errors import IntegrityError
from tapehouse.engine.machine import Engine
from tapehouse.log import FrameWriter, Host, Log, SnapshotStore, decode_frame, read_header
from tapehouse.market import Cells

SNAPSHOT_CELLS = 2_000_000  # of TAPE, between two snapshots


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
        self._known: list[Cells] = []  # what EVENTS holds beyond the snapshot, still to be met again
        self._in_flight: asyncio.Task[int] | None = None
        self.recovered = 0
        self._advanced = asyncio.Condition()

    async def open(self) -> None:
        """Restore, take over EVENTS, and read what of it must be met again."""
        await self._host.open()
        self._writer = await FrameWriter.open(self._events, writer=self._writer_id)
        behind = self._writer.next_ordinal - self.engine.outputs
        if behind < 0:
            raise IntegrityError(
                f"EVENTS ends at cell {self._writer.next_ordinal}, behind the snapshot's {self.engine.outputs}",
                subject=self._events.name,
                hint="restore EVENTS, or remove the engine's snapshot to decide everything anew",
            )
        if behind:
            await self._read_known()

    async def _read_known(self) -> None:
        extent = await self._events.extent()
        async for message in self._events.read(extent.first, through=extent.last):
            if read_header(message.payload).next_ordinal <= self.engine.outputs:
                continue
            header, cells = decode_frame(message.payload)
            self._known.append(cells[max(0, self.engine.outputs - header.first_ordinal) :])

    async def run(self, *, through: int | None = None, follow: bool = False) -> None:
        """Fold TAPE through a sequence (None: what is there; `follow`: until cancelled).

        Raises:
            IntegrityError: A decision differs from the one that EVENTS holds.
            ConflictError: Another engine has taken over EVENTS.
        """
        if self._writer is None:
            await self.open()
        progress = self._host.progress
        assert progress is not None
        since_snapshot = 0
        try:
            async for message in self._tape.read(progress.sequence + 1, through=through, follow=follow):
                header, cells = self._host.fold(message)
                await self._publish(self.engine.take_outputs(), header.next_ordinal)
                since_snapshot += len(cells)
                if self._on_progress:
                    self._on_progress(header.next_ordinal)
                if self._snapshots is not None and since_snapshot >= self._snapshot_cells:
                    await self.save()
                    since_snapshot = 0
                async with self._advanced:
                    self._advanced.notify_all()
        finally:
            await self._settle()

    async def until(self, sequence: int) -> None:
        """Return when TAPE has been folded through that sequence and all decisions are durable."""
        async with self._advanced:
            await self._advanced.wait_for(lambda: self.sequence >= sequence)
        await self._settle()

    @property
    def sequence(self) -> int:
        """The last TAPE sequence that was folded."""
        progress = self._host.progress
        return progress.sequence if progress else 0

    async def save(self) -> None:
        """Write a snapshot, once everything decided so far is durable."""
        await self._settle()
        self._host.save()

    async def _settle(self) -> None:
        while self._in_flight is not None:
            task = self._in_flight
            await asyncio.shield(task)
            if self._in_flight is task:
                self._in_flight = None

    async def _publish(self, outputs: Cells, input_ordinal: int) -> None:
        outputs = self._meet_again(outputs)
        if not len(outputs):
            return
        await self._settle()
        assert self._writer is not None
        append = self._writer.append(outputs, input_ordinal=input_ordinal)
        self._in_flight = asyncio.create_task(append)

    def _meet_again(self, outputs: Cells) -> Cells:
        """Compare regenerated outputs with what EVENTS holds; return those that it does not hold yet."""
        while self._known and len(outputs):
            known = self._known[0]
            common = min(len(known), len(outputs))
            differ = np.flatnonzero(known[:common] != outputs[:common])
            if len(differ):
                cell = outputs[int(differ[0])]
                raise IntegrityError(
                    "a decision differs from the one that was made before",
                    subject=self._events.name,
                    position=f"input cell {int(cell['sequence'])}, index {int(cell['count'])}",
                    hint="code, strategy or tape changed under a running desk: start a new epoch from a snapshot",
                )
            self.recovered += common
            outputs = outputs[common:]
            if common == len(known):
                self._known.pop(0)
            else:
                self._known[0] = known[common:]
        return outputs
