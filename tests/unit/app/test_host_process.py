"""The host as a process: started, found, stopped; never another one by mistake, and none left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tapehouse.app import host_process
from tapehouse.bus.launcher import Launcher
from tapehouse.bus.process import ProcessIdentity, identify, is_alive
from tapehouse.core import MissingError
from tests.support.cli import alive, processes_of

# A host that says what it is told to, and ends on SIGTERM.
STAND_IN = """#!{python}
import os, signal, sys, time
home = sys.argv[sys.argv.index("--home") + 1]
print({said!r}, flush=True)
if {ends}:
    sys.exit(3)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    time.sleep(0.1)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    for pid in processes_of(tmp_path):
        os.kill(pid, signal.SIGKILL)


def stand_in(monkeypatch: pytest.MonkeyPatch, directory: Path, *, said: str, ends: bool = False) -> None:
    """Have the host be a small program."""
    program = directory / "host"
    program.write_text(STAND_IN.format(python=sys.executable, said=said, ends=ends))
    program.chmod(0o755)
    monkeypatch.setattr(host_process.sys, "executable", str(program))


def start(home: Path, *, launcher: Launcher | None = None, detached: bool = True) -> int:
    process = host_process.start(
        home, "main", urls="nats://x", strategy="maker", launcher=launcher or Launcher(), detached=detached
    )
    return process.pid


def test_a_host_is_found_and_stopped(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path, said="ready")
    assert host_process.running(home) == {}
    pid = start(home)
    assert host_process.running(home) == {"main": pid}
    assert host_process.stop(home, "main")
    assert not alive(pid)
    assert not host_process.stop(home, "main")
    assert host_process.running(home) == {}


def test_one_that_is_left_goes_before_the_next_comes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, tmp_path, said="ready")
    first = start(home)
    second = start(home)
    assert not alive(first)
    assert host_process.running(home) == {"main": second}
    assert host_process.stop(home, "main")


def test_its_last_words_are_told(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path, said="something\ntapehouse: no broker (start one)", ends=True)
    with pytest.raises(MissingError, match=r"main.log: the host ended \(no broker \(start one\)\)"):
        start(home)
    assert host_process.running(home) == {}
    assert not (home / "hosts" / "main.json").exists()


def test_one_that_is_never_ready_is_ended(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path, said="not ready yet")
    monkeypatch.setattr(host_process, "READY_TIMEOUT_S", 0.5)
    with pytest.raises(MissingError, match=r"did not serve within 0.5 s"):
        start(home)
    assert not processes_of(home)


def test_an_interrupt_while_it_starts_ends_it(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path, said="not ready yet")

    def interrupt(process: ProcessIdentity, log: Path) -> None:
        assert is_alive(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(host_process, "_await_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start(home)
    assert not processes_of(home)
    assert not (home / "hosts" / "main.json").exists()


def test_one_in_the_foreground_ends_with_its_launcher(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, tmp_path, said="ready")
    launcher = Launcher()
    pid = start(home, launcher=launcher, detached=False)
    assert alive(pid)
    launcher.close(set())
    assert not alive(pid)


def test_another_process_with_its_number_is_left_alone(home: Path) -> None:
    """A pid is recycled: the record of an ended host must never lead to a stranger."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        process = identify(stranger.pid)
        record = home / "hosts" / "main.json"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({**asdict(process), "start_ticks": process.start_ticks - 1}))
        assert host_process.find(home, "main") is None
        assert not host_process.stop(home, "main")
        assert is_alive(process)
        stranger.kill()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "start_ticks": 1, "boot_id": ""}'])
def test_a_record_that_says_nothing(home: Path, text: str) -> None:
    record = home / "hosts" / "main.json"
    record.parent.mkdir(parents=True)
    record.write_text(text)
    assert host_process.find(home, "main") is None
