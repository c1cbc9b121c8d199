"""Children are known from the moment in which they exist, so that none is left when their start is interrupted."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tapehouse.bus.launcher import Launcher
from tests.support.cli import alive, processes_of

PATIENCE_S = 20.0
SLEEPER = "import time; time.sleep(60)"


@pytest.mark.parametrize("detached", [True, False])
def test_an_interrupt_between_the_start_and_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detached: bool
) -> None:
    """Ctrl-C reaches the one who waits; the thread that starts the child goes on and notes it."""
    result = Future.result

    def interrupted(self: Future[Any], timeout: float | None = None) -> Any:
        result(self, timeout)
        raise KeyboardInterrupt

    launcher = Launcher()
    marker = tmp_path / "here"
    with monkeypatch.context() as patch:
        patch.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            launcher.launch([sys.executable, "-c", SLEEPER, f"{marker}/"], errors=tmp_path / "log", detached=detached)
    deadline = time.monotonic() + PATIENCE_S
    while not (found := processes_of(marker)):  # A child shows its command line a moment after it has begun to run.
        assert time.monotonic() < deadline
    (pid,) = found
    launcher.close(set())
    assert not alive(pid)


def test_what_is_recorded_elsewhere_lives_on(tmp_path: Path) -> None:
    launcher = Launcher()
    process = launcher.launch([sys.executable, "-c", SLEEPER], errors=tmp_path / "log", detached=True)
    launcher.close({process.pid})
    assert alive(process.pid)
    second = Launcher()
    second.close(set())
    assert alive(process.pid), "a launcher ends its own children alone"
    _end(process.pid)


def _end(pid: int) -> None:
    import os
    import signal

    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
