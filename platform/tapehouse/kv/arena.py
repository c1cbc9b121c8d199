"""The memory of keys and values: blocks at the end of a log of segments, a cleaner, and eviction of values.

Blocks are appended; what is overwritten or deleted dies where it lies. A cleaner moves what lives out of the emptiest
segment and frees it. Where little is dead it takes the next segment in turn and leaves behind the values that nobody
read since it last came by (second chance), of which their entry's place in the log is kept: so memory is bounded by the
budget, and what is evicted can be read again. Keys, short values and sums stay.

Source: M. Rosenblum, J. Ousterhout, "The design and implementation of a log-structured file system", 1992.
"""

from __future__ import annotations

from typing import Any

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.kv.layout import (
    ACCOUNT_WORDS,
    ACCOUNTS_FROM,
    ARENA_BITS,
    ARENA_SEGMENTS,
    ARENA_USED,
    AT,
    BLOCK_HEAD_BYTES,
    BUDGET,
    BUMP,
    CLEAN_AT,
    CLEAN_EVICTS,
    CLEAN_KEEPS,
    CLEAN_SEGMENT,
    CLEANED_BYTES,
    CURRENT,
    DONE,
    END,
    EVICTABLE,
    EVICTED,
    EVICTED_KEYS,
    EVICTIONS,
    FIXED_BYTES,
    HAND,
    HASH,
    HELD,
    KEPT_BYTES,
    LENGTHS,
    LIVE,
    LIVE_BYTES,
    LOCATION,
    MARKS,
    NO_ROOM,
    OVER_BUDGET,
    ROW_BITS,
    ROW_SEGMENTS,
    ROW_WORDS,
    TAKEN,
    USED,
)
from tapehouse.kv.table import find_block
from tapehouse.kv.words import copy_bytes, set_word, word_at

VALUE_MASK = 0xFFFF_FFFF
PACE = 16  # bytes that the cleaner walks for each that a frame may append: twice what the worst segment gives back
PACE_BYTES_MIN = 64 * 1024


@kernel(inline=True)
def block_bytes(key_bytes: Int, value_bytes: Int) -> Any:
    """What a block takes."""
    return (BLOCK_HEAD_BYTES + key_bytes + value_bytes + 7) & -8


@kernel()
def account(rows: Array, state: Array, row: Int, sign: Int) -> None:
    """Count a row's block in (`sign` 1) or out (-1)."""
    key_bytes, value_bytes = rows[row, LENGTHS] >> 32, rows[row, LENGTHS] & VALUE_MASK
    at = ACCOUNTS_FROM + (rows[row, AT] >> state[ARENA_BITS]) * ACCOUNT_WORDS
    bare = block_bytes(key_bytes, 0)
    if rows[row, MARKS] & EVICTED:
        size, gain = bare, 0
        state[EVICTED_KEYS] += sign
    else:
        size, gain = block_bytes(key_bytes, value_bytes), 0
        if value_bytes > KEPT_BYTES and rows[row, LOCATION] >= 0:
            gain = size - bare
    state[at + LIVE] += sign * size
    state[at + EVICTABLE] += sign * gain
    state[LIVE_BYTES] += sign * size
    state[FIXED_BYTES] += sign * (size - gain)


@kernel()
def allocate(state: Array, size: Int) -> Any:
    """Where the next block of so many bytes goes; -1 where every segment is in use."""
    at = state[BUMP]
    current = state[CURRENT]
    if at + size > (current + 1) << state[ARENA_BITS]:
        state[ACCOUNTS_FROM + current * ACCOUNT_WORDS + END] = at
        fresh = 0
        while fresh < state[ARENA_SEGMENTS] and state[ACCOUNTS_FROM + fresh * ACCOUNT_WORDS + TAKEN]:
            fresh += 1
        if fresh == state[ARENA_SEGMENTS]:
            return -1
        state[ACCOUNTS_FROM + fresh * ACCOUNT_WORDS + TAKEN] = 1
        state[ARENA_USED] += 1
        state[CURRENT] = fresh
        at = fresh << state[ARENA_BITS]
    state[BUMP] = at + size
    return at


@kernel(inline=True)
def write_head(arena: Array, at: Int, hashed: Int, key_bytes: Int, value_bytes: Int) -> None:
    """The head of a block; key and value are the caller's."""
    set_word(arena, at, hashed)
    set_word(arena, at + 8, value_bytes << 32 | key_bytes)


