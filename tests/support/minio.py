"""A real MinIO for tests: built once from source, started on a free loopback port.

MinIO ships no binaries any more; its source is still a Go module. `python -m tests.support.minio` builds it (some
minutes) into the cache, outside the work tree; tests that ask for the fixture `minio` build it too where it is
missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tapehouse.app.go_tools import built_program

MODULE = "github.com/minio/minio@latest"
READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 10
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MinioServer:
    """A running server and its root keys."""

    endpoint: str
    access_key: str
    secret_key: str
    directory: Path
    process: subprocess.Popen[bytes]

    def url(self, bucket: str) -> str:
        """A bucket's URL for `open_store`."""
        return f"s3://{bucket}?endpoint={self.endpoint}"


def minio_program() -> Path:
    """The MinIO program, built where the cache lacks it."""
    return built_program("minio", "minio", ["install", MODULE])


@contextlib.contextmanager
def running_minio(directory: Path) -> Iterator[MinioServer]:
    """Start a server that keeps its objects in `directory`; it is stopped, and gone, when the context ends."""
    program = minio_program()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    access_key, secret_key = secrets.token_hex(8), secrets.token_hex(16)
    environment = os.environ | {
        "MINIO_ROOT_USER": access_key,
        "MINIO_ROOT_PASSWORD": secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "HOME": str(directory),
    }
    log = directory / "minio.log"
    data = directory / "data"
    data.mkdir()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [str(program), "server", "--quiet", "--address", f"127.0.0.1:{port}", str(data)],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    server = MinioServer(
        endpoint=f"http://127.0.0.1:{port}",
        access_key=access_key,
        secret_key=secret_key,
        directory=directory,
        process=process,
    )
    try:
        _await_ready(server, log)
        yield server
    finally:
        process.send_signal(signal.SIGCONT)  # A test may have paused it.
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)


def _await_ready(server: MinioServer, log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            pytest.fail(f"MinIO ended while starting: {log.read_text(errors='replace')}")
        try:
            with urllib.request.urlopen(f"{server.endpoint}/minio/health/ready", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"MinIO was not ready after {READY_TIMEOUT_S} s: {log.read_text(errors='replace')}")


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """A MinIO shared by the whole test session."""
    with running_minio(tmp_path_factory.mktemp("minio")) as server:
        yield server


if __name__ == "__main__":
    print(minio_program())
