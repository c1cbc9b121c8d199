"""The single writer of a log of frames: ordinals, fence, and what to do when no acknowledgement comes.

One append is in flight at a time: appends sent ahead of their acknowledgements get reordered or lost when the broker's
leader changes. The encoding of an append's next frame overlaps the wait. After an ambiguous append the last frame is
read: our own bytes mean that it is there, the frame before it means that it is not and is sent again under the same
fence, anything else means that another writer has taken over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tapehouse.core.check import check
from tapehouse.core.errors import AmbiguousAppendError, BusUnavailableError, ConflictError, IntegrityError
from tapehouse.core.metrics import Metrics
from tapehouse.log.frame import Codec, FrameFlag, FrameHeader, encode_frame, read_header
from tapehouse.log.port import Extent, Log
from tapehouse.market.cell import Cells
from tapehouse.market.records import record_starts, whole_records

APPEND_ATTEMPTS_MAX = 40  # of one frame; with the broker's own time-outs this outlasts an election many times over
OUTAGE_ATTEMPTS_MAX = 10_000_000  # likewise, of a writer that outlasts any outage: a month and more
RETRY_PAUSE_S = 0.25
FRAME_CELLS_MAX = 32_768
ENCODE_ASIDE_CELLS = 4096  # larger frames are encoded in a thread, so that acknowledgements are not kept waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """Where a log of frames ends."""

    sequence: int
    header: FrameHeader | None  # of the last frame; None in an empty log

    @property
    def next_ordinal(self) -> int:
        """The ordinal that the next cell will have."""
        return self.header.next_ordinal if self.header else 0


async def read_tail(log: Log, extent: Extent | None = None) -> Tail:
    """Find the end of a log of frames; raises DecodeError where its last message is no frame.

    Args:
        extent: The log's, where it was just asked for.
    """
    extent = extent or await log.extent()
    message = await log.last() if extent.last >= extent.first else None
    if message is None:
        return Tail(sequence=extent.first - 1, header=None)
    return Tail(sequence=message.sequence, header=read_header(message.payload))


class FrameWriter:
    """Appends frames of cells to a single-writer log, each fenced on the one before it."""

    def __init__(
        self,
        log: Log,
        *,
        log_id: bytes,
        writer: int,
        epoch: int,
        tail: Tail,
        codec: Codec = Codec.COLUMNS_ZSTD,
        frame_cells: int = FRAME_CELLS_MAX,
        metrics: Metrics | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._log = log
        self._log_id = log_id
        self._writer = writer
        self._epoch = epoch
        self._codec = codec
        self._frame_cells = min(frame_cells, FRAME_CELLS_MAX)
        self._pause = pause
        self.last_sequence = tail.sequence
        self.next_ordinal = tail.next_ordinal
        self.bytes_written = 0
        self.attempts_max = APPEND_ATTEMPTS_MAX
        self.metrics = metrics or Metrics()

    @classmethod
    async def open(
        cls, log: Log, *, writer: int, codec: Codec = Codec.COLUMNS_ZSTD, frame_cells: int = FRAME_CELLS_MAX
    ) -> FrameWriter:
        """Become the writer of a log: the epoch is one more than its last frame's.

        The first append is the take-over: it carries the fence, so of two openers one gets ConflictError.
        """
        extent = await log.extent()
        tail = await read_tail(log, extent)
        epoch = tail.header.epoch + 1 if tail.header else 1
        return cls(
            log, log_id=extent.log_id, writer=writer, epoch=epoch, tail=tail, codec=codec, frame_cells=frame_cells
        )

    @property
    def epoch(self) -> int:
        """The epoch that this writer's frames carry."""
        return self._epoch

    async def append(self, cells: Cells, *, input_ordinal: int = 0, output_index: int = 0) -> int:
        """Append whole records, as frames of at most `frame_cells` cells; return the last sequence.

        Args:
            input_ordinal, output_index: How far the writer's own input is consumed once *all* these cells are there;
                frames before the last carry the same with the flag PARTIAL, so a reader knows that it is not yet so.

        Raises:
            ConflictError: Another writer has taken over; nothing more may be written.
            BusUnavailableError: No frame went through within `attempts_max` attempts.
            DecodeError: The cells are no whole records; nothing was written.
        """
        record_starts(cells)
        slices = []
        start = 0
        while start < len(cells):
            end = start + whole_records(cells[start:], self._frame_cells)
            slices.append(cells[start:end])
            start = end
        ordinal = self.next_ordinal
        upcoming: asyncio.Task[bytes] | None = None
        try:
            for at, piece in enumerate(slices):
                left = len(slices) - at - 1
                header = self._header(ordinal, input_ordinal, output_index, partial=left > 0)
                frame = await upcoming if upcoming else await _encode(piece, header)
                ordinal += len(piece)
                if left:  # Encode the next frame while this one's acknowledgement is under way.
                    following = self._header(ordinal, input_ordinal, output_index, partial=left > 1)
                    upcoming = asyncio.create_task(_encode(slices[at + 1], following))
                await self._append_frame(frame, len(piece))
        except BaseException:
            if upcoming is not None:
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)
            raise
        return self.last_sequence

    def _header(self, first_ordinal: int, input_ordinal: int, output_index: int, *, partial: bool) -> FrameHeader:
        return FrameHeader(
            flags=FrameFlag.PARTIAL if partial else 0,
            log_id=self._log_id,
            writer=self._writer,
            epoch=self._epoch,
            first_ordinal=first_ordinal,
            codec=self._codec,
            input_ordinal=input_ordinal,
            output_index=output_index,
        )

    async def _append_frame(self, frame: bytes, cells: int) -> None:
        sequence = await self._append_fenced(frame)
        check(sequence == self.last_sequence + 1, f"the log answered {sequence} to a fence at {self.last_sequence}")
        self.last_sequence = sequence
        self.next_ordinal += cells
        self.bytes_written += len(frame)
        self.metrics.add("frames_written_total")
        self.metrics.add("cells_written_total", cells)

    async def _append_fenced(self, frame: bytes) -> int:
        reason = ""
        for attempt in range(self.attempts_max):
            try:
                return await self._log.append(frame, expected_last=self.last_sequence)
            except (AmbiguousAppendError, ConflictError) as error:
                # A conflict may be our own earlier attempt that did arrive: look before believing it.
                found = await self._find(frame, error)
                if found is not None:
                    self.metrics.add("appends_resolved_total")
                    return found
                reason = error.message
            except BusUnavailableError as error:
                self.metrics.add("appends_refused_total")
                reason = error.message
            if attempt + 1 < self.attempts_max:
                await self._pause(RETRY_PAUSE_S)
        raise BusUnavailableError(
            f"no frame went through in {self.attempts_max} attempts, the last: {reason}",
            subject=self._log.name,
            position=f"after sequence {self.last_sequence}",
            hint="is a majority of the brokers up, with room on their disks? see tapehouse status",
        )

    async def _find(self, frame: bytes, error: AmbiguousAppendError | ConflictError) -> int | None:
        """The sequence of our frame if it is the log's last; None if the log still ends before it."""
        try:
            message = await self._log.last()
        except BusUnavailableError:
            return None
        last = message.sequence if message else self.last_sequence
        if last == self.last_sequence:
            return None  # Not there, or a broker that has not caught up: the same fence decides again.
        if last < self.last_sequence:
            raise IntegrityError(
                f"the log ends at {last}, behind the acknowledged {self.last_sequence}",
                subject=self._log.name,
                hint="acknowledged data is gone: stop and restore",
            ) from error
        if message is not None and last == self.last_sequence + 1 and message.payload == frame:
            return last
        raise ConflictError(
            f"another writer appended sequence {last}",
            subject=self._log.name,
            hint="this writer is fenced off and must stop",
        ) from error


async def _encode(cells: Cells, header: FrameHeader) -> bytes:
    if len(cells) > ENCODE_ASIDE_CELLS:
        return await asyncio.to_thread(encode_frame, cells, header)
    return encode_frame(cells, header)
