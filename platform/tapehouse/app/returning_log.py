"""A tape whose broker may be away when it is opened, and for longer than a connection is kept up.

Whoever has something better to do than to wait gets BusUnavailableError at once, and asks again; the connection is made
anew beside it, and what was seen of the tape before is not forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from tapehouse.bus import Bus, JetStreamLog, StreamSpec, connect
from tapehouse.core.errors import BusUnavailableError
from tapehouse.log import Extent, Message

CONNECT_PAUSE_S = 0.25


class ReturningLog:
    """A JetStream log by the target of its broker; see `log.port.Log` for the contract."""

    def __init__(self, spec: StreamSpec, *, nats: str | None, directory: Path) -> None:
        """Nothing is connected before the first call.

        Args:
            nats, directory: As `bus.connect` takes them.
        """
        self._spec = spec
        self._nats = nats
        self._directory = directory
        self._bus: Bus | None = None
        self._log: JetStreamLog | None = None
        self._connecting: asyncio.Task[Bus] | None = None

    @property
    def name(self) -> str:
        return self._spec.name

    async def extent(self) -> Extent:
        return await (await self._reach()).extent()

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        log = await self._reach()
        return await log.append(payload, expected_last=expected_last, subject=subject, headers=headers)

    async def last(self) -> Message | None:
        return await (await self._reach()).last()

    async def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        log = await self._reach()
        async for message in log.read(first, through=through, follow=follow):
            yield message

    async def trim(self, below: int) -> None:
        await (await self._reach()).trim(below)

    async def close(self) -> None:
        """Close the connection, or end the attempt to make one."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._bus is not None:
            await self._bus.close()

    async def _reach(self) -> JetStreamLog:
        """The log over a connection that stands or may come back; its own task connects, so none is left half made."""
        if self._log is not None and self._bus is not None and not self._bus.is_closed:
            return self._log
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
        bus = await asyncio.shield(self._connecting)
        if self._bus is not bus:
            seen = self._log.seen_last if self._log is not None else 0
            self._bus = bus
            self._log = JetStreamLog(bus, self._spec.name, subjects=self._spec.subjects, seen_last=seen)
            self._connecting = None
        assert self._log is not None
        return self._log

    async def _connect(self) -> Bus:
        while True:
            try:
                return await connect(self._nats, directory=self._directory)
            except BusUnavailableError:
                await asyncio.sleep(CONNECT_PAUSE_S)
