"""No record, slot or snapshot, however absurd, makes a kernel touch memory outside of its arrays.

Kernels run without bounds checks. So the same kernels are compiled once more with them, in another process with a
cache of its own, and fed garbage there: an index out of bounds raises IndexError, and one that wrapped to a valid one
leaves books that differ from the oracle in test_book_streams.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from tapehouse.book import (
    apply_cells,
    best_price,
    best_size,
    define,
    depth,
    ladder,
    level_size,
    make_books,
    order_counts,
    restore,
    set_level,
    snapshot,
    state_of,
    top,
)
from tapehouse.core import IntegrityError
from tapehouse.core.kernel import cache_directory, kernel
from tapehouse.market import CELL, Kind, Side, words

EXTREMES = np.array(
    [0, 1, -1, 2**63 - 1, -(2**63), 2**61, -(2**61), 2**62, 64, 63, 100, 105, 110, -20, 43, 44], np.int64
)
ROUNDS = 100
CELLS = 400


@kernel()
def read_at(array, index):
    return array[index]


def garbage(random: np.random.Generator, turn: int) -> np.ndarray:
    """Cells of random bits, of extremes, or of plausible orders; nine in ten look like a change of a book."""
    raw = random.integers(-(2**63), 2**63 - 1, (CELLS, 8)) if turn % 3 == 0 else random.choice(EXTREMES, (CELLS, 8))
    cells = np.ascontiguousarray(raw).reshape(-1).view(CELL)
    likely = random.random(CELLS) < 0.9
    cells["kind"] = np.where(
        likely, random.choice([Kind.MBO, Kind.MBP, Kind.QUOTE], CELLS, p=[0.5, 0.4, 0.1]), cells["kind"]
    )
    cells["cells"] = np.where(likely, np.where(cells["kind"] == Kind.QUOTE, 2, 1), cells["cells"])
    cells["action"] = np.where(likely, random.choice([ord(letter) for letter in "AAAACCMMMR"], CELLS), cells["action"])
    cells["side"] = np.where(likely, random.choice([Side.BID, Side.ASK], CELLS), cells["side"])
    cells["instrument"] = np.where(likely, random.integers(0, 7, CELLS), cells["instrument"])
    if turn % 3 == 1:
        cells["order_id"], cells["price"] = random.integers(0, 90, CELLS), random.integers(0, 70, CELLS) * 5
        cells["size"], cells["flags"] = random.integers(1, 9, CELLS), 0
        cells["price"] *= random.choice([1, 1, 12, 1000, -(10**9)], CELLS)
    return cells


def new_books():
    books = make_books(3, orders=30, levels=64)
    define(books, 0, 5)
    define(books, 1, 12)
    return books


def attack(seed: int) -> None:
    """Everything that takes a number from outside is given every number."""
    with pytest.raises(IndexError):
        read_at(np.zeros(4), 4)  # the control: bounds checks are on
    random = np.random.default_rng(seed)
    books, other = new_books(), new_books()
    route, room, rows = np.array([0, 1, 2, -1, 7, 0]), np.zeros(5, np.int64), np.zeros((2, 3, 3), np.int64)
    for turn in range(ROUNDS):
        apply_cells(books, route, words(garbage(random, turn)))
        for slot in (-(2**62), -1, 0, 1, 2, 3, 2**62):
            top(books, slot)
            state_of(books, slot)
            ladder(books, slot, rows)
            for side in (-1, 0, 1, 2, 2**62):
                price, size = random.choice(EXTREMES, 2).tolist()
                best_price(books, slot, side)
                best_size(books, slot, side)
                level_size(books, slot, side, price)
                depth(books, slot, side, room, room)
                order_counts(books, slot, side, room)
                set_level(books, slot, side, price, size)
        data = np.frombuffer(snapshot(books), "<i8").copy()
        restore(other, data.tobytes())
        assert snapshot(other) == data.tobytes()
        data[random.integers(0, len(data), 2)] = random.choice(EXTREMES, 2)
        try:
            restore(other, data.tobytes())
        except IntegrityError:
            continue
        assert snapshot(other) == data.tobytes()


@pytest.mark.parametrize("seed", [1, 2])
def test_garbage_stays_inside_the_arrays(seed):
    environment = {
        **os.environ,
        "NUMBA_BOUNDSCHECK": "1",
        "NUMBA_OPT": "1",  # a check is a check however little is optimised, and compiling takes half as long
        "TAPEHOUSE_CACHE": str(cache_directory().parents[1] / "checked"),  # other machine code than without the check
    }
    run = subprocess.run(
        [sys.executable, __file__, str(seed)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, f"seed {seed}\n{run.stderr[-4_000:]}"


if __name__ == "__main__":
    attack(int(sys.argv[1]))
