"""Days whose digests are pinned; as a program it prints those of the generated one, for a process of another CPU.

`python -m tests.support.golden_day`
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tapehouse.app.live import record
from tapehouse.core import VirtualClock
from tapehouse.feeds import GeneratedDay, LobsterFeed, SeededChain
from tapehouse.feeds.port import Feed
from tapehouse.strategies import maker
from tests.support.bench import NOW, new_logs

AAPL = "excerpt_AAPL_2012-06-21_34200000_57600000_{}_10.csv"


def generated() -> Feed:
    return GeneratedDay(seed=7, cells=20_000)


def lobster(market_data: Path) -> Feed:
    folder = market_data / "lobster"
    return SeededChain(LobsterFeed([folder / AAPL.format("message"), folder / AAPL.format("orderbook")]), seed=7)


async def digests_of(feed: Feed) -> dict[str, str | int]:
    """What the sample maker makes of a day."""
    report = await record(feed, new_logs(), strategy=maker(), clock=VirtualClock(NOW))
    assert report.digests is not None
    return {
        "cells": report.digests.cells,
        "decisions": report.digests.decisions,
        "decision": report.digests.decision.hex(),
        "state": report.digests.state.hex(),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(digests_of(generated()))))
