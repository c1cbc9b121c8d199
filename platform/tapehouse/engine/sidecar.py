"""The sidecar: drains a journal into TAPE, and while the broker is away into a spill; or any ring into files.

Cells leave the ring in order, as frames of the journal's writer and epoch, as large as what is there. Ring space is
given back only for cells that are durable elsewhere: acknowledged by TAPE, or written to the spill by its sync policy.
What TAPE has acknowledged is told to the producer in the journal's words. So the sidecar keeps nothing that matters:
killed at any moment, it goes on from the ring, the spill and the end of TAPE.

Each frame says in its header which CMDS sequence TAPE has consumed with exactly its own cells, so none is PARTIAL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

from tapehouse.core.check import check
from tapehouse.core.clock import Clock
from tapehouse.core.errors import BusUnavailableError, ConflictError, IntegrityError, UsageError
from tapehouse.core.metrics import Metrics
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.engine.drain_lag import DrainReport, LagWatch
from tapehouse.engine.frame_files import FrameFiles
from tapehouse.engine.journal import JOURNAL, Journal
from tapehouse.engine.sequencer import commands_through
from tapehouse.engine.spill import Spill
from tapehouse.engine.tape_end import TapeEnd, cut_frame
from tapehouse.log import Codec, FrameHeader, Log, encode_frame
from tapehouse.log.writer import ENCODE_ASIDE_CELLS, FRAME_CELLS_MAX
from tapehouse.market import CELLS_MAX, Cells, whole_records
from tapehouse.ring import RingConsumer

BATCH_CELLS = 8 * FRAME_CELLS_MAX  # taken in one go: several frames, whose encoding overlaps their acknowledgements
NAP_NS_MIN, NAP_NS_MAX = 200_000, 1_000_000
OUTAGE_NS = NS_PER_SECOND  # without an acknowledgement for so long, cells go to the spill
SPILL_INTERVAL_NS = NS_PER_SECOND // 20  # between two frames to the spill, unless one is full
SHORT_FRAMES = 4  # a spill of no more is caught up with before new cells are taken
STOP_PATIENCE_NS = 3 * NS_PER_SECOND  # for the append in flight, when told to stop


class Ended(StrEnum):
    """Why a sidecar ended."""

    CLOSED = "closed"  # the producer closed the ring; everything is durable
    PRODUCER_DIED = "producer died"  # everything that it published is durable
    STOPPED = "stopped"  # told to; the rest is in the ring and the spill


class Sidecar:
    """One life of the one consumer of a ring."""

    def __init__(
        self,
        consumer: RingConsumer,
        *,
        clock: Clock,
        log: Log | None = None,
        spill: Spill | None = None,
        files: FrameFiles | None = None,
        codec: Codec = Codec.COLUMNS_ZSTD,
        frame_cells: int = FRAME_CELLS_MAX,
        outage_ns: int = OUTAGE_NS,
        stay: bool = False,
        metrics: Metrics | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Take over where the life before ended.

        Args:
            consumer: Of a ring whose words make it a journal (`log` given) or a logged ring (only `files`).
            log: TAPE; with it goes a `spill`.
            files: Frames also go here; without `log` only here.
            outage_ns: After so long without an acknowledgement the broker counts as away.
            stay: Go on when the producer has died: another one will attach.
            on_progress: Called with the number of cells drained by this life.

        Raises:
            ConflictError: An earlier life was fenced off.
            IntegrityError: Spill and ring do not fit together.
        """
        if (log is None) == (spill is not None) or (log is None and files is None):
            raise UsageError("a sidecar drains into a log with a spill, or into files")
        self._ring = consumer
        self._journal = Journal(consumer)
        self._identity = self._journal.identity()
        self._base = self._identity.base_ordinal
        self._clock = clock
        self.metrics = metrics or Metrics()
        self._tape = TapeEnd(log, self._identity, clock=clock, metrics=self.metrics) if log is not None else None
        self._spill = spill
        self._files = files
        self._codec = codec
        self._frame_cells = min(frame_cells, FRAME_CELLS_MAX)
        self._outage_ns = outage_ns
        self._stay = stay
        self._on_progress = on_progress
        self._stopping = False
        self._commands = self._journal.commands_at(consumer.tail)
        self._progress_ns = clock.monotonic_ns()
        self._spilled_ns = self._progress_ns
        self._lag = LagWatch(clock, self.metrics)
        if self._journal.is_fenced:
            raise self._fenced("an earlier life of the sidecar was fenced off")
        self._align_with_spill()

    def stop(self) -> None:
        """Have `run` end soon: the append in flight is finished, the rest stays in the ring and the spill."""
        self._stopping = True

    async def run(self) -> DrainReport:
        """Drain until the producer has ended and everything is durable, or until stopped.

        Raises:
            ConflictError: Another writer has taken TAPE over; the producer is told, and what is left stays.
            IntegrityError: Acknowledged cells are gone, from TAPE or from the spill.
        """
        start_ns = self._clock.monotonic_ns()
        nap_ns = NAP_NS_MIN
        ended = Ended.STOPPED
        try:
            while not self._stopping:
                if await self._step():
                    nap_ns = NAP_NS_MIN
                    continue
                over = self._why_over()
                if over is not None:
                    ended = over
                    break
                self._sync_if_due()
                await self._clock.sleep_until(self._clock.monotonic_ns() + nap_ns)
                nap_ns = min(2 * nap_ns, NAP_NS_MAX)
        except ConflictError as error:
            self._journal.fence_off()
            raise self._fenced(error.message) from error
        finally:
            self._note()
        if self._files is not None:
            self._files.sync()
        return self._lag.report(
            ended=ended,
            left_cells=self._left_cells,
            spilled_cells=self._spilled_cells,
            dropped=self._ring.dropped,
            next_ordinal=self._base + self._ring.tail,
            duration_ns=self._clock.monotonic_ns() - start_ns,
        )

    async def _step(self) -> bool:
        """Drain what is there; whether there was anything."""
        if self._spill is not None and not self._spill.is_empty:
            await self._catch_up_beside()
            return True
        cells = self._ring.readable(max(BATCH_CELLS, CELLS_MAX))
        self._lag.saw(self._ring.head)
        if not len(cells):
            return False
        await self._drain(cells)
        return True

    def _why_over(self) -> Ended | None:
        """Whether nothing can come any more; asked after nothing was there."""
        is_alive = self._ring.producer_alive()  # First: what it published before it died is seen after.
        if self._ring.closed:
            return Ended.CLOSED
        has_begun = self._journal.purpose == JOURNAL or self._ring.head > 0
        if is_alive or self._stay or self._ring.lag or not has_begun:
            return None
        return Ended.PRODUCER_DIED

    # Live: from the ring to where it is durable.

    async def _drain(self, cells: Cells) -> None:
        """Make a batch durable, frame by frame; the next is encoded while one is under way."""
        upcoming: asyncio.Task[tuple[bytes, FrameHeader]] | None = None
        try:
            frame, header = await self._encode(cells, self._base + self._ring.tail, self._commands)
            start = header.count
            while True:
                if start < len(cells):
                    following = self._encode(cells[start:], header.next_ordinal, header.input_ordinal)
                    upcoming = asyncio.create_task(following)
                if not await self._make_durable(frame, header) or self._stopping or upcoming is None:
                    return
                frame, header = await upcoming
                start += header.count
                upcoming = None
        finally:
            if upcoming is not None:
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)

    async def _encode(self, cells: Cells, first_ordinal: int, commands: int) -> tuple[bytes, FrameHeader]:
        """The next frame: as many whole records as one holds."""
        piece = cells[: whole_records(cells, self._frame_cells)]
        header = FrameHeader(
            log_id=self._identity.log_id,
            writer=self._identity.writer,
            epoch=self._identity.epoch,
            first_ordinal=first_ordinal,
            codec=self._codec,
            count=len(piece),
            input_ordinal=commands_through(piece, commands),
        )
        if len(piece) > ENCODE_ASIDE_CELLS:
            return await asyncio.to_thread(encode_frame, piece, header), header
        return encode_frame(piece, header), header

    async def _make_durable(self, frame: bytes, header: FrameHeader) -> bool:
        """Place a frame from the ring and give its space back; False where the broker is away and it was spilled."""
        if self._tape is None:
            await self._write_files(frame, header)
            self._release(frame, header)
            self._lag.committed(self._ring.tail)
            return True
        if not await self._place_in_time(self._tape, frame, header):
            if not self._stopping:
                self.metrics.add("drain_outages_total")
                self._progress_ns = self._clock.monotonic_ns() - self._outage_ns  # Stalled as of now.
                self._spill_frame(frame, header)
            return False
        await self._write_files(frame, header)
        self._commit()
        self._release(frame, header)
        return True

    async def _place_in_time(self, tape: TapeEnd, frame: bytes, header: FrameHeader) -> bool:
        until_ns = self._clock.monotonic_ns() + self._outage_ns
        try:
            # Twice: an answer that hangs must not hold the ring, one that is refused is tried again for a while.
            async with asyncio.timeout(self._outage_ns / NS_PER_SECOND):
                await tape.place(frame, header, until_ns=until_ns, stopping=self._stops)
        except (TimeoutError, BusUnavailableError):
            return False
        return True

    def _stops(self) -> bool:
        return self._stopping

    async def _write_files(self, frame: bytes, header: FrameHeader) -> None:
        """Write to the files what they lack of a frame."""
        if self._files is None:
            return
        there = self._files.next_ordinal
        if there is not None and there >= header.next_ordinal:
            return
        frame, header = cut_frame(frame, header, header.first_ordinal if there is None else there)
        if header.count > ENCODE_ASIDE_CELLS:
            await asyncio.to_thread(self._files.write, frame, header)
        else:
            self._files.write(frame, header)

    def _release(self, frame: bytes, header: FrameHeader) -> None:
        tail = self._ring.tail
        index = header.next_ordinal - self._base
        self._commands = header.input_ordinal
        self._journal.mark_commands(index, self._commands, tail=tail)
        self._ring.release(index - tail)
        self._lag.drained(header.count, len(frame))
        self._note()
        if self._on_progress is not None:
            self._on_progress(self._lag.cells)

    def _commit(self) -> None:
        """Tell the producer what TAPE has."""
        assert self._tape is not None
        index = self._tape.next_ordinal - self._base
        if not 0 <= index <= self._ring.head:
            raise IntegrityError(
                f"the tape has {index} cells of a journal that published {self._ring.head}",
                subject=str(self._ring.path),
                hint="another journal was made under the same writer and epoch",
            )
        if index > self._journal.committed:
            self._journal.commit(index, self._tape.sequence)
        self._lag.committed(index)

    # Behind: the spill fills at one end and empties at the other.

    def _align_with_spill(self) -> None:
        """Give back ring space of cells that the spill has: the life before was killed between the two."""
        if self._spill is None or self._spill.is_empty:
            return
        extra = self._spill.next_ordinal - self._base - self._ring.tail
        if not 0 <= extra <= self._ring.lag:
            raise IntegrityError(
                f"the spill ends at ordinal {self._spill.next_ordinal}, the journal goes on from "
                f"{self._base + self._ring.tail} to {self._base + self._ring.head}",
                subject=str(self._spill.directory),
                hint="the disk lost a part of the spill, or it is another journal's",
            )
        if extra:
            cells = self._ring.readable(max(extra, CELLS_MAX))[:extra]
            index = self._ring.tail + extra
            self._commands = commands_through(cells, self._commands)
            self._journal.mark_commands(index, self._commands, tail=self._ring.tail)
            self._ring.release(extra)

    def _spill_frame(self, frame: bytes, header: FrameHeader) -> bool:
        """Write a frame to the spill and give its ring space back; False where the spill is full."""
        assert self._spill is not None
        if not self._spill.has_room(len(frame)):
            self.metrics.add("drain_spill_full_total")
            return False
        self._spill.append(frame, header)
        self._spilled_ns = self._clock.monotonic_ns()
        self.metrics.add("drain_spilled_cells_total", header.count)
        self._journal.note_spilled(self._spilled_cells)
        self._release(frame, header)
        return True

    async def _catch_up_beside(self) -> None:
        """Bring the spill to TAPE; cells that come meanwhile go behind it, until it is short."""
        catching = asyncio.create_task(self._catch_up())
        try:
            while not catching.done() and not self._stopping:
                if not self._is_short() and await self._spill_more():
                    continue
                self._sync_if_due()
                await self._nap_beside(catching)
            if self._stopping and not catching.done():
                await asyncio.wait({catching}, timeout=STOP_PATIENCE_NS / NS_PER_SECOND)
            if catching.done():
                catching.result()
        finally:
            catching.cancel()
            await asyncio.gather(catching, return_exceptions=True)

    async def _nap_beside(self, catching: asyncio.Task[None]) -> None:
        nap = asyncio.ensure_future(self._clock.sleep_until(self._clock.monotonic_ns() + NAP_NS_MAX))
        try:
            await asyncio.wait({nap, catching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            nap.cancel()

    def _is_short(self) -> bool:
        """Whether the spill is about to be empty: then new cells wait in the ring for their turn in TAPE."""
        assert self._spill is not None
        stalled = self._clock.monotonic_ns() - self._progress_ns >= self._outage_ns
        return self._spill.frames <= SHORT_FRAMES and not stalled

    async def _spill_more(self) -> bool:
        """Write one frame to the spill where one is due: a full one, or any after SPILL_INTERVAL_NS."""
        cells = self._ring.readable(max(self._frame_cells, CELLS_MAX))
        self._lag.saw(self._ring.head)
        full = min(self._frame_cells, self._ring.cells // 2)
        is_due = self._clock.monotonic_ns() - self._spilled_ns >= SPILL_INTERVAL_NS
        if not len(cells) or (len(cells) < full and not is_due):
            return False
        return self._spill_frame(*await self._encode(cells, self._base + self._ring.tail, self._commands))

    async def _catch_up(self) -> None:
        """Append the spill's frames in order until none is left, for as long as it takes."""
        assert self._spill is not None
        assert self._tape is not None
        while not self._spill.is_empty and not self._stopping:
            frame, header = self._spill.first()
            try:
                await self._tape.place(frame, header, stopping=self._stops)
            except BusUnavailableError:
                check(self._stopping, "an append was given up while nobody wanted to stop")
                return
            await self._write_files(frame, header)
            self._commit()  # Before the frame is forgotten: nobody would find out any more that it is there.
            self._spill.pop()
            self._progress_ns = self._clock.monotonic_ns()
            self._journal.note_spilled(self._spilled_cells)

    def _sync_if_due(self) -> None:
        if self._files is not None:
            self._files.sync_if_due()
        if self._spill is not None:
            self._spill.sync_if_due()

    # What is left, and who is told.

    @property
    def _spilled_cells(self) -> int:
        """Cells that only the spill holds."""
        if self._spill is None or self._spill.is_empty:
            return 0
        return self._spill.next_ordinal - max(self._spill.first_ordinal, self._base + self._journal.committed)

    @property
    def _left_cells(self) -> int:
        """Cells that are not where they belong yet."""
        return self._ring.head - (self._journal.committed if self._tape is not None else self._ring.tail)

    def _note(self) -> None:
        """Bring the numbers that others see up to date."""
        self._lag.note(self._left_cells)
        self._journal.note_lag(int(self.metrics.get("drain_lag_cells_max")), self._lag.lag_ns_max)
        self.metrics.set("drain_spilled_cells", self._spilled_cells)
        self.metrics.set("drain_ring_dropped_records", self._ring.dropped)

    def _fenced(self, message: str) -> ConflictError:
        first = self._base + self._journal.committed
        where = [f"{self._ring.lag} in {self._ring.path}"]
        if self._spill is not None and not self._spill.is_empty:
            where.append(f"{self._spilled_cells} in {self._spill.directory}")
        return ConflictError(
            f"{message}; {self._left_cells} cells from ordinal {first} on are not on the tape: {', '.join(where)}",
            subject=str(self._ring.path),
            hint="this journal can not be finished: the producer must start anew, with the new end of the tape",
        )


__all__ = ["OUTAGE_NS", "Ended", "Sidecar"]
