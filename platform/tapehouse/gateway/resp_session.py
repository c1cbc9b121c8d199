"""One RESP connection, without I/O: bytes in, requests out; their answers in, in any order; bytes out, in theirs.

What concerns the connection alone (PING, HELLO, READLEVEL, errors, collecting a BATCH) is answered here. The rest is
handed out with the read level that held when it was asked.

Memory is bounded: a connection that has asked too much, or does not take its answers, is not read from
(`wants_data`), and one that lets its answers grow all the same is cut off (`is_lost`).
"""

from __future__ import annotations

import hmac
from collections import deque
from typing import Any, NamedTuple, Protocol

import numpy as np

from tapehouse.core.errors import InvariantError
from tapehouse.gateway.resp_about import command_reply, config_reply, unknown_subcommand
from tapehouse.gateway.resp_commands import COMMANDS, NUMBERS
from tapehouse.gateway.resp_layout import (
    AT,
    DONE,
    FULL,
    NEEDED,
    POSITION,
    REQUEST_BYTES_MAX,
    REQUESTS,
)
from tapehouse.gateway.resp_parse import Rows
from tapehouse.gateway.resp_replies import CROSS_SLOT, OK, PONG, bulk, error, integer, null, value, verbatim
from tapehouse.gateway.resp_requests import (
    NS_PER_MS,
    Batch,
    Failed,
    Plain,
    Read,
    ReadLevel,
    Rebalance,
    Request,
    Write,
    has_arity,
    read_request,
    unknown_command,
    wrong_arity,
)
from tapehouse.gateway.resp_runs import Run
from tapehouse.gateway.resp_scan import Scan
from tapehouse.gateway.resp_words import Refused
from tapehouse.gateway.resp_words import integer as integer_of
from tapehouse.kv.entries import BODY_BYTES_MAX, ENTRY_BYTES
from tapehouse.kv.levels import LINEARIZABLE, Eventual, Level, Session
from tapehouse.kv.slots import slot_of

PIPELINE_MAX = 1_024  # requests that wait for an answer
PIPELINE_BYTES_MAX = 4 * 1024 * 1024  # of those requests
READ_BYTES_MAX = 256 * 1024  # of one read
HELD_BYTES_MAX = REQUEST_BYTES_MAX + READ_BYTES_MAX
OWED_BYTES_MAX = 8 * 1024 * 1024  # of answers that the client has not taken, before it is not read from
LOST_BYTES = 64 * 1024 * 1024  # of them, before it is cut off
NAME_BYTES_MAX = 128
REDIS_VERSION = "7.0.0"  # the version whose replies these are
USER = b"default"
CROSS_PROTOCOL = (b"POST", b"HOST:")  # an HTTP client, as a page in a browser could make one
_QUIT = NUMBERS["QUIT"]
_RUNS = (NUMBERS["GET"], NUMBERS["SET"])


class Together(NamedTuple):
    """A whole BATCH: writes of one entry each, of different keys of one slot."""

    writes: list[Write]


class Asked(NamedTuple):
    """A request that the connection cannot answer itself.

    Attributes:
        number: Names it in `answer`.
        level, version: That held when it was asked.
    """

    number: int
    request: Read | Write | Together | Scan | Rebalance | Plain | Run
    level: Level
    version: int = 2


class Runs(Protocol):
    """Whoever takes runs of plain GET and SET straight from the rows of a buffer, in compiled code."""

    def read_at_once(self, data: Any, size: int, rows: Rows, level: Level, version: int) -> tuple[int, int, bytes]:
        """As `resp_runs.KvRuns.read_at_once`."""
        ...

    def take(
        self, data: Any, rows: Rows, first: int, command: int, level: Level, version: int, *, is_next: bool
    ) -> tuple[int, bytes | Run]:
        """As `resp_runs.KvRuns.take`."""
        ...


