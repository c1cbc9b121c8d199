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
    assert books.levels.shape == (2 * 3 * 2 * 128, 4), "those of windows, and as many far ones"
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
    set_level(books, 0, 0, 1_000, 0)
    define(books, 0, 10)
    assert set_level(books, 0, 0, 1_005, 1) == Status.OFF_TICK


def test_the_window_is_laid_around_what_there_is():
    books = make_books(2, orders=4, levels=64)
    assert window(books, 0) is None
    define(books, 0, 5)
    for price in (1_000, -50, 10**12):
        set_level(books, 0, 0, price, 1)
        low, high = window(books, 0)
        assert (low, high) == (price - 31 * 5, price + 32 * 5)
        set_level(books, 0, 0, price, 0)
    set_level(books, 0, 0, 0, 1)
    set_level(books, 0, 1, 60 * 5, 1)
    assert window(books, 0) == (-5, 62 * 5), "both fit: neither is far"


@pytest.mark.parametrize("tick", [1, 3, 5, 8, 12, 250_000_000, 10**9 + 7, 2**55])
def test_every_tick_divides_its_multiples_and_nothing_else(tick):
    books = make_books(1, orders=1, levels=64)
    define(books, 0, tick)
    for ticks in (-60, -1, 0, 1, 7, 2**55 // tick, -(2**60) // tick):
        for offset in {0, 1, -1, tick // 2, -(tick // 3)}:
            price = ticks * tick + offset
            status = Status.OFF_TICK if price % tick else Status.OK
            assert set_level(books, 0, 0, price, 1) == status
            assert (levels(books, 0, 0) == [(price, 1, 0)]) == (status == Status.OK)
            set_level(books, 0, 0, price, 0)


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
