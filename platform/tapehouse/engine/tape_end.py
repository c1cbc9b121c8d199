"""The end of TAPE as the sidecar sees it: frames of one writer and epoch, placed there in order, each cell once.

Every append is fenced on the last sequence, and one is in flight. What became of an append is never guessed: where no
acknowledgement came the end of TAPE is looked at, and its last frame says how many of the journal's cells are there.
That may be more than this life of the sidecar has sent: an append of a life that was killed can arrive late. Its cells
are the journal's own, so they count; a frame that overlaps them loses its beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tapehouse.core.check import check
from tapehouse.core.clock import Clock
from tapehouse.core.errors import AmbiguousAppendError, BusUnavailableError, ConflictError, IntegrityError
from tapehouse.core.metrics import Metrics
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.engine.journal import JournalIdentity
from tapehouse.log import FrameHeader, Log, decode_frame, encode_frame, read_header, read_tail

RETRY_PAUSE_NS = NS_PER_SECOND // 10
CONFLICTS_MAX = 100  # refused by a fence that the end of TAPE agrees with: brokers that disagree for longer are broken


def cut_frame(frame: bytes, header: FrameHeader, first_ordinal: int) -> tuple[bytes, FrameHeader]:
    """The part of a frame from an ordinal on, as a frame of the same writer; the frame itself where that is all."""
    if first_ordinal <= header.first_ordinal:
        return frame, header
    _, cells = decode_frame(frame)
    rest = encode_frame(cells[first_ordinal - header.first_ordinal :], replace(header, first_ordinal=first_ordinal))
    return rest, read_header(rest)


class TapeEnd:
    """Where TAPE ends; `sequence` and `next_ordinal` are what was last acknowledged or seen."""

    def __init__(self, log: Log, identity: JournalIdentity, *, clock: Clock, metrics: Metrics) -> None:
        self._log = log
        self._identity = identity
        self._clock = clock
        self._metrics = metrics
        self._is_known = False
        self._began = False  # a frame of this journal is there
        self.sequence = 0
        self.next_ordinal = identity.base_ordinal

    async def look(self) -> None:
        """Learn where TAPE ends.

        Raises:
            ConflictError: Another writer's frame is last.
            IntegrityError: TAPE is another log, or acknowledged cells are gone.
            BusUnavailableError: The broker does not answer.
        """
        tail = await read_tail(self._log)
        header, identity = tail.header, self._identity
        if header is not None and header.log_id != identity.log_id:
            await self._require_same_log()
        if tail.next_ordinal < self.next_ordinal or tail.sequence < self.sequence:
            raise IntegrityError(
                f"it ends at ordinal {tail.next_ordinal}, behind the acknowledged {self.next_ordinal}",
                subject=self._log.name,
                hint="acknowledged data is gone: stop and restore",
            )
        is_ours = header is not None and (header.writer, header.epoch) == (identity.writer, identity.epoch)
        is_base = not self._began and tail.next_ordinal == identity.base_ordinal
        if not is_ours and not (is_base and (header is None or header.epoch < identity.epoch)):
            raise ConflictError(
                f"another writer has appended sequence {tail.sequence}",
                subject=self._log.name,
                position=f"ordinal {self.next_ordinal}",
                hint="this journal is fenced off",
            )
        if header is None:
            await self._require_same_log()
        self._began = self._began or is_ours
        self.sequence, self.next_ordinal = tail.sequence, tail.next_ordinal
        self._is_known = True

    async def _require_same_log(self) -> None:
        extent = await self._log.extent()
        if extent.log_id != self._identity.log_id:
            raise IntegrityError(
                "it is another log or branch than the journal's",
                subject=self._log.name,
                hint="the journal's cells belong to the log that it was made for",
            )

    async def place(
        self, frame: bytes, header: FrameHeader, *, until_ns: int | None = None, stopping: Callable[[], bool] = bool
    ) -> None:
        """Return when every cell of a frame is in TAPE.

        Args:
            until_ns: The monotonic time after which no further attempt is made; None to try for as long as it takes.
            stopping: Asked between attempts; True ends them.

        Raises:
            ConflictError: Another writer has taken over; nothing more may be written.
            BusUnavailableError: It was not acknowledged, in time or before it was to stop. It may be there, or come.
            IntegrityError: Cells before the frame's are missing in TAPE.
        """
        conflicts = 0
        while True:
            try:
                if not self._is_known:
                    await self.look()
                if self.next_ordinal >= header.next_ordinal:
                    return
                self._require_no_gap(header)
                frame, header = cut_frame(frame, header, self.next_ordinal)
                self._is_known = False  # Until the answer is here, and for ever where this is cancelled.
                await self._append(frame, header)
                return
            except BusUnavailableError as error:
                refused: BusUnavailableError | AmbiguousAppendError = error
                self._metrics.add("drain_appends_refused_total")
            except AmbiguousAppendError as error:
                refused = error
                self._metrics.add("drain_appends_ambiguous_total")
            except _FenceRefusedError as error:
                conflicts += 1
                if conflicts >= CONFLICTS_MAX:
                    raise error.conflict from error
                refused = AmbiguousAppendError(error.conflict.message)
                if conflicts == 1:
                    continue  # Most likely our own earlier attempt: look at once.
            if stopping() or (until_ns is not None and self._clock.monotonic_ns() >= until_ns):
                raise BusUnavailableError(
                    f"no acknowledgement: {refused.message}", subject=self._log.name, hint=refused.hint
                ) from refused
            await self._clock.sleep_until(self._clock.monotonic_ns() + RETRY_PAUSE_NS)

    async def _append(self, frame: bytes, header: FrameHeader) -> None:
        try:
            sequence = await self._log.append(frame, expected_last=self.sequence)
        except ConflictError as error:
            raise _FenceRefusedError(error) from error
        check(sequence == self.sequence + 1, f"the log answered {sequence} to a fence at {self.sequence}")
        self.sequence, self.next_ordinal = sequence, header.next_ordinal
        self._is_known = self._began = True
        self._metrics.add("drain_appends_total")
        self._metrics.add("drain_tape_bytes_total", len(frame))

    def _require_no_gap(self, header: FrameHeader) -> None:
        if self.next_ordinal < header.first_ordinal:
            raise IntegrityError(
                f"it ends at ordinal {self.next_ordinal}; the next frame begins at {header.first_ordinal}",
                subject=self._log.name,
                hint="cells that were durable are gone: is the spill where it was? else restore",
            )


class _FenceRefusedError(Exception):
    """An append met another last sequence than it expected; whose that is, only a look tells."""

    def __init__(self, conflict: ConflictError) -> None:
        super().__init__(conflict.message)
        self.conflict = conflict
