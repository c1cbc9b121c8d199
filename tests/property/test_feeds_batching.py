"""Pieces of cells into batches of whole records: nothing lost, nothing cut, whatever the pieces are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapehouse.core import DecodeError
from tapehouse.feeds.batching import in_batches
from tapehouse.market import Cells, empty_cells, record_starts


def records(lengths: list[int], first: int) -> Cells:
    """One record of each length; the sequence numbers all cells."""
    cells = empty_cells(sum(lengths))
    cells["sequence"] = np.arange(len(cells)) + first
    cells["cells"][np.cumsum([0, *lengths])[:-1]] = lengths
    return cells


PIECES = st.lists(st.lists(st.integers(1, 5), max_size=6), max_size=8)


@given(pieces=PIECES, limit=st.integers(1, 12), damaged=st.booleans())
def test_every_cell_comes_out_once_and_records_stay_whole(pieces: list[list[int]], limit: int, damaged: bool) -> None:
    made, total = [], 0
    for lengths in pieces:
        made.append(records(lengths, total))
        total += sum(lengths)

    def parts() -> Iterator[Cells]:
        yield from made
        if damaged:
            raise DecodeError("cut off")

    found = []
    try:
        for batch in in_batches(parts(), limit):
            found.append(batch)
        assert not damaged
    except DecodeError:
        assert damaged
    told = np.concatenate([empty_cells(0), *found])
    assert told["sequence"].tolist() == list(range(total))
    for batch in found:
        starts = record_starts(batch)
        assert 0 < len(batch) <= max(limit, int(batch["cells"][starts[0]]))
    assert all(len(batch) + 5 > limit for batch in found[:-1]), "only the last one may be small"


def test_the_fault_itself_is_told() -> None:
    def parts() -> Iterator[Cells]:
        raise DecodeError("cut off", subject="x")
        yield empty_cells(0)

    with pytest.raises(DecodeError, match="x: cut off"):
        list(in_batches(parts(), 4))
