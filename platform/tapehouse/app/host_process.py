"""The desk's host as a process of its own: started detached, found again, stopped; never another one by mistake."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tapehouse.bus.launcher import Launcher
from tapehouse.bus.process import ProcessIdentity, identify, is_alive, send_signal, wait_ended
from tapehouse.bus.state import write_atomically
from tapehouse.core.errors import MissingError

STOP_TIMEOUT_S = 15.0
READY_TIMEOUT_S = 180.0  # a first start compiles the kernels
READY_LINE = "ready"
_POLL_S = 0.05


def _record(home: Path, tape: str) -> Path:
    return home / "hosts" / f"{tape}.json"


def log_path(home: Path, tape: str) -> Path:
    """What the host of a tape prints."""
    return home / "hosts" / f"{tape}.log"


def find(home: Path, tape: str) -> ProcessIdentity | None:
    """The running host of a tape, None where there is none."""
    try:
        process = ProcessIdentity(**json.loads(_record(home, tape).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # Never started, or a record that was cut short: no process is known.
    return process if is_alive(process) else None


def start(
    home: Path, tape: str, *, urls: str, strategy: str, launcher: Launcher, detached: bool = True
) -> ProcessIdentity:
    """Start the host of a tape and return when it serves; one that was left from before is stopped first.

    Args:
        home: Absolute.
        launcher: Keeps a host that is not detached alive: such a one ends with this process.

    Raises:
        MissingError: It ended, or did not serve in time; its last words are in the message.
    """
    stop(home, tape)
    log = log_path(home, tape)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tapehouse.cli", "host", "--tape", tape, "--nats", urls]
    command += ["--strategy", strategy, "--home", str(home)]
    recorded: set[int] = set()
    try:
        process = launcher.launch(command, errors=log, detached=detached)
        write_atomically(_record(home, tape), asdict(process))
        recorded.add(process.pid)
        _await_ready(process, log)
    except BaseException:
        stop(home, tape)
        launcher.close(set())
        raise
    if detached:
        launcher.close(recorded)
    return process


def register(home: Path, tape: str) -> None:
    """Have this process found as the host of a tape: by `status`, and by `down`, which stops hosts before brokers."""
    log_path(home, tape).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(_record(home, tape), asdict(identify(os.getpid())))


def forget(home: Path, tape: str) -> None:
    """Undo `register`."""
    _record(home, tape).unlink(missing_ok=True)


def _await_ready(process: ProcessIdentity, log: Path) -> None:
    """Return when the host says that it serves."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        alive = is_alive(process)
        text = log.read_text(encoding="utf-8", errors="replace")
        if READY_LINE in text.splitlines():
            return
        if not alive:
            said = (text.strip().splitlines() or ["it printed nothing"])[-1]
            raise MissingError("the host ended", subject=str(log), hint=said.removeprefix("tapehouse: "))
        time.sleep(_POLL_S)
    raise MissingError(f"the host did not serve within {READY_TIMEOUT_S:g} s", subject=str(log))


def stop(home: Path, tape: str) -> bool:
    """Stop the host of a tape; False where none ran. It gets SIGTERM first, SIGKILL after STOP_TIMEOUT_S."""
    process = find(home, tape)
    _record(home, tape).unlink(missing_ok=True)
    if process is None:
        return False
    send_signal(process, signal.SIGTERM)
    if wait_ended([process], STOP_TIMEOUT_S):
        send_signal(process, signal.SIGKILL)
        wait_ended([process], STOP_TIMEOUT_S)
    return True


def running(home: Path) -> dict[str, int]:
    """Tapes with a running host, and its pid."""
    found = {}
    for path in sorted((home / "hosts").glob("*.json")):
        process = find(home, path.stem)
        if process is not None:
            found[path.stem] = process.pid
    return found
