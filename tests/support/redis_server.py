"""A real redis-server for tests that compare replies with it; they are skipped where it is not installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REASON = "redis-server is not installed (Debian: apt install redis-server)"
START_S = 20.0
REPLY_S = 20.0


def is_installed() -> bool:
    """Whether there is a redis-server."""
    return shutil.which("redis-server") is not None


@contextmanager
def connected(directory: Path) -> Iterator[socket.socket]:
    """A connection to a fresh, empty server of our own, in memory alone."""
    place = directory / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(place), "--save", "", "--dir", str(directory)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not place.exists():
            assert server.poll() is None, "redis-server ended at once"
            assert time.monotonic() < deadline, "redis-server does not answer"
            time.sleep(0.01)
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(REPLY_S)
            link.connect(str(place))
            yield link
    finally:
        server.terminate()
        server.wait()


def ask(link: socket.socket, data: bytes, end: bytes) -> bytes:
    """Send requests, the last of which is answered with `end`; all replies before it."""
    link.sendall(data)
    told = b""
    while not told.endswith(end):
        piece = link.recv(65_536)
        assert piece, "redis-server closed the connection"
        told += piece
    return told.removesuffix(end)
