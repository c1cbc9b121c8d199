"""The commands that the RESP gateway knows, as data: what a client may ask `COMMAND` about, and docs/kv-commands.md.

A command's number is its place in the table, from 1 on; 0 is no command. Arity and the places of keys are counted as
Redis counts them: the name is argument 0, a negative arity is a least one, a last key of -1 is the last argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a command touches."""

    READ = "readonly"  # at the connection's read level
    WRITE = "write"  # answered once it is in the log and applied
    CONNECTION = "fast"  # this connection alone
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        syntax: Its arguments, as Redis's pages write them.
        arity: Arguments with the name; negative for at least so many.
        first_key, last_key, step: Which arguments are keys; 0, 0, 0 for none.
        is_open: Whether a client that has not said who it is may send it.
        remarks: Where it differs from Redis.
    """

    name: str
    syntax: str
    arity: int
    kind: Kind
    first_key: int = 0
    last_key: int = 0
    step: int = 0
    is_open: bool = False
    summary: str
    remarks: str = ""

    @property
    def flags(self) -> list[str]:
        """As `COMMAND` tells them."""
        return [self.kind.value, *(["no_auth"] if self.is_open else [])]


NOT_TOGETHER = "Key by key, not atomic together; keys may belong to any slots."
WHERE_PAST = "A time that has passed deletes the key. NX, XX, GT and LT are refused."
YEAR = "No later than the year 2262."


def _read(name: str, syntax: str, arity: int, last_key: int, summary: str, remarks: str = "") -> Command:
    return Command(
        name=name, syntax=syntax, arity=arity, kind=Kind.READ, first_key=1, last_key=last_key, step=1,
        summary=summary, remarks=remarks,
    )  # fmt: skip


def _write(name: str, syntax: str, arity: int, summary: str, remarks: str = "", last_key: int = 1) -> Command:
    return Command(
        name=name, syntax=syntax, arity=arity, kind=Kind.WRITE, first_key=1, last_key=last_key,
        step=2 if name == "MSET" else 1, summary=summary, remarks=remarks,
    )  # fmt: skip


def _other(
    name: str, syntax: str, arity: int, summary: str, remarks: str = "", kind: Kind = Kind.CONNECTION,
    is_open: bool = False,
) -> Command:  # fmt: skip
    return Command(name=name, syntax=syntax, arity=arity, kind=kind, is_open=is_open, summary=summary, remarks=remarks)


COMMANDS: tuple[Command, ...] = (
    _read("GET", "key", 2, 1, "The value of a key"),
    _write(
        "SET",
        "key value [NX | XX] [GET] "
        "[EX seconds | PX milliseconds | EXAT unix-seconds | PXAT unix-milliseconds | KEEPTTL]",
        -3,
        "Set a key",
        f"Judged where it is applied, so NX holds over all gateways. {YEAR}",
    ),
    _write("SETEX", "key seconds value", 4, "Set a key that expires"),
    _write("PSETEX", "key milliseconds value", 4, "Set a key that expires"),
    _write("SETNX", "key value", 3, "Set a key that is not there"),
    _write("GETSET", "key value", 3, "Set a key, answer its old value"),
    _write("GETDEL", "key", 2, "Delete a key, answer its value"),
    _write("DEL", "key [key ...]", -2, "Delete keys", NOT_TOGETHER, last_key=-1),
    _write("UNLINK", "key [key ...]", -2, "Delete keys", f"The same as DEL. {NOT_TOGETHER}", last_key=-1),
    _read("MGET", "key [key ...]", -2, -1, "The values of keys", NOT_TOGETHER),
    _write("MSET", "key value [key value ...]", -3, "Set keys", NOT_TOGETHER, last_key=-1),
    _read("EXISTS", "key [key ...]", -2, -1, "How many of the keys there are", NOT_TOGETHER),
    _read("TYPE", "key", 2, 1, "`string`, or `none` where there is no such key"),
    _write("EXPIRE", "key seconds", -3, "Have a key expire", WHERE_PAST),
    _write("PEXPIRE", "key milliseconds", -3, "Have a key expire", WHERE_PAST),
    _write("EXPIREAT", "key unix-seconds", -3, "Have a key expire at a time", WHERE_PAST),
    _write("PEXPIREAT", "key unix-milliseconds", -3, "Have a key expire at a time", WHERE_PAST),
    _write(
        "PERSIST",
        "key",
        2,
        "Take a key's expiry away",
        "Answers 1 for every key that is there, also where it had none.",
    ),
    _read("TTL", "key", 2, 1, "Seconds that a key has left"),
    _read("PTTL", "key", 2, 1, "Milliseconds that a key has left"),
    _write("INCR", "key", 2, "Add 1 to a number"),
    _write("DECR", "key", 2, "Take 1 from a number"),
    _write("INCRBY", "key increment", 3, "Add to a number"),
    _write("DECRBY", "key decrement", 3, "Take from a number"),
    _other(
        "SCAN",
        "cursor [MATCH pattern] [COUNT count] [TYPE type]",
        -2,
        "Keys, page by page",
        "In the order of keys: each once, however many come and go meanwhile. A cursor belongs to the gateway "
        "that gave it, which keeps a bounded number of them. A pattern that begins with plain letters is quick.",
        kind=Kind.READ,
    ),
    _other("DBSIZE", "", 1, "How many keys there are", kind=Kind.READ),
    _other("PING", "[message]", -1, "Is anybody there"),
    _other("ECHO", "message", 2, "The same message"),
    _other(
        "HELLO",
        "[protover [AUTH username password] [SETNAME clientname]]",
        -1,
        "Choose RESP2 or RESP3; say who one is",
        is_open=True,
    ),
    _other("AUTH", "[username] password", -2, "Say who one is", "The password is the gateway's token.", is_open=True),
    _other("QUIT", "", -1, "Close the connection", is_open=True),
    _other("SELECT", "index", 2, "Choose a database", "There is one, 0."),
    _other(
        "CLIENT",
        "SETNAME name | GETNAME | ID | INFO | SETINFO attribute value",
        -2,
        "About this connection",
        "No other subcommands.",
    ),
    _other("COMMAND", "[COUNT | DOCS [name ...] | INFO [name ...] | LIST]", -1, "What commands there are"),
    _other(
        "CONFIG",
        "GET pattern [pattern ...]",
        -2,
        "Settings that clients ask for",
        "Only `save`, `appendonly` and `maxmemory`; nothing can be set.",
        kind=Kind.ADMIN,
    ),
    _other("INFO", "[section ...]", -1, "What runs here, and how it does", "Sections of our own.", kind=Kind.ADMIN),
    _other(
        "READLEVEL",
        "[eventual [milliseconds] | session [token] | linearizable]",
        -1,
        "How fresh this connection's reads are",
        "Ours. `eventual` may be bounded by an age; `session` goes on from a token of another connection. Bare: the "
        "level and its bound or token.",
    ),
    _other(
        "REBALANCE",
        "shards",
        2,
        "Spread the slots over so many shards",
        "Ours. Goes on while clients work.",
        kind=Kind.ADMIN,
    ),
    _write("PUT", "key value [seconds]", -3, "Set a key, for so many seconds", "Ours, as older tools send it."),
    _other(
        "BATCH",
        "count",
        2,
        "Apply the next so many writes together or not at all",
        "Ours. Writes of one key each, all keys of one slot (`{tag}`); the answer is a list of their answers.",
        kind=Kind.WRITE,
    ),
)

NUMBERS = {command.name: number for number, command in enumerate(COMMANDS, start=1)}


def command(number: int) -> Command:
    """The command with this number, from 1 on."""
    return COMMANDS[number - 1]


def key_places(command: Command, count: int) -> range:
    """Which arguments are keys, of a request of so many arguments that has the command's arity."""
    if not command.first_key:
        return range(0)
    last = command.last_key if command.last_key >= 0 else count + command.last_key
    return range(command.first_key, last + 1, command.step)
