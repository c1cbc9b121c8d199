"""Replies as bytes, in RESP2 and RESP3; and what became of writes and reads, as replies.

Source: the Redis serialization protocol specification, versions 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from tapehouse.core.errors import AmbiguousAppendError, BusyError, TapehouseError, TransientError
from tapehouse.gateway.resp_commands import NUMBERS
from tapehouse.gateway.resp_requests import NS_PER_MS, Answers, Read, Write
from tapehouse.gateway.resp_words import NOT_INTEGER
from tapehouse.kv.entries import Status
from tapehouse.kv.errors import CrossSlotError, DerivedKeyError, OutcomeUnknownError
from tapehouse.kv.reference import Stored

Value = None | bool | int | float | bytes | str | Sequence["Value"] | Mapping[str, "Value"] | frozenset[str]

REPLY_BYTES_MAX = 32 * 1024 * 1024  # of the values of one MGET together


class Answer(Protocol):
    """What became of an entry: `kv.entries.Answer`, or `kv.requests.Outcome`."""

    @property
    def status(self) -> Status:
        """Whether it was applied."""
        ...

    @property
    def old(self) -> bytes | None:
        """The value before."""
        ...


OK = b"+OK\r\n"
PONG = b"+PONG\r\n"
_BREAKS = str.maketrans("\r\n", "  ")
_EXISTS, _GET, _MGET, _TTL, _PTTL, _TYPE = (NUMBERS[name] for name in ("EXISTS", "GET", "MGET", "TTL", "PTTL", "TYPE"))

# What a client is told of an entry that was not applied, where that is no plain answer to what it asked.
REFUSALS = {
    Status.CHANGED: "CHANGED the key has another revision",
    Status.NOT_AN_INTEGER: NOT_INTEGER,
    Status.OVERFLOW: "ERR increment or decrement would overflow",
    Status.NOT_OWNED: "TRYAGAIN the key's slot has moved to another shard: ask again",
    Status.FROZEN: "TRYAGAIN the key's slot is on its way to another shard: ask again",
    Status.BAD_BATCH: "ERR what no batch may hold, or a key twice in one",
    Status.REPEATED: "UNKNOWN the write may have been applied: read the key, then decide",
    Status.OUT_OF_TURN: "UNKNOWN the write may have been applied: read the key, then decide",
}
CONDITIONS = {Status.ABSENT: "there is no such key", Status.PRESENT: "the key is there already"}
CROSS_SLOT = "CROSSSLOT Keys in request don't hash to the same slot"


def error(text: str) -> bytes:
    """An error; its first word is what clients tell errors apart by. Bytes above 127 come as they came in."""
    return b"-%b\r\n" % text.translate(_BREAKS).encode("latin-1", "replace")


def status(text: str) -> bytes:
    """A short answer without line ends."""
    return b"+%b\r\n" % text.encode("ascii")


def integer(number: int) -> bytes:
    """A number."""
    return b":%d\r\n" % number


def bulk(value: bytes) -> bytes:
    """A string of any bytes."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def null(version: int) -> bytes:
    """Nothing where a string could be."""
    return b"$-1\r\n" if version == 2 else b"_\r\n"


def array_head(count: int) -> bytes:
    """The beginning of an array; its elements follow."""
    return b"*%d\r\n" % count


def verbatim(text: str, version: int) -> bytes:
    """A text for people, of several lines."""
    raw = text.encode()
    return bulk(raw) if version == 2 else b"=%d\r\ntxt:%b\r\n" % (len(raw) + 4, raw)


