"""Many keys in one compiled call: to which shard each belongs, what each holds, and puts of them as a frame's entries.

Keys lie anywhere in one buffer; `keys` has a row for each. `words`, `table` and `apply` say what one key's is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.prefetch import prefetch
from tapehouse.kv.apply import is_living
from tapehouse.kv.arena import VALUE_MASK
from tapehouse.kv.entries import ENTRY_BYTES, Op
from tapehouse.kv.layout import (
    ABSENT,
    AT,
    BLOCK_HEAD_BYTES,
    EPOCHS_FROM,
    EVICTED,
    HASH,
    HITS,
    LENGTHS,
    MARKS,
    NOW,
    REVISION,
    ROW_BITS,
    USED,
)
from tapehouse.kv.table import find, first_row
from tapehouse.kv.words import copy_bytes, hash_of, prefetch_at, set_word, slot_at

# A row of a key: its place in the buffer and its bytes; the value's place (in the buffer where it is to be written, in
# its shard's arena where it was found) and its bytes, or why there is none; slot and shard; revision, 0 for none; a
# place for whoever answers.
KEY_WORDS = 8
KEY_AT, KEY_BYTES, VALUE_AT, VALUE_BYTES, KEY_SLOT, KEY_SHARD, KEY_REVISION, REPLY_AT = range(KEY_WORDS)
MISSING, ELSEWHERE, MOVED = -1, -2, -3  # of VALUE_BYTES: no such key; its value is not in memory; not this shard's slot

GROUP = 64  # keys whose rows and blocks are fetched into the cache together
CACHE_LINE_BYTES = 64
PREFIXES_MAX = 16
PREFIX_BYTES_MAX = 64
_PUT = int(Op.PUT)


def prefix_table(prefixes: Sequence[bytes]) -> Any:
    """Prefixes as `has_prefix` takes them: (n, 1 + PREFIX_BYTES_MAX) uint8, the length first."""
    assert len(prefixes) <= PREFIXES_MAX
    table = np.zeros((len(prefixes), 1 + PREFIX_BYTES_MAX), np.uint8)
    for row, prefix in zip(table, prefixes, strict=True):
        assert 0 < len(prefix) <= PREFIX_BYTES_MAX
        row[: 1 + len(prefix)] = len(prefix), *prefix
    return table


@kernel()
def has_prefix(prefixes: Array, data: Array, at: Int, size: Int) -> Any:
    """Whether a key begins with one of these."""
    for row in range(prefixes.shape[0]):
        length: Int = np.int64(prefixes[row, 0])
        if length <= size:
            place = 0
            while place < length and prefixes[row, 1 + place] == data[at + place]:
                place += 1
            if place == length:
                return True
    return False


@kernel()
def first_with_prefix(prefixes: Array, data: Array, keys: Array, count: Int) -> Any:
    """The first key that begins with one of these; `count` where none does."""
    index = 0
    while index < count and not has_prefix(prefixes, data, keys[index, KEY_AT], keys[index, KEY_BYTES]):
        index += 1
    return index


@kernel()
def route(data: Array, keys: Array, count: Int, owners: Array) -> Any:
    """Slot and shard of each key.

    Returns:
        The shard where all belong to one, -1 where they belong to several.
    """
    only: Int = -2
    for index in range(count):
        slot = slot_at(data, keys[index, KEY_AT], keys[index, KEY_BYTES])
        shard = np.int64(owners[slot])
        keys[index, KEY_SLOT] = slot
        keys[index, KEY_SHARD] = shard
        if only == -2:
            only = shard
        elif only != shard:
            only = -1
    return only


@kernel()
def locate(
    rows: Array, directory: Array, arena: Array, state: Array, data: Array, keys: Array, count: Int, shard: Int,
    now: Int,
) -> None:  # fmt: skip
    """Where this shard's arena holds the value of each of its keys, or why it does not; counted as reads.

    Args:
        now: A reader's own time where that is later than the log's.
    """
    moment = max(now, state[NOW])
    for first in range(0, count, GROUP):
        end = min(first + GROUP, count)
        _fetch(rows, directory, arena, state, data, keys, first, end, shard)
        for index in range(first, end):
            if keys[index, KEY_SHARD] == shard:
                _locate_one(rows, directory, arena, state, data, keys, index, moment)


@kernel()
def _fetch(
    rows: Array, directory: Array, arena: Array, state: Array, data: Array, keys: Array, first: Int, end: Int,
    shard: Int,
) -> None:  # fmt: skip
    """Hash some keys, and fetch the rows and blocks where they should be into the cache, all at once."""
    mask = (1 << state[ROW_BITS]) - 1
    for index in range(first, end):
        if keys[index, KEY_SHARD] == shard:
            hashed = hash_of(state, data, keys[index, KEY_AT], keys[index, KEY_BYTES])
            row = first_row(directory, state, hashed) + ((hashed >> 1) & mask)
            prefetch(rows, row)
            keys[index, VALUE_AT] = row
            keys[index, REPLY_AT] = hashed
    for index in range(first, end):
        if keys[index, KEY_SHARD] == shard:
            row = keys[index, VALUE_AT]
            if rows[row, HASH] == keys[index, REPLY_AT]:
                prefetch_at(arena, rows[row, AT])
                prefetch_at(arena, rows[row, AT] + CACHE_LINE_BYTES)


@kernel(inline=True)
def _locate_one(
    rows: Array, directory: Array, arena: Array, state: Array, data: Array, keys: Array, index: Int, moment: Int
) -> None:
    hashed = keys[index, REPLY_AT]
    row = find(rows, directory, arena, state, hashed, data, keys[index, KEY_AT], keys[index, KEY_BYTES])
    keys[index, KEY_REVISION] = 0
    if state[EPOCHS_FROM + keys[index, KEY_SLOT]] < 0:
        keys[index, VALUE_BYTES] = MOVED
    elif not is_living(rows, row, moment):
        keys[index, VALUE_BYTES] = MISSING
        state[ABSENT] += 1
    elif rows[row, MARKS] & EVICTED:
        keys[index, VALUE_BYTES] = ELSEWHERE  # Who reads it from the log counts it.
    else:
        keys[index, VALUE_BYTES] = rows[row, LENGTHS] & VALUE_MASK
        keys[index, VALUE_AT] = rows[row, AT] + BLOCK_HEAD_BYTES + keys[index, KEY_BYTES]
        keys[index, KEY_REVISION] = rows[row, REVISION]
        rows[row, MARKS] |= USED
        state[HITS] += 1


@kernel()
def encode_puts(data: Array, keys: Array, count: Int, shard: Int, body: Array) -> Any:
    """This shard's keys as entries that put the values in the buffer, without a condition; see `entries.encode_entry`.

    Args:
        body: uint8, with room for all of them.

    Returns:
        (entries, bytes)
    """
    at, entries = 0, 0
    for index in range(count):
        if keys[index, KEY_SHARD] != shard:
            continue
        key_bytes, value_bytes = keys[index, KEY_BYTES], keys[index, VALUE_BYTES]
        size = ENTRY_BYTES + key_bytes + value_bytes
        set_word(body, at, size | _PUT << 32 | key_bytes << 48)
        set_word(body, at + 8, value_bytes)
        set_word(body, at + 16, 0)
        set_word(body, at + 24, 0)
        copy_bytes(body, at + ENTRY_BYTES, data, keys[index, KEY_AT], key_bytes)
        copy_bytes(body, at + ENTRY_BYTES + key_bytes, data, keys[index, VALUE_AT], value_bytes)
        at += size
        entries += 1
    return entries, at


@kernel()
def gather(arena: Array, keys: Array, count: Int, shard: Int, out: Array) -> None:
    """Copy the values of this shard's keys that were found to their REPLY_AT."""
    for index in range(count):
        if keys[index, KEY_SHARD] == shard and keys[index, VALUE_BYTES] > 0:
            copy_bytes(out, keys[index, REPLY_AT], arena, keys[index, VALUE_AT], keys[index, VALUE_BYTES])
