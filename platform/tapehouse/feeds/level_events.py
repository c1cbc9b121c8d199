"""Where events and snapshots begin and end among market-by-price cells that come a block of rows at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tapehouse.core.units import UNDEFINED
from tapehouse.market import Action, Cells, Flag, Kind, Side, empty_cells


class LevelEvents:
    """Puts LAST on the last cell of each event, and a clear before each snapshot.

    An event is a run of cells of one instrument and one group; a run of cells flagged SNAPSHOT is one event whatever
    its groups. The last cell is held until the next one says whether its event goes on.

    Args:
        instruments: How many there are; ids run from 1.
    """

    def __init__(self, instruments: int) -> None:
        self._in_snapshot = np.zeros(instruments + 1, bool)  # the last cell of each instrument
        self._held = empty_cells(0)
        self._held_group = np.zeros(0, np.int64)

    def take(self, cells: Cells, groups: npt.NDArray[np.int64]) -> Cells:
        """The cells that are settled once these are known; each bears its instrument, and SNAPSHOT where it is of one.

        Args:
            cells: Shape (n,), n at least 1, one cell a record.
            groups: Shape (n,): any number that the cells of one event have in common.
        """
        snapshot = (cells["flags"] & int(Flag.SNAPSHOT)) != 0
        begins = self._snapshot_begins(cells["instrument"].astype(np.int64), snapshot)
        first = len(self._held)
        groups = np.concatenate((self._held_group, np.where(snapshot, 0, groups)))
        cells = np.concatenate((self._held, cells))
        keys = np.stack((cells["instrument"], cells["flags"] & int(Flag.SNAPSHOT), groups), axis=1)
        goes_on = (keys[1:] == keys[:-1]).all(axis=1)
        ended = np.flatnonzero(begins) + first - 1
        goes_on[ended[ended >= 0]] = False
        cells["flags"][:-1] |= np.where(goes_on, 0, int(Flag.LAST)).astype(np.uint8)
        self._held, self._held_group = cells[-1:].copy(), groups[-1:].copy()
        places = np.flatnonzero(begins) + first
        clears = cells[places].copy()
        clears["kind"], clears["action"], clears["side"] = Kind.MBO, Action.CLEAR, Side.NONE
        clears["price"], clears["size"] = UNDEFINED, 0
        clears["flags"] = int(Flag.SNAPSHOT | Flag.SYNTHETIC)
        return np.insert(cells, places, clears)[:-1]

    def _snapshot_begins(self, own: npt.NDArray[np.int64], snapshot: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Whether each row is the first of a snapshot: its instrument's row before it was none."""
        order = np.argsort(own, kind="stable")
        sorted_own, sorted_snapshot = own[order], snapshot[order]
        before = np.empty_like(sorted_snapshot)
        before[1:] = sorted_snapshot[:-1]
        firsts = np.flatnonzero(np.concatenate(([True], sorted_own[1:] != sorted_own[:-1])))
        before[firsts] = self._in_snapshot[sorted_own[firsts]]
        lasts = np.append(firsts[1:], len(own)) - 1
        self._in_snapshot[sorted_own[lasts]] = sorted_snapshot[lasts]
        begins = np.empty_like(snapshot)
        begins[order] = sorted_snapshot & ~before
        return begins

    def finish(self) -> Cells:
        """The cell that was held: it ends its event."""
        held, self._held = self._held, empty_cells(0)
        self._held_group = np.zeros(0, np.int64)
        held["flags"] |= int(Flag.LAST)
        return held
