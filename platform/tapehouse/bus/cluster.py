"""The embedded cluster: one, three or five nats-server processes on this machine, started, watched and stopped.

In the foreground the servers die with the process that started them, however it ends. Detached they outlive it, and
the state file lets any process find and stop them. Only processes that were recorded and are still the same ones
are ever signalled. All calls block; from asyncio use `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from tapehouse.bus import state as files
from tapehouse.bus.connection import connect
from tapehouse.bus.launcher import KILL_TIMEOUT_S, Launcher
from tapehouse.bus.process import is_alive, port_owner, send_signal, wait_ended
from tapehouse.bus.server import (
    HOST,
    NodeConfig,
    Profile,
    check_config,
    find_server,
    log_tail,
    render_config,
)
from tapehouse.bus.state import ClusterState, NodeState
from tapehouse.bus.status import ClusterStatus, health, observe, require_profile
from tapehouse.core import BusUnavailableError, MissingError, TapehouseError, UsageError

SIZES = (1, 3, 5)
READY_TIMEOUT_S = 60.0  # a node reads its whole store before it is healthy
TERM_TIMEOUT_S = 15.0
START_ATTEMPTS_MAX = 3  # with free ports, which another program may take before the server does
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST_PORT = 10_000  # of those that are tried: below are the usual ports of known programs
PORT_ATTEMPTS_MAX = 64
_POLL_S = 0.05
_PROBE = "TAPEHOUSE_PROBE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """What to start.

    Attributes:
        nodes: 1, 3 or 5.
        profile: `durable` syncs every acknowledged write; `fast` leaves up to two minutes to a power loss.
        directory: Stores, logs and state file; None for `$TAPEHOUSE_HOME/cluster` or `~/.tapehouse/cluster`.
        client_port, route_port, monitor_port: Those of the first node, one more for each further; 0 for free ones.
        detached: Outlive this process.
    """

    nodes: int = 3
    profile: Profile = "durable"
    directory: Path | None = None
    client_port: int = 4222
    route_port: int = 6222
    monitor_port: int = 8222
    detached: bool = False
    ready_timeout_s: float = READY_TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReport:
    """What stopping did: the nodes that were stopped, and those that had ended before (a stale state file)."""

    stopped: tuple[str, ...]
    already_gone: tuple[str, ...]


class NodeEndedError(MissingError):
    """A server ended while it was needed; its last words are in the message."""


class Cluster:
    """A cluster in a directory, started here or attached to."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self.directory = (config.directory or files.default_directory()).absolute()
        self._program = Path()
        self._state: ClusterState | None = None
        self._attached = False
        self._launcher = Launcher()

    @classmethod
    def attach(cls, directory: Path | None = None) -> Cluster:
        """The cluster that the directory's state file describes, alive or stale.

        Raises:
            MissingError: No cluster was started there, or it was stopped.
        """
        where = (directory or files.default_directory()).absolute()
        state = files.load_state(where)
        if state is None:
            raise MissingError("no cluster runs here", subject=str(where), hint="tapehouse up")
        first = state.nodes[0]
        cluster = cls(
            ClusterConfig(
                nodes=len(state.nodes),
                profile=state.profile,
                directory=where,
                client_port=first.client_port,
                route_port=first.route_port,
                monitor_port=first.monitor_port,
                detached=True,
            )
        )
        cluster._state = state
        cluster._attached = True
        return cluster

    @property
    def state(self) -> ClusterState:
        """Ports and processes; raises MissingError before start and after stop."""
        if self._state is None:
            raise MissingError("the cluster is not started", subject=str(self.directory), hint="tapehouse up")
        return self._state

    @property
    def urls(self) -> list[str]:
        """Where clients connect."""
        return self.state.urls

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> ClusterStatus:
        """Start all nodes and return when the cluster takes durable writes.

        Raises:
            UsageError: It already runs, or the directory holds a cluster of another size;
                the number of nodes or the profile is none that there is.
            MissingError: A port is taken (the message names by whom), nats-server is not installed, or the
                servers do not prove the profile that was asked for.
            BusUnavailableError: Not ready within the time allowed.
        """
        if self.config.nodes not in SIZES:
            raise UsageError(f"a cluster of {self.config.nodes} nodes", hint="use 1, 3 or 5")
        if self.config.profile not in ("durable", "fast"):
            raise UsageError(f"{self.config.profile!r} is no durability profile", hint="use durable or fast")
        self._program = find_server()
        with files.locked(self.directory):
            self._refuse_running()
            files.check_layout(self.directory, self.config.nodes)
            for attempt in range(START_ATTEMPTS_MAX):
                try:
                    self._start_once()
                    break
                except BaseException as error:
                    self._stop_all()
                    retried = isinstance(error, NodeEndedError) and self.config.client_port == 0
                    if not retried or attempt + 1 == START_ATTEMPTS_MAX:
                        raise
        return self.status()

    def stop(self) -> StopReport:
        """Stop every recorded node that still runs, and forget the state; the stores stay."""
        if self._state is None:
            return StopReport(stopped=(), already_gone=())
        with files.locked(self.directory):
            self._refresh()
            return self._stop_all()

    def status(self) -> ClusterStatus:
        """Ask every node how it is."""
        self._refresh()
        return observe(self.directory, self.state)

    def kill_node(self, index: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to one node; after SIGKILL it has ended when this returns.

        Raises:
            MissingError: It had ended before.
        """
        self._refresh()
        node = self.state.nodes[index]
        if not send_signal(node.process, number):
            raise MissingError(f"node {node.name} is not running", subject=str(self.directory))
        if number == signal.SIGKILL:
            self._launcher.reap()
            wait_ended([node.process], KILL_TIMEOUT_S)
            self._launcher.reap()

    def restart_node(self, index: int, *, wait: bool = True) -> None:
        """Start a node that has ended, on its own store and ports.

        Args:
            wait: Return when the whole cluster is healthy; False where other nodes are down on purpose.

        Raises:
            UsageError: It still runs.
        """
        self._program = find_server()
        self._refresh()
        node = self.state.nodes[index]
        if is_alive(node.process):
            raise UsageError(f"node {node.name} still runs", subject=str(self.directory), hint="stop it first")
        with files.locked(self.directory):
            started = self._launch(node.name, (node.client_port, node.route_port, node.monitor_port))
            nodes = tuple(started if other.name == node.name else other for other in self.state.nodes)
            self._state = replace(self.state, nodes=nodes)
            files.save_state(self.directory, self._state)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Return when every node is healthy and the cluster creates and deletes a stream on all of them.

        Raises:
            NodeEndedError: A node ended; its log's last lines are in the message.
            BusUnavailableError: Not within the time allowed.
        """
        deadline = time.monotonic() + (self.config.ready_timeout_s if timeout_s is None else timeout_s)
        self._wait_healthy(deadline)
        with ThreadPoolExecutor(max_workers=1) as runner:  # The caller's thread may have a loop of its own.
            runner.submit(lambda: asyncio.run(self._probe(deadline))).result()
        self._wait_healthy(deadline)  # While the probe's stream is taken apart, a node may call it unwell.

    def wait(self) -> str:
        """Block until a node ends, and return its name: the foreground's main loop."""
        while True:
            self._launcher.reap()
            for node in self.state.nodes:
                if not is_alive(node.process):
                    return node.name
            time.sleep(_POLL_S * 4)

    def _start_once(self) -> None:
        ports = list(self._ports())
        nodes: list[NodeState] = []
        for name, node_config in self._node_configs(ports):
            path = self._config_path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render_config(node_config), encoding="utf-8")
            check_config(self._program, path)
        for index, node_ports in enumerate(ports):
            nodes.append(self._launch(f"n{index}", node_ports))
            # Saved after each launch, so that even a crash here leaves no server unrecorded for long.
            self._state = ClusterState(profile=self.config.profile, detached=self.config.detached, nodes=tuple(nodes))
            files.save_state(self.directory, self._state)
        self.wait_ready()
        require_profile(self.state)

    def _ports(self) -> Iterator[tuple[int, int, int]]:
        """Client, route and monitoring port of each node; raises MissingError where one is taken."""
        config = self.config
        with ExitStack() as held:
            for index in range(config.nodes):
                wanted = (config.client_port, config.route_port, config.monitor_port)
                client, route, monitoring = (_reserve(held, base + index if base else 0) for base in wanted)
                yield client, route, monitoring

    def _node_configs(self, ports: list[tuple[int, int, int]]) -> Iterator[tuple[str, NodeConfig]]:
        routes = [f"{HOST}:{route}" for _, route, _ in ports]
        for index, (client, _, monitoring) in enumerate(ports):
            name = f"n{index}"
            yield (
                name,
                NodeConfig(
                    name=name,
                    client=f"{HOST}:{client}",
                    monitor=f"{HOST}:{monitoring}",
                    route=routes[index],
                    routes=tuple(routes[:index] + routes[index + 1 :]),
                    store=str(self.directory / name / "store"),
                    profile=self.config.profile,
                    log_file=str(self._log_path(name)),
                ),
            )

    def _launch(self, name: str, ports: tuple[int, int, int]) -> NodeState:
        client, route, monitoring = ports
        process = self._launcher.launch(
            [str(self._program), "-c", str(self._config_path(name))],
            errors=self.directory / name / "stderr.log",
            detached=self.config.detached,
        )
        return NodeState(
            name=name,
            process=process,
            client_port=client,
            route_port=route,
            monitor_port=monitoring,
        )

    def _refuse_running(self) -> None:
        known = files.load_state(self.directory)
        if known is None:
            return
        living = [node for node in known.nodes if is_alive(node.process)]
        if living:
            raise UsageError(
                f"a cluster of {len(known.nodes)} already runs here, {len(living)} of them alive, "
                f"pids {', '.join(str(node.process.pid) for node in living)}",
                subject=str(self.directory),
                hint="use it, or stop it with tapehouse down",
            )
        files.remove_state(self.directory)  # Left by a crash or a reboot: nothing of it runs.

    def _stop_all(self) -> StopReport:
        nodes = self._state.nodes if self._state else ()
        stopped = [node for node in nodes if send_signal(node.process, signal.SIGTERM)]
        for node in stopped:
            send_signal(node.process, signal.SIGCONT)  # A paused node must wake up to end.
        living = self._await_end(stopped, TERM_TIMEOUT_S)
        for node in living:
            send_signal(node.process, signal.SIGKILL)
        living = self._await_end(living, KILL_TIMEOUT_S)
        if living:
            raise BusUnavailableError(
                f"pids {', '.join(str(node.process.pid) for node in living)} survive SIGKILL",
                subject=str(self.directory),
                hint="they wait for the disk: look at the kernel's log",
            )
        held = files.load_state(self.directory)
        if held is not None and {node.process for node in held.nodes} <= {node.process for node in nodes}:
            files.remove_state(self.directory)  # Else it is that of a cluster started here since.
        self._state = None
        self._launcher.close({node.process.pid for node in nodes})
        names = {node.name for node in stopped}
        return StopReport(
            stopped=tuple(sorted(names)),
            already_gone=tuple(node.name for node in nodes if node.name not in names),
        )

    def _refresh(self) -> None:
        """Take notice of what others did: nodes that they restarted, children that ended."""
        self._launcher.reap()
        if self._attached:
            self._state = files.load_state(self.directory) or self._state

    def _await_end(self, nodes: list[NodeState], timeout_s: float) -> list[NodeState]:
        living = {process.pid for process in wait_ended([node.process for node in nodes], timeout_s)}
        self._launcher.reap()
        return [node for node in nodes if node.process.pid in living]

    def _wait_healthy(self, deadline: float) -> None:
        for node in self.state.nodes:
            while True:
                for other in self.state.nodes:
                    self._require_alive(other)
                healthy, detail = health(node)
                if healthy:
                    break
                if time.monotonic() >= deadline:
                    raise BusUnavailableError(
                        f"node {node.name} is not healthy: {detail}",
                        subject=str(self.directory),
                        hint=f"see {self._log_path(node.name)}",
                    )
                time.sleep(_POLL_S)

    def _require_alive(self, node: NodeState) -> None:
        self._launcher.reap()
        if is_alive(node.process):
            return
        said = log_tail(self._log_path(node.name)) or log_tail(self.directory / node.name / "stderr.log")
        raise NodeEndedError(
            f"node {node.name} ended: {said or 'without a word'}",
            subject=str(self.directory),
            hint=f"see {self._log_path(node.name)}",
        )

    async def _probe(self, deadline: float) -> None:
        """Create and delete a stream on every node; until then a cluster is up but not writable."""
        body = {"name": _PROBE, "subjects": ["tapehouse.probe"], "num_replicas": len(self.state.nodes)}
        async with await connect(self.urls) as bus:
            while True:
                try:
                    await bus.api(f"STREAM.CREATE.{_PROBE}", body)
                    await bus.api(f"STREAM.DELETE.{_PROBE}")
                    return
                except TapehouseError as error:
                    if time.monotonic() >= deadline:
                        raise BusUnavailableError(
                            f"healthy, yet no stream can be created: {error.message}",
                            subject=str(self.directory),
                            hint="see the servers' logs there",
                        ) from error
                await asyncio.sleep(_POLL_S)

    def _config_path(self, name: str) -> Path:
        return self.directory / name / "nats.conf"

    def _log_path(self, name: str) -> Path:
        return self.directory / name / "server.log"


