"""A repository: the objects of FORMAT.md in one store, each verified whenever it is read.

    tapehouse.json                                                what this is, and its identity
    segments/<log>/<first, 20 digits>-<blake3>.seg.zst            runs of messages
    chunks/<blake3>                                               parts of machine snapshots
    manifests/<number, 10 digits>.json                            one consistent cut each

Objects but the manifests are named by what they hold: writing one twice changes nothing, and nobody sees it before a
manifest names it. A manifest is written last, on the condition that there is none of its number.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass

from blake3 import blake3

from tapehouse.core.errors import ConflictError, DecodeError, IntegrityError, MissingError, UsageError
from tapehouse.dr.ahead import iterate, run_ahead
from tapehouse.dr.chunks import CHUNK_BYTES_MAX, split_chunks
from tapehouse.dr.manifest import (
    LogEntry,
    Manifest,
    SegmentEntry,
    SnapshotEntry,
    chunk_key,
    decode_manifest,
    encode_manifest,
    manifest_digest,
    manifest_key,
    segment_key,
)
from tapehouse.dr.probe import probe
from tapehouse.dr.store import ObjectMissingError, ObjectStore
from tapehouse.log.segment import Segment, decode_segment, pack, unpack
from tapehouse.log.segment_cut import CutSegment

MARKER = "tapehouse.json"
FORMAT = "tapehouse-repository"
VERSION = 1
CHUNKS_UNDER_WAY = 8
_MANIFEST = re.compile(r"manifests/([0-9]{10})\.json")


class NoRepositoryError(MissingError):
    """The store can be read, and holds no repository."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSnapshot:
    """A machine's snapshot to keep: taken after message `sequence` of log `log`, on its branch `log_id`."""

    log: str
    log_id: bytes
    sequence: int
    data: bytes


