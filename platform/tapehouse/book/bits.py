"""Which levels of a window have a size: a tree of 64-bit words per side, and kernels that change and search it.

Tier 0 has one bit to a level, each tier above one bit to a word of the tier below, set where that word is not zero.
The next occupied level is found in two words a tier at most, 4 tiers for 2^24 levels; a change stops at the first tier
that it leaves as it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tapehouse.book.layout import LEVELS, TIER, TIERS
from tapehouse.core.kernel import Array, Int, kernel

ONE = np.uint64(1)


def _highest_bit(typing_context: Any, word: Any) -> Any:
    """The number of the highest bit set in a uint64, -1 for 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zeros = builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))
        return builder.sub(ir.Constant(ir.IntType(64), 63), zeros)

    return types.int64(types.uint64), generate


def _lowest_bit(typing_context: Any, word: Any) -> Any:
    """The number of the lowest bit set in a uint64, 64 for 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


highest_bit: Any = intrinsic(_highest_bit)
lowest_bit: Any = intrinsic(_lowest_bit)


@kernel(inline=True)
def flip_bit(bitmap: Array, pool: Array, book: Int, index: Int) -> None:
    """Mark an empty level as occupied, an occupied one as empty."""
    at = index
    for tier in range(pool[TIERS]):
        word = pool[TIER + tier] + (at >> 6)
        before = bitmap[book, word]
        after = before ^ (ONE << np.uint64(at & 63))
        bitmap[book, word] = after
        if before != 0 and after != 0:
            return
        at >>= 6


@kernel(inline=True)
def next_below(bitmap: Array, pool: Array, book: Int, index: Int) -> Int:
    """The highest occupied index below `index`, itself below the number of levels; -1 where there is none."""
    at = index
    for tier in range(pool[TIERS]):
        inside = at & 63
        if inside != 0:
            word = bitmap[book, pool[TIER + tier] + (at >> 6)] & ((ONE << np.uint64(inside)) - ONE)
            if word != 0:
                at = (at >> 6 << 6) + highest_bit(word)
                for below in range(tier - 1, -1, -1):
                    at = (at << 6) + highest_bit(bitmap[book, pool[TIER + below] + at])
                return at
        at >>= 6
    return -1


@kernel()
def highest(bitmap: Array, pool: Array, book: Int) -> Int:
    """The highest occupied index, -1 where there is none."""
    at = 0
    for tier in range(pool[TIERS] - 1, -1, -1):
        word = bitmap[book, pool[TIER + tier] + at]
        if word == 0:
            return -1  # only the last tier's word can be: every other was named by a bit above
        at = (at << 6) + highest_bit(word)
    return at


@kernel()
def next_from(bitmap: Array, pool: Array, book: Int, index: Int) -> Int:
    """The lowest occupied index from `index` on, -1 where there is none."""
    at = index
    bits = pool[LEVELS]
    for tier in range(pool[TIERS]):
        if at >= bits:
            return -1
        word = bitmap[book, pool[TIER + tier] + (at >> 6)] >> np.uint64(at & 63)
        if word != 0:
            at += lowest_bit(word)
            for below in range(tier - 1, -1, -1):
                at = (at << 6) + lowest_bit(bitmap[book, pool[TIER + below] + at])
            return at
        at = (at >> 6) + 1
        bits = max(bits >> 6, 1)
    return -1
