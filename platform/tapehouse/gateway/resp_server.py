"""The sockets of the RESP gateway: connections of `resp_session`, bounded one by one and all together.

Everything runs on one event loop. A connection that waits for its client holds no task, no timer and no buffer: reads
go through one buffer that all share.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tapehouse.core.errors import MissingError
from tapehouse.gateway.resp_parse import Rows
from tapehouse.gateway.resp_perform import Gateway
from tapehouse.gateway.resp_replies import error
from tapehouse.gateway.resp_runs import ReadRun, WriteRun
from tapehouse.gateway.resp_session import READ_BYTES_MAX, Asked, RespSession
from tapehouse.kv.levels import LINEARIZABLE, Level, Session

CONNECTIONS_MAX = 10_000
BYTES_MAX = 512 * 1024 * 1024  # that are kept for all clients together; who holds most is cut off
WRITE_HIGH_BYTES = 256 * 1024  # handed to a socket that takes nothing, before answers are kept in the session
BACKLOG = 512  # connections that wait to be accepted
TOO_MANY = error("ERR max number of clients reached")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may take.

    Attributes:
        connections: At once; one more is told so and closed.
        memory: Bytes kept for all of them together.
        stalled_s: Without a byte taken by a client that is owed answers, before it is cut off.
        stranger_s: In which a client must say who it is, where it must.
        linger_s: In which a client may read the error for which its connection ends.
        stop_s: In which `stop` lets requests under way be answered; so long also those of a client that sends no more.
        handshake_s: Of TLS.
    """

    connections: int = CONNECTIONS_MAX
    memory: int = BYTES_MAX
    stalled_s: float = 60.0
    stranger_s: float = 10.0
    linger_s: float = 1.0
    stop_s: float = 12.0
    handshake_s: float = 10.0


@dataclass(slots=True)
class Traffic:
    """What came and went since the start.

    Attributes:
        connected: Now.
        accepted, refused: Connections; refused ones were too many.
        cut: Connections that were cut off, by reason.
        requests: Of connections that have ended.
        kinds: Requests that reached the KV, by kind.
        memory: Bytes that are kept for clients now.
    """

    connected: int = 0
    accepted: int = 0
    refused: int = 0
    cut: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    bytes_in: int = 0
    bytes_out: int = 0
    memory: int = 0


