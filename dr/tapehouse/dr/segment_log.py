"""A backed-up log behind the `Log` port, for replay and for old ranges: read-only, straight from segments.

Segments ahead of the reader are fetched and verified while it works, a bounded number of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from tapehouse.core.errors import GapError, UsageError
from tapehouse.dr.ahead import iterate, run_ahead
from tapehouse.dr.manifest import LogEntry, Manifest, SegmentEntry
from tapehouse.dr.repository import Repository
from tapehouse.log.port import Extent, Message
from tapehouse.log.segment import Segment

SEGMENTS_AHEAD = 3  # being fetched, or waiting for the reader; each takes up to 64 MiB


class SegmentLog:
    """One log of one manifest."""

    def __init__(self, repository: Repository, entry: LogEntry, *, ahead: int = SEGMENTS_AHEAD) -> None:
        """Read with at most `ahead` segments fetched in advance."""
        self._repository = repository
        self._entry = entry
        self._ahead = ahead

    @classmethod
    def of(cls, repository: Repository, manifest: Manifest, name: str) -> SegmentLog:
        """A log by name; raises UsageError where the manifest has none of that name."""
        entry = manifest.log(name)
        if entry is None:
            raise UsageError(
                f"manifest {manifest.number} has no log {name}",
                hint=f"it has {', '.join(log.name for log in manifest.logs) or 'none'}",
            )
        return cls(repository, entry)

    @property
    def name(self) -> str:
        return self._entry.name

    async def extent(self) -> Extent:
        return self._entry.extent

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        raise UsageError("a backup takes no messages", subject=self.name, hint="restore it, then append")

    async def last(self) -> Message | None:
        if not self._entry.segments:
            return None
        segment = await self._repository.segment(self._entry, self._entry.segments[-1])
        return segment.messages[-1]

    async def read(
        self, first: int, *, through: int | None = None, follow: bool = False
    ) -> AsyncGenerator[Message, None]:
        if follow:
            raise UsageError("a backup does not grow", subject=self.name, hint="follow the live log")
        if first < self._entry.first:
            raise GapError(
                f"sequence {first} is older than the backup, which begins at {self._entry.first}", subject=self.name
            )
        end = self._entry.last if through is None else min(through, self._entry.last)
        wanted = [segment for segment in self._entry.segments if segment.last >= first and segment.first <= end]
        async with contextlib.aclosing(run_ahead(self._segment, iterate(wanted), width=self._ahead)) as segments:
            async for segment in segments:
                start = max(0, first - segment.header.first)
                for message in segment.messages[start : end - segment.header.first + 1]:
                    yield message

    async def trim(self, below: int) -> None:
        raise UsageError("a backup is trimmed by its own retention", subject=self.name)

    async def _segment(self, segment: SegmentEntry) -> Segment:
        return await self._repository.segment(self._entry, segment)
