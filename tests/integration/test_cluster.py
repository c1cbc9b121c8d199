"""The embedded cluster on real nats-server processes: up, down, taken ports, crashes, orphans."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tapehouse.bus import Cluster, NodeEndedError, connect
from tapehouse.bus import state as files
from tapehouse.bus.cluster import lasting_ports
from tapehouse.bus.process import identify, is_alive, wait_ended
from tapehouse.bus.server import find_server
from tapehouse.core import BusUnavailableError, MissingError, UsageError
from tests.support.clusters import free_config

END_TIMEOUT_S = 20.0

HOLDER = """
import sys
from pathlib import Path
from tests.support.clusters import free_config
from tapehouse.bus import Cluster

cluster = Cluster(free_config(Path(sys.argv[1]), nodes=int(sys.argv[2]), detached=sys.argv[3] == "detached"))
cluster.start()
if sys.argv[3] == "foreground":
    try:
        print("ready", flush=True)  # From here on it may be interrupted.
        cluster.wait()
    finally:
        cluster.stop()
else:
    print("ready", flush=True)
"""


@contextmanager
def holder(directory: Path, nodes: int, mode: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that starts a cluster, as `tapehouse up` does."""
    project = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), str(nodes), mode],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(project)},
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


async def test_one_node_and_what_it_says(cluster1: Cluster) -> None:
    status = cluster1.status()
    assert status.healthy
    assert status.profile == "durable"
    assert [node.name for node in status.nodes] == ["n0"]
    async with await connect(directory=cluster1.directory) as bus:
        assert await bus.durability() == "durable"
        assert bus.default_replicas() == 1


async def test_three_nodes_and_their_leader(cluster3: Cluster) -> None:
    status = cluster3.status()
    assert status.healthy
    assert status.leader in ("n0", "n1", "n2")
    async with await connect(cluster3.urls) as bus:
        assert await bus.durability() == "unknown"  # Not told the monitoring ports, and 8222 is not ours.
        assert bus.default_replicas() == 3


async def test_the_fast_profile_is_named_for_what_it_is(tmp_path: Path) -> None:
    with Cluster(free_config(tmp_path, profile="fast")) as cluster:
        assert cluster.status().profile == "fast"
        async with await connect(directory=tmp_path) as bus:
            assert await bus.durability() == "fast: unsafe on power loss"
    with pytest.raises(BusUnavailableError, match="no cluster runs here"):
        await connect(directory=tmp_path)


