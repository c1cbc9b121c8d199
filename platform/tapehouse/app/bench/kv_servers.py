"""The servers that the benchmark of the KV stands beside each other, one system at a time on the machine.

Ours are real brokers and `tapehouse kv serve` as a process of its own; Redis, etcd and rqlite run as their makers start
them, on loopback, with data in the benchmark's scratch directory. Each is up when it answers, and gone at the end.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tapehouse.app.bench.kv_programs import KV_PEER, RQLITED
from tapehouse.bus import Cluster, ClusterConfig
from tapehouse.bus.launcher import Launcher
from tapehouse.bus.process import ProcessIdentity, is_alive, send_signal, wait_ended
from tapehouse.core.errors import MissingError

START_S = 180.0  # a gateway's first start compiles
STOP_S = 15.0
POLL_S = 0.05
LOOK_S = 2.0
HOST = "127.0.0.1"
LAST_WORDS = 300  # characters of a log, where a server ended
ETCD_QUOTA_BYTES = 8 << 30


@dataclass(slots=True)
class Servers:
    """Processes of one system, started by `launch`, ended together."""

    directory: Path
    launcher: Launcher = field(default_factory=Launcher)
    processes: list[tuple[str, ProcessIdentity]] = field(default_factory=list)

    def launch(self, name: str, command: list[str]) -> Path:
        """Start a process; where what it prints goes."""
        log = self.directory / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self.processes.append((name, self.launcher.launch(command, errors=log, detached=False)))
        return log

    def wait(self, is_up: Callable[[], bool]) -> None:
        """Return once it is up.

        Raises:
            MissingError: A process ended, or it was not up after START_S.
        """
        deadline = time.monotonic() + START_S
        while not is_up():
            self.launcher.reap()
            for name, process in self.processes:
                if not is_alive(process):
                    raise MissingError(f"it ended: {self._last_words(name)}", subject=name)
            if time.monotonic() > deadline:
                raise MissingError(f"not up after {START_S:g} s", subject=", ".join(name for name, _ in self.processes))
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End all, kindly and then not."""
        living = [process for _, process in self.processes]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in living:
                send_signal(process, number)
            deadline = time.monotonic() + STOP_S
            while living and time.monotonic() < deadline:
                self.launcher.reap()
                living = wait_ended(living, POLL_S)
        self.launcher.close(set())

    def _last_words(self, name: str) -> str:
        text = (self.directory / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        return text[-LAST_WORDS:].strip() or "no word"


@contextmanager
def _servers(directory: Path) -> Iterator[Servers]:
    servers = Servers(directory)
    try:
        yield servers
    finally:
        servers.stop()
        shutil.rmtree(directory, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind((HOST, 0))
        return [sock.getsockname()[1] for sock in socks]


# Ours.


@contextmanager
def brokers(directory: Path, nodes: int) -> Iterator[str]:
    """A durable cluster of our own; its URLs."""
    config = ClusterConfig(nodes=nodes, directory=directory, client_port=0, route_port=0, monitor_port=0)
    with Cluster(config) as cluster:
        yield ",".join(cluster.urls)
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def gateway(directory: Path, urls: str, *, level: str = "linearizable", commit: str = "group") -> Iterator[int]:
    """`tapehouse kv serve`; its port for RESP."""
    command = [
        sys.executable, "-m", "tapehouse.cli", "kv", "serve", "--resp", "0", "--nats", urls, "--json", "--level", level,
        "--commit", commit, "--home", str(directory / "home"),
    ]  # fmt: skip
    with _servers(directory) as servers:
        log = servers.launch("gateway", command)
        servers.wait(lambda: _ready_line(log) is not None)
        yield int(str((_ready_line(log) or {})["resp"]).rpartition(":")[2])


def _ready_line(log: Path) -> dict[str, object] | None:
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        if line.startswith("{") and line.endswith("\n"):
            told: dict[str, object] = json.loads(line)
            return told
    return None


# Redis.


def redis_version() -> str | None:
    """Of the Redis whose server and benchmark are installed; None where they are not."""
    if not (shutil.which("redis-server") and shutil.which("redis-benchmark")):
        return None
    done = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.partition("v=")[2].split()[0]


@contextmanager
def redis(directory: Path, *, is_durable: bool) -> Iterator[int]:
    """One redis-server; its port. Durable: every answer to a write waits for an fsync of the append-only file."""
    (port,) = free_ports(1)
    data = directory / "data"
    data.mkdir(parents=True)
    durable = ["--appendonly", "yes", "--appendfsync", "always"] if is_durable else []
    command = ["redis-server", "--bind", HOST, "--port", str(port), "--dir", str(data), "--save", "", *durable]
    with _servers(directory) as servers:
        servers.launch("redis", command)
        servers.wait(lambda: _answers_ping(port))
        yield port


def _answers_ping(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=LOOK_S) as link:
            link.sendall(b"PING\r\n")
            return link.recv(64) == b"+PONG\r\n"
    except OSError:
        return False


# Raft's.


@contextmanager
def etcd(directory: Path, nodes: int) -> Iterator[list[str]]:
    """An etcd cluster, fsync on as it is by default; the clients' endpoints."""
    program = KV_PEER.find()
    if program is None:
        raise MissingError("it was not built", subject="etcd", hint="make peers")
    ports = free_ports(2 * nodes)
    clients = [f"{HOST}:{port}" for port in ports[:nodes]]
    peers = [f"http://{HOST}:{port}" for port in ports[nodes:]]
    members = ",".join(f"n{number}={url}" for number, url in enumerate(peers))
    with _servers(directory) as servers:
        for number in range(nodes):
            url = f"http://{clients[number]}"
            servers.launch(f"etcd-{number}", [
                str(program), "etcd", "--name", f"n{number}", "--data-dir", str(directory / f"n{number}"),
                "--listen-client-urls", url, "--advertise-client-urls", url,
                "--listen-peer-urls", peers[number], "--initial-advertise-peer-urls", peers[number],
                "--initial-cluster", members, "--initial-cluster-state", "new", "--log-level", "error",
                "--quota-backend-bytes", str(ETCD_QUOTA_BYTES),
            ])  # fmt: skip
        servers.wait(lambda: all(_says(f"http://{client}/health", '"health":"true"') for client in clients))
        yield clients


@contextmanager
def rqlite(directory: Path, nodes: int) -> Iterator[list[str]]:
    """An rqlite cluster, as it is by default; the nodes' addresses, the leader first."""
    program = RQLITED.find()
    if program is None:
        raise MissingError("it was not built", subject="rqlite", hint="make peers")
    ports = free_ports(2 * nodes)
    clients = [f"{HOST}:{port}" for port in ports[:nodes]]
    rafts = [f"{HOST}:{port}" for port in ports[nodes:]]
    with _servers(directory) as servers:
        for number in range(nodes):
            join = ["-join", rafts[0]] if number else []
            servers.launch(f"rqlite-{number}", [
                str(program), "-node-id", f"n{number}", "-http-addr", clients[number], "-raft-addr", rafts[number],
                *join, str(directory / f"n{number}"),
            ])  # fmt: skip
            # The first leads before the others join it, so it is the leader that clients are sent to.
            servers.wait(lambda at=number: _says(f"http://{clients[at]}/readyz", "leader ok"))  # type: ignore[misc]
        yield clients


def _says(url: str, word: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=LOOK_S) as answer:
            return word in answer.read().decode(errors="replace")
    except (urllib.error.URLError, OSError):
        return False
