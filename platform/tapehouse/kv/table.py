"""The table of a view's keys: finding a row, making room for one, taking one out.

Extendible hashing over segments of rows: a segment is a table of its own with linear probing, found by the first bits
of the hash; one that is three quarters full is split in two. So growing never stops the view for longer than one
segment takes, whatever the number of keys.

Source: R. Fagin et al., "Extendible hashing", 1979; deletion by shifting back: D. Knuth, TAOCP 3, 6.4, algorithm R.
"""

from __future__ import annotations

from typing import Any

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.kv.layout import (
    AT,
    BLOCK_HEAD_BYTES,
    DEPTH,
    DEPTH_MAX,
    FILLS_FROM,
    HASH,
    HASH_BITS,
    KEYS,
    KEYS_FROM,
    LENGTHS,
    LOCAL_DEPTH_BITS,
    ROW_BITS,
    ROW_SEGMENTS,
    ROW_SEGMENTS_MAX,
    ROW_WORDS,
    SLOT,
)
from tapehouse.kv.words import same_bytes

_LOCAL_DEPTH = (1 << LOCAL_DEPTH_BITS) - 1


@kernel(inline=True)
def first_row(directory: Array, state: Array, hashed: Int) -> Any:
    """The first row of the segment where a hash belongs."""
    return (directory[hashed >> (HASH_BITS - state[DEPTH])] >> LOCAL_DEPTH_BITS) << state[ROW_BITS]


@kernel(inline=True)
def find(
    rows: Array, directory: Array, arena: Array, state: Array, hashed: Int, data: Array, at: Int, size: Int
) -> Any:
    """The row of a key, or ~ the free row where it would go."""
    first = first_row(directory, state, hashed)
    mask = (1 << state[ROW_BITS]) - 1
    place = (hashed >> 1) & mask
    while True:
        row = first + place
        there = rows[row, HASH]
        if there == 0:
            return ~row
        alike = there == hashed and rows[row, LENGTHS] >> 32 == size
        if alike and same_bytes(arena, rows[row, AT] + BLOCK_HEAD_BYTES, data, at, size):
            return row
        place = (place + 1) & mask


@kernel()
def find_block(rows: Array, directory: Array, state: Array, hashed: Int, at: Int) -> Any:
    """The row whose block is at this place of the arena; -1 where none's is: the block is dead."""
    first = first_row(directory, state, hashed)
    mask = (1 << state[ROW_BITS]) - 1
    place = (hashed >> 1) & mask
    while rows[first + place, HASH] != 0:
        if rows[first + place, AT] == at:
            return first + place
        place = (place + 1) & mask
    return -1


@kernel()
def free_row(rows: Array, directory: Array, state: Array, hashed: Int) -> Any:
    """The free row where a key with this hash, which is not there, goes; -1 where there is none.

    The caller fills it. A segment at three quarters is split first; one that cannot be is filled up to its last free
    row, which ends every search.
    """
    rows_each = 1 << state[ROW_BITS]
    mask = rows_each - 1
    fill = state[FILLS_FROM] + (first_row(directory, state, hashed) >> state[ROW_BITS])
    while state[fill] * 4 >= rows_each * 3:
        if not split(rows, directory, state, hashed):
            break
        fill = state[FILLS_FROM] + (first_row(directory, state, hashed) >> state[ROW_BITS])
    if state[fill] >= mask:
        return -1
    first = first_row(directory, state, hashed)
    place = (hashed >> 1) & mask
    while rows[first + place, HASH] != 0:
        place = (place + 1) & mask
    state[fill] += 1
    state[KEYS] += 1
    return first + place


@kernel()
def split(rows: Array, directory: Array, state: Array, hashed: Int) -> Any:
    """Split the segment where a hash belongs by its next bit; False where it cannot be, and nothing changed."""
    entry = directory[hashed >> (HASH_BITS - state[DEPTH])]
    local = entry & _LOCAL_DEPTH
    if local >= state[DEPTH_MAX] or state[ROW_SEGMENTS] >= state[ROW_SEGMENTS_MAX]:
        return False
    if local == state[DEPTH]:
        for place in range((1 << local) - 1, -1, -1):
            directory[2 * place + 1] = directory[place]
            directory[2 * place] = directory[place]
        state[DEPTH] += 1
    old, new = entry >> LOCAL_DEPTH_BITS, state[ROW_SEGMENTS]
    state[ROW_SEGMENTS] += 1
    width = 1 << (state[DEPTH] - local)
    begin = (hashed >> (HASH_BITS - local)) * width
    for place in range(begin, begin + width):
        half = new if place >= begin + width // 2 else old
        directory[place] = half << LOCAL_DEPTH_BITS | (local + 1)
    _move_upper(rows, state, old, new, HASH_BITS - 1 - local)
    return True


@kernel()
def _move_upper(rows: Array, state: Array, old: Int, new: Int, bit: Int) -> None:
    """Move the rows whose hash has this bit from one segment to another that is empty.

    The walk begins behind a free row, so that shifting back never brings a row to where the walk has been.
    """
    rows_each = 1 << state[ROW_BITS]
    mask = rows_each - 1
    first, other = old << state[ROW_BITS], new << state[ROW_BITS]
    start = 0
    while rows[first + start, HASH] != 0:
        start += 1
    place = (start + 1) & mask
    left = rows_each - 1
    moved = 0
    while left > 0:
        row = first + place
        hashed = rows[row, HASH]
        if hashed != 0 and (hashed >> bit) & 1:
            target = (hashed >> 1) & mask
            while rows[other + target, HASH] != 0:
                target = (target + 1) & mask
            for word in range(ROW_WORDS):
                rows[other + target, word] = rows[row, word]
            _close_up(rows, state, row)
            moved += 1
        else:
            place = (place + 1) & mask
            left -= 1
    state[state[FILLS_FROM] + old] -= moved
    state[state[FILLS_FROM] + new] = moved


@kernel()
def _close_up(rows: Array, state: Array, row: Int) -> None:
    """Take a row out: those behind it that may move back do, so that no mark of it stays."""
    mask = (1 << state[ROW_BITS]) - 1
    hole = row & mask
    first = row - hole
    place = (hole + 1) & mask
    while rows[first + place, HASH] != 0:
        home = (rows[first + place, HASH] >> 1) & mask
        if ((place - home) & mask) >= ((place - hole) & mask):
            for word in range(ROW_WORDS):
                rows[first + hole, word] = rows[first + place, word]
            hole = place
        place = (place + 1) & mask
    for word in range(ROW_WORDS):
        rows[first + hole, word] = 0


@kernel()
def remove(rows: Array, state: Array, row: Int) -> None:
    """Take a row out of the table; its block is the caller's."""
    state[KEYS_FROM + rows[row, SLOT]] -= 1
    _close_up(rows, state, row)
    state[state[FILLS_FROM] + (row >> state[ROW_BITS])] -= 1
    state[KEYS] -= 1
