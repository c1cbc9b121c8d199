"""A desk in `ahead` mode and the kills that it must survive: nothing lost of what its feed published, nothing doubled.

Each kill of the host is followed by another host on the same tape. `TAPEHOUSE_SEED` sets the seed of a campaign; it is
printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tapehouse.bus import Cluster
from tapehouse.engine.journal import TAKEN_CELLS, TAKEN_HEAD, TAKEN_SOURCE
from tapehouse.log import Log
from tapehouse.market import whole_records
from tapehouse.ring import Ring
from tests.support.ahead_day import FEED, FEED_SOURCE, AheadDay, Checked
from tests.support.clusters import free_config, unique

PAUSE_S = 2.0  # between two kills, at most; the time within it is drawn
SEED_DEFAULT = 20_261_121


def seeded() -> random.Random:
    """The campaign's chance; its seed is printed."""
    seed = int(os.environ.get("TAPEHOUSE_SEED") or SEED_DEFAULT)
    print(f"TAPEHOUSE_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three brokers that a test may harm."""
    with Cluster(free_config(tmp_path / "cluster", nodes=3)) as cluster:
        yield cluster


@asynccontextmanager
async def running(place: Path, rings: Path, urls: list[str]) -> AsyncIterator[AheadDay]:
    """A day with its feed and its host."""
    day = AheadDay(place, rings, urls, unique("campaign"))
    try:
        day.begin()
        day.start_feed()
        day.start_host()
        yield day
    finally:
        day.close()


class Campaign:
    """Kills of one kind of victim, with commands between them."""

    def __init__(self, day: AheadDay, cluster: Cluster, rng: random.Random) -> None:
        self._day, self._cluster, self._rng = day, cluster, rng

    async def run(self, victims: list[str]) -> Checked:
        """Kill each, then end the day in order and hold everything against what it must be."""
        day = self._day
        async with day.platform() as platform:
            commands = await platform.commands(day.tape)
            for victim in victims:
                await self._send(commands)
                await asyncio.sleep(self._rng.random() * PAUSE_S)
                await getattr(self, f"_kill_{victim}")()
            await self._send(commands)
        day.end_feed()
        await day.taken()
        assert day.stop_host() == ""
        return await day.check()

    async def _send(self, commands: Log) -> None:
        for _ in range(self._rng.randrange(1, 4)):
            await self._day.send(commands)

    async def _kill_host(self) -> None:
        self._day.kill_host()
        await asyncio.to_thread(self._day.start_host)

    async def _kill_sidecar(self) -> None:
        pid = self._day.sidecar_pid()
        if pid:
            os.kill(pid, signal.SIGKILL)

    async def _kill_both(self) -> None:
        """Host and sidecar at once: what is in the journal waits for the next host."""
        await self._kill_sidecar()
        await self._kill_host()

    async def _kill_feed(self) -> None:
        self._day.end_feed(signal.SIGKILL)
        await asyncio.to_thread(self._day.start_feed)

    async def _kill_broker(self) -> None:
        """Mostly the one that leads TAPE."""
        index = self._rng.randrange(len(self._cluster.state.nodes))
        if self._rng.random() < 0.7:
            async with self._day.platform() as platform:
                leader = await platform.admin.leader(f"TAPE_{self._day.tape}")
            names = [node.name for node in self._cluster.state.nodes]
            index = names.index(leader) if leader in names else index
        await asyncio.to_thread(self._cluster.kill_node, index, signal.SIGKILL)
        await asyncio.sleep(self._rng.random() * PAUSE_S)
        await asyncio.to_thread(self._cluster.restart_node, index, wait=False)
        await asyncio.to_thread(self._cluster.wait_ready, 60)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("victim", ["host", "sidecar", "both", "feed", "broker"])
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.chaos)])
async def test_kills(tmp_path: Path, ring_directory: Path, cluster: Cluster, victim: str, kills: int) -> None:
    async with running(tmp_path, ring_directory, cluster.urls) as day:
        found = await Campaign(day, cluster, seeded()).run([victim] * kills)
        print(f"{kills} kills of {victim}: {found}")
        assert found.feed_cells > 0
        assert found.commands > kills


@pytest.mark.timeout(1500)
@pytest.mark.chaos
async def test_kills_of_everything(tmp_path: Path, ring_directory: Path, cluster: Cluster) -> None:
    rng = seeded()
    victims = ["host", "sidecar", "both", "feed", "broker"] * 4
    rng.shuffle(victims)
    async with running(tmp_path, ring_directory, cluster.urls) as day:
        found = await Campaign(day, cluster, rng).run(victims)
        print(f"{len(victims)} kills of everything: {found}")


# The moment between publishing to the journal and releasing the feed, made by hand.


def leave_burst_untold(day: AheadDay) -> int:
    """What a host that is killed there leaves: a burst of the feed in the journal, noted, and not released."""
    with (
        Ring.produce(day.journal, directory=day.rings) as journal,
        Ring.consume(FEED, directory=day.rings) as feed,
    ):
        cells = feed.readable().copy()
        cells = cells[: whole_records(cells, 200)]
        tape_ids = {1: 1, 2: 2, 3: 3}
        cells["instrument"] = [tape_ids[number] if number else 0 for number in cells["instrument"].tolist()]
        cells["source"] = FEED_SOURCE
        journal.set_word(TAKEN_HEAD, journal.head + len(cells))
        journal.set_word(TAKEN_SOURCE, FEED_SOURCE)
        journal.set_word(TAKEN_CELLS, feed.tail + len(cells))
        journal.append(cells)
        return len(cells)
