"""Slots on their way, compiled: what `reference.py` does with FREEZE, GIVE, RECEIVE and OWN, and a row's digest."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.kv.entries import EPOCH_SHIFT, INDEX_BITS, Status
from tapehouse.kv.layout import (
    COMING_COUNT,
    COMING_DIGEST,
    COMING_EPOCH,
    COMING_FIRST,
    COMING_LAST,
    COMING_WRITER,
    EPOCHS_FROM,
    FROZEN_EPOCH,
    FROZEN_FIRST,
    FROZEN_LAST,
    FROZEN_SINCE,
    FROZEN_UNTIL,
    FROZEN_WRITER,
    NOW,
    SEQUENCE,
)
from tapehouse.kv.words import digest_word, mix_bytes, word_at

APPLIED, NOT_OWNED, OTHER_MOVE = int(Status.APPLIED), int(Status.NOT_OWNED), int(Status.OTHER_MOVE)


@kernel(inline=True)
def is_frozen(state: Array, slot: Int) -> Any:
    """Whether writes to a slot are put off."""
    return state[FROZEN_FIRST] <= slot <= state[FROZEN_LAST] and state[NOW] < state[FROZEN_UNTIL]


@kernel(inline=True)
def can_own(state: Array, slot: Int, epoch: Int) -> Any:
    """Whether the shard does not own a slot and never did in this epoch or a later one; see `reference.given`."""
    held = state[EPOCHS_FROM + slot]
    return held < 0 and epoch > -2 - held


@kernel()
def own_new(state: Array, run: Int) -> None:
    """Own the slots of a run that can be; `run` is a word: first and last slot, epoch."""
    epoch = run >> 32 & 0xFFFF_FFFF
    for slot in range(run & 0xFFFF, (run >> 16 & 0xFFFF) + 1):
        if can_own(state, slot, epoch):
            state[EPOCHS_FROM + slot] = epoch


@kernel()
def freeze(state: Array, run: Int, until: Int, writer: Int) -> Any:
    """Freeze a run; (status, since when it is frozen)."""
    first, last, epoch = run & 0xFFFF, run >> 16 & 0xFFFF, run >> 32 & 0xFFFF_FFFF
    for slot in range(first, last + 1):
        if not 0 <= state[EPOCHS_FROM + slot] < epoch:
            return NOT_OWNED, 0
    since = state[SEQUENCE]
    if _is_ours(state, run, writer) and state[NOW] < state[FROZEN_UNTIL]:
        since = state[FROZEN_SINCE]
    state[FROZEN_FIRST], state[FROZEN_LAST], state[FROZEN_EPOCH] = first, last, epoch
    state[FROZEN_UNTIL], state[FROZEN_SINCE], state[FROZEN_WRITER] = until, since, writer
    return APPLIED, since << INDEX_BITS


@kernel()
def give(state: Array, run: Int, writer: Int) -> Any:
    """Give a frozen run away; its status."""
    if not _is_ours(state, run, writer) or state[NOW] >= state[FROZEN_UNTIL]:
        return OTHER_MOVE
    for slot in range(run & 0xFFFF, (run >> 16 & 0xFFFF) + 1):
        state[EPOCHS_FROM + slot] = -2 - state[EPOCHS_FROM + slot]
    state[FROZEN_FIRST], state[FROZEN_LAST], state[FROZEN_EPOCH] = 0, -1, 0
    state[FROZEN_UNTIL], state[FROZEN_SINCE], state[FROZEN_WRITER] = 0, 0, 0
    return APPLIED


@kernel(inline=True)
def _is_ours(state: Array, run: Int, writer: Int) -> Any:
    """Whether this writer froze this run."""
    first, last, epoch = run & 0xFFFF, run >> 16 & 0xFFFF, run >> 32 & 0xFFFF_FFFF
    same = state[FROZEN_FIRST] == first and state[FROZEN_LAST] == last and state[FROZEN_EPOCH] == epoch
    return same and state[FROZEN_WRITER] == writer


@kernel()
def receive(state: Array, run: Int, writer: Int) -> Any:
    """Take rows of a run from now on; its status."""
    first, last, epoch = run & 0xFFFF, run >> 16 & 0xFFFF, run >> 32 & 0xFFFF_FFFF
    for slot in range(first, last + 1):
        if not can_own(state, slot, epoch):
            return OTHER_MOVE
    state[COMING_FIRST], state[COMING_LAST], state[COMING_EPOCH] = first, last, epoch
    state[COMING_WRITER], state[COMING_COUNT], state[COMING_DIGEST] = writer, 0, 0
    return APPLIED


@kernel(inline=True)
def is_coming(state: Array, slot: Int) -> Any:
    """Whether a slot's rows are being copied here."""
    return state[COMING_FIRST] <= slot <= state[COMING_LAST]


