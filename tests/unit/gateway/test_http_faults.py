"""Faults of a drill: each has its effect, is shown wherever the gateway tells of itself, and is changed over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tapehouse.app.kv_gateway import make_gateway
from tapehouse.core.clock import SystemClock
from tapehouse.core.errors import UsageError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.gateway.resp_server import Traffic
from tapehouse.kv.faults import Faults, SomeWrites
from tapehouse.log import MemoryLog
from tests.support.http_world import serving
from tests.support.kv_world import StillClock, open_kv, settle


async def test_a_write_waits_so_long() -> None:
    clock, faults = StillClock(), Faults()
    async with await open_kv(MemoryLog("KV_0"), clock=clock, faults=faults) as kv:
        faults.turn(write_delay_ns=NS_PER_SECOND)
        task = asyncio.create_task(kv.put(b"k", b"v"))
        await settle()
        assert not task.done()
        clock.advance(0.9)
        await settle()
        assert not task.done()
        clock.advance(0.1)
        await settle()
        assert task.result().is_applied


async def test_a_view_is_so_late() -> None:
    clock, faults = StillClock(), Faults()
    log = MemoryLog("KV_0")
    async with await open_kv(log, clock=clock, faults=faults) as kv:
        faults.turn(view_delay_ns=NS_PER_SECOND)
        before = (await log.extent()).last
        task = asyncio.create_task(kv.put(b"k", b"v"))
        await settle()
        assert (await log.extent()).last == before + 1, "it is in the log"
        assert not task.done()
        assert await kv.get(b"k") is None
        clock.advance(1)
        await settle()
        assert task.done()


async def test_a_snapshot_takes_so_much_longer(tmp_path: Path) -> None:
    clock, faults = StillClock(), Faults()
    kv = await open_kv(MemoryLog("KV_0"), clock=clock, faults=faults, snapshots=tmp_path)
    keeper = kv.nodes[0].keeper
    faults.turn(snapshot_delay_ns=2 * NS_PER_SECOND)
    await kv.put(b"k", b"v")
    closing = asyncio.create_task(kv.close())
    await settle()
    clock.advance(1.9)
    await settle()
    assert (closing.done(), keeper.sequence) == (False, 0)
    clock.advance(0.1)
    await closing
    assert keeper.sequence > 0


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_writes_are_refused_as_often_as_asked_and_the_same_for_a_seed(probability: float) -> None:
    refused = [SomeWrites(probability, 7)() for _ in range(1)]
    one, other, third = SomeWrites(probability, 7), SomeWrites(probability, 7), SomeWrites(probability, 8)
    first = [one() for _ in range(20_000)]
    assert first == [other() for _ in range(20_000)]
    assert abs(sum(first) / 20_000 - probability) < 0.01
    assert refused[0] == first[0]
    assert (first != [third() for _ in range(20_000)]) == (0 < probability < 1)


@pytest.mark.parametrize(
    "turned",
    [
        {"write_failure": 1.1}, {"write_failure": -0.1}, {"write_failure": float("nan")}, {"write_delay_ns": -1},
        {"view_delay_ns": 10**18}, {"write_failure": 0.5, "seed": -1},
    ],
)  # fmt: skip
def test_what_is_no_fault_is_refused_and_changes_nothing(turned: dict[str, Any]) -> None:
    faults = Faults(snapshot_delay_ns=5_000_000)
    with pytest.raises(UsageError):
        faults.turn(**{"snapshot_delay_ns": 9_000_000, **turned})
    assert faults.told() == {"snapshot_delay": "5ms"}


async def test_faults_over_http_and_in_every_status() -> None:
    async with serving(token="secret", allow_faults=True) as world:
        bearer = {"Authorization": "Bearer secret"}
        assert (await world.ask("POST", "/faults", {"write_failure": 1})).status == 401
        turned = await world.ask(
            "POST", "/faults",
            {"write_failure": 1, "write_failure_seed": 3, "write_delay": "1ms", "view_delay": 0, "snapshot_delay": 2},
            **bearer,
        )  # fmt: skip
        shown = {"write_delay": "1ms", "snapshot_delay": "2000ms", "write_failure": 1.0, "write_failure_seed": 3}
        assert (turned.status, turned.json) == (200, shown)
        assert (await world.ask("GET", "/faults", **bearer)).json == shown
        assert (await world.ask("GET", "/status", **bearer)).json["faults"] == shown
        assert b"FAULTS ON" in (await world.ask("GET", "/", **bearer)).body
        assert b"tapehouse_kv_faults_on 1" in (await world.ask("GET", "/metrics", **bearer)).body
        refused = await world.ask("PUT", "/key/k", b"v", **bearer)
        assert (refused.status, refused.json["code"], refused.json["outcome"]) == (503, "busy", "none")
        assert "a drill refuses this write" in refused.json["detail"]
        for bad in ({"write_failure": 2}, {"nap": "1s"}, {"write_delay": "soon"}, {"write_failure_seed": 3}, []):
            assert (await world.ask("POST", "/faults", bad, **bearer)).status == 400
        assert world.faults.told() == shown, "what is refused changes nothing"
        nothing = {"write_failure": 0, "write_delay": 0, "snapshot_delay": 0}
        assert (await world.ask("POST", "/faults", nothing, **bearer)).json == {}
        assert (await world.ask("PUT", "/key/k", b"v", **bearer)).status == 200


async def test_they_may_not_be_changed_where_that_was_not_allowed() -> None:
    async with serving() as world:
        refused = await world.ask("POST", "/faults", {"write_failure": 1})
        assert (refused.status, refused.json["code"]) == (403, "not-allowed")
        assert not world.faults.is_on


async def test_info_tells_of_them() -> None:
    clock, faults = SystemClock(), Faults()
    async with await open_kv(MemoryLog("KV_0"), clock=StillClock(), faults=faults) as kv:
        gateway = make_gateway(kv, Traffic(), clock, port=1, connections_max=1, faults=faults)
        assert "# Faults" not in gateway.info()
        faults.turn(write_failure=0.25, seed=9)
        assert "# Faults\r\nfault_write_failure:0.25\r\nfault_write_failure_seed:9\r\n" in gateway.info()
