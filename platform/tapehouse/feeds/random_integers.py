"""A seeded stream of integers for generators: SplitMix64, in integer arithmetic alone, the same on every CPU.

Source: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tapehouse.core.kernel import Array, Int, kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_30, _27, _31, _1 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(1)


def new_random(seed: int, stream: int = 0) -> npt.NDArray[np.uint64]:
    """The state of a fresh stream, shape (1,); different `stream` numbers of one seed are unrelated."""
    state = np.array([seed & (2**64 - 1)], np.uint64)
    for _ in range(2):
        state[0] = np.uint64(next_word(state)) ^ np.uint64(stream)
    return state


@kernel()
def next_word(state: Array) -> Int:
    """64 random bits, uint64."""
    state[0] += _GOLDEN
    word = state[0]
    word = (word ^ (word >> _30)) * _MIX_1
    word = (word ^ (word >> _27)) * _MIX_2
    return word ^ (word >> _31)


@kernel()
def below(state: Array, limit: Int) -> Int:
    """An integer from 0 to limit - 1, as int64; `limit` from 1 to 2^62."""
    return np.int64(next_word(state) >> _1) % np.int64(limit)


@kernel()
def geometric(state: Array) -> Int:
    """0 with probability 1/2, 1 with 1/4, and so on; at most 30."""
    bits = np.int64(next_word(state) >> np.uint64(34))
    count = np.int64(0)
    while count < 30 and (bits >> count) & 1:
        count += 1
    return count