@kernel()
def may_copy(state: Array, slot: Int, revision: Int, writer: Int) -> Any:
    """Whether this writer may copy a row with this revision."""
    epoch = state[COMING_EPOCH]
    is_later = revision >= 0 and revision >> EPOCH_SHIFT < epoch
    return is_later and is_coming(state, slot) and state[COMING_WRITER] == writer and can_own(state, slot, epoch)


@kernel()
def may_forget(state: Array, slot: Int, held: Int, writer: Int) -> Any:
    """Whether this writer may drop rows of a slot that it knows in this state; while rows come, only before."""
    if state[EPOCHS_FROM + slot] >= 0 or state[EPOCHS_FROM + slot] != held:
        return False
    return not is_coming(state, slot) or (state[COMING_WRITER] == writer and state[COMING_COUNT] == 0)


@kernel()
def own_copied(state: Array, run: Int, count: Int, digest: Int, time: Int, writer: Int) -> Any:
    """Own a run whose rows were copied; its status."""
    first, last, epoch = run & 0xFFFF, run >> 16 & 0xFFFF, run >> 32 & 0xFFFF_FFFF
    if state[COMING_FIRST] != first or state[COMING_LAST] != last or state[COMING_EPOCH] != epoch:
        return OTHER_MOVE
    if state[COMING_WRITER] != writer or state[COMING_COUNT] != count or state[COMING_DIGEST] != digest:
        return OTHER_MOVE
    for slot in range(first, last + 1):
        if not can_own(state, slot, epoch):
            return OTHER_MOVE
    for slot in range(first, last + 1):
        state[EPOCHS_FROM + slot] = epoch
    state[NOW] = max(state[NOW], time)
    state[COMING_FIRST], state[COMING_LAST], state[COMING_EPOCH] = 0, -1, 0
    state[COMING_WRITER], state[COMING_COUNT], state[COMING_DIGEST] = 0, 0, 0
    return APPLIED


@kernel()
def row_digest(data: Array, key_at: Int, key_bytes: Int, value_bytes: Int, expiry: Int, revision: Int) -> Any:
    """`moves.row_digest` of a key and the value behind it, as an int64."""
    mixed = mix_bytes(np.uint64(0), data, key_at, key_bytes)
    mixed = mix_bytes(mixed, data, key_at + key_bytes, value_bytes)
    return np.int64(digest_word(digest_word(mixed, expiry), revision))


def copied_digest(body: bytes) -> int:
    """The sum of the digests of COPY entries that follow each other, modulo 2^64; they must be whole."""
    array = np.frombuffer(body, np.uint8)
    array.flags.writeable = False
    return int(_digest_of(array, len(body))) & (1 << 64) - 1


@kernel()
def _digest_of(body: Array, size: Int) -> Any:
    at, total = 0, 0
    while at < size:
        lengths = word_at(body, at)
        key_bytes, value_bytes = lengths >> 48 & 0xFFFF, word_at(body, at + 8) & 0xFFFF_FFFF
        total += row_digest(body, at + 32, key_bytes, value_bytes, word_at(body, at + 16), word_at(body, at + 24))
        at += lengths & 0xFFFF_FFFF
    return total
