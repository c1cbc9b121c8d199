"""`tapehouse up`, `status`, `down` as a user runs them, and what is left after every way of ending them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Shell, alive, assert_gone, one_line, processes_of, until
from tests.support.clusters import free_config

UNSAFE = "fast: unsafe on power loss"


@pytest.fixture
def shell(tmp_path: Path) -> Any:
    """A user with an empty home; whatever a test leaves running is a failure."""
    shell = Shell(tmp_path / "home")
    yield shell
    left = processes_of(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, left


def test_one_node_with_its_host(shell: Shell) -> None:
    told = shell.json("up", "--nodes", 1, "--profile", "fast", "--port", 0)
    assert told["healthy"]
    assert told["profile"] == UNSAFE
    assert [node["name"] for node in told["nodes"]] == ["n0"]
    assert list(told["hosts"]) == ["main"]
    assert {stream["name"] for stream in told["streams"]} == {
        "TAPE_main",
        "EVENTS_main",
        "CMDS_main",
        "SNAPS",
        "OUT",
        "PARKED",
    }

    shown = shell.run("status").out
    assert f"profile  {UNSAFE}" in shown
    assert "host     main, pid" in shown

    sent = shell.inside.json("send", "account.kill", '{"account":"manual"}')
    assert sent["outcome"] == "accepted", sent
    proof = shell.inside.json("prove", "--tape", "main")
    assert proof["equal"], "a tape that grows while it is proved is proved to where it ended"

    (host,) = told["hosts"].values()
    down = shell.json("down")
    assert down == {"stopped": ["n0"], "already_gone": [], "hosts": ["main"]}
    assert not alive(host)
    assert_gone(shell.home)
    assert "no cluster runs here" in shell.inside.refused("down", code=3)
    assert "no cluster runs here" in shell.inside.refused("status", code=3)


def test_three_durable_nodes_and_a_second_up(shell: Shell) -> None:
    with shell.cluster(nodes=3, profile="durable") as told:
        assert told["profile"] == "durable"
        assert len({node["url"] for node in told["nodes"]}) == 3

        said = shell.refused("up", "--nodes", 3, code=2)
        assert "a cluster of 3 already runs here, 3 of them alive" in said
        assert all(str(node["pid"]) in said for node in told["nodes"])
        assert "tapehouse down" in said
        assert shell.inside.json("status")["healthy"], "the refused start did not touch the one that runs"

        shell.inside.json("record", "generated", "--cells", 2000, "--tape", "gen")
        streams = {stream["name"]: stream for stream in shell.inside.json("status")["streams"]}
        assert streams["TAPE_gen"]["replicas"] == 3
        assert streams["TAPE_gen"]["leader"] in {"n0", "n1", "n2"}

        victim = told["nodes"][0]
        os.kill(victim["pid"], signal.SIGKILL)
        until(lambda: not alive(victim["pid"]), "it does not die")
        status = shell.json("status", code=1)
        assert not status["healthy"]
        assert status["nodes"][0]["detail"] == "not running"
        until(  # Where it led the cluster, the others must elect first.
            lambda: [node["healthy"] for node in shell.json("status", code=1)["nodes"]] == [False, True, True],
            "the two that are left are not healthy",
        )


def test_another_number_of_nodes_is_refused_where_data_lies(shell: Shell) -> None:
    with shell.cluster(nodes=1):
        pass
    said = shell.refused("up", "--nodes", 3, "--port", 0, "--no-host", code=2)
    assert "holds the data of a cluster of 1, not of 3" in said


def test_a_busy_port_names_its_owner(shell: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if port > 61_000:
            pytest.skip("the kernel gave a port that `up` refuses anyway")
        said = shell.refused("up", "--nodes", 1, "--no-host", "--port", port, code=3)
        assert f"port {port} is taken by pid {os.getpid()}" in said
        assert "--port 0" in said


@pytest.mark.parametrize("port", [-1, 61_001, 70_000])
def test_a_port_that_leaves_no_room_is_refused(shell: Shell, port: int) -> None:
    assert f"port {port}" in shell.inside.refused("up", f"--port={port}", code=2)


def test_all_nodes_killed(shell: Shell) -> None:
    told = shell.json("up", "--nodes", 1, "--profile", "durable", "--port", 0)
    (node,), (old_host,) = told["nodes"], told["hosts"].values()
    shell.inside.json("record", "generated", "--cells", 2000, "--tape", "gen")
    os.kill(node["pid"], signal.SIGKILL)
    until(lambda: not alive(node["pid"]), "it does not die")

    status = shell.json("status", code=1)
    assert [found["detail"] for found in status["nodes"]] == ["not running"]
    assert "no cluster runs here" in status["detail"]

    # Without a `down` between: the host that was left goes before the new one comes.
    again = shell.json("up", "--nodes", 1, "--profile", "durable", "--port", 0)
    assert not alive(old_host)
    assert list(again["hosts"]) == ["main"]
    assert shell.inside.json("prove", "--tape", "gen")["equal"], "what was acknowledged is there"

    os.kill(again["nodes"][0]["pid"], signal.SIGKILL)
    until(lambda: not alive(again["nodes"][0]["pid"]), "it does not die")
    assert shell.json("down") == {"stopped": [], "already_gone": ["n0"], "hosts": ["main"]}
    assert_gone(shell.home)
    with shell.cluster(nodes=1, profile="durable") as told:
        assert "TAPE_gen" in {stream["name"] for stream in told["streams"]}


def _interrupt(child: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[str, str]:
    """As Ctrl-C does: a signal to the whole group; a second one while it cleans up changes nothing."""
    os.killpg(child.pid, number)
    time.sleep(0.2)
    if child.poll() is None:
        os.killpg(child.pid, number)
    return child.communicate(timeout=60)


def test_ctrl_c_ends_the_foreground_and_everything_with_it(shell: Shell) -> None:
    child = shell.start("up", "--nodes", 1, "--profile", "fast", "--port", 0, "--foreground")
    assert child.stderr is not None
    lines = iter(child.stderr.readline, "")
    assert any("running; Ctrl-C stops everything" in line for line in lines)
    assert len(processes_of(shell.home)) >= 2, "a broker and the host"
    _interrupt(child)
    assert child.returncode == 0
    assert not processes_of(shell.home), "all have ended before the command does"
    assert "no cluster runs here" in shell.inside.refused("status", code=3)


def test_the_foreground_dies_hard_and_takes_everything_along(shell: Shell) -> None:
    child = shell.start("up", "--nodes", 1, "--profile", "fast", "--port", 0, "--foreground")
    assert child.stderr is not None
    assert any("running" in line for line in iter(child.stderr.readline, ""))
    child.kill()
    child.communicate(timeout=30)
    assert_gone(shell.home)


def test_the_foreground_ends_when_its_broker_does(shell: Shell) -> None:
    child = shell.start("up", "--nodes", 1, "--profile", "fast", "--port", 0, "--foreground")
    assert child.stderr is not None
    assert any("running" in line for line in iter(child.stderr.readline, ""))
    (broker,) = [pid for pid, command in processes_of(shell.home).items() if "nats.conf" in command]
    os.kill(broker, signal.SIGKILL)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "broker n0 ended" in err
    assert not processes_of(shell.home)


# How far it has come when the interrupt arrives: nothing yet, brokers that start, the host that starts.
@pytest.mark.parametrize("stage", ["import", "brokers", "host"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_leaves_nothing(shell: Shell, stage: str, number: int) -> None:
    child = shell.start("up", "--nodes", 3, "--profile", "fast", "--port", 0)
    if stage == "brokers":
        until(lambda: processes_of(shell.home), "no broker was started")
    if stage == "host":
        until(lambda: any(" host " in command for command in processes_of(shell.home).values()), "no host was started")
    _, err = _interrupt(child, number)
    assert child.returncode in ((130, -number) if stage == "import" else (130,)), err
    if stage != "import":  # Before our own code runs, Python tells it in its own words.
        assert err.splitlines()[-1] == "tapehouse: interrupted"
        assert "Traceback" not in err
    assert not processes_of(shell.home), "all have ended before the command does"
    assert "no cluster runs here" in shell.inside.refused("down", code=3)


def test_an_interrupt_while_the_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file knows fewer nodes than were started: it goes all the same."""
    from tapehouse.bus import Cluster, state

    calls = 0
    save = state.save_state

    def save_two(directory: Path, value: state.ClusterState) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        save(directory, value)

    monkeypatch.setattr(state, "save_state", save_two)
    with pytest.raises(KeyboardInterrupt):
        Cluster(free_config(tmp_path / "cluster", nodes=3)).start()
    assert not processes_of(tmp_path)
    assert state.load_state(tmp_path / "cluster") is None


