"""A request's words as something that can be done: what to read, which entries to write, or why neither.

Mistakes are answered in Redis's words, in the order in which Redis would find them. Times become absolute here: `now`
is the gateway's own, in UTC ns.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from tapehouse.core.errors import DataError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.gateway.resp_commands import COMMANDS, NUMBERS, Command, key_places
from tapehouse.gateway.resp_scan import Scan, read_scan
from tapehouse.gateway.resp_words import NOT_INTEGER, SYNTAX, Refused, integer
from tapehouse.kv.entries import BATCH_MAX, KEY_BYTES_MAX, Entry, EntryFlag, Op
from tapehouse.kv.levels import EVENTUAL, LINEARIZABLE, Eventual, Level, Session
from tapehouse.kv.requests import RESERVED

NS_PER_MS = 1_000_000
SHARDS_MAX = 256
INTEGER_MAX = 2**63 - 1
ECHO_BYTES_MAX = 128  # of an unknown command's name, and of its arguments, in the error


class Answers(Enum):
    """How the answers of a write's entries become its reply."""

    OK = 1  # OK, or null where a condition did not hold
    OLD = 2  # the value before
    APPLIED = 3  # how many entries were applied
    SUM = 4  # the number that the key holds now


class Read(NamedTuple):
    """GET, MGET, EXISTS, TYPE, TTL, PTTL."""

    command: int
    keys: list[bytes]


class Write(NamedTuple):
    """Entries to append, each of another key."""

    command: int
    entries: list[Entry]
    answers: Answers
    amount: int = 0  # that a sum adds


class Batch(NamedTuple):
    """BATCH: the next `size` requests are writes that belong together."""

    size: int


class ReadLevel(NamedTuple):
    """READLEVEL; None where it only asks."""

    level: Level | None


class Rebalance(NamedTuple):
    """REBALANCE."""

    shards: int


class Plain(NamedTuple):
    """What needs no key: answered by the connection itself, or by whoever holds the gateway (INFO, DBSIZE)."""

    command: int
    words: list[bytes]


class Failed(NamedTuple):
    """A request that cannot be done; `text` is the error as the client sees it."""

    text: str


Request = Read | Write | Batch | ReadLevel | Rebalance | Scan | Plain | Failed
LEVELS = ("eventual", "session", "linearizable")


def read_request(number: int, words: list[bytes], now: int) -> Request:
    """What the words ask for.

    Args:
        number: Of the command; 0 for none of that name.
        words: The command's name and its arguments.
        now: UTC ns.
    """
    if number == 0:
        return Failed(unknown_command(words))
    command = COMMANDS[number - 1]
    if not has_arity(command, len(words)):
        return Failed(wrong_arity(command.name))
    for place in key_places(command, len(words)):
        if len(words[place]) > KEY_BYTES_MAX:
            return Failed(f"ERR a key of {len(words[place])} bytes: at most {KEY_BYTES_MAX}")
        if words[place].startswith(RESERVED):
            return Failed("ERR a key of the KV's own: choose another one")
    try:
        return _READERS[number](number, words, now)
    except Refused as refused:
        return Failed(refused.text)


def has_arity(command: Command, count: int) -> bool:
    """Whether a request may have so many words."""
    return count == command.arity if command.arity > 0 else count >= -command.arity


def wrong_arity(name: str) -> str:
    """What Redis says to too few or too many arguments."""
    return f"ERR wrong number of arguments for '{name.lower()}' command"


def unknown_command(words: list[bytes]) -> str:
    """What Redis says to a command that it does not have."""
    told = ""
    for word in words[1:]:
        if len(told) >= ECHO_BYTES_MAX:
            break
        told += f"'{_shown(word, ECHO_BYTES_MAX - len(told))}' "
    return f"ERR unknown command '{_shown(words[0], ECHO_BYTES_MAX)}', with args beginning with: {told}"


def _shown(word: bytes, limit: int) -> str:
    return word[:limit].partition(b"\0")[0].decode("latin-1")


def expiry_at(amount: int, unit_ns: int, start: int, name: str) -> int:
    """An absolute expiry, UTC ns, `amount` units after `start`.

    Raises:
        Refused: It is not after 0, or later than 64 bits of ns can say (the year 2262).
    """
    expiry = start + amount * unit_ns
    if amount <= 0 or expiry > INTEGER_MAX:
        raise Refused(f"ERR invalid expire time in '{name.lower()}' command")
    return expiry


