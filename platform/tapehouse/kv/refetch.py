"""Values that a view evicted, read again from its shard's log.

Whoever wants an entry of the same frame shares one read; so many frames are read at once, and so many wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tapehouse.core.errors import BusUnavailableError, BusyError, DecodeError, GapError, IntegrityError, MissingError
from tapehouse.core.metrics import Metrics
from tapehouse.core.tasks import cancel_all, hear
from tapehouse.kv.entries import Op, entry_at, open_entry_frame
from tapehouse.kv.view import Evicted
from tapehouse.log.port import Log

READS_MAX = 16  # frames that are read at once
FRAMES_WAITING_MAX = 4_096  # that are being read or wait for it; a frame is at most 1 MiB


@dataclass(slots=True)
class _Frame:
    count: int = 0
    body: bytes = b""


class LogValues:
    """What evicted values are, from the log.

    Args:
        log_id_at: The branch under which a sequence was written.
    """

    def __init__(self, log: Log, *, log_id_at: Callable[[int], bytes], metrics: Metrics) -> None:
        self._log = log
        self._log_id_at = log_id_at
        self._metrics = metrics
        self.frames_read = 0
        self._turns = asyncio.Semaphore(READS_MAX)
        self._reads: dict[int, tuple[asyncio.Task[None], _Frame]] = {}  # by sequence

    async def close(self) -> None:
        """Give up what is being read."""
        await cancel_all([task for task, _ in self._reads.values()])

    async def value(self, evicted: Evicted, key: bytes | None = None) -> bytes:
        """The value; where the key is known, it is compared.

        Raises:
            BusyError: FRAMES_WAITING_MAX frames wait already.
            GapError: The log was trimmed beyond it.
            DecodeError, IntegrityError: What stands there is not that value.
            BusUnavailableError: The broker stayed away.
        """
        read = self._reads.get(evicted.sequence)
        if read is None:
            if len(self._reads) >= FRAMES_WAITING_MAX:
                raise BusyError(f"{FRAMES_WAITING_MAX} frames of evicted values are being read", subject=self._log.name)
            frame = _Frame()
            task = asyncio.create_task(self._read(evicted.sequence, frame))
            task.add_done_callback(hear)  # Who asked may have left.
            read = self._reads[evicted.sequence] = task, frame
        task, frame = read
        await asyncio.wait({task})  # It goes on where who asked leaves: others may wait for it too.
        if task.cancelled():
            raise BusUnavailableError("the KV was closed", subject=self._log.name)
        task.result()
        try:
            entry = entry_at(frame.body, evicted.index) if evicted.index < frame.count else None
        except DecodeError:
            entry = None
        fits = entry is not None and entry.op in (Op.PUT, Op.COPY) and len(entry.value) == evicted.bytes
        if entry is None or not fits or (key is not None and entry.key != key):
            raise IntegrityError(
                f"entry {evicted.index} of the frame is not the value of {evicted.bytes} bytes that the view evicted",
                subject=self._log.name, position=f"sequence {evicted.sequence}",
                hint="the log is not the one that the view was folded from: put its snapshot aside and open it again",
            )  # fmt: skip
        return entry.value

    async def _read(self, sequence: int, frame: _Frame) -> None:
        try:
            async with self._turns:
                self.frames_read += 1
                self._metrics.add("kv_frames_read_again_total")
                payload = await self._payload(sequence)
            header, body = open_entry_frame(payload)
            if header.log_id != self._log_id_at(sequence):
                raise IntegrityError(
                    "an evicted value's frame is of another branch",
                    subject=self._log.name,
                    position=f"sequence {sequence}",
                )
            frame.count, frame.body = header.count, bytes(body)
        finally:
            del self._reads[sequence]

    async def _payload(self, sequence: int) -> bytes:
        try:
            async for message in self._log.read(sequence, through=sequence):
                if message.sequence == sequence:
                    return message.payload
        except GapError as error:
            raise GapError(
                "the log was trimmed, and with it a value that the view had evicted", subject=self._log.name,
                position=f"sequence {sequence}", hint="raise budget_bytes, and restore the log from its backup",
            ) from error  # fmt: skip
        raise MissingError(
            "the log does not reach to a value that the view has applied",
            subject=self._log.name,
            position=f"sequence {sequence}",
        )
