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
    first = day.host("--standby")
    await first.says("leads")
    second = await day.standby()
    async with day.commands():
        done = await day.hand_over()
        await second.says("leads")
        assert done["to"].endswith(f":{second.process.pid}")
        assert done["take_over"]["how"] == "released"
        await first.says("standby")  # It follows now.

        second.send(signal.SIGKILL)
        taken = await day.led_by(first, "kill -9")
        assert (taken["how"], taken["generation"]) == ("dead", 3)

        third = await day.standby()
        first.send(signal.SIGSTOP)
        taken = await day.led_by(third, "asleep")
        assert (taken["how"], taken["generation"]) == ("silent", 4)
        assert taken["silent_ms"] >= LEASE_TTL_S * 1e3
        first.send(signal.SIGCONT)
        assert "fenced off" in await first.ended(1)
    third.send(signal.SIGTERM)
    assert await third.ended(0) == ""
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
        told = await asyncio.to_thread(day.shell.refused, "host", "--tape", day.tape, "--nats", day.urls, code=1)
        assert f":{leader.process.pid} (stop that host" in told
        assert "--standby" in told
        with pytest.raises(MissingError, match="no standby waits") as caught:
            await ask(force=False)
        assert "--force" in caught.value.hint
        standby = await day.standby()
        found = await hosts_of(platform, day.tape, clock=SystemClock())
        assert found["lease"]["generation"] == 1
        assert [(host["role"], host.get("generation")) for host in found["hosts"]] == [("leader", 1), ("standby", None)]
        assert found["hosts"][1]["behind_cells"] == 0
        leader.send(signal.SIGTERM)  # An orderly end releases the lease: nobody waits for its time to pass.
        assert await leader.ended(0) == ""
        assert (await day.led_by(standby, "stopped"))["how"] == "released"
        done = await ask(force=True)
        assert done["to"] == done["from"], "nobody else came for it"
