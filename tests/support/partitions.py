"""A cluster whose brokers can be parted from each other: the routes between them go through proxies in user space.

A broker that is parted still serves its clients, so a leader that was deposed meanwhile does too: what no kill and no
stop shows. Every broker advertises the proxy before it, and who dials there is known by the name that it says first.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapehouse.bus import Cluster
from tapehouse.bus import cluster as cluster_module
from tapehouse.bus.server import NodeConfig, render_config
from tests.support.clusters import free_config
from tests.support.proxy import CHUNK_BYTES

_NAME = re.compile(rb'"server_name":"([^"]+)"')
_ADVERTISED = "  no_advertise: true\n"


class RouteProxy:
    """Before one broker's port for routes; loses what comes from and goes to `parted` brokers."""

    def __init__(self, name: str, parted: set[str]) -> None:
        self.name = name
        self.target = ("", 0)
        self.lost_bytes = 0
        self._parted = parted
        self._server: asyncio.Server | None = None
        self._pairs: dict[asyncio.StreamWriter, set[str]] = {}  # the dialer's name, once it was said
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> RouteProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def address(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Break the connections, which have lost bytes: their streams are broken already."""
        for writer in list(self._pairs):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        dialer: set[str] = set()
        self._pairs[writer] = self._pairs[far_writer] = dialer
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer, dialer, names=True)),
            asyncio.create_task(self._pump(far_reader, writer, dialer, names=False)),
        ]
        self._tasks |= set(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for side in (writer, far_writer):
            side.transport.abort()
            del self._pairs[side]
        await asyncio.gather(*pumps, return_exceptions=True)
        self._tasks -= set(pumps)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dialer: set[str], *, names: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                said = _NAME.search(chunk) if names and not dialer else None
                if said is not None:
                    dialer.add(said.group(1).decode())
                if self._parted & (dialer | {self.name}):
                    self.lost_bytes += len(chunk)
                    continue
                writer.write(chunk)
                await writer.drain()


class PartedCluster(Cluster):
    """A cluster whose routes go through proxies; `part` and `join` say who hears whom."""

    def __init__(self, config: Any, proxies: list[RouteProxy], parted: set[str]) -> None:
        super().__init__(config)
        self.proxies = proxies
        self._parted = parted

    def part(self, index: int) -> None:
        """No broker hears this one any more, nor it them; all go on serving their clients."""
        self._parted.add(self.proxies[index].name)

    def join(self) -> None:
        """All hear each other again."""
        self._parted.clear()
        for proxy in self.proxies:
            proxy.cut()

    def _node_configs(self, ports: list[tuple[int, int, int]]) -> Iterator[tuple[str, NodeConfig]]:
        for index, (name, config) in enumerate(super()._node_configs(ports)):
            self.proxies[index].target = ("127.0.0.1", ports[index][1])
            others = [proxy.address for proxy in self.proxies if proxy is not self.proxies[index]]
            yield name, replace(config, routes=tuple(others))


@asynccontextmanager
async def parted_cluster(directory: Path, nodes: int) -> AsyncIterator[PartedCluster]:
    """Such a cluster, started; gone at the end."""
    async with AsyncExitStack() as stack:
        parted: set[str] = set()
        proxies = [await stack.enter_async_context(RouteProxy(f"n{index}", parted)) for index in range(nodes)]
        by_name = {proxy.name: proxy for proxy in proxies}

        def advertising(node: NodeConfig) -> str:
            text = render_config(node)
            assert _ADVERTISED in text
            return text.replace(_ADVERTISED, f'{_ADVERTISED}  advertise: "{by_name[node.name].address}"\n')

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster_module, "render_config", advertising)
            cluster = PartedCluster(free_config(directory, nodes=nodes), proxies, parted)
            try:
                await asyncio.to_thread(cluster.start)
                yield cluster
            finally:
                cluster.join()
                await asyncio.to_thread(cluster.stop)
