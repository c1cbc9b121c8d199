"""A view's local snapshot: one file, checksummed in chunks, read back whole or refused: docs/formats/kv-snapshot.md.

It saves folding the log from its start, and is never the truth: what is damaged is named, and the log folded again.
Values that were evicted are kept by their place in the log. A crash while it is written leaves the one before.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import BinaryIO

import xxhash

from tapehouse.core.errors import DataError, DecodeError, IntegrityError, InvariantError, MissingError
from tapehouse.core.ids import LOG_ID_BYTES
from tapehouse.kv.moment import Moment
from tapehouse.kv.moves import NOT_COMING, NOT_FROZEN, Coming, Frozen
from tapehouse.kv.reference import NOT_OURS, WRITERS_MAX, given
from tapehouse.kv.slots import SLOTS
from tapehouse.kv.view import View

MAGIC = b"THKV"
VERSION = 3  # 2 where no slot is on its way, 1 where none was given away either
HEADER_BYTES = 96
GIVEN = 1 << 31  # beside the epoch of slots that were given away
CHUNK_BYTES = 1 << 20  # of records in a chunk, at most
_HEADER = struct.Struct("<4sHH16sQqQIIIIQ16xQ")
_CHECKSUM_AT = HEADER_BYTES - 8
_CHUNK = struct.Struct("<IIQ")
_PLACE = struct.Struct("<16sQQII")  # what a chunk's checksum covers before its bytes
_RUN = struct.Struct("<HHI")
_WRITER = struct.Struct("<QQQ")
_FROZEN, _COMING = struct.Struct("<iiIqQQ"), struct.Struct("<iiIQQQ")  # of `moves`; last slot -1 for none
_HINT = "put the file aside: the view is folded from its log"


def write_snapshot(path: Path, moment: Moment, log_id: bytes) -> int:
    """Replace a snapshot by a view's state at a moment; its bytes. It is on the disk when this returns.

    Raises:
        InvariantError: The log id has a wrong length.
        MissingError: The directory cannot be written, or is full; the old snapshot stands.
    """
    if len(log_id) != LOG_ID_BYTES:
        raise InvariantError(f"a log id of {len(log_id)} bytes, not {LOG_ID_BYTES}")
    fresh = path.with_name(path.name + ".new")
    try:
        with open(fresh, "wb") as file:
            size = _write(file, moment, log_id)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise MissingError(
            f"a snapshot cannot be written: {error.strerror}", subject=str(path),
            hint="is there room, and may this user write there?",
        ) from error  # fmt: skip
    return size


def _write(file: BinaryIO, moment: Moment, log_id: bytes) -> int:
    """Chunks first, then the header over its place: it says how many there are."""
    runs, writers = _runs(moment.epochs), sorted((writer, *last) for writer, last in moment.writers.items())
    first = b"".join(_RUN.pack(*run) for run in runs) + b"".join(_WRITER.pack(*writer) for writer in writers)
    is_moving = moment.frozen is not None or moment.coming is not None
    if is_moving:
        first += _FROZEN.pack(*astuple(moment.frozen or NOT_FROZEN))
        first += _COMING.pack(*astuple(moment.coming or NOT_COMING))
    file.write(bytes(HEADER_BYTES))
    keys, chunks, size = 0, 0, HEADER_BYTES
    for count, data in _chain(first, moment.records(CHUNK_BYTES)):
        head = _CHUNK.pack(len(data), count, _checksum(log_id, moment.sequence, chunks, count, data))
        file.write(head + data)
        keys, chunks, size = keys + count, chunks + 1, size + len(head) + len(data)
    version = VERSION if is_moving else 2 if any(epoch & GIVEN for _, _, epoch in runs) else 1
    header = _HEADER.pack(
        MAGIC, version, 0, log_id, moment.sequence, moment.now, keys, len(runs), len(writers), chunks, 0, size, 0
    )[:_CHECKSUM_AT]
    file.seek(0)
    file.write(header + xxhash.xxh3_64_intdigest(header).to_bytes(8, "little"))
    return size


def _chain(first: bytes, records: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    yield 0, first
    yield from records


def _runs(epochs: list[int]) -> list[tuple[int, int, int]]:
    """First and last slot and epoch of each longest run of slots that share one; never owned ones are left out."""
    runs: list[tuple[int, int, int]] = []
    for slot, epoch in enumerate(epochs):
        if epoch == NOT_OURS:
            continue
        if epoch < NOT_OURS:
            epoch = given(epoch) | GIVEN
        if runs and runs[-1][1] == slot - 1 and runs[-1][2] == epoch:
            runs[-1] = runs[-1][0], slot, epoch
        else:
            runs.append((slot, slot, epoch))
    return runs


def _checksum(log_id: bytes, sequence: int, number: int, count: int, data: bytes) -> int:
    hasher = xxhash.xxh3_64(_PLACE.pack(log_id, sequence, number, count, len(data)))
    hasher.update(data)
    return hasher.intdigest()


def read_snapshot(path: Path, log_id: bytes, make: Callable[[], View]) -> View:
    """The view that a snapshot holds; its `sequence` is the last that was applied.

    Args:
        log_id: Of the branch of the log that is to be gone on with.
        make: A new view.

    Raises:
        MissingError: There is none, or it cannot be read.
        DecodeError, IntegrityError: It is torn, damaged, of an unknown version or of another branch.
        BudgetError: The keys are too many for the view that `make` gave.
    """
    try:
        with open(path, "rb") as file:
            view = _read(file, log_id, make, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise MissingError(f"a snapshot cannot be read: {error.strerror}", subject=str(path)) from error
    except (DataError, IntegrityError) as error:
        error.subject = error.subject or str(path)
        raise
    return view


def _read(file: BinaryIO, log_id: bytes, make: Callable[[], View], size: int) -> View:
    head = file.read(HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise DecodeError(f"a snapshot of {len(head)} bytes is shorter than its header", position="byte 0", hint=_HINT)
    magic, version, _, own, sequence, now, keys, runs, writers, chunks, _, size_said, checksum = _HEADER.unpack(head)
    if magic != MAGIC:
        raise DecodeError(f"no snapshot of a view: magic {magic!r}", position="byte 0", hint=_HINT)
    if not 1 <= version <= VERSION:
        raise DecodeError(
            f"snapshot version {version} is unknown", position="byte 4", hint="a newer tapehouse wrote it: upgrade"
        )
    if xxhash.xxh3_64_intdigest(head[:_CHECKSUM_AT]) != checksum:
        raise IntegrityError("a snapshot's header is damaged", position=f"byte {_CHECKSUM_AT}", hint=_HINT)
    if own != log_id:
        raise IntegrityError(f"a snapshot of another branch, {own.hex()}", position=f"sequence {sequence}", hint=_HINT)
    if size != size_said:
        raise IntegrityError(f"a snapshot of {size} bytes, not {size_said}: torn", position=f"byte {size}", hint=_HINT)
    if runs > SLOTS or writers > WRITERS_MAX or chunks < 1:
        raise DecodeError(f"a snapshot of {runs} runs of slots, {writers} gateways, {chunks} chunks", hint=_HINT)
    view = make()
    found = 0
    for number in range(chunks):
        count, data = _read_chunk(file, log_id, sequence, number)
        if number:
            view.load_records(data)
            found += count
        else:
            _take_machine(view, data, runs, writers, now, sequence, is_moving=version == VERSION)
    if file.read(1) or found != keys or view.metrics().keys != keys:
        raise IntegrityError(f"a snapshot of {view.metrics().keys} keys, not {keys}", hint=_HINT)
    return view


def _read_chunk(file: BinaryIO, log_id: bytes, sequence: int, number: int) -> tuple[int, bytes]:
    """A chunk's count of keys and its bytes, its checksum verified."""
    at = file.tell()
    head = file.read(_CHUNK.size)
    if len(head) < _CHUNK.size:
        raise DecodeError(f"chunk {number} is cut short", position=f"byte {at}", hint=_HINT)
    size, count, checksum = _CHUNK.unpack(head)
    data = file.read(size) if size <= CHUNK_BYTES else b""
    if len(data) != size or _checksum(log_id, sequence, number, count, data) != checksum:
        raise IntegrityError(f"chunk {number} is damaged", position=f"byte {at}", hint=_HINT)
    return count, data


