"""Random conversations of the common commands are answered byte for byte as a real redis-server answers them."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tapehouse.log import MemoryLog
from tests.support import redis_server
from tests.support.kv_world import StillClock, open_kv
from tests.support.resp_world import Talk, array

pytestmark = pytest.mark.skipif(not redis_server.is_installed(), reason=redis_server.REASON)

CONVERSATIONS = 20
REQUESTS = 100
END = b"$3\r\nend\r\n"
KEYS = [b"a", b"b", b"{t}c", b"", b"\x00\xff"]
VALUES = [b"", b"1", b"-5", b"9223372036854775807", b"x y", b"\r\n", b"01", b"v" * 2_000]
NUMBERS = [b"1", b"-3", b"0", b"9223372036854775807", b"-9223372036854775808", b"+1", b"x", b"1.0", b" 1", b"007"]
LATER = [b"100000", b"99999", b"x", b"", b"0", b"-1", b"9223372036854775807"]
OPTIONS = [b"NX", b"xx", b"GET", b"KEEPTTL", b"EX", b"PX", b"EXAT", b"PXAT", b"BAD", b"nx"]


def some(random: Random, count: int) -> list[bytes]:
    return [random.choice(KEYS) for _ in range(count)]


def set_words(random: Random) -> list[bytes]:
    words = [b"SET", random.choice(KEYS), random.choice(VALUES)]
    for option in random.sample(OPTIONS, random.choice([0, 0, 1, 1, 2, 3])):
        words.append(option)
        if option in (b"EX", b"PX") and random.random() < 0.9:
            words.append(random.choice(LATER))
        elif option in (b"EXAT", b"PXAT"):
            words.append(random.choice([b"4000000000" if option == b"EXAT" else b"4000000000000", b"0", b"-1", b"x"]))
    return words


def request(random: Random) -> list[bytes]:
    """The words of a request that both should answer alike: no reply tells a time, or in what order keys lie."""
    key, choice = random.choice(KEYS), random.randrange(16)
    if choice < 4:
        return set_words(random)
    return [
        [random.choice([b"GET", b"get", b"GETDEL", b"TYPE"]), key],
        [b"MGET", *some(random, random.randrange(4))],
        [b"MSET", *[random.choice(KEYS + VALUES[:3]) for _ in range(random.randrange(6))]],
        [random.choice([b"DEL", b"UNLINK", b"EXISTS"]), *some(random, random.randrange(4))],
        [random.choice([b"INCR", b"DECR"]), key],
        [random.choice([b"INCRBY", b"DECRBY"]), key, random.choice(NUMBERS)],
        [random.choice([b"EXPIRE", b"PEXPIRE", b"EXPIREAT"]), key, random.choice([b"4000000000", *LATER])],
        [random.choice([b"SETEX", b"PSETEX"]), key, random.choice(LATER), random.choice(VALUES)],
        [random.choice([b"SETNX", b"GETSET"]), key, random.choice(VALUES)],
        [b"PING", *random.choices(VALUES, k=random.randrange(3))],
        [b"DBSIZE"],
        random.choice([[b"NOSUCH", b"x\r\ny", b"z"], [b"GET"], [b"SET", b"a"], [b""], [b"ECHO"], [b"CLIENT", b"NO"],
                       [b"SELECT", b"0"], [b"SELECT", b"99"], [b"SELECT", b"x"], [b"HELLO", b"9"], [b"HELLO", b"x"],
                       [b"SCAN", b"0", b"COUNT", b"0"], [b"SCAN", b"x"], [b"SCAN", b"0", b"BAD"], [b"PTTL", b"none"],
                       [b"CLIENT", b"SETNAME", b"a b"], [b"CLIENT", b"SETNAME", b"n"], [b"CLIENT", b"GETNAME"],
                       [b"AUTH", b"x"], [b"AUTH", b"other", b"x"], [b"HELLO", b"3", b"WHAT"]]),
    ][choice - 4]  # fmt: skip


def spoken(random: Random, words: list[bytes]) -> bytes:
    """As an array, or as a plain line where it can be one."""
    is_plain = all(word and word.isalnum() for word in words)
    return b" ".join(words) + b"\r\n" if is_plain and random.random() < 0.5 else array(*words)


@pytest.mark.parametrize("version", [2, 3])
async def test_conversations(version: int, tmp_path: Path) -> None:
    random = Random(version)
    with redis_server.connected(tmp_path) as link:
        for conversation in range(CONVERSATIONS):
            clock = StillClock()
            async with await open_kv(MemoryLog("KV_0"), MemoryLog("KV_1"), clock=clock) as kv:
                talk = Talk(kv, clock)
                redis_server.ask(
                    link, array(b"FLUSHALL") + array(b"HELLO", b"%d" % version) + array(b"ECHO", b"end"), END
                )
                await talk.say(array(b"HELLO", b"%d" % version))
                redis_server.ask(link, array(b"CLIENT", b"SETNAME", b"") + array(b"ECHO", b"end"), END)
                for _ in range(REQUESTS):
                    words = request(random)
                    data = spoken(random, words)
                    theirs = redis_server.ask(link, data + array(b"ECHO", b"end"), END)
                    assert await talk.say(data) == theirs, (conversation, words)
