"""The state file of an embedded cluster: how another process finds, checks and stops it.

`cluster.json` lies in the cluster's directory, is replaced atomically, and names each process so that a recycled pid
is never taken for ours. `layout.json` beside it remembers what the stores were made for, also while nothing runs.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tapehouse.bus.process import ProcessIdentity
from tapehouse.bus.server import HOST, Profile
from tapehouse.core import IntegrityError, UsageError

STATE_FILE = "cluster.json"
LAYOUT_FILE = "layout.json"
LOCK_FILE = "cluster.lock"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """One node: where it listens and which process it is."""

    name: str
    process: ProcessIdentity
    client_port: int
    monitor_port: int
    route_port: int

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{HOST}:{self.client_port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """A cluster that was started, and may still run."""

    profile: Profile
    detached: bool
    nodes: tuple[NodeState, ...]

    @property
    def urls(self) -> list[str]:
        """Where clients connect, one URL a node."""
        return [node.url for node in self.nodes]


def default_directory() -> Path:
    """`$TAPEHOUSE_HOME/cluster`, else `~/.tapehouse/cluster`."""
    return Path(os.environ.get("TAPEHOUSE_HOME") or Path.home() / ".tapehouse") / "cluster"


def write_atomically(path: Path, value: dict[str, Any]) -> None:
    """Replace a JSON file whole or not at all, durably."""
    draft = path.with_suffix(".tmp")
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def save_state(directory: Path, state: ClusterState) -> None:
    """Write the state file."""
    write_atomically(directory / STATE_FILE, {"format": _FORMAT, **asdict(state)})


def load_state(directory: Path) -> ClusterState | None:
    """Read the state file; None where there is none.

    Raises:
        IntegrityError: The file is there and says nothing sensible.
    """
    path = directory / STATE_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    try:
        if raw["format"] != _FORMAT or raw["profile"] not in ("durable", "fast"):
            raise _damaged(path)
        nodes = tuple(
            NodeState(
                name=str(node["name"]),
                process=ProcessIdentity(
                    pid=int(node["process"]["pid"]),
                    start_ticks=int(node["process"]["start_ticks"]),
                    boot_id=str(node["process"]["boot_id"]),
                ),
                client_port=int(node["client_port"]),
                monitor_port=int(node["monitor_port"]),
                route_port=int(node["route_port"]),
            )
            for node in raw["nodes"]
        )
        return ClusterState(profile=raw["profile"], detached=bool(raw["detached"]), nodes=nodes)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path) from error


def remove_state(directory: Path) -> None:
    """Forget a cluster that no longer runs; its stores stay."""
    (directory / STATE_FILE).unlink(missing_ok=True)


def check_layout(directory: Path, nodes: int) -> None:
    """Remember for how many nodes the stores are; refuse another number later.

    Raises:
        UsageError: The directory holds the stores of a cluster of another size.
    """
    path = directory / LAYOUT_FILE
    try:
        stored = int(json.loads(path.read_text(encoding="utf-8"))["nodes"])
    except FileNotFoundError:
        write_atomically(path, {"format": _FORMAT, "nodes": nodes})
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path) from error
    if stored != nodes:
        raise UsageError(
            f"this directory holds the data of a cluster of {stored}, not of {nodes}",
            subject=str(directory),
            hint=f"start it with {stored} nodes, or give the new cluster another directory",
        )


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory against another process that starts or stops a cluster in it.

    Raises:
        UsageError: Another process is at it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / LOCK_FILE, "a", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                "another process is starting or stopping this cluster", subject=str(directory), hint="wait for it"
            ) from None
        yield


def _damaged(path: Path) -> IntegrityError:
    return IntegrityError(
        "not a state file of this version of tapehouse", subject=str(path), hint="stop its servers and delete it"
    )
