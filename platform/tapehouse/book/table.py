"""From (slot, order id) to an order's row: an open-addressing hash table, and the pool of rows.

Eight consecutive ids share two cache lines (the hash is of the id without its low three bits), since venues count
their ids up and orders that came together are touched together. Probing is linear; a delete shifts later entries back,
so there are no tombstones and the table is as good after a day as after a minute. It has at least two entries to an
order, so a probe always meets an empty one.
"""

from __future__ import annotations

import numpy as np

from tapehouse.book.layout import CAPACITY, FREE, FRESH, HASH_SHIFT, KEY, LINKS, ROW
from tapehouse.core.kernel import Array, Int, kernel

# Odd multipliers with well-mixed bits: 2^64 over the golden ratio (Knuth, TAOCP 3, 6.4) and one of xxHash64's primes.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SLOT_MIX = np.uint64(0xC2B2AE3D27D4EB4F)
GROUP_BITS = 3
GROUP_MASK = (1 << GROUP_BITS) - 1
LOW_MASK = (1 << 32) - 1
HALF = np.uint64(32)


@kernel()
def low(packed: Int) -> Int:
    """The lower of two numbers below 2^31 in one word."""
    return packed & LOW_MASK


@kernel()
def high(packed: Int) -> Int:
    """The upper of two numbers below 2^31 in one word."""
    return np.int64(np.uint64(packed) >> HALF)


@kernel()
def pack(lower: Int, upper: Int) -> Int:
    """Two numbers below 2^31 in one word."""
    return lower | (upper << 32)


@kernel()
def home(pool: Array, slot: Int, order_id: Int) -> Int:
    """The entry where the search for an order begins."""
    group = (np.uint64(order_id) >> np.uint64(GROUP_BITS)) + np.uint64(slot) * SLOT_MIX
    bucket = (group * GOLDEN) >> np.uint64(pool[HASH_SHIFT])
    return (np.int64(bucket) << GROUP_BITS) | (order_id & GROUP_MASK)


@kernel()
def find(table: Array, pool: Array, slot: Int, order_id: Int) -> Int:
    """The entry of an order, -1 where it is not live."""
    mask = table.shape[0] - 1
    entry = home(pool, slot, order_id)
    while True:
        value = table[entry, ROW]
        if value == 0:
            return -1
        if table[entry, KEY] == order_id and high(value) == slot:
            return entry
        entry = (entry + 1) & mask


@kernel()
def insert(table: Array, pool: Array, slot: Int, order_id: Int, row: Int) -> None:
    """Enter an order that is not in the table; `row` must come from `take_row`, which keeps the table half empty."""
    mask = table.shape[0] - 1
    entry = home(pool, slot, order_id)
    while table[entry, ROW] != 0:
        entry = (entry + 1) & mask
    table[entry, KEY] = order_id
    table[entry, ROW] = pack(row, slot)


@kernel()
def erase(table: Array, pool: Array, entry: Int) -> None:
    """Take out the order at `entry`, moving back whatever had probed past it."""
    mask = table.shape[0] - 1
    hole = entry
    probe = entry
    while True:
        probe = (probe + 1) & mask
        value = table[probe, ROW]
        if value == 0:
            break
        order_id = table[probe, KEY]
        # It may move back into the hole if its search begins at or before the hole.
        if (probe - home(pool, high(value), order_id)) & mask >= (probe - hole) & mask:
            table[hole, KEY] = order_id
            table[hole, ROW] = value
            hole = probe
    table[hole, ROW] = 0


@kernel()
def take_row(orders: Array, pool: Array) -> Int:
    """A free row for a new order, 0 where as many as can be are live."""
    row = pool[FREE]
    if row != 0:
        pool[FREE] = high(orders[row, LINKS])
        return row
    row = pool[FRESH]
    if row > pool[CAPACITY]:
        return 0
    pool[FRESH] = row + 1
    return row


@kernel()
def give_row(orders: Array, pool: Array, row: Int) -> None:
    """Return an order's row to the pool."""
    orders[row, LINKS] = pack(0, pool[FREE])
    pool[FREE] = row
