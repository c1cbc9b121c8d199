"""A platform of logs in memory, with a live desk on them: what a client talks to, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tapehouse.app.live import Logs, serve
from tapehouse.core import SystemClock
from tapehouse.core.errors import MissingError
from tapehouse.log import Extent, Log, MemoryLog, MemorySnapshots, SnapshotStore
from tapehouse.log.snaps import MemorySnaps, Snaps
from tapehouse.strategies.maker import maker
from tests.support.desk_day import make_day


class MemoryPlatform:
    """One tape of that name, and no other."""

    bus = None

    def __init__(self, name: str, tape: MemoryLog, events: MemoryLog) -> None:
        self._name = name
        self.logs = {"tape": tape, "events": events, "commands": MemoryLog(f"CMDS_{name}")}
        self.store = MemorySnapshots()
        self.small: MemorySnaps | None = None

    async def tape(self, name: str) -> Log:
        return self._log("tape", name)

    async def events(self, name: str) -> Log:
        return self._log("events", name)

    async def commands(self, name: str) -> Log:
        return self._log("commands", name)

    def timings(self, name: str, extent: Extent) -> None:
        return None

    async def snaps(self) -> Snaps | None:
        return self.small

    async def snapshots(self, name: str) -> SnapshotStore:
        return self.store

    def _log(self, kind: str, name: str) -> MemoryLog:
        if name != self._name:
            raise MissingError("no such stream", subject=name)
        return self.logs[kind]


async def make_platform(name: str = "day", *, records: int = 300) -> MemoryPlatform:
    """A platform that holds a recorded day, into which nobody has sent commands yet."""
    day = await make_day(seed=5, records=records, commands=False)
    return MemoryPlatform(name, day.tape, day.events)


@asynccontextmanager
async def desk_running(platform: MemoryPlatform) -> AsyncIterator[None]:
    """A live desk on the platform's logs, as `tapehouse host` runs it."""
    ready = asyncio.Event()
    logs = Logs(tape=platform.logs["tape"], events=platform.logs["events"], commands=platform.logs["commands"])
    task = asyncio.create_task(serve(logs, strategy=maker(interval_ms=20), clock=SystemClock(), on_ready=ready.set))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield
    finally:
        for ending in (waiting, task):
            ending.cancel()
            with suppress(asyncio.CancelledError):
                await ending