def _take_machine(
    view: View, data: bytes, runs: int, writers: int, now: int, sequence: int, *, is_moving: bool
) -> None:
    """Slots, gateways and time out of the first chunk."""
    frozen, coming = None, None
    if is_moving and len(data) >= _FROZEN.size + _COMING.size:
        moving = data[-_FROZEN.size - _COMING.size :]
        data = data[: -len(moving)]
        held, comes = Frozen(*_FROZEN.unpack_from(moving)), Coming(*_COMING.unpack_from(moving, _FROZEN.size))
        if not all(-1 <= each.last < SLOTS and 0 <= each.first <= max(each.last, 0) for each in (held, comes)):
            raise DecodeError(f"slots {held.first} to {held.last}, {comes.first} to {comes.last} move", hint=_HINT)
        frozen, coming = held if held.last >= 0 else None, comes if comes.last >= 0 else None
    if len(data) != runs * _RUN.size + writers * _WRITER.size:
        raise DecodeError(f"{runs} runs of slots and {writers} gateways in {len(data)} bytes", hint=_HINT)
    epochs = [NOT_OURS] * SLOTS
    for begin, end, epoch in _RUN.iter_unpack(data[: runs * _RUN.size]):
        if not begin <= end < SLOTS:
            raise DecodeError(f"slots {begin} to {end}", hint=_HINT)
        kept = given(epoch & ~GIVEN) if epoch & GIVEN else epoch
        epochs[begin : end + 1] = [kept] * (end + 1 - begin)
    known = {writer: (number, seen) for writer, number, seen in _WRITER.iter_unpack(data[runs * _RUN.size :])}
    view.set_machine(now=now, sequence=sequence, epochs=epochs, writers=known, frozen=frozen, coming=coming)
