"""Starting server processes so that none is ever orphaned by accident.

In the foreground a child dies with the *thread* that forked it (that is what the kernel offers), so one thread forks
all children of a cluster and lives until they are gone. Detached children get a session of their own and stay.
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tapehouse.bus.process import ProcessIdentity, dies_with_parent, identify

KILL_TIMEOUT_S = 5.0


class Launcher:
    """The children of one cluster that this process has started."""

    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._thread: ThreadPoolExecutor | None = None

    def launch(self, command: list[str], *, errors: Path, detached: bool) -> ProcessIdentity:
        """Start a program whose output goes to the file `errors`, and say who it is.

        Raises:
            MissingError: It ended at once.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tapehouse-launcher")
        child = self._thread.submit(_spawn, command, errors, detached).result()
        self._children[child.pid] = child
        return identify(child.pid)

    def reap(self) -> None:
        """Take notice of children that have ended, so that none stays a zombie."""
        for child in self._children.values():
            child.poll()

    def close(self, recorded: set[int]) -> None:
        """Forget all children; kill those not in `recorded`: their start failed before anyone else knew of them."""
        for pid, child in self._children.items():
            if pid not in recorded and child.poll() is None:
                child.kill()
                child.wait(KILL_TIMEOUT_S)
        self._children.clear()
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None


def _spawn(command: list[str], errors: Path, detached: bool) -> subprocess.Popen[bytes]:
    with open(errors, "wb") as output:
        if detached:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        # A process group of its own keeps Ctrl-C away: the starter gets it, and stops the servers in order.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            preexec_fn=dies_with_parent(),
        )
