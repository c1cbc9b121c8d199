"""Every projection is the same fold however the log is split, and goes on from a snapshot as if nothing happened."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book.projection import PricesProjection
from tapehouse.desk.projection import OrdersProjection, PositionsProjection
from tapehouse.log import FrameHeader, Machine
from tapehouse.market import Cells
from tests.support.desk_day import LOG_ID, shared_day

MAKERS: dict[str, Callable[[], Machine]] = {
    "orders": OrdersProjection,
    "orders that forget": lambda: OrdersProjection(done_max=7),
    "positions": PositionsProjection,
    "prices": PricesProjection,
}


def cells_of(name: str) -> Cells:
    """The log that a projection folds."""
    day = shared_day()
    return day.cells if name == "prices" else day.outputs


def fold(machine: Machine, cells: Cells, cuts: list[int]) -> None:
    """Fold whole records in pieces that end at these cells."""
    for start, end in zip([0, *cuts], [*cuts, len(cells)], strict=True):
        header = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=start)
        machine.apply(header, cells[start:end])


@st.composite
def record_cuts(draw: st.DrawFn, cells: Cells) -> list[int]:
    """Sorted places between records."""
    starts = np.flatnonzero(cells["cells"] > 0)
    chosen = draw(st.lists(st.integers(0, len(starts) - 1), max_size=8))
    return sorted({int(starts[at]) for at in chosen})


@pytest.mark.parametrize("name", MAKERS)
def test_any_split_folds_alike(name: str) -> None:
    cells = cells_of(name)
    whole = MAKERS[name]()
    fold(whole, cells, [])

    @settings(max_examples=15, deadline=None)
    @given(cuts=record_cuts(cells))
    def check(cuts: list[int]) -> None:
        machine = MAKERS[name]()
        fold(machine, cells, cuts)
        assert machine.snapshot() == whole.snapshot()

    check()


@pytest.mark.parametrize("name", MAKERS)
def test_a_snapshot_anywhere_goes_on_alike(name: str) -> None:
    cells = cells_of(name)
    whole = MAKERS[name]()
    fold(whole, cells, [])

    @settings(max_examples=15, deadline=None)
    @given(cuts=record_cuts(cells))
    def check(cuts: list[int]) -> None:
        machine = MAKERS[name]()
        for start, end in zip([0, *cuts], [*cuts, len(cells)], strict=True):
            header = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=start)
            machine.apply(header, cells[start:end])
            snapshot = machine.snapshot()
            machine = MAKERS[name]()
            machine.restore(snapshot)
            assert machine.snapshot() == snapshot
        assert machine.digest() == whole.digest()

    check()


@pytest.mark.parametrize("name", MAKERS)
def test_the_digest_sees_a_record_that_is_missing(name: str) -> None:
    cells = cells_of(name)
    whole, less = MAKERS[name](), MAKERS[name]()
    fold(whole, cells, [])
    last = int(np.flatnonzero((cells["cells"] > 0) & (cells["kind"] < 9))[-1])
    if name == "positions":
        last = int(np.flatnonzero((cells["cells"] > 0) & (cells["kind"] == 8))[-1])
    fold(less, cells[:last], [])
    assert less.digest() != whole.digest()
