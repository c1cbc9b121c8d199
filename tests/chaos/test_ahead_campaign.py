"""A desk in `ahead` mode and the kills that it must survive: nothing lost of what its feed published, nothing doubled.

Each kill of the host is followed by another host on the same tape. `TAPEHOUSE_SEED` sets the seed of a campaign; it is
printed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from tapehouse.bus import Cluster
from tapehouse.engine.frame_files import read_frames
from tapehouse.engine.journal import TAKEN_CELLS, TAKEN_HEAD, TAKEN_SOURCE
from tapehouse.log import Log
from tapehouse.market import whole_records
from tapehouse.ring import Ring, list_rings
from tapehouse.ring.place import ring_path
from tests.support.ahead_day import DAY_CELLS, FEED, FEED_SOURCE, AheadDay, Checked, contiguous_cells, tape_ids
from tests.support.cli import Shell
from tests.support.clusters import free_config, unique

RATE = 2_000  # cells a second, so that the day outlasts a campaign
OUTAGE_S = {"outage": 5.0, "long outage": 150.0}  # a connection is given up after 120 s where it may be
VICTIMS = ["host", "sidecar", "both", "feed", "broker"]
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
async def running(place: Path, rings: Path, urls: list[str], *, rate: int = 5_000) -> AsyncIterator[AheadDay]:
    """A day with its feed and its host."""
    day = AheadDay(place, rings, urls, unique("campaign"), rate=rate)
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
            await day.answered(platform)
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
        await self._day.until(self._day.sidecars, "no sidecar comes")
        for pid in self._day.sidecars():  # By their command lines: a ring's pid may be that of the one before.
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
@pytest.mark.chaos
@pytest.mark.parametrize("victim", VICTIMS)
async def test_kills_of_one(tmp_path: Path, ring_directory: Path, cluster: Cluster, victim: str) -> None:
    await campaign(tmp_path, ring_directory, cluster, seeded(), [victim] * 20)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("each", [1, pytest.param(4, marks=pytest.mark.chaos)])
async def test_kills_of_everything(tmp_path: Path, ring_directory: Path, cluster: Cluster, each: int) -> None:
    rng = seeded()
    victims = VICTIMS * each
    rng.shuffle(victims)
    await campaign(tmp_path, ring_directory, cluster, rng, victims)


async def campaign(place: Path, rings: Path, cluster: Cluster, rng: random.Random, victims: list[str]) -> None:
    """Kill them one after the other; nothing may be lost or doubled."""
    async with running(place, rings, cluster.urls, rate=RATE) as day:
        found = await Campaign(day, cluster, rng).run(victims)
        print(f"{len(victims)} kills of {', '.join(sorted(set(victims)))}: {found}")
        assert 0 < found.feed_cells < 0.99 * DAY_CELLS, "the day was over before the campaign"
        assert found.commands > len(victims)


# What the checker must find, and what a host does with what another left.


async def leave_burst_untold(day: AheadDay) -> None:
    """What a host killed between publishing to its journal and releasing the feed leaves, made by hand."""
    async with day.platform() as platform:
        taped = await contiguous_cells(await platform.tape(day.tape))
    table = tape_ids(taped)
    with (
        Ring.produce(day.journal, directory=day.rings) as journal,
        Ring.consume(FEED, directory=day.rings) as feed,
    ):
        cells = feed.readable(4096).copy()
        cells = cells[: whole_records(cells, 200)]
        cells["instrument"], cells["source"] = table[cells["instrument"]], FEED_SOURCE
        journal.set_word(TAKEN_HEAD, journal.head + len(cells))
        journal.set_word(TAKEN_SOURCE, FEED_SOURCE)
        journal.set_word(TAKEN_CELLS, feed.tail + len(cells))
        journal.append(cells)


@pytest.mark.parametrize("told", [True, False])
async def test_a_burst_that_the_feed_was_not_told_of_comes_once(
    told: bool, tmp_path: Path, ring_directory: Path, cluster1: Cluster
) -> None:
    """And where nobody looks at the journal's words, the checker finds it twice."""
    async with running(tmp_path, ring_directory, cluster1.urls) as day:
        await day.until(lambda: day.committed() > 5_000, "nothing reaches the tape")
        day.kill_host()
        await day.until(lambda: not day.sidecars(), "the sidecar does not end")
        await day.until(lambda: day.feed_lag() > 1_000, "the feed does not go on")
        await leave_burst_untold(day)
        if not told:
            with Ring.produce(day.journal, directory=day.rings) as journal:
                journal.set_word(TAKEN_HEAD, 0)
        await asyncio.to_thread(day.start_host)
        day.end_feed()
        await day.taken()
        day.stop_host()
        if told:
            await day.check()
        else:
            with pytest.raises(AssertionError, match=r"0 are lost and [1-9]\d* are doubled"):
                await day.check()


async def test_a_journal_that_is_lost_with_its_machine_costs_what_was_not_drained(
    tmp_path: Path, ring_directory: Path, cluster1: Cluster
) -> None:
    async with running(tmp_path, ring_directory, cluster1.urls) as day:
        await day.until(lambda: day.committed() > 5_000, "nothing reaches the tape")
        sidecar = day.sidecar_pid()
        os.kill(sidecar, signal.SIGSTOP)
        before = day.published
        await day.until(lambda: day.published > before + 5_000, "the feed does not go on")
        day.kill_host()
        os.kill(sidecar, signal.SIGKILL)
        await day.until(lambda: not day.sidecars(), "the sidecar does not end")
        ring_path(day.journal, ring_directory).unlink()
        await asyncio.to_thread(day.start_host)
        day.end_feed()
        await day.taken()
        day.stop_host()
        with pytest.raises(AssertionError, match=r"[1-9]\d* are lost and 0 are doubled"):
            await day.check()