def _reserve(held: ExitStack, port: int) -> int:
    """Bind a port (0: any free one) until `held` is closed; raises MissingError where it is taken."""
    if not port:
        return _reserve_any(held)
    try:
        return _bind(held, port, reuse=True)
    except OSError as error:
        owner = port_owner(port)
        raise MissingError(
            f"port {port} is taken by {owner or 'another program'}",
            subject=HOST,
            hint="stop it, or use other ports: tapehouse up --port 0 finds free ones",
        ) from error


def _reserve_any(held: ExitStack) -> int:
    """Bind a free port that no outgoing connection is given: one of those could have it while its node is down."""
    ports = lasting_ports()
    for port in random.sample(ports, min(len(ports), PORT_ATTEMPTS_MAX)):
        with suppress(OSError):
            return _bind(held, port)
    return _bind(held, 0)


def _bind(held: ExitStack, port: int, *, reuse: bool = False) -> int:
    """Bind a port; with `reuse` also one that a program which has ended listened on just now."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    return int(held.enter_context(listener).getsockname()[1])


def lasting_ports() -> range:
    """Ports that the kernel gives to no outgoing connection; none where it does not say which it gives."""
    try:
        lowest = int(EPHEMERAL.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return range(0)
    return range(LOWEST_PORT, lowest)
