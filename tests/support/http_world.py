"""The HTTP gateway on a real socket, before a KV in memory, and its clients."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import aiohttp

from tapehouse.app.kv_status import KvAbout
from tapehouse.core.clock import SystemClock
from tapehouse.core.metrics import Metrics
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.gateway.http_limits import HttpLimits, HttpTraffic
from tapehouse.gateway.http_perform import HttpGateway
from tapehouse.gateway.http_server import HttpServer
from tapehouse.gateway.resp_server import listen
from tapehouse.kv.client import Kv
from tapehouse.kv.faults import Faults
from tapehouse.log import MemoryLog
from tests.support.kv_world import Link

WAIT_S = 20.0


class Answer:
    """What a request was answered."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class World:
    """A server and its clients."""

    def __init__(self, server: HttpServer, port: int, links: list[Link], kv: Kv, faults: Faults) -> None:
        self.server, self.port, self.links, self.kv, self.faults = server, port, links, kv, faults
        self.http: aiohttp.ClientSession
        self.writers: list[asyncio.StreamWriter] = []
        self.scheme = "http"

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request as a usual client makes it; underscores in headers stand for dashes."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.scheme}://127.0.0.1:{self.port}{path}"
        async with asyncio.timeout(WAIT_S):
            from yarl import URL

            async with self.http.request(method, URL(url, encoded=True), data=body, headers=named, ssl=False) as answer:
                return Answer(answer.status, answer.headers, await answer.read())

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A plain connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(WAIT_S):
            while not holds():  # noqa: ASYNC110 - nothing tells when counters change
                await asyncio.sleep(0.005)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the other side closes; a reset ends it too."""
    heard = b""
    async with asyncio.timeout(WAIT_S):
        try:
            while piece := await reader.read(65_536):
                heard += piece
        except ConnectionError:
            pass  # What was cut off.
    return heard


@asynccontextmanager
async def serving(
    *,
    tls: ssl.SSLContext | None = None,
    token: str = "",
    shards: int = 1,
    patience_s: float = 10.0,
    allow_faults: bool = False,
    **limits: Any,
) -> AsyncIterator[World]:
    """A gateway; at its end nothing may be left of its clients."""
    life, clock, traffic, faults, metrics = count(1), SystemClock(), HttpTraffic(), Faults(), Metrics()
    links = [Link(MemoryLog(f"KV_{shard}")) for shard in range(shards)]

    async def open_log(shard: int) -> Link:
        return links[shard]

    async def leader(shard: int) -> str:
        return f"n{shard}"

    with listen("127.0.0.1", 0, "--http") as sock:
        opened = await Kv.open(
            open_log, new_life=lambda: next(life), clock=clock, shards=shards, faults=faults, metrics=metrics,
            patience_ns=round(patience_s * NS_PER_SECOND),
        )  # fmt: skip
        async with opened as kv, aiohttp.ClientSession() as http:
            port = sock.getsockname()[1]
            about = KvAbout(
                kv=kv, clock=clock, faults=faults, metrics=metrics, began=clock.monotonic_ns(), leaders=leader,
                http=traffic, where={"http": f"http://127.0.0.1:{port}"}, allows_faults=allow_faults,
            )  # fmt: skip
            server = HttpServer(
                HttpGateway(kv, clock, about.about()), traffic=traffic, token=token, limits=HttpLimits(**limits)
            )
            await server.start(sock, tls)
            world = World(server, port, links, kv, faults)
            world.http = http
            world.scheme = "https" if tls else "http"
            try:
                yield world
            finally:
                for link in links:
                    link.unstick()
                for writer in world.writers:
                    writer.close()
                await server.stop()
                await world.until(lambda: not traffic.connected)
    assert (traffic.connected, traffic.watching, traffic.memory) == (0, 0, 0)
