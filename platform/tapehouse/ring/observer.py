"""Numbers of a ring for who has no role in it: no lock, nothing written, the slots not even mapped."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from tapehouse.core import InvariantError
from tapehouse.ring.attachment import word_at
from tapehouse.ring.file import is_alive, is_named, open_ring
from tapehouse.ring.kernels import read_word
from tapehouse.ring.layout import (
    CLOSED,
    CONSUMER_EPOCH,
    CONSUMER_PID,
    DROPPED_CELLS,
    DROPPED_RECORDS,
    HEAD,
    PRODUCER_EPOCH,
    PRODUCER_PID,
    TAIL,
)
from tapehouse.ring.lock import Role
from tapehouse.ring.mapping import Mapping


class RingObserver:
    """Reads one ring's header; each number is read afresh, so two of them may be of different moments."""

    def __init__(self, path: Path) -> None:
        # A lock query needs no right to write, but the system asks for it on some versions; the mapping is read-only.
        self._descriptor, self.identity = open_ring(path, writable=False)
        try:
            self._mapping: Mapping | None = Mapping(self._descriptor, self.identity.cells, writable=False, slots=False)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.path = path

    def _read(self, at: int) -> int:
        if self._mapping is None:
            raise InvariantError("the ring is used after it was closed", subject=str(self.path))
        return int(read_word(self._mapping.address + at))

    @property
    def cells(self) -> int:
        """The capacity."""
        return self.identity.cells

    @property
    def head(self) -> int:
        """Cells published since the ring was made."""
        return self._read(HEAD)

    @property
    def tail(self) -> int:
        """Cells released since the ring was made."""
        return self._read(TAIL)

    @property
    def lag(self) -> int:
        """Cells published and not released; the tail is read first, so that it is never negative."""
        tail = self._read(TAIL)
        return self._read(HEAD) - tail

    @property
    def dropped(self) -> int:
        """Records dropped since the ring was made."""
        return self._read(DROPPED_RECORDS)

    @property
    def dropped_cells(self) -> int:
        """Cells of those records."""
        return self._read(DROPPED_CELLS)

    @property
    def producer_pid(self) -> int:
        """The process that attached last as producer; 0 if none did, or it closed."""
        return self._read(PRODUCER_PID)

    @property
    def producer_epoch(self) -> int:
        """How many producers have attached."""
        return self._read(PRODUCER_EPOCH)

    @property
    def consumer_pid(self) -> int:
        """The process that attached last as consumer; 0 if none did, or it closed."""
        return self._read(CONSUMER_PID)

    @property
    def consumer_epoch(self) -> int:
        """How many consumers have attached."""
        return self._read(CONSUMER_EPOCH)

    @property
    def closed_by_producer(self) -> bool:
        """Whether the last producer closed the ring in order."""
        return self._read(CLOSED) != 0

    @property
    def producer_alive(self) -> bool:
        """Whether a process is attached as producer."""
        return self._alive(Role.PRODUCER)

    @property
    def consumer_alive(self) -> bool:
        """Whether a process is attached as consumer."""
        return self._alive(Role.CONSUMER)

    def _alive(self, role: Role) -> bool:
        self._read(HEAD)
        return is_alive(self._descriptor, role)

    @property
    def replaced(self) -> bool:
        """Whether the ring's name leads to another ring by now, or to none."""
        return not is_named(self._descriptor, self.path)

    def word(self, number: int) -> int:
        """An application word, as a signed number."""
        return self._read(word_at(number))

    def close(self) -> None:
        """Let go; a second call does nothing."""
        if self._mapping is not None:
            self._mapping = None
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
