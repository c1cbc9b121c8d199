"""Cells as they were decoded into batches as a feed promises them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from tapehouse.core.errors import DecodeError
from tapehouse.market import Cells, whole_records


def in_batches(parts: Iterable[Cells], batch_cells: int) -> Iterator[Cells]:
    """The same cells in batches of about `batch_cells`, cut between records; what came before damage comes out first.

    Args:
        parts: Whole records, in pieces of any length.

    Raises:
        DecodeError: The one with which `parts` ended.
    """
    waiting: list[Cells] = []
    total = 0
    try:
        for cells in parts:
            if not len(cells):
                continue
            waiting.append(cells)
            total += len(cells)
            if total < batch_cells:
                continue
            joined = np.concatenate(waiting)
            while len(joined) >= batch_cells:
                size = whole_records(joined, batch_cells)
                yield joined[:size]
                joined = joined[size:]
            waiting, total = [joined], len(joined)
    except DecodeError:
        yield from _rest(waiting, batch_cells)
        raise
    yield from _rest(waiting, batch_cells)


def _rest(waiting: list[Cells], batch_cells: int) -> Iterator[Cells]:
    joined = np.concatenate(waiting) if waiting else None
    while joined is not None and len(joined):
        size = whole_records(joined, batch_cells)
        yield joined[:size]
        joined = joined[size:]
