"""Live orders by their id, for venues whose messages name an order and say neither its price nor its side again.

Open addressing with linear probing over one array: eight consecutive ids lie together, a removal shifts back what
follows, so nothing piles up over a day. Kernels never grow the table: they stop where it is full (`is_full`), the
caller doubles it (`grown`) and goes on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError
from tapehouse.core.kernel import Array, Int, kernel

REF, PRICE, SHARES, META = range(4)  # columns of a row; META is 0 where the row is empty
ROWS_MIN = 1 << 12
ROWS_MAX = 1 << 25  # 1 GiB: some 20 million orders that live at once
_MULTIPLIER = np.int64(-7046029254386353131)  # 2^64 divided by the golden ratio
_GROUP_BITS = 3

OrderRows = npt.NDArray[np.int64]  # shape (power of two, 4)


@kernel(inline=True)
def meta_of(instrument: Int, side: Int) -> Int:
    """Side 0 is bid, 1 is ask."""
    return (instrument << 2) | (side << 1) | 1


@kernel(inline=True)
def side_of(meta: Int) -> Int:
    return (meta >> 1) & 1


@kernel(inline=True)
def instrument_of(meta: Int) -> Int:
    return meta >> 2


@kernel(inline=True)
def _home(ref: Int, mask: Int) -> Int:
    mixed = ((ref >> _GROUP_BITS) * _MULTIPLIER) >> 24
    return ((mixed << _GROUP_BITS) | (ref & 7)) & mask


@kernel(inline=True)
def is_full(rows: Array, count: Int) -> Int:
    """Whether one order more would fill more than five eighths."""
    return (count + 1) * 8 > rows.shape[0] * 5


@kernel(inline=True)
def find(rows: Array, ref: Int) -> Int:
    """The row of an order, or -1."""
    mask = rows.shape[0] - 1
    at = _home(ref, mask)
    while rows[at, META] != 0:
        if rows[at, REF] == ref:
            return at
        at = (at + 1) & mask
    return -1


@kernel(inline=True)
def insert(rows: Array, ref: Int, price: Int, shares: Int, meta: Int) -> Int:
    """Put an order that is not there into a table that is not full; its row."""
    mask = rows.shape[0] - 1
    at = _home(ref, mask)
    while rows[at, META] != 0:
        at = (at + 1) & mask
    rows[at, REF] = ref
    rows[at, PRICE] = price
    rows[at, SHARES] = shares
    rows[at, META] = meta
    return at


@kernel()
def remove(rows: Array, hole: Int) -> Int:
    """Empty a row and close the gap; the row that is empty in the end."""
    mask = rows.shape[0] - 1
    at = hole
    while True:
        at = (at + 1) & mask
        if rows[at, META] == 0:
            break
        if ((at - _home(rows[at, REF], mask)) & mask) >= ((at - hole) & mask):
            for column in range(4):
                rows[hole, column] = rows[at, column]
            hole = at
    rows[hole, META] = 0
    return hole


@kernel()
def forget_instrument(rows: Array, instrument: Int) -> Int:
    """Remove all orders of one instrument; how many there were."""
    removed = np.int64(0)
    at = np.int64(0)
    while at < rows.shape[0]:
        if rows[at, META] != 0 and instrument_of(rows[at, META]) == instrument:
            remove(rows, at)
            removed += 1
        else:
            at += 1
    return removed


@kernel()
def _rehash(rows: Array, larger: Array) -> Int:
    for at in range(rows.shape[0]):
        if rows[at, META] != 0:
            insert(larger, rows[at, REF], rows[at, PRICE], rows[at, SHARES], rows[at, META])
    return 0


def new_table(size: int = ROWS_MIN) -> OrderRows:
    """An empty table of `size` rows, a power of two."""
    return np.zeros((size, 4), np.int64)


def grown(rows: OrderRows) -> OrderRows:
    """The same orders in a table twice as large; raises DecodeError where it would be larger than ROWS_MAX."""
    if len(rows) >= ROWS_MAX:
        raise DecodeError(
            f"more than {ROWS_MAX * 5 // 8} orders live at once",
            hint="the file is damaged, or deletes are missing from it",
        )
    larger = new_table(len(rows) * 2)
    _rehash(rows, larger)
    return larger
