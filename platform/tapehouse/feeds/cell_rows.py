"""Cells written one by one in Python, handed out in batches of whole records: for formats read a line at a time."""

from __future__ import annotations

import numpy as np

from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.market import CELL, Action, Cells, Flag, Kind, Side


class CellRows:
    """Rows of cells that wait to be a batch.

    Args:
        batch_cells: About how many cells a batch holds.
    """

    def __init__(self, batch_cells: int = BATCH_CELLS_MAX) -> None:
        self._limit = min(max(batch_cells, 1), BATCH_CELLS_MAX)
        self._rows: list[tuple[int, ...]] = []

    def add(
        self,
        kind: Kind,
        action: Action,
        side: Side,
        *,
        instrument: int,
        ts_event: int,
        ts_recv: int,
        price: int = 0,
        size: int = 0,
        sequence: int = 0,
        order_id: int = 0,
        flags: int = 0,
        cells: int = 1,
    ) -> None:
        """One cell; an extension has `cells` 0 and the other small fields of its first cell."""
        self._rows.append(
            (ts_event, ts_recv, sequence, order_id, price, size, instrument, 0, kind, cells, action, side, flags, 0, 0)
        )

    def add_cells(self, cells: Cells) -> None:
        """Cells that are made already: whole records, few at a time."""
        self._rows += cells.tolist()

    def end_event(self) -> None:
        """Put the flag LAST on the last cell."""
        row = self._rows[-1]
        self._rows[-1] = (*row[:12], row[12] | Flag.LAST, *row[13:])

    @property
    def full(self) -> bool:
        """Whether a batch is due; asked where a record has ended."""
        return len(self._rows) >= self._limit

    def __len__(self) -> int:
        return len(self._rows)

    def take(self) -> Cells:
        """What waits, as cells; afterwards nothing waits."""
        cells = np.array(self._rows, CELL)
        self._rows.clear()
        return cells
