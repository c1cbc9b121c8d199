"""A view at one moment: what a snapshot of it is written from, while the view itself goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tapehouse.core.errors import UsageError
from tapehouse.kv import layout, load
from tapehouse.kv.moves import Coming, Frozen
from tapehouse.kv.ordering import in_order
from tapehouse.kv.slots import SLOTS
from tapehouse.kv.sweep import collect

_U64 = (1 << 64) - 1


def frozen_of(state: Any) -> Frozen | None:
    """The run of slots that a state says is frozen."""
    first, last, epoch, until, since, writer = state[layout.FROZEN_FIRST : layout.FROZEN_WRITER + 1].tolist()
    return Frozen(first, last, epoch, until, since, writer & _U64) if last >= 0 else None


def coming_of(state: Any) -> Coming | None:
    """The run of slots whose rows a state says are coming."""
    first, last, epoch, writer, count, digest = state[layout.COMING_FIRST : layout.COMING_DIGEST + 1].tolist()
    return Coming(first, last, epoch, writer & _U64, count, digest & _U64) if last >= 0 else None


class Moment:
    """A machine's state; made by `View.pin`, or by `View.moment` for as long as the view does not change.

    Args:
        rows, arena, state: As `layout` has them.
        writers: Number and sequence of the last frame of each gateway.
    """

    def __init__(self, *, rows: Any, arena: Any, state: Any, writers: dict[int, tuple[int, int]]) -> None:
        self._rows = rows
        self._arena = arena
        self._state = state
        self.writers = writers
        self.now: int = state.item(layout.NOW)
        self.sequence: int = state.item(layout.SEQUENCE)

    @property
    def epochs(self) -> list[int]:
        """As `View.epochs`."""
        epochs: list[int] = self._state[layout.EPOCHS_FROM : layout.EPOCHS_FROM + SLOTS].tolist()
        return epochs

    @property
    def frozen(self) -> Frozen | None:
        """As `View.frozen`."""
        return frozen_of(self._state)

    @property
    def coming(self) -> Coming | None:
        """As `View.coming`."""
        return coming_of(self._state)

    def records(self, chunk_bytes: int) -> Iterator[tuple[int, bytes]]:
        """Every living key as records in the order of keys, in chunks of at most so many bytes, each with its count.

        An evicted value's record says where it is.
        """
        found = np.empty(self._state.item(layout.KEYS), np.int64)
        count = collect(self._rows, self._arena, self._state, found, b"", 0, b"", -1, 0)
        order = in_order(self._rows, self._arena, found[:count])
        room = np.empty(chunk_bytes, np.uint8)
        first = 0
        while first < len(order):
            count, size = load.dump(self._rows, self._arena, order, first, room, chunk_bytes)
            if not count:
                raise UsageError(f"a chunk of {chunk_bytes} bytes is too short for a record")
            yield count, room[:size].tobytes()
            first += count
