"""A feed recorded onto a tape of a platform, by names as users give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tapehouse.app.bootstrap import open_platform
from tapehouse.app.live import Logs, RecordReport, record
from tapehouse.app.strategies import load_strategy
from tapehouse.core import SystemClock
from tapehouse.core.ids import slug
from tapehouse.feeds.port import Feed


async def record_source(
    feed: Feed,
    *,
    tape: str | None,
    strategy: str | None,
    parameters: str | None = None,
    guard: bool = True,
    nats: str | None = None,
    home: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[str, RecordReport]:
    """Record a feed; returns the tape's name and what was done.

    Raises:
        DataError: The feed is bad (what came before the fault is on the tape), or the tape holds another feed.
        ConflictError: Another sequencer took the tape over.
    """
    name = tape or slug(feed.name)
    loaded = load_strategy(strategy, parameters) if strategy else None
    async with open_platform(nats, home=home) as platform:
        logs = Logs(
            tape=await platform.tape(name, create=True),
            events=await platform.events(name, create=True),
            commands=await platform.commands(name, create=True),
        )
        report = await record(
            feed,
            logs,
            strategy=loaded,
            clock=SystemClock(),
            guard=guard,
            snapshots=await platform.snapshots(name),
            on_progress=on_progress,
        )
    return name, report
