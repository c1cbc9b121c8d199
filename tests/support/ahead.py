"""Desks in `ahead` mode over logs in memory, with their rings in a directory of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tapehouse.app.ahead_desk import AheadDesk, AheadOptions, ahead_desk
from tapehouse.app.live import Logs
from tapehouse.app.sidecars import SidecarTask
from tapehouse.core import SystemClock
from tapehouse.engine import Engine, Strategy
from tapehouse.market import Cells
from tests.support.bench import LOG_ID, cells_of, fold

CLOCK = SystemClock()
POLL_NS = 1_000_000
PATIENCE_NS = 60_000_000_000


def options(directory: Path, **more: Any) -> AheadOptions:
    """Small rings in a directory of the test's own."""
    return AheadOptions(rings=directory, journal_cells=1 << 14, **more)


def sidecar(logs: Logs, directory: Path) -> SidecarTask:
    """A sidecar inside this process."""
    return SidecarTask(logs.tape, clock=CLOCK, spill=directory / "spill", rings=directory)


@asynccontextmanager
async def desk(logs: Logs, directory: Path, strategy: Strategy, **more: Any) -> AsyncIterator[AheadDesk]:
    """A desk that runs."""
    async with ahead_desk(
        "day",
        logs,
        strategy=strategy,
        sidecar=sidecar(logs, directory),
        clock=CLOCK,
        options=options(directory, **more),
    ) as running:
        running.start()
        yield running


async def until(condition: Callable[[], bool], tasks: list[asyncio.Task[None]] | None = None) -> None:
    """Wait for a condition; what a task raises meanwhile is raised."""
    deadline = CLOCK.monotonic_ns() + PATIENCE_NS
    while not condition():
        for task in tasks or []:
            if task.done():
                task.result()
        assert CLOCK.monotonic_ns() < deadline, "it did not happen"
        await CLOCK.sleep_until(CLOCK.monotonic_ns() + POLL_NS)


async def refolded(logs: Logs, make: Callable[[], Strategy]) -> tuple[Engine, Cells]:
    """An engine that folds the whole TAPE as `gated` mode and replay do, and what it decides."""
    engine = Engine(make())
    return engine, fold(engine, await cells_of(logs.tape), [])


__all__ = ["CLOCK", "LOG_ID", "desk", "options", "refolded", "sidecar", "until"]
