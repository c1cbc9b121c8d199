"""What the words of a request ask for, and what is said of those that ask for nothing."""

from __future__ import annotations

import pytest

from tapehouse.gateway.resp_commands import NUMBERS
from tapehouse.gateway.resp_requests import (
    Answers,
    Batch,
    Failed,
    Read,
    ReadLevel,
    Rebalance,
    Request,
    Write,
    read_request,
)
from tapehouse.kv.entries import Entry, EntryFlag, Op
from tapehouse.kv.levels import Eventual, Linearizable, Session

NOW = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
INTEGER = "ERR value is not an integer or out of range"


def ask(line: str) -> Request:
    words = line.encode().split()
    return read_request(NUMBERS.get(words[0].decode().upper(), 0), words, NOW)


def put(flags: int = 0, expiry: int = 0) -> Entry:
    return Entry(op=Op.PUT, key=b"k", value=b"v", flags=flags, expiry=expiry)


@pytest.mark.parametrize(
    ("line", "entry", "answers"),
    [
        ("SET k v", put(), Answers.OK),
        ("set k v nx", put(EntryFlag.IF_ABSENT), Answers.OK),
        ("SET k v XX GET", put(EntryFlag.IF_PRESENT | EntryFlag.RETURN_OLD), Answers.OLD),
        ("SET k v EX 10", put(expiry=NOW + 10 * SECOND), Answers.OK),
        ("SET k v PX 10 NX", put(EntryFlag.IF_ABSENT, NOW + SECOND // 100), Answers.OK),
        ("SET k v EXAT 2000000000", put(expiry=2_000_000_000 * SECOND), Answers.OK),
        ("SET k v PXAT 2000000000000", put(expiry=2_000_000_000 * SECOND), Answers.OK),
        ("SET k v KEEPTTL", put(EntryFlag.KEEP_EXPIRY), Answers.OK),
        ("SETEX k 3 v", put(expiry=NOW + 3 * SECOND), Answers.OK),
        ("PSETEX k 3000 v", put(expiry=NOW + 3 * SECOND), Answers.OK),
        ("SETNX k v", put(EntryFlag.IF_ABSENT), Answers.APPLIED),
        ("GETSET k v", put(EntryFlag.RETURN_OLD), Answers.OLD),
        ("PUT k v 30", put(expiry=NOW + 30 * SECOND), Answers.OK),
        ("PUT k v", put(), Answers.OK),
        ("GETDEL k", Entry(op=Op.DELETE, key=b"k", flags=EntryFlag.RETURN_OLD), Answers.OLD),
        ("EXPIRE k 5", Entry(op=Op.EXPIRE, key=b"k", expiry=NOW + 5 * SECOND), Answers.APPLIED),
        ("EXPIRE k 0", Entry(op=Op.DELETE, key=b"k"), Answers.APPLIED),
        ("EXPIREAT k 5", Entry(op=Op.DELETE, key=b"k"), Answers.APPLIED),
        ("PEXPIRE k -5", Entry(op=Op.DELETE, key=b"k"), Answers.APPLIED),
        ("PERSIST k", Entry(op=Op.EXPIRE, key=b"k"), Answers.APPLIED),
    ],
)
def test_writes_of_one_key(line: str, entry: Entry, answers: Answers) -> None:
    request = ask(line)
    assert isinstance(request, Write)
    assert (request.entries, request.answers) == ([entry], answers)


@pytest.mark.parametrize(("line", "amount"), [("INCR k", 1), ("DECR k", -1), ("INCRBY k -9", -9), ("DECRBY k 7", -7)])
def test_sums(line: str, amount: int) -> None:
    value = amount.to_bytes(8, "little", signed=True)
    entry = Entry(op=Op.ADD, key=b"k", value=value, flags=EntryFlag.RETURN_OLD)
    assert ask(line) == Write(NUMBERS[line.split()[0]], [entry], Answers.SUM, amount)


def test_several_keys() -> None:
    mset, deleted, read = ask("MSET a 1 b 2 a 3"), ask("DEL a b a"), ask("MGET a b a")
    assert isinstance(mset, Write)
    assert isinstance(deleted, Write)
    assert {entry.key: entry.value for entry in mset.entries} == {b"a": b"3", b"b": b"2"}
    assert [entry.key for entry in deleted.entries] == [b"a", b"b"]
    assert read == Read(NUMBERS["MGET"], [b"a", b"b", b"a"])


def test_our_own() -> None:
    assert ask("BATCH 2") == Batch(2)
    assert ask("REBALANCE 8") == Rebalance(8)
    assert ask("READLEVEL") == ReadLevel(None)
    assert ask("READLEVEL Linearizable") == ReadLevel(Linearizable())
    assert ask("READLEVEL eventual 50") == ReadLevel(Eventual(50_000_000))
    level = ask("READLEVEL session")
    assert isinstance(level, ReadLevel)
    assert isinstance(level.level, Session)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("GET", "ERR wrong number of arguments for 'get' command"),
        ("GET a b", "ERR wrong number of arguments for 'get' command"),
        ("MSET a 1 b", "ERR wrong number of arguments for 'mset' command"),
        ("PUT a b 1 2", "ERR wrong number of arguments for 'put' command"),
        ("LPUSH a b", "ERR unknown command 'LPUSH', with args beginning with: 'a' 'b' "),
        ("SET k v NX XX", "ERR syntax error"),
        ("SET k v EX", "ERR syntax error"),
        ("SET k v EX 1 PX 1", "ERR syntax error"),
        ("SET k v KEEPTTL EX 1", "ERR syntax error"),
        ("SET k v EX x BAD", "ERR syntax error"),
        ("SET k v EX x", INTEGER),
        ("SET k v EX 1.5", INTEGER),
        ("SET k v EX +5", INTEGER),
        ("SET k v EX 0", "ERR invalid expire time in 'set' command"),
        ("SET k v PX -1", "ERR invalid expire time in 'set' command"),
        ("SET k v EX 9223372036854775807", "ERR invalid expire time in 'set' command"),
        ("SETEX k 0 v", "ERR invalid expire time in 'setex' command"),
        ("EXPIRE k 9223372036854775807", "ERR invalid expire time in 'expire' command"),
        ("EXPIRE k -9223372036854775808", "ERR invalid expire time in 'expire' command"),
        ("EXPIRE k 10 NX", "ERR Unsupported option NX"),
        ("INCRBY k 9223372036854775808", INTEGER),
        ("INCRBY k 01", INTEGER),
        ("DECRBY k -9223372036854775808", "ERR decrement would overflow"),
        ("SCAN x", "ERR invalid cursor"),
        ("SCAN 0 COUNT 0", "ERR syntax error"),
        ("SCAN 0 MATCH", "ERR syntax error"),
        ("BATCH 0", "ERR a batch of 0 writes: 1 to 128"),
        ("BATCH 129", "ERR a batch of 129 writes: 1 to 128"),
        ("REBALANCE 0", "ERR 0 shards: 1 to 256"),
        ("READLEVEL strong", "ERR no read level 'strong': one of eventual, session, linearizable"),
        ("READLEVEL linearizable 5", "ERR wrong number of arguments for 'readlevel' command"),
        ("READLEVEL eventual -1", INTEGER),
        (f"GET {'k' * 1_025}", "ERR a key of 1025 bytes: at most 1024"),
        (f"MSET a 1 {'k' * 1_025} 2", "ERR a key of 1025 bytes: at most 1024"),
        ("SET \x00tapehouse/shards 1", "ERR a key of the KV's own: choose another one"),
    ],
)
def test_mistakes(line: str, text: str) -> None:
    assert ask(line) == Failed(text)


def test_a_session_that_was_mistyped() -> None:
    request = ask("READLEVEL session abc")
    assert isinstance(request, Failed)
    assert "is no session token" in request.text


def test_the_echo_of_an_unknown_command_is_bounded() -> None:
    request = read_request(0, [b"x" * 10_000, *[b"y" * 100] * 1_000], NOW)
    assert isinstance(request, Failed)
    assert len(request.text) < 500
