"""Derived prefixes of a KV: read in the same API and over RESP, written by nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from tapehouse.app.kv_derived import NextLook, derived_prefixes
from tapehouse.core.errors import BusUnavailableError
from tapehouse.kv import requests
from tapehouse.kv.client import Kv
from tapehouse.kv.errors import DerivedKeyError
from tapehouse.kv.levels import EVENTUAL, LINEARIZABLE, Level, Session
from tapehouse.kv.reference import Stored
from tapehouse.log import MemoryLog
from tests.support.kv_world import StillClock, open_kv, settle
from tests.support.resp_world import Talk, array


class Positions:
    """A dictionary below `positions/`, that takes note of the levels it was asked at."""

    prefixes: Mapping[bytes, str] = {b"positions/": "tapehouse send"}

    def __init__(self) -> None:
        self.rows = {b"positions/a/%d" % number: b'{"net":%d}' % number for number in (3, 1, 2)}
        self.levels: list[Level] = []
        self.problem: BusUnavailableError | None = None

    async def get(self, key: bytes, level: Level) -> Stored | None:
        self.levels.append(level)
        if self.problem is not None:
            raise self.problem
        return Stored(self.rows[key], 0, 0) if key in self.rows else None

    async def scan(self, prefix: bytes, level: Level, *, after: bytes | None, limit: int) -> list[tuple[bytes, Stored]]:
        found = sorted(key for key in self.rows if key.startswith(prefix) and (after is None or key > after))
        return [(key, Stored(self.rows[key], 0, 0)) for key in found[:limit]]


@pytest.fixture
def positions() -> Positions:
    return Positions()


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def kv(positions: Positions, clock: StillClock) -> AsyncIterator[Kv]:
    async with await open_kv(MemoryLog("KV_0"), clock=clock, derived=positions) as kv:
        yield kv


async def test_reads_go_to_the_projection_at_their_level(kv: Kv, positions: Positions) -> None:
    assert kv.derived_prefixes == (b"positions/",)
    await kv.put(b"positions", b"mine")  # No derived key: the prefix has a slash.
    for level in (EVENTUAL, LINEARIZABLE, Session()):
        found = await kv.get(b"positions/a/1", level)
        assert (found, positions.levels[-1]) == (Stored(b'{"net":1}', 0, 0), level)
    assert await kv.get(b"positions/none") is None
    each = await kv.get_each([b"positions", b"positions/a/2", b"none"], LINEARIZABLE)
    assert [row.value if isinstance(row, Stored) else row for row in each] == [b"mine", b'{"net":2}', None]
    assert [key for key, _ in await kv.scan(b"positions/a/", after=b"positions/a/1", limit=1)] == [b"positions/a/2"]
    assert [key for key, _ in await kv.scan(b"pos")] == [b"positions"], "no wider prefix finds derived keys"
    positions.problem = BusUnavailableError("away")
    each = await kv.get_each([b"positions", b"positions/a/2"])
    assert [type(row) for row in each] == [Stored, BusUnavailableError], "one host's trouble is its own keys'"


async def test_nothing_changes_a_derived_key(kv: Kv) -> None:
    key = b"positions/a/1"
    for change in (
        kv.put(key, b"v"), kv.put_if(key, b"v", 0), kv.delete(key), kv.add(key), kv.expire(key, 1.0), kv.history(key),
        kv.batch([requests.put(b"{positions}", b"v"), requests.put(b"positions/{positions}", b"v")]),
    ):  # fmt: skip
        with pytest.raises(DerivedKeyError, match=r"positions/ is derived .*it changes by tapehouse send"):
            await change
    for now in (lambda: kv.submit([requests.put(key, b"v")]), lambda: kv.watch(b"positions/a")):
        with pytest.raises(DerivedKeyError):
            now()
    assert kv.count_keys() == 0


async def test_redis_clients_read_them_and_are_told_readonly(kv: Kv, clock: StillClock) -> None:
    talk = Talk(kv, clock)
    assert await talk.ask("GET positions/a/1") == b'$9\r\n{"net":1}\r\n'
    assert await talk.ask("EXISTS positions/a/1 positions/b") == b":1\r\n"
    assert await talk.ask("SCAN 0 MATCH positions/*") == b"*2\r\n$1\r\n0\r\n*3\r\n" + b"".join(
        b"$13\r\npositions/a/%d\r\n" % number for number in (1, 2, 3)
    )
    for line in ("SET positions/a/1 v", "DEL k positions/a/1", "INCR positions/n", "EXPIRE positions/a/1 5"):
        assert (await talk.ask(line)).startswith(b"-READONLY b'positions/"), line
    run = b"".join(array(b"SET", key, b"v") for key in (b"a", b"positions/x", b"b"))
    told = await talk.say(run + array(b"GET", b"a") + array(b"GET", b"positions/a/2") + array(b"GET", b"positions/x"))
    lines = told.split(b"\r\n")
    assert (lines[0], lines[1][:9], lines[2]) == (b"+OK", b"-READONLY", b"+OK")
    assert lines[3:] == [b"$1", b"v", b"$9", b'{"net":2}', b"$-1", b""]
    assert kv.count_keys() == 2


async def test_a_kv_without_projections_keeps_such_keys_itself(clock: StillClock) -> None:
    async with await open_kv(MemoryLog("KV_0"), clock=clock) as kv:
        assert kv.derived_prefixes == ()
        assert (await kv.put(b"positions/a", b"v")).is_applied


async def test_who_looks_joins_the_next_look_and_never_one_in_flight() -> None:
    gates: list[asyncio.Future[tuple[int, int]]] = []

    async def look() -> tuple[int, int]:
        gates.append(asyncio.get_running_loop().create_future())
        return await gates[-1]

    looking = NextLook(look)
    first = asyncio.create_task(looking.look())
    await settle(5)
    assert len(gates) == 1
    late = [asyncio.create_task(looking.look()) for _ in range(3)]
    await settle(5)
    assert len(gates) == 1
    gates[0].set_result((1, 1))
    assert await first == (1, 1)
    await settle(5)
    assert len(gates) == 2
    late[0].cancel()  # Who leaves takes nobody with him.
    gates[1].set_result((2, 2))
    assert [await task for task in late[1:]] == [(2, 2), (2, 2)]
    failing = asyncio.create_task(looking.look())
    await settle(5)
    assert len(gates) == 3
    gates[2].set_exception(BusUnavailableError("away"))
    with pytest.raises(BusUnavailableError):
        await failing
    again = asyncio.create_task(looking.look())
    await settle(5)
    assert len(gates) == 4
    gates[3].set_result((3, 3))
    assert await again == (3, 3)
    await looking.close()


def test_every_projection_has_its_prefix() -> None:
    assert sorted(derived_prefixes()) == [b"cash/", b"orders/", b"pnl/", b"positions/", b"prices/", b"surface/"]