@kernel()
def _choose(state: Array) -> Any:
    """Begin with the next segment to clean; False where none would give anything back."""
    size = 1 << state[ARENA_BITS]
    best, least = -1, size
    for segment in range(state[ARENA_SEGMENTS]):
        at = ACCOUNTS_FROM + segment * ACCOUNT_WORDS
        is_free_to = state[at + TAKEN] and not state[at + HELD] and segment != state[CURRENT]
        if is_free_to and state[at + LIVE] < least:
            best, least = segment, state[at + LIVE]
    evicts = 0
    if best < 0 or least * 4 > size * 3:
        best = -1
        for step in range(state[ARENA_SEGMENTS]):
            segment = (state[HAND] + 1 + step) % state[ARENA_SEGMENTS]
            at = ACCOUNTS_FROM + segment * ACCOUNT_WORDS
            is_free_to = state[at + TAKEN] and not state[at + HELD] and segment != state[CURRENT]
            if is_free_to and state[at + EVICTABLE] * 4 >= size:
                best, evicts = segment, 1
                break
        if best < 0:
            return False
        state[HAND] = best
    state[CLEAN_SEGMENT] = best
    state[CLEAN_AT] = best << state[ARENA_BITS]
    state[CLEAN_EVICTS] = evicts
    state[CLEAN_KEEPS] = state[ACCOUNTS_FROM + best * ACCOUNT_WORDS + EVICTABLE] // 2
    return True


@kernel()
def _move(rows: Array, arena: Array, state: Array, row: Int) -> Any:
    """Move a row's block to the end, without its value where that is evicted; False where there is no place."""
    key_bytes, value_bytes = rows[row, LENGTHS] >> 32, rows[row, LENGTHS] & VALUE_MASK
    held = 0 if rows[row, MARKS] & EVICTED else value_bytes
    can_leave = held > KEPT_BYTES and rows[row, LOCATION] >= 0
    leaves = False
    if state[CLEAN_EVICTS] and can_leave:
        leaves = not rows[row, MARKS] & USED or state[CLEAN_KEEPS] < held
        if not leaves:
            state[CLEAN_KEEPS] -= held
    if leaves:
        held = 0
    to = allocate(state, block_bytes(key_bytes, held))
    if to < 0:
        return False
    account(rows, state, row, -1)
    write_head(arena, to, rows[row, HASH], key_bytes, held)
    copy_bytes(arena, to + BLOCK_HEAD_BYTES, arena, rows[row, AT] + BLOCK_HEAD_BYTES, key_bytes + held)
    rows[row, AT] = to
    if state[CLEAN_EVICTS]:
        rows[row, MARKS] &= ~USED
    if leaves:
        rows[row, MARKS] |= EVICTED
        state[EVICTIONS] += 1
    account(rows, state, row, 1)
    return True


@kernel()
def clean(rows: Array, directory: Array, arena: Array, state: Array, walk: Int) -> Any:
    """Walk so many bytes of the segment that is being cleaned, or to its end; begin with one where none is.

    Returns:
        Whether it came further; False where nothing can be gained.
    """
    if state[CLEAN_SEGMENT] < 0 and not _choose(state):
        return False
    segment = state[CLEAN_SEGMENT]
    at, own = state[CLEAN_AT], ACCOUNTS_FROM + segment * ACCOUNT_WORDS
    end, stop = state[own + END], at + walk
    while at < end and at < stop:
        lengths = word_at(arena, at + 8)
        size = block_bytes(lengths & VALUE_MASK, lengths >> 32)
        row = find_block(rows, directory, state, word_at(arena, at), at)
        if row >= 0 and not _move(rows, arena, state, row):
            state[CLEAN_AT] = at
            return False
        at += size
        state[CLEANED_BYTES] += size
    state[CLEAN_AT] = at
    if at >= end:
        state[own + TAKEN] = 0
        state[ARENA_USED] -= 1
        state[CLEAN_SEGMENT] = -1
    return True


@kernel(inline=True)
def fresh_segments(state: Array, size: Int) -> Any:
    """How many segments blocks of so many bytes may need."""
    return size * 8 // ((1 << state[ARENA_BITS]) * 7) + 2


@kernel()
def make_room(rows: Array, directory: Array, arena: Array, state: Array, size: Int) -> Any:
    """Have room for blocks of so many bytes before any of them is written: DONE, OVER_BUDGET or NO_ROOM.

    Where the budget is passed the cleaner walks a stretch that is in proportion; only where the array itself is short
    does it go on until there is room. At most an eighth of a segment's end stays unused, and one segment is the
    cleaner's own.
    """
    each = 1 << state[ARENA_BITS]
    fresh = fresh_segments(state, size)
    table_bytes = state[ROW_SEGMENTS] << state[ROW_BITS]
    limit = (state[BUDGET] - table_bytes * ROW_WORDS * 8) >> state[ARENA_BITS]
    if (state[FIXED_BYTES] + size) * 2 > (limit - fresh) * each:
        return OVER_BUDGET
    if state[ARENA_USED] + fresh > limit or state[CLEAN_SEGMENT] >= 0:
        stretch = size * PACE + PACE_BYTES_MIN
        before = state[CLEANED_BYTES]
        while state[CLEANED_BYTES] - before < stretch:
            if not clean(rows, directory, arena, state, stretch - (state[CLEANED_BYTES] - before)):
                break
            if state[ARENA_USED] + fresh <= limit:
                break
    while state[ARENA_SEGMENTS] - state[ARENA_USED] < fresh:
        if not clean(rows, directory, arena, state, each):
            return NO_ROOM
    return DONE
