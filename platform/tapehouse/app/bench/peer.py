"""Other people's work beside ours: Python libraries in an interpreter of their own, and a C++ compiler.

Peers are in no lock file: some want other versions of NumPy than we do. So each is a small script below `peers/` that
imports nothing of tapehouse, and runs in the interpreter that `TAPEHOUSE_PEERS` names, else in our own. It reads
arrays from files, and prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tapehouse.app.bench.measure import Peer, peer_of
from tapehouse.core.errors import MissingError

PEERS_VARIABLE = "TAPEHOUSE_PEERS"
SCRIPTS = Path(__file__).parent / "peers"
SECONDS_MAX = 600.0
NOT_INSTALLED = "peer not installed"
_ABSENT = 3  # a script's exit code where its library is not there


@dataclass(frozen=True)
class Peers:
    """Where peers are found.

    Args:
        python: The interpreter that has the libraries.
        scratch: A directory for their input.
    """

    scratch: Path
    python: str = field(default_factory=lambda: os.environ.get(PEERS_VARIABLE) or sys.executable)

    def ask(self, script: str, arrays: Mapping[str, npt.NDArray[Any]], **settings: Any) -> dict[str, Any] | None:
        """What a script prints; None where its library is not installed.

        Args:
            script: Its file below `peers/`, without the ending.
            arrays: Its input, as files of NumPy.
            settings: Plain values for it.

        Raises:
            MissingError: It failed in another way, or took longer than SECONDS_MAX.
        """
        files = {name: str(self.scratch / f"{script}-{name}.npy") for name in arrays}
        for name, array in arrays.items():
            np.save(files[name], array)
        command = [self.python, "-I", str(SCRIPTS / f"{script}.py"), json.dumps({**files, **settings})]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            hint = f"{PEERS_VARIABLE} names the Python that has the peers"
            raise MissingError(str(error), subject=f"peer {script}", hint=hint) from error
        if done.returncode == _ABSENT:
            return None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise MissingError(f"it failed: {last}", subject=f"peer {script}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


def absent(name: str, why: str = NOT_INSTALLED) -> Peer:
    """A peer that cannot be asked here."""
    return Peer(name=name, note=why)


def answered(name: str, answer: Mapping[str, Any] | None, key: str, note: str = "", scale: float = 1.0) -> Peer:
    """A peer from the runs that it answered under a key."""
    if answer is None:
        return absent(name)
    return peer_of(f"{name} {answer['version']}", [value * scale for value in answer[key]], note)


def find_compiler() -> str | None:
    """A C++ compiler, None where there is none."""
    return next((found for found in map(shutil.which, ("g++", "clang++", "c++")) if found), None)
