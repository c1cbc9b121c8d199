"""Where a shard's view is kept while its gateway is down: one local snapshot, written as the log goes on.

It saves time and nothing else: one that is damaged, or of another branch, is put aside with its reason, and the log is
folded from its start.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from tapehouse.core.errors import DataError, IntegrityError, MissingError, TapehouseError
from tapehouse.core.metrics import Metrics
from tapehouse.core.tasks import see_through
from tapehouse.kv.moment import Moment
from tapehouse.kv.snapshot import read_snapshot, write_snapshot
from tapehouse.kv.view import View
from tapehouse.log.port import Extent

SNAPSHOT_FRAMES = 262_144  # a snapshot is written after so many frames,
SNAPSHOT_BYTES = 512 * 1024 * 1024  # or so many bytes of the log, whichever comes first
ROOM_PART = 8  # of the table, that it may grow by before it is copied into room that was made ready
ASIDE = ".refused"  # ends the name of a snapshot that was put aside; the last one is kept


class SnapshotKeeper:
    """One shard's snapshot.

    Args:
        path: Of the file; None where none is kept. It is this gateway's own.
        frames, bytes_: After how much of the log it is written.
        before: Awaited before each is written; a drill waits there.

    Attributes:
        refused: Why the snapshot that was found was not taken.
        failed: Why the last one could not be written; the one before stands.
        sequence: That the snapshot stands at; 0 for none.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        metrics: Metrics,
        frames: int = SNAPSHOT_FRAMES,
        bytes_: int = SNAPSHOT_BYTES,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._path = path
        self._metrics = metrics
        self._frames_max = frames
        self._bytes_max = bytes_
        self._before = before
        self._frames = 0
        self._bytes = 0
        self.sequence = 0
        self._task: asyncio.Task[None] | None = None
        self.refused: TapehouseError | None = None
        self.failed: TapehouseError | None = None

    async def restore(self, extent: Extent, make: Callable[[], View]) -> View | None:
        """The view of the snapshot; None where there is none to go on from.

        Raises:
            BudgetError: The snapshot's keys are too many for the view's budget.
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            view = await asyncio.to_thread(read_snapshot, self._path, extent.log_id, make)
            if view.sequence > extent.last:
                raise IntegrityError(
                    f"a snapshot through sequence {view.sequence} of a log that ends at {extent.last}",
                    subject=str(self._path), hint="the log has lost what the view had applied",
                )  # fmt: skip
        except (DataError, IntegrityError, MissingError) as error:
            self.refused = error
            self._metrics.add("kv_snapshots_refused_total")
            os.replace(self._path, self._path.with_name(self._path.name + ASIDE))
            return None
        self.sequence = view.sequence
        self._metrics.add("kv_snapshots_restored_total")
        return view

    @property
    def is_writing(self) -> bool:
        """Whether a snapshot is being written beside the view."""
        return self._task is not None and not self._task.done()

    def passed(self, size: int) -> bool:
        """Take note of a frame of the log; whether a snapshot is due."""
        self._frames += 1
        self._bytes += size
        is_due = self._frames >= self._frames_max or self._bytes >= self._bytes_max
        return is_due and self._path is not None and not self.is_writing

    async def begin(self, view: View, log_id: bytes) -> None:
        """Begin to write the view as it is between two frames soon, while it is read and goes on; see `View.pin`.

        What cannot be written is told in `failed` and counted; the log has everything.
        """
        await self.finished()
        if self._path is not None:
            self._frames = self._bytes = 0
            self._task = asyncio.create_task(self._write_beside(self._path, view, log_id))

    async def finished(self) -> None:
        """Wait until what was begun is written; a failure that has no name is raised."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def write(self, view: View, log_id: bytes) -> None:
        """Write the view, which must not change until this returns; a cancellation waits for the end."""
        if self._path is not None and self._frames:
            self._frames = self._bytes = 0
            await see_through(self._write(self._path, view.moment(), log_id))

    async def _write_beside(self, path: Path, view: View, log_id: bytes) -> None:
        # Memory that was never written costs far more than the copy: the pages are had before the view stands still.
        room = await asyncio.to_thread(np.full, view.rows_bytes + view.rows_bytes // ROOM_PART, 1, np.uint8)
        moment = view.pin(room)
        try:
            await self._write(path, moment, log_id)
        finally:
            view.unpin()

    async def _write(self, path: Path, moment: Moment, log_id: bytes) -> None:
        if self._before is not None:
            await self._before()
        try:
            await asyncio.to_thread(_write_file, path, moment, log_id)
        except MissingError as error:
            self.failed = error
            self._metrics.add("kv_snapshots_failed_total")
            return
        self.failed = None
        self.sequence = moment.sequence
        self._metrics.add("kv_snapshots_total")


def _write_file(path: Path, moment: Moment, log_id: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MissingError(f"a snapshot's directory cannot be made: {error.strerror}", subject=str(path)) from error
    write_snapshot(path, moment, log_id)
