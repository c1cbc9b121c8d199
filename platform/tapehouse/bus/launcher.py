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
        return identify(self._thread.submit(self._spawn, command, errors, detached).result())

    def reap(self) -> None:
        """Take notice of children that have ended, so that none stays a zombie."""
        for child in self._children.values():
            child.poll()

    def close(self, recorded: set[int]) -> None:
        """Forget all children; kill those not in `recorded`: their start failed before anyone else knew of them."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)  # A child that is just being started is known afterwards.
            self._thread = None
        for pid, child in self._children.items():
            if pid not in recorded and child.poll() is None:
                child.kill()
                child.wait(KILL_TIMEOUT_S)
        self._children.clear()

    def _spawn(self, command: list[str], errors: Path, detached: bool) -> int:
        """Start a child and note it, all in the launcher's thread: a Ctrl-C interrupts only the one who waits."""
        with open(errors, "wb") as output:
            if detached:
                child = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            else:
                # A process group of its own keeps Ctrl-C away: the starter gets it, and stops the servers in order.
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    process_group=0,
                    preexec_fn=dies_with_parent(),
                )
        self._children[child.pid] = child
        return child.pid
