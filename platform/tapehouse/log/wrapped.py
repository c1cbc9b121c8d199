"""A log around another: what those that change a part of a log's ways build on."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tapehouse.log.port import Extent, Log, Message


class WrappedLog:
    """Every call goes to the log within; see `port.Log` for the contract."""

    def __init__(self, log: Log) -> None:
        self._log = log

    @property
    def name(self) -> str:
        """The log's own."""
        return self._log.name

    async def extent(self) -> Extent:
        """What the log holds now."""
        return await self._log.extent()

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        """As the log does."""
        return await self._log.append(payload, expected_last=expected_last, subject=subject, headers=headers)

    async def last(self) -> Message | None:
        """The last message."""
        return await self._log.last()

    def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        """Messages in order and without a hole."""
        return self._log.read(first, through=through, follow=follow)

    async def trim(self, below: int) -> None:
        """As the log does."""
        await self._log.trim(below)
