"""The spill: encoded frames that wait on the disk while the broker is away, in the order in which TAPE will have them.

A frame goes in at one end with the ordinals that it will have, and leaves at the other when TAPE has acknowledged it.
A spill that a killed process left is found by its directory, which is the journal's own: named by log, epoch and
writer. What was acknowledged and not yet removed is still there then, and recognised by its ordinals.

At most the frames of two files are kept in memory, whatever the spill's size.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

from tapehouse.core.clock import Clock
from tapehouse.core.errors import IntegrityError
from tapehouse.engine.frame_files import FrameFiles, SyncPolicy, segment_paths
from tapehouse.engine.journal import JournalIdentity
from tapehouse.log import FrameHeader, read_header
from tapehouse.log.segment_file import recover_segment_file

SPILL_BYTES_MAX = 8 << 30
FRAME_OVERHEAD_BYTES = 4096  # of a frame in a file, its file's header and footer included


def spill_directory(parent: Path, name: str, identity: JournalIdentity) -> Path:
    """Where the spill of a journal is, below the directory of all spills."""
    return parent / f"{name}-{identity.log_id.hex()[:16]}-{identity.epoch}-{identity.writer:016x}"


@dataclass(slots=True)
class _File:
    path: Path
    frames: deque[bytes] | None  # None where they are only on the disk
    count: int
    stored: int


class Spill:
    """A queue of frames on the disk; one process has it."""

    def __init__(
        self,
        directory: Path,
        identity: JournalIdentity,
        *,
        name: str,
        clock: Clock,
        bytes_max: int = SPILL_BYTES_MAX,
        sync: SyncPolicy = SyncPolicy.FRAME,
    ) -> None:
        """Open the spill of a journal, whatever an earlier life left in it included.

        Raises:
            ConflictError: Another process has it.
            IntegrityError: It is damaged, or another journal's.
        """
        self.directory = directory
        self._identity = identity
        self._bytes_max = bytes_max
        self._files = FrameFiles(directory, name=name, log_id=identity.log_id, clock=clock, sync=sync)
        self._queue: deque[_File] = deque()
        self._sizes: deque[tuple[int, int]] = deque()
        try:
            self._recover()
        except BaseException:
            self._files.close()
            raise

    def _recover(self) -> None:
        ordinal: int | None = None
        for path in segment_paths(self.directory):
            messages = recover_segment_file(path).messages
            for message in messages:
                header = read_header(message.payload)
                identity = (header.log_id, header.writer, header.epoch)
                if identity != (self._identity.log_id, self._identity.writer, self._identity.epoch):
                    raise IntegrityError(
                        "the spill holds a frame of another journal",
                        subject=str(path),
                        position=f"sequence {message.sequence}",
                        hint="move the directory away",
                    )
                if ordinal not in (None, header.first_ordinal):
                    raise IntegrityError(
                        f"cell {ordinal} is missing in the spill: a frame begins at {header.first_ordinal}",
                        subject=str(path),
                        position=f"sequence {message.sequence}",
                        hint="the disk lost a part of it",
                    )
                ordinal = header.next_ordinal
                self._sizes.append((header.first_ordinal, header.next_ordinal))
            if messages:
                entry = _File(path=path, frames=None, count=len(messages), stored=path.stat().st_size)
                self._queue.append(entry)
        if self._queue:  # The file that is being written is kept in memory too.
            last = self._queue[-1]
            last.frames = deque(message.payload for message in recover_segment_file(last.path).messages)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._sizes

    @property
    def frames(self) -> int:
        """How many frames wait."""
        return len(self._sizes)

    @property
    def cells(self) -> int:
        """How many cells wait, those included that TAPE has acknowledged of the first frame."""
        return self._sizes[-1][1] - self._sizes[0][0] if self._sizes else 0

    @property
    def next_ordinal(self) -> int:
        """The ordinal after the last cell; only where something waits."""
        return self._sizes[-1][1]

    @property
    def first_ordinal(self) -> int:
        """The ordinal of the first cell; only where something waits."""
        return self._sizes[0][0]

    @property
    def stored_bytes(self) -> int:
        """What its files take on the disk."""
        return sum(entry.stored for entry in self._queue)

    def has_room(self, frame_bytes: int) -> bool:
        """Whether a frame of that size may be added."""
        return self.stored_bytes + frame_bytes + FRAME_OVERHEAD_BYTES <= self._bytes_max

    def append(self, frame: bytes, header: FrameHeader) -> None:
        """Add a frame, by the sync policy; it counts once this returns."""
        self._files.write(frame, header)
        if not self._queue or self._queue[-1].path != self._files.path:
            if len(self._queue) > 1:
                self._queue[-1].frames = None
            self._queue.append(_File(path=self._files.path, frames=deque(), count=0, stored=0))
        last = self._queue[-1]
        if last.frames is not None:
            last.frames.append(frame)
        last.count += 1
        last.stored = self._files.bytes_in_file
        self._sizes.append((header.first_ordinal, header.next_ordinal))

    def first(self) -> tuple[bytes, FrameHeader]:
        """The frame that is due; only where something waits."""
        entry = self._queue[0]
        if entry.frames is None:
            messages = recover_segment_file(entry.path).messages
            entry.frames = deque(message.payload for message in messages[len(messages) - entry.count :])
        return entry.frames[0], read_header(entry.frames[0])

    def pop(self) -> None:
        """Forget the first frame: TAPE has it. A file goes with its last frame."""
        entry = self._queue[0]
        if entry.frames is None:
            self.first()
        if entry.frames is not None:
            entry.frames.popleft()
        entry.count -= 1
        self._sizes.popleft()
        if entry.count == 0:
            self._queue.popleft()
            if self._queue:
                entry.path.unlink()
            else:
                self._files.clear()

    def sync_if_due(self) -> None:
        """See `FrameFiles.sync_if_due`."""
        self._files.sync_if_due()

    def close(self) -> None:
        """Let go; an empty spill leaves nothing behind, another one all its frames."""
        self._files.close()
        if self.is_empty:
            for path in segment_paths(self.directory):  # A file whose making was cut short, or without a frame.
                path.unlink()
            self.directory.rmdir()
