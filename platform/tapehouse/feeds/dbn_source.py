"""The bytes of a DBN file: plain or zstd, a metadata header, then records that each begin with their length.

Positions in errors count bytes of the plain stream, so they are the same for a file and its compressed copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import databento_dbn
import numpy as np
import zstandard

from tapehouse.core.errors import DecodeError, MissingError
from tapehouse.feeds.dbn_records import HEADER_BYTES, RECORD_BYTES, SEND_TIME_BYTES, Bytes
from tapehouse.feeds.dbn_summaries import SUMMARY_BYTES

READ_BYTES = 4096  # of a compressed file at once, so that a hostile file cannot expand without bound
BLOCK_BYTES = 1 << 20  # of records at once
METADATA_BYTES_MAX = 1 << 28
VERSIONS = (1, 2, 3)
_MAGIC = b"DBN"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # bytes 1 to 3 of a zstd skippable frame, as the DBZ format began
_RUN_FIRST = 64
# The library declares these as integers, which is not what its functions take.
_AS_IS: Any = databento_dbn.VersionUpgradePolicy.AS_IS
UPGRADE: Any = databento_dbn.VersionUpgradePolicy.UPGRADE_TO_V3
# Records of one type and length: the type, their bytes of shape (n, record bytes), the position of the first.
Run = tuple[int, Bytes, int]
KNOWN_RTYPES = frozenset(int(rtype) for rtype in databento_dbn.RType.variants())


@dataclass(slots=True)
class DbnStream:
    """An open file behind its metadata."""

    name: str
    metadata: Any
    metadata_bytes: bytes
    position: int  # in the plain stream, of the next record
    _chunks: Iterator[bytes] = field(repr=False)
    _pending: bytearray = field(repr=False)

    def blocks(self) -> Iterator[Bytes]:
        """Whole records, about BLOCK_BYTES at a time; `position` is that of the block while it is used.

        Raises:
            DecodeError: The file ends inside a record or a zstd frame, or is damaged.
        """
        pending = self._pending
        ended = False
        failure: DecodeError | None = None
        while not ended or pending:
            while len(pending) < BLOCK_BYTES and not ended:
                try:
                    pending += next(self._chunks)
                except StopIteration:
                    ended = True
                except DecodeError as error:
                    ended, failure = True, error
            block = np.frombuffer(bytes(pending), np.uint8)
            used = self._whole(block)
            if used:
                yield block[:used]
                self.position += used
                del pending[:used]
            elif ended and pending:
                raise failure or DecodeError(
                    f"the file ends inside a record: {len(pending)} bytes are left over",
                    subject=self.name,
                    position=f"byte {self.position}",
                    hint="the file is cut off: download it again",
                )
        if failure is not None:
            raise failure

    def run_blocks(self) -> Iterator[list[Run]]:
        """The runs of one block after the other."""
        for block in self.blocks():
            runs: list[Run] = []
            at = 0
            while at < len(block):
                length = int(block[at]) * 4
                count = _run_length(block, at, length)
                rows = block[at : at + count * length].reshape(count, length)
                runs.append((int(block[at + 1]), rows, self.position + at))
                at += count * length
            yield runs

    def runs(self) -> Iterator[Run]:
        """Every run of the file."""
        for runs in self.run_blocks():
            yield from runs

    def _whole(self, block: Bytes) -> int:
        """How many bytes of a block are whole records that begin as they should.

        Raises:
            DecodeError: Not even the first one does.
        """
        at = 0
        while at + HEADER_BYTES <= len(block):
            length, rtype = int(block[at]) * 4, int(block[at + 1])
            if not self._plausible(length, rtype):
                if at:
                    break  # What came before stands; the next call begins here.
                raise DecodeError(
                    f"no DBN record begins here (length {length}, type {rtype})",
                    subject=self.name,
                    position=f"byte {self.position}",
                    hint="the file is damaged: download it again",
                )
            if at + length > len(block):
                break
            at += _run_length(block, at, length) * length
        return at

    def _plausible(self, length: int, rtype: int) -> bool:
        expected = SUMMARY_BYTES.get(rtype) or (RECORD_BYTES.get(rtype),)
        if expected == (None,):
            return length >= HEADER_BYTES and rtype in KNOWN_RTYPES
        return length - (SEND_TIME_BYTES if self.metadata.ts_out else 0) in expected


def _run_length(block: Bytes, at: int, length: int) -> int:
    """How many records from `at` on have the length and type of the first; at least 1."""
    fit = (len(block) - at) // length
    done = 1
    window = _RUN_FIRST
    while done < fit:
        stop = min(fit, done + window)
        rows = block[at + done * length : at + stop * length].reshape(stop - done, length)
        same = (rows[:, 0] == block[at]) & (rows[:, 1] == block[at + 1])
        if not same.all():
            return done + int(np.argmin(same))
        done = stop
        window *= 4
    return done


@contextmanager
def open_dbn(path: Path) -> Iterator[DbnStream]:
    """Open a file and read its metadata.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is no DBN of a known version.
    """
    if not path.is_file():
        raise MissingError("there is no such file", subject=str(path))
    with open(path, "rb", buffering=0) as file:
        chunks = _plain_chunks(file, path.name)
        pending = bytearray()
        _fill(pending, chunks, 8)
        if pending[1:4] == _SKIPPABLE:
            raise DecodeError(
                "this is DBZ, which came before DBN", subject=path.name, position="byte 0", hint="convert it with `dbn`"
            )
        if pending[:3] != _MAGIC:
            found = (
                "the file is empty" if not pending else f"it begins with {bytes(pending[:4])!r}, not with {_MAGIC!r}"
            )
            raise DecodeError(
                found, subject=path.name, position="byte 0", hint="a DBN file with its metadata is needed"
            )
        if len(pending) < 8:
            raise DecodeError("the file ends inside its metadata", subject=path.name, position=f"byte {len(pending)}")
        if pending[3] not in VERSIONS:
            raise DecodeError(
                f"version {pending[3]} of DBN is not known", subject=path.name, position="byte 3", hint="1 to 3 are"
            )
        total = 8 + int.from_bytes(pending[4:8], "little")
        if total > METADATA_BYTES_MAX:
            raise DecodeError(f"metadata of {total} bytes", subject=path.name, position="byte 4", hint="it is damaged")
        _fill(pending, chunks, total)
        if len(pending) < total:
            raise DecodeError("the file ends inside its metadata", subject=path.name, position=f"byte {len(pending)}")
        header = bytes(pending[:total])
        try:
            metadata = databento_dbn.Metadata.decode(header, _AS_IS)
        except (databento_dbn.DBNError, ValueError) as error:
            raise DecodeError(f"the metadata is damaged: {error}", subject=path.name, position="byte 8") from error
        del pending[:total]
        yield DbnStream(path.name, metadata, header, total, chunks, pending)


def _fill(pending: bytearray, chunks: Iterator[bytes], wanted: int) -> None:
    while len(pending) < wanted:
        chunk = next(chunks, None)
        if chunk is None:
            return
        pending += chunk


def _plain_chunks(file: IO[bytes], name: str) -> Iterator[bytes]:
    """The file's bytes, decompressed where they are zstd frames."""
    first = file.read(4)
    file.seek(0)
    if first != _ZSTD_MAGIC:
        while chunk := file.read(BLOCK_BYTES):
            yield chunk
        return
    total = 0
    frame = None
    while chunk := file.read(READ_BYTES):
        while chunk:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                plain = frame.decompress(chunk)
            except zstandard.ZstdError as error:
                raise DecodeError(
                    f"the compression is damaged: {error}",
                    subject=name,
                    position=f"byte {total}",
                    hint="the file is damaged: download it again",
                ) from error
            chunk = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
            total += len(plain)
            if plain:
                yield plain
    if frame is not None:
        raise DecodeError(
            "the file ends inside a zstd frame",
            subject=name,
            position=f"byte {total}",
            hint="the file is cut off: download it again",
        )
