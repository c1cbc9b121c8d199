"""The KV in native NATS buckets on a real broker: changes, expiries, kills, rivals, and what verify finds."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tapehouse.app.kv_keys import open_keys
from tapehouse.app.kv_mirror import GONE, REVISION, Mirror, read_bucket, verify_mirror
from tapehouse.bus import Bucket, Bus, Cluster, bucket, connect
from tapehouse.core.clock import SystemClock
from tapehouse.core.errors import ConflictError, MissingError, UsageError
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import KEY_BYTES_MAX, VALUE_BYTES_MAX
from tapehouse.log import MemoryLog
from tests.support.cli import Shell
from tests.support.clusters import unique
from tests.support.kv_world import StillClock, open_kv, settle

WAIT_S = 90.0
KEYS = 2_000


@pytest.fixture
async def bus(cluster1: Cluster) -> AsyncIterator[Bus]:
    async with await connect(cluster1.urls) as bus:
        yield bus


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def kv(clock: StillClock) -> AsyncIterator[Kv]:
    async with await open_kv(MemoryLog("KV_0"), clock=clock) as kv:
        yield kv


async def held(target: Bucket) -> dict[bytes, bytes]:
    return {key: value async for key, _, value in read_bucket(target) if value is not None}


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def following(mirror: Mirror) -> AsyncIterator[None]:
    """A mirror that has compared and goes on."""
    ready = asyncio.Event()
    task = asyncio.create_task(mirror.follow(ready=lambda _: ready.set()))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield
    finally:
        for ending in (task, waiting):
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)


@asynccontextmanager
async def revisions(bus: Bus, name: str) -> AsyncIterator[dict[str, list[int]]]:
    """All that is sent to a bucket: the revisions of each key, in their order; GONE for a deletion."""
    told: dict[str, list[int]] = {}

    async def hear(message: Any) -> None:
        told.setdefault(message.subject, []).append(int(message.headers.get(REVISION, GONE)))

    async with bus.listening(f"$KV.{name}.>", hear):
        yield told


async def test_a_bucket_gets_all_changes_and_expiries(
    bus: Bus, kv: Kv, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "BATCH_MESSAGES", 3)
    target = await Bucket.open(bus, unique("mirror"))
    odd = [b"", b"a b", b".x.", b"\xff\x00*>", b"price.AAPL", bytes(range(256)) * (KEY_BYTES_MAX // 256)]
    for key in odd:
        await kv.put(key, b"value of " + key)
    await kv.put(b"large", bytes(VALUE_BYTES_MAX))
    await kv.put(b"short", b"1", ttl_s=10)
    mirror = Mirror(kv, target, prefix=b"", clock=clock)
    async with following(mirror):
        wanted = {key: b"value of " + key for key in odd} | {b"large": bytes(VALUE_BYTES_MAX), b"short": b"1"}
        assert await held(target) == wanted
        await kv.delete(b"large")
        await kv.add(b"count", 7)
        await kv.put(b"late", b"2", ttl_s=5)
        await kv.expire(b"late", 100)
        await kv.put(b"price.AAPL", b"185")
        del wanted[b"large"]
        wanted |= {b"count": b"7", b"late": b"2", b"price.AAPL": b"185"}
        await until(lambda: _is(target, wanted))
        clock.advance(11)
        del wanted[b"short"]
        await until(lambda: _is(target, wanted))
        assert (await verify_mirror(kv, target, b"")).different == 0
        clock.advance(100)
        del wanted[b"late"]
        await until(lambda: _is(target, wanted))
    assert (await bus.api(f"STREAM.MSG.GET.KV_{target.name}", {"last_by_subj": f"$KV.{target.name}.count"}))["message"]
    again = Mirror(kv, target, prefix=b"", clock=clock)
    await again.compare()
    assert (again.counts.puts, again.counts.deletes, again.counts.same) == (0, 0, len(wanted))


async def _is(target: Bucket, wanted: dict[bytes, bytes]) -> bool:
    return await held(target) == wanted


async def test_a_prefix_alone_is_mirrored_and_verify_finds_every_kind_of_difference(
    bus: Bus, kv: Kv, clock: StillClock
) -> None:
    target = await Bucket.open(bus, unique("mirror"))
    for number in range(6):
        await kv.put(b"in/%d" % number, b"1")
    await kv.put(b"out", b"1")
    await Mirror(kv, target, prefix=b"in/", clock=clock).compare()
    assert len(await held(target)) == 6
    assert (await verify_mirror(kv, target, b"in/")).different == 0
    places = {key: place async for key, place, _ in read_bucket(target)}
    headers = {REVISION: str(places[b"in/0"].revision)}
    await target.write("in/0", b"2", headers, expected=places[b"in/0"].sequence)
    await target.write("in/1", None, {}, expected=places[b"in/1"].sequence)
    await target.write("in/9", b"1", headers, expected=0)
    await kv.put(b"in/2", b"2")
    await kv.expire(b"in/3", 5)
    await kv.delete(b"in/4")
    found = await verify_mirror(kv, target, b"in/")
    assert [line.partition(": ")[0] for line in found.differences] == [f"in/{n}" for n in (0, 1, 2, 3, 4, 9)]
    assert (found.keys, found.different) == (5, 6)
    with pytest.raises(ConflictError):
        await target.write("in/5", b"late", headers, expected=places[b"in/0"].sequence)
    await Mirror(kv, target, prefix=b"in/", clock=clock).compare()
    left = await verify_mirror(kv, target, b"in/")
    assert left.differences == ["in/0: another value of the same revision"], (
        "a revision has one value: no mirror's doing"
    )


async def test_a_bucket_that_is_not_a_mirrors_is_left_alone(bus: Bus, kv: Kv, clock: StillClock) -> None:
    target = await Bucket.open(bus, unique("mirror"))
    await target.write("mine", b"1", {}, expected=0)
    with pytest.raises(UsageError, match="holds what no mirror wrote"):
        await Mirror(kv, target, prefix=b"", clock=clock).compare()
    entry = await target.get("mine")
    assert entry is not None
    assert entry.value == b"1"
    for wrong in ("0", "a b", "", "x" * 65):
        with pytest.raises(UsageError, match="no name of a bucket"):
            await Bucket.open(bus, wrong)
    with pytest.raises(MissingError, match="there is no such bucket"):
        await Bucket.open(bus, unique("mirror"), create=False)


async def test_two_mirrors_of_one_bucket_never_take_it_back(bus: Bus, clock: StillClock) -> None:
    log = MemoryLog("KV_0")
    target = await Bucket.open(bus, unique("mirror"))
    async with (
        await open_kv(log, clock=clock) as one, await open_kv(log, clock=clock, shards=None) as other,
        revisions(bus, target.name) as told,
        following(Mirror(one, target, prefix=b"", clock=clock)),
        following(Mirror(other, target, prefix=b"", clock=clock)),
    ):  # fmt: skip
        for number in range(40):
            await (one if number % 2 else other).put(b"k%d" % (number % 3), b"%d" % number)
            await settle(3)

        async def same() -> bool:
            clock.advance(1)
            return (await verify_mirror(one, target, b"")).different == 0

        await until(same)
        stored = {key: place.revision async for key, place, _ in read_bucket(target)}
    assert len(told) == 3
    assert stored == {b"k%d" % n: max(told[f"$KV.{target.name}.k{n}"]) for n in range(3)}


@pytest.mark.timeout(200)
async def test_a_mirror_that_is_killed_goes_on_and_loses_nothing(cluster1: Cluster, bus: Bus, tmp_path: Path) -> None:
    shell, url, name = Shell(tmp_path / "home"), cluster1.urls[0], unique("mirror")
    async with (
        open_keys(url, home=tmp_path / "home", create=True, name="writer") as (_, kv),
        revisions(bus, name) as told,
    ):
        head = name.encode() + b"/"
        await asyncio.gather(*(kv.put(head + b"%d" % number, b"0") for number in range(KEYS)))
        for life in range(2):
            child = shell.start("kv", "mirror", name, "--prefix", head.decode(), "--nats", url, "--json")
            try:
                await until(lambda life=life: _heard(told, (life + 1) * KEYS // 4))
            finally:
                child.send_signal(signal.SIGKILL)
                child.wait()
            changes = [kv.put(head + b"%d" % number, b"%d" % life) for number in range(0, KEYS, 3)]
            changes += [kv.delete(head + b"%d" % number) for number in range(life, KEYS, 7)]
            await asyncio.gather(*changes)
        assert sum(map(len, told.values())) < 2 * KEYS, "it was killed midway"
        argument = ("kv", "mirror", name, "--prefix", head.decode(), "--nats", url)
        goes_on = Mirror(kv, await Bucket.open(bus, name), prefix=head, clock=SystemClock())
        await goes_on.compare()
        assert 0 < goes_on.counts.puts < KEYS
        checked = await asyncio.to_thread(shell.run, *argument, "--verify", "--json")
        assert json.loads(checked.out)["different"] == 0
        rows = await kv.scan(head, limit=2 * KEYS)
        stored = await held(await Bucket.open(bus, name))
        assert stored == {key: row.value for key, row in rows}
    for key, seen in told.items():
        living = [revision for revision in seen if revision != GONE]
        assert living == sorted(living), f"{key} went back"


async def _heard(told: dict[str, list[int]], count: int) -> bool:
    return sum(map(len, told.values())) >= count
