"""A cluster whose brokers can be parted from each other: the routes between them go through proxies in user space.

A broker that is parted still serves its clients, so a leader that was deposed meanwhile does too: what no kill and no
stop shows. Every broker advertises the proxy before it, and who dials there is known by the name that it says first.
"""

from __future__ import annotations

import asyncio
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
from tests.support.proxy import TcpProxy

_NAME = re.compile(rb'"server_name":"([^"]+)"')
_ADVERTISED = "  no_advertise: true\n"


class RouteProxy(TcpProxy):
    """Before one broker's port for routes; loses what comes from and goes to `parted` brokers."""

    def __init__(self, name: str, parted: set[str]) -> None:
        super().__init__("", 0)
        self.name = name
        self._parted = parted

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def loses(self, chunk: bytes, known: set[str], *, requests: bool) -> bool:
        """What the parted say or are to hear; `known` is the dialer's name, once it was said."""
        said = _NAME.search(chunk) if requests and not known else None
        if said is not None:
            known.add(said.group(1).decode())
        return bool(self._parted & (known | {self.name}))


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
