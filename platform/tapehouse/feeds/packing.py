"""How a kernel writes one cell: eight words, the last two packed from the small fields.

The layout is that of `market.CELL`; a unit test holds the two together.
"""

from __future__ import annotations

from tapehouse.core.kernel import Array, Int, kernel

BATCH_CELLS_MAX = 65_536  # the most cells of one batch of any feed
TS_EVENT, TS_RECV, SEQUENCE, ORDER_ID, PRICE, SIZE, HEAD, TAIL = range(8)
COUNT_SHIFT = 32


@kernel()
def head_word(instrument: Int, source: Int, kind: Int, cells: Int) -> Int:
    """Bytes 48 to 55; `cells` below 128."""
    return instrument | (source << 32) | (kind << 48) | (cells << 56)


@kernel()
def tail_word(action: Int, side: Int, flags: Int, depth: Int) -> Int:
    """Bytes 56 to 63 with a count of 0."""
    return action | (side << 8) | (flags << 16) | (depth << 24)


@kernel()
def put_cell(
    out: Array,
    at: Int,
    ts_event: Int,
    ts_recv: Int,
    sequence: Int,
    order_id: Int,
    price: Int,
    size: Int,
    head: Int,
    tail: Int,
) -> Int:
    """Write one cell to row `at` of words, shape (n, 8); the row after it."""
    out[at, 0] = ts_event
    out[at, 1] = ts_recv
    out[at, 2] = sequence
    out[at, 3] = order_id
    out[at, 4] = price
    out[at, 5] = size
    out[at, 6] = head
    out[at, 7] = tail
    return at + 1
