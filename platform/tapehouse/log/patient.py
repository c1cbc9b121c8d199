"""A log whose reader outlasts any outage: what goes on while the brokers are away follows one of these."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from tapehouse.core.errors import BusUnavailableError
from tapehouse.log.port import Extent, Log, Message

PAUSE_S = 0.5  # between two attempts of a reader that follows; it ends with its caller


class PatientLog:
    """Any log; see `port.Log` for the contract. Only following is patient: whoever asks for an answer still gets one.

    Args:
        pause: Waits between two attempts.
    """

    def __init__(self, log: Log, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._log = log
        self._pause = pause

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

    async def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        """Messages in order and without a hole; one who follows waits for as long as nobody answers."""
        following = first
        while True:
            try:
                async for message in self._log.read(following, through=through, follow=follow):
                    following = message.sequence + 1
                    yield message
            except BusUnavailableError:
                if not follow:
                    raise
                await self._pause(PAUSE_S)
            else:
                return

    async def trim(self, below: int) -> None:
        """As the log does."""
        await self._log.trim(below)