def listen(host: str, port: int, option: str = "--resp") -> socket.socket:
    """A socket at an address that nobody else has; connections are taken once a server starts on it.

    Raises:
        MissingError: The port is taken, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as problem:
        raise MissingError(f"no such address: {problem.strerror}", subject=host, hint="see --bind") from problem
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(0)  # Else two could bind, and only one would learn that the other was first.
    except OSError as problem:
        sock.close()
        raise MissingError(
            f"cannot listen: {(problem.strerror or str(problem)).lower()}", subject=f"{host}:{port}",
            hint=f"stop who has the port, or choose another with {option}",
        ) from problem  # fmt: skip
    return sock


class RespServer:
    """Serves RESP on a socket, from `start` to `stop`.

    Args:
        traffic: Counted here.
        token: What clients must know; empty where nobody need say who he is.
        level: Of reads, until a client chooses another; `Session()` gives each connection a session of its own.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        traffic: Traffic,
        token: str = "",
        level: Level = LINEARIZABLE,
        limits: Limits | None = None,
    ) -> None:
        self.gateway = gateway
        self.traffic = traffic
        self.limits = limits or Limits()
        self.is_stopping = False
        self.buffer = memoryview(bytearray(READ_BYTES_MAX))
        self.data = np.frombuffer(self.buffer, np.uint8)  # the same, for compiled code that reads it
        self.connections: dict[Connection, int] = {}  # and how many bytes each was last known to hold
        self._token = token
        self._level = level
        self._rows = Rows()
        self._server: asyncio.Server | None = None
        self._watched: dict[Connection, None] = {}  # those that may not stay as they are
        self._watch: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None

    @property
    def requests(self) -> int:
        """How many requests there were."""
        return self.traffic.requests + sum(one.requests for one in self.connections)

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Take connections; the socket is closed by `stop`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), sock=sock, backlog=BACKLOG, ssl=tls,
            ssl_handshake_timeout=self.limits.handshake_s if tls else None,
        )  # fmt: skip

    async def stop(self) -> None:
        """Take nothing more, answer what is under way, and close; who is not done in time is cut off."""
        self.is_stopping = True
        if self._server is not None:
            self._server.close()
        for one in list(self.connections):
            one.advance()
        if self.connections:
            self._empty = asyncio.get_running_loop().create_future()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty, self.limits.stop_s)
        for one in list(self.connections):
            one.cut("stop")
        if self._watch is not None:
            self._watch.cancel()

    # What connections ask.

    def admit(self, one: Connection, peer: str) -> RespSession | None:
        """The session of a new connection; None where there is no room for it."""
        if self.is_stopping or len(self.connections) >= self.limits.connections:
            self.traffic.refused += 1
            return None
        self.traffic.accepted += 1
        self.traffic.connected += 1
        self.connections[one] = 0
        return RespSession(
            self._rows, identity=self.traffic.accepted, token=self._token, peer=peer,
            level=Session() if isinstance(self._level, Session) else self._level, runs=self.gateway.runs,
        )  # fmt: skip

    def leave(self, one: Connection) -> None:
        """A connection is gone."""
        self.traffic.memory -= self.connections.pop(one)
        self.traffic.connected -= 1
        self.traffic.requests += one.requests
        self._watched.pop(one, None)
        if self._empty is not None and not self.connections and not self._empty.done():
            self._empty.set_result(None)

    def holds(self, one: Connection, size: int) -> None:
        """A connection holds so many bytes now; where all together hold too many, who holds most is cut off."""
        self.traffic.memory += size - self.connections[one]
        self.connections[one] = size
        if self.traffic.memory > self.limits.memory:
            max(self.connections, key=lambda each: self.connections[each]).cut("memory")

    def watch(self, one: Connection) -> None:
        """Look after a connection until it is `unwatch`ed: it must change before its time is over."""
        self._watched[one] = None
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(self._pause_s, self._look)

    def unwatch(self, one: Connection) -> None:
        """It may stay as it is."""
        self._watched.pop(one, None)

    @property
    def _pause_s(self) -> float:
        return min(self.limits.stalled_s, self.limits.stranger_s, self.limits.linger_s) / 4

    def _look(self) -> None:
        """Cut off whose time is over; nothing looks where nobody is watched."""
        self._watch = None
        now = asyncio.get_running_loop().time()
        for one in list(self._watched):
            why = one.overdue(now)
            if why:
                one.cut(why)
        if self._watched:
            self._watch = asyncio.get_running_loop().call_later(self._pause_s, self._look)


