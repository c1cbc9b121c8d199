"""A gateway's local snapshots: written as the log goes on and at the end, taken up again, or put aside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tapehouse.core.metrics import Metrics
from tapehouse.kv import keeping, layout
from tapehouse.kv.client import Kv
from tapehouse.kv.levels import LINEARIZABLE
from tapehouse.kv.moment import Moment
from tapehouse.kv.reference import Stored
from tapehouse.kv.snapshot import read_snapshot
from tapehouse.kv.view import View
from tapehouse.log import Branch, MemoryLog
from tests.support.kv_world import StillClock, fold, open_kv, settle


@pytest.fixture
async def clock() -> StillClock:
    return StillClock()


async def begun(clock: StillClock, place: Path) -> MemoryLog:
    """A log with 30 keys, and the snapshot of a gateway that has left."""
    log = MemoryLog("KV_0")
    async with await open_kv(log, clock=clock, snapshots=place) as kv:
        for number in range(30):
            await kv.put(b"k%d" % number, b"v%d" % number)
    assert (place / "KV_0.view").exists()
    return log


async def check_same(kv: Kv, log: MemoryLog) -> None:
    views, _ = await fold(log)
    assert dict(kv.nodes[0].view.scan(b"")) == views[-1].rows


async def test_a_gateway_goes_on_from_its_snapshot(tmp_path: Path, clock: StillClock) -> None:
    log = await begun(clock, tmp_path / "new" / "place")
    async with await open_kv(log, clock=clock) as other:
        await other.put(b"later", b"1")
        tail = (await log.extent()).last
    async with await open_kv(log, clock=clock, snapshots=tmp_path / "new" / "place") as kv:
        node = kv.nodes[0]
        assert node.keeper.refused is None
        assert node.metrics.get("kv_snapshots_restored_total") == 1
        assert node.measure().frames < 6  # What came after alone.
        assert node.keeper.sequence < tail
        await kv.put(b"after", b"2")
        await check_same(kv, log)


@pytest.mark.parametrize("damage", ["flipped bit", "torn tail", "other branch", "shorter log", "a directory"])
async def test_what_is_damaged_is_put_aside_and_the_log_folded(tmp_path: Path, clock: StillClock, damage: str) -> None:
    log = await begun(clock, tmp_path)
    path = tmp_path / "KV_0.view"
    whole = bytearray(path.read_bytes())
    reason = "damaged"
    if damage == "flipped bit":
        whole[len(whole) // 2] ^= 4
    elif damage == "torn tail":
        whole, reason = whole[:-7], "torn"
    elif damage == "other branch":
        old, last = (await log.extent()).log_id, (await log.extent()).last
        messages = [message.payload async for message in log.read(1)]
        log = MemoryLog("KV_0", branches=(Branch(log_id=old, through=last), Branch(log_id=bytes(16))))
        for payload in messages:
            await log.append(payload, expected_last=None)
        reason = "another branch"
    elif damage == "shorter log":
        messages = [message.payload async for message in log.read(1, through=20)]
        log = MemoryLog("KV_0", branches=(Branch(log_id=(await log.extent()).log_id),))
        for payload in messages:
            await log.append(payload, expected_last=None)
        reason = "a log that ends at 20"
    path.write_bytes(whole)
    if damage == "a directory":
        path.unlink()
        path.mkdir()
        reason = "cannot be read"
    metrics = Metrics()
    async with await open_kv(log, clock=clock, snapshots=tmp_path, metrics=metrics) as kv:
        assert reason in str(kv.nodes[0].keeper.refused)
        assert metrics.get("kv_snapshots_refused_total") == 1
        assert not path.exists()
        assert (tmp_path / "KV_0.view.refused").exists()
        await check_same(kv, log)
    async with await open_kv(log, clock=clock, snapshots=tmp_path) as kv:
        assert kv.nodes[0].keeper.refused is None
        assert kv.nodes[0].measure().frames < 4
        await check_same(kv, log)


def slow_write() -> tuple[Callable[[Path, Moment, bytes], int], asyncio.Event, asyncio.Event]:
    """A snapshot's writing that waits for the first event, and sets the second once it has begun."""
    write, go, writing = keeping.write_snapshot, asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(path: Path, moment: Moment, log_id: bytes) -> int:
        loop.call_soon_threadsafe(writing.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result()
        return write(path, moment, log_id)

    return slow, go, writing


async def test_it_is_written_while_the_view_goes_on(
    tmp_path: Path, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, go, writing = slow_write()
    log = MemoryLog("KV_0")
    kv = await open_kv(log, clock=clock, snapshots=tmp_path)
    keeper: Any = kv.nodes[0].keeper
    monkeypatch.setattr(keeping, "write_snapshot", slow)
    await kv.put(b"0", b"1")
    keeper._frames_max = 1
    await kv.put(b"late", b"2")
    await writing.wait()
    keeper._frames_max = 10**6
    stood = kv.nodes[0].applied
    await kv.put(b"0", b"3")
    await kv.delete(b"late")
    held = await kv.get(b"0", LINEARIZABLE)
    assert held is not None
    assert held.value == b"3"  # Writers and linearizable readers go on.
    assert keeper.is_writing
    assert kv.nodes[0].applied > stood
    go.set()
    await keeper.finished()
    assert keeper.sequence == stood
    kept = read_snapshot(tmp_path / "KV_0.view", (await log.extent()).log_id, View)
    assert kept.sequence == stood
    assert [(key, held.value) for key, held in kept.scan(b"") if isinstance(held, Stored)][-2:] == [
        (b"0", b"1"),
        (b"late", b"2"),
    ]
    await kv.close()
    async with await open_kv(log, clock=clock, snapshots=tmp_path) as again:
        assert again.nodes[0].measure().frames < 4
        await check_same(again, log)


async def test_writers_wait_where_the_arena_has_no_room_beside_a_snapshot(
    tmp_path: Path, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, go, writing = slow_write()
    log = MemoryLog("KV_0")
    kv = await open_kv(log, clock=clock, snapshots=tmp_path)
    node, keeper = kv.nodes[0], kv.nodes[0].keeper
    monkeypatch.setattr(keeping, "write_snapshot", slow)
    await keeper.begin(node.view, (await log.extent()).log_id)
    await writing.wait()
    state = node.view._state
    used, state[layout.ARENA_USED] = state.item(layout.ARENA_USED), state.item(layout.ARENA_SEGMENTS) - 1
    put = asyncio.create_task(kv.put(b"k", b"v"))
    await settle()
    assert keeper.is_writing
    assert not put.done()
    assert node.metrics.get("kv_snapshots_waited_for_total") == 1
    state[layout.ARENA_USED] = used
    go.set()
    await put
    await kv.close()
    async with await open_kv(log, clock=clock, snapshots=tmp_path) as again:
        await check_same(again, log)


async def test_what_cannot_be_written_is_told_and_stops_nobody(tmp_path: Path, clock: StillClock) -> None:
    (tmp_path / "file").write_bytes(b"")
    log = MemoryLog("KV_0")
    async with await open_kv(log, clock=clock, snapshots=tmp_path / "file" / "place") as kv:
        await kv.put(b"k", b"v")
    assert "directory cannot be made" in str(kv.nodes[0].keeper.failed)
    assert kv.nodes[0].metrics.get("kv_snapshots_failed_total") == 1


async def test_measures(clock: StillClock) -> None:
    log = MemoryLog("KV_0")
    async with await open_kv(log, clock=clock) as kv:
        before = kv.nodes[0].measure()
        await kv.put(b"k", b"v")
        await kv.get(b"k")
        await kv.get(b"none")
        message = await log.last()
        assert message is not None
        await log.append(message.payload, expected_last=None)  # A copy that came late.
        await settle()
        clock.advance(2)
        (now,) = await kv.measure()
        assert (now.keys, now.frames, now.entries) == (before.keys + 1, before.frames + 2, before.entries + 1)
        assert (now.hits, now.absent, now.repeated_frames) == (before.hits + 1, before.absent + 1, 1)
        assert (now.behind, now.behind_ns, now.queued_entries) == (0, 2 * 10**9, 0)
        assert 0 < now.bytes <= now.budget_bytes
        metrics = Metrics()
        now.publish(metrics)
        assert metrics.get("kv_shard_0_keys") == now.keys
        assert metrics.get("kv_shard_0_repeated_frames") == 1