def test_a_server_that_does_not_sync_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nats-server"
    program.write_text(
        f'#!/bin/sh\nsed -i "s/sync_interval: always//" "$(eval echo \\${{$#}})"\nexec {find_server()} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr("tapehouse.bus.cluster.find_server", lambda: program)
    cluster = Cluster(free_config(tmp_path / "data"))
    with pytest.raises(MissingError, match="'fast', not 'durable'"):
        cluster.start()
    assert files.load_state(tmp_path / "data") is None


def test_a_taken_port_is_named_with_its_owner(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(MissingError, match=rf"port {port} is taken by pid {os.getpid()} .*python") as caught:
            Cluster(replace(free_config(tmp_path), client_port=port)).start()
        assert "other ports" in caught.value.hint


def test_free_ports_are_none_that_an_outgoing_connection_is_given_while_a_node_is_down(cluster1: Cluster) -> None:
    nodes = cluster1.state.nodes
    ports = [port for node in nodes for port in (node.client_port, node.route_port, node.monitor_port)]
    assert len(set(ports)) == len(ports)
    assert set(ports) <= set(lasting_ports())


@pytest.mark.parametrize("says", [None, "", "one two"])
def test_where_the_kernel_does_not_say_any_free_port_will_do(
    says: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "range"
    if says is not None:
        place.write_text(says)
    monkeypatch.setattr("tapehouse.bus.cluster.EPHEMERAL", place)
    assert not lasting_ports()
    with Cluster(free_config(tmp_path / "data")) as cluster:
        assert cluster.status().healthy


def test_a_foreign_server_is_named(tmp_path: Path, cluster1: Cluster) -> None:
    node = cluster1.state.nodes[0]
    for field, port in (("client_port", node.client_port), ("monitor_port", node.monitor_port)):
        with pytest.raises(MissingError, match=rf"taken by pid {node.process.pid} \(.*nats-server"):
            Cluster(replace(free_config(tmp_path), **{field: port})).start()
    assert cluster1.status().healthy


def test_a_directory_takes_one_cluster_of_one_size(tmp_path: Path) -> None:
    with Cluster(free_config(tmp_path)) as cluster:
        with pytest.raises(UsageError, match="already runs here, 1 of them alive"):
            Cluster(free_config(tmp_path)).start()
        assert cluster.status().healthy
    with pytest.raises(UsageError, match="cluster of 1, not of 3"):
        Cluster(free_config(tmp_path, nodes=3)).start()
    with pytest.raises(UsageError, match="1, 3 or 5"):
        Cluster(free_config(tmp_path, nodes=2)).start()


def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "n0").mkdir()
    (tmp_path / "n0" / "store").write_text("not a directory")
    with pytest.raises(NodeEndedError, match=r"n0 ended: .*not a directory"):
        Cluster(free_config(tmp_path)).start()
    assert files.load_state(tmp_path) is None


def test_a_killed_node_comes_back(tmp_path: Path) -> None:
    with Cluster(free_config(tmp_path, nodes=3)) as cluster:
        cluster.kill_node(1)
        nodes = cluster.status().nodes
        assert [node.alive for node in nodes] == [True, False, True]
        assert nodes[1].detail == "not running"
        with pytest.raises(MissingError, match="not running"):
            cluster.kill_node(1)
        with pytest.raises(UsageError, match="still runs"):
            cluster.restart_node(0)
        cluster.restart_node(1)
        assert cluster.status().healthy


def test_another_process_finds_and_stops_a_detached_cluster(tmp_path: Path) -> None:
    with holder(tmp_path, 3, "detached") as process:
        assert process.wait(END_TIMEOUT_S) == 0
    cluster = Cluster.attach(tmp_path)
    assert cluster.status().healthy
    assert cluster.status().detached
    cluster.kill_node(2)
    cluster.restart_node(2)
    assert Cluster.attach(tmp_path).status().healthy
    assert cluster.stop().stopped == ("n0", "n1", "n2")
    with pytest.raises(MissingError, match="tapehouse up"):
        Cluster.attach(tmp_path)


def test_a_stale_state_file_is_seen_and_cleaned(tmp_path: Path) -> None:
    cluster = Cluster(free_config(tmp_path))
    cluster.start()
    recorded = cluster.state
    cluster.kill_node(0)
    cluster.stop()
    files.save_state(tmp_path, recorded)  # As a power loss leaves it.
    attached = Cluster.attach(tmp_path)
    assert [node.alive for node in attached.status().nodes] == [False]
    report = attached.stop()
    assert (report.stopped, report.already_gone) == ((), ("n0",))
    files.save_state(tmp_path, recorded)
    with Cluster(free_config(tmp_path)) as again:  # A stale file does not stand in the way either.
        assert again.status().healthy


def test_stopping_spares_a_recycled_pid(tmp_path: Path) -> None:
    """The state file names this very process, but another life of it."""
    us = identify(os.getpid())
    node = files.NodeState(
        name="n0", process=replace(us, start_ticks=us.start_ticks - 1), client_port=1, monitor_port=2, route_port=3
    )
    files.save_state(tmp_path, files.ClusterState(profile="durable", detached=True, nodes=(node,)))
    assert Cluster.attach(tmp_path).stop().already_gone == ("n0",)


def test_an_interrupted_start_can_be_stopped(tmp_path: Path) -> None:
    """Two of three nodes were launched and recorded when the starter crashed."""
    with Cluster(free_config(tmp_path, nodes=3)) as cluster:
        files.save_state(tmp_path, replace(cluster.state, nodes=cluster.state.nodes[:2]))
        assert Cluster.attach(tmp_path).stop().stopped == ("n0", "n1")


def interrupt(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does on Ctrl-C: to the whole foreground group.


@pytest.mark.parametrize(
    "end", [interrupt, subprocess.Popen.terminate, subprocess.Popen.kill], ids=lambda f: f.__name__
)
def test_no_server_outlives_a_foreground_starter(tmp_path: Path, end: Callable[[subprocess.Popen[str]], None]) -> None:
    with holder(tmp_path, 3, "foreground") as process:
        state = files.load_state(tmp_path)
        assert state is not None
        servers = [node.process for node in state.nodes]
        assert all(is_alive(server) for server in servers)
        end(process)
        process.wait(END_TIMEOUT_S)
        assert wait_ended(servers, END_TIMEOUT_S) == []
    # Ctrl-C is an orderly stop; the others leave a stale file, which the next start cleans.
    assert (files.load_state(tmp_path) is None) == (end is interrupt)
