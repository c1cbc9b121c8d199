"""Days recorded under random faults of the brokers, again and again: nothing lost, nothing twice, order kept.

`TAPEHOUSE_SEED` names the first campaign, `TAPEHOUSE_CAMPAIGNS` how many follow; each seed is printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.bus import Cluster
from tapehouse.core import BusUnavailableError
from tests.support.clusters import free_config
from tests.support.faulty_day import FaultyDay, Recorded, assert_whole, record_in_memory, record_on, settled

pytestmark = pytest.mark.chaos

CELLS = 160_000
FIRST_SEED = int(os.environ.get("TAPEHOUSE_SEED", "1"))
CAMPAIGNS = int(os.environ.get("TAPEHOUSE_CAMPAIGNS", "8"))
FAULTS_MAX = 6
PAUSE_S = 4.0
WAIT_S = 60
TAPE = "campaign"


class Harm:
    """What may be done to a cluster of three, one server at a time."""

    def __init__(self, cluster: Cluster, platform: Platform, rng: random.Random) -> None:
        self._cluster = cluster
        self._platform = platform
        self._rng = rng
        self.done: list[str] = []

    async def strike(self, struck: Callable[[], None]) -> None:
        """One fault, drawn by chance, healed before the next may come."""
        stream = self._rng.choice([f"TAPE_{TAPE}", f"EVENTS_{TAPE}"])
        kinds: list[Callable[[str, int, Callable[[], None]], Awaitable[None]]] = [
            self._step_down,
            self._kill,
            self._pause,
        ]
        kind = self._rng.choice(kinds)
        leader = await self._leader(stream)
        others = [index for index in range(3) if index != leader]
        victim = leader if self._rng.random() < 0.7 else self._rng.choice(others)
        self.done.append(f"{kind.__name__.strip('_')} {stream} n{victim}")
        await kind(stream, victim, struck)

        async def healed() -> bool:
            status = await self._platform.admin.status(stream)
            return bool(status.leader) and not status.lagging

        await settled(healed, f"{stream} does not heal")  # Two servers down are a lost majority: another promise.

    async def _leader(self, stream: str) -> int:
        leader = await settled(lambda: self._platform.admin.leader(stream), f"nobody leads {stream}")
        return [node.name for node in self._cluster.state.nodes].index(leader)

    async def _step_down(self, stream: str, victim: int, struck: Callable[[], None]) -> None:
        struck()
        try:
            await self._platform.admin.step_down(stream)
        except BusUnavailableError:
            self.done[-1] += " (unanswered)"  # It stepped down before it could say so.

    async def _kill(self, stream: str, victim: int, struck: Callable[[], None]) -> None:
        struck()
        await asyncio.to_thread(self._cluster.kill_node, victim, signal.SIGKILL)
        await asyncio.sleep(self._rng.random() * PAUSE_S)
        await asyncio.to_thread(self._cluster.restart_node, victim, wait=False)
        await asyncio.to_thread(self._cluster.wait_ready, WAIT_S)

    async def _pause(self, stream: str, victim: int, struck: Callable[[], None]) -> None:
        struck()
        await asyncio.to_thread(self._cluster.kill_node, victim, signal.SIGSTOP)
        await asyncio.sleep(self._rng.random() * PAUSE_S)
        await asyncio.to_thread(self._cluster.kill_node, victim, signal.SIGCONT)


@pytest.fixture(scope="module")
def faultless() -> Recorded:
    return asyncio.run(record_in_memory(CELLS))


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + CAMPAIGNS))
async def test_a_day_under_random_faults(seed: int, tmp_path: Path, faultless: Recorded) -> None:
    print(f"TAPEHOUSE_SEED={seed}")
    rng = random.Random(seed)
    with Cluster(free_config(tmp_path / "cluster", nodes=3)) as cluster:
        async with open_platform(",".join(cluster.urls), home=tmp_path) as platform:
            harm = Harm(cluster, platform, rng)
            places = sorted(rng.sample(range(2_000, CELLS - 10_000), rng.randint(2, FAULTS_MAX)))
            day = FaultyDay(CELLS, dict.fromkeys(places, harm.strike))
            found = await record_on(platform, TAPE, day)
            print(harm.done)
            assert found.met == places
            assert_whole(day, found, faultless)
