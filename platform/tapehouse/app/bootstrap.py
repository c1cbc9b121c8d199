"""The composition root: which adapter stands behind which port, chosen here and nowhere else."""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tapehouse.app.code import code_hash
from tapehouse.app.snapshots import FileSnapshots
from tapehouse.bus import (
    Bus,
    JetStreamLog,
    StreamAdmin,
    StreamSpec,
    cmds_spec,
    connect,
    events_spec,
    out_spec,
    parked_spec,
    snaps_spec,
    tape_spec,
)
from tapehouse.bus.connection import RECONNECT_TOTAL_S
from tapehouse.bus.snaps import JetStreamSnaps
from tapehouse.core.errors import BusUnavailableError, MissingError, UsageError
from tapehouse.log import Extent

DEFAULT_TAPE = "main"
JETSTREAM_TIMEOUT_S = 5.0


def home_directory(home: Path | None = None) -> Path:
    """Where clusters and snapshots live, absolute: `home`, else `TAPEHOUSE_HOME`, else `~/.tapehouse`."""
    return (home or Path(os.environ.get("TAPEHOUSE_HOME") or Path.home() / ".tapehouse")).absolute()


class Platform:
    """One bus and what is on it, by the names that users know."""

    def __init__(self, bus: Bus, *, home: Path | None = None) -> None:
        self.bus = bus
        self.admin = StreamAdmin(bus)
        self.home = home_directory(home)

    async def tape(self, name: str, *, create: bool = False) -> JetStreamLog:
        """TAPE_<name>.

        Raises:
            MissingError: It is not there and not to be created; those that are there are named.
        """
        try:
            return await self._open(tape_spec(name), create)
        except MissingError as error:
            if create:
                raise
            known = ", ".join(await self.tapes())
            hint = f"there are {known}" if known else "record one: tapehouse record --help"
            raise MissingError("there is no such tape", subject=name, hint=hint) from error

    async def events(self, name: str, *, create: bool = False) -> JetStreamLog:
        """EVENTS_<name>."""
        return await self._open(events_spec(name), create)

    async def commands(self, name: str, *, create: bool = False) -> JetStreamLog:
        """CMDS_<name>."""
        return await self._open(cmds_spec(name), create)

    def log(self, stream: str) -> JetStreamLog:
        """A log by its stream's name, whether it is there or not."""
        kind, _, name = stream.partition("_")
        for spec in self.specs(name):
            if spec.name == stream:
                return JetStreamLog(self.bus, spec.name, subjects=spec.subjects)
        raise UsageError(f"{kind!r} is no kind of log", subject=stream, hint="TAPE_, EVENTS_ and CMDS_ are")

    @staticmethod
    def specs(name: str) -> tuple[StreamSpec, ...]:
        """The logs of one tape and its desk."""
        return tape_spec(name), events_spec(name), cmds_spec(name)

    async def snaps(self) -> JetStreamSnaps | None:
        """SNAPS, the small snapshots of all tapes; None where it is not there."""
        try:
            await self._open(snaps_spec(), False)
        except MissingError:
            return None
        return JetStreamSnaps(self.bus, snaps_spec().name)

    async def parked(self) -> JetStreamLog:
        """PARKED, what no desk of this broker could apply; made where it is not there."""
        return await self._open(parked_spec(), True)

    async def make_snaps(self) -> JetStreamSnaps:
        """SNAPS, made where it is not there."""
        await self._open(snaps_spec(), True)
        return JetStreamSnaps(self.bus, snaps_spec().name)

    async def out(self, *, create: bool = False) -> JetStreamLog:
        """OUT, the events of all tapes as JSON."""
        return await self._open(out_spec(), create)

    async def _open(self, spec: StreamSpec, create: bool) -> JetStreamLog:
        if create:
            return await self.admin.ensure(spec)
        log = JetStreamLog(self.bus, spec.name, subjects=spec.subjects)
        await log.extent()
        return log

    async def tapes(self) -> list[str]:
        """The names of all tapes on the broker."""
        streams = await self.admin.list()
        return [stream.name.removeprefix("TAPE_") for stream in streams if stream.name.startswith("TAPE_")]

    def timings(self, name: str, extent: Extent) -> Path:
        """Where the stage timings of a tape's desk are kept."""
        return self.home / "stages" / f"{name}-{extent.branches[0].log_id.hex()[:16]}"

    async def snapshots(self, name: str) -> FileSnapshots:
        """The snapshots of the machines on one tape, kept apart by the log's identity."""
        extent = await (await self.tape(name)).extent()
        return FileSnapshots(self.home / "snapshots" / f"{name}-{extent.branches[0].log_id.hex()[:16]}")


@asynccontextmanager
async def open_platform(
    nats: str | None = None, *, home: Path | None = None, patient: bool = False
) -> AsyncIterator[Platform]:
    """Connect to `nats`, else to what the environment, a NATS context or the embedded cluster says.

    Args:
        patient: A connection that stood once is never given up.

    Raises:
        BusUnavailableError: Nobody answers there.
        MissingError: The server has no JetStream.
        UsageError: The URL is none, or the server refuses the credentials.
    """
    if nats is not None and not nats.strip():
        raise UsageError("an empty broker URL", hint="such as nats://127.0.0.1:4222, or leave it out")
    reconnect_s = math.inf if patient else RECONNECT_TOTAL_S
    bus = await connect(nats, directory=home_directory(home) / "cluster", reconnect_s=reconnect_s)
    try:
        if not bus.shows_jetstream:
            await _require_jetstream(bus)
        yield Platform(bus, home=home)
    finally:
        await bus.close()


async def _require_jetstream(bus: Bus) -> None:
    """Raise MissingError where nobody answers for JetStream behind this server."""
    try:
        await bus.api("INFO", timeout_s=JETSTREAM_TIMEOUT_S)
    except BusUnavailableError as error:
        raise MissingError(
            "the server has no JetStream",
            subject=", ".join(bus.target.urls),
            hint="start it with nats-server -js, or name another",
        ) from error


__all__ = ["DEFAULT_TAPE", "Platform", "code_hash", "home_directory", "open_platform"]
