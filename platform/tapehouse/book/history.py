"""The last so many looks at a book: a ring of depth snapshots in arrays that are made once.

A replay that keeps what a book looked like (for a chart, a feature, a report) appends one row after each event, from
its own kernel; nothing is allocated, and the oldest row goes when the ring is full. Prices and sizes are the tape's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tapehouse.book.layout import Ints
from tapehouse.book.view import depth
from tapehouse.core.errors import DataError, UsageError
from tapehouse.core.kernel import Int, State, kernel
from tapehouse.core.units import UNDEFINED

PRICE, SIZE = 0, 1  # of a level
APPENDED, REFUSED = 0, 1  # entries of `counts`
SNAPSHOTS_MAX = 1 << 28
DEPTH_MAX = 1 << 12


class BookHistory(NamedTuple):
    """A ring of snapshots of one book; a kernel takes it whole. Make it with `make_history`."""

    times: Ints  # (n,): engine time of each
    ordinals: Ints  # (n,): of the tape's last cell that it saw
    prices: Ints  # (n, 2 sides, depth): best first; UNDEFINED where there is no level
    sizes: Ints  # (n, 2 sides, depth): 0 where there is no level
    counts: Ints  # APPENDED ever, and REFUSED because their time went back

    @property
    def row_bytes(self) -> int:
        """What one snapshot takes."""
        return sum(array[0].nbytes for array in (self.times, self.ordinals, self.prices, self.sizes))

    @property
    def nbytes(self) -> int:
        """What all of it takes."""
        return sum(array.nbytes for array in self)


class Look(NamedTuple):
    """One snapshot: times and ordinal, and views of its levels, of shape (2 sides, depth)."""

    time: int
    ordinal: int
    prices: Ints
    sizes: Ints


def make_history(snapshots: int, *, depth: int = 10) -> BookHistory:
    """An empty ring.

    Args:
        snapshots: How many it keeps.
        depth: Levels of each side.

    Raises:
        UsageError: A number is out of its bounds.
    """
    if not 0 < snapshots <= SNAPSHOTS_MAX or not 0 < depth <= DEPTH_MAX:
        raise UsageError(
            f"a history of {snapshots} snapshots of {depth} levels",
            hint=f"up to {SNAPSHOTS_MAX} snapshots and {DEPTH_MAX} levels",
        )
    return BookHistory(
        times=np.zeros(snapshots, np.int64),
        ordinals=np.zeros(snapshots, np.int64),
        prices=np.zeros((snapshots, 2, depth), np.int64),
        sizes=np.zeros((snapshots, 2, depth), np.int64),
        counts=np.zeros(2, np.int64),
    )


@kernel()
def append_look(history: State, books: State, slot: Int, time: Int, ordinal: Int) -> Int:
    """Keep what a slot's book looks like now; the oldest snapshot goes where the ring is full.

    Args:
        time: Engine time, which never goes back.

    Returns:
        1; 0, counted and nothing changed, where time went back.
    """
    rows = history.times.shape[0]
    row = history.counts[APPENDED] % rows
    if history.counts[APPENDED] > 0 and time < history.times[(row - 1 + rows) % rows]:
        history.counts[REFUSED] += 1
        return 0
    history.times[row], history.ordinals[row] = time, ordinal
    for side in range(2):
        prices, sizes = history.prices[row, side], history.sizes[row, side]
        for level in range(depth(books, slot, side, prices, sizes), prices.shape[0]):
            prices[level] = UNDEFINED
            sizes[level] = 0
    history.counts[APPENDED] += 1
    return 1


@kernel()
def row_at(history: State, time: Int) -> Int:
    """The row of the last snapshot that is not after a time, -1 where all that are kept are."""
    rows, appended = history.times.shape[0], history.counts[APPENDED]
    low, high = max(0, appended - rows), appended  # what is below `low` is not after it, from `high` on all are
    first = low
    while low < high:
        middle = (low + high) >> 1
        if history.times[middle % rows] <= time:
            low = middle + 1
        else:
            high = middle
    return (low - 1) % rows if low > first else -1


def kept(history: BookHistory) -> int:
    """How many snapshots are there now."""
    return min(int(history.counts[APPENDED]), len(history.times))


def look_at(history: BookHistory, time: int) -> Look:
    """The last snapshot that is not after a time: views, which a later append may overwrite.

    Raises:
        DataError: None is kept that is so old.
    """
    row = int(row_at(history, time))
    if row < 0:
        raise DataError(f"no snapshot of {time} or before is kept", hint="keep more of them")
    return Look(int(history.times[row]), int(history.ordinals[row]), history.prices[row], history.sizes[row])


def in_order(history: BookHistory) -> Ints:
    """The rows of all snapshots that are kept, oldest first."""
    rows, appended = len(history.times), int(history.counts[APPENDED])
    return np.arange(max(0, appended - rows), appended, dtype=np.int64) % rows


__all__ = ["BookHistory", "Look", "append_look", "in_order", "kept", "look_at", "make_history", "row_at"]
