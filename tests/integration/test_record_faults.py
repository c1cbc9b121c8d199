"""A day is recorded while its tape's leader is asked to step down, then killed: nothing lost, twice or out of order."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import numpy as np
import pytest

from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.app.live import Logs, record
from tapehouse.app.proof import read_outputs
from tapehouse.bus import Cluster
from tapehouse.core import SystemClock
from tapehouse.engine import sequencer
from tapehouse.engine.sequencer import FEED_SOURCE
from tapehouse.feeds import GeneratedDay
from tapehouse.log import Log, MemoryLog, Progress, open_frame
from tapehouse.market import Cells
from tapehouse.strategies import maker
from tests.support.clusters import free_config

CELLS = 120_000
BATCH = 2_000  # small batches make many appends for the faults to fall among
TAPE = "faults"


def check(feed: Cells, tape: Cells) -> str:
    """What is wrong with a tape that should hold exactly the feed's cells in their order; empty where nothing is."""
    if len(tape) != len(feed):
        return f"{len(tape)} cells instead of {len(feed)}"
    differ = np.flatnonzero(tape != feed)
    return f"cell {int(differ[0])} differs" if len(differ) else ""


async def feed_cells_of(log: Log) -> Cells:
    """The feed's cells on a tape; sequences and ordinals are asserted on the way."""
    extent = await log.extent()
    progress = Progress(log_id=extent.log_id, sequence=extent.first - 1, next_ordinal=0)
    parts = []
    async for message in log.read(extent.first):
        header, cells = open_frame(log.name, message, extent, progress)
        progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
        parts.append(cells[cells["source"] == FEED_SOURCE])
    return np.concatenate(parts)


class SlowDay:
    """A generated day in small batches, each appended before the next: so that a fault finds an append under way."""

    def __init__(self) -> None:
        self._day = GeneratedDay(cells=CELLS, batch_cells=BATCH)
        self.name = self._day.name
        self.instruments = self._day.instruments
        self.cells_estimate = self._day.cells_estimate

    def batches(self):  # type: ignore[no-untyped-def]
        return self._day.batches()


async def recorded_in_memory() -> tuple[Cells, Cells, object]:
    logs = Logs(tape=MemoryLog("TAPE_x"), events=MemoryLog("EVENTS_x"))
    report = await record(SlowDay(), logs, strategy=maker(), clock=SystemClock())
    return await feed_cells_of(logs.tape), await read_outputs(logs.events), report.digests


async def leader_index(platform: Platform, cluster: Cluster) -> int:
    leader = ""
    while not leader:
        leader = await platform.admin.leader(f"TAPE_{TAPE}")
    return [node.name for node in cluster.state.nodes].index(leader)


@pytest.mark.timeout(180)
async def test_leader_faults_while_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer, "APPEND_CELLS", BATCH)
    feed, decisions, digests = await recorded_in_memory()
    faults: list[str] = []
    with Cluster(free_config(tmp_path / "cluster", nodes=3)) as cluster:
        async with open_platform(",".join(cluster.urls), home=tmp_path) as platform:
            logs = Logs(tape=await platform.tape(TAPE, create=True), events=await platform.events(TAPE, create=True))
            due = {CELLS // 4: "step down", CELLS * 6 // 10: "kill"}
            waiting: asyncio.Queue[str] = asyncio.Queue()

            def on_progress(taken: int) -> None:
                for at in [at for at in due if taken >= at]:
                    waiting.put_nowait(due.pop(at))

            async def harm() -> None:
                for _ in range(2):
                    fault = await waiting.get()
                    index = await leader_index(platform, cluster)
                    if fault == "step down":
                        await platform.admin.step_down(f"TAPE_{TAPE}")
                    else:
                        await asyncio.to_thread(cluster.kill_node, index, signal.SIGKILL)
                        await asyncio.to_thread(cluster.restart_node, index, wait=False)
                    faults.append(fault)

            harming = asyncio.create_task(harm())
            report = await record(SlowDay(), logs, strategy=maker(), clock=SystemClock(), on_progress=on_progress)
            await harming
            assert faults == ["step down", "kill"]
            assert check(feed, await feed_cells_of(logs.tape)) == ""
            events = await read_outputs(logs.events)
            assert len(events) == len(decisions)
            assert bool((events == decisions).all())
            assert report.digests == digests


async def test_the_checker_catches_what_it_must() -> None:
    feed = (await recorded_in_memory())[0]
    lost = np.concatenate([feed[:5_000], feed[6_000:]])
    twice = np.concatenate([feed[:6_000], feed[5_000:]])
    swapped = np.concatenate([feed[:5_000], feed[6_000:7_000], feed[5_000:6_000], feed[7_000:]])
    assert check(feed, feed) == ""
    assert all(check(feed, wrong) for wrong in (lost, twice, swapped))
