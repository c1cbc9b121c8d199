"""Moving slots while they are used: a whole rebalance and back, what callers see of it, and one mover at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tapehouse.core.errors import ConflictError, UsageError
from tapehouse.kv.client import Kv
from tapehouse.kv.errors import WatchLaggedError
from tapehouse.kv.levels import LINEARIZABLE, Session
from tapehouse.kv.mover import CLAIM_NS, Mover, Progress
from tapehouse.kv.slots import SLOTS, slot_of
from tapehouse.log import MemoryLog
from tests.support.kv_world import Link, StillClock, new_life, open_kv, settle, until

KEYS = [b"key/%d" % number for number in range(300)]


@pytest.fixture
async def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def logs() -> list[MemoryLog]:
    return [MemoryLog(f"KV_{shard}") for shard in range(8)]


async def rebalance(kv: Kv, clock: StillClock, shards: int, **options: Any) -> Progress:
    mover = Mover(kv, clock=clock, life=new_life(), **options)  # type: ignore[arg-type]
    moving = asyncio.create_task(mover.run(shards))
    await until(clock, [moving])
    return moving.result()


def owned(kv: Kv) -> list[int]:
    return [sum(node.view.owns(slot) for slot in range(SLOTS)) for node in kv.nodes]


async def test_to_four_shards_to_three_and_to_one(clock: StillClock, logs: list[MemoryLog]) -> None:
    async with await open_kv(*logs, clock=clock, shards=1) as kv, await open_kv(*logs, clock=clock, shards=1) as other:
        for key in KEYS:
            await kv.put(key, key, ttl_s=3_600 if key.endswith(b"7") else None)
        await kv.put(b"gone", b"", ttl_s=1)
        clock.advance(2)
        before = dict(await kv.scan(level=LINEARIZABLE))
        assert before.keys() == set(KEYS)
        heard: list[Progress] = []
        for shards, share in ((4, [4096] * 4), (3, [5461, 5462, 5461, 0]), (1, [SLOTS, 0, 0, 0])):
            done = await rebalance(kv, clock, shards, tell=heard.append)
            assert done.is_done
            assert done.moved == done.slots > 0
            assert sorted(owned(kv)) == sorted(share)
            assert dict(await kv.scan(level=LINEARIZABLE)) == before  # With their revisions and expiries.
            scanning = asyncio.create_task(other.scan(level=LINEARIZABLE))
            await until(clock, [scanning])
            assert dict(scanning.result()) == before
            assert kv.count_keys() == other.count_keys() == len(KEYS)
            assert sum(node.view.metrics().keys for node in kv.nodes) == len(KEYS) + 2  # Nothing is left where it was.
            again = await rebalance(kv, clock, shards)
            assert (again.slots, again.is_done) == (0, True)
        assert heard[0] == Progress(shards=4, slots=12_288, moved=0)
        assert [one.moved for one in heard[:5]] == sorted(one.moved for one in heard[:5])
        changed = await kv.put_if(KEYS[0], b"new", before[KEYS[0]].revision)  # A revision from before all of it.
        assert changed.is_applied
        assert changed.revision > before[KEYS[0]].revision
    late = await open_kv(*logs, clock=clock, shards=1)
    async with late:
        assert len(late.nodes) == 4
        assert await late.get(KEYS[0], LINEARIZABLE) is not None
    with pytest.raises(UsageError, match="spread over 1 shards, not 4"):
        await open_kv(*logs, clock=clock, shards=4)


async def test_one_mover_at_a_time_and_another_after_it(clock: StillClock, logs: list[MemoryLog]) -> None:
    one, other = [await open_kv(*logs, clock=clock, shards=1) for _ in range(2)]
    for number in range(50):
        await one.put(b"%d" % number, b"v")
    stops = iter([False, False, False])
    first = Mover(one, clock=clock, life=new_life(), name="first", should_stop=lambda: next(stops, True))
    first._leave = settle  # type: ignore[method-assign,assignment]  # It is killed before it can.
    moving = asyncio.create_task(first.run(4))
    await until(clock, [moving])
    assert not moving.result().is_done
    assert 0 < moving.result().moved < moving.result().slots
    began = clock.now
    going_on = asyncio.create_task(Mover(other, clock=clock, life=new_life()).run(4))
    await until(clock, [going_on])  # It waits until the claim was not renewed for long enough, and goes on.
    assert CLAIM_NS <= clock.now - began <= 4 * CLAIM_NS
    done = going_on.result()
    assert (done.is_done, done.slots, done.moved) == (True, 12_288, 12_288)
    holding = Mover(one, clock=clock, life=new_life(), name="first")
    await holding._claim()
    keeping = asyncio.create_task(holding._keep_claim())
    late = asyncio.create_task(Mover(other, clock=clock, life=new_life()).run(8))
    await until(clock, [late])
    with pytest.raises(ConflictError, match="first moves slots already"):
        late.result()
    keeping.cancel()
    await one.close()
    await other.close()


async def test_a_session_sees_its_writes_where_they_went(clock: StillClock, logs: list[MemoryLog]) -> None:
    """A gateway that is behind thinks that the old shard has the slot: it sees first what the session has seen."""
    links = [Link(log) for log in logs]
    async with (
        await open_kv(*logs, clock=clock, shards=1) as kv,
        await open_kv(*links, clock=clock, shards=1) as behind,
    ):
        key = next(key for key in KEYS if slot_of(key) > 12_000)
        session = Session()
        await kv.put(key, b"old", session=session)
        assert (await behind.get(key, session)) is not None
        caught = behind.nodes[0].view
        await links[0].hold()  # Its reader hears of nothing from now on.
        await rebalance(kv, clock, 2)
        await kv.put(key, b"new", session=session)
        assert caught.owns(slot_of(key))
        reading = asyncio.create_task(behind.get(key, Session.parse(session.text)))
        await settle()
        assert not reading.done()
        links[0].let_go()
        await until(clock, [reading])
        found = reading.result()
        assert found is not None
        assert found.value == b"new"


async def test_watchers_and_histories_across_a_move(clock: StillClock, logs: list[MemoryLog]) -> None:
    async with await open_kv(*logs, clock=clock, shards=1) as kv:
        key = next(key for key in (b"{%d}k" % number for number in range(99)) if slot_of(key) > 12_000)
        tag = key[: key.index(b"}") + 1]
        first = await kv.put(key, b"1")
        all_of_it, tagged, session = kv.watch(b""), kv.watch(tag), Session()
        pending = [asyncio.ensure_future(anext(each)) for each in (all_of_it, tagged)]
        await kv.get(key, session)
        await settle()
        await rebalance(kv, clock, 2)
        second = await kv.put(key, b"2")
        assert second.revision > first.revision
        await settle()
        assert (await pending[0]).value == b"2"  # A log that was added is watched from its start.
        with pytest.raises(WatchLaggedError, match="keys moved to or from this shard"):
            await pending[1]
        for after in (first.revision, 0, session):  # Places of the shard that the keys were in.
            with pytest.raises(WatchLaggedError, match="scan the prefix"):
                await anext(kv.watch(tag, after))
        third = await kv.put(key, b"3")
        assert (await anext(kv.watch(tag, second.revision))).revision == third.revision
        versions = await kv.history(key)
        assert [(one.value, one.revision) for one in versions] == [
            (b"1", first.revision), (b"2", second.revision), (b"3", third.revision)
        ]  # fmt: skip
