"""Real nats-server clusters, shared by a whole test session. Tests name their streams by `unique`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # The client library is imported by the tests that need it, not by all.
    from tapehouse.bus import Cluster, ClusterConfig

_numbers = itertools.count()
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
