"""Read every object that a manifest needs and say which are damaged, by name.

Nothing is taken on trust: each object is fetched, unpacked and held against its name, its manifest entry and the digest
chain of its log; the manifests before it against the names that their successors give them.
"""

from __future__ import annotations

from dataclasses import dataclass

from tapehouse.core.errors import IntegrityError, MissingError
from tapehouse.dr.ahead import iterate, run_ahead
from tapehouse.dr.manifest import LogEntry, Manifest, SegmentEntry, SnapshotEntry, manifest_digest, manifest_key
from tapehouse.dr.progress import Meter, ReportProgress
from tapehouse.dr.repository import Repository
from tapehouse.dr.store import Counting, ObjectStore
from tapehouse.log.log_digest import GENESIS

OBJECTS_UNDER_WAY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One object that is not what it must be."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was read and what was wrong with it."""

    manifest: int
    objects: int
    bytes_read: int
    damaged: tuple[Damage, ...]

    @property
    def sound(self) -> bool:
        """Whether everything can be restored from this manifest, and the chain to it is whole."""
        return not self.damaged


async def verify(
    store: ObjectStore, *, manifest: int | None = None, progress: ReportProgress | None = None
) -> VerifyReport:
    """Read all that a manifest (None: the newest) needs.

    Raises:
        MissingError: There is no repository, or no manifest.
        IntegrityError: The repository's marker is damaged.
    """
    counting = Counting(store)
    repository = await Repository.open(counting)
    numbers = await repository.numbers()
    if not numbers or (manifest is not None and manifest not in numbers):
        raise MissingError(
            f"there is no manifest {manifest or 1}", subject=store.url, hint="was a backup ever finished?"
        )
    number = manifest or numbers[-1]
    damaged: list[Damage] = []
    source = await _check_manifests(repository, [known for known in numbers if known <= number], damaged)
    if source is not None:
        total = sum(len(log.segments) for log in source.logs) + sum(len(s.chunks) for s in source.snapshots)
        meter = Meter(progress, total)
        for log in source.logs:
            await _check_log(repository, log, damaged, meter)
        for snapshot in source.snapshots:
            await _check_snapshot(repository, snapshot, damaged, meter)
    return VerifyReport(
        manifest=number,
        objects=int(counting.metrics.get("store_get_total")),
        bytes_read=counting.bytes_received,
        damaged=tuple({damage.key: damage for damage in damaged}.values()),
    )


async def _check_manifests(repository: Repository, numbers: list[int], damaged: list[Damage]) -> Manifest | None:
    """Check the chain of manifests; return the last one, None where it is damaged."""
    previous: tuple[int, str] | None = None
    manifest: Manifest | None = None
    for number in numbers:
        manifest = None
        key = manifest_key(number)
        if previous is not None and number != previous[0] + 1:
            damaged += [
                Damage(key=manifest_key(gone), reason="the object is gone") for gone in range(previous[0] + 1, number)
            ]
            previous = None
        try:
            manifest = await repository.manifest(number)
        except (IntegrityError, MissingError) as error:
            damaged.append(Damage(key=key, reason=error.message))
            previous = None
            continue
        if previous is not None and manifest.previous != previous[1]:
            damaged.append(Damage(key=manifest_key(previous[0]), reason="it is not the one that its successor names"))
        previous = (number, manifest_digest(manifest))
    return manifest


async def _check_log(repository: Repository, log: LogEntry, damaged: list[Damage], meter: Meter) -> None:
    head = GENESIS.hex()

    async def check(entry: SegmentEntry) -> tuple[SegmentEntry, str | None, str]:
        try:
            segment = await repository.segment(log, entry)
        except IntegrityError as error:
            return entry, None, error.message
        return entry, segment.header.head_before.hex(), ""

    async for entry, head_before, reason in run_ahead(check, iterate(log.segments), width=OBJECTS_UNDER_WAY):
        if head_before is None:
            damaged.append(Damage(key=log.segment_key(entry), reason=reason))
        elif head_before != head:
            damaged.append(Damage(key=log.segment_key(entry), reason="its log digest does not follow the one before"))
        head = entry.head_after
        meter.add(log.name)


async def _check_snapshot(repository: Repository, snapshot: SnapshotEntry, damaged: list[Damage], meter: Meter) -> None:
    async def check(digest: str) -> str:
        try:
            await repository.chunk(digest)
        except IntegrityError as error:
            damaged.append(Damage(key=error.subject, reason=error.message))
            return ""
        return digest

    whole = True
    async for done in run_ahead(check, iterate(snapshot.chunks), width=OBJECTS_UNDER_WAY):
        whole = whole and bool(done)
        meter.add(snapshot.name)
    if whole:
        try:
            await repository.snapshot(snapshot)
        except IntegrityError as error:
            damaged.append(Damage(key=error.subject, reason=error.message))
