"""Restore logs and snapshots from a repository into an empty cluster, and prove that they arrived.

Each log is made anew with its old sequences: its branches end where the restore ends, and a new branch begins, so
nothing that was written in between elsewhere can be mistaken for its own. Every segment is verified by name and digest,
every acknowledged sequence is asserted, and at the end the log is read back against the digest chain.

A restore that was interrupted goes on: a log that was begun by it (same branches, nothing beyond the backup) is
verified and continued. A log of that name with anything else in it is never touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tapehouse.core.clock import Clock
from tapehouse.core.errors import GapError, MissingError, UsageError
from tapehouse.core.ids import new_log_id
from tapehouse.dr.ahead import all_of
from tapehouse.dr.manifest import LogEntry, Manifest, SnapshotEntry
from tapehouse.dr.progress import Meter, ReportProgress
from tapehouse.dr.refill import APPENDS_UNDER_WAY, Refill
from tapehouse.dr.repository import Repository
from tapehouse.dr.scrub import scrub
from tapehouse.dr.segment_log import SegmentLog
from tapehouse.dr.store import Counting, ObjectStore
from tapehouse.log.memory import MemoryLog
from tapehouse.log.port import Branch, Log, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class LogToCreate:
    """What a target needs to make a log: it will take messages from sequence `first` on."""

    name: str
    spec: Mapping[str, Any]  # as it was given to the backup
    first: int
    branches: tuple[Branch, ...]


class RestoreTarget(Protocol):
    """A cluster that logs are restored into."""

    async def find(self, name: str) -> Log | None:
        """The log of that name, None where there is none."""
        ...

    async def create(self, log: LogToCreate) -> Log:
        """Make an empty log; raises ConflictError where one of that name has appeared."""
        ...

    async def save_snapshot(self, name: str, data: bytes) -> None:
        """Keep a machine's snapshot where its host will look for it."""
        ...


