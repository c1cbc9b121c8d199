"""A host runs a machine over a log: snapshot, then tail, skipping nothing.

Contiguity is asserted always: sequences follow each other, and so do ordinals. Snapshots go to a `SnapshotStore` by
count of cells; the position they carry is the frame after which they were taken.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

from tapehouse.core.check import check
from tapehouse.core.errors import DecodeError, GapError, IntegrityError
from tapehouse.log.frame import FrameHeader
from tapehouse.log.machine import Machine
from tapehouse.log.port import Extent, Log, Message
from tapehouse.log.shared_frames import decode_message
from tapehouse.market.cell import Cells

SNAPSHOT_CELLS = 1_000_000  # cells folded between two snapshots, where the caller does not say
_HEAD = struct.Struct("<4sHH16sQQ32s")
_MAGIC = b"THSN"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a machine has come in its log: the last sequence folded and the next ordinal expected."""

    log_id: bytes
    sequence: int
    next_ordinal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A machine's state and where in its log it was taken."""

    progress: Progress
    machine_version: int
    state: bytes

    def encode(self) -> bytes:
        """Header (magic, versions, log id, sequence, ordinal), BLAKE3 of header and state, state."""
        progress = self.progress
        head = _HEAD.pack(
            _MAGIC, _VERSION, self.machine_version, progress.log_id, progress.sequence, progress.next_ordinal, bytes(32)
        )
        digest = blake3(head[:-32] + self.state).digest()
        return head[:-32] + digest + self.state

    @classmethod
    def decode(cls, data: bytes) -> Snapshot:
        """The snapshot that these bytes are.

        Raises:
            IntegrityError: They are none, or damaged.
        """
        if len(data) < _HEAD.size:
            raise IntegrityError("a snapshot is shorter than its header", hint="refold the log")
        magic, version, machine_version, log_id, sequence, next_ordinal, digest = _HEAD.unpack_from(data)
        state = data[_HEAD.size :]
        if magic != _MAGIC or version != _VERSION:
            raise IntegrityError(f"no snapshot of version {_VERSION}", hint="refold the log")
        if blake3(data[: _HEAD.size - 32] + state).digest() != digest:
            raise IntegrityError("a snapshot's digest disagrees", hint="it is damaged: refold the log")
        progress = Progress(log_id=log_id, sequence=sequence, next_ordinal=next_ordinal)
        return cls(progress=progress, machine_version=machine_version, state=state)


class SnapshotStore(Protocol):
    """Where a host keeps the newest snapshot of a machine, by name."""

    def load(self, name: str) -> bytes | None:
        """The newest snapshot's bytes; None where there is none."""
        ...

    def save(self, name: str, data: bytes) -> None:
        """Replace the snapshot, whole or not at all."""
        ...


class MemorySnapshots:
    """Snapshots in a dictionary."""

    def __init__(self) -> None:
        self.saved: dict[str, bytes] = {}

    def load(self, name: str) -> bytes | None:
        return self.saved.get(name)

    def save(self, name: str, data: bytes) -> None:
        self.saved[name] = data


