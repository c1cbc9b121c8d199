"""Which levels have a size: a tree of 64-bit words per side, and the kernels that set, clear and search it.

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

from tapehouse.book.layout import TIER, TIERS
from tapehouse.core.kernel import Array, Int, kernel

ONE = np.uint64(1)


def _highest_bit(typing_context: Any, word: Any) -> Any:
    """The number of the highest bit set in a uint64, -1 for 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zeros = builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))
        return builder.sub(ir.Constant(ir.IntType(64), 63), zeros)

    return types.int64(types.uint64), generate


highest_bit: Any = intrinsic(_highest_bit)


@kernel()
def set_bit(bitmap: Array, pool: Array, book: Int, rank: Int) -> None:
    """Mark a level as occupied."""
    at = rank
    for tier in range(pool[TIERS]):
        word = pool[TIER + tier] + (at >> 6)
        before = bitmap[book, word]
        bitmap[book, word] = before | (ONE << np.uint64(at & 63))
        if before != 0:
            return
        at >>= 6


@kernel()
def clear_bit(bitmap: Array, pool: Array, book: Int, rank: Int) -> None:
    """Mark a level as empty."""
    at = rank
    for tier in range(pool[TIERS]):
        word = pool[TIER + tier] + (at >> 6)
        after = bitmap[book, word] & ~(ONE << np.uint64(at & 63))
        bitmap[book, word] = after
        if after != 0:
            return
        at >>= 6


@kernel()
def next_below(bitmap: Array, pool: Array, book: Int, rank: Int) -> Int:
    """The highest occupied rank below `rank`, itself below the number of levels; -1 where there is none."""
    at = rank
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
