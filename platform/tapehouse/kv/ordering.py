"""Rows in the order of their keys' bytes: all of them, or the first so many, without looking at the rest twice.

Seven bytes of each key at a time are a number beside its row, so that most comparisons touch no key at all, and keys
that begin alike are told apart by the seven bytes that follow.

Source: J. Bentley, R. Sedgewick, "Fast algorithms for sorting and searching strings", 1997, with cached characters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.kv.entries import KEY_BYTES_MAX
from tapehouse.kv.layout import AT, BLOCK_HEAD_BYTES, LENGTHS

HEAD_BYTES = 7
_SHORT = 12  # rows that are put in order by insertion
_SIGN = -(1 << 63)
_RANGE_WORDS = 3  # first, end, and how many bytes its keys share
# What waits: two for each halving, and one for each seven bytes that all keys of a range share.
_RANGES_MAX = 2 * 64 + KEY_BYTES_MAX // HEAD_BYTES + 2 * _SHORT


def in_order(rows: Any, arena: Any, found: Any, limit: int = 0) -> Any:
    """The first `limit` of these rows by their keys, in order; 0 for all. `found` is put in that order itself."""
    wanted = min(limit, len(found)) if limit else len(found)
    heads = np.empty(len(found), np.int64)
    ranges = np.empty(_RANGES_MAX * _RANGE_WORDS, np.int64)
    order_rows(rows, arena, found, heads, ranges, len(found), wanted)
    return found[:wanted]


@kernel(inline=True)
def _head(rows: Array, arena: Array, row: Int, skip: Int) -> Any:
    """The seven bytes after the first `skip` of a row's key, and how many are left there, as a number in that order."""
    left = (rows[row, LENGTHS] >> 32) - skip
    at = rows[row, AT] + BLOCK_HEAD_BYTES + skip
    head: Int = 0
    for place in range(HEAD_BYTES):
        head = head << 8 | (np.int64(arena[at + place]) if place < left else 0)
    return (head << 8 | min(max(left, 0), HEAD_BYTES + 1)) ^ _SIGN


@kernel(inline=True)
def _swap(found: Array, heads: Array, one: Int, other: Int) -> None:
    found[one], found[other] = found[other], found[one]
    heads[one], heads[other] = heads[other], heads[one]


@kernel()
def _middle(heads: Array, first: Int, end: Int) -> Any:
    """The middle one of three heads."""
    low, middle, high = heads[first], heads[(first + end) // 2], heads[end - 1]
    return max(min(low, middle), min(max(low, middle), high))


@kernel()
def _insert(found: Array, heads: Array, first: Int, end: Int) -> None:
    """Put a few rows in the order of their heads."""
    for at in range(first + 1, end):
        place = at
        while place > first and heads[place - 1] > heads[place]:
            _swap(found, heads, place - 1, place)
            place -= 1


@kernel(inline=True)
def _push(ranges: Array, waiting: Int, first: Int, end: Int, skip: Int) -> Any:
    ranges[waiting * _RANGE_WORDS] = first
    ranges[waiting * _RANGE_WORDS + 1] = end
    ranges[waiting * _RANGE_WORDS + 2] = skip
    return waiting + 1


@kernel()
def order_rows(rows: Array, arena: Array, found: Array, heads: Array, ranges: Array, count: Int, wanted: Int) -> None:
    """Put the first `wanted` of `count` rows in their places; the others are left in any order.

    Args:
        found: Rows of different keys.
        heads: A place for each of them.
        ranges: Of `_RANGES_MAX` ranges that wait.
    """
    for at in range(count):
        heads[at] = _head(rows, arena, found[at], 0)
    waiting = _push(ranges, 0, 0, count, 0)
    while waiting > 0:
        waiting -= 1
        first = ranges[waiting * _RANGE_WORDS]
        end = ranges[waiting * _RANGE_WORDS + 1]
        skip = ranges[waiting * _RANGE_WORDS + 2]
        while end - first > 1 and first < wanted:
            if end - first <= _SHORT:
                _insert(found, heads, first, end)
                low = first
                while low < end:  # Those whose heads are alike go on behind them.
                    high = low + 1
                    while high < end and heads[high] == heads[low]:
                        high += 1
                    if high - low > 1 and heads[low] & 255 > HEAD_BYTES:
                        if high - low == end - first:
                            break
                        for at in range(low, high):
                            heads[at] = _head(rows, arena, found[at], skip + HEAD_BYTES)
                        waiting = _push(ranges, waiting, low, high, skip + HEAD_BYTES)
                    low = high
                if low < end:  # All are alike.
                    skip += HEAD_BYTES
                    for at in range(first, end):
                        heads[at] = _head(rows, arena, found[at], skip)
                    continue
                break
            pivot = _middle(heads, first, end)
            low, at, high = first, first, end
            while at < high:
                if heads[at] < pivot:
                    _swap(found, heads, low, at)
                    low += 1
                    at += 1
                elif heads[at] > pivot:
                    high -= 1
                    _swap(found, heads, at, high)
                else:
                    at += 1
            lower_first, lower_end, upper_first, upper_end = first, low, high, end
            if lower_end - lower_first < upper_end - upper_first:
                waiting = _push(ranges, waiting, upper_first, upper_end, skip)
                first, end = lower_first, lower_end
            else:
                waiting = _push(ranges, waiting, lower_first, lower_end, skip)
                first, end = upper_first, upper_end
            if high - low > 1 and pivot & 255 > HEAD_BYTES and low < wanted:
                for at in range(low, high):
                    heads[at] = _head(rows, arena, found[at], skip + HEAD_BYTES)
                waiting = _push(ranges, waiting, low, high, skip + HEAD_BYTES)
