"""What a backup must do: decided from the last manifest and what the logs hold now, with no I/O.

A segment of the last manifest is kept when it is complete and lies on the log's own branches; an unfinished tail is
read again and superseded. Where a log was trimmed into its tail, the tail stays as it is and the next segment begins
behind it. A log that was restored to an earlier position keeps what lies on its branches; the rest stays in the older
manifests. A log that ends before what the backup holds has lost acknowledged messages: that is an error, never a plan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tapehouse.core.errors import GapError, IntegrityError, UsageError
from tapehouse.dr.manifest import LogEntry, Manifest, SegmentEntry, is_complete
from tapehouse.log.log_digest import GENESIS
from tapehouse.log.port import Extent

# Effects before causes: whatever a later name holds, it held already when an effect of it was stored.
CUT_ORDER = ("OUT", "PARKED", "SNAPS", "EVENTS", "TAPE", "CMDS")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPlan:
    """One log: keep these segments, read from `read_first` through the extent's last, chaining from `head_before`."""

    name: str
    extent: Extent
    first: int  # of the log in the repository; older than the log's own where it was trimmed
    keep: tuple[SegmentEntry, ...]
    read_first: int
    head_before: bytes
    known_heads: Mapping[int, bytes]  # log digests that must come out again on the way, by sequence

    @property
    def nothing_new(self) -> bool:
        """Whether no message has to be read."""
        return self.read_first > self.extent.last


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPlan:
    """All logs of one cut, in the order of their names."""

    logs: tuple[LogPlan, ...]


def cut_rank(name: str) -> int:
    """The place of a log in the order in which extents are read; logs of unknown kinds come first."""
    kind = name.partition("_")[0]
    return CUT_ORDER.index(kind) + 1 if kind in CUT_ORDER else 0


def cut_order(names: Iterable[str]) -> list[str]:
    """Names in the order in which their extents must be read to make a consistent cut."""
    return sorted(names, key=lambda name: (cut_rank(name), name))


def plan_backup(
    have: Manifest | None, extents: Mapping[str, Extent], *, forget: Collection[str] = frozenset()
) -> BackupPlan:
    """What to keep and what to read.

    Args:
        have: The last manifest; None for the first backup.
        extents: What each log holds, read in `cut_order`.
        forget: Logs of the last manifest that are meant to be left out from now on.

    Raises:
        IntegrityError: A log lost messages that the backup holds.
        GapError: Messages between the backup and the log's first were trimmed away.
        UsageError: A log is missing, or is another one of the same name.
    """
    if have is not None:
        for log in have.logs:
            if log.name not in extents and log.name not in forget:
                raise UsageError(
                    "the last backup holds this log, and this one would not",
                    subject=log.name,
                    hint="back it up too, or forget it on purpose",
                )
    return BackupPlan(
        logs=tuple(_plan_log(have.log(name) if have else None, name, extents[name]) for name in sorted(extents))
    )


def _plan_log(have: LogEntry | None, name: str, extent: Extent) -> LogPlan:
    if have is None:
        return _plan(name, extent, first=extent.first, keep=[], known={})
    if bytes.fromhex(have.branches[0].log_id) != extent.branches[0].log_id:
        raise UsageError(
            "the repository holds another log of this name",
            subject=name,
            hint="choose another repository: a new prefix or directory",
        )
    ours = _on_branches(have, extent)
    if ours and ours[-1].last > extent.last:
        raise IntegrityError(
            f"the log ends at {extent.last}, but the backup holds messages to {ours[-1].last}",
            subject=name,
            hint="acknowledged messages are gone: restore the log before it goes on",
        )
    keep = [segment for segment in ours if is_complete(have, segment)]
    known: dict[int, bytes] = {}
    if len(ours) > len(keep):
        tail = ours[-1]
        if extent.last == tail.last or extent.first > tail.first:
            keep.append(tail)  # Nothing new, or trimmed into it: it stays as it is.
        else:
            known[tail.last] = bytes.fromhex(tail.head_after)
    return _plan(name, extent, first=have.first, keep=keep, known=known)


def _plan(name: str, extent: Extent, *, first: int, keep: list[SegmentEntry], known: dict[int, bytes]) -> LogPlan:
    read_first = keep[-1].last + 1 if keep else first
    if extent.first > read_first:
        raise GapError(
            f"messages {read_first} to {extent.first - 1} were trimmed before they were backed up",
            subject=name,
            hint="they are lost to the backup: begin a new repository for this log",
        )
    return LogPlan(
        name=name,
        extent=extent,
        first=first,
        keep=tuple(keep),
        read_first=read_first,
        head_before=bytes.fromhex(keep[-1].head_after) if keep else GENESIS,
        known_heads=known,
    )


def _on_branches(have: LogEntry, extent: Extent) -> list[SegmentEntry]:
    """The leading segments that lie on the branches of the log as it is now."""
    then = have.extent
    ours: list[SegmentEntry] = []
    for segment in have.segments:
        log_id = then.log_id_at(segment.first)
        if extent.log_id_at(segment.first) != log_id or extent.log_id_at(segment.last) != log_id:
            break
        ours.append(segment)
    return ours