def _read(number: int, words: list[bytes], now: int) -> Request:
    return Read(number, words[1:])


def _put(key: bytes, value: bytes, flags: int = 0, expiry: int = 0) -> Entry:
    return Entry(op=Op.PUT, key=key, value=value, flags=flags, expiry=expiry)


_TIMES = {
    b"EX": (NS_PER_SECOND, True),
    b"PX": (NS_PER_MS, True),
    b"EXAT": (NS_PER_SECOND, False),
    b"PXAT": (NS_PER_MS, False),
}
_CONDITIONS = {b"NX": EntryFlag.IF_ABSENT, b"XX": EntryFlag.IF_PRESENT}


def _set(number: int, words: list[bytes], now: int) -> Request:
    """SET: first its options are read to their end, then its time."""
    flags, timed, time = 0, b"", b""
    place = 3
    while place < len(words):
        option = words[place].upper()
        if option in _CONDITIONS and not flags & (EntryFlag.IF_ABSENT | EntryFlag.IF_PRESENT) & ~_CONDITIONS[option]:
            flags |= _CONDITIONS[option]
        elif option == b"GET":
            flags |= EntryFlag.RETURN_OLD
        elif option == b"KEEPTTL" and not timed:
            flags |= EntryFlag.KEEP_EXPIRY
        elif (
            option in _TIMES and timed in (b"", option) and not flags & EntryFlag.KEEP_EXPIRY and place + 1 < len(words)
        ):
            timed, time = option, words[place + 1]
            place += 1
        else:
            raise Refused(SYNTAX)
        place += 1
    expiry = 0
    if timed:
        unit, is_relative = _TIMES[timed]
        expiry = expiry_at(integer(time), unit, now if is_relative else 0, "SET")
    answers = Answers.OLD if flags & EntryFlag.RETURN_OLD else Answers.OK
    return Write(number, [_put(words[1], words[2], int(flags), expiry)], answers)


def _set_for(unit_ns: int) -> Callable[[int, list[bytes], int], Request]:
    def read(number: int, words: list[bytes], now: int) -> Request:
        expiry = expiry_at(integer(words[2]), unit_ns, now, COMMANDS[number - 1].name)
        return Write(number, [_put(words[1], words[3], 0, expiry)], Answers.OK)

    return read


def _set_if_absent(number: int, words: list[bytes], now: int) -> Request:
    return Write(number, [_put(words[1], words[2], EntryFlag.IF_ABSENT)], Answers.APPLIED)


def _get_and_set(number: int, words: list[bytes], now: int) -> Request:
    return Write(number, [_put(words[1], words[2], EntryFlag.RETURN_OLD)], Answers.OLD)


def _get_and_delete(number: int, words: list[bytes], now: int) -> Request:
    return Write(number, [Entry(op=Op.DELETE, key=words[1], flags=EntryFlag.RETURN_OLD)], Answers.OLD)


def _delete(number: int, words: list[bytes], now: int) -> Request:
    return Write(number, [Entry(op=Op.DELETE, key=key) for key in dict.fromkeys(words[1:])], Answers.APPLIED)


def _set_many(number: int, words: list[bytes], now: int) -> Request:
    if len(words) % 2 == 0:
        raise Refused(wrong_arity("MSET"))
    entries = [_put(key, value) for key, value in dict(zip(words[1::2], words[2::2], strict=True)).items()]
    return Write(number, entries, Answers.OK)


def _expire(unit_ns: int, is_relative: bool) -> Callable[[int, list[bytes], int], Request]:
    def read(number: int, words: list[bytes], now: int) -> Request:
        if len(words) > 3:
            raise Refused(f"ERR Unsupported option {_shown(words[3], ECHO_BYTES_MAX)}")
        amount = integer(words[2])
        expiry = (now if is_relative else 0) + amount * unit_ns
        if expiry > INTEGER_MAX or expiry < -INTEGER_MAX:
            raise Refused(f"ERR invalid expire time in '{COMMANDS[number - 1].name.lower()}' command")
        if expiry <= now:
            return Write(number, [Entry(op=Op.DELETE, key=words[1])], Answers.APPLIED)
        return Write(number, [Entry(op=Op.EXPIRE, key=words[1], expiry=expiry)], Answers.APPLIED)

    return read


