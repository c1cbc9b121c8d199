"""The bitmap tree equals a sorted set."""

import numpy as np
import pytest

from tapehouse.book.bits import flip_bit, highest, highest_bit, lowest_bit, next_below, next_from
from tapehouse.book.layout import make_books
from tapehouse.core.kernel import kernel

SEED = 20_240_611


@kernel()
def ends(word):
    return lowest_bit(word), highest_bit(word)


def test_lowest_and_highest_bit_of_every_power_and_of_zero():
    assert [ends(np.uint64(1 << bit)) for bit in range(64)] == [(bit, bit) for bit in range(64)]
    assert ends(np.uint64(2**64 - 1)) == (0, 63)
    assert ends(np.uint64(0)) == (64, -1)


@pytest.mark.parametrize("levels", [64, 128, 4096, 8192, 1 << 16, 1 << 18, 1 << 19, 1 << 24])
def test_tree_equals_a_set(levels):
    books = make_books(2, orders=1, levels=levels)
    random = np.random.default_rng(SEED)
    near = np.clip(levels // 2 + random.integers(-80, 80, 400), 0, levels - 1)
    edges = np.array([0, 1, 63, levels - 1, levels - 2, levels // 2])
    ranks = np.concatenate([near, edges, random.integers(0, levels, 200)])
    held: set[int] = set()
    for rank in random.permutation(np.concatenate([ranks, ranks, ranks])).tolist():
        if rank in held:
            held.remove(rank)
        else:
            held.add(rank)
        flip_bit(books.bitmap, books.pool, 3, rank)
        assert highest(books.bitmap, books.pool, 3) == max(held, default=-1)
        for start in (rank, levels - 1, 0, int(random.integers(0, levels))):
            expected = max((at for at in held if at < start), default=-1)
            assert next_below(books.bitmap, books.pool, 3, start) == expected, f"seed {SEED}"
            expected = min((at for at in held if at >= start), default=-1)
            assert next_from(books.bitmap, books.pool, 3, start) == expected, f"seed {SEED}"
    for rank in sorted(held):
        flip_bit(books.bitmap, books.pool, 3, rank)
    assert not books.bitmap.any(), "an empty side has no bit in any tier, and its neighbours were never touched"