def test_a_host_that_cannot_start_takes_the_cluster_down(shell: Shell, tmp_path: Path) -> None:
    failing = tmp_path / "failing.py"
    failing.write_text("import os\nif 'FIRST' in os.environ:\n    raise SystemExit('no')\n")
    said = Shell(shell.home, FIRST="1").refused("up", "--port", 0, "--strategy", f"{failing}:X", code=1)
    assert "failing.py line 3" in said
    assert not processes_of(tmp_path)
    said = shell.refused("up", "--port", 0, "--strategy", "nothing", code=2)
    assert "there is no strategy 'nothing' (shipped: maker, watcher" in said


def test_relative_paths_of_home_and_strategy(shell: Shell, tmp_path: Path) -> None:
    """The host runs elsewhere, and finds both."""
    (tmp_path / "mine.py").write_text(
        "class Idle:\n    name = 'idle'\n    def on_market(self, view):\n        return []\n"
        "    def state(self):\n        return b''\n    def restore(self, state):\n        pass\n"
    )
    options = ("--profile", "fast", "--port", 0, "--strategy", "mine.py:Idle", "--home", "here", "--json")
    assert list(shell.run("up", "--nodes", 1, *options, cwd=tmp_path).json["hosts"]) == ["main"]
    assert list(shell.run("status", "--home", "here", "--json", cwd=tmp_path).json["hosts"]) == ["main"]
    shell.run("down", "--home", "here", cwd=tmp_path)
    assert_gone(tmp_path)


