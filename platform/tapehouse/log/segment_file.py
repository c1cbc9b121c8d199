"""Segments as local files: written as messages come, and readable after a crash up to the last whole message.

A finished file is the segment's plaintext. An unfinished one lacks the footer and may end in a torn block, which is
cut. A damaged block with whole messages after it is no torn tail: cutting there would lose messages that were safe,
so it is an error that names the first of them.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from tapehouse.core.errors import DataError, DecodeError, IntegrityError, MissingError
from tapehouse.log.canonical import decode_message, encode_message
from tapehouse.log.log_digest import LogDigest
from tapehouse.log.port import Message
from tapehouse.log.segment import (
    Segment,
    SegmentEncoder,
    SegmentHeader,
    check_footer,
    decode_segment,
    read_block,
    read_segment_header,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What an unfinished (or finished) file holds: all messages up to the last whole one."""

    header: SegmentHeader
    messages: tuple[Message, ...]
    head_after: bytes
    whole_bytes: int  # up to the end of the last whole message's block
    cut_bytes: int  # torn bytes after them; 0 in a finished file
    finished: bool


class SegmentFileWriter:
    """Writes one segment into a file, message by message.

    Nothing is durable before `sync` returns. Leaving the context without `finish` leaves an unfinished file, which
    `resume` continues.
    """

    def __init__(self, file: BinaryIO, encoder: SegmentEncoder, path: Path) -> None:
        self._file = file
        self._encoder = encoder
        self.path = path

    @classmethod
    def create(cls, path: Path, header: SegmentHeader) -> SegmentFileWriter:
        """A new file; raises DataError where one is there already."""
        encoder = SegmentEncoder(header)
        try:
            file = open(path, "xb")  # noqa: SIM115  (closed by close)
        except FileExistsError as error:
            raise DataError("a segment file is there already", subject=str(path), hint="resume it instead") from error
        except FileNotFoundError as error:
            raise MissingError("no directory for a segment file", subject=str(path), hint="make it first") from error
        file.write(encoder.header)
        writer = cls(file, encoder, path)
        writer.sync()
        _sync_directory(path.parent)
        return writer

    @classmethod
    def resume(cls, path: Path) -> tuple[SegmentFileWriter, Recovered]:
        """Cut an unfinished file at its last whole message and go on after it.

        Raises:
            DataError: The file is finished.
            DecodeError, IntegrityError, MissingError: see `recover_segment_file`.
        """
        recovered = recover_segment_file(path)
        if recovered.finished:
            raise DataError("a finished segment takes no more messages", subject=str(path))
        encoder = SegmentEncoder(recovered.header)
        for message in recovered.messages:
            encoder.add(message)
        file = open(path, "r+b")  # noqa: SIM115  (closed by close)
        file.truncate(recovered.whole_bytes)
        file.seek(recovered.whole_bytes)
        writer = cls(file, encoder, path)
        writer.sync()
        return writer, recovered

    @property
    def next_sequence(self) -> int:
        """The sequence that the next message must have."""
        return self._encoder.next_sequence

    @property
    def head(self) -> bytes:
        """The log digest after the messages so far."""
        return self._encoder.head

    def append(self, message: Message) -> None:
        """Write the next message; raises GapError where it is not the next, DataError where the segment is full."""
        self._file.write(self._encoder.add(message))

    def offer(self, message: Message) -> bool:
        """Write the next message where it fits; False says that the segment is full and nothing was written.

        Raises:
            GapError: It is not the next.
        """
        body = encode_message(message)
        if not self._encoder.fits(body):
            return False
        self._file.write(self._encoder.add_encoded(message.sequence, body))
        return True

    @property
    def count(self) -> int:
        """Messages so far."""
        return self._encoder.count

    @property
    def bytes_written(self) -> int:
        """The file's length once everything is handed over."""
        return self._encoder.bytes_written

    def flush(self) -> None:
        """Hand everything to the operating system: it survives this process, not the machine."""
        self._file.flush()

    def sync(self) -> None:
        """Return when everything appended is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def sync_flushed(self) -> None:
        """Return when what `flush` handed over before is on the disk; another thread may append meanwhile."""
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Write the footer and close; the file is then the segment's plaintext."""
        self._file.write(self._encoder.finish())
        self.sync()
        self.close()

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def __enter__(self) -> SegmentFileWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_segment_file(path: Path) -> Segment:
    """A finished file.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is torn, damaged or unfinished.
    """
    try:
        return decode_segment(_read(path))
    except DecodeError as error:
        raise DecodeError(error.message, subject=str(path), position=error.position, hint=error.hint) from error


def recover_segment_file(path: Path) -> Recovered:
    """Whatever whole messages a file begins with; see `recover_segment`."""
    try:
        return recover_segment(_read(path))
    except (DecodeError, IntegrityError) as error:
        raise type(error)(error.message, subject=str(path), position=error.position, hint=error.hint) from error


def recover_segment(data: bytes) -> Recovered:
    """The whole messages at the start of a segment that may be unfinished.

    Raises:
        DecodeError: Not even the header is whole, or a whole block does not belong where it is.
        IntegrityError: A block is damaged, and whole messages follow it.
    """
    header, at = read_segment_header(data)
    digest = LogDigest(next_sequence=header.first, head=header.head_before)
    messages: list[Message] = []
    finished = False
    while at < len(data):
        try:
            block = read_block(data, at)
            if block is None:
                check_footer(data, at, count=len(messages), digest=digest)
                finished = True
                break
        except DecodeError as error:
            _refuse_damage_inside(data, at, digest.next_sequence, error)
            break
        message = decode_message(block[0])
        if message.sequence != digest.next_sequence:
            raise DecodeError(
                f"message {message.sequence} stands in the place of {digest.next_sequence}", position=f"byte {at}"
            )
        digest.update_encoded(message.sequence, block[0])
        messages.append(message)
        at = block[1]
    return Recovered(
        header=header,
        messages=tuple(messages),
        head_after=digest.head,
        whole_bytes=at,
        cut_bytes=0 if finished else len(data) - at,
        finished=finished,
    )


def _refuse_damage_inside(data: bytes, at: int, sequence: int, cause: DecodeError) -> None:
    """Raise IntegrityError where the next message's whole block is found after the bad one."""
    wanted = struct.pack("<Q", sequence + 1)
    found = data.find(wanted, at + 4)
    while found >= 0:
        try:
            whole = read_block(data, found - 4)
        except DecodeError:
            whole = None
        if whole is not None:
            raise IntegrityError(
                f"message {sequence} is damaged, but {sequence + 1} after it is whole",
                position=f"byte {at}",
                hint="this is no torn end: take the range from the log or from a backup",
            ) from cause
        found = data.find(wanted, found + 1)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingError("no such segment file", subject=str(path)) from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
