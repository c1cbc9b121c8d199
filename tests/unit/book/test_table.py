"""The hash table and the pool of rows equal a dict, through deletes, collisions and a full table."""

import numpy as np
import pytest

from tapehouse.book.layout import CAPACITY, make_books
from tapehouse.book.table import erase, find, give_row, high, home, insert, low, pack, take_row

SEED = 77


def row_of(books, slot, order_id):
    entry = find(books.table, books.pool, slot, order_id)
    return low(books.table[entry, 1]) if entry >= 0 else None


@pytest.mark.parametrize("pattern", ["counted", "strided", "random", "high bits", "one home"])
def test_table_equals_a_dict(pattern):
    books = make_books(3, orders=48, levels=64)
    random = np.random.default_rng(SEED)
    ids = {
        "counted": np.arange(1, 200),
        "strided": np.arange(1, 200) << 20,
        "random": random.integers(1, 2**63, 200),
        "high bits": (np.arange(1, 64) << 57).astype(np.int64),  # ids from 2^63 up are negative words
        "one home": ids_with_home(books, slot=1, entry=len(books.table) - 1, count=60),  # probing wraps around the end
    }[pattern]
    held: dict[tuple[int, int], int] = {}
    for step in range(4_000):
        slot, order_id = (1 if pattern == "one home" else int(random.integers(0, 3))), int(random.choice(ids))
        entry = find(books.table, books.pool, slot, order_id)
        assert row_of(books, slot, order_id) == held.get((slot, order_id)), f"seed {SEED}, step {step}"
        if entry >= 0:
            row = held.pop((slot, order_id))
            erase(books.table, books.pool, entry)
            give_row(books.orders, books.pool, row)
        else:
            row = take_row(books.orders, books.pool)
            assert (row == 0) == (len(held) == books.pool[CAPACITY])
            if row:
                assert row not in held.values()
                insert(books.table, books.pool, slot, order_id, row)
                held[slot, order_id] = row
        if step % 100 == 0:
            assert {key: row_of(books, *key) for key in held} == held
            assert np.count_nonzero(books.table[:, 1]) == len(held)


def ids_with_home(books, slot, entry, count):
    found: list[int] = []
    candidate = 1
    while len(found) < count:
        if home(books.pool, slot, candidate) == entry:
            found.append(candidate)
        candidate += 1
    return np.array(found)


def test_eight_ids_in_a_row_have_neighbouring_homes():
    books = make_books(2, orders=1000, levels=64)
    homes = [home(books.pool, 1, order_id) for order_id in range(4_096, 4_104)]
    assert homes == list(range(homes[0], homes[0] + 8))
    assert homes[0] % 8 == 0
    assert home(books.pool, 0, 4_096) != homes[0], "the slot takes part in the hash"


def test_packing_keeps_both_halves():
    biggest = 2**31 - 1
    for lower, upper in [(0, 0), (1, 0), (0, 1), (biggest, biggest), (biggest, 0), (0, biggest)]:
        assert (low(pack(lower, upper)), high(pack(lower, upper))) == (lower, upper)


def test_rows_are_used_again_and_end_at_the_capacity():
    books = make_books(1, orders=3, levels=64)
    rows = [take_row(books.orders, books.pool) for _ in range(4)]
    assert rows == [1, 2, 3, 0]
    give_row(books.orders, books.pool, 2)
    give_row(books.orders, books.pool, 1)
    assert [take_row(books.orders, books.pool) for _ in range(3)] == [1, 2, 0]
