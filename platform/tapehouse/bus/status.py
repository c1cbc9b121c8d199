"""What a cluster's nodes say of themselves on their monitoring ports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tapehouse.bus.process import is_alive
from tapehouse.bus.server import Profile, monitor, profile_of
from tapehouse.bus.state import ClusterState, NodeState
from tapehouse.core import BusUnavailableError, MissingError


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """One node as seen now; `detail` says why it is not healthy."""

    name: str
    url: str
    pid: int
    alive: bool
    healthy: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """A cluster as seen now; `leader` is the node that leads the cluster's own log, where it has one."""

    directory: Path
    profile: Profile
    detached: bool
    leader: str
    nodes: tuple[NodeStatus, ...]

    @property
    def healthy(self) -> bool:
        """Whether every node is."""
        return all(node.healthy for node in self.nodes)


def observe(directory: Path, state: ClusterState) -> ClusterStatus:
    """Ask every node how it is."""
    leader = ""
    nodes = []
    for node in state.nodes:
        alive = is_alive(node.process)
        healthy, detail = health(node) if alive else (False, "not running")
        if alive and not leader and len(state.nodes) > 1:
            leader = _meta_leader(node)
        nodes.append(
            NodeStatus(name=node.name, url=node.url, pid=node.process.pid, alive=alive, healthy=healthy, detail=detail)
        )
    return ClusterStatus(
        directory=directory, profile=state.profile, detached=state.detached, leader=leader, nodes=tuple(nodes)
    )


def health(node: NodeState) -> tuple[bool, str]:
    """Whether a node says that it and all its streams are well, and else what it says."""
    try:
        code, answer = monitor(node.monitor_port, "/healthz")
    except BusUnavailableError as error:
        return False, error.message
    return code == 200, "" if code == 200 else str(answer.get("error") or answer.get("status") or code)


def require_profile(state: ClusterState) -> None:
    """Have every node prove that it syncs as the state says.

    Raises:
        MissingError: A node does not, or another server answers in its place.
    """
    for node in state.nodes:
        _, varz = monitor(node.monitor_port, "/varz")
        actual = profile_of(varz)
        if varz.get("server_name") != node.name or actual != state.profile:
            raise MissingError(
                f"node {node.name} runs as {varz.get('server_name')!r} with the profile {actual!r}, "
                f"not {state.profile!r}",
                subject=f"port {node.monitor_port}",
                hint="another server answers, or the server's version ignores sync_interval",
            )


def _meta_leader(node: NodeState) -> str:
    try:
        _, answer = monitor(node.monitor_port, "/jsz")
    except BusUnavailableError:
        return ""  # Its health says so already.
    return str((answer.get("meta_cluster") or {}).get("leader") or "")
