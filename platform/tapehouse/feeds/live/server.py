"""A recording served as the venue's own websocket and REST API, with faults on the way where they are asked for.

The recording is played once, for all connections alike, as a venue has one market. It begins when somebody has
subscribed to something, and pauses while nobody has, so a receiver that was disconnected misses what a fault took from
it and no more. REST answers and snapshots are of the moment in which they are asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aiohttp import WSCloseCode, WSMsgType, web

from tapehouse.core.clock import Clock
from tapehouse.core.errors import DecodeError, MissingError, UsageError
from tapehouse.feeds.capture import Message
from tapehouse.feeds.faults import FaultPlan, Faults, Happened
from tapehouse.feeds.served_protocol import Client, Played, ServedVenue

CONNECTIONS_MAX = 64
CONNECTIONS_TOLD_MAX = 1_000  # the newest ones, whose faults are told
REQUEST_BYTES_MAX = 64 << 10
SEND_TIMEOUT_S = 30.0  # for a client that does not read
PING_S = 15.0
BOOK_TIMEOUT_S = 10.0  # of a REST request for a book that was not played yet
QUIET_NS = 50_000_000  # without a new subscription before playing begins or goes on: a client may send several
FLUSH_EVERY = 256  # messages, after which other tasks have a turn also at full speed


@dataclass(slots=True)
class Connection:
    """One websocket."""

    number: int
    client: Client
    socket: web.WebSocketResponse
    faults: Faults
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    since: dict[str, int] = field(default_factory=dict)  # by channel: the last message that its snapshot holds


class FeedServer:
    """One venue on one port of one address.

    Args:
        messages: The recording, from its beginning.
        speed: A factor of the recording's own pace; None for as fast as the clients read.
        plan: Faults; connection n has those of seed + n. They befall messages whose loss a receiver can notice.
    """

    def __init__(
        self,
        venue: ServedVenue,
        messages: Callable[[], Iterator[Message]],
        *,
        clock: Clock,
        speed: float | None = None,
        plan: FaultPlan | None = None,
    ) -> None:
        self.played = 0  # messages that were for somebody, whether or not anybody had subscribed
        self.finished = asyncio.Event()
        self.hold_before: int | None = None  # a message, by number, that waits until it is released
        self.held = asyncio.Event()
        self._released = asyncio.Event()
        self._venue, self._messages, self._clock, self._speed = venue, messages, clock, speed
        self._plan = plan or FaultPlan()
        self._connections: dict[int, Connection] = {}
        self._past: list[tuple[int, Faults]] = []
        self._count = 0
        self._changed = asyncio.Event()
        self._subscribed_at = 0
        self._runner: web.AppRunner | None = None

    @property
    def faults(self) -> list[tuple[int, Happened]]:
        """What was done to which connection, the first of which is 0."""
        return [(number, item) for number, faults in self._past for item in faults.happened]

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; the port.

        Raises:
            MissingError: The address cannot be had.
        """
        app = web.Application(client_max_size=REQUEST_BYTES_MAX)
        app.router.add_get("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise MissingError(
                f"cannot listen: {error}", subject=f"{host}:{port}", hint="choose another --port"
            ) from error
        return int(self._runner.addresses[0][1])

    def release(self) -> None:
        """Go on with the message that was held."""
        self.hold_before = None
        self._released.set()

    async def close(self) -> None:
        """Close every connection and the port."""
        for connection in list(self._connections.values()):
            await connection.socket.close(code=WSCloseCode.GOING_AWAY)
        if self._runner is not None:
            await self._runner.cleanup()

    async def play(self) -> None:
        """Play the recording to its end; the connections stay open.

        Raises:
            MissingError, DecodeError: The recording is bad.
        """
        base: tuple[int, int] | None = None  # receive time and monotonic time from which the pace is counted
        for message in self._messages():
            if not self._ready():
                await self._subscribers()
                base = None
            if self._speed is not None:
                if base is None:
                    base = (message.ts_recv, self._clock.monotonic_ns())
                await self._clock.sleep_until(base[1] + int((message.ts_recv - base[0]) / self._speed))
            if self.played == self.hold_before:
                self.held.set()
                await self._released.wait()
            played = self._venue.play(message)  # what follows does not wait before it is numbered
            if played is not None:
                number, self.played = self.played, self.played + 1
                for connection in list(self._connections.values()):
                    await self._send(connection, number, played)
            if self.played % FLUSH_EVERY == 0:
                await asyncio.sleep(0)
        for connection in list(self._connections.values()):
            for body in connection.faults.ended().messages:
                await self._put(connection, body)
        self.finished.set()

    def _ready(self) -> bool:
        quiet = self._clock.monotonic_ns() - self._subscribed_at >= QUIET_NS
        return quiet and any(connection.client.channels for connection in self._connections.values())

    async def _subscribers(self) -> None:
        """Wait until somebody has subscribed to something, and has done so."""
        while not self._ready():
            if any(connection.client.channels for connection in self._connections.values()):
                await self._clock.sleep_until(self._subscribed_at + QUIET_NS)
                continue
            self._changed.clear()
            await self._changed.wait()

    async def _send(self, connection: Connection, number: int, played: Played) -> None:
        """Send one message to one connection, if it is for it, through its faults."""
        async with connection.lock:
            if number <= connection.since.get(played.channel, -1):
                return
            body = self._venue.message_for(connection.client, played)
            if body is None:
                return
            if not played.numbered:
                await self._put(connection, body)
                return
            passed = connection.faults.passed(number, body)
            for part in passed.messages:
                await self._put(connection, part)
        if passed.disconnect:
            self._connections.pop(connection.number, None)
            await connection.socket.close(code=WSCloseCode.GOING_AWAY)

    async def _put(self, connection: Connection, body: bytes) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await connection.socket.send_str(body.decode("utf-8", "replace"))
        except (ConnectionError, TimeoutError, RuntimeError):  # it closed, or does not read
            self._connections.pop(connection.number, None)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._serve(request)
        deadline = self._clock.monotonic_ns() + int(BOOK_TIMEOUT_S * 1e9)
        while (answer := self._venue.rest(request.path, dict(request.query))) == b"":
            now = self._clock.monotonic_ns()
            if now >= deadline:
                return web.Response(status=503, text="the book was not played yet")
            await self._clock.sleep_until(now + QUIET_NS)
        if answer is None:
            return web.Response(status=404, text="there is no such thing here")
        return web.Response(body=answer, content_type="application/json")

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            client = self._venue.connect(request.path, request.query_string)
        except UsageError as error:
            return web.Response(status=404, text=str(error))
        if len(self._connections) >= CONNECTIONS_MAX:
            return web.Response(status=429, text=f"{CONNECTIONS_MAX} connections are the most")
        socket = web.WebSocketResponse(heartbeat=PING_S, max_msg_size=REQUEST_BYTES_MAX)
        await socket.prepare(request)
        plan = FaultPlan(seed=self._plan.seed + self._count, rates=self._plan.rates, at=self._plan.at)
        connection = Connection(self._count, client, socket, Faults(plan, self._venue.corrupt))
        self._past = [*self._past, (connection.number, connection.faults)][-CONNECTIONS_TOLD_MAX:]
        self._count += 1
        self._connections[connection.number] = connection
        self._note_subscription(connection, set())
        try:
            async for message in socket:
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    break
                body = message.data.encode() if message.type is WSMsgType.TEXT else message.data
                async with connection.lock:
                    before = set(client.channels)
                    try:
                        answers = self._venue.receive(client, body)
                    except (DecodeError, UsageError):
                        await socket.close(code=WSCloseCode.POLICY_VIOLATION)
                        break
                    self._note_subscription(connection, before)
                    for answer in answers:
                        await self._put(connection, answer)
        finally:
            self._connections.pop(connection.number, None)
        return socket

    def _note_subscription(self, connection: Connection, before: set[str]) -> None:
        """What was just subscribed to begins behind what was played."""
        for channel in set(connection.client.channels) - before:
            connection.since[channel] = self.played - 1
            self._subscribed_at = self._clock.monotonic_ns()
        self._changed.set()
