"""Processes known for certain: a pid is recycled, a pid with its start time and its boot is not.

Linux only: `/proc` tells who a process is and who holds a port, a pidfd makes sure that a signal reaches that one, and
`PR_SET_PDEATHSIG` takes a child along when its parent dies.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tapehouse.core import MissingError

_PR_SET_PDEATHSIG = 1
_LISTENING = "0A"
_POLL_S = 0.02
_COMMAND_CHARACTERS = 120
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: a child of many threads must not load it


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """One life of one process: `start_ticks` since the boot named by `boot_id`."""

    pid: int
    start_ticks: int
    boot_id: str


def boot_id() -> str:
    """The present boot of this machine; empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process, None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # The name before may hold spaces and parentheses.
    return fields[0], int(fields[19])


def identify(pid: int) -> ProcessIdentity:
    """Who runs under this pid now.

    Raises:
        MissingError: Nobody does.
    """
    stat = _stat(pid)
    if stat is None:
        raise MissingError(f"there is no process {pid}", hint="it ended as soon as it was started: see its log")
    return ProcessIdentity(pid=pid, start_ticks=stat[1], boot_id=boot_id())


def is_alive(process: ProcessIdentity) -> bool:
    """Whether that very process still runs; a zombie does not, nor does another one with its pid."""
    stat = _stat(process.pid)
    if stat is None or stat[0] in "ZX" or stat[1] != process.start_ticks:
        return False
    return process.boot_id == boot_id()


def send_signal(process: ProcessIdentity, number: int) -> bool:
    """Send a signal to that very process; False where it has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor pins the process, so that what is checked next is what will get the signal.
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait_ended(processes: list[ProcessIdentity], timeout_s: float) -> list[ProcessIdentity]:
    """Wait until all have ended; returns those still alive after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        living = [process for process in processes if is_alive(process)]
        if not living or time.monotonic() >= deadline:
            return living
        time.sleep(_POLL_S)


def dies_with_parent() -> Callable[[], None]:
    """A function for a child to call between fork and exec: SIGTERM comes when the thread that forked it ends.

    The kernel watches the forking *thread*, so that thread must live as long as the child shall.
    """
    parent = os.getpid()

    def arm() -> None:
        if _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(1)  # The parent is already gone.

    return arm


def port_owner(port: int) -> str:
    """Who listens on a TCP port of this machine, as `pid 71 (nats-server -c x.conf)`; empty where `/proc` is silent."""
    inodes = _listening_inodes(port)
    if not inodes:
        return ""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            descriptors = list((entry / "fd").iterdir())
        except OSError:
            continue  # Another user's process, or one that has just ended.
        for descriptor in descriptors:
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            if target.startswith("socket:[") and target[8:-1] in inodes:
                return f"pid {entry.name} ({_command(int(entry.name))})"
    return ""


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def _command(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "?"
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()[:_COMMAND_CHARACTERS]
