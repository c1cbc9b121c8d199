"""What producer and consumer have in common: a mapped ring with one role held, and its application words."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

from tapehouse.core import DataError, InvariantError, UsageError
from tapehouse.market import Cells
from tapehouse.ring.file import attach, is_alive, start_ticks
from tapehouse.ring.kernels import read_word, write_word
from tapehouse.ring.layout import (
    APPLICATION,
    CONSUMER_EPOCH,
    CONSUMER_PID,
    CONSUMER_STARTED,
    HEAD,
    PRODUCER_EPOCH,
    PRODUCER_PID,
    PRODUCER_STARTED,
    TAIL,
    WORDS,
    Policy,
)
from tapehouse.ring.lock import Role, give_back
from tapehouse.ring.mapping import Mapping

_FACTS = {
    Role.PRODUCER: (PRODUCER_PID, PRODUCER_STARTED, PRODUCER_EPOCH),
    Role.CONSUMER: (CONSUMER_PID, CONSUMER_STARTED, CONSUMER_EPOCH),
}


def word_at(number: int) -> int:
    """The header offset of an application word.

    Raises:
        UsageError: There are 64.
    """
    if not 0 <= number < WORDS:
        raise UsageError(f"application word {number}", hint=f"a ring has words 0 to {WORDS - 1}")
    return APPLICATION + 8 * number


class Attachment:
    """One role on one ring; closing it gives the role back. After that `address` must not be used any more."""

    def __init__(self, path: Path, role: Role) -> None:
        self._descriptor, self.identity = attach(path, role)
        # Whoever forgets to close gives the role back all the same, as one who died.
        self._let_go = weakref.finalize(self, give_back, self._descriptor, role)
        try:
            self._mapping = Mapping(self._descriptor, self.identity.cells)
            self._address = self._mapping.address
            head, tail = self._read(HEAD), self._read(TAIL)
            if not 0 <= tail <= head <= tail + self.identity.cells:
                raise DataError(
                    f"head {head} and tail {tail} cannot be", subject=str(path), hint="it was overwritten: remove it"
                )
            pid_at, started_at, epoch_at = _FACTS[role]
            write_word(self._address + started_at, start_ticks(os.getpid()))
            write_word(self._address + epoch_at, self._read(epoch_at) + 1)
            write_word(self._address + pid_at, os.getpid())
        except BaseException:
            self._let_go()
            raise
        self.path = path
        self._role = role

    def _read(self, at: int) -> int:
        return int(read_word(self._open_address() + at))

    def _write(self, at: int, value: int) -> None:
        write_word(self._open_address() + at, value)

    def _open_address(self) -> int:
        if not self._address:
            raise InvariantError("the ring is used after it was closed", subject=str(self.path))
        return self._address

    @property
    def address(self) -> int:
        """What kernels take as `ring`."""
        return self._open_address()

    @property
    def cells(self) -> int:
        """The capacity."""
        return self.identity.cells

    @property
    def policy(self) -> Policy:
        """What happens where there is no room."""
        return self.identity.policy

    @property
    def creation(self) -> bytes:
        """The 16 bytes that tell this ring from another of the same name."""
        return self.identity.creation

    def view(self) -> Cells:
        """Both copies of the slots, shape (2 x `cells`,): a run of cells is contiguous wherever it begins."""
        return self._mapping.view()

    @property
    def head(self) -> int:
        """Cells published since the ring was made."""
        return self._read(HEAD)

    @property
    def tail(self) -> int:
        """Cells released since the ring was made."""
        return self._read(TAIL)

    @property
    def epoch(self) -> int:
        """How many times this role was taken, this time included."""
        return self._read(_FACTS[self._role][2])

    def word(self, number: int) -> int:
        """An application word, as a signed number."""
        return self._read(word_at(number))

    def set_word(self, number: int, value: int) -> None:
        """Write an application word; everything written before is seen by who reads it."""
        self._write(word_at(number), value)

    def _peer_alive(self, role: Role) -> bool:
        self._open_address()
        return is_alive(self._descriptor, role)

    def close(self) -> None:
        """Give the role back; a second call does nothing."""
        if self._address:
            self._write(_FACTS[self._role][0], 0)  # A pid that stays tells of a process that died.
            self._address = 0
            self._let_go()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
