"""Leases in a native KV bucket, and micro services, on real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from nats.aio.msg import Msg

from tapehouse.bus import Bus, Cluster, Lease, LeaseBucket, connect, request, serve
from tapehouse.core import (
    BusUnavailableError,
    ConflictError,
    DecodeError,
    GapError,
    InvariantError,
    MissingError,
    SystemClock,
    UsageError,
)
from tests.support.clusters import unique

WAIT_S = 30
SUBSCRIPTIONS = 300


@pytest.fixture
async def bus(cluster3: Cluster) -> AsyncIterator[Bus]:
    async with await connect(cluster3.urls) as bus:
        yield bus


async def test_a_lease_on_the_real_bucket(bus: Bus) -> None:
    store, name = await LeaseBucket.open(bus), unique("lease")
    first = Lease(store, name, holder="first", clock=SystemClock(), ttl_s=1.0)
    second = Lease(await LeaseBucket.open(bus), name, holder="second", clock=SystemClock(), ttl_s=1.0)
    assert await first.acquire(patience_s=0) == 1
    await first.renew()
    with pytest.raises(ConflictError, match="held by first"):
        await second.acquire(patience_s=0.1)
    entry = await bus.client.jetstream().key_value("leases")
    shown = json.loads((await entry.get(name)).value or b"")
    assert (shown["holder"], shown["generation"]) == ("first", 1)
    assert await second.acquire(patience_s=WAIT_S) == 2  # The first has fallen silent.
    with pytest.raises(ConflictError):
        await first.renew()
    await second.release()
    assert await first.acquire(patience_s=0) == 3


async def test_an_entry_deleted_by_hand_is_free(bus: Bus) -> None:
    store, name = await LeaseBucket.open(bus), unique("lease")
    lease = Lease(store, name, holder="a", clock=SystemClock(), ttl_s=60)
    await lease.acquire(patience_s=0)
    await (await bus.client.jetstream().key_value("leases")).delete(name)
    other = Lease(store, name, holder="b", clock=SystemClock(), ttl_s=60)
    assert await other.acquire(patience_s=0) == 1
    with pytest.raises(ConflictError):
        await lease.renew()


async def test_racing_for_a_free_lease(bus: Bus) -> None:
    store, name = await LeaseBucket.open(bus), unique("lease")
    leases = [Lease(store, name, holder=str(index), clock=SystemClock(), ttl_s=60) for index in range(5)]
    results = await asyncio.gather(*(lease.acquire(patience_s=0.3) for lease in leases), return_exceptions=True)
    assert sorted(str(result) for result in results if not isinstance(result, ConflictError)) == ["1"]
    assert sum(lease.held for lease in leases) == 1


async def double(payload: bytes) -> bytes:
    return payload * 2


async def fail(payload: bytes) -> bytes:
    raise GapError("sequence 7 is missing", subject="TAPE_x", position="sequence 7", hint="look")


async def crash(payload: bytes) -> bytes:
    raise ZeroDivisionError("oops\nsecond line")


async def decode(payload: bytes) -> bytes:
    raise DecodeError("bad bytes: grün")


async def test_a_service_answers_and_its_errors_arrive_as_they_were(bus: Bus, cluster3: Cluster) -> None:
    name = f"tapehouse.{unique('s')}"
    endpoints = {"double": double, "fail": fail, "crash": crash, "decode": decode}
    async with await serve(bus, name, "1.0.0", endpoints), await connect(cluster3.urls) as asker:
        assert await request(asker, f"{name}.double", b"ab") == b"abab"
        assert await request(asker, f"{name}.double", b"") == b""
        with pytest.raises(GapError) as caught:
            await request(asker, f"{name}.fail", b"")
        assert str(caught.value) == "TAPE_x, sequence 7: sequence 7 is missing (look)"
        with pytest.raises(DecodeError, match="grün"):
            await request(asker, f"{name}.decode", b"")
        with pytest.raises(InvariantError, match="ZeroDivisionError"):
            await request(asker, f"{name}.crash", b"")
        with pytest.raises(MissingError, match="nobody serves this"):
            await request(asker, f"{name}.none", b"")
        info = json.loads((await asker.request(f"$SRV.STATS.{name.replace('.', '-')}", b"", timeout_s=2)).data)
        counted = {each["name"]: each["data"] for each in info["endpoints"]}
        assert counted["double"] == {"answered": 2, "failed": 0}
        assert counted["crash"] == {"answered": 0, "failed": 1}
    with pytest.raises(MissingError):
        await request(bus, f"{name}.double", b"")


async def test_slow_requests_run_side_by_side_and_finish_before_the_service_leaves(bus: Bus, cluster3: Cluster) -> None:
    name = f"tapehouse.{unique('s')}"
    gate, waiting = asyncio.Event(), 0

    async def wait(payload: bytes) -> bytes:
        nonlocal waiting
        waiting += 1
        if waiting == 20:
            gate.set()
        await gate.wait()
        return payload

    host = await serve(bus, name, "1.0.0", {"wait": wait})
    async with await connect(cluster3.urls) as asker, asyncio.timeout(WAIT_S):
        asking = [asyncio.create_task(request(asker, f"{name}.wait", b"%d" % index)) for index in range(20)]
        await gate.wait()
        await host.stop()
        assert [await task for task in asking] == [b"%d" % index for index in range(20)]


async def test_a_service_that_is_silent(bus: Bus) -> None:
    name = f"tapehouse.{unique('s')}"

    async def sleep(payload: bytes) -> bytes:
        await asyncio.sleep(1)
        return b""

    async with await serve(bus, name, "1.0.0", {"sleep": sleep}):
        with pytest.raises(BusUnavailableError, match="not known"):
            await request(bus, f"{name}.sleep", b"", timeout_s=0.1)


async def test_names_that_cannot_be_served(bus: Bus) -> None:
    with pytest.raises(UsageError, match="cannot be served"):
        await serve(bus, "a b", "1.0.0", {})
    with pytest.raises(UsageError, match="cannot be served"):
        await serve(bus, "a", "one", {})


async def test_who_asks_after_a_flush_is_heard(cluster1: Cluster) -> None:
    """The client library's own flush says so too early, once in some hundred times."""
    async with await connect(cluster1.urls) as served, await connect(cluster1.urls) as asking:

        async def answer(message: Msg) -> None:
            await message.respond(b"heard")

        for number in range(SUBSCRIPTIONS):
            subject = f"flush.{unique()}.{number}"
            subscription = await served.subscribe(subject, answer)
            await served.flush()
            assert (await asking.request(subject, b"", timeout_s=WAIT_S)).data == b"heard"
            await subscription.unsubscribe()
