"""The engine in `gated` mode: it reads TAPE, and an output counts only when the EVENTS frame that holds it is durable.

One engine is in one of two roles. It *follows*: it folds TAPE as it comes and holds what it decides against EVENTS as
that comes, writing nothing. Or it *leads*: what it decides and EVENTS does not hold, it writes. Taking over is to go
from the first to the second at a place of TAPE; a restart is the same with a snapshot instead of a past of following.
One EVENTS append is in flight while the next frame is folded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np

from tapehouse.core.errors import ConflictError, IntegrityError, InvariantError
from tapehouse.core.tasks import hear
from tapehouse.engine.machine import Engine
from tapehouse.engine.meeting import Meeting
from tapehouse.log import (
    Extent,
    FrameHeader,
    FrameWriter,
    Host,
    Log,
    Message,
    Progress,
    SnapshotStore,
    open_frame,
    read_header,
    read_tail,
)
from tapehouse.market import Cells, Kind

SNAPSHOT_CELLS = 2_000_000  # of TAPE, between two snapshots
COMMAND_CELLS = 1_000  # a command takes as long to fold again as so many market cells
KNOWN_FRAMES_MAX = 64  # of EVENTS, read at once while they are met again
TAKE_OVER_ATTEMPTS_MAX = 5  # each is met by an append that the leader before had under way

Beside = Callable[[Message, FrameHeader, Cells], None]


class GatedEngine:
    """Runs an engine over TAPE, and follows EVENTS or writes it."""

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
        self.beside: Beside | None = None  # called with each frame of TAPE that was folded
        self._tape = tape
        self._events = events
        self._writer_id = writer
        self._snapshots = snapshots
        self._snapshot_cells = snapshot_cells
        self._since_snapshot = 0
        self._on_progress = on_progress
        self._host = Host(engine, tape, snapshots=snapshots, snapshot_cells=2**62)
        self._writer: FrameWriter | None = None
        self._meeting = Meeting(events.name)
        self._known = _Known(events, self._meeting)
        self._in_flight: asyncio.Task[int] | None = None
        self._sent: tuple[Cells, int] | None = None  # what is in flight
        self._publishing = asyncio.Lock()  # `save` and `complete` publish too, while `run` does
        self._retakes_left = 0
        self._epoch = 0  # of TAPE, that this engine decides for; 0 for any
        self._published = 0  # TAPE sequence through which every decision is in flight at least
        self._advanced = asyncio.Condition()
        self._moved = asyncio.Condition()  # of a follower: what it holds became less

    async def open(self) -> None:
        """Restore, and take over EVENTS.

        Raises:
            IntegrityError: EVENTS does not fit the snapshot or TAPE.
        """
        await self.restore()
        await self.lead()

    async def restore(self) -> None:
        """Begin from the newest snapshot, and find its place in EVENTS.

        Raises:
            IntegrityError: EVENTS does not fit the snapshot.
        """
        await self._host.open()
        self._published = self.sequence
        await self._known.open(self.engine.outputs)

    async def lead(self) -> None:
        """Become the writer of EVENTS: what it holds is met again, what it lacks is written from now on.

        Raises:
            IntegrityError: EVENTS does not fit TAPE.
        """
        self._writer = await FrameWriter.open(self._events, writer=self._writer_id)
        self._known.through = self._writer.last_sequence
        events, tape = await read_tail(self._events), await read_tail(self._tape)
        if events.header is not None and events.header.input_ordinal > tape.next_ordinal:
            raise IntegrityError(
                f"EVENTS was decided on {events.header.input_ordinal} cells of {self._tape.name}, "
                f"which has {tape.next_ordinal}",
                subject=self._events.name,
                hint="the tape lost its end: restore both logs from one backup",
            )

    async def follow(self) -> None:
        """Fold TAPE as it comes and hold every decision against EVENTS as that comes, until cancelled.

        What is decided and not in EVENTS yet is held, up to a bound; beyond it the fold of TAPE waits.

        Raises:
            IntegrityError: A decision differs from the one that EVENTS holds.
        """
        if self._host.progress is None:
            await self.restore()
        tasks = [asyncio.create_task(self._follow_tape()), asyncio.create_task(self._follow_events())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow_tape(self) -> None:
        async for message in self._tape.read(self.sequence + 1, follow=True):
            async with self._moved:
                self._fold(message)
                self._save_if_met()
                self._moved.notify_all()
                await self._moved.wait_for(lambda: self._meeting.decided_cells == 0 or not self._meeting.is_full)

    async def _follow_events(self) -> None:
        async for message in self._known.follow():
            async with self._moved:
                self._known.take(message)
                self._save_if_met()
                self._moved.notify_all()
                await self._moved.wait_for(lambda: self._meeting.known_cells == 0 or not self._meeting.is_full)

    def _save_if_met(self) -> None:
        """Write a follower's snapshot where one is due and EVENTS, never behind one, holds all that was decided."""
        if self._snapshots is not None and self._since_snapshot >= self._snapshot_cells and self.is_met:
            self._host.save()
            self._since_snapshot = 0

    async def take_over(self, through: int, *, epoch: int = 0) -> None:
        """Fold TAPE through a sequence and have everything decided on it in EVENTS.

        The leader before may still have appends under way there. It decided the same, so that these are met like all
        else, and what it no longer writes is written here.

        Args:
            epoch: Under which the caller writes TAPE. Nothing is ever decided for another's: a frame of a later one
                means that somebody took over, and this engine stops before it folds that frame.

        Raises:
            As `run`.
        """
        if self._host.progress is None:
            await self.restore()
        self._retakes_left = TAKE_OVER_ATTEMPTS_MAX
        await self.lead()
        await self.run(through=through)
        await self.complete()
        self._retakes_left = 0
        self._epoch = epoch

    async def run(self, *, through: int | None = None, follow: bool = False) -> None:
        """Lead: fold TAPE through a sequence (None: what is there; `follow`: until cancelled) and write EVENTS.

        Raises:
            IntegrityError: A decision differs from the one that EVENTS holds.
            ConflictError: Another engine has taken over EVENTS, or another sequencer TAPE.
        """
        if self._writer is None:
            await self.open()
        try:
            await self._publish()
            async for message in self._tape.read(self.sequence + 1, through=through, follow=follow):
                header = self._fold(message)
                await self._publish()
                if self._on_progress:
                    self._on_progress(header.next_ordinal)
                if self._snapshots is not None and self._since_snapshot >= self._snapshot_cells:
                    await self.save()
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
    def ordinal(self) -> int:
        """The TAPE ordinal of the next cell to be folded."""
        progress = self._host.progress
        return progress.next_ordinal if progress else 0

    @property
    def recovered(self) -> int:
        """Cells that were decided here and found in EVENTS."""
        return self._meeting.met

    @property
    def held_cells(self) -> int:
        """Cells that were decided and not seen in EVENTS."""
        return self._meeting.decided_cells

    @property
    def is_met(self) -> bool:
        """Whether EVENTS was seen to hold everything decided."""
        return self._meeting.decided_cells == 0

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

    async def complete(self) -> None:
        """Have everything decided durable in EVENTS; nothing of an engine that halted in a frame."""
        while not self.engine.halted:
            await self._publish()
            await self._settle()
            if self.is_met:
                return

    async def save(self) -> None:
        """Write a snapshot, once everything decided so far is durable; none of an engine that halted in a frame."""
        if self.engine.halted:
            return
        await self.complete()
        self._host.save()
        self._since_snapshot = 0

    def _fold(self, message: Message) -> FrameHeader:
        """Fold one frame of TAPE and add what it led to."""
        if self._epoch and (epoch := read_header(message.payload).epoch) > self._epoch:
            raise ConflictError(
                f"another host took the tape over in epoch {epoch}",
                subject=self._tape.name,
                position=f"sequence {message.sequence}",
                hint=f"this host led in epoch {self._epoch}: it is fenced off and has stopped",
            )
        header, cells = self._host.fold(message)
        if self.beside is not None:
            self.beside(message, header, cells)
        self._meeting.decide(self.engine.take_outputs(), header.next_ordinal)
        self._since_snapshot += len(cells) + COMMAND_CELLS * int(np.count_nonzero(cells["kind"] == Kind.COMMAND))
        return header

    async def _settle(self) -> None:
        """Wait until what is in flight is durable; raises what its append raised."""
        while self._in_flight is not None:
            task = self._in_flight
            try:
                await asyncio.shield(task)
            except ConflictError:
                if not self._retakes_left or self._in_flight is not task:
                    raise
                self._retakes_left -= 1
                self._in_flight = None
                if self._sent is not None:
                    self._meeting.put_back(*self._sent)
                await self.lead()
                return
            if self._in_flight is task:
                self._in_flight = None

    async def _publish(self) -> None:
        """Send what was decided on its way; where this is cancelled, the next call goes on with it."""
        async with self._publishing:
            if not self._meeting.known_cells:
                await self._known.read()  # Also where nothing was decided: EVENTS may hold that something was.
            while not self.is_met:
                await self._settle()
                if await self._known.read():
                    continue
                assert self._writer is not None
                self._sent = self._meeting.take()
                outputs, input_ordinal = self._sent
                self._in_flight = asyncio.create_task(self._writer.append(outputs, input_ordinal=input_ordinal))
                self._in_flight.add_done_callback(
                    hear
                )  # Whoever settles is told; a host that ends before has its own reason