class MemoryTarget:
    """A target in memory: the port's shipped double."""

    def __init__(self) -> None:
        self.logs: dict[str, MemoryLog] = {}
        self.specs: dict[str, Mapping[str, Any]] = {}
        self.snapshots: dict[str, bytes] = {}

    async def find(self, name: str) -> Log | None:
        return self.logs.get(name)

    async def create(self, log: LogToCreate) -> Log:
        self.specs[log.name] = log.spec
        return self.logs.setdefault(log.name, MemoryLog(log.name, first=log.first, branches=log.branches))

    async def save_snapshot(self, name: str, data: bytes) -> None:
        self.snapshots[name] = data


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredLog:
    """One log after a restore."""

    name: str
    first: int
    last: int
    appended: int  # by this run; the rest was there from an interrupted one
    log_id: bytes  # of the branch that begins now
    head: bytes  # log digest at `last`, equal to that of the origin


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """What a restore did."""

    manifest: Manifest
    logs: tuple[RestoredLog, ...]
    snapshots: tuple[str, ...]
    bytes_received: int
    requests: int
    duration_ns: int  # the part of the RTO that is ours


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One log to restore: messages `first` to `last`, into `log` after `reached`."""

    entry: LogEntry
    first: int
    last: int
    existing: Log | None
    branches: tuple[Branch, ...]


async def restore(
    store: ObjectStore,
    target: RestoreTarget,
    clock: Clock,
    *,
    manifest: int | None = None,
    logs: Collection[str] | None = None,
    through: Mapping[str, int] | None = None,
    tail_only: bool = False,
    appends_under_way: int = APPENDS_UNDER_WAY,
    new_id: Callable[[], bytes] = new_log_id,
    progress: ReportProgress | None = None,
) -> RestoreReport:
    """Restore a manifest's logs and snapshots.

    Args:
        manifest: Its number; None for the newest.
        logs: Names of those wanted; None for all.
        through: By log: the last sequence wanted. That these make a consistent cut is the caller's care; snapshots
            beyond them are left out.
        tail_only: Begin each log at the segment that follows its lowest snapshot; what is older is read from segments.
        appends_under_way: Fenced appends at once into each log.

    Raises:
        UsageError: A log is there already and holds something else; nothing was changed.
        IntegrityError: An object is damaged or gone (`subject` names it), or the cluster stored something else.
        MissingError: There is no repository, or no manifest.
    """
    started_ns = clock.monotonic_ns()
    counting = Counting(store)
    repository = await Repository.open(counting)
    source = await _manifest(repository, manifest)
    wanted = _wanted(source, logs)
    limits = {entry.name: _last(entry, (through or {}).get(entry.name)) for entry in wanted}
    _check_names(through or {}, limits)
    kept = [s for s in source.snapshots if s.log in limits and s.sequence <= limits[s.log]]
    firsts = {entry.name: _first(entry, limits[entry.name], kept, tail_only) for entry in wanted}
    tasks = [await _plan(target, entry, firsts[entry.name], limits[entry.name], new_id) for entry in wanted]
    meter = Meter(progress, sum(task.last - task.first + 1 for task in tasks))
    restored = await all_of([_restore_log(repository, target, task, appends_under_way, meter) for task in tasks])
    for snapshot in kept:
        await target.save_snapshot(snapshot.name, (await repository.snapshot(snapshot)).data)
    return RestoreReport(
        manifest=source,
        logs=tuple(restored),
        snapshots=tuple(snapshot.name for snapshot in kept),
        bytes_received=counting.bytes_received,
        requests=counting.requests,
        duration_ns=clock.monotonic_ns() - started_ns,
    )


def branches_after(entry: LogEntry, last: int, log_id: bytes) -> tuple[Branch, ...]:
    """The branches of a log restored through `last`: those of then, cut there, and the new one."""
    old: list[Branch] = []
    for branch in entry.log_branches:
        if branch.through is None or branch.through >= last:
            old.append(Branch(log_id=branch.log_id, through=last))
            break
        old.append(branch)
    return (*old, Branch(log_id=log_id))


async def _manifest(repository: Repository, number: int | None) -> Manifest:
    found = await (repository.latest() if number is None else repository.manifest(number))
    if found is None:
        raise MissingError(
            "the repository holds no manifest yet", subject=repository.store.url, hint="no backup was ever finished"
        )
    return found


def _wanted(source: Manifest, names: Collection[str] | None) -> list[LogEntry]:
    _check_names(dict.fromkeys(names or ()), {log.name: 0 for log in source.logs})
    return [log for log in source.logs if names is None or log.name in names]


def _check_names(asked: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    for name in asked:
        if name not in there:
            raise UsageError(f"the manifest has no log {name}", hint=f"it has {', '.join(there) or 'none'}")


def _last(entry: LogEntry, through: int | None) -> int:
    if through is None:
        return entry.last
    if not entry.first - 1 <= through <= entry.last:
        raise UsageError(
            f"sequence {through} is not in the backup",
            subject=entry.name,
            hint=f"it holds {entry.first} to {entry.last}",
        )
    return through


def _first(entry: LogEntry, last: int, snapshots: list[SnapshotEntry], tail_only: bool) -> int:
    """Where the restored log begins: at its first message, or at the segment after its lowest snapshot."""
    positions = [snapshot.sequence for snapshot in snapshots if snapshot.log == entry.name]
    if not tail_only or not positions:
        return entry.first
    needed = min(*positions, last) + 1
    for segment in entry.segments:
        if segment.first <= needed <= segment.last:
            return segment.first
    return needed


async def _plan(target: RestoreTarget, entry: LogEntry, first: int, last: int, new_id: Callable[[], bytes]) -> _Task:
    """Decide for one log whether to make or to continue it; refuse one that holds anything else."""
    log = await target.find(entry.name)
    if log is None:
        return _Task(entry=entry, first=first, last=last, existing=None, branches=branches_after(entry, last, new_id()))
    extent = await log.extent()
    begun = branches_after(entry, last, extent.log_id)
    if extent.branches != begun or extent.first != first or extent.last > last:
        held = max(0, extent.last - extent.first + 1)
        raise UsageError(
            f"a log of this name is there already, with {held} messages that this restore did not write",
            subject=entry.name,
            hint="restore into an empty cluster, or remove that log first",
        )
    return _Task(entry=entry, first=first, last=last, existing=log, branches=begun)


async def _restore_log(
    repository: Repository, target: RestoreTarget, task: _Task, under_way: int, meter: Meter
) -> RestoredLog:
    entry = task.entry
    log = task.existing
    reached = task.first - 1
    if log is None:
        log = await target.create(
            LogToCreate(name=entry.name, spec=entry.spec, first=task.first, branches=task.branches)
        )
    else:
        reached = (await log.extent()).last
        await scrub(repository, entry, log, first=task.first, through=reached)
    extent = await log.extent()
    if (extent.first, extent.last, extent.branches) != (task.first, reached, task.branches):
        raise GapError(
            f"the log was made with messages {extent.first} to {extent.last}, not from {task.first} on",
            subject=entry.name,
            hint="the cluster cannot begin a log at a given sequence, or somebody else writes to it",
        )
    meter.add(entry.name, reached - task.first + 1)
    refill = Refill(log, last=reached, under_way=under_way)
    appended = 0
    if reached < task.last:
        messages = _metered(SegmentLog(repository, entry), reached + 1, task.last, meter)
        async with contextlib.aclosing(messages):
            appended = await refill.run(messages)
    head = await scrub(repository, entry, log, first=task.first, through=task.last)
    return RestoredLog(
        name=entry.name,
        first=task.first,
        last=task.last,
        appended=appended,
        log_id=task.branches[-1].log_id,
        head=head,
    )


async def _metered(source: SegmentLog, first: int, last: int, meter: Meter) -> AsyncGenerator[Message, None]:
    """Messages to append; each counts when the next is asked for."""
    async with contextlib.aclosing(source.read(first, through=last)) as messages:
        async for message in messages:
            yield message
            meter.add(source.name)