class Repository:
    """One repository in one store; `open` or `open_or_create` make it."""

    def __init__(self, store: ObjectStore, repository_id: bytes) -> None:
        self.store = store
        self.id = repository_id
        self._latest: Manifest | None = None

    @classmethod
    async def open(cls, store: ObjectStore) -> Repository:
        """The repository in a store.

        Raises:
            NoRepositoryError: There is none.
            MissingError: There is no such bucket.
            IntegrityError: Its marker is damaged.
        """
        try:
            data = await store.get(MARKER)
        except ObjectMissingError as error:
            raise NoRepositoryError(
                "there is no tapehouse repository here", subject=store.url, hint="is it the right bucket and prefix?"
            ) from error
        return cls(store, _read_marker(data, store.url))

    @classmethod
    async def open_or_create(cls, store: ObjectStore, *, new_id: bytes) -> Repository:
        """The repository in a store, made under `new_id` where the store is empty and passes the probe.

        Raises:
            UsageError: There are other objects here, or the store breaks a promise that a repository rests on.
        """
        try:
            return await cls.open(store)
        except NoRepositoryError:
            pass
        async for info in store.list(""):
            raise UsageError(
                f"there is no repository here, but other objects, such as {info.key}",
                subject=store.url,
                hint="choose an empty prefix or directory",
            )
        await probe(store, new_id.hex())
        marker = {"format": FORMAT, "id": new_id.hex(), "version": VERSION}
        try:
            await store.put(MARKER, _canonical(marker), if_none_match=True)
        except ConflictError:
            return await cls.open(store)  # Another backup made it just now; its identity holds.
        return cls(store, new_id)

    # ------------------------------------------------------------------ manifests

    async def numbers(self, *, after: int = 0) -> list[int]:
        """The numbers of all manifests above `after`, ascending; one listing."""
        keys = [info.key async for info in self.store.list("manifests/", after=manifest_key(after) if after else "")]
        return [int(match[1]) for key in keys if (match := _MANIFEST.fullmatch(key))]

    async def latest(self) -> Manifest | None:
        """The newest manifest, None before the first; lists only what is newer than it last saw."""
        known = self._latest.number if self._latest else 0
        numbers = await self.numbers(after=known)
        if numbers:
            self._latest = await self.manifest(numbers[-1])
        return self._latest

    async def manifest(self, number: int) -> Manifest:
        """A manifest by number.

        Raises:
            MissingError: There is none of that number.
            IntegrityError: It is damaged, or of another repository.
        """
        key = manifest_key(number)
        try:
            data = await self.store.get(key)
        except ObjectMissingError as error:
            raise MissingError(
                f"there is no manifest {number}", subject=f"{self.store.url}/{key}", hint="see tapehouse dr list"
            ) from error
        manifest = decode_manifest(data, key)
        if manifest.number != number or manifest.repository != self.id.hex():
            raise IntegrityError("it is a manifest of another repository or number", subject=key)
        return manifest

    async def commit(self, manifest: Manifest) -> None:
        """Write a manifest, the last step of a backup.

        Raises:
            ConflictError: Another backup has written this number meanwhile.
        """
        key = manifest_key(manifest.number)
        try:
            await self.store.put(key, encode_manifest(manifest), if_none_match=True)
        except ConflictError as error:
            raise ConflictError(
                f"another backup wrote manifest {manifest.number} meanwhile",
                subject=f"{self.store.url}/{key}",
                hint="nothing is damaged; run the backup again",
            ) from error
        self._latest = manifest

    def next_after(self, latest: Manifest | None) -> tuple[int, str | None]:
        """The number of the manifest after `latest`, and the name it must give its predecessor."""
        return (latest.number + 1, manifest_digest(latest)) if latest else (1, None)

    # ------------------------------------------------------------------ segments and snapshots

    async def put_segment(self, cut: CutSegment) -> tuple[SegmentEntry, bool]:
        """Store a segment; return its entry and whether it had to be sent."""
        stored = await asyncio.to_thread(pack, cut.plain)
        digest = cut.digest.hex()
        sent = await self._put(segment_key(cut.header.name, cut.header.first, digest), stored)
        entry = SegmentEntry(
            first=cut.header.first,
            last=cut.last,
            blake3=digest,
            plain_bytes=len(cut.plain),
            stored_bytes=len(stored),
            head_after=cut.head_after.hex(),
        )
        return entry, sent

    async def segment(self, log: LogEntry, entry: SegmentEntry) -> Segment:
        """A segment, held against everything that the manifest and it say of it.

        Raises:
            IntegrityError: The object is gone, damaged, or another one; `subject` names it.
        """
        key = log.segment_key(entry)
        stored = await self._get(key)
        segment = await asyncio.to_thread(_open_segment, stored, entry.blake3, key)
        header = segment.header
        expected = (log.name, log.extent.log_id_at(entry.first), entry.first, entry.last, entry.head_after)
        if (header.name, header.log_id, header.first, segment.last, segment.head_after.hex()) != expected:
            raise _damaged(key, "it is whole, but not the segment that the manifest means")
        return segment

    async def put_snapshot(self, name: str, snapshot: MachineSnapshot) -> tuple[SnapshotEntry, int, int]:
        """Store a snapshot's chunks; return its entry, and how many chunks were sent and were there already."""
        chunks = await asyncio.to_thread(split_chunks, snapshot.data)
        names = [blake3(chunk).hexdigest() for chunk in chunks]
        unique = list(dict(zip(names, chunks, strict=True)).items())

        async def put(item: tuple[str, bytes]) -> bool:
            return await self._put(chunk_key(item[0]), pack(item[1]))

        sent = [done async for done in run_ahead(put, iterate(unique), width=CHUNKS_UNDER_WAY)]
        entry = SnapshotEntry(
            name=name,
            log=snapshot.log,
            log_id=snapshot.log_id.hex(),
            sequence=snapshot.sequence,
            blake3=blake3(snapshot.data).hexdigest(),
            size=len(snapshot.data),
            chunks=tuple(names),
        )
        return entry, sum(sent), len(sent) - sum(sent)

    async def chunk(self, digest: str) -> bytes:
        """One chunk; raises IntegrityError, naming it, where it is gone or damaged."""
        key = chunk_key(digest)
        stored = await self._get(key)
        try:
            chunk = unpack(stored, bytes_max=CHUNK_BYTES_MAX)
        except DecodeError as error:
            raise _damaged(key, error.message) from error
        if blake3(chunk).hexdigest() != digest:
            raise _damaged(key, "its BLAKE3 is not its name")
        return chunk

    async def snapshot(self, entry: SnapshotEntry) -> MachineSnapshot:
        """A snapshot put together again; raises IntegrityError where a chunk is gone or damaged."""
        data = b"".join([chunk async for chunk in run_ahead(self.chunk, iterate(entry.chunks), width=CHUNKS_UNDER_WAY)])
        if len(data) != entry.size or blake3(data).hexdigest() != entry.blake3:
            raise _damaged(f"snapshot {entry.name}", "its chunks do not make up what the manifest means")
        return MachineSnapshot(log=entry.log, log_id=bytes.fromhex(entry.log_id), sequence=entry.sequence, data=data)

    async def _put(self, key: str, data: bytes) -> bool:
        """Write an object that is named by what it holds; False where it is there already, in the same size."""
        try:
            if (await self.store.head(key)).size == len(data):
                return False
        except ObjectMissingError:
            pass
        await self.store.put(key, data)
        return True

    async def _get(self, key: str) -> bytes:
        try:
            return await self.store.get(key)
        except ObjectMissingError as error:
            raise _damaged(key, "the object is gone") from error


def _open_segment(stored: bytes, digest: str, key: str) -> Segment:
    try:
        plain = unpack(stored)
        if blake3(plain).hexdigest() != digest:
            raise _damaged(key, "its BLAKE3 is not its name")
        return decode_segment(plain)
    except DecodeError as error:
        raise IntegrityError(error.message, subject=key, position=error.position, hint=_DAMAGED_HINT) from error


_DAMAGED_HINT = "restore from an older manifest, or take a copy of this object from elsewhere"


def _damaged(key: str, what: str) -> IntegrityError:
    return IntegrityError(what, subject=key, hint=_DAMAGED_HINT)


def _read_marker(data: bytes, url: str) -> bytes:
    where = f"{url}/{MARKER}"
    try:
        fields = json.loads(data)
        repository_id = bytes.fromhex(fields["id"])
        version = fields["version"]
        whole = fields["format"] == FORMAT and len(repository_id) == 16 and _canonical(fields) == data
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("it is no repository's marker", subject=where) from error
    if version != VERSION:
        raise IntegrityError(f"repository version {version} is unknown", subject=where, hint="upgrade tapehouse")
    if not whole:
        raise IntegrityError("it is no repository's marker", subject=where)
    return repository_id


def _canonical(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