class Connection(asyncio.BufferedProtocol):
    """One socket: what it sends is asked, what is answered is sent, within the session's bounds."""

    def __init__(self, server: RespServer) -> None:
        self._server = server
        self._session: RespSession | None = None
        self._transport: Any = None
        self._waiting: list[Asked] = []  # what is to be done
        self._task: asyncio.Task[None] | None = None
        self._run: int | None = None  # the number of a run that is under way without a task
        self._reads = 0  # that were answered at once and are counted
        self._unsent = 0  # bytes that the transport has and the client has not
        self._begun = 0.0  # loop time of the connection
        self._moved = 0.0  # loop time at which the client last took something
        self._ending = 0.0  # loop time at which it was told the last
        self._ended = 0.0  # loop time at which it sent its last
        self._is_stuck = False  # The transport takes no more for now.
        self._is_reading = True
        self._has_ended = False  # The client sends no more.
        self._is_flushing = False

    @property
    def requests(self) -> int:
        """How many there were."""
        return self._session.requests if self._session else 0

    # What the socket tells.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        peer = transport.get_extra_info("peername")
        name = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer or "")
        self._session = self._server.admit(self, name)
        if self._session is None:
            transport.write(TOO_MANY)
            transport.close()
            return
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._begun = asyncio.get_running_loop().time()
        if not self._session.is_known:
            self._server.watch(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        session, server = self._session, self._server
        if session is None or self._ending:
            return  # It is let read the error that it was told.
        server.traffic.bytes_in += nbytes
        used = 0
        if not (self._is_working or session.is_closing or self._is_stuck):
            used = session.read_at_once(server.data, nbytes)
        if used == nbytes:
            self._count_reads(session)
            self._send(session)
            if session.wants_data and not (server.is_stopping or self._has_ended):
                server.holds(self, session.memory)
                return
        self.advance(bytes(server.buffer[used:nbytes]))

    def eof_received(self) -> bool:
        self._has_ended = True
        self._ended = asyncio.get_running_loop().time()
        is_plain = self._transport.get_extra_info("sslcontext") is None  # TLS ends both ways at once.
        if self._session is None or self._ending or not is_plain:
            return False
        self.advance()
        return not self._transport.is_closing()

    def pause_writing(self) -> None:
        self._is_stuck = True
        self._moved = asyncio.get_running_loop().time()
        self._server.watch(self)

    def resume_writing(self) -> None:
        self._is_stuck = False
        if self._session is not None:
            self.advance()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
        self._waiting.clear()
        if self._session is not None:
            self._server.leave(self)

    # Asking and answering.

    def advance(self, data: bytes = b"") -> None:
        """Take what came or is held, begin what it asks, and send what is answered."""
        session = self._session
        if session is None or self._transport.is_closing():
            return
        now = self._server.gateway.clock.time_ns
        if data:
            self._begin(session.feed(data, now()))
            self._count_reads(session)
        self._send(session)
        # What was held back while too much was unanswered.
        while not (session.wants_data or session.is_full or session.is_closing):
            self._begin(session.feed(b"", now()))
            self._send(session)
        if session.is_lost:
            self.cut("owed")
            return
        self._server.holds(self, session.memory)
        if not self._transport.is_closing():
            self._settle(session)

    def _count_reads(self, session: RespSession) -> None:
        self._server.traffic.kinds["read"] += session.reads_at_once - self._reads
        self._reads = session.reads_at_once

    def _begin(self, asked: list[Asked]) -> None:
        if not asked:
            return
        kinds = self._server.traffic.kinds
        for one in asked:
            if isinstance(one.request, ReadRun):
                kinds["read"] += one.request.count
            elif isinstance(one.request, WriteRun):
                kinds["write"] += one.request.count
            else:
                kinds[type(one.request).__name__.lower()] += 1
        assert self._session is not None
        self._waiting.extend(asked)  # The more goes together, the fewer frames and barriers.
        if not self._is_working:
            self._go(self._session)

    @property
    def _is_working(self) -> bool:
        return self._task is not None or self._run is not None

    def _go(self, session: RespSession) -> None:
        """Begin what waits: one run alone without a task, where that can be done."""
        first = self._waiting[0]
        if len(self._waiting) == 1 and isinstance(first.request, ReadRun | WriteRun):
            self._run = first.number
            if self._server.gateway.runs.start(first.request, first.level, first.version, self._ran):
                self._waiting.clear()
                return
            self._run = None
        self._task = asyncio.get_running_loop().create_task(self._perform(session))

    def _ran(self, end: bytes | BaseException) -> None:
        """A run is done that was begun without a task."""
        number, self._run = self._run, None
        session = self._session
        if session is None or number is None or self._transport.is_closing():
            return
        if not isinstance(end, bytes):
            self._fault(end)
            return
        session.answer(number, end)
        if self._waiting:
            self._go(session)
        self.advance()

    def _fault(self, problem: BaseException) -> None:
        """A fault of ours: this client is let go, the others are served."""
        asyncio.get_running_loop().call_exception_handler(
            {"message": "a RESP request failed", "exception": problem, "protocol": self}
        )
        self.cut("fault")

    async def _perform(self, session: RespSession) -> None:
        """Do what waits, in its order, until nothing does."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, []
                async for number, reply in self._server.gateway.perform(asked):
                    session.answer(number, reply)
                    if session.is_lost:
                        break
                    if not self._is_flushing:  # Once for all that are answered now.
                        self._is_flushing = True
                        loop.call_soon(self._flush)
        except Exception as problem:
            self._fault(problem)
        finally:
            self._task = None
            if not self._is_flushing:
                self._is_flushing = True
                loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        self.advance()

    def _send(self, session: RespSession) -> None:
        """Hand answers to the transport, as long as it takes them."""
        if not self._is_stuck:
            replies = session.take_replies()
            if replies:
                data = replies[0] if len(replies) == 1 else b"".join(replies)
                self._server.traffic.bytes_out += len(data)
                self._unsent += len(data)
                self._transport.write(data)
        left = min(self._transport.get_write_buffer_size(), self._unsent)
        if left < self._unsent:
            session.sent(self._unsent - left)
            self._unsent = left

    def _settle(self, session: RespSession) -> None:
        """Read on or not, close or not, be watched or not: as the session stands now."""
        is_idle = not self._is_working and not self._waiting and not self._is_stuck
        if session.is_done and not self._is_stuck:
            self._end()
        elif is_idle and (self._has_ended or self._server.is_stopping):
            self._close()
        else:
            wants = session.wants_data and not self._has_ended and not self._server.is_stopping
            if wants != self._is_reading:
                self._is_reading = wants
                (self._transport.resume_reading if wants else self._transport.pause_reading)()
            if session.is_known and not self._is_stuck and not self._has_ended:
                self._server.unwatch(self)
            elif self._has_ended:
                self._server.watch(self)  # It may be gone for good.

    def _end(self) -> None:
        """Close, so that the client can read the last that it was told.

        What it has sent meanwhile is read and dropped: a socket that is closed with unread bytes is reset, and an
        answer on its way lost.
        """
        if self._ending:
            return
        if self._has_ended or not self._transport.can_write_eof():
            self._close()
            return
        self._ending = asyncio.get_running_loop().time()
        self._transport.write_eof()
        if not self._is_reading:
            self._is_reading = True
            self._transport.resume_reading()
        self._server.watch(self)

    def _close(self) -> None:
        """Close once the transport has sent what it holds."""
        self._ending = asyncio.get_running_loop().time()
        self._transport.close()
        self._server.watch(self)

    # Bounds.

    def overdue(self, now: float) -> str:
        """Why this connection is to be cut off; empty where its time is not over.

        Args:
            now: Loop time.
        """
        limits, session = self._server.limits, self._session
        if session is None:
            return ""
        if self._ending:
            allowed = limits.stalled_s if self._transport.is_closing() else limits.linger_s
            return "linger" if now - self._ending > allowed else ""
        if self._is_stuck:
            before = self._unsent
            self._send(session)
            if self._unsent < before:
                self._moved = now
            elif now - self._moved > limits.stalled_s:
                return "stalled"
        if self._has_ended and not self._is_stuck and now - self._ended > limits.stop_s:
            return "left"
        if not session.is_known and now - self._begun > limits.stranger_s:
            return "stranger"
        return ""

    def cut(self, why: str) -> None:
        """Close at once, whatever is unanswered or unsent."""
        if self._transport.is_closing():
            self._transport.abort()  # It may have been waiting for its client to take the last.
            return
        self._server.traffic.cut[why] += 1
        self._server.unwatch(self)
        self._transport.abort()
