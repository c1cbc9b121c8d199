"""Rows out of a view and into it: the records of a local snapshot, and a value that was evicted and read again.

A record is 40 bytes (revision, location, expiry, key and value length as 4 bytes each, marks), the key, and the value
unless it was evicted: docs/formats/kv-snapshot.md.
"""

from __future__ import annotations

from typing import Any

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.kv.apply import place_value
from tapehouse.kv.arena import VALUE_MASK, account, block_bytes, make_room
from tapehouse.kv.entries import KEY_BYTES_MAX, VALUE_BYTES_MAX
from tapehouse.kv.layout import (
    AT,
    BLOCK_HEAD_BYTES,
    CUT_SHORT,
    DOES_NOT_ADD_UP,
    DONE,
    ERROR_AT,
    EVICTED,
    EXPIRY,
    KEPT_BYTES,
    LENGTHS,
    LOCATION,
    MARKS,
    NO_ROOM,
    RESTORED,
    REVISION,
    SLOT,
    SPARE_BYTES,
    TOO_LONG,
    USED,
)
from tapehouse.kv.table import find
from tapehouse.kv.words import copy_bytes, hash_of, set_word, slot_at, word_at

RECORD_BYTES = 40


@kernel()
def dump(rows: Array, arena: Array, order: Array, first: Int, to: Array, room: Int) -> Any:
    """Write the records of rows, `order[first]` and on, while they fit; (how many, their bytes)."""
    at, count = 0, 0
    while first + count < order.shape[0]:
        row = order[first + count]
        key_bytes, value_bytes = rows[row, LENGTHS] >> 32, rows[row, LENGTHS] & VALUE_MASK
        evicted = rows[row, MARKS] & EVICTED
        held = key_bytes + (0 if evicted else value_bytes)
        if at + RECORD_BYTES + held > room:
            break
        set_word(to, at, rows[row, REVISION])
        set_word(to, at + 8, rows[row, LOCATION])
        set_word(to, at + 16, rows[row, EXPIRY])
        set_word(to, at + 24, value_bytes << 32 | key_bytes)
        set_word(to, at + 32, evicted)
        copy_bytes(to, at + RECORD_BYTES, arena, rows[row, AT] + BLOCK_HEAD_BYTES, held)
        at += RECORD_BYTES + held
        count += 1
    return count, at


@kernel()
def load(rows: Array, directory: Array, arena: Array, state: Array, data: Array, size: Int) -> Any:
    """Add the rows of so many bytes of records to a view that lacks them; DONE, or what is wrong and ERROR_AT."""
    at = 0
    while at < size:
        state[ERROR_AT] = at
        if size - at < RECORD_BYTES:
            return CUT_SHORT
        key_bytes, value_bytes = word_at(data, at + 24) & 0xFFFF_FFFF, word_at(data, at + 24) >> 32 & 0xFFFF_FFFF
        location, marks = word_at(data, at + 8), word_at(data, at + 32)
        if key_bytes > KEY_BYTES_MAX or value_bytes > VALUE_BYTES_MAX:
            return TOO_LONG
        held = 0 if marks else value_bytes
        key_at = at + RECORD_BYTES
        if key_at + key_bytes + held > size:
            return CUT_SHORT
        if marks != 0 and (marks != EVICTED or location < 0 or value_bytes <= KEPT_BYTES):
            return DOES_NOT_ADD_UP
        made = make_room(rows, directory, arena, state, block_bytes(key_bytes, held))
        if made != DONE:
            return made
        hashed = hash_of(state, data, key_at, key_bytes)
        row = find(rows, directory, arena, state, hashed, data, key_at, key_bytes)
        if row >= 0:
            return DOES_NOT_ADD_UP
        slot = slot_at(data, key_at, key_bytes)
        row = place_value(
            rows, directory, arena, state, hashed, row, slot, data, key_at, key_bytes, held, location, False
        )
        if row < 0:
            return NO_ROOM
        copy_bytes(arena, rows[row, AT] + BLOCK_HEAD_BYTES + key_bytes, data, key_at + key_bytes, held)
        if marks:
            account(rows, state, row, -1)
            rows[row, LENGTHS] = key_bytes << 32 | value_bytes
            rows[row, MARKS] = EVICTED
            account(rows, state, row, 1)
        rows[row, REVISION] = word_at(data, at)
        rows[row, EXPIRY] = word_at(data, at + 16)
        at = key_at + key_bytes + held
    return DONE


@kernel()
def put_back(
    rows: Array, directory: Array, arena: Array, state: Array,
    key: Array, key_bytes: Int, location: Int, value: Array, value_bytes: Int,
) -> Any:  # fmt: skip
    """Put an evicted value back, as if it had just been read; (DONE or why not, whether it was)."""
    hashed = hash_of(state, key, 0, key_bytes)
    row = find(rows, directory, arena, state, hashed, key, 0, key_bytes)
    if row < 0 or not rows[row, MARKS] & EVICTED:
        return DONE, False
    if rows[row, LOCATION] != location or rows[row, LENGTHS] & VALUE_MASK != value_bytes:
        return DONE, False
    made = make_room(rows, directory, arena, state, block_bytes(key_bytes, value_bytes) + SPARE_BYTES)
    if made != DONE:
        return made, False
    slot = rows[row, SLOT]
    row = place_value(rows, directory, arena, state, hashed, row, slot, key, 0, key_bytes, value_bytes, location, False)
    if row < 0:
        return NO_ROOM, False
    copy_bytes(arena, rows[row, AT] + BLOCK_HEAD_BYTES + key_bytes, value, 0, value_bytes)
    rows[row, MARKS] = USED
    state[RESTORED] += 1
    return DONE, True
