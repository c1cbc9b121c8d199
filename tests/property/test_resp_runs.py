"""Runs of GET and SET in compiled code against the same requests one by one: the same bytes, whatever comes between."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DataError
from tapehouse.gateway.resp_runs import REPLY_BYTES_MAX, RUN_MAX
from tapehouse.kv.entries import KEY_BYTES_MAX
from tapehouse.kv.levels import EVENTUAL, LINEARIZABLE, Eventual, Level, Session
from tapehouse.kv.many import Many, Packed
from tapehouse.kv.reference import Stored
from tapehouse.kv.requests import RESERVED
from tapehouse.log import MemoryLog
from tests.support.kv_world import StillClock, open_kv
from tests.support.resp_world import Talk, array

KEYS = [b"a", b"b", b"{a}c", b"", b"key:1", b"k" * 300, b"\x00\xff", RESERVED + b"x", b"l" * (KEY_BYTES_MAX + 1)]
SIZES = [0, 1, 9, 10, 99, 100, 9_999, 70_000]
LEVELS = [b"eventual", b"eventual 100000", b"session", b"linearizable"]

keys = st.sampled_from(KEYS)
gets = st.tuples(st.just(b"GET"), keys)
sets = st.builds(
    lambda key, size, fill: (b"SET", key, bytes([fill]) * size), keys, st.sampled_from(SIZES), st.integers(0, 255)
)
others = st.one_of(
    st.builds(lambda key: (b"SET", key, b"1", b"EX", b"50"), keys),
    st.builds(lambda key: (b"SET", key, b"2", b"NX"), keys),
    st.builds(lambda key: (b"DEL", key, b"a"), keys),
    st.builds(lambda key: (b"MSET", key, b"7", b"b", b"8"), keys),
    st.builds(lambda key: (b"MGET", key, b"a"), keys),
    st.builds(lambda key: (b"INCR", key), keys),
    st.builds(lambda key: (b"TTL", key), keys),
    st.builds(lambda level: (b"READLEVEL", *level.split()), st.sampled_from(LEVELS)),
    st.sampled_from(
        [(b"PING",), (b"GET",), (b"GET", b"a", b"b"), (b"HELLO", b"3"), (b"HELLO", b"2"), (b"BATCH", b"2")]
    ),
)
pipelines = st.lists(st.one_of(gets, gets, sets, sets, others), max_size=40)


@settings(max_examples=60, deadline=None)
@given(st.lists(pipelines, max_size=4), st.sampled_from([1, 3]))
def test_runs_are_answered_as_one_by_one(said: list[list[tuple[bytes, ...]]], shards: int) -> None:
    async def world() -> None:
        told = []
        for has_runs in (True, False):
            clock = StillClock()
            async with await open_kv(*[MemoryLog(f"KV_{n}") for n in range(shards)], clock=clock) as kv:
                talk = Talk(kv, clock, has_runs=has_runs)
                told.append([await talk.say(b"".join(array(*words) for words in pipeline)) for pipeline in said])
        assert told[0] == told[1]

    asyncio.run(world())


@pytest.mark.parametrize("level", ["eventual", "session", "linearizable"])
async def test_long_runs_and_long_replies(level: str) -> None:
    clock = StillClock()
    async with await open_kv(MemoryLog("KV_0"), MemoryLog("KV_1"), clock=clock) as kv:
        talk = Talk(kv, clock)
        await talk.ask(f"READLEVEL {level}")
        count, size = RUN_MAX + 17, 8 * REPLY_BYTES_MAX // RUN_MAX
        names = [b"key:%d" % number for number in range(count)]
        values = [name * (size // len(name)) for name in names]
        for name, value in zip(names, values, strict=True):
            assert await talk.say(array(b"SET", name, value)) == b"+OK\r\n"
        replies = b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in values)
        assert await talk.say(b"".join(array(b"GET", name) for name in names)) == replies
        assert await talk.say(b"".join(array(b"SET", name, b"x") for name in names)) == b"+OK\r\n" * count


async def test_values_that_are_not_in_memory() -> None:
    clock, random = StillClock(), Random(5)
    names = [b"key:%d" % number for number in range(1_500)]
    values = {name: random.randbytes(100_000) for name in names}
    async with await open_kv(MemoryLog("KV_0"), clock=clock) as kv:
        talk = Talk(kv, clock)
        for name, value in values.items():
            await talk.say(array(b"SET", name, value))
        assert kv.nodes[0].view.metrics().evicted_keys > 0
        for level in ("eventual", "linearizable"):
            await talk.ask(f"READLEVEL {level}")
            some = random.sample(names, 30)
            told = await talk.say(b"".join(array(b"GET", name) for name in some))
            assert told == b"".join(b"$100000\r\n%b\r\n" % values[name] for name in some)
        some = [*random.sample(names, 30), b"none"]
        found = await Many(kv).get(Packed.of(some), LINEARIZABLE)
        assert [found.values.item(place) for place in range(30)] == [values[name] for name in some[:30]]
        assert found.values.item(30) == b""
        assert found.revisions[30] == 0


async def test_a_run_whose_slots_have_moved() -> None:
    """The map is wrong until somebody looks again: nothing is lost, and nothing is read where it is no longer."""
    clock = StillClock()
    async with await open_kv(MemoryLog("KV_0"), MemoryLog("KV_1"), clock=clock) as kv:
        talk = Talk(kv, clock)
        names = [b"key:%d" % number for number in range(40)]
        right = kv.shards.owners.copy()
        kv.shards.owners[:] = 1 - right
        asking = asyncio.ensure_future(talk.say(b"".join(array(b"SET", name, name) for name in names)))
        while not asking.done():
            await asyncio.sleep(0)
            clock.advance(0.1)
        assert await asking == b"+OK\r\n" * 40
        kv.shards.owners[:] = 1 - right
        asking = asyncio.ensure_future(talk.say(b"".join(array(b"GET", name) for name in names)))
        while not asking.done():
            await asyncio.sleep(0)
            clock.advance(0.1)
        assert await asking == b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for name in names)
        assert kv.shards.owners.tolist() == right.tolist()


levels = st.sampled_from([EVENTUAL, Eventual(10**12), LINEARIZABLE])


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.binary(max_size=30), st.binary(max_size=200), max_size=40),
    st.lists(st.binary(max_size=30), max_size=20), levels, st.sampled_from([1, 3]), st.integers(0, 2**32),
)  # fmt: skip
def test_many_are_read_as_each(
    held: dict[bytes, bytes], absent: list[bytes], level: Level, shards: int, seed: int
) -> None:
    async def world() -> None:
        clock: Any = StillClock()
        async with await open_kv(*[MemoryLog(f"KV_{n}") for n in range(shards)], clock=clock) as kv:
            for key, value in held.items():
                if not key.startswith(RESERVED):
                    await kv.put(key, value)
            asked = [key for key in [*held, *absent, *held] if not key.startswith(RESERVED)]
            Random(seed).shuffle(asked)
            session = Session()
            for at in (level, session):
                found = await Many(kv).get(Packed.of(asked), at)
                for place, key in enumerate(asked):
                    row = await kv.get(key)
                    assert found.values.item(place) == (row.value if row else b"")
                    assert found.revisions.item(place) == (row.revision if row else 0)
            if asked:
                assert session.text

    asyncio.run(world())


async def test_keys_that_nobody_may_read() -> None:
    async with await open_kv(MemoryLog("KV_0"), clock=StillClock()) as kv:
        for key in (RESERVED + b"x", b"k" * (KEY_BYTES_MAX + 1)):
            with pytest.raises(DataError):
                await Many(kv).get(Packed.of([b"a", key]))
        assert len((await Many(kv).get(Packed.of([]))).values) == 0


class Upper:
    """A derived prefix: what a key holds is the rest of it in upper case."""

    prefixes: ClassVar[dict[bytes, str]] = {b"up/": "nothing"}

    async def get(self, key: bytes, level: Level) -> Stored | None:
        return Stored(key.removeprefix(b"up/").upper(), 0, 0)

    async def scan(self, prefix: bytes, level: Level, *, after: bytes | None, limit: int) -> list[tuple[bytes, Stored]]:
        return []


async def test_derived_keys_are_no_keys_of_runs() -> None:
    async with await open_kv(MemoryLog("KV_0"), clock=StillClock(), derived=Upper()) as kv:
        talk = Talk(kv, StillClock())
        for level in ("eventual", "linearizable"):
            await talk.ask(f"READLEVEL {level}")
            told = await talk.say(b"SET a 1\r\nSET up/x 2\r\nSET b 3\r\nGET a\r\nGET up/y\r\nGET b\r\n")
            assert told.startswith(b"+OK\r\n-READONLY b'up/x': up/ is derived")
            assert told.endswith(b"+OK\r\n$1\r\n1\r\n$1\r\nY\r\n$1\r\n3\r\n")
        found = await Many(kv).get(Packed.of([b"a", b"up/z", b"b"]))
        assert [found.values.item(place) for place in range(3)] == [b"1", b"Z", b"3"]
