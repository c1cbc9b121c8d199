"""Two gateways of a KV of two shards on a real cluster of three, while the streams' leaders change."""

from __future__ import annotations

import asyncio

import pytest

from tapehouse.bus import Bus, Cluster, JetStreamLog, StreamAdmin, connect, kv_spec
from tapehouse.core.clock import SystemClock
from tapehouse.core.errors import BusUnavailableError
from tapehouse.core.ids import new_writer_id
from tapehouse.kv import requests
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import KEY_BYTES_MAX, VALUE_BYTES_MAX
from tapehouse.kv.errors import OutcomeUnknownError
from tapehouse.kv.levels import LINEARIZABLE, Eventual, Session
from tests.support.clusters import unique

ADDS = 60
SHARD_NUMBERS = 1_000_000  # so that no other test has these streams


async def open_kv(bus: Bus, base: int, shards: int | None) -> Kv:
    async def open_log(shard: int) -> JetStreamLog:
        return await StreamAdmin(bus).ensure(kv_spec(base + shard))

    return await Kv.open(open_log, new_life=new_writer_id, clock=SystemClock(), shards=shards)


async def add_all(kv: Kv, counts: list[int]) -> None:
    """Add one at a time to both shards' counters; what is unknown is counted apart."""
    for number in range(ADDS):
        try:
            await kv.add(b"{a}n" if number % 2 else b"{b}n")
            counts[0] += 1
        except OutcomeUnknownError:
            counts[1] += 1
        except BusUnavailableError:
            counts[2] += 1


@pytest.mark.timeout(120)
async def test_two_gateways_on_a_cluster(cluster3: Cluster) -> None:
    base = SHARD_NUMBERS + int("".join(filter(str.isdigit, unique("1")))) * 10
    async with await connect(cluster3.urls) as one_bus, await connect(cluster3.urls) as other_bus:
        one, other = await asyncio.gather(open_kv(one_bus, base, 2), open_kv(other_bus, base, 2))
        async with one, other:
            watcher = one.watch(b"")
            pending = asyncio.ensure_future(anext(watcher))
            await asyncio.sleep(0)
            first = await other.put_if(b"{a}k", b"1", 0)
            assert first.is_applied
            found = await one.get(b"{a}k", LINEARIZABLE)
            assert found is not None
            assert (found.value, found.revision) == (b"1", first.revision)
            change = await pending
            assert (change.key, change.revision) == (b"{a}k", first.revision)
            assert not (await one.put_if(b"{a}k", b"2", 0)).is_applied
            session = Session()
            batch = await other.batch([requests.put(b"{a}k", b"2"), requests.delete(b"{a}k2")], session=session)
            assert not batch.is_applied
            large = bytes(VALUE_BYTES_MAX)
            await other.put(bytes(KEY_BYTES_MAX), large, session=session)  # The broker takes the largest there is.
            seen = await one.get(bytes(KEY_BYTES_MAX), Session.parse(session.text))
            assert seen is not None
            assert seen.value == large
            assert await one.get(b"{a}k", Eventual(10**9)) == found
            counts = [0, 0, 0]
            adding = [asyncio.create_task(add_all(kv, counts)) for kv in (one, other)]
            admin = StreamAdmin(one_bus)
            for shard in (0, 1):
                await admin.step_down(kv_spec(base + shard).name)
            await asyncio.gather(*adding)
            sums = [await kv.get(key, LINEARIZABLE) for kv in (one, other) for key in (b"{a}n", b"{b}n")]
            assert sums[:2] == sums[2:]
            total = sum(int(stored.value) for stored in sums[:2] if stored)
            assert counts[0] <= total <= counts[0] + counts[1]
            assert sum(counts) == 2 * ADDS
            assert len(await other.history(b"{a}n", limit=1000)) == int(sums[0].value if sums[0] else 0)
        late = await open_kv(other_bus, base, None)  # Knows by itself how many shards there are.
        async with late:
            assert len(late.nodes) == 2
            assert await late.get(b"{a}k") == found
