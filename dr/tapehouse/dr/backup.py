"""Back up logs and snapshots: ship what the repository lacks, then write one manifest.

The extents are read first, effects before causes (`plan.CUT_ORDER`): EVENTS, then TAPE, then CMDS. An EVENTS frame is
only ever stored after the TAPE cells that it follows from, and a command stands on TAPE only after it stood in CMDS,
so the later reads hold everything that the earlier ones can speak of: the cut is consistent without a pause.

While it ships, the log digest goes on from the head that the repository holds, and the unfinished tail of the last
backup must come out with the head that it had: a log that changed its past stops the backup.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tapehouse.core.clock import Clock
from tapehouse.core.errors import GapError, IntegrityError, UsageError
from tapehouse.core.ids import new_log_id
from tapehouse.dr.ahead import run_ahead
from tapehouse.dr.manifest import BranchEntry, LogEntry, Manifest, SegmentEntry, SnapshotEntry
from tapehouse.dr.plan import LogPlan, cut_order, plan_backup
from tapehouse.dr.progress import Meter, ReportProgress
from tapehouse.dr.repository import MachineSnapshot, Repository
from tapehouse.dr.store import Counting, ObjectStore
from tapehouse.log.port import Extent, Log
from tapehouse.log.segment_cut import CutSegment, SegmentCutter

SEGMENTS_UNDER_WAY = 3  # uploads at once; each holds a segment's plaintext and its stored form in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """What a backup did and what it protects."""

    manifest: Manifest
    written: bool  # False where nothing had changed and the last manifest still says it all
    segments_new: int
    segments_reused: int
    chunks_new: int
    chunks_reused: int
    bytes_sent: int
    requests: int
    cut_ns: int  # UTC: all that was acknowledged before is safe now
    finished_ns: int
    rpo_ns_worst: int | None  # what a loss just before the end would have cost; None at the first backup


@dataclass(slots=True)
class _Tally:
    segments_new: int = 0
    segments_reused: int = 0
    chunks_new: int = 0
    chunks_reused: int = 0


async def backup(
    logs: Sequence[Log],
    store: ObjectStore,
    snapshots: Mapping[str, MachineSnapshot],
    clock: Clock,
    *,
    specs: Mapping[str, Mapping[str, Any]] | None = None,
    forget: Collection[str] = frozenset(),
    progress: ReportProgress | None = None,
    new_id: Callable[[], bytes] = new_log_id,
) -> BackupReport:
    """Make the repository in `store` hold all that the logs and snapshots hold now.

    Args:
        snapshots: Of machines, by name, taken before this call.
        specs: By log name: whatever the one who restores needs to make the log again (subjects, limits), as JSON.
        forget: Logs of the last backup that are meant to be left out from now on.
        new_id: The identity of a repository that is made here.

    Raises:
        ConflictError: Another backup finished meanwhile; run it again.
        IntegrityError: A log or the repository disagrees with its own past; nothing was written over.
        UsageError, MissingError: The store, or what was asked, cannot be used; nothing was written over.
    """
    counting = Counting(store)
    plain_specs = _plain_json(specs or {})
    repository = await Repository.open_or_create(counting, new_id=new_id())
    have = await repository.latest()
    by_name = {log.name: log for log in logs}
    if len(by_name) != len(logs):
        raise UsageError("a log is given twice", subject=", ".join(log.name for log in logs))
    cut_ns = clock.time_ns()
    extents = {name: await by_name[name].extent() for name in cut_order(by_name)}
    _check_snapshots(snapshots, extents)
    plan = plan_backup(have, extents, forget=forget)
    total = sum(max(0, log.extent.last - log.read_first + 1) for log in plan.logs)
    tally = _Tally()
    meter = Meter(progress, total)
    entries = [
        await _ship_log(repository, by_name[log.name], log, plain_specs.get(log.name, {}), tally, meter)
        for log in plan.logs
    ]
    shipped = [await _ship_snapshot(repository, name, snapshots[name], tally) for name in sorted(snapshots)]
    number, previous = repository.next_after(have)
    manifest = Manifest(
        repository=repository.id.hex(),
        number=number,
        previous=previous,
        cut_ns=cut_ns,
        logs=tuple(entries),
        snapshots=tuple(shipped),
    )
    unchanged = have is not None and (have.logs, have.snapshots) == (manifest.logs, manifest.snapshots)
    if not unchanged:
        await repository.commit(manifest)
    finished_ns = clock.time_ns()
    return BackupReport(
        manifest=have if unchanged and have is not None else manifest,
        written=not unchanged,
        segments_new=tally.segments_new,
        segments_reused=tally.segments_reused,
        chunks_new=tally.chunks_new,
        chunks_reused=tally.chunks_reused,
        bytes_sent=counting.bytes_sent,
        requests=counting.requests,
        cut_ns=cut_ns,
        finished_ns=finished_ns,
        rpo_ns_worst=finished_ns - have.cut_ns if have else None,
    )


async def _ship_log(
    repository: Repository,
    log: Log,
    plan: LogPlan,
    spec: dict[str, Any],
    tally: _Tally,
    meter: Meter,
) -> LogEntry:
    """Ship a log's new segments and return its manifest entry."""
    segments: list[SegmentEntry] = list(plan.keep)
    tally.segments_reused += len(segments)
    if not plan.nothing_new:
        cuts = _cut(log, plan, meter)
        async with contextlib.aclosing(run_ahead(repository.put_segment, cuts, width=SEGMENTS_UNDER_WAY)) as entries:
            async for entry, sent in entries:
                segments.append(entry)
                tally.segments_new += sent
                tally.segments_reused += not sent
    return LogEntry(
        name=plan.name,
        spec=spec,
        branches=tuple(
            BranchEntry(log_id=branch.log_id.hex(), through=branch.through) for branch in plan.extent.branches
        ),
        first=plan.first,
        segments=tuple(segments),
    )


