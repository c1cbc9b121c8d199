"""The shell of a venue's session against a server of its own: what it retries, refuses, bounds and hands on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from tapehouse.core import SystemClock
from tapehouse.core.errors import DecodeError, MissingError
from tapehouse.feeds.capture import Happening, Message
from tapehouse.feeds.live.recorder import BACKOFF_NS, REST_ATTEMPTS_MAX, LiveRecorder
from tapehouse.feeds.session import Endpoint, Want, Wish
from tapehouse.market import Cause, Cells, Instrument

TIMEOUT_S = 20.0


class Heard:
    """A session that notes what it hears, and wishes what the test says."""

    def __init__(self, wishes: list[Wish]) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.first, self.pending = wishes, list[Wish]()
        self.instruments: tuple[Instrument, ...] = ()

    def connected(self, ts_recv: int) -> None:
        self.heard.append(("connected", b""))
        self.pending = list(self.first)

    def disconnected(self, ts_recv: int) -> None:
        self.heard.append(("disconnected", b""))

    def missed(self, cause: Cause, ts_recv: int) -> None:
        self.heard.append((f"missed {cause.name}", b""))

    def receive(self, body: bytes, ts_recv: int) -> None:
        if body == b"bad":
            raise DecodeError("bad")
        self.heard.append(("message", body))
        if body == b"leave":
            self.pending.append(Wish(want=Want.RECONNECT))

    def answered(self, symbol: str, body: bytes, ts_recv: int) -> None:
        self.heard.append((f"answer {symbol}", body))

    def take(self) -> Iterator[Cells]:
        return iter(())

    def wishes(self) -> list[Wish]:
        wishes, self.pending = self.pending, []
        return wishes

    def elapsed(self, now: int) -> None:
        """Time alone is nothing that is noted."""


class NapClock(SystemClock):
    """The machine's clock, with naps a hundred times as short; it notes the waits."""

    def __init__(self) -> None:
        self.naps: list[int] = []

    async def sleep_until(self, monotonic_ns: int) -> None:
        wait = monotonic_ns - self.monotonic_ns()
        self.naps.append(wait)
        await asyncio.sleep(max(wait, 0) / 1e11)


class Server:
    """Sends each connection the texts of a script, and notes what came."""

    def __init__(self, scripts: list[list[str]]) -> None:
        self.scripts, self.sent, self.asked, self.failing = scripts, list[str](), list[str](), 0
        self.connections = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/forbidden":
            return web.Response(status=403)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            self.asked.append(request.path_qs)
            if self.failing:
                self.failing -= 1
                return web.Response(status=503)
            return web.Response(text="book")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        script = self.scripts[self.connections] if self.connections < len(self.scripts) else []
        last = self.connections + 1 >= len(self.scripts)
        self.connections += 1
        for text in script:
            await socket.send_str(text)
        if last:
            async for message in socket:
                self.sent.append(message.data)
        await socket.close()
        return socket


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def recorded(
    server: Server, session: Heard, until: tuple[str, bytes], clock: NapClock | None = None, path: str = "/"
) -> tuple[LiveRecorder, list[Message]]:
    """Record until the session has heard something."""
    stop, capture = asyncio.Event(), list[Message]()

    async def sink(cells: Cells) -> None:
        raise AssertionError("there are no cells")

    def note(message: Message) -> None:
        capture.append(message)

    heard = session.heard

    class Stopping(list[tuple[str, bytes]]):
        def append(self, item: tuple[str, bytes]) -> None:
            super().append(item)
            if item == until:
                stop.set()

    session.heard = Stopping(heard)
    async with running(server) as address, asyncio.timeout(TIMEOUT_S):
        recorder = LiveRecorder(
            session,
            Endpoint(websocket=f"ws://{address}{path}", rest=f"http://{address}"),
            clock=clock or NapClock(),
            jitter=lambda: 1.0,
            sink=sink,
            capture=note,
        )
        await recorder.run(stop)
    return recorder, capture


async def test_what_a_session_wishes_is_granted_and_captured() -> None:
    server = Server([["one", "bad", "two"]])
    wishes = [Wish(want=Want.SEND, body=b"hello"), Wish(want=Want.SNAPSHOT, symbol="AB", request="/depth?symbol=AB")]
    session = Heard(wishes)
    recorder, capture = await recorded(server, session, ("answer AB", b"book"))
    assert session.heard[0] == ("connected", b"")
    assert session.heard[-1] == ("disconnected", b"")
    assert server.asked == ["/depth?symbol=AB"]
    kinds = [message.kind for message in capture]
    assert kinds[:2] == [Happening.CONNECTED, Happening.SENT]
    assert capture[1].body == b"hello"
    answer = next(message for message in capture if message.kind is Happening.ANSWERED)
    assert (answer.body, answer.url.endswith("/depth?symbol=AB")) == (b"book", True)
    assert recorder.counts.malformed == session.heard.count(("missed MALFORMED", b""))


async def test_a_lost_connection_and_an_unwanted_one_are_made_anew() -> None:
    server = Server([["one"], ["leave", "never"], ["three"]])
    session = Heard([])
    recorder, _ = await recorded(server, session, ("message", b"three"))
    texts = [body for what, body in session.heard if what == "message"]
    assert texts == [b"one", b"leave", b"three"]
    assert recorder.counts.connections == recorder.counts.disconnections == 3


async def test_a_malformed_message_is_told_and_the_next_one_taken() -> None:
    session = Heard([])
    recorder, capture = await recorded(Server([["bad", "two"]]), session, ("message", b"two"))
    assert session.heard == [
        ("connected", b""),
        ("missed MALFORMED", b""),
        ("message", b"two"),
        ("disconnected", b""),
    ]
    assert recorder.counts.malformed == 1
    assert b"bad" in [message.body for message in capture]


async def test_a_snapshot_that_does_not_come_is_asked_for_again_and_then_the_connection_is_made_anew() -> None:
    server = Server([[], ["after"]])
    server.scripts = [[], [], ["after"]]
    server.failing = REST_ATTEMPTS_MAX - 1
    session = Heard([Wish(want=Want.SNAPSHOT, symbol="AB", request="/depth")])
    server.scripts = [["one"]]
    await recorded(server, session, ("answer AB", b"book"))
    assert len(server.asked) == REST_ATTEMPTS_MAX
    server, session = Server([["one"]]), Heard([Wish(want=Want.SNAPSHOT, symbol="AB", request="/depth")])
    server.scripts, server.failing = [["one"], ["two"]], REST_ATTEMPTS_MAX
    server.connections = 0
    recorder, _ = await recorded(server, session, ("answer AB", b"book"))
    assert recorder.counts.connections >= 2


async def test_waits_between_attempts_double_and_are_bounded() -> None:
    clock, stop = NapClock(), asyncio.Event()

    async def sink(cells: Cells) -> None:
        raise AssertionError("there are no cells")

    session = Heard([])
    jitters = iter([1.0] * 4)

    def jitter() -> float:
        value = next(jitters, None)
        if value is None:
            stop.set()
            return 1.0
        return value

    recorder = LiveRecorder(session, Endpoint(websocket="ws://127.0.0.1:1/"), clock=clock, jitter=jitter, sink=sink)
    async with asyncio.timeout(TIMEOUT_S):
        counts = await recorder.run(stop)
    assert counts.failures == 5
    assert counts.connections == 0
    assert max(clock.naps) <= BACKOFF_NS


async def test_a_url_that_is_refused_is_told_at_once() -> None:
    with pytest.raises(MissingError, match="refuses the connection"):
        await recorded(Server([]), Heard([]), ("never", b""), path="/forbidden")
