"""Producer, sidecar and broker killed again and again: nothing that was published to the journal is lost or doubled.

`TAPEHOUSE_SEED` sets the seed of the campaign; it is printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

from tapehouse.bus import Cluster
from tests.support.clusters import free_config
from tests.support.journal_day import JournalDay

VICTIMS = ("producer", "sidecar", "broker")
PAUSE_S = 1.2  # between two kills, at most; the time within it is drawn


class Campaign:
    """A day of kills, each victim as often as the others, in an order drawn by chance."""

    def __init__(self, day: JournalDay, cluster: Cluster, rng: random.Random, kills: int) -> None:
        self._day = day
        self._cluster = cluster
        self._rng = rng
        self._order = [victim for victim in VICTIMS for _ in range(kills)]
        rng.shuffle(self._order)
        self.spilled_cells_max = 0

    async def run(self) -> None:
        for number, victim in enumerate(self._order):
            await asyncio.sleep(self._rng.random() * PAUSE_S)
            if victim == "producer":
                self._day.kill(self._day.producer)
                self._day.start_producer()
            elif victim == "sidecar":
                self._day.kill(self._day.sidecar)
                await asyncio.sleep(self._rng.random() * 0.3)
                self._day.start_sidecar("--stay")
            else:
                await self._strike_broker(number)
        await self._day.until("committed", self._day.status()["head"])

    async def _strike_broker(self, number: int) -> None:
        """Kill one, and start it again after a time; sometimes the sidecar dies meanwhile."""
        index = self._rng.randrange(len(self._cluster.state.nodes))
        await asyncio.to_thread(self._cluster.kill_node, index, signal.SIGKILL)
        await asyncio.sleep(0.5 + self._rng.random() * 2)
        if number % 2:
            self._day.kill(self._day.sidecar)
            self._day.start_sidecar("--stay")
        await asyncio.sleep(self._rng.random() * 2)
        if len(self._cluster.state.nodes) == 1:  # However slow the machine: what is made meanwhile must go to the disk.
            await self._day.until("spilled", 0)
        self.spilled_cells_max = max(self.spilled_cells_max, self._day.status()["spilled"])
        await asyncio.to_thread(self._cluster.restart_node, index, wait=False)
        await asyncio.to_thread(self._cluster.wait_ready, 60)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("nodes", "kills"),
    [(1, 2), pytest.param(1, 20, marks=pytest.mark.chaos), pytest.param(3, 20, marks=pytest.mark.chaos)],
)
async def test_kills_of_producer_sidecar_and_broker(tmp_path: Path, nodes: int, kills: int) -> None:
    seed = int(os.environ.get("TAPEHOUSE_SEED") or 20_261_121)
    print(f"TAPEHOUSE_SEED={seed}")
    with Cluster(free_config(tmp_path / "cluster", nodes=nodes)) as cluster:
        day = JournalDay(tmp_path, cluster.urls, "campaign")
        try:
            await day.begin()
            day.start_producer()
            day.start_sidecar("--stay")
            await day.until("committed", 1000)
            campaign = Campaign(day, cluster, random.Random(seed), kills)
            await campaign.run()
            day.end_producer()
            told = day.end_sidecar()
            cells = await day.check()
            spilled = campaign.spilled_cells_max
            print(f"{3 * kills} kills, {cells:,} cells, {spilled:,} seen in the spill, last life: {told}")
            assert told["ended"] == "closed"
            assert told["left_cells"] == 0
            assert nodes > 1 or spilled > 0, "no broker was away for long enough to spill"
        finally:
            day.close()
