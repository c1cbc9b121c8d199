"""A log whose reader outlasts any outage: what goes on while the brokers are away follows one of these."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from tapehouse.core.errors import BusUnavailableError
from tapehouse.log.port import Log, Message
from tapehouse.log.wrapped import WrappedLog

PAUSE_S = 0.5  # between two attempts of a reader that follows; it ends with its caller


class PatientLog(WrappedLog):
    """Any log; see `port.Log` for the contract. Only following is patient: whoever asks for an answer still gets one.

    Args:
        pause: Waits between two attempts.
    """

    def __init__(self, log: Log, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        super().__init__(log)
        self._pause = pause

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