def test_an_external_server(shell: Shell, tmp_path: Path) -> None:
    """Everything goes with --nats or NATS_URL against a server that is none of ours."""
    with Shell(tmp_path / "elsewhere").cluster() as other:
        (node,) = other["nodes"]
        url = node["url"]
        status = shell.json("status", "--nats", url)
        assert status["nodes"] == [], "it is not ours to look into"
        assert status["hosts"] == {}
        shell.inside.json("record", "generated", "--cells", 2000, "--tape", "gen", "--nats", url)
        assert shell.inside.json("prove", "--tape", "gen", "--nats", url)["equal"]
        named = Shell(shell.home, NATS_URL=url)
        assert named.json("replay", "--tape", "gen")["cells"] > 2000
        store = f"file://{tmp_path}/store"
        assert named.inside.json("dr", "backup", store)["written"]
        host = named.start("host", "--tape", "gen")
        assert host.stdout is not None
        assert host.stdout.readline() == "ready\n"
        host.send_signal(signal.SIGTERM)
        assert host.communicate(timeout=60)[0] == "stopped\n"
        assert host.returncode == 0
    assert "nobody answers" in shell.refused("status", "--nats", url, code=3)


def test_a_dead_server(shell: Shell) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"nats://127.0.0.1:{free.getsockname()[1]}"
        said = shell.refused("record", "generated", "--cells", 2000, "--nats", url, code=3)
        assert f"nobody answers at {url}" in said
        assert "is the server running?" in said
        assert "no NATS URL" in shell.inside.refused("status", "--nats", "http://127.0.0.1:1", code=2)
        assert "empty broker URL" in shell.inside.refused("status", "--nats", "", code=2)


def test_a_server_without_jetstream(shell: Shell, tmp_path: Path) -> None:
    from tapehouse.bus.server import find_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [find_server(), "-a", "127.0.0.1", "-p", str(port), "-P", str(tmp_path / "pid")], stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: (tmp_path / "pid").exists(), "it does not start")
        url = f"nats://127.0.0.1:{port}"
        for command in (("status",), ("record", "generated", "--cells", 2000), ("replay", "--tape", "x")):
            said = shell.inside.refused(*command, "--nats", url, code=3)
            assert said == f"{url}: the server has no JetStream (start it with nats-server -js, or name another)"
    finally:
        server.kill()
        server.wait(30)


def test_errors_of_a_second_kind_are_one_line_too(shell: Shell, tmp_path: Path) -> None:
    """What the operating system refuses is no traceback either."""
    (tmp_path / "file").write_text("")
    done = Shell(tmp_path / "file" / "home").run("up", "--nodes", 1, "--no-host", "--port", 0, code=3)
    assert "Not a directory" in one_line(done.err)
