"""Decimals of 64 bits in kernels: the values that ADD reads and writes."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel

_LARGEST = np.uint64(2**63 - 1)
_DIGITS_MAX = 19  # of 64 bits, without the sign
_TEN = np.uint64(10)


@kernel()
def parse_integer(data: Array, at: Int, size: Int) -> Any:
    """(whether these bytes are a canonical decimal of 64 bits, the number)."""
    end = at + size
    negative = size > 1 and data[at] == 45
    if negative:
        at += 1
    digits = end - at
    if digits < 1 or digits > _DIGITS_MAX or (data[at] == 48 and (digits > 1 or negative)):
        return False, 0
    magnitude = np.uint64(0)
    for place in range(at, end):
        digit = np.int64(data[place]) - 48
        if digit < 0 or digit > 9:
            return False, 0
        magnitude = magnitude * _TEN + np.uint64(digit)
    if magnitude > _LARGEST + np.uint64(negative):
        return False, 0
    return True, np.int64(np.uint64(0) - magnitude if negative else magnitude)


@kernel()
def add_integers(left: Int, right: Int) -> Any:
    """(whether the sum fits 64 bits, the sum)."""
    total = left + right
    return not ((left ^ total) & (right ^ total)) < 0, total


@kernel()
def integer_bytes(number: Int) -> Any:
    """How long a number is as a decimal."""
    rest = np.uint64(0) - np.uint64(number) if number < 0 else np.uint64(number)
    size = 2 if number < 0 else 1
    while rest >= _TEN:
        rest //= _TEN
        size += 1
    return size


@kernel()
def write_integer(data: Array, at: Int, size: Int, number: Int) -> None:
    """Write a number as a decimal of so many bytes."""
    rest = np.uint64(0) - np.uint64(number) if number < 0 else np.uint64(number)
    for place in range(at + size - 1, at - (number >= 0), -1):
        data[place] = np.uint8(48 + rest % _TEN)
        rest //= _TEN
    if number < 0:
        data[at] = 45