def value(content: Value, version: int) -> bytes:
    """Any value: strings as bulk strings; maps, sets, booleans and doubles as RESP3 has them or RESP2 does without."""
    if content is None:
        return null(version)
    if isinstance(content, bool):
        return integer(content) if version == 2 else (b"#t\r\n" if content else b"#f\r\n")
    if isinstance(content, int):
        return integer(content)
    if isinstance(content, float):
        text = b"%.17g" % content
        return bulk(text) if version == 2 else b",%b\r\n" % text
    if isinstance(content, bytes):
        return bulk(content)
    if isinstance(content, str):
        return bulk(content.encode())
    if isinstance(content, Mapping):
        head = array_head(2 * len(content)) if version == 2 else b"%%%d\r\n" % len(content)
        return head + b"".join(value(key, version) + value(item, version) for key, item in content.items())
    if isinstance(content, frozenset):
        head = array_head(len(content)) if version == 2 else b"~%d\r\n" % len(content)
        return head + b"".join(value(item, version) for item in sorted(content))
    return array_head(len(content)) + b"".join(value(item, version) for item in content)


def read_reply(read: Read, found: Sequence[Stored | None], now: int, version: int) -> bytes:
    """The reply to a read.

    Args:
        found: What each of its keys holds; None for nothing.
        now: UTC ns, for what a key has left.
    """
    first = found[0]
    if read.command == _GET:
        return null(version) if first is None else bulk(first.value)
    if read.command == _MGET:
        size = sum(len(row.value) for row in found if row is not None)
        if size > REPLY_BYTES_MAX:
            return error(f"ERR values of {size} bytes together: at most {REPLY_BYTES_MAX}; ask for fewer keys")
        return value([None if row is None else row.value for row in found], version)
    if read.command == _EXISTS:
        return integer(sum(row is not None for row in found))
    if read.command == _TYPE:
        return status("none" if first is None else "string")
    if first is None:
        return integer(-2)
    if first.expiry == 0:
        return integer(-1)
    left_ms = max(first.expiry - now, 0) // NS_PER_MS
    assert read.command in (_TTL, _PTTL)
    return integer(left_ms if read.command == _PTTL else (left_ms + 500) // 1_000)


def write_reply(write: Write, answers: Sequence[Answer], version: int) -> bytes:
    """The reply to a write, from the answer of each of its entries.

    Where some of several keys were written and others could not be, the error says how many were.
    """
    refused = [answer.status for answer in answers if answer.status in REFUSALS]
    if refused:
        text = REFUSALS[refused[0]]
        applied = sum(answer.status is Status.APPLIED for answer in answers)
        if len(answers) > 1:
            text += f" ({applied} of {len(answers)} keys were written)"
        return error(text)
    first = answers[0]
    if write.answers is Answers.OLD:
        return null(version) if first.old is None else bulk(first.old)
    if write.answers is Answers.APPLIED:
        return integer(sum(answer.status is Status.APPLIED for answer in answers))
    if write.answers is Answers.SUM:
        return integer(int(first.old or 0) + write.amount)
    return OK if first.status is Status.APPLIED else null(version)


def batch_reply(writes: Sequence[Write], answers: Sequence[Answer], version: int) -> bytes:
    """The reply to a batch: its writes' replies, or the error of the first one that kept all from being applied.

    Args:
        answers: Of the writes' entries, without that of the entry that announces them.
    """
    for place, answer in enumerate(answers, start=1):
        if answer.status not in (Status.APPLIED, Status.REFUSED):
            why = REFUSALS.get(answer.status) or f"REFUSED {CONDITIONS[answer.status]}"
            code, _, rest = why.partition(" ")
            return error(f"{code} the batch was not applied; its write {place}: {rest}")
    replies = [write_reply(write, [answer], version) for write, answer in zip(writes, answers, strict=True)]
    return array_head(len(replies)) + b"".join(replies)


def error_reply(problem: TapehouseError) -> bytes:
    """What a client is told of a problem of ours."""
    if isinstance(problem, BusyError):
        code = "BUSY"
    elif isinstance(problem, OutcomeUnknownError | AmbiguousAppendError):
        code = "UNKNOWN"
    elif isinstance(problem, TransientError):
        code = "TRYAGAIN"
    elif isinstance(problem, DerivedKeyError):
        code = "READONLY"
    else:
        code = "ERR"
    return error(CROSS_SLOT if isinstance(problem, CrossSlotError) else f"{code} {problem}")
