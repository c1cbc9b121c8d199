"""Exact products of price and size in a currency's unit, as status codes and integers.

Source: schoolbook multiplication and division in 32-bit halves (Knuth, TAOCP 2, 4.3.1, algorithm D, as `divlu` in
Warren, Hacker's Delight, 9-4).
"""

from __future__ import annotations

import numpy as np

from tapehouse.book.bits import highest_bit
from tapehouse.core.kernel import Array, Int, kernel

OVERFLOW = -(2**63)  # the result that stands for "does not fit"; no amount of money has this value
MONEY_MAX = 2**61  # of every amount that is kept, so that two of them can be added without a wrap
SCALE_MAX = 18  # the largest power of ten that a rescaling divides or multiplies by
POWERS = np.array([10**exponent for exponent in range(SCALE_MAX + 1)], np.int64)


def rescale_exponent(price_exponent: int, size_exponent: int, currency_exponent: int) -> int:
    """By which power of ten price x size must be multiplied to count in the currency's unit."""
    return price_exponent + size_exponent - currency_exponent


@kernel()
def divide_long(high: Int, low: Int, divisor: Int) -> tuple[Int, Int]:
    """(high x 2^64 + low) / divisor and the remainder, all uint64; `high` must be less than `divisor`."""
    half, mask, one = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint64(1)
    shift = np.uint64(63 - highest_bit(divisor))
    scaled = divisor << shift
    upper, lower = scaled >> half, scaled & mask
    rest = (high << shift) | ((low >> one) >> (np.uint64(63) - shift))
    digits = low << shift
    quotient = np.uint64(0)
    for place in range(2):
        digit = digits >> half if place == 0 else digits & mask
        guess = rest // upper
        left = rest - guess * upper
        for _ in range(2):  # The guess is at most two too large.
            if left <= mask and (guess > mask or guess * lower > (left << half) | digit):
                guess -= one
                left += upper
        rest = ((rest << half) | digit) - guess * scaled
        quotient = (quotient << half) | guess
    return quotient, rest >> shift


@kernel()
def multiply_divide(a: Int, b: Int, divisor: Int) -> Int:
    """a * b / divisor with a 128-bit product, half away from zero; OVERFLOW where it does not fit 64 bits.

    Args:
        divisor: 1 to 2^63 - 1.
    """
    negative = (a < 0) != (b < 0)
    x = np.uint64(a) if a >= 0 else np.uint64(0) - np.uint64(a)
    y = np.uint64(b) if b >= 0 else np.uint64(0) - np.uint64(b)
    mask = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    low = (x & mask) * (y & mask)
    middle = (x >> half) * (y & mask) + (low >> half)
    carry = (x & mask) * (y >> half) + (middle & mask)
    high = (x >> half) * (y >> half) + (middle >> half) + (carry >> half)
    low = (carry << half) | (low & mask)
    whole = np.uint64(divisor)
    if whole != np.uint64(1):
        if high >= whole:
            return np.int64(OVERFLOW)
        if high == np.uint64(0):
            quotient = low // whole
            remainder = low % whole
        else:
            quotient, remainder = divide_long(high, low, whole)
        if remainder >= whole - remainder:
            quotient += np.uint64(1)
        low = quotient
        high = np.uint64(0)
    if high != np.uint64(0) or low > np.uint64(0x7FFFFFFFFFFFFFFF):
        return np.int64(OVERFLOW)
    return -np.int64(low) if negative else np.int64(low)


@kernel()
def notional(price: Int, size: Int, exponent: Int, powers: Array) -> Int:
    """price * size * 10^exponent, half away from zero; OVERFLOW where it does not fit 64 bits.

    Args:
        exponent: From `rescale_exponent`, -18 to 18.
        powers: `POWERS`; kernels take no global arrays.
    """
    if exponent < 0:
        return multiply_divide(price, size, powers[-exponent])
    product = multiply_divide(price, size, 1)
    if exponent == 0 or product == OVERFLOW:
        return product
    return multiply_divide(product, powers[exponent], 1)


@kernel()
def contract_value(price: Int, size: Int, multiplier: Int, exponent: Int, powers: Array) -> Int:
    """What `size` contracts are worth at a price: `notional` of the units that they stand for; OVERFLOW as there."""
    if multiplier == 1:
        return notional(price, size, exponent, powers)
    units = multiply_divide(size, multiplier, 1)
    return units if units == OVERFLOW else notional(price, units, exponent, powers)
