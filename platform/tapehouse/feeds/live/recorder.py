"""One venue recorded live: connect, subscribe, take snapshots, come back after a loss. What it means, a session says.

The shell of a `VenueSession`: everything that happens (a message, the answer of a REST request, time passing) goes
through one bounded queue, so the session sees one order, and what it gives is handed on before the next. Where the
queue is full nothing more is read, and the venue is kept waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp

from tapehouse.core.clock import Clock
from tapehouse.core.errors import DecodeError, MissingError
from tapehouse.feeds.capture import Happening, Message
from tapehouse.feeds.session import Endpoint, VenueSession, Want, Wish
from tapehouse.market import Cause, Cells, Kind

QUEUE_MAX = 4_096  # happenings
MESSAGE_BYTES_MAX = 16 << 20
CONNECT_TIMEOUT_S = 10.0
REST_TIMEOUT_S = 10.0
REST_AT_ONCE = 4
REST_ATTEMPTS_MAX = 5  # for one snapshot, then the connection is made anew
PING_S = 20.0
TICK_NS = 250_000_000  # between two times that the session is told the time
BACKOFF_NS = 250_000_000  # the first wait; doubled each time, at most BACKOFF_NS_MAX
BACKOFF_NS_MAX = 30_000_000_000
WISHES_MAX = 10_000  # of a session between two happenings


@dataclass(slots=True)
class LiveCounts:
    """What a recorder has done so far."""

    connections: int = 0
    disconnections: int = 0
    failures: int = 0  # connections that did not come about
    messages: int = 0
    bytes: int = 0
    cells: int = 0
    gaps: int = 0  # GAP records, those that close a gap included
    malformed: int = 0
    snapshots: int = 0  # REST answers


@dataclass(frozen=True, slots=True)
class _Event:
    """One happening of the queue."""

    kind: Happening | None  # None: time passed
    body: bytes = b""
    symbol: str = ""
    url: str = ""


Sink = Callable[[Cells], Awaitable[None]]


class LiveRecorder:
    """Records until it is told to stop.

    Args:
        jitter: 0 to 1, anew with each call: how much of the second half of a wait is waited.
        sink: Gets whole records in order, each instrument's definition before its first use; may wait.
        capture: Gets everything that came and was sent, as it was.
    """

    def __init__(
        self,
        session: VenueSession,
        endpoint: Endpoint,
        *,
        clock: Clock,
        jitter: Callable[[], float],
        sink: Sink,
        capture: Callable[[Message], None] | None = None,
    ) -> None:
        self.counts = LiveCounts()
        self._session, self._endpoint, self._clock, self._jitter = session, endpoint, clock, jitter
        self._sink, self._capture = sink, capture
        self._told: list[object] = []  # instruments whose definition was handed on
        self._now = 0
        self._fetching: set[str] = set()
        self._requests = asyncio.Semaphore(REST_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue: asyncio.Queue[_Event] = asyncio.Queue(QUEUE_MAX)

    async def run(self, stop: asyncio.Event) -> LiveCounts:
        """Record until `stop` is set; the last records are handed on before it returns.

        Raises:
            TapehouseError: The sink's.
        """
        stopped = asyncio.create_task(stop.wait())
        failures = 0
        async with aiohttp.ClientSession() as http:
            try:
                while not stop.is_set():
                    try:
                        async with asyncio.timeout(CONNECT_TIMEOUT_S):
                            socket = await http.ws_connect(
                                self._endpoint.websocket, heartbeat=PING_S, max_msg_size=MESSAGE_BYTES_MAX
                            )
                    except (aiohttp.ClientError, OSError, TimeoutError) as error:
                        self._refuse(error)
                        self.counts.failures += 1
                    else:
                        before = self.counts.messages
                        await self._record(http, socket, stopped)
                        failures = 0 if self.counts.messages > before else failures
                    if not stop.is_set():
                        await self._back_off(failures, stopped)
                        failures += 1
            finally:
                stopped.cancel()
        return self.counts

    def _refuse(self, error: Exception) -> None:
        """Raise MissingError where trying again is of no use: the venue has no such URL, or it is none."""
        if self.counts.connections:
            return
        status = error.status if isinstance(error, aiohttp.WSServerHandshakeError) else 0
        if isinstance(error, aiohttp.InvalidURL) or (400 <= status < 500 and status != 429):
            raise MissingError(
                f"the venue refuses the connection: {error}", subject=self._endpoint.websocket, hint="check --url"
            ) from error

    async def _back_off(self, failures: int, stopped: asyncio.Task[bool]) -> None:
        """Wait before the next connection, or until it is stopped; the session hears of the time meanwhile."""
        wait = min(BACKOFF_NS << min(failures, 20), BACKOFF_NS_MAX)
        until = self._clock.monotonic_ns() + int(wait * (1 + self._jitter()) / 2)
        while (now := self._clock.monotonic_ns()) < until and not stopped.done():
            nap = asyncio.create_task(self._clock.sleep_until(min(until, now + TICK_NS)))
            await asyncio.wait({nap, stopped}, return_when=asyncio.FIRST_COMPLETED)
            nap.cancel()
            await self._take_in(_Event(None), None, None)

    async def _record(
        self, http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse, stopped: asyncio.Task[bool]
    ) -> None:
        """One connection, from its beginning to its end."""
        self.counts.connections += 1
        self._queue = asyncio.Queue(QUEUE_MAX)
        self._fetching.clear()
        url = self._endpoint.websocket
        self._start(self._tick())
        try:
            useful = await self._take_in(_Event(Happening.CONNECTED, url=url), http, socket)
            reader = self._start(self._read(socket, url))
            while useful and not stopped.done():
                coming = asyncio.ensure_future(self._queue.get())
                await asyncio.wait({coming, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    break
                event = coming.result()
                useful = event.kind is not Happening.DISCONNECTED and await self._take_in(event, http, socket)
            reader.cancel()
            while useful and not self._queue.empty():  # stopped: what was read is handed on
                event = self._queue.get_nowait()
                useful = event.kind is not Happening.DISCONNECTED and await self._take_in(event, http, socket)
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                await socket.close()
            self.counts.disconnections += 1
            await self._take_in(_Event(Happening.DISCONNECTED, url=url), None, None)
        for result in ended:
            if isinstance(result, Exception):
                raise result

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, url: str) -> None:
        """The connection's messages into the queue, then its end."""
        with suppress(aiohttp.ClientError, OSError):
            async for message in socket:
                if message.type is aiohttp.WSMsgType.TEXT:
                    await self._queue.put(_Event(Happening.RECEIVED, message.data.encode()))
                elif message.type is aiohttp.WSMsgType.BINARY:
                    await self._queue.put(_Event(Happening.RECEIVED, message.data))
        await self._queue.put(_Event(Happening.DISCONNECTED, url=url))

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep_until(self._clock.monotonic_ns() + TICK_NS)
            await self._queue.put(_Event(None))

    async def _take_in(
        self, event: _Event, http: aiohttp.ClientSession | None, socket: aiohttp.ClientWebSocketResponse | None
    ) -> bool:
        """Let the session have one happening, hand on what it gives, grant what it wants.

        Returns False where the connection is of no use any more.
        """
        now = self._now = max(self._now, self._clock.time_ns())
        session = self._session
        if event.kind is not None and self._capture is not None:
            self._capture(Message(ts_recv=now, kind=event.kind, url=event.url, body=event.body))
        try:
            if event.kind is None:
                session.elapsed(now)
            elif event.kind is Happening.CONNECTED:
                session.connected(now)
            elif event.kind is Happening.DISCONNECTED:
                session.disconnected(now)
            elif event.kind is Happening.ANSWERED:
                self.counts.snapshots += 1
                session.answered(event.symbol, event.body, now)
            else:
                self.counts.messages += 1
                self.counts.bytes += len(event.body)
                session.receive(event.body, now)
        except DecodeError:
            self.counts.malformed += 1
            session.missed(Cause.MALFORMED, now)
        await self._hand_on()
        if http is None or socket is None:
            session.wishes()  # of a connection that is not there
            return False
        return await self._grant(session.wishes()[:WISHES_MAX], http, socket, now)

    async def _hand_on(self) -> None:
        for cells in self._session.take():
            await self._define()
            self.counts.cells += len(cells)
            self.counts.gaps += int((cells["kind"] == Kind.GAP).sum())
            await self._sink(cells)

    async def _define(self) -> None:
        """Hand on the definitions of instruments that are new or other than they were."""
        instruments = self._session.instruments
        if len(instruments) == len(self._told) and all(a is b for a, b in zip(instruments, self._told, strict=True)):
            return
        for at, instrument in enumerate(instruments):
            if at >= len(self._told) or instrument != self._told[at]:
                await self._sink(instrument.definition(ts_recv=self._now))
        self._told = list(instruments)

    async def _grant(
        self, wishes: list[Wish], http: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse, now: int
    ) -> bool:
        for wish in wishes:
            if wish.want is Want.RECONNECT:
                return False
            if wish.want is Want.SEND:
                try:
                    await socket.send_str(wish.body.decode())
                except (aiohttp.ClientError, ConnectionError):
                    return False
                if self._capture is not None:
                    self._capture(Message(ts_recv=now, kind=Happening.SENT, body=wish.body))
            elif wish.symbol not in self._fetching:
                self._fetching.add(wish.symbol)
                self._start(self._fetch(http, wish))
        return True

    async def _fetch(self, http: aiohttp.ClientSession, wish: Wish) -> None:
        """Ask the REST API for a book until it answers; after too many attempts, end the connection."""
        url = self._endpoint.rest + wish.request
        for attempt in range(REST_ATTEMPTS_MAX):
            body = await self._get(http, url)
            if body is not None:
                self._fetching.discard(wish.symbol)
                await self._queue.put(_Event(Happening.ANSWERED, body, wish.symbol, url))
                return
            wait = min(BACKOFF_NS << attempt, BACKOFF_NS_MAX)
            await self._clock.sleep_until(self._clock.monotonic_ns() + int(wait * (1 + self._jitter()) / 2))
        await self._queue.put(_Event(Happening.DISCONNECTED, url=self._endpoint.websocket))

    async def _get(self, http: aiohttp.ClientSession, url: str) -> bytes | None:
        """A REST answer of bounded size in bounded time; None where there was none."""
        try:
            async with self._requests, asyncio.timeout(REST_TIMEOUT_S), http.get(url) as response:
                if response.status != 200:
                    return None
                body = await response.content.read(MESSAGE_BYTES_MAX + 1)
                parts = [body]
                size = len(body)
                while body and size <= MESSAGE_BYTES_MAX:
                    body = await response.content.read(MESSAGE_BYTES_MAX + 1 - size)
                    parts.append(body)
                    size += len(body)
                return b"".join(parts) if size <= MESSAGE_BYTES_MAX else None
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