async def _cut(log: Log, plan: LogPlan, meter: Meter) -> AsyncIterator[CutSegment]:
    """The segments of a log from `plan.read_first` on, its digest checked against what the repository knows of it."""
    cutter = SegmentCutter(plan.name, plan.extent, first=plan.read_first, head_before=plan.head_before)
    sequence = plan.read_first - 1
    async for message in log.read(plan.read_first, through=plan.extent.last):
        for segment in cutter.add(message):
            yield segment
        sequence = message.sequence
        known = plan.known_heads.get(sequence)
        if known is not None and cutter.head != known:
            raise IntegrityError(
                f"messages {plan.read_first} to {sequence} are not those that were backed up before",
                subject=plan.name,
                position=f"sequence {sequence}",
                hint="the log changed its past: stop it, and restore or repair it from the repository",
            )
        meter.add(plan.name)
    if sequence != plan.extent.last:
        raise GapError(f"the log ended at {sequence} while it was read through {plan.extent.last}", subject=plan.name)
    for segment in cutter.flush():
        yield segment


async def _ship_snapshot(repository: Repository, name: str, snapshot: MachineSnapshot, tally: _Tally) -> SnapshotEntry:
    entry, new, reused = await repository.put_snapshot(name, snapshot)
    tally.chunks_new += new
    tally.chunks_reused += reused
    return entry


def _plain_json(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The specs as they will be read back, so that an unchanged one is seen to be unchanged."""
    try:
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps({name: dict(spec) for name, spec in specs.items()}))
    except (TypeError, ValueError) as error:
        raise UsageError(f"a log's spec is no JSON: {error}", subject=", ".join(specs)) from error
    return plain


def _check_snapshots(snapshots: Mapping[str, MachineSnapshot], extents: Mapping[str, Extent]) -> None:
    """A snapshot must be of a log of this cut, on its branches, and not ahead of it."""
    for name, snapshot in snapshots.items():
        extent = extents.get(snapshot.log)
        if extent is None:
            raise UsageError(f"it is of the log {snapshot.log}, which is not backed up", subject=f"snapshot {name}")
        if snapshot.sequence > extent.last:
            raise UsageError(
                f"it is at message {snapshot.sequence}, but {snapshot.log} ends at {extent.last}",
                subject=f"snapshot {name}",
                hint="take snapshots of what is acknowledged only",
            )
        if snapshot.log_id != extent.log_id_at(snapshot.sequence):
            raise UsageError(f"it is of another branch of {snapshot.log}", subject=f"snapshot {name}")