async def test_a_host_that_was_paused_past_a_take_over_stops(
    tmp_path: Path, ring_directory: Path, cluster: Cluster
) -> None:
    """The other host is on another machine: what the first one still had is on no tape, and is kept in files."""
    elsewhere = tmp_path / "elsewhere"
    other = Shell(tmp_path / "other", TAPEHOUSE_SHM=str(elsewhere))
    async with running(tmp_path, ring_directory, cluster.urls) as day:
        await day.until(lambda: day.committed() > 5_000, "nothing reaches the tape")
        paused = day.host
        assert paused is not None
        paused.send_signal(signal.SIGSTOP)
        successor = await asyncio.to_thread(day.start_host, shell=other, feed=False)
        await day.until(lambda: day.feed_lag() > 2_000, "the feed does not go on")
        paused.send_signal(signal.SIGCONT)
        said = await asyncio.to_thread(day.ended, paused, 1)
        assert "fenced off" in said
        assert len(said.splitlines()) == 1
        async with day.platform() as platform:
            await day.send(await platform.commands(day.tape))

        # The first machine's next host says what to do with what is left, and does the work once that is done.
        await asyncio.to_thread(day.stop_host)
        refused = await asyncio.to_thread(day.start_host, wait=False)
        said = await asyncio.to_thread(day.ended, refused, 1)
        assert f"tapehouse drain {day.journal} --to DIR" in said
        kept = await asyncio.to_thread(day.shell.json, "drain", day.journal, "--to", tmp_path / "kept")
        await asyncio.to_thread(day.start_host)
        day.end_feed()
        await day.taken()
        day.stop_host()
        cells = np.concatenate([cells for _, cells in read_frames(tmp_path / "kept")])
        cells = cells[cells["source"] == FEED_SOURCE]
        assert 0 < len(cells) <= kept["cells"]
        found = await day.check(kept=cells)
        assert (found.epochs, found.commands) == (3, 1)
        assert successor.returncode == 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("harm", ["election", "outage", pytest.param("long outage", marks=pytest.mark.chaos)])
async def test_the_desk_goes_on_without_its_brokers(
    harm: str, tmp_path: Path, ring_directory: Path, cluster: Cluster
) -> None:
    """The leader of TAPE is killed, or the majority is away: decisions leave all the while, and nothing is lost."""
    day = AheadDay(tmp_path, ring_directory, cluster.urls, unique("outage"))
    try:
        day.begin()
        Ring.create("orders", directory=ring_directory)
        day.start_feed()
        day.start_host("--orders", "orders")
        async with day.platform() as platform:
            await day.send(await platform.commands(day.tape))
            await day.until(lambda: day.committed() > 5_000, "nothing reaches the tape")
            names = [node.name for node in cluster.state.nodes]
            leader = names.index(await platform.admin.leader(f"TAPE_{day.tape}") or names[0])
        victims = [leader] if harm == "election" else [leader, (leader + 1) % 3]
        for victim in victims:
            await asyncio.to_thread(cluster.kill_node, victim, signal.SIGKILL)
        with Ring.observe("orders", directory=ring_directory) as orders:
            before = day.committed(), orders.head, time.monotonic()
            if harm in OUTAGE_S:
                await asyncio.sleep(OUTAGE_S[harm])
                assert day.committed() == before[0], "without a majority nothing is acknowledged"
            else:
                await day.until(lambda: day.committed() > before[0] + 1_000, "no leader was elected")
            away, decided = time.monotonic() - before[2], orders.head - before[1]
            print(f"{harm}: {decided} cells of decisions in {away:.1f} s without the leader of TAPE")
            assert decided > 0
        for victim in victims:
            await asyncio.to_thread(cluster.restart_node, victim, wait=False)
        await asyncio.to_thread(cluster.wait_ready, 60)
        head = day.head()
        await day.until(lambda: day.committed() > head, "the tape does not catch up")
        async with day.platform() as platform:
            await day.answered(platform)
        day.end_feed()
        await day.taken()
        assert await asyncio.to_thread(day.stop_host) == ""
        print(await day.check())
        async with day.platform() as platform:
            events = await contiguous_cells(await platform.events(day.tape))
        with Ring.consume("orders", directory=ring_directory) as sent:
            assert sent.readable().tobytes() == events.tobytes()
    finally:
        day.close()


@pytest.mark.parametrize("lives", [3, pytest.param(9, marks=pytest.mark.chaos)])
async def test_a_host_that_comes_and_goes(lives: int, tmp_path: Path, ring_directory: Path, cluster1: Cluster) -> None:
    """Stopped and killed in turn."""
    async with running(tmp_path, ring_directory, cluster1.urls) as day:
        for number in range(lives - 1):
            if number % 2:
                day.kill_host()
            else:
                await asyncio.to_thread(day.stop_host)
                assert list_rings(ring_directory) == [FEED]
            await asyncio.to_thread(day.start_host)
        day.end_feed()
        await day.taken()
        day.stop_host()
        assert list_rings(ring_directory) == [FEED]
        assert (await day.check()).epochs == lives
