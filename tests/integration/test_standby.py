"""A second host follows warm and takes over, as a user runs it: real brokers and processes, commands all along."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tapehouse.app.hand_over import hand_over, hosts_of
from tapehouse.bus import Cluster
from tapehouse.core import MissingError, SystemClock
from tests.support.clusters import unique
from tests.support.standby_day import LEASE_TTL_S, WAIT_S, StandbyDay


@pytest.fixture
async def day(tmp_path: Path, cluster1: Cluster) -> AsyncIterator[StandbyDay]:
    day = StandbyDay(tmp_path, cluster1.urls, unique("standby"))
    try:
        await day.record()
        yield day
    finally:
        day.close()


async def test_planned_killed_and_asleep(day: StandbyDay) -> None:
    """Three hosts start together; whoever leads hands over, the next is killed, the one after falls asleep."""
    waiting = [day.host("--standby") for _ in range(3)]
    leader, _ = await day.leads("first", 1)
    for hosted in waiting:
        await hosted.says("ready" if hosted is leader else "standby")
    async with day.commands():
        done = await day.hand_over()
        killed, taken = await day.leads("planned", 2)
        assert killed is not leader
        assert done["to"].endswith(f":{killed.process.pid}")
        assert (taken["how"], done["take_over"]) == ("released", taken)
        await leader.says("standby")  # It follows now.

        killed.send(signal.SIGKILL)
        asleep, taken = await day.leads("kill -9", 3)
        assert taken["how"] == "dead"

        asleep.send(signal.SIGSTOP)
        last, taken = await day.leads("asleep", 4)
        assert taken["how"] == "silent"
        assert taken["silent_ms"] >= LEASE_TTL_S * 1e3
        assert len({id(one) for one in (killed, asleep, last)}) == len(waiting)
        asleep.send(signal.SIGCONT)
        assert "fenced off" in await asleep.ended(1)
    last.send(signal.SIGTERM)
    assert await last.ended(0) == ""
    commands, epochs = await day.check()
    assert commands > 10
    assert epochs == 5  # of the recording, and of each generation
    for what, taken in day.take_overs:
        print(f"{what:8} nobody led for {taken['leaderless_ms']:8.1f} ms: {taken}")


async def test_what_a_second_host_and_a_hand_over_are_told(day: StandbyDay) -> None:
    async with day.platform() as platform:
        ask = partial(hand_over, platform, day.tape, timeout_s=WAIT_S, clock=SystemClock())
        with pytest.raises(MissingError, match="no host leads it"):
            await ask(force=False)
        leader = day.host()
        await leader.says("ready")
        with pytest.raises(MissingError, match="no standby waits") as caught:
            await ask(force=False)
        assert "--force" in caught.value.hint
        told, standby = await asyncio.gather(
            asyncio.to_thread(day.shell.refused, "host", "--tape", day.tape, "--nats", day.urls, code=1), day.standby()
        )
        assert f":{leader.process.pid} (stop that host" in told
        assert "--standby" in told
        found = await hosts_of(platform, day.tape, clock=SystemClock())
        assert found["lease"]["generation"] == 1
        assert [(host["role"], host.get("generation")) for host in found["hosts"]] == [("leader", 1), ("standby", None)]
        assert found["hosts"][1]["behind_cells"] == 0
        leader.send(signal.SIGTERM)  # An orderly end releases the lease: nobody waits for its time to pass.
        assert await leader.ended(0) == ""
        assert (await day.led_by(standby, "stopped"))["how"] == "released"
        done = await ask(force=True)
        assert done["to"] == done["from"], "nobody else came for it"