class _Known:
    """What EVENTS holds beyond the engine's own beginning, brought to the meeting as it is wanted."""

    def __init__(self, events: Log, meeting: Meeting) -> None:
        self.through = 0  # the sequence that is to be met at least
        self._events = events
        self._meeting = meeting
        self._extent: Extent | None = None
        self._progress: Progress | None = None
        self._skip_before = 0  # ordinals that the engine's beginning covers

    async def open(self, outputs: int) -> None:
        """Find the frame that holds output `outputs`.

        Raises:
            IntegrityError: EVENTS ends before it, or begins behind it.
        """
        extent = await self._events.extent()
        low, high = extent.first, extent.last + 1
        while low < high:  # the first frame that ends beyond `outputs`
            middle = (low + high) // 2
            async for message in self._events.read(middle, through=middle):
                if read_header(message.payload).next_ordinal > outputs:
                    high = middle
                else:
                    low = middle + 1
        if low > extent.last and (ends := (await read_tail(self._events)).next_ordinal) < outputs:
            raise IntegrityError(
                f"EVENTS ends at cell {ends}, behind the snapshot's {outputs}",
                subject=self._events.name,
                hint="restore EVENTS, or remove the engine's snapshot to decide everything anew",
            )
        async for message in self._events.read(low, through=min(low, extent.last)):
            first_ordinal = read_header(message.payload).first_ordinal
            if first_ordinal > outputs:
                raise IntegrityError(
                    f"EVENTS begins at cell {first_ordinal}, beyond cell {outputs} that is to be met again",
                    subject=self._events.name,
                    hint="it was trimmed beyond the engine's snapshot: restore the older frames",
                )
        self._extent, self.through = extent, extent.last
        self._skip_before = outputs
        self._progress = Progress(log_id=extent.log_id_at(low), sequence=low - 1, next_ordinal=-1)

    async def read(self) -> bool:
        """Bring at most KNOWN_FRAMES_MAX further frames to the meeting; False where all of them have been."""
        if self._progress is None or self._progress.sequence >= self.through:
            return False
        first = self._progress.sequence + 1
        through = min(first + KNOWN_FRAMES_MAX - 1, self.through)
        async for message in self._events.read(first, through=through):
            self.take(message)
        return True

    async def follow(self) -> AsyncIterator[Message]:
        """Every further message of EVENTS, as it comes; the caller takes it."""
        if self._progress is None:
            raise InvariantError("EVENTS is followed from a place", subject=self._events.name)
        async for message in self._events.read(self._progress.sequence + 1, follow=True):
            yield message

    def take(self, message: Message) -> None:
        """Bring one message of EVENTS to the meeting.

        Raises:
            IntegrityError: It holds another decision.
        """
        if self._progress is None or self._extent is None:
            raise InvariantError("EVENTS is met from a place", subject=self._events.name)
        header, cells = open_frame(self._events.name, message, self._extent, self._progress)
        self._progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
        fresh = cells[max(0, self._skip_before - header.first_ordinal) :]
        self._meeting.know(fresh, 0 if header.is_partial else header.input_ordinal)
