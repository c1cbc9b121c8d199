"""`tapehouse kv serve` as a user runs it, on a cluster of three: Redis's own tools, two gateways, a restart."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tapehouse.bus import Cluster
from tests.support.cli import Shell

WAIT_S = 60.0
needs_redis_tools = pytest.mark.skipif(
    not (shutil.which("redis-cli") and shutil.which("redis-benchmark")),
    reason="redis-cli and redis-benchmark are not installed (Debian: apt install redis-tools)",
)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home")


@contextmanager
def gateway(shell: Shell, cluster: Cluster, *options: object, port: int = 0) -> Iterator[dict[str, Any]]:
    """What it told when it was ready; at last it must end well on Ctrl-C, and what it told then is added."""
    url = ",".join(cluster.urls)
    child = shell.start("kv", "serve", "--resp", port, "--nats", url, "--json", *options)
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        assert line, child.communicate()
        told = json.loads(line)
        yield told
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=WAIT_S)
        assert (child.returncode, err) == (0, ""), (out, err)
        told.update(json.loads(out))
    finally:
        child.kill()
        child.wait()


def port_of(told: dict[str, Any]) -> int:
    return int(told["resp"].rpartition(":")[2])


def ask(told: dict[str, Any], data: bytes, reply: bytes) -> None:
    """One plain connection, one answer."""
    with socket.create_connection(("127.0.0.1", port_of(told)), timeout=WAIT_S) as link:
        link.sendall(data)
        heard = b""
        while len(heard) < len(reply):
            piece = link.recv(65_536)
            assert piece, heard
            heard += piece
        assert heard == reply


def tool(name: str, told: dict[str, Any], *arguments: str, text: str = "") -> str:
    command = [name, "-p", str(port_of(told)), *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@needs_redis_tools
def test_redis_tools_two_gateways_and_a_restart(shell: Shell, kv_cluster3: Cluster) -> None:
    with gateway(shell, kv_cluster3, "--shards", 2) as one:
        assert (one["ready"], one["shards"], one["keys"]) == (True, 2, 0)
        assert tool("redis-cli", one, "set", "price:AAPL", "184.52") == "OK\n"
        lines = "get price:AAPL\nincr n\nset q v EX 100\nttl q\nmget price:AAPL none\ndbsize\n"
        assert tool("redis-cli", one, text=lines) == "184.52\n1\nOK\n100\n184.52\n\n3\n"
        refused = shell.refused("kv", "serve", "--resp", port_of(one), "--nats", kv_cluster3.urls[0], code=3)
        assert "address already in use (stop who has the port, or choose another with --resp)" in refused
        with gateway(shell, kv_cluster3) as other:  # Another way to the same KV, which is at once up to date.
            assert other["shards"] == 2
            assert tool("redis-cli", other, "get", "price:AAPL") == "184.52\n"
            assert tool("redis-cli", other, "incr", "n") == "2\n"
            assert tool("redis-cli", one, "get", "n") == "2\n"
        told = tool("redis-benchmark", one, "-t", "set,get,incr", "-n", "2000", "-c", "20", "-P", "8", "--csv")
        assert [line.split(",")[0] for line in told.splitlines()[1:]] == ['"SET"', '"GET"', '"INCR"']
        assert "WARN" not in told
        counter = tool("redis-cli", one, "get", "counter:__rand_int__")
        assert counter == "2000\n", "every increment that was answered was applied once"
        info = tool("redis-cli", one, "info")
        assert "tapehouse_version:" in info
        assert "shard1:keys=" in info
    assert one["requests"] > 6_000
    assert one["cut"] == {}
    with gateway(shell, kv_cluster3, port=port_of(one)) as again:
        assert again["keys"] == 5
        ask(again, b"GET price:AAPL\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n", b"$6\r\n184.52\r\n:3\r\n")
    assert list(shell.home.glob("kv/*/KV_*.view")), "what it held is kept for the next start"
    wrong = shell.inside.refused("kv", "serve", "--resp", 0, "--shards", 3, "--nats", kv_cluster3.urls[0], code=2)
    assert "the KV was made with 2 shards, not 3" in wrong


def http(told: dict[str, Any], method: str, path: str, body: object = None, token: str = "") -> tuple[int, Any]:
    """One request; its status, and its JSON or text."""
    request = urllib.request.Request(told["http"] + path, method=method)
    if body is not None:
        request.data = json.dumps(body).encode()
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    return status, json.loads(text) if text[:1] == b"{" else text.decode()


def until_ready(told: dict[str, Any], is_ready: bool) -> list[str]:
    """Ask until the gateway is ready, or is not; why not."""
    for _ in range(100):
        status, answer = http(told, "GET", "/readyz")
        if (status == 200) is is_ready:
            return list(answer["reasons"])
        time.sleep(0.1)
    raise AssertionError(answer)


def test_http_beside_resp_and_without_a_majority(shell: Shell, kv_cluster3: Cluster) -> None:
    with gateway(shell, kv_cluster3, "--http", 0) as one:
        status, put = http(one, "POST", "/key", {"h:k": "v"})
        assert (status, put["applied"]) == (200, 1)
        ask(one, b"GET h:k\r\nSET h:k w\r\n", b"$1\r\nv\r\n+OK\r\n")
        assert http(one, "GET", "/key/h:k")[1]["value"] == "w"
        assert http(one, "GET", f"/key/h:k?session={put['session']}")[1]["value"] == "w"
        nodes = {node.name for node in kv_cluster3.state.nodes}
        leaders = http(one, "GET", "/leader")[1]["shards"]
        assert {row["leader"] for row in leaders} <= nodes
        assert "tapehouse_kv_frame_seconds_count" in http(one, "GET", "/metrics")[1]
        assert http(one, "PUT", "/key/positions%2Fx", "v")[1]["code"] == "read-only"
        paused = [0, 1]
        try:
            for node in paused:
                kv_cluster3.kill_node(node, signal.SIGSTOP)
            assert "is a majority of the brokers up?" in until_ready(one, False)[0]
            assert http(one, "GET", "/key/h:k?level=eventual")[1]["value"] == "w"
            status, lost = http(one, "PUT", "/key/h:k", "x")
            assert (status, lost["outcome"]) in ((504, "unknown"), (503, "none"))
        finally:
            for node in paused:
                kv_cluster3.kill_node(node, signal.SIGCONT)
        assert until_ready(one, True) == []
        assert http(one, "PUT", "/key/h:k", "y")[0] == 200
        assert http(one, "GET", "/key/h:k")[1]["value"] == '"y"'
    assert one["cut"] == {}


def test_faults_of_a_drill(shell: Shell, kv_cluster3: Cluster, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    url = ",".join(kv_cluster3.urls)
    child = shell.start(
        "kv", "serve", "--http", 0, "--nats", url, "--token-file", token, "--allow-faults",
        "--fault-write-failure", 1, "--fault-view-delay", "1ms", "--fault-seed", 5,
    )  # fmt: skip
    assert child.stdout is not None
    try:
        ready = child.stdout.readline()
        assert "faults on: view_delay=1ms, write_failure=1.0, write_failure_seed=5" in ready
        told = {"http": ready.split()[1].rstrip(",")}
        assert http(told, "GET", "/status")[0] == 401
        assert http(told, "GET", "/status", token="secret")[1]["faults"]["write_failure"] == 1.0
        assert http(told, "PUT", "/key/k", "v", "secret")[0] == 503
        assert http(told, "POST", "/faults", {"write_failure": 0, "view_delay": 0}, "secret") == (200, {})
        assert http(told, "PUT", "/key/k", "v", "secret")[0] == 200
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=WAIT_S)
        assert child.returncode == 0, (out, err)
        assert "WARNING: FAULTS ARE INJECTED: view_delay=1ms, write_failure=1.0" in err
        assert "stopped after" in out
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--bind", "0.0.0.0"), 2, "anyone who reaches this address could write (add --token-file FILE"),
        (("--resp", 70_000), 2, "port 70000"),
        (("--shards", 0), 2, "0 shards"),
        (("--max-connections", 0), 2, "0 connections"),
        (("--http", 70_000), 2, "--http: port 70000"),
        (("--allow-faults",), 2, "add --http PORT and --token-file FILE"),
        (("--fault-write-failure", 2), 2, "a probability of 2"),
        (("--fault-view-delay", "soon"), 2, "write it as 500ms"),
        (("--tls-cert", "x.pem"), 2, "give both --tls-cert and --tls-key"),
        (("--tls-cert", "none.pem", "--tls-key", "none.pem"), 3, "No such file"),
        (("--token-file", "none"), 3, "No such file"),
        (("--token-file", "/dev/null"), 2, "no token"),
        (("--bind", "no.such.host.invalid", "--token-file", __file__), 2, "no token"),
        (("--nats", "nats://127.0.0.1:1"), 3, "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_served_is_one_line(shell: Shell, options: tuple[object, ...], code: int, said: str) -> None:
    extra = () if "--resp" in options else ("--resp", 0)
    assert said in shell.inside.refused("kv", "serve", *extra, *options, code=code)
