"""The desk's host as a process of its own: started detached, found again, stopped; never another one by mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tapehouse.bus.process import ProcessIdentity, identify, is_alive, send_signal, wait_ended
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


def start(home: Path, tape: str, *, urls: str, strategy: str) -> ProcessIdentity:
    """Start a detached host and return when it serves.

    Raises:
        MissingError: It ended, or did not serve in time; its last words are in the message.
    """
    log = log_path(home, tape)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tapehouse.cli", "host", "--tape", tape, "--nats", urls]
    command += ["--strategy", strategy, "--home", str(home)]
    with open(log, "wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=os.sep
        )
    process = identify(child.pid)
    _record(home, tape).write_text(json.dumps(asdict(process)), encoding="utf-8")
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        text = log.read_text(encoding="utf-8", errors="replace")
        if READY_LINE in text.split():
            return process
        if child.poll() is not None:
            _record(home, tape).unlink(missing_ok=True)
            raise MissingError(
                "the host ended", subject=str(log), hint=(text.strip().splitlines() or ["no output"])[-1]
            )
        time.sleep(_POLL_S)
    send_signal(process, signal.SIGTERM)
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
