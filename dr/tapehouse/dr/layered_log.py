"""One log out of two: what the live log has forgotten is read from its backup, the rest from the live log itself.

After a trim, or a restore of the tail alone, readers go on as if nothing had been cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from tapehouse.core.errors import GapError, IntegrityError
from tapehouse.dr.segment_log import SegmentLog
from tapehouse.log.port import Extent, Log, Message


class LayeredLog:
    """A live log with its backup below it; appends and trims go to the live log."""

    def __init__(self, live: Log, older: SegmentLog) -> None:
        self._live = live
        self._older = older

    @property
    def name(self) -> str:
        return self._live.name

    async def extent(self) -> Extent:
        """From the backup's first message to the live log's last.

        Raises:
            IntegrityError: The backup is of another log, or of a branch that the live log left behind.
            GapError: Messages between the two are in neither.
        """
        live, older = await self._live.extent(), await self._older.extent()
        if live.first <= older.first:
            return live
        seam = live.first - 1
        if older.last < seam:
            raise GapError(
                f"messages {older.last + 1} to {seam} are neither in the log nor in its backup",
                subject=self.name,
                hint="read a newer manifest",
            )
        if older.log_id_at(seam) != live.log_id_at(seam) or older.branches[0].log_id != live.branches[0].log_id:
            raise IntegrityError("the backup is of another branch of this log", subject=self.name)
        return Extent(first=older.first, last=live.last, branches=live.branches)

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        return await self._live.append(payload, expected_last=expected_last, subject=subject, headers=headers)

    async def last(self) -> Message | None:
        message = await self._live.last()
        if message is not None:
            return message
        extent = await self.extent()  # The live log is empty; what precedes it is in the backup.
        if extent.last >= extent.first:
            async for older in self._older.read(extent.last, through=extent.last):
                return older
        return None

    async def read(
        self, first: int, *, through: int | None = None, follow: bool = False
    ) -> AsyncGenerator[Message, None]:
        await self.extent()  # Refuses what does not fit together.
        live_first = (await self._live.extent()).first
        if first < live_first:
            seam = live_first - 1 if through is None else min(through, live_first - 1)
            async with contextlib.aclosing(self._older.read(first, through=seam)) as messages:
                async for message in messages:
                    yield message
            first = seam + 1
        if through is None or first <= through:
            async for message in self._live.read(first, through=through, follow=follow):
                yield message

    async def trim(self, below: int) -> None:
        await self._live.trim(below)
