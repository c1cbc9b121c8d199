"""Disaster recovery wired to the platform: which logs and snapshots a backup takes, and where a restore puts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tapehouse.app.bootstrap import Platform
from tapehouse.app.snapshots import FileSnapshots
from tapehouse.bus import StreamSpec
from tapehouse.core.clock import Clock
from tapehouse.core.errors import DecodeError, IntegrityError, MissingError
from tapehouse.dr import BackupReport, LogToCreate, MachineSnapshot, ObjectStore, RestoreReport
from tapehouse.dr import backup as backup_logs
from tapehouse.dr import restore as restore_logs
from tapehouse.dr.progress import ReportProgress
from tapehouse.log import Log, Snapshot

# Which log each machine folds; their snapshots travel with the logs.
MACHINES = {"engine": "TAPE", "prices": "TAPE", "surface": "TAPE", "orders": "EVENTS", "positions": "EVENTS"}


class ClusterTarget:
    """A cluster to restore into: the `RestoreTarget` port over the platform's streams."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._logs: dict[str, Log] = {}

    async def find(self, name: str) -> Log | None:
        """The log of that name, None where there is none."""
        log = self._platform.log(name)
        try:
            await log.extent()
        except MissingError:
            return None
        self._logs[name] = log
        return log

    async def create(self, log: LogToCreate) -> Log:
        """Make the stream with the specification, first sequence and branches of the backup."""
        created = await self._platform.admin.ensure(
            read_spec(log.name, log.spec), first_seq=log.first, branches=log.branches
        )
        self._logs[log.name] = created
        return created

    async def save_snapshot(self, name: str, data: bytes) -> None:
        """Put a machine's snapshot where its host looks for it."""
        tape, _, machine = name.rpartition(".")
        snapshots = await self._platform.snapshots(tape)
        snapshots.save(machine, data)


def write_spec(spec: StreamSpec) -> dict[str, Any]:
    """A stream's specification as a backup keeps it."""
    return {"subjects": list(spec.subjects), "single_writer": spec.single_writer, "description": spec.description}


def read_spec(name: str, spec: Mapping[str, Any]) -> StreamSpec:
    """The specification that `write_spec` wrote; raises DecodeError for anything else."""
    try:
        return StreamSpec(
            name=name,
            subjects=tuple(spec["subjects"]),
            single_writer=bool(spec["single_writer"]),
            description=str(spec["description"]),
        )
    except (KeyError, TypeError) as error:
        raise DecodeError(f"the backup does not say how to make the stream: {error}", subject=name) from error


async def backup_tapes(
    platform: Platform,
    store: ObjectStore,
    tapes: Sequence[str],
    clock: Clock,
    *,
    progress: ReportProgress | None = None,
    on_ignored: Callable[[str], None] | None = None,
) -> BackupReport:
    """Back up TAPE, EVENTS and CMDS of the tapes with the newest snapshots of their machines.

    Args:
        on_ignored: Told of each snapshot that is damaged and therefore left out: the log, which is the truth, is
            backed up all the same, and a restored machine folds it.
    """
    logs: list[Log] = []
    specs: dict[str, dict[str, Any]] = {}
    snapshots: dict[str, MachineSnapshot] = {}
    for tape in tapes:
        for machine, snapshot in (await _snapshots(platform, tape, on_ignored)).items():
            snapshots[f"{tape}.{machine}"] = snapshot
        for spec in platform.specs(tape):
            log = platform.log(spec.name)
            try:
                await log.extent()
            except MissingError:
                continue  # A tape that was recorded without a strategy has no EVENTS.
            logs.append(log)
            specs[spec.name] = write_spec(spec)
    if not logs:
        raise MissingError("there is nothing to back up", hint="record a tape first: tapehouse record --help")
    return await backup_logs(logs, store, snapshots, clock, specs=specs, progress=progress)


async def _snapshots(
    platform: Platform, tape: str, on_ignored: Callable[[str], None] | None
) -> dict[str, MachineSnapshot]:
    stored: FileSnapshots = await platform.snapshots(tape)
    found: dict[str, MachineSnapshot] = {}
    for machine, kind in MACHINES.items():
        data = stored.load(machine)
        if data is None:
            continue
        try:
            progress = Snapshot.decode(data).progress
        except IntegrityError as error:
            if on_ignored is not None:
                on_ignored(f"{machine} of {tape}: {error.message}")
            continue
        found[machine] = MachineSnapshot(
            log=f"{kind}_{tape}", log_id=progress.log_id, sequence=progress.sequence, data=data
        )
    return found


async def restore_cluster(
    platform: Platform,
    store: ObjectStore,
    clock: Clock,
    *,
    manifest: int | None = None,
    progress: ReportProgress | None = None,
) -> RestoreReport:
    """Rebuild every log and snapshot of a manifest in this platform's cluster."""
    return await restore_logs(store, ClusterTarget(platform), clock, manifest=manifest, progress=progress)
