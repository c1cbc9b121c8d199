"""Frames in the segment files of one directory: what a plain logger writes, and what a spill is made of.

Files are named by the sequence of their first frame and hold segments of one log: each begins with the digest that the
one before it ended with. Only the last may be unfinished, and a torn end of it is cut. A directory has one writer.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tapehouse.core.clock import Clock
from tapehouse.core.errors import ConflictError, GapError, IntegrityError, MissingError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.log import FrameHeader, Message, decode_frame, read_header
from tapehouse.log.log_digest import GENESIS
from tapehouse.log.segment import SegmentHeader
from tapehouse.log.segment_file import Recovered, SegmentFileWriter, recover_segment_file
from tapehouse.market import Cells

SUFFIX = ".seg"
SYNC_INTERVAL_NS = NS_PER_SECOND // 10


class SyncPolicy(StrEnum):
    """When written frames are forced to the disk; in every case they outlive the process at once."""

    FRAME = "frame"  # each before it counts: survives the power
    INTERVAL = "interval"  # every SYNC_INTERVAL_NS, beside the writing: loses a little more than that with the power
    NONE = "none"  # when the operating system likes


class FrameFiles:
    """The one writer of a directory of frames."""

    def __init__(
        self, directory: Path, *, name: str, log_id: bytes, clock: Clock, sync: SyncPolicy = SyncPolicy.FRAME
    ) -> None:
        """Open a directory, making it where it is not there, and cut a torn end.

        Args:
            log_id: Of a new directory; one that has frames keeps its own.

        Raises:
            ConflictError: Another process writes there.
            DecodeError, GapError, IntegrityError: What is there is damaged.
        """
        self.directory = directory
        self.log_id = log_id
        self._name = name
        self._clock = clock
        self._sync = sync
        self._synced_ns = clock.monotonic_ns()
        self._is_dirty = False
        self._aside = ThreadPoolExecutor(1, "tapehouse-sync")  # its thread begins with the first sync there
        self._syncing: Future[None] | None = None  # of the present writer
        self._writer: SegmentFileWriter | None = None
        self._sequence = 1
        self._head = GENESIS
        self.last: FrameHeader | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._take_lock()
            self._recover()
        except BaseException:
            os.close(self._lock)
            raise

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(
                "another process writes frames there", subject=str(self.directory), hint="take another directory"
            ) from error

    def _recover(self) -> None:
        paths = segment_paths(self.directory)
        if paths and paths[-1].stat().st_size < self._header_bytes():
            paths.pop().unlink()  # Its making was cut short, so nothing was written to it.
        for path in paths[-2:]:
            found = recover_segment_file(path)
            self._name, self.log_id = found.header.name, found.header.log_id
            self._sequence = found.header.first + len(found.messages)
            self._head = found.head_after
            if found.messages:
                self.last = read_header(found.messages[-1].payload)
            if path == paths[-1] and not found.finished:
                self._writer, _ = SegmentFileWriter.resume(path)

    def _header_bytes(self) -> int:
        header = SegmentHeader(name=self._name, log_id=self.log_id, first=1, head_before=GENESIS)
        return len(header.encode())

    @property
    def path(self) -> Path:
        """The file written last."""
        return self.directory / "" if self._writer is None else self._writer.path

    @property
    def bytes_in_file(self) -> int:
        """The length of the file written last."""
        return 0 if self._writer is None else self._writer.bytes_written

    @property
    def next_ordinal(self) -> int | None:
        """The ordinal after the last frame's cells; None where there is no frame."""
        return None if self.last is None else self.last.next_ordinal

    def write(self, frame: bytes, header: FrameHeader) -> None:
        """Write the next frame, by the policy.

        Raises:
            GapError: It does not go on where the last frame ended.
        """
        if self.last is not None and header.first_ordinal != self.last.next_ordinal:
            raise GapError(
                f"a frame from ordinal {header.first_ordinal} does not follow one to {self.last.next_ordinal}",
                subject=str(self.directory),
                hint="take another directory",
            )
        message = Message(sequence=self._sequence, subject=self._name, payload=frame)
        if self._writer is None:
            self._writer = self._create()
        if not self._writer.offer(message):
            self.finish()
            self._writer = self._create()
            self._writer.append(message)
        self._sequence += 1
        self._head = self._writer.head
        self.last = header
        self._is_dirty = True
        if self._sync is SyncPolicy.FRAME:
            self.sync()
        else:
            self._writer.flush()
            self.sync_if_due()

    def sync_if_due(self) -> None:
        """With the policy INTERVAL, begin to force what is written to the disk where that is due.

        One sync runs at a time, beside what is written next; what it met is raised here, or where it is waited for.
        """
        due = self._synced_ns + SYNC_INTERVAL_NS
        if not self._is_dirty or self._sync is not SyncPolicy.INTERVAL or self._clock.monotonic_ns() < due:
            return
        if self._syncing is not None and not self._syncing.done():
            return
        self._await_sync()
        assert self._writer is not None  # It is dirty.
        self._syncing = self._aside.submit(self._writer.sync_flushed)
        self._is_dirty = False
        self._synced_ns = self._clock.monotonic_ns()

    def _await_sync(self) -> None:
        """Return when no sync is under way; raise what the last one met."""
        syncing, self._syncing = self._syncing, None
        if syncing is not None:
            syncing.result()

    def sync(self) -> None:
        """Force what is written to the disk."""
        self._await_sync()
        if self._writer is not None and self._is_dirty:
            self._writer.sync()
        self._is_dirty = False
        self._synced_ns = self._clock.monotonic_ns()

    def _create(self) -> SegmentFileWriter:
        header = SegmentHeader(name=self._name, log_id=self.log_id, first=self._sequence, head_before=self._head)
        return SegmentFileWriter.create(self.directory / f"{self._sequence:020d}{SUFFIX}", header)

    def finish(self) -> None:
        """Complete the file written last: it is a whole segment then, and the next frame begins another."""
        self._await_sync()
        writer, self._writer = self._writer, None
        self._is_dirty = False
        if writer is None:
            return
        if writer.count:
            writer.finish()
        else:
            writer.close()
            writer.path.unlink()

    def clear(self) -> None:
        """Remove every file: the next frame may have any ordinal."""
        self._await_sync()
        writer, self._writer = self._writer, None
        self._is_dirty = False
        self.last = None
        if writer is not None:
            writer.close()
        for path in segment_paths(self.directory):
            path.unlink()

    def close(self) -> None:
        """Let go, the last file unfinished; a second call does nothing."""
        if self._lock < 0:
            return
        try:
            self._await_sync()
        finally:
            self._aside.shutdown()
            if self._writer is not None:
                self._writer.flush()
                self._writer.close()
                self._writer = None
            os.close(self._lock)
            self._lock = -1


