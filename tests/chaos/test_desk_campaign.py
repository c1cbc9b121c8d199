"""A desk with a standby, clients that never stop, and kills of hosts and brokers: nothing lost, nothing doubled.

`TAPEHOUSE_SEED` sets the seed of a campaign, which is printed; `TAPEHOUSE_KILLS` how many kills the long one makes.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapehouse.bus import Cluster
from tapehouse.core import TapehouseError
from tests.support.clusters import free_config, unique
from tests.support.desk_faults import LEASE_TTL_S, Checked, DeskUnderFaults

CLIENTS = 3
KILLS = int(os.environ.get("TAPEHOUSE_KILLS", "140"))
PAUSE_S = 2.0  # between two faults, at most
CALM_EVERY = 3
TELL_EVERY = 20
WAIT_S = 30.0
SEED_DEFAULT = 20_261_121
FAULTS = ("host", "host", "host", "broker", "pause")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three brokers that a test may harm."""
    with Cluster(free_config(tmp_path / "cluster", nodes=3)) as cluster:
        yield cluster


async def strike(desk: DeskUnderFaults, fault: str, rng: random.Random) -> None:
    """One fault, and hosts again where any ended by it."""
    if fault == "host":
        await asyncio.to_thread(desk.kill_host)
    elif fault == "broker":
        await desk.kill_broker()
    else:
        await desk.pause_host(LEASE_TTL_S * (1 + rng.random()))
    desk.revive()


async def campaign(place: Path, cluster: Cluster, kills: int) -> tuple[Checked, DeskUnderFaults]:
    """Faults one after the other while clients trade; then everything is held against what it must be."""
    seed = int(os.environ.get("TAPEHOUSE_SEED") or SEED_DEFAULT)
    print(f"TAPEHOUSE_SEED={seed}")
    rng = random.Random(seed)
    desk = DeskUnderFaults(place, cluster, unique("faults"), rng)
    try:
        desk.start_host()
        await desk.prepare()
        desk.start_host()
        clients = [asyncio.create_task(desk.trade(f"client-{index}")) for index in range(CLIENTS)]
        for at in range(kills):
            fault = FAULTS[at % len(FAULTS)]
            told = desk.outcomes
            await asyncio.sleep(rng.random() * PAUSE_S)
            await strike(desk, fault, rng)
            if at % TELL_EVERY == 0:
                print(f"{at} of {kills} faults, {desk.outcomes} outcomes", flush=True)
            if at % CALM_EVERY == 0:  # Else faults come faster than anybody can recover, and prove nothing.
                await desk.answered(told)
            for client in clients:
                assert not client.done(), client.result()
        desk.finish()
        await asyncio.gather(*clients)
        return await desk.check(), desk
    finally:
        desk.close()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [5, pytest.param(KILLS, marks=pytest.mark.chaos, id="long")])
async def test_hosts_and_brokers_are_killed_while_clients_trade(tmp_path: Path, cluster: Cluster, kills: int) -> None:
    found, desk = await campaign(tmp_path, cluster, kills)
    print(f"{kills} faults {dict(desk.kills)}: {found}")
    assert found.told > kills
    assert found.lives > 1


@pytest.mark.chaos
async def test_a_leader_that_wakes_up_without_a_fence_is_caught(tmp_path: Path, cluster: Cluster) -> None:
    """The checker's negative control: what the old leader had in hand lands behind the new one's take-over."""
    desk = DeskUnderFaults(tmp_path, cluster, unique("unfenced"), random.Random(SEED_DEFAULT), fenced=False)
    try:
        sleeper = desk.start_host()
        await desk.prepare()
        sleeper.send_signal(signal.SIGSTOP)
        await desk.leads(desk.start_host())
        sleeper.send_signal(signal.SIGCONT)
        assert sleeper.wait(timeout=WAIT_S) in (1, 4)  # It sees what it did to the tape, and stops; it is too late.
        with pytest.raises((AssertionError, TapehouseError)) as caught:
            await desk.check()
        print(f"caught: {caught.value}")
    finally:
        desk.close()
