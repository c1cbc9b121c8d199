"""The manifest: one consistent cut of all logs and snapshots, by the names of the objects that hold them.

A manifest is canonical JSON (keys sorted, no white space, ASCII), with the BLAKE3 of itself (`digest`) and that of its
predecessor (`previous`): so no byte of it can change unseen, and no manifest can be taken out of the chain. Pure:
bytes to values and back. FORMAT.md has the byte-exact account.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tapehouse.core.errors import IntegrityError, UsageError
from tapehouse.core.ids import encode_token
from tapehouse.log.port import Branch, Extent
from tapehouse.log.segment_cut import ends_segment

VERSION = 1
MANIFEST_BYTES_MAX = 64 * 1024 * 1024

Count = Annotated[int, Field(ge=0, lt=2**63)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LogId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Name = Annotated[str, Field(min_length=1, max_length=255)]


class _Value(BaseModel):
    """Frozen, nothing coerced, nothing unknown let in."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class SegmentEntry(_Value):
    """One segment of a log: its messages, its name, its sizes, and the log digest after it."""

    first: Count
    last: Count
    blake3: Hash
    plain_bytes: Count
    stored_bytes: Count
    head_after: Hash


class BranchEntry(_Value):
    """One life of a log; see `log.port.Branch`."""

    log_id: LogId
    through: Count | None


class LogEntry(_Value):
    """One log of the cut: how to make it again (`spec`, opaque here), its branches, and its segments in order."""

    name: Name
    spec: dict[str, Any]
    branches: tuple[BranchEntry, ...] = Field(min_length=1, strict=False)
    first: Count
    segments: tuple[SegmentEntry, ...] = Field(strict=False)

    @property
    def last(self) -> int:
        """The last sequence in the cut; `first` - 1 where the log was empty."""
        return self.segments[-1].last if self.segments else self.first - 1

    @property
    def head_after(self) -> str:
        """The log digest at the cut, hexadecimal."""
        return self.segments[-1].head_after if self.segments else bytes(32).hex()

    @property
    def extent(self) -> Extent:
        """What the log held at the cut."""
        return Extent(first=self.first, last=self.last, branches=self.log_branches)

    @property
    def log_branches(self) -> tuple[Branch, ...]:
        """The branches as the log port has them."""
        return tuple(Branch(log_id=bytes.fromhex(entry.log_id), through=entry.through) for entry in self.branches)

    def segment_key(self, segment: SegmentEntry) -> str:
        """The object that holds a segment."""
        return segment_key(self.name, segment.first, segment.blake3)


class SnapshotEntry(_Value):
    """A machine's snapshot: which machine, after which message of which log, in which chunks."""

    name: Name
    log: Name
    log_id: LogId
    sequence: Count
    blake3: Hash
    size: Count
    chunks: tuple[Hash, ...] = Field(strict=False)


class Manifest(_Value):
    """One consistent cut; see DESIGN.md for what makes it consistent."""

    format: Literal["tapehouse-manifest"] = "tapehouse-manifest"
    version: Literal[1] = 1
    repository: LogId
    number: Annotated[int, Field(ge=1, lt=10**10)]
    previous: Hash | None
    cut_ns: Count  # UTC; all that was acknowledged before is in the manifest
    logs: tuple[LogEntry, ...] = Field(strict=False)
    snapshots: tuple[SnapshotEntry, ...] = Field(strict=False)

    def log(self, name: str) -> LogEntry | None:
        """The entry of a log, None where the cut has none of that name."""
        return next((entry for entry in self.logs if entry.name == name), None)

    def object_keys(self) -> list[str]:
        """Every object that the manifest needs, each once."""
        keys = [log.segment_key(segment) for log in self.logs for segment in log.segments]
        keys += [chunk_key(chunk) for snapshot in self.snapshots for chunk in snapshot.chunks]
        return list(dict.fromkeys(keys))


def segment_key(log: str, first: int, digest: str) -> str:
    """The key of a segment's object."""
    return f"segments/{encode_token(log)}/{first:020d}-{digest}.seg.zst"


def chunk_key(digest: str) -> str:
    """The key of a snapshot chunk's object."""
    return f"chunks/{digest}"


def manifest_key(number: int) -> str:
    """The key of a manifest's object."""
    return f"manifests/{number:010d}.json"


def encode_manifest(manifest: Manifest) -> bytes:
    """The object's bytes; raises UsageError where a manifest has outgrown its bound."""
    fields = manifest.model_dump(mode="json")
    data = _canonical(fields | {"digest": _digest(fields)})
    if len(data) > MANIFEST_BYTES_MAX:
        raise UsageError(
            f"a manifest of {len(data)} bytes is larger than {MANIFEST_BYTES_MAX}", hint="begin a new repository"
        )
    return data


def decode_manifest(data: bytes, key: str) -> Manifest:
    """The manifest in an object, held against its own digest and rules.

    Raises:
        IntegrityError: A byte was changed, or its parts contradict each other.
    """
    hint = "the object is damaged: see tapehouse dr verify"
    try:
        fields = json.loads(data)
        given = fields.pop("digest")
        whole = _canonical(fields | {"digest": given}) == data and _digest(fields) == given
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise IntegrityError("it is no manifest", subject=key, hint=hint) from error
    if not whole:
        raise IntegrityError("its digest disagrees", subject=key, hint=hint)
    if fields.get("version") != VERSION:
        raise IntegrityError(
            f"manifest version {fields.get('version')} is unknown", subject=key, hint="a newer tapehouse wrote it"
        )
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise IntegrityError(f"{where}: {first['msg']}", subject=key, hint=hint) from error
    _check_logs(manifest, key)
    return manifest


def manifest_digest(manifest: Manifest) -> str:
    """BLAKE3 of a manifest's object, hexadecimal: how its successor names it."""
    return blake3(encode_manifest(manifest)).hexdigest()


def _check_logs(manifest: Manifest, key: str) -> None:
    """Segments of a log follow each other, names are there once, snapshots belong to the cut."""
    names = [log.name for log in manifest.logs]
    if len(set(names)) != len(names) or names != sorted(names):
        raise IntegrityError("its logs are not in order", subject=key)
    for log in manifest.logs:
        expected = log.first
        for segment in log.segments:
            if segment.first != expected or segment.last < segment.first:
                raise IntegrityError(
                    f"{log.name}: message {expected} is in no segment", subject=key, position=f"sequence {expected}"
                )
            if log.extent.log_id_at(segment.first) != log.extent.log_id_at(segment.last):
                raise IntegrityError(f"{log.name}: a segment spans two branches", subject=key)
            expected = segment.last + 1
        through = [branch.through for branch in log.branches]
        if through[-1] is not None or None in through[:-1]:
            raise IntegrityError(f"{log.name}: its branches do not end where the next begins", subject=key)
    for snapshot in manifest.snapshots:
        source = manifest.log(snapshot.log)
        if source is None or snapshot.sequence > source.last:
            raise IntegrityError(f"snapshot {snapshot.name} is ahead of the cut", subject=key)
        if bytes.fromhex(snapshot.log_id) != source.extent.log_id_at(snapshot.sequence):
            raise IntegrityError(f"snapshot {snapshot.name} is of another branch", subject=key)


def is_complete(log: LogEntry, segment: SegmentEntry) -> bool:
    """Whether a later backup may keep the segment as it is: it is not the log's unfinished tail."""
    return segment is not log.segments[-1] or ends_segment(segment.last, log.log_branches)


def _canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _digest(fields: dict[str, Any]) -> str:
    return blake3(_canonical(fields)).hexdigest()
