"""One connection without I/O: answers in the order of requests, who may do what, bounds, batches, its own commands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import InvariantError
from tapehouse.gateway.resp_commands import COMMANDS, NUMBERS
from tapehouse.gateway.resp_layout import COMMAND, REQUEST_BYTES_MAX, REQUESTS
from tapehouse.gateway.resp_parse import Rows
from tapehouse.gateway.resp_requests import Read, Write
from tapehouse.gateway.resp_runs import Run, WriteRun
from tapehouse.gateway.resp_session import (
    HELD_BYTES_MAX,
    LOST_BYTES,
    OWED_BYTES_MAX,
    PIPELINE_BYTES_MAX,
    PIPELINE_MAX,
    Asked,
    RespSession,
    Together,
)
from tapehouse.kv.levels import LINEARIZABLE, Eventual, Level

ROWS = Rows()
NOW = 1_700_000_000_000_000_000


def session(**options: Any) -> RespSession:
    return RespSession(ROWS, identity=7, peer="127.0.0.1:1", **options)


def said(one: RespSession, *lines: bytes) -> bytes:
    """What a connection answers by itself."""
    for line in lines:
        assert one.feed(line + b"\r\n", NOW) == []
    return b"".join(one.take_replies())


def test_answers_come_in_the_order_of_the_requests() -> None:
    one = session()
    asked = one.feed(b"GET a\r\nPING\r\nGET b\r\nECHO x\r\n", NOW)
    assert [item.number for item in asked] == [0, 2]
    assert one.take_replies() == []
    one.answer(2, b"B")
    assert one.take_replies() == []
    one.answer(0, b"A")
    assert b"".join(one.take_replies()) == b"A+PONG\r\nB$1\r\nx\r\n"
    with pytest.raises(InvariantError):
        one.answer(0, b"A")


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"GET k", b"PING", b"SET k v", b"BAD", b"ECHO e"]), max_size=12), st.randoms())
def test_whatever_order_they_are_answered_in(lines: list[bytes], random: Any) -> None:
    one = session()
    asked = one.feed(b"".join(line + b"\r\n" for line in lines), NOW)
    random.shuffle(asked)
    replies = b""
    for item in asked:
        one.answer(item.number, b"<%d>" % item.number)
        replies += b"".join(one.take_replies())
    replies += b"".join(one.take_replies())
    own = {b"PING": b"+PONG\r\n", b"ECHO e": b"$1\r\ne\r\n"}
    own[b"BAD"] = b"-ERR unknown command 'BAD', with args beginning with: \r\n"
    assert replies == b"".join(own.get(line, b"<%d>" % number) for number, line in enumerate(lines))
    assert one.owed == len(replies)


def test_a_protocol_error_is_told_after_what_came_before_it() -> None:
    one = session()
    asked = one.feed(b"GET a\r\n*1\r\n!", NOW)
    assert not one.wants_data
    assert one.is_closing
    assert not one.is_done
    one.answer(asked[0].number, b"A")
    assert b"".join(one.take_replies()) == b"A-ERR Protocol error: expected '$', got '!'\r\n"
    assert one.is_done
    assert one.feed(b"", NOW) == []


def test_quit_ends_it() -> None:
    one = session()
    assert one.feed(b"QUIT\r\nPING\r\n", NOW) == []
    assert b"".join(one.take_replies()) == b"+OK\r\n"
    assert one.is_done


def test_a_browser_is_not_listened_to() -> None:
    one = session()
    assert one.feed(b"POST / HTTP/1.1\r\nSET k v\r\n", NOW) == []
    assert one.take_replies() == []
    assert one.is_done


def test_a_stranger_must_say_who_he_is() -> None:
    one = session(token="secret")
    assert said(one, b"GET a") == b"-NOAUTH Authentication required.\r\n"
    assert said(one, b"HELLO 3").startswith(b"-NOAUTH HELLO must be called")
    assert one.version == 2
    assert said(one, b"AUTH wrong").startswith(b"-WRONGPASS")
    assert said(one, b"AUTH other secret").startswith(b"-WRONGPASS")
    assert said(one, b"HELLO 3 AUTH default secret").startswith(b"%7\r\n")
    assert [item.request for item in one.feed(b"GET a\r\n", NOW)] != []


def test_he_may_say_it_and_go_on_in_one_breath() -> None:
    one = session(token="secret")
    keys = b"".join(b"$1\r\n%d\r\n" % (key % 10) for key in range(20))
    asked = one.feed(b"AUTH secret\r\n*21\r\n$4\r\nMGET\r\n" + keys, NOW)
    assert len(asked) == 1
    assert b"".join(one.take_replies()) == b"+OK\r\n"


def test_a_stranger_cannot_have_much_kept_for_him() -> None:
    one = session(token="secret")
    one.feed(b"*11\r\n", NOW)
    assert b"".join(one.take_replies()) == b"-ERR Protocol error: unauthenticated multibulk length\r\n"
    assert one.is_done


def test_without_a_token_nobody_must() -> None:
    assert said(session(), b"AUTH x").startswith(b"-ERR AUTH <password> called without any password")
    assert said(session(), b"AUTH default x") == b"+OK\r\n"


def test_requests_without_an_answer_are_bounded() -> None:
    one = session()
    asked = one.feed(b"GET a\r\n" * (PIPELINE_MAX + 5), NOW)
    assert len(asked) == PIPELINE_MAX
    assert not one.wants_data
    assert one.feed(b"", NOW) == []
    for item in asked:
        one.answer(item.number, b"x")
    one.take_replies()
    assert not one.wants_data  # what is held comes first
    assert len(one.feed(b"", NOW)) == 5
    assert one.wants_data


def test_their_bytes_are_bounded() -> None:
    one = session()
    request = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$500000\r\n" + b"v" * 500_000 + b"\r\n"
    asked, fed = [], 0
    while one.wants_data:
        asked += one.feed(request[fed % len(request) :][:200_000], NOW)
        fed += len(request[fed % len(request) :][:200_000])
        assert fed < 3 * PIPELINE_BYTES_MAX
    assert (
        sum(len(item.request.entries[0].value) + 40 for item in asked if isinstance(item.request, Write))
        >= PIPELINE_BYTES_MAX
    )
    for item in asked:
        one.answer(item.number, b"+OK\r\n")
    assert one.wants_data


def test_who_does_not_take_answers_is_not_read_from_and_then_cut_off() -> None:
    one = session()
    asked = one.feed(b"GET a\r\n" * 20, NOW)
    one.answer(0, b"x" * OWED_BYTES_MAX)
    assert not one.wants_data
    one.sent(sum(map(len, one.take_replies())))
    assert one.wants_data
    for item in asked[1:]:
        one.answer(item.number, b"x" * (LOST_BYTES // 16))
    assert one.is_lost
    assert one.is_done


def test_answers_of_its_own_are_bounded_too() -> None:
    one = session()
    question = b"COMMAND DOCS\r\n" * PIPELINE_MAX
    one.feed(question, NOW)
    size = len(said(session(), b"COMMAND DOCS"))
    assert one.owed < OWED_BYTES_MAX + size
    told = b"".join(one.take_replies())
    while one.owed:
        one.sent(one.owed)
        one.feed(b"", NOW)
        told += b"".join(one.take_replies())
    assert len(told) == PIPELINE_MAX * size


def test_an_endless_request_is_refused() -> None:
    one = session()
    one.feed(b"*3\r\n$4\r\nMSET\r\n$524288\r\n", NOW)
    fed = 0
    while one.wants_data and fed < 2 * REQUEST_BYTES_MAX:
        one.feed(b"k" * 65_536, NOW)
        fed += 65_536
    assert b"".join(one.take_replies()).startswith(b"-ERR Protocol error: an argument that does not end")
    with pytest.raises(InvariantError):
        session().feed(b"x" * (HELD_BYTES_MAX + 1), NOW)


def test_a_batch_is_one_request() -> None:
    one = session()
    asked = one.feed(b"BATCH 2\r\nPUT {b}a 1 30\r\n*3\r\n$6\r\nINCRBY\r\n$4\r\n{b}n\r\n$1\r\n5\r\nPING\r\n", NOW)
    assert len(asked) == 1
    request = asked[0].request
    assert isinstance(request, Together)
    assert [write.entries[0].key for write in request.writes] == [b"{b}a", b"{b}n"]
    one.answer(asked[0].number, b"*2\r\n")
    assert b"".join(one.take_replies()) == b"*2\r\n+PONG\r\n"


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([b"BATCH 2", b"PUT a 1", b"PUT b 1"], b"-CROSSSLOT "),
        ([b"BATCH 2", b"PUT a 1", b"DEL a"], b"-ERR a key comes twice in one batch"),
        ([b"BATCH 2", b"GET a", b"PUT a 1"], b"-ERR a batch was not applied, its write 1: it is no write of one key"),
        (
            [b"BATCH 2", b"PUT a 1", b"SET a 1 EX x"],
            b"-ERR a batch was not applied, its write 2: value is not an integer",
        ),
        ([b"BATCH 2", b"PUT a 1", b"NO a"], b"-ERR a batch was not applied, its write 2: unknown command 'NO'"),
        ([b"BATCH 1", b"BATCH 1"], b"-ERR a batch was not applied, its write 1: it is no write of one key"),
        ([b"BATCH 1", b"MSET a 1 b 2"], b"-ERR a batch was not applied, its write 1: it is no write of one key"),
    ],
)
def test_a_batch_that_is_none(lines: list[bytes], text: bytes) -> None:
    one = session()
    assert said(one, *lines[:-1]) == b""
    assert said(one, lines[-1]).startswith(text)
    assert said(one, b"PING") == b"+PONG\r\n"


def test_a_batch_that_is_too_large_is_not_kept() -> None:
    one = session()
    value = b"v" * 500_000
    one.feed(b"BATCH 4\r\n", NOW)
    for key in b"abcd":
        one.feed(b"*3\r\n$3\r\nSET\r\n$4\r\n{b}%c\r\n$500000\r\n%b\r\n" % (key, value), NOW)
        assert sum(len(write.entries[0].value) for write in one._batch or []) < 1_000_000
    assert b"".join(one.take_replies()).startswith(b"-ERR a batch of more than")


def test_read_levels() -> None:
    one = session()
    assert said(one, b"READLEVEL") == b"*2\r\n$12\r\nlinearizable\r\n$-1\r\n"
    asked = one.feed(b"GET a\r\nREADLEVEL eventual 5\r\nGET a\r\n", NOW)
    assert [item.level for item in asked] == [LINEARIZABLE, Eventual(5_000_000)]
    one = session()
    assert said(one, b"READLEVEL eventual 5", b"READLEVEL") == b"+OK\r\n*2\r\n$8\r\neventual\r\n:5\r\n"
    assert said(one, b"READLEVEL session", b"READLEVEL") == b"+OK\r\n*2\r\n$7\r\nsession\r\n$0\r\n\r\n"
    assert said(one, b"READLEVEL session nonsense").startswith(b"-ERR ")


def test_its_own_commands() -> None:
    one = session()
    assert said(one, b"PING hi", b"SELECT 0") == b"$2\r\nhi\r\n+OK\r\n"
    assert said(one, b"SELECT 1") == b"-ERR DB index is out of range\r\n"
    assert said(one, b"CLIENT GETNAME", b"CLIENT SETNAME me", b"CLIENT GETNAME") == b"$-1\r\n+OK\r\n$2\r\nme\r\n"
    assert said(one, b"CLIENT ID", b"CLIENT SETINFO lib-name x") == b":7\r\n+OK\r\n"
    assert b"resp=2" in said(one, b"CLIENT INFO")
    assert said(one, b"CLIENT KILL x") == b"-ERR unknown subcommand 'KILL'. Try CLIENT HELP.\r\n"
    assert said(one, b"CLIENT SETNAME") == b"-ERR wrong number of arguments for 'client|setname' command\r\n"
    assert said(one, b"CLIENT SETNAME 'a b'").startswith(b"-ERR Client names cannot contain spaces")
    assert said(one, b"CONFIG GET save") == b"*2\r\n$4\r\nsave\r\n$0\r\n\r\n"
    assert said(one, b"COMMAND COUNT") == b":%d\r\n" % len(COMMANDS)
    assert said(one, b"COMMAND INFO nothing get").startswith(b"*2\r\n*-1\r\n*10\r\n$3\r\nget\r\n:2\r\n*1\r\n")
    assert said(one, b"HELLO 4") == b"-NOPROTO unsupported protocol version\r\n"
    assert said(one, b"HELLO x") == b"-ERR Protocol version is not an integer or out of range\r\n"
    assert said(one, b"HELLO 3 SETNAME") == b"-ERR Syntax error in HELLO option 'SETNAME'\r\n"
    assert said(one, b"HELLO 3 SETNAME you").startswith(b"%7\r\n$6\r\nserver\r\n")
    assert said(one, b"CLIENT GETNAME", b"CLIENT SETNAME ''", b"CLIENT GETNAME") == b"$3\r\nyou\r\n+OK\r\n_\r\n"
    assert said(one, b"CONFIG GET save") == b"%1\r\n$4\r\nsave\r\n$0\r\n\r\n"


class Echoes:
    """Answers GETs straight from the rows, with the keys themselves; two at a time. SETs are handed out.

    Of a whole read it answers one GET of a key of one letter.
    """

    def read_at_once(self, data: Any, size: int, rows: Rows, level: Level, version: int) -> tuple[int, int, bytes]:
        read = bytes(data[:7])
        return (1, 7, b"<%b!>" % read[4:5]) if size >= 7 and read.startswith(b"GET ") else (0, 0, b"")

    def take(
        self, data: Any, rows: Rows, first: int, command: int, level: Level, version: int, *, is_next: bool
    ) -> tuple[int, bytes | Run]:
        last = first
        while last < min(first + 2, int(rows.state[REQUESTS])) and rows.requests[last, COMMAND] == command:
            last += 1
        if command != NUMBERS["GET"] or not is_next:
            return last - first, WriteRun([], [], last - first)
        keys = [rows.words(memoryview(data), row)[1] for row in range(first, last)]
        return last - first, b"".join(b"<%b>" % key for key in keys)


def test_runs_are_taken_from_their_rows() -> None:
    one = session(runs=Echoes())
    assert said(one, b"GET a\r\nGET b\r\nGET c") == b"<a><b><c>"
    assert (one.requests, one.reads_at_once) == (3, 3)
    asked = one.feed(b"SET k v\r\nSET l v\r\nSET m v\r\nGET k\r\nPING\r\n", NOW)
    assert [each.request.count for each in asked if isinstance(each.request, WriteRun)] == [2, 1, 1], (
        "a read that follows a write which is not answered must wait for it"
    )
    assert (one.requests, one.take_replies()) == (8, [])
    for each, reply in zip(asked, (b"1", b"2", b"3"), strict=True):
        one.answer(each.number, reply)
    assert one.take_replies() == [b"1", b"2", b"3", b"+PONG\r\n"]
    assert one.requests == 8


def test_a_read_is_answered_at_once_where_nothing_is_before_it() -> None:
    def answer(one: RespSession, text: bytes) -> int:
        return one.read_at_once(np.frombuffer(text, np.uint8), len(text))

    one = session(runs=Echoes())
    assert answer(one, b"GET a\r\nGET b\r\n") == 7
    assert one.feed(b"GET b\r\nGE", NOW) == []
    assert answer(one, b"GET c\r\n") == 0, "it belongs to what is held"
    assert one.feed(b"T c\r\n", NOW) == []
    assert one.take_replies() == [b"<a!>", b"<b>", b"<c>"]
    assert (one.requests, one.reads_at_once) == (3, 3)
    (asked,) = one.feed(b"SET k v\r\n", NOW)
    assert answer(one, b"GET k\r\n") == 0, "it must see the write"
    one.answer(asked.number, b"+OK\r\n")
    assert answer(one, b"GET k\r\n") == 0, "the write's reply goes first"
    one.take_replies()
    assert answer(one, b"GET k\r\n") == 7
    assert answer(session(runs=Echoes(), token="t"), b"GET k\r\n") == 0
    one.take_replies()
    one.feed(b"BATCH 2\r\n", NOW)
    assert answer(one, b"GET k\r\n") == 0


def test_requests_of_runs_are_bounded_too() -> None:
    one = session(runs=Echoes())
    asked = one.feed(b"SET k v\r\n" * (2 * PIPELINE_MAX), NOW)
    assert sum(each.request.count for each in asked if isinstance(each.request, WriteRun)) == PIPELINE_MAX
    assert one.is_full
    assert not one.wants_data
    one.answer(asked[0].number, b"+OK\r\n")
    assert one.take_replies()
    assert not one.is_full
    assert len(one.feed(b"", NOW)) == 1


def test_what_is_handed_out_is_what_was_asked() -> None:
    asked = session().feed(b"GET a\r\n", NOW)
    assert asked == [Asked(0, Read(1, [b"a"]), LINEARIZABLE)]
