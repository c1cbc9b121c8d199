"""Walks over a view's rows: removing what has expired, a bounded stretch at a time, and finding keys by prefix."""

from __future__ import annotations

from typing import Any

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.kv.apply import is_living
from tapehouse.kv.arena import account
from tapehouse.kv.layout import (
    ABSENT,
    AT,
    BLOCK_HEAD_BYTES,
    EVICTED,
    HASH,
    HITS,
    LENGTHS,
    MARKS,
    MISSES,
    NOW,
    ROW_BITS,
    ROW_SEGMENTS,
    SLOT,
    SWEEP_AT,
    SWEPT,
    USED,
)
from tapehouse.kv.table import find, remove
from tapehouse.kv.words import hash_of, is_above, same_bytes


@kernel()
def look_up(rows: Array, directory: Array, arena: Array, state: Array, key: Array, size: Int, now: Int) -> Any:
    """The row of a key that lives at `now`, counted and marked as read; -1 where there is none."""
    row = find(rows, directory, arena, state, hash_of(state, key, 0, size), key, 0, size)
    if not is_living(rows, row, max(now, state[NOW])):
        state[ABSENT] += 1
        return -1
    if rows[row, MARKS] & EVICTED:
        state[MISSES] += 1
    else:
        state[HITS] += 1
    rows[row, MARKS] |= USED
    return row


@kernel()
def peek(rows: Array, directory: Array, arena: Array, state: Array, key: Array, size: Int) -> Any:
    """The row of a key that lives; -1 where there is none. Nothing is counted or marked."""
    row = find(rows, directory, arena, state, hash_of(state, key, 0, size), key, 0, size)
    return row if is_living(rows, row, state[NOW]) else -1


@kernel()
def sweep(rows: Array, state: Array, budget: Int) -> Any:
    """Look at the next so many rows and remove those that have expired; how many those were.

    A row that shifting back brings past the walk is found in the next round.
    """
    total = state[ROW_SEGMENTS] << state[ROW_BITS]
    at, removed = state[SWEEP_AT], 0
    for _ in range(budget):
        if at >= total:
            at = 0
        if rows[at, HASH] != 0 and not is_living(rows, at, state[NOW]):
            account(rows, state, at, -1)
            remove(rows, state, at)
            removed += 1
        else:
            at += 1
    state[SWEEP_AT] = at
    state[SWEPT] += removed
    return removed


@kernel()
def collect_slots(rows: Array, state: Array, found: Array, first: Int, last: Int) -> Any:
    """All rows of a run of slots, expired ones too, into `found` as far as it has places; how many there are."""
    count = 0
    for row in range(state[ROW_SEGMENTS] << state[ROW_BITS]):
        if rows[row, HASH] != 0 and first <= rows[row, SLOT] <= last:
            if count < found.shape[0]:
                found[count] = row
            count += 1
    return count


@kernel()
def weigh_slots(rows: Array, state: Array, sizes: Array) -> None:
    """Add the bytes of keys and values of each slot to `sizes`, also of values that were evicted."""
    for row in range(state[ROW_SEGMENTS] << state[ROW_BITS]):
        if rows[row, HASH] != 0:
            sizes[rows[row, SLOT]] += (rows[row, LENGTHS] >> 32) + (rows[row, LENGTHS] & 0xFFFF_FFFF)


@kernel()
def collect(
    rows: Array, arena: Array, state: Array, found: Array,
    prefix: Array, prefix_bytes: Int, after: Array, after_bytes: Int, now: Int,
) -> Any:  # fmt: skip
    """All rows that live at `now` and whose key begins with `prefix` and comes after `after`, into `found`; how many.

    `found` has a place for every key. In no order.
    """
    moment = max(now, state[NOW])
    count = 0
    for row in range(state[ROW_SEGMENTS] << state[ROW_BITS]):
        if rows[row, HASH] == 0 or not is_living(rows, row, moment):
            continue
        key_at, key_bytes = rows[row, AT] + BLOCK_HEAD_BYTES, rows[row, LENGTHS] >> 32
        if key_bytes < prefix_bytes or not same_bytes(arena, key_at, prefix, 0, prefix_bytes):
            continue
        if is_above(arena, key_at, key_bytes, after, after_bytes):
            found[count] = row
            count += 1
    return count
