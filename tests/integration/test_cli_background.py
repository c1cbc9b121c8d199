"""A command in the background of a script, where the shell has it ignore Ctrl-C: SIGTERM ends it all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

TIMEOUT_S = 60


def test_sigterm_ends_a_command_that_was_started_in_the_background(tmp_path: Path) -> None:
    environment = {**os.environ, "TAPEHOUSE_SHM": str(tmp_path)}
    command = [sys.executable, "-m", "tapehouse.cli", "feeds", "push", "generated", "--ring", "nobody-reads"]
    child = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        while not (tmp_path / "nobody-reads.ring").exists():
            assert child.poll() is None, child.communicate()
        child.terminate()
        _, said = child.communicate(timeout=TIMEOUT_S)
    finally:
        child.kill()
    assert child.returncode == 130, said.decode()
