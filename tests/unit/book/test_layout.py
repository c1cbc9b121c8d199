"""How books are made and defined, and what is refused."""

import numpy as np
import pytest

from tapehouse.book import Status, counts, define, levels, make_books, set_level, window
from tapehouse.core import DataError, UsageError


def test_every_array_begins_on_a_cache_line_and_holds_int64():
    books = make_books(3, orders=100, levels=128)
    for array in books:
        assert array.ctypes.data % 64 == 0
        assert array.dtype in (np.int64, np.uint64)
        assert array.flags.c_contiguous
    assert books.levels.shape == (3 * 2 * 128, 4)
    assert books.orders.shape == (101, 4)
    assert len(books.table) >= 2 * 100
    assert len(books.table) & (len(books.table) - 1) == 0


@pytest.mark.parametrize(
    "bounds",
    [
        {"instruments": 0},
        {"instruments": -1},
        {"instruments": 2**20 + 1},
        {"instruments": 1, "orders": 0},
        {"instruments": 1, "orders": 2**30 + 1},
        {"instruments": 1, "levels": 32},
        {"instruments": 1, "levels": 100},
        {"instruments": 1, "levels": 2**25},
    ],
)
def test_bounds_are_refused_with_a_hint(bounds):
    with pytest.raises(UsageError) as caught:
        make_books(**bounds)
    assert caught.value.hint


def test_more_than_the_machine_holds_is_refused():
    with pytest.raises(UsageError, match="no memory"):
        make_books(2**20, levels=2**24)


@pytest.mark.parametrize(("slot", "tick"), [(-1, 1), (2, 1), (0, 0), (0, -5), (0, 2**61)])
def test_define_refuses_no_slot_and_no_tick(slot, tick):
    with pytest.raises(UsageError):
        define(make_books(2, orders=1, levels=64), slot, tick)


def test_define_again_keeps_a_book_and_another_tick_needs_an_empty_one():
    books = make_books(1, orders=4, levels=64)
    define(books, 0, 5)
    set_level(books, 0, 0, 1_000, 7)
    define(books, 0, 5)
    assert levels(books, 0, 0) == [(1_000, 7, 0)]
    with pytest.raises(DataError, match="cannot change"):
        define(books, 0, 10)
    with pytest.raises(DataError, match="cannot change"):
        define(books, 0, 5, base=900)
    set_level(books, 0, 0, 1_000, 0)
    define(books, 0, 10)
    assert window(books, 0) is None


def test_window_lies_around_the_first_price_but_not_below_zero():
    books = make_books(3, orders=4, levels=64)
    define(books, 0, 5)
    define(books, 1, 5)
    define(books, 2, 5)
    assert window(books, 0) is None
    set_level(books, 0, 0, 1_000, 1)
    set_level(books, 1, 0, 50, 1)
    set_level(books, 2, 0, -50, 1)
    assert window(books, 0) == (1_000 - 32 * 5, 1_000 + 31 * 5)
    assert window(books, 1) == (0, 63 * 5)
    assert window(books, 2) == (-50 - 32 * 5, -50 + 31 * 5), "a price below 0 is as good as another"


def test_pinned_window_stands_before_the_first_price_and_need_not_be_on_a_multiple():
    books = make_books(1, orders=4, levels=64)
    define(books, 0, 5, base=-33)
    assert window(books, 0) == (-33, -33 + 63 * 5)
    assert set_level(books, 0, 1, -33, 1) == Status.OK
    assert set_level(books, 0, 1, -30, 1) == Status.OFF_TICK
    assert set_level(books, 0, 1, -38, 1) == Status.OUT_OF_WINDOW
    with pytest.raises(UsageError):
        define(make_books(1, orders=1, levels=64), 0, 5, base=2**62)


def test_counts_are_read_by_name_and_only_of_slots_that_are():
    books = make_books(2, orders=4, levels=64)
    define(books, 0, 5)
    set_level(books, 0, 0, 1_000, 1)
    set_level(books, 0, 0, 1_001, 1)
    set_level(books, 1, 0, 1_000, 1)
    set_level(books, 9, 0, 1_000, 1)
    assert counts(books, 0)["ok"] == 1
    assert counts(books, 0)["off_tick"] == 1
    assert counts(books, 1)["undefined_slot"] == 1
    assert counts(books, 2)["out_of_range"] == 1, "the row after the last slot's"
    assert set(counts(books, 0)) == {status.name.lower() for status in Status}
    for slot in (-1, 3):
        with pytest.raises(UsageError):
            counts(books, slot)
        with pytest.raises(UsageError):
            window(books, slot)
