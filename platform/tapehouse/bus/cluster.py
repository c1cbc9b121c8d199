"""The embedded cluster: one, three or five nats-server processes on this machine, started, watched and stopped.

In the foreground the servers die with the process that started them, however it ends. Detached they outlive it, and
the state file lets any process find and stop them. Only processes that were recorded and are still the same ones
are ever signalled. All calls block; from asyncio use `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from tapehouse.bus import state as files
from tapehouse.bus.connection import connect
from tapehouse.bus.process import (
    dies_with_parent,
    identify,
    is_alive,
    port_owner,
    send_signal,
    wait_ended,
)
from tapehouse.bus.server import (
    HOST,
    NodeConfig,
    Profile,
    check_config,
    find_server,
    log_tail,
    monitor,
    profile_of,
    render_config,
)
from tapehouse.bus.state import ClusterState, NodeState
from tapehouse.core import BusUnavailableError, MissingError, TapehouseError, UsageError

SIZES = (1, 3, 5)
READY_TIMEOUT_S = 60.0  # a node reads its whole store before it is healthy
TERM_TIMEOUT_S = 15.0
KILL_TIMEOUT_S = 5.0
START_ATTEMPTS_MAX = 3  # with free ports, which another program may take before the server does
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
        if config.nodes not in SIZES:
            raise UsageError(f"a cluster of {config.nodes} nodes", hint="use 1, 3 or 5")
        if config.profile not in ("durable", "fast"):
            raise UsageError(f"{config.profile!r} is no durability profile", hint="use durable or fast")
        self.config = config
        self.directory = (config.directory or files.default_directory()).absolute()
        self._program = Path()
        self._state: ClusterState | None = None
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        # Foreground children end with the thread that forked them, so one thread forks all and lives until stop().
        self._launcher: ThreadPoolExecutor | None = None

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
            UsageError: It already runs, or the directory holds a cluster of another size.
            MissingError: A port is taken (the message names by whom), nats-server is not installed, or the
                servers do not prove the profile that was asked for.
            BusUnavailableError: Not ready within the time allowed.
        """
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
            return self._stop_all()

    def status(self) -> ClusterStatus:
        """Ask every node how it is."""
        state = self.state
        self._reap()
        leader = ""
        nodes = []
        for node in state.nodes:
            alive = is_alive(node.process)
            healthy, detail = (False, "not running") if not alive else self._health(node)
            if alive and not leader and len(state.nodes) > 1:
                leader = self._meta_leader(node)
            nodes.append(
                NodeStatus(
                    name=node.name, url=node.url, pid=node.process.pid, alive=alive, healthy=healthy, detail=detail
                )
            )
        return ClusterStatus(
            directory=self.directory,
            profile=state.profile,
            detached=state.detached,
            leader=leader,
            nodes=tuple(nodes),
        )

    def kill_node(self, index: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to one node; after SIGKILL it has ended when this returns.

        Raises:
            MissingError: It had ended before.
        """
        node = self.state.nodes[index]
        if not send_signal(node.process, number):
            raise MissingError(f"node {node.name} is not running", subject=str(self.directory))
        if number == signal.SIGKILL:
            self._reap()
            wait_ended([node.process], KILL_TIMEOUT_S)
            self._reap()

    def restart_node(self, index: int, *, wait: bool = True) -> None:
        """Start a node that has ended, on its own store and ports; `wait` until the whole cluster is healthy."""
        self._program = find_server()
        node = self.state.nodes[index]
        self._reap()
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
        for node in self.state.nodes:
            while True:
                self._require_alive(node)
                healthy, detail = self._health(node)
                if healthy:
                    break
                if time.monotonic() >= deadline:
                    raise BusUnavailableError(
                        f"node {node.name} is not healthy: {detail}",
                        subject=str(self.directory),
                        hint=f"see {self._log_path(node.name)}",
                    )
                time.sleep(_POLL_S)
        with ThreadPoolExecutor(max_workers=1) as runner:  # The caller's thread may have a loop of its own.
            runner.submit(lambda: asyncio.run(self._probe(deadline))).result()

    def wait(self) -> str:
        """Block until a node ends, and return its name: the foreground's main loop."""
        while True:
            self._reap()
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
        self._require_profile()

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
        if self._launcher is None:
            self._launcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tapehouse-cluster")
        child = self._launcher.submit(self._spawn, name).result()
        self._children[child.pid] = child
        client, route, monitoring = ports
        return NodeState(
            name=name,
            process=identify(child.pid),
            client_port=client,
            route_port=route,
            monitor_port=monitoring,
        )

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        command = [str(self._program), "-c", str(self._config_path(name))]
        with open(self.directory / name / "stderr.log", "wb") as errors:
            if self.config.detached:
                return subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
                )
            # A process group of its own keeps Ctrl-C away: the starter gets it, and stops the servers in order.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                process_group=0,
                preexec_fn=dies_with_parent(),
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
        recorded = {node.process.pid for node in nodes}
        for pid, child in self._children.items():
            if pid not in recorded and child.poll() is None:  # Launched, and the start failed before it was recorded.
                child.kill()
                child.wait(KILL_TIMEOUT_S)
        files.remove_state(self.directory)
        self._state = None
        self._children.clear()
        if self._launcher is not None:
            self._launcher.shutdown(wait=True)
            self._launcher = None
        names = {node.name for node in stopped}
        return StopReport(
            stopped=tuple(sorted(names)),
            already_gone=tuple(node.name for node in nodes if node.name not in names),
        )

    def _await_end(self, nodes: list[NodeState], timeout_s: float) -> list[NodeState]:
        living = {process.pid for process in wait_ended([node.process for node in nodes], timeout_s)}
        self._reap()
        return [node for node in nodes if node.process.pid in living]

    def _reap(self) -> None:
        for child in self._children.values():
            child.poll()

    def _require_alive(self, node: NodeState) -> None:
        self._reap()
        if is_alive(node.process):
            return
        said = log_tail(self._log_path(node.name)) or log_tail(self.directory / node.name / "stderr.log")
        raise NodeEndedError(
            f"node {node.name} ended: {said or 'without a word'}",
            subject=str(self.directory),
            hint=f"see {self._log_path(node.name)}",
        )

    def _require_profile(self) -> None:
        for node in self.state.nodes:
            _, varz = monitor(node.monitor_port, "/varz")
            actual = profile_of(varz)
            if varz.get("server_name") != node.name or actual != self.config.profile:
                raise MissingError(
                    f"node {node.name} runs as {varz.get('server_name')!r} with the profile {actual!r}, "
                    f"not {self.config.profile!r}",
                    subject=f"port {node.monitor_port}",
                    hint="another server answers, or the server's version ignores sync_interval",
                )

    @staticmethod
    def _health(node: NodeState) -> tuple[bool, str]:
        try:
            code, answer = monitor(node.monitor_port, "/healthz")
        except BusUnavailableError as error:
            return False, error.message
        return code == 200, "" if code == 200 else str(answer.get("error") or answer.get("status") or code)

    @staticmethod
    def _meta_leader(node: NodeState) -> str:
        try:
            _, answer = monitor(node.monitor_port, "/jsz")
        except BusUnavailableError:
            return ""  # Its health says so already.
        return str((answer.get("meta_cluster") or {}).get("leader") or "")

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
    listener = held.enter_context(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        owner = port_owner(port)
        raise MissingError(
            f"port {port} is taken by {owner or 'another program'}",
            subject=HOST,
            hint="stop it, or use other ports: tapehouse up --port 0 finds free ones",
        ) from error
    return int(listener.getsockname()[1])