class Host:
    """One machine on one log."""

    def __init__(
        self,
        machine: Machine,
        log: Log,
        *,
        snapshots: SnapshotStore | None = None,
        snapshot_cells: int = SNAPSHOT_CELLS,
    ) -> None:
        self.machine = machine
        self._log = log
        self._snapshots = snapshots
        self._snapshot_cells = snapshot_cells
        self._since_snapshot = 0
        self._extent: Extent | None = None
        self.progress: Progress | None = None
        self.cells = 0
        self.ignored_snapshot = ""
        self._halted = False

    async def open(self) -> Progress:
        """Restore the newest usable snapshot, or start from the log's beginning.

        A damaged snapshot, one of another version or of another branch is ignored, with its reason in
        `ignored_snapshot`: the log is the truth and can be refolded. Where its beginning was trimmed away it cannot,
        and the first fold raises GapError: a state that lacks cells is never built.
        """
        extent = await self._log.extent()
        self._extent = extent
        self.progress = self._restore(extent)
        if self.progress is None:
            self.progress = Progress(log_id=extent.log_id_at(extent.first), sequence=extent.first - 1, next_ordinal=0)
        return self.progress

    def _restore(self, extent: Extent) -> Progress | None:
        data = self._snapshots.load(self.machine.name) if self._snapshots else None
        if data is None:
            return None
        try:
            snapshot = Snapshot.decode(data)
            progress = snapshot.progress
            if snapshot.machine_version != self.machine.version:
                raise IntegrityError(f"version {snapshot.machine_version} of the machine, not {self.machine.version}")
            if not extent.first - 1 <= progress.sequence <= extent.last:
                raise IntegrityError(f"sequence {progress.sequence} is outside the log")
            if progress.log_id != extent.log_id_at(progress.sequence):
                raise IntegrityError("it belongs to another branch of the log")
            self.machine.restore(snapshot.state)
        except IntegrityError as error:
            self.ignored_snapshot = str(error)
            return None
        return progress

    async def run(self, *, through: int | None = None, follow: bool = False) -> Progress:
        """Fold messages until `through` (None: what is there now; with `follow`: until cancelled)."""
        progress = self.progress or await self.open()
        async for message in self._log.read(progress.sequence + 1, through=through, follow=follow):
            self.fold(message)
        if self.progress is None:
            raise GapError("a host lost its place", subject=self._log.name)
        return self.progress

    def fold(self, message: Message) -> tuple[FrameHeader, Cells]:
        """Fold one message and remember where; raises GapError or DecodeError, naming the sequence."""
        progress = self.progress
        extent = self._extent
        if progress is None or extent is None:
            raise GapError("a host folds only after open()", subject=self._log.name)
        header, cells = open_frame(self._log.name, message, extent, progress)
        check(not self._halted, "a machine that stopped inside a frame goes on", subject=self.machine.name)
        self._halted = True  # Until the frame is folded whole: what is half folded is no state of this machine.
        self.machine.apply(header, cells)
        self._halted = False
        self.progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
        self.cells += len(cells)
        self._since_snapshot += len(cells)
        if self._snapshots is not None and self._since_snapshot >= self._snapshot_cells:
            self.save()
        return header, cells

    def save(self) -> None:
        """Write a snapshot of the present state.

        Raises:
            InvariantError: The machine stopped inside a frame; the last snapshot stands.
        """
        if self._snapshots is None or self.progress is None:
            return
        check(not self._halted, "a machine that stopped inside a frame is not kept", subject=self.machine.name)
        snapshot = Snapshot(progress=self.progress, machine_version=self.machine.version, state=self.machine.snapshot())
        self._snapshots.save(self.machine.name, snapshot.encode())
        self._since_snapshot = 0


def open_frame(name: str, message: Message, extent: Extent, progress: Progress) -> tuple[FrameHeader, Cells]:
    """Decode the frame that must come next, or say why it is not that frame.

    Where `progress.next_ordinal` is negative any first ordinal will do: for readers of a part of a log, not machines.

    Raises:
        GapError: A sequence or an ordinal is missing.
        DecodeError: The frame is damaged.
        IntegrityError: It belongs to another branch of the log.
    """
    where = f"sequence {message.sequence}"
    if message.sequence != progress.sequence + 1:
        raise GapError(f"sequence {progress.sequence + 1} is missing", subject=name, position=where)
    try:
        header, cells = decode_message(message)
    except DecodeError as error:
        position = f"{where}, {error.position}" if error.position else where
        raise DecodeError(error.message, subject=name, position=position, hint=error.hint) from error
    if header.log_id != extent.log_id_at(message.sequence):
        raise IntegrityError(
            "a frame of another log or branch", subject=name, position=where, hint="restore from the backup"
        )
    if progress.next_ordinal >= 0 and header.first_ordinal != progress.next_ordinal:
        raise GapError(
            f"cell {progress.next_ordinal} is missing: the frame begins at {header.first_ordinal}",
            subject=name,
            position=where,
            hint="what came before was trimmed: start from a snapshot or read the segments"
            if message.sequence == extent.first
            else "cells were lost: restore from the backup",
        )
    return header, cells
