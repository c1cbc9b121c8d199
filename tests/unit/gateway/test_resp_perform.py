"""Conversations with a KV in memory over RESP: what is answered is what was done."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tapehouse.core.errors import BusyError, TransientError, UsageError
from tapehouse.gateway.resp_replies import error_reply, value
from tapehouse.kv.client import Kv
from tapehouse.kv.errors import CrossSlotError, OutcomeUnknownError
from tapehouse.kv.levels import LINEARIZABLE
from tapehouse.log import MemoryLog
from tests.support.kv_world import StillClock, open_kv
from tests.support.resp_world import Talk, array


@pytest.fixture
async def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def kv(clock: StillClock) -> AsyncIterator[Kv]:
    async with await open_kv(MemoryLog("KV_0"), MemoryLog("KV_1"), clock=clock) as kv:
        yield kv


@pytest.fixture
async def talk(kv: Kv, clock: StillClock) -> Talk:
    return Talk(kv, clock)


async def test_set_and_get(talk: Talk) -> None:
    assert await talk.ask("GET k") == b"$-1\r\n"
    assert await talk.ask("SET k v") == b"+OK\r\n"
    assert await talk.ask("SET k w NX") == b"$-1\r\n"
    assert await talk.ask("SET k w NX GET") == b"$1\r\nv\r\n"
    assert await talk.ask("SET k w XX GET") == b"$1\r\nv\r\n"
    assert await talk.ask("SET none w XX") == b"$-1\r\n"
    assert await talk.ask("GETDEL k") == b"$1\r\nw\r\n"
    assert await talk.ask("GETDEL k") == b"$-1\r\n"
    assert await talk.ask("SETNX k 1") + await talk.ask("SETNX k 2") == b":1\r\n:0\r\n"
    assert await talk.ask("TYPE k") + await talk.ask("TYPE none") == b"+string\r\n+none\r\n"
    await talk.ask("HELLO 3")
    assert await talk.ask("GET none") == b"_\r\n"


async def test_keys_of_several_shards(talk: Talk) -> None:
    assert await talk.ask("MSET a 1 b 2 c 3 a 4") == b"+OK\r\n"
    assert await talk.ask("MGET a none b a") == b"*4\r\n$1\r\n4\r\n$-1\r\n$1\r\n2\r\n$1\r\n4\r\n"
    assert await talk.ask("EXISTS a a none b") == b":3\r\n"
    first, second = talk.gateway.kv.nodes
    assert [key for key, _ in first.view.scan(b"") if len(key) == 1] == [b"b", b"c"]
    assert [key for key, _ in second.view.scan(b"") if len(key) == 1] == [b"a"]
    assert await talk.ask("DBSIZE") == b":3\r\n"
    assert await talk.ask("DEL a a none c") == b":2\r\n"


async def test_numbers(talk: Talk) -> None:
    assert (
        await talk.ask("INCR n") + await talk.ask("INCRBY n 41") + await talk.ask("DECR n") == b":1\r\n:42\r\n:41\r\n"
    )
    assert await talk.ask("DECRBY n -9223372036854775807") == b"-ERR increment or decrement would overflow\r\n"
    await talk.ask("SET n x")
    assert await talk.ask("INCR n") == b"-ERR value is not an integer or out of range\r\n"


async def test_times(talk: Talk, clock: StillClock) -> None:
    await talk.ask("SET k v EX 10")
    assert await talk.ask("TTL k") + await talk.ask("PTTL k") == b":10\r\n:10000\r\n"
    clock.advance(9.4)
    assert await talk.ask("TTL k") + await talk.ask("PTTL k") == b":1\r\n:600\r\n"
    assert await talk.ask("SET k w KEEPTTL") + await talk.ask("PTTL k") == b"+OK\r\n:600\r\n"
    assert await talk.ask("PERSIST k") + await talk.ask("TTL k") == b":1\r\n:-1\r\n"
    assert await talk.ask("EXPIRE k 5") + await talk.ask("EXPIRE none 5") == b":1\r\n:0\r\n"
    clock.advance(5)
    await talk.ask("SET other v")  # the log's time goes on with what is written
    assert await talk.ask("TTL k") + await talk.ask("GET k") == b":-2\r\n$-1\r\n"
    assert await talk.ask("EXPIRE other -1") + await talk.ask("EXISTS other") == b":1\r\n:0\r\n"


async def test_a_pipeline_reads_what_it_wrote(talk: Talk) -> None:
    await talk.ask("READLEVEL eventual")
    line = b"".join(b"SET k %d\r\nGET k\r\nINCR k\r\n" % number for number in range(5))
    told = b"".join(b"+OK\r\n$1\r\n%d\r\n:%d\r\n" % (number, number + 1) for number in range(5))
    assert await talk.say(line) == told


async def test_a_session_goes_on_elsewhere(kv: Kv, clock: StillClock, talk: Talk) -> None:
    assert await talk.ask("READLEVEL session") == b"+OK\r\n"
    await talk.ask("SET k v")
    token = (await talk.ask("READLEVEL")).split(b"\r\n")[4].decode()
    assert token
    other = Talk(kv, clock)
    assert await other.ask(f"READLEVEL session {token}") == b"+OK\r\n"
    assert await other.ask("GET k") == b"$1\r\nv\r\n"


async def test_a_batch_is_applied_as_a_whole(talk: Talk) -> None:
    assert (
        await talk.say(b"BATCH 3\r\nPUT {b}a 1 30\r\nINCR {b}n\r\nSET {b}c x GET\r\n") == b"*3\r\n+OK\r\n:1\r\n$-1\r\n"
    )
    assert await talk.ask("TTL {b}a") == b":30\r\n"
    refused = await talk.say(b"BATCH 2\r\nPUT {b}d 1\r\nSET {b}a 2 NX\r\n")
    assert refused == b"-REFUSED the batch was not applied; its write 2: the key is there already\r\n"
    assert await talk.say(b"BATCH 2\r\nPUT {b}d 1\r\nINCR {b}c\r\n") == (
        b"-ERR the batch was not applied; its write 2: value is not an integer or out of range\r\n"
    )
    assert await talk.ask("MGET {b}a {b}d") == b"*2\r\n$1\r\n1\r\n$-1\r\n"


async def test_scan_finds_each_key_once(talk: Talk) -> None:
    keys = sorted(b"%s:%d" % (kind, number) for kind in (b"bid", b"ask") for number in range(17))
    await talk.say(b"".join(b"SET %b v\r\n" % key for key in keys))
    for pattern, expected in ((b"*", keys), (b"bid:*", keys[17:]), (b"*:1?", [key for key in keys if len(key) == 6])):
        found, cursor, pages = [], b"0", 0
        while pages == 0 or cursor != b"0":
            lines = (await talk.say(array(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"5"))).split(b"\r\n")
            assert lines[:1] == [b"*2"]
            cursor, pages = lines[2], pages + 1
            found += lines[5::2]
        assert found == expected
    assert await talk.ask("SCAN 0 TYPE list") == b"*2\r\n$1\r\n0\r\n*0\r\n"
    assert (await talk.ask("SCAN 999")).startswith(b"-ERR invalid cursor: this gateway does not know it")


async def test_what_the_gateway_itself_is_asked(talk: Talk) -> None:
    assert await talk.ask("REBALANCE 8") == b"+OK\r\n"
    assert talk.rebalanced == [8]
    assert b"redis_version:7.0.0" in await talk.ask("INFO")


async def test_values_of_any_bytes(talk: Talk) -> None:
    value = bytes(range(256))
    assert await talk.say(array(b"SET", value, value)) == b"+OK\r\n"
    assert await talk.say(array(b"GET", value)) == b"$256\r\n%b\r\n" % value
    stored = await talk.gateway.kv.get(value, LINEARIZABLE)
    assert stored is not None
    assert stored.value == value


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (BusyError("full"), b"-BUSY full\r\n"),
        (OutcomeUnknownError("who\r\nknows"), b"-UNKNOWN who  knows\r\n"),
        (TransientError("later"), b"-TRYAGAIN later\r\n"),
        (UsageError("no"), b"-ERR no\r\n"),
        (CrossSlotError("x"), b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"),
    ],
)
def test_problems_of_ours(problem: TransientError, told: bytes) -> None:
    assert error_reply(problem) == told


async def test_a_version_holds_from_its_place_in_a_pipeline_on(talk: Talk) -> None:
    told = await talk.say(b"GET none\r\nMGET none\r\nHELLO 3\r\nGET none\r\nMGET none\r\nHELLO 2\r\nGET none\r\n")
    assert told.startswith(b"$-1\r\n*1\r\n$-1\r\n%7\r\n")
    assert b"\r\n_\r\n*1\r\n_\r\n*14\r\n" in told
    assert told.endswith(b"\r\n$-1\r\n")


def test_values_in_both_versions() -> None:
    content = {"a": None, "b": [1, True], "c": 1.5, "d": frozenset({"y", "x"})}
    assert value(content, 2) == (
        b"*8\r\n$1\r\na\r\n$-1\r\n$1\r\nb\r\n*2\r\n:1\r\n:1\r\n$1\r\nc\r\n$3\r\n1.5\r\n"
        b"$1\r\nd\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n"
    )
    assert value(content, 3) == (
        b"%4\r\n$1\r\na\r\n_\r\n$1\r\nb\r\n*2\r\n:1\r\n#t\r\n$1\r\nc\r\n,1.5\r\n$1\r\nd\r\n~2\r\n$1\r\nx\r\n$1\r\ny\r\n"
    )