class RespSession:
    """One connection.

    Args:
        rows: Shared by the connections of a thread.
        identity: Of the connection, as CLIENT ID tells it.
        token: What a client must know; empty where nobody need say who he is.
        peer: Its address, for CLIENT INFO.
        level: Of its reads, until it chooses another.
        runs: Takes runs of GET and SET.

    Attributes:
        version: Of RESP: 2 or 3.
        level: Of reads from now on.
        name: That the client gave itself.
        is_known: Whether it said who it is, where it must.
        is_closing: Nothing more is read; the connection ends once `take_replies` has given everything.
        is_lost: It took its answers too slowly and is to be cut off.
        reads_at_once: Reads that were answered without being handed out.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        identity: int,
        token: str = "",
        peer: str = "",
        level: Level = LINEARIZABLE,
        runs: Runs | None = None,
    ) -> None:
        self.identity = identity
        self.peer = peer
        self.version = 2
        self.level = level
        self.name = b""
        self.is_known = not token
        self.is_closing = False
        self.is_lost = False
        self.reads_at_once = 0
        self._rows = rows
        self._token = token
        self._runs = runs
        self._pieces: list[bytes] = []
        self._held = 0
        self._needed = 1
        # Of requests that wait for an answer, or for those before them; a run is one of them.
        self._replies: deque[bytes | None] = deque()
        self._sizes: deque[int] = deque()
        self._counts: deque[int] = deque()
        self._first = 0  # number of the one whose reply is the next to be sent
        self._waiting = 0  # requests of all of them
        self._done = 0  # requests before them
        self._asked_bytes = 0
        self._owed = 0
        self._batch: list[Write] | None = None
        self._batch_size = 0
        self._batch_left = 0
        self._batch_bytes = 0
        self._batch_error = ""

    # What the shell asks.

    @property
    def is_full(self) -> bool:
        """Whether so much is unanswered, or not taken, that nothing more should be begun for this client."""
        return self._waiting >= PIPELINE_MAX or self._asked_bytes >= PIPELINE_BYTES_MAX or self._owed >= OWED_BYTES_MAX

    @property
    def wants_data(self) -> bool:
        """Whether more may be read from the client; at most READ_BYTES_MAX at a time."""
        return not (self.is_closing or self.is_lost or self.is_full or self._held >= self._needed)

    @property
    def is_done(self) -> bool:
        """Whether the connection is to be closed now: it is closing, and everything has been answered."""
        return self.is_lost or (self.is_closing and not self._replies)

    @property
    def owed(self) -> int:
        """Bytes of answers that the client has not taken."""
        return self._owed

    @property
    def memory(self) -> int:
        """Bytes that are kept for this client: what it sent and is not answered, and answers that it has not taken."""
        return self._held + self._asked_bytes + self._owed + (0 if self._batch is None else self._batch_bytes)

    @property
    def requests(self) -> int:
        """How many requests there were, answered or not."""
        return self._done + self._waiting

    # Requests.

    def read_at_once(self, data: Any, size: int) -> int:
        """Answer the reads with which a socket read begins, where that can be done at once; the bytes that they took.

        What follows them goes to `feed`.

        Args:
            data: uint8, of which the first `size` were read; nothing is written.
        """
        if self._runs is None or self._held or self._waiting or self._batch is not None or not self.is_known:
            return 0
        count, used, replies = self._runs.read_at_once(data, size, self._rows, self.level, self.version)
        if count:
            self._reply(replies, count)
            self.reads_at_once += count
        return used

    def feed(self, data: bytes, now: int) -> list[Asked]:
        """Take what was read; the requests that others must answer, in their order.

        Call it with nothing once answers were taken and `wants_data` is false, to go on with what is held.

        Args:
            now: UTC ns.
        """
        if data:
            self._pieces.append(data)
            self._held += len(data)
            if self._held > HELD_BYTES_MAX:
                raise InvariantError("a connection was read from that asked not to be")
        asked: list[Asked] = []
        status = FULL
        while status == FULL and self._held >= self._needed and not (self.is_full or self.is_closing or self.is_lost):
            status = self._read_buffer(asked, now)
        return asked

    def _read_buffer(self, asked: list[Asked], now: int) -> int:
        """Take what the buffer holds, up to what may be unanswered; the parser's status."""
        whole = b"".join(self._pieces)
        buffer = bytearray(whole)  # The parser unquotes in place; what is not taken now is parsed again.
        view, data = memoryview(buffer), np.frombuffer(buffer, np.uint8)
        room = PIPELINE_MAX - self._waiting if self.is_known else 1  # AUTH changes how the next one is read.
        status = self._rows.parse(data, 0, len(buffer), requests_max=room, is_known=self.is_known)
        found, used = self._rows.state.item(REQUESTS), self._rows.state.item(POSITION)
        self._needed = self._rows.state.item(NEEDED) if status == DONE else 1
        fixed = data.view()
        fixed.flags.writeable = False
        row = 0
        while row < found and not self.is_closing:
            number, _, _, at, _ = self._rows.requests[row].tolist()
            if self._owed >= OWED_BYTES_MAX:
                status, used, self._needed = FULL, at, 1
                break
            taken = self._take_run(asked, fixed, row, number, used)
            if not taken:
                self._take(asked, number, self._rows.words(view, row), self._place(row + 1, used) - at, now)
            row += taken or 1
        if status not in (DONE, FULL) and not self.is_closing:
            self._reply(error(self._rows.error(status)))
            self.is_closing = True
        rest = whole[used:]
        self._pieces = [rest] if rest and not self.is_closing else []
        self._held = sum(map(len, self._pieces))
        return status

    def _place(self, row: int, end: int) -> int:
        """Where a request begins that was found, or the end of the last of them."""
        found: int = self._rows.state.item(REQUESTS)
        return self._rows.requests.item(row, AT) if row < found else end

    def _take_run(self, asked: list[Asked], data: Any, row: int, number: int, end: int) -> int:
        """Have a run of reads or writes taken; how many, 0 where this is none."""
        if self._runs is None or number not in _RUNS or self._batch is not None or not self.is_known:
            return 0
        taken, run = self._runs.take(
            data, self._rows, row, number, self.level, self.version, is_next=not self._asked_bytes
        )
        if taken and isinstance(run, bytes):
            self._reply(run, taken)
            self.reads_at_once += taken
        elif taken:
            self._hand_out(asked, run, self._place(row + taken, end) - self._place(row, end), taken)
        return taken

    def _take(self, asked: list[Asked], number: int, words: list[bytes], size: int, now: int) -> None:
        """Answer one request, or hand it out."""
        if number and has_arity(COMMANDS[number - 1], len(words)):
            if not self.is_known and not COMMANDS[number - 1].is_open:
                self._reply(error("NOAUTH Authentication required."))
                return
        elif self._batch is None:
            if words[0].upper() in CROSS_PROTOCOL:
                self.is_closing = True
                return
            text = wrong_arity(COMMANDS[number - 1].name) if number else unknown_command(words)
            self._reply(error(text))
            return
        request = read_request(number, words, now)
        if self._batch is not None and number != _QUIT:
            self._collect(asked, request, size)
        elif isinstance(request, Failed):
            self._reply(error(request.text))
        elif isinstance(request, Batch):
            self._batch, self._batch_bytes, self._batch_error = [], 0, ""
            self._batch_size = self._batch_left = request.size
        elif isinstance(request, ReadLevel):
            self._reply(self._set_level(request))
        elif isinstance(request, Plain) and COMMANDS[number - 1].name in _LOCAL:
            try:
                self._reply(_LOCAL[COMMANDS[number - 1].name](self, request.words))
            except Refused as refused:
                self._reply(error(refused.text))
        else:
            self._hand_out(asked, request, size)

    def _hand_out(self, asked: list[Asked], request: Any, size: int, count: int = 1) -> None:
        asked.append(Asked(self._first + len(self._replies), request, self.level, self.version))
        self._replies.append(None)
        self._sizes.append(size)
        self._counts.append(count)
        self._waiting += count
        self._asked_bytes += size

    def _collect(self, asked: list[Asked], request: Request, size: int) -> None:
        """Take one write of a batch; the whole of it once it is complete. A mistake in it is told then."""
        assert self._batch is not None
        place = self._batch_size - self._batch_left + 1
        self._batch_left -= 1
        if isinstance(request, Write) and len(request.entries) == 1:
            entry = request.entries[0]
            self._batch_bytes += ENTRY_BYTES + len(entry.key) + len(entry.value)
            if self._batch_bytes <= BODY_BYTES_MAX - ENTRY_BYTES:
                self._batch.append(request)
            else:
                self._batch_error = self._batch_error or f"ERR a batch of more than {BODY_BYTES_MAX} bytes"
                self._batch.clear()
        else:
            why = request.text.removeprefix("ERR ") if isinstance(request, Failed) else "it is no write of one key"
            self._batch_error = self._batch_error or f"ERR a batch was not applied, its write {place}: {why}"
        if self._batch_left:
            return
        writes, self._batch = self._batch, None
        keys = {write.entries[0].key for write in writes}
        if self._batch_error:
            self._reply(error(self._batch_error))
        elif len(keys) != len(writes):
            self._reply(error("ERR a key comes twice in one batch: send its last change alone, or two batches"))
        elif len({slot_of(key) for key in keys}) != 1:
            self._reply(error(CROSS_SLOT))
        else:
            self._hand_out(asked, Together(writes), self._batch_bytes)

    # Answers.

    def answer(self, number: int, reply: bytes) -> None:
        """Answer a request that was handed out."""
        place = number - self._first
        if not 0 <= place < len(self._replies) or self._replies[place] is not None:
            raise InvariantError(f"request {number} of a connection was answered twice, or never asked")
        self._replies[place] = reply
        self._asked_bytes -= self._sizes[place]
        self._sizes[place] = 0
        self._owe(len(reply))

    def take_replies(self) -> list[bytes]:
        """What can be sent now, in the order of the requests; tell `sent` once the client has taken it."""
        ready: list[bytes] = []
        while self._replies and (reply := self._replies[0]) is not None:
            ready.append(reply)
            self._replies.popleft()
            self._sizes.popleft()
            count = self._counts.popleft()
            self._first += 1
            self._waiting -= count
            self._done += count
        return ready

    def sent(self, count: int) -> None:
        """So many bytes of what was taken have left."""
        self._owed -= count
        if self._owed < 0:
            raise InvariantError("more was sent to a client than it was owed")

    def _reply(self, reply: bytes, count: int = 1) -> None:
        self._replies.append(reply)
        self._sizes.append(0)
        self._counts.append(count)
        self._waiting += count
        self._owe(len(reply))

    def _owe(self, size: int) -> None:
        self._owed += size
        if self._owed > LOST_BYTES:
            self.is_lost = self.is_closing = True

    # What concerns the connection alone.

    def _set_level(self, asked: ReadLevel) -> bytes:
        if asked.level is not None:
            self.level = asked.level
            return OK
        bound: str | int | None = None
        if isinstance(self.level, Session):
            bound = self.level.text
        elif isinstance(self.level, Eventual) and self.level.max_staleness_ns is not None:
            bound = self.level.max_staleness_ns // NS_PER_MS
        return value([level_name(self.level), bound], self.version)

    def _ping(self, words: list[bytes]) -> bytes:
        if len(words) > 2:
            raise Refused(wrong_arity("PING"))
        return bulk(words[1]) if len(words) == 2 else PONG

    def _echo(self, words: list[bytes]) -> bytes:
        return bulk(words[1])

    def _quit(self, words: list[bytes]) -> bytes:
        self.is_closing = True
        return OK

    def _select(self, words: list[bytes]) -> bytes:
        if integer_of(words[1]) != 0:
            raise Refused("ERR DB index is out of range")
        return OK

    def _auth(self, words: list[bytes]) -> bytes:
        if len(words) > 3:
            raise Refused("ERR syntax error")
        if len(words) == 2 and not self._token:
            raise Refused(
                "ERR AUTH <password> called without any password configured for the default user. "
                "Are you sure your configuration is correct?"
            )
        self._let_in(words[1] if len(words) == 3 else USER, words[-1])
        return OK

    def _let_in(self, user: bytes, password: bytes) -> None:
        """Take note of who the client is.

        Raises:
            Refused: That is no such user, or not the password.
        """
        is_right = hmac.compare_digest(password, self._token.encode()) or not self._token
        if user != USER or not is_right:
            raise Refused("WRONGPASS invalid username-password pair or user is disabled.")
        self.is_known = True

    def _hello(self, words: list[bytes]) -> bytes:
        version, name, place = self.version, None, 2
        if len(words) > 1:
            try:
                version = integer_of(words[1])
            except Refused as refused:
                raise Refused("ERR Protocol version is not an integer or out of range") from refused
            if version not in (2, 3):
                raise Refused("NOPROTO unsupported protocol version")
        while place < len(words):
            option, left = words[place].upper(), len(words) - place - 1
            if option == b"AUTH" and left >= 2:
                self._let_in(words[place + 1], words[place + 2])
                place += 3
            elif option == b"SETNAME" and left >= 1:
                name = _client_name(words[place + 1])
                place += 2
            else:
                raise Refused(f"ERR Syntax error in HELLO option '{words[place].decode('latin-1')}'")
        if not self.is_known:
            raise Refused(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH "
                "<user> <pass> option can be used to authenticate the client and select the RESP protocol version at "
                "the same time"
            )
        self.version = version
        self.name = self.name if name is None else name
        return value(
            {
                "server": "tapehouse", "version": REDIS_VERSION, "proto": version, "id": self.identity,
                "mode": "standalone", "role": "master", "modules": [],
            },
            version,
        )  # fmt: skip

    def _client(self, words: list[bytes]) -> bytes:
        subcommand = words[1].upper()
        arity = _CLIENT.get(subcommand)
        if arity is None:
            raise Refused(unknown_subcommand("CLIENT", words[1]))
        if len(words) != arity:
            raise Refused(wrong_arity(f"client|{subcommand.decode()}"))
        if subcommand == b"ID":
            return integer(self.identity)
        if subcommand == b"GETNAME":
            return bulk(self.name) if self.name else null(self.version)
        if subcommand == b"SETNAME":
            self.name = _client_name(words[2])
            return OK
        if subcommand == b"SETINFO":
            if words[2].upper() not in (b"LIB-NAME", b"LIB-VER"):
                raise Refused(f"ERR Unrecognized option '{words[2].decode('latin-1')}'")
            return OK
        return verbatim(
            f"id={self.identity} addr={self.peer} name={self.name.decode('ascii')} db=0 resp={self.version} "
            f"user=default level={level_name(self.level)} waiting={len(self._replies)} owed={self._owed}\n",
            self.version,
        )

    def _command(self, words: list[bytes]) -> bytes:
        return command_reply(words, self.version)

    def _config(self, words: list[bytes]) -> bytes:
        return config_reply(words, self.version)


def level_name(level: Level) -> str:
    """As READLEVEL calls it."""
    return type(level).__name__.lower()


def _client_name(name: bytes) -> bytes:
    if any(not 33 <= byte <= 126 for byte in name):
        raise Refused("ERR Client names cannot contain spaces, newlines or special characters.")
    if len(name) > NAME_BYTES_MAX:
        raise Refused(f"ERR a client's name of {len(name)} bytes: at most {NAME_BYTES_MAX}")
    return name


_CLIENT = {b"ID": 2, b"GETNAME": 2, b"SETNAME": 3, b"SETINFO": 4, b"INFO": 2}
_LOCAL = {
    "PING": RespSession._ping,
    "ECHO": RespSession._echo,
    "QUIT": RespSession._quit,
    "SELECT": RespSession._select,
    "AUTH": RespSession._auth,
    "HELLO": RespSession._hello,
    "CLIENT": RespSession._client,
    "COMMAND": RespSession._command,
    "CONFIG": RespSession._config,
}