def segment_paths(directory: Path) -> list[Path]:
    """The segment files of a directory, in the order of their frames."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def read_frames(directory: Path) -> Iterator[tuple[FrameHeader, Cells]]:
    """Every frame of a directory, with everything held against what it follows.

    Raises:
        MissingError: There is no such directory, or nothing in it.
        DecodeError, GapError, IntegrityError: It is damaged, or a file is missing.
    """
    for _, frames in read_files(directory):
        for message in frames.messages:
            yield decode_frame(message.payload)


def read_files(directory: Path) -> Iterator[tuple[Path, Recovered]]:
    """Every file of a directory, the digest chain and the ordinals checked from the first one on."""
    paths = segment_paths(directory)
    if not paths:
        raise MissingError("there are no segment files", subject=str(directory), hint="tapehouse drain RING --to DIR")
    before: Recovered | None = None
    ordinal: int | None = None
    for path in paths:
        found = recover_segment_file(path)
        if before is not None:
            _require_chain(path, before, found)
        for message in found.messages:
            header = read_header(message.payload)
            if ordinal is not None and header.first_ordinal != ordinal:
                raise GapError(
                    f"cell {ordinal} is missing: the frame begins at {header.first_ordinal}",
                    subject=str(path),
                    position=f"sequence {message.sequence}",
                )
            ordinal = header.next_ordinal
        yield path, found
        before = found


def _require_chain(path: Path, before: Recovered, found: Recovered) -> None:
    first = before.header.first + len(before.messages)
    if found.header.first != first:
        raise GapError(f"frame {first} is missing: this file begins with {found.header.first}", subject=str(path))
    if not before.finished or found.header.head_before != before.head_after:
        raise IntegrityError(
            "it does not go on with the digest that the file before it ended with",
            subject=str(path),
            hint="a file was changed, or is of another run",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesReport:
    """What a directory of frames holds."""

    log_id: bytes
    segments: int
    frames: int
    cells: int
    stored_bytes: int
    first_ordinal: int
    next_ordinal: int
    epochs: int
    unfinished: bool
    cut_bytes: int
    digest: bytes


def verify_directory(directory: Path) -> FilesReport:
    """Read and check everything, every cell decoded; raises as `read_files`."""
    segments = frames = cells = stored = cut = 0
    first: int | None = None
    following = 0
    epochs: set[tuple[int, int]] = set()
    last: Recovered | None = None
    for path, found in read_files(directory):
        segments += 1
        stored += path.stat().st_size
        cut += found.cut_bytes
        for message in found.messages:
            header, decoded = decode_frame(message.payload)
            frames += 1
            cells += len(decoded)
            first = header.first_ordinal if first is None else first
            following = header.next_ordinal
            epochs.add((header.epoch, header.writer))
        last = found
    assert last is not None  # read_files found a file, or raised
    return FilesReport(
        log_id=last.header.log_id,
        segments=segments,
        frames=frames,
        cells=cells,
        stored_bytes=stored,
        first_ordinal=first or 0,
        next_ordinal=following,
        epochs=len(epochs),
        unfinished=not last.finished,
        cut_bytes=cut,
        digest=last.head_after,
    )
