"""Compile every kernel once, into the cache that all later processes load from.

A small day goes through everything that is compiled: feeds, frames, books, engine with both kinds of strategies,
pricing, projections. The two halves run in processes of their own, because Numba compiles on one core.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys

from tapehouse.core.errors import MissingError
from tapehouse.core.kernel import cache_directory

HALVES = ("engine", "readers")
CELLS = 4_000
MARKER = "warm"


def is_warm() -> bool:
    """Whether this version's kernels have been compiled on this machine."""
    return (cache_directory() / MARKER).exists()


def warm() -> None:
    """Compile what is missing.

    Raises:
        MissingError: A half failed; its last words are in the message.
    """
    command = [sys.executable, "-m", "tapehouse.app.warm"]
    halves = [subprocess.Popen([*command, half], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for half in HALVES]
    try:
        failures = [child.communicate()[1] if child.wait() else b"" for child in halves]
    finally:
        for child in halves:
            child.kill()
    for failure in filter(None, failures):
        words = failure.decode(errors="replace").strip().splitlines()
        raise MissingError("a kernel did not compile", hint=words[-1] if words else "no output")
    (cache_directory() / MARKER).touch()


async def _engine() -> None:
    from tapehouse.app.live import Logs, record
    from tapehouse.core import SystemClock
    from tapehouse.feeds import GeneratedDay
    from tapehouse.log import MemoryLog, MemorySnapshots
    from tapehouse.strategies import maker, watcher

    for strategy in (maker(), watcher()):
        logs = Logs(tape=MemoryLog("TAPE_warm"), events=MemoryLog("EVENTS_warm"))
        feed = GeneratedDay(cells=CELLS)
        await record(feed, logs, strategy=strategy, clock=SystemClock(), snapshots=MemorySnapshots())


async def _readers() -> None:
    from tapehouse.app.live import Logs, record
    from tapehouse.app.projector import Projector
    from tapehouse.core import SystemClock
    from tapehouse.feeds import GeneratedDay, lobster_book, lobster_check
    from tapehouse.log import MemoryLog, MemorySnapshots

    logs = Logs(tape=MemoryLog("TAPE_warm"), events=MemoryLog("EVENTS_warm"))
    await record(GeneratedDay(cells=CELLS), logs, strategy=None, clock=SystemClock())
    projector = Projector(logs.tape, logs.events, MemorySnapshots())
    await projector.open()
    await projector.run()
    projector.save()
    del lobster_book, lobster_check


if __name__ == "__main__":
    asyncio.run(_engine() if sys.argv[1:] == ["engine"] else _readers())
