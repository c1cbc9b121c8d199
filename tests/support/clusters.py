"""Real nats-server clusters, shared by a whole test session. Tests name their streams by `unique`."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # The client library is imported by the tests that need it, not by all.
    from tapehouse.bus import Cluster, ClusterConfig

_numbers = itertools.count()
_KV_LOG = re.compile(r"KV_\d+")  # native buckets have other names
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")


def unique(prefix: str = "t") -> str:
    """A tape or desk name that no other test of this session uses, whichever worker runs it."""
    return f"{prefix}{_worker}{next(_numbers)}"


def free_config(directory: Path, nodes: int = 1, **options: object) -> ClusterConfig:
    """A cluster on free ports."""
    from tapehouse.bus import ClusterConfig

    return ClusterConfig(
        nodes=nodes,
        directory=directory,
        client_port=0,
        route_port=0,
        monitor_port=0,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="session")
def cluster1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running single server, durable; not to be harmed."""
    from tapehouse.bus import Cluster

    with Cluster(free_config(tmp_path_factory.mktemp("nats1"))) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster of three, durable; not to be harmed."""
    from tapehouse.bus import Cluster

    with Cluster(free_config(tmp_path_factory.mktemp("nats3"), nodes=3)) as cluster:
        yield cluster


async def _forget_kv(urls: Sequence[str]) -> None:
    from tapehouse.bus import StreamAdmin, connect

    async with await connect(urls) as bus:
        admin = StreamAdmin(bus)
        for stream in await admin.list():
            if _KV_LOG.fullmatch(stream.name):
                await admin.delete(stream.name)


@pytest.fixture(scope="module")
def kv_cluster1(cluster1: Cluster) -> Cluster:
    """`cluster1` without a replicated KV, of which a broker has one: that of earlier tests is gone."""
    asyncio.run(_forget_kv(cluster1.urls))
    return cluster1


@pytest.fixture(scope="module")
def kv_cluster3(cluster3: Cluster) -> Cluster:
    """`cluster3`, as `kv_cluster1`."""
    asyncio.run(_forget_kv(cluster3.urls))
    return cluster3
