"""`tapehouse kv rebalance` as a user runs it: under load, killed in the midst, run again, on a cluster of three."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tapehouse.bus import Cluster
from tests.support.cli import Shell

WAIT_S = 60.0
KEYS = 3_000
WRITERS = 3


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home")


@contextmanager
def gateway(shell: Shell, url: str) -> Iterator[int]:
    """The port of one that serves."""
    child = shell.start("kv", "serve", "--resp", 0, "--nats", url, "--json")
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        assert line, child.communicate()
        yield int(json.loads(line)["resp"].rpartition(":")[2])
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=WAIT_S)
        assert (child.returncode, err) == (0, "")
    finally:
        child.kill()
        child.wait()


class Client:
    """One connection, one request at a time."""

    def __init__(self, port: int) -> None:
        self._link = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self._file = self._link.makefile("rb")

    def ask(self, *words: str) -> str:
        request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        self._link.sendall(request.encode())
        line = self._file.readline().decode().strip()
        if line[:1] == "$" and line != "$-1":
            return self._file.readline().decode().strip()
        return line

    def close(self) -> None:
        self._link.close()


def write(port: int, number: int, stop: threading.Event, written: dict[str, str], counted: list[int]) -> None:
    """Set keys and count one up until told to stop; what was acknowledged is noted."""
    client = Client(port)
    turn = 0
    while not stop.is_set():
        key, value = f"load/{number}/{turn % 200}", str(turn)
        if client.ask("SET", key, value) == "+OK":
            written[key] = value
        if client.ask("INCR", f"count/{number}")[:1] == ":":
            counted[number] += 1
        turn += 1
    client.close()


def _shards(shell: Shell, url: str) -> Any:
    return shell.inside.json("kv", "shards", "--nats", url)


@pytest.mark.timeout(300)  # where the kernels must be compiled first
def test_a_rebalance_under_load_that_is_killed_and_run_again(shell: Shell, kv_cluster3: Cluster) -> None:
    url = ",".join(kv_cluster3.urls)
    missing = shell.inside.refused("kv", "rebalance", "--shards", 4, "--nats", url, code=3)
    assert "there is no replicated KV yet (make one: tapehouse kv serve)" in missing
    with gateway(shell, url) as port, gateway(shell, url) as other:
        client = Client(port)
        for first in range(0, KEYS, 100):
            pairs = [word for n in range(first, first + 100) for word in (f"key/{n}", f"value {n}")]
            assert client.ask("MSET", *pairs) == "+OK"
        stop, written, counted = threading.Event(), {}, [0] * WRITERS  # type: ignore[var-annotated]
        load = [
            threading.Thread(target=write, args=((port, other)[number % 2], number, stop, written, counted))
            for number in range(WRITERS)
        ]
        for thread in load:
            thread.start()
        try:
            killed = shell.start("kv", "rebalance", "--shards", 4, "--nats", url, "--json")
            assert killed.stdout is not None
            begun = json.loads(killed.stdout.readline())
            assert (begun["shards"], begun["slots"], begun["moved"]) == (4, 12_288, 0)
            killed.send_signal(signal.SIGKILL)
            killed.communicate()
            half = _shards(shell, url)
            assert half["shards"] == 4
            assert 0 < half["slots"] <= 12_288
            done = subprocess_rebalance(shell, url)
            assert (done["is_done"], done["moved"], done["slots"]) == (True, 12_288, 12_288)
        finally:
            stop.set()
            for thread in load:
                thread.join(WAIT_S)
        whole = _shards(shell, url)
        assert [share["slots"] for share in whole["shares"]] == [4_096] * 4
        assert (whole["slots"], whole["homeless"], whole["mover"]) == (0, 0, "")
        assert sum(counted) > 50, "there was load"
        assert [client.ask("GET", f"count/{n}") for n in range(WRITERS)] == [str(count) for count in counted]
        late = Client(other)
        for reader in (client, late):
            assert all(reader.ask("GET", key) == value for key, value in written.items())
            assert all(reader.ask("GET", f"key/{n}") == f"value {n}" for n in range(0, KEYS, 7))
        assert client.ask("DBSIZE") == late.ask("DBSIZE") == f":{KEYS + len(written) + WRITERS}"
        assert late.ask("REBALANCE", "2") == "+OK"  # A gateway moves them itself, and back to fewer.
        refused = late.ask("REBALANCE", "3")
        assert refused == "+OK" or "moves slots already" in refused
        late.close()
        client.close()
    table = shell.inside.run("kv", "shards", "--nats", url).out
    assert re.search(r"shard +slots +keys", table)


def subprocess_rebalance(shell: Shell, url: str) -> Any:
    """The last line of a rebalance that came to its end."""
    child: subprocess.Popen[str] = shell.start("kv", "rebalance", "--shards", 4, "--nats", url, "--json")
    out, err = child.communicate(timeout=WAIT_S)
    assert (child.returncode, err) == (0, ""), (out, err)
    return json.loads(out.splitlines()[-1])