def _persist(number: int, words: list[bytes], now: int) -> Request:
    return Write(number, [Entry(op=Op.EXPIRE, key=words[1])], Answers.APPLIED)


def _add(sign: int) -> Callable[[int, list[bytes], int], Request]:
    def read(number: int, words: list[bytes], now: int) -> Request:
        amount = sign * (integer(words[2]) if len(words) == 3 else 1)
        if amount > INTEGER_MAX:
            raise Refused("ERR decrement would overflow")
        value = amount.to_bytes(8, "little", signed=True)
        return Write(
            number, [Entry(op=Op.ADD, key=words[1], value=value, flags=EntryFlag.RETURN_OLD)], Answers.SUM, amount
        )

    return read


def _put_line(number: int, words: list[bytes], now: int) -> Request:
    if len(words) > 4:
        raise Refused(wrong_arity("PUT"))
    expiry = expiry_at(integer(words[3]), NS_PER_SECOND, now, "PUT") if len(words) == 4 else 0
    return Write(number, [_put(words[1], words[2], 0, expiry)], Answers.OK)


def _batch(number: int, words: list[bytes], now: int) -> Request:
    count = integer(words[1])
    if not 0 < count <= BATCH_MAX:
        raise Refused(f"ERR a batch of {count} writes: 1 to {BATCH_MAX}")
    return Batch(count)


def _read_level(number: int, words: list[bytes], now: int) -> Request:
    if len(words) == 1:
        return ReadLevel(None)
    name = words[1].decode("latin-1").lower()
    if name not in LEVELS:
        raise Refused(f"ERR no read level '{_shown(words[1], ECHO_BYTES_MAX)}': one of {', '.join(LEVELS)}")
    if len(words) > (2 if name == "linearizable" else 3):
        raise Refused(wrong_arity("READLEVEL"))
    if name == "linearizable":
        return ReadLevel(LINEARIZABLE)
    if name == "session":
        try:
            return ReadLevel(Session.parse(words[2].decode("latin-1") if len(words) == 3 else ""))
        except DataError as problem:
            raise Refused(f"ERR {problem}") from problem
    if len(words) == 2:
        return ReadLevel(EVENTUAL)
    staleness_ns = integer(words[2]) * NS_PER_MS
    if not 0 <= staleness_ns <= INTEGER_MAX:
        raise Refused(NOT_INTEGER)
    return ReadLevel(Eventual(staleness_ns))


def _rebalance(number: int, words: list[bytes], now: int) -> Request:
    shards = integer(words[1])
    if not 0 < shards <= SHARDS_MAX:
        raise Refused(f"ERR {shards} shards: 1 to {SHARDS_MAX}")
    return Rebalance(shards)


def _scan(number: int, words: list[bytes], now: int) -> Request:
    return read_scan(words)


def _plain(number: int, words: list[bytes], now: int) -> Request:
    return Plain(number, words)


def _readers() -> list[Callable[[int, list[bytes], int], Request]]:
    """By a command's number."""
    named = {
        **dict.fromkeys(("GET", "MGET", "EXISTS", "TYPE", "TTL", "PTTL"), _read),
        **dict.fromkeys(("DEL", "UNLINK"), _delete),
        "SET": _set, "SETEX": _set_for(NS_PER_SECOND), "PSETEX": _set_for(NS_PER_MS), "SETNX": _set_if_absent,
        "GETSET": _get_and_set, "GETDEL": _get_and_delete, "MSET": _set_many,
        "EXPIRE": _expire(NS_PER_SECOND, True), "PEXPIRE": _expire(NS_PER_MS, True),
        "EXPIREAT": _expire(NS_PER_SECOND, False), "PEXPIREAT": _expire(NS_PER_MS, False), "PERSIST": _persist,
        "INCR": _add(1), "INCRBY": _add(1), "DECR": _add(-1), "DECRBY": _add(-1),
        "SCAN": _scan, "PUT": _put_line, "BATCH": _batch, "READLEVEL": _read_level, "REBALANCE": _rebalance,
        **dict.fromkeys(
            ("DBSIZE", "PING", "ECHO", "HELLO", "AUTH", "QUIT", "SELECT", "CLIENT", "COMMAND", "CONFIG", "INFO"), _plain
        ),
    }  # fmt: skip
    assert named.keys() == NUMBERS.keys()
    return [_plain, *(named[command.name] for command in COMMANDS)]


_READERS = _readers()
