"""Whether the bytes of a frame's body are entries, and where each begins: before any of them is applied."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.prefetch import prefetch
from tapehouse.kv.entries import (
    BATCH_MAX,
    ENTRY_BYTES,
    EPOCH_MAX,
    FIXED_VALUES,
    KEY_BYTES_MAX,
    OWN_VALUES,
    VALUE_BYTES_MAX,
    Op,
)
from tapehouse.kv.layout import (
    CUT_SHORT,
    DOES_NOT_ADD_UP,
    DONE,
    ENTRY_AT,
    ENTRY_HASH,
    ERROR_AT,
    ROW_BITS,
    TOO_LONG,
    UNKNOWN_KIND,
    WRONG_BATCH,
    WRONG_COUNT,
    WRONG_SLOTS,
    WRONG_VALUE,
)
from tapehouse.kv.slots import SLOTS
from tapehouse.kv.table import first_row
from tapehouse.kv.words import hash_of, word_at

BATCH, OWN, COPY, FORGET = int(Op.BATCH), int(Op.OWN), int(Op.COPY), int(Op.FORGET)
_OWN_NEW, _OWN_COPIED = OWN_VALUES
_ANY, _NONE = -1, -2  # bytes of a value: as many as there are; no such kind
_VALUES = np.array(
    [FIXED_VALUES.get(Op(op), _ANY) if op in Op.__members__.values() else _NONE for op in range(256)], np.int64
)


@kernel(inline=True)
def op_of(head: Int) -> Any:
    """The kind, from the first word of an entry."""
    return head >> 32 & 255


@kernel(inline=True)
def key_bytes_of(head: Int) -> Any:
    """The length of its key, from the same."""
    return head >> 48 & 0xFFFF


@kernel(inline=True)
def value_word(body: Array, at: Int) -> Any:
    """The number of 4 bytes that a BATCH's value is; the word of 8 that others' are."""
    value = at + ENTRY_BYTES + key_bytes_of(word_at(body, at))
    if op_of(word_at(body, at)) == BATCH:
        return (
            np.int64(body[value])
            | np.int64(body[value + 1]) << 8
            | np.int64(body[value + 2]) << 16
            | (np.int64(body[value + 3]) << 24)
        )
    return word_at(body, value)


@kernel()
def validate(rows: Array, directory: Array, state: Array, answers: Array, body: Array, size: Int, count: Int) -> Any:
    """Where each entry begins and what its key hashes to, into `answers`; DONE, or what is wrong and ERROR_AT.

    Each row where a key will be looked for is fetched into the cache meanwhile.
    """
    at, entry = 0, 0
    while at < size:
        state[ERROR_AT] = at
        if size - at < ENTRY_BYTES:
            return CUT_SHORT
        head = word_at(body, at)
        own_bytes, op, key_bytes = head & 0xFFFF_FFFF, op_of(head), key_bytes_of(head)
        value_bytes = word_at(body, at + 8) & 0xFFFF_FFFF
        if own_bytes != ENTRY_BYTES + key_bytes + value_bytes or at + own_bytes > size:
            return DOES_NOT_ADD_UP
        if key_bytes > KEY_BYTES_MAX or value_bytes > VALUE_BYTES_MAX:
            return TOO_LONG
        fixed = _VALUES[op]
        if fixed == _NONE:
            return UNKNOWN_KIND
        if fixed != _ANY and value_bytes != fixed:
            return WRONG_VALUE
        if op == OWN and value_bytes != _OWN_NEW and value_bytes != _OWN_COPIED:
            return WRONG_VALUE
        if entry >= count:
            return WRONG_COUNT
        hashed = hash_of(state, body, at + ENTRY_BYTES, key_bytes)
        prefetch(rows, first_row(directory, state, hashed) + ((hashed >> 1) & ((1 << state[ROW_BITS]) - 1)))
        answers[entry, ENTRY_AT] = at
        answers[entry, ENTRY_HASH] = hashed
        at += own_bytes
        entry += 1
    state[ERROR_AT] = at
    if entry != count:
        return WRONG_COUNT
    return _validate_values(state, answers, body, count)


@kernel()
def _validate_values(state: Array, answers: Array, body: Array, count: Int) -> Any:
    """The values of BATCH and of what concerns runs of slots, as they only make sense among all entries."""
    for entry in range(count):
        at = answers[entry, ENTRY_AT]
        state[ERROR_AT] = at
        op = op_of(word_at(body, at))
        if op == BATCH:
            if not 0 < value_word(body, at) < count - entry:
                return WRONG_BATCH
        elif op == COPY:
            continue
        elif op >= OWN and op != FORGET:
            value = value_word(body, at)
            first, last, epoch = value & 0xFFFF, value >> 16 & 0xFFFF, value >> 32 & 0xFFFF_FFFF
            if not first <= last < SLOTS or epoch > EPOCH_MAX:
                return WRONG_SLOTS
    return DONE


__all__ = ["BATCH", "BATCH_MAX", "OWN", "key_bytes_of", "op_of", "validate", "value_word"]
