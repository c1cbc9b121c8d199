"""Processes known for certain, and the file that remembers them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tapehouse.bus import state as files
from tapehouse.bus.process import identify, is_alive, port_owner, send_signal, wait_ended
from tapehouse.bus.state import ClusterState, NodeState
from tapehouse.core import IntegrityError, MissingError, UsageError


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_process_is_alive_until_it_ends(child: subprocess.Popen[bytes]) -> None:
    identity = identify(child.pid)
    assert is_alive(identity)
    assert send_signal(identity, signal.SIGKILL)
    assert wait_ended([identity], 5.0) == []  # Not yet reaped: a zombie has ended all the same.
    child.wait()
    assert not is_alive(identity)
    assert not send_signal(identity, signal.SIGKILL)


def test_a_recycled_pid_is_never_signalled(child: subprocess.Popen[bytes]) -> None:
    identity = identify(child.pid)
    for other in (replace(identity, start_ticks=identity.start_ticks - 1), replace(identity, boot_id="another boot")):
        assert not is_alive(other)
        assert not send_signal(other, signal.SIGKILL)
    assert child.poll() is None
    assert is_alive(identity)


def test_nobody_under_a_pid() -> None:
    with pytest.raises(MissingError):
        identify(2**22 + 1)


def test_the_owner_of_a_port_is_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert f"pid {os.getpid()} (" in port_owner(port)
    assert port_owner(port) == ""


def state() -> ClusterState:
    node = NodeState(name="n0", process=identify(os.getpid()), client_port=4, monitor_port=5, route_port=6)
    return ClusterState(profile="durable", detached=True, nodes=(node, replace(node, name="n1")))


def test_state_survives_the_disk(tmp_path: Path) -> None:
    assert files.load_state(tmp_path) is None
    files.save_state(tmp_path, state())
    assert files.load_state(tmp_path) == state()
    assert state().urls == ["nats://127.0.0.1:4", "nats://127.0.0.1:4"]
    files.remove_state(tmp_path)
    files.remove_state(tmp_path)
    assert files.load_state(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 9}', '{"format": 1, "profile": "durable"}'])
def test_a_damaged_state_file_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / files.STATE_FILE).write_text(text)
    with pytest.raises(IntegrityError, match=files.STATE_FILE):
        files.load_state(tmp_path)


def test_a_directory_keeps_its_number_of_nodes(tmp_path: Path) -> None:
    files.check_layout(tmp_path, 3)
    files.check_layout(tmp_path, 3)
    with pytest.raises(UsageError, match="cluster of 3, not of 1"):
        files.check_layout(tmp_path, 1)


def test_two_starters_do_not_share_a_directory(tmp_path: Path) -> None:
    with files.locked(tmp_path), pytest.raises(UsageError, match="another process"), files.locked(tmp_path):
        pass
    with files.locked(tmp_path):
        pass


def test_the_home_is_settable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEHOUSE_HOME", str(tmp_path))
    assert files.default_directory() == tmp_path / "cluster"
    monkeypatch.delenv("TAPEHOUSE_HOME")
    assert files.default_directory() == Path.home() / ".tapehouse" / "cluster"
