"""The ring of depth snapshots against a list that keeps everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book import ASK, BID, apply, define, levels, make_books
from tapehouse.book.history import APPENDED, REFUSED, append_look, in_order, kept, look_at, make_history, row_at
from tapehouse.core import UNDEFINED
from tapehouse.core.errors import DataError, UsageError
from tapehouse.market import words
from tests.support.book_tape import BY_ORDER, make_cells


@given(
    seed=st.integers(0, 50),
    rows=st.integers(1, 20),
    depth=st.integers(1, 6),
    steps=st.lists(st.integers(-1, 3), max_size=60),
)
@settings(deadline=None, max_examples=60)
def test_the_ring_is_the_end_of_a_list(seed: int, rows: int, depth: int, steps: list[int]) -> None:
    cells = np.concatenate(make_cells(seed, 120))
    array = words(cells[(cells["instrument"] == 1) & (cells["kind"] == 1)])
    books = make_books(1, orders=64, levels=64)
    define(books, 0, BY_ORDER.tick_size)
    history = make_history(rows, depth=depth)
    expected: list[tuple[int, int, list[list[tuple[int, int]]]]] = []
    now, refused = 0, 0
    for row, step in enumerate(steps):
        apply(books, 0, array, row % len(array))
        now += step
        if append_look(history, books, 0, now, row):
            sides = [[(price, size) for price, size, _ in levels(books, 0, side)[:depth]] for side in (BID, ASK)]
            assert not expected or now >= expected[-1][0]
            expected.append((now, row, sides))
        else:
            assert now < expected[-1][0]
            refused += 1
    assert history.counts[[APPENDED, REFUSED]].tolist() == [len(expected), refused]
    there = expected[-rows:]
    assert kept(history) == len(there)
    for at, (time, ordinal, sides) in zip(in_order(history).tolist(), there, strict=True):
        assert (history.times[at], history.ordinals[at]) == (time, ordinal)
        for side in (BID, ASK):
            empty = depth - len(sides[side])
            assert history.prices[at, side].tolist() == [price for price, _ in sides[side]] + [UNDEFINED] * empty
            assert history.sizes[at, side].tolist() == [size for _, size in sides[side]] + [0] * empty
    for time in range(min(-3, now) - 2, now + 3):
        older = [entry for entry in there if entry[0] <= time]
        if older:
            look = look_at(history, time)
            assert (look.time, look.ordinal) == older[-1][:2]
        else:
            assert row_at(history, time) == -1
            with pytest.raises(DataError, match="keep more of them"):
                look_at(history, time)


def test_what_it_takes_is_told_and_bounded() -> None:
    history = make_history(100, depth=10)
    assert history.row_bytes == 8 + 8 + 2 * 10 * 2 * 8
    assert history.nbytes == 100 * history.row_bytes + 16
    for snapshots, depth in ((0, 10), (10, 0), (2**40, 1), (1, 2**40)):
        with pytest.raises(UsageError, match="a history of"):
            make_history(snapshots, depth=depth)
