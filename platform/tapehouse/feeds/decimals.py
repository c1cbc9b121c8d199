"""Decimal numbers out of text bytes, exactly: as integers in units of 10^exponent, or not at all.

The grammar is that of JSON's numbers, with leading zeros allowed and an optional plus: digits, an optional point with
digits, an optional exponent. Nothing passes through a float.
"""

from __future__ import annotations

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel

NO_NUMBER, TOO_LARGE, NOT_EXACT = 1, 2, 3  # a negative position is minus one of these
COMPLAINTS = {
    NO_NUMBER: "it is no number",
    TOO_LARGE: "the number is too large for its unit",
    NOT_EXACT: "the number has more decimals than its unit can hold",
}
_DIGITS_MAX = 18  # the most that surely fit 63 bits
_EXPONENT_MAX = 99
_PLUS, _MINUS, _POINT, _ZERO, _NINE, _LARGE_E, _SMALL_E = 43, 45, 46, 48, 57, 69, 101


@kernel()
def parse_decimal(data: Array, at: Int, end: Int, exponent: Int, value: Array) -> Int:
    """Read the number at `at`; the position after it, or minus a status.

    Args:
        data: Shape (n,), uint8.
        end: Where the text ends at the latest.
        exponent: `value[0]` counts units of 10^exponent, -18 to 18.
        value: Shape (2,) int64: the number in its unit; how many decimals it has, trailing zeros left out (negative
            for a multiple of ten, 0 for a zero). The second is set even where the number does not fit its unit.
    """
    negative = at < end and data[at] == _MINUS
    if at < end and (negative or data[at] == _PLUS):
        at += 1
    digits = np.int64(0)  # the number without its point and trailing zeros
    held = 0  # decimal digits in `digits`
    zeros = 0  # trailing zeros that are not in `digits` yet
    scale = 0  # power of ten of the last digit read
    any_digit = 0
    point = 0
    too_long = 0
    while at < end:
        letter = data[at]
        if _ZERO <= letter <= _NINE:
            any_digit = 1
            scale -= point
            if letter == _ZERO:
                zeros += 1 if digits != 0 else 0
            elif held + zeros + 1 > _DIGITS_MAX:
                too_long = 1
            else:
                for _ in range(zeros + 1):
                    digits *= 10
                held += zeros + 1
                zeros = 0
                digits += np.int64(letter) - _ZERO
        elif letter == _POINT and point == 0:
            point = 1
        else:
            break
        at += 1
    if any_digit == 0:
        return -NO_NUMBER
    if at < end and (data[at] == _SMALL_E or data[at] == _LARGE_E):
        at += 1
        below = at < end and data[at] == _MINUS
        if at < end and (below or data[at] == _PLUS):
            at += 1
        power = 0
        begin = at
        while at < end and _ZERO <= data[at] <= _NINE:
            if power < _EXPONENT_MAX:
                power = power * 10 + data[at] - _ZERO
            at += 1
        if at == begin:
            return -NO_NUMBER
        scale += -power if below else power
    value[0] = 0
    value[1] = 0
    if too_long:
        return -TOO_LARGE
    if digits == 0:
        return at
    scale += zeros
    value[1] = -scale
    if scale < exponent:
        return -NOT_EXACT
    if held + scale - exponent > _DIGITS_MAX:
        return -TOO_LARGE
    for _ in range(scale - exponent):
        digits *= 10
    value[0] = -digits if negative else digits
    return at
