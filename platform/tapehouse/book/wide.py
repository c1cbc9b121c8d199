"""Signed 128-bit products and sums, as two int64: a price times a size, or a price times ns, never wraps.

A value is high * 2^64 + low, with `low` read as unsigned. Source: `mulhs` in Warren, Hacker's Delight, 8-2.
"""

from __future__ import annotations

from tapehouse.core.kernel import Int, kernel

_HALF = 0xFFFFFFFF
_SIGN = -(1 << 63)


@kernel(inline=True)
def multiply(a: Int, b: Int) -> tuple[Int, Int]:
    """The product of two int64 as (high, low)."""
    a_high, a_low = a >> 32, a & _HALF
    b_high, b_low = b >> 32, b & _HALF
    carry = ((a_low * b_low) >> 32) & _HALF
    middle = a_high * b_low + carry
    rest = a_low * b_high + (middle & _HALF)
    return a_high * b_high + (middle >> 32) + (rest >> 32), a * b


@kernel(inline=True)
def add(high: Int, low: Int, high_part: Int, low_part: Int) -> tuple[Int, Int]:
    """The sum of two of them, held at 2^127 - 1 or -2^127 where it is beyond: no market trades as much."""
    total = low + low_part
    carry = 1 if (total ^ _SIGN) < (low ^ _SIGN) else 0
    sum_high = high + high_part + carry
    if (high ^ sum_high) & (high_part ^ sum_high) < 0:
        return (_SIGN, 0) if high < 0 else (~_SIGN, -1)
    return sum_high, total


@kernel(inline=True)
def reaches(high: Int, low: Int, high_bound: Int, low_bound: Int) -> Int:
    """Whether the first is at least the second."""
    return high > high_bound or (high == high_bound and (low ^ _SIGN) >= (low_bound ^ _SIGN))


def whole(high: int, low: int) -> int:
    """The value as a Python integer."""
    return (int(high) << 64) + int(low) % 2**64


def halves(value: int) -> tuple[int, int]:
    """The inverse of `whole`."""
    low = value % 2**64
    return value >> 64, low - 2**64 if low >= 2**63 else low
