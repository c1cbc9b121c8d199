"""Deterministic mathematics: exp, log, pow and the normal distribution with the same bits on every CPU.

A libm picks its code by the CPU that it finds (with fused multiply-add or without), so its last bits differ between
machines, and a decision that hangs on one differs too. Here only the IEEE 754 operations +, -, *, / and the square
root are used, in one written order, rounded to nearest; compilers may neither reorder nor fuse them (a kernel has no
fast-math flags). Even interpreted, under `NUMBA_DISABLE_JIT=1`, the kernels give the same bits.

There are no magic coefficients: the series are Taylor's, short because a table brings every argument near a node, and
the tables are computed below from their definitions, in decimal arithmetic whose results are correctly rounded.

Errors are in units in the last place (ulp) of the exact result, where that is a normal number; all NaN results are the
one positive quiet NaN.

Source: P. T. P. Tang, "Table-driven implementation of the exponential function" (ACM TOMS 15, 1989) and "of the
logarithm function" (ACM TOMS 16, 1990); T. J. Dekker, "A floating-point technique for extending the available
precision" (Numer. Math. 18, 1971); G. Marsaglia, "Evaluating the normal distribution" (J. Stat. Software 11, 2004).
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Context, Decimal

import numpy as np
import numpy.typing as npt

from tapehouse.core.kernel import Float, Int, kernel

_Table = npt.NDArray[np.float64]
_DECIMAL = Context(prec=60, rounding=ROUND_HALF_EVEN, Emin=-9999, Emax=9999, traps=[])

_NAN = float("nan")
_INFINITY = float("inf")
_STEPS = 128  # table steps of exp within a factor of two, and of log within a binade

_EXP_ARGUMENT_MAX = 709.782712893384  # above it, e^x exceeds the largest double
_EXP_ARGUMENT_MIN = -745.1332191019412  # below it, e^x rounds to zero
_ROUNDER = 6755399441055744.0  # 1.5 * 2^52: adding and subtracting it rounds to an integer

_MANTISSA_BITS = 52
_MANTISSA = (1 << _MANTISSA_BITS) - 1
_BIAS = 1023
_ONE_BITS = _BIAS << _MANTISSA_BITS
_NORMAL_BITS_MIN = 1 << _MANTISSA_BITS
_INFINITY_BITS = 2047 << _MANTISSA_BITS
_LOW_BITS = (1 << 11) - 1  # low mantissa bits cut off, so that a product with an 11-bit factor is exact
_TWO_POW_54 = 18014398509481984.0
_TWO_POW_53 = 9007199254740992.0
_SPLITTER = 134217729.0  # 2^27 + 1: Veltkamp's constant

_TAIL_STEPS = 8  # table nodes per unit
_TAIL_END = 8  # where the table ends and the continued fraction begins
_TAIL_DEGREE = 10
_TAIL_FRACTION_TERMS = 14


def _split(value: Decimal, quantum: Decimal) -> tuple[float, float]:
    """A multiple of `quantum` and the rest, whose sum is the value to twice the precision of a double."""
    high = float(_DECIMAL.multiply(_DECIMAL.to_integral_value(_DECIMAL.divide(value, quantum)), quantum))
    return high, float(_DECIMAL.subtract(value, Decimal.from_float(high)))


def _exp_table() -> _Table:
    """Row j: 2^(j/128) as a double and what it lacks."""
    table = np.empty((_STEPS, 2))
    for j in range(_STEPS):
        exact = _DECIMAL.exp(_DECIMAL.divide(_DECIMAL.multiply(_LN2, Decimal(j)), Decimal(_STEPS)))
        table[j] = float(exact), float(_DECIMAL.subtract(exact, Decimal.from_float(float(exact))))
    return table


def _log_table() -> _Table:
    """Row j, for mantissas from 1 + j/128: a reciprocal c of at most 11 bits, and -ln c in two parts.

    The first and the last reciprocal are exactly 1 and 1/2, so that nothing cancels on either side of log(1) = 0.
    """
    table = np.empty((_STEPS, 3))
    for j in range(_STEPS):
        middle = 1 + (2 * j + 1) / (2 * _STEPS)
        reciprocal = round(1024 / middle) / 1024
        if j in (0, _STEPS - 1):
            reciprocal = 1.0 if j == 0 else 0.5
        table[j] = reciprocal, *_split(_DECIMAL.minus(_DECIMAL.ln(Decimal.from_float(reciprocal))), _LOG_QUANTUM)
    return table


def _tail_table() -> _Table:
    """Row j: the Taylor coefficients about j/8 of the scaled tail A(x) = e^(x²/2) (1 - N(x)).

    A' = xA - 1/sqrt(2 pi) gives the coefficients about x from A(x): c[k+1] = (x c[k] + c[k-1]) / (k + 1) from k = 1.
    The value at the last node comes from Laplace's continued fraction, each value below from the series about the node
    above: downwards, where errors of the unwanted solution e^(x²/2) die out.
    """
    terms = 40
    table = np.empty((_TAIL_STEPS * _TAIL_END + 1, _TAIL_DEGREE + 1))
    node = Decimal(_TAIL_END)
    value = node
    for k in range(200, 0, -1):
        value = _DECIMAL.add(node, _DECIMAL.divide(Decimal(k), value))
    value = _DECIMAL.divide(_DENSITY_AT_ZERO, value)
    step = _DECIMAL.divide(Decimal(-1), Decimal(_TAIL_STEPS))
    for j in range(_TAIL_STEPS * _TAIL_END, -1, -1):
        series = [value, _DECIMAL.subtract(_DECIMAL.multiply(node, value), _DENSITY_AT_ZERO)]
        for k in range(1, terms):
            following = _DECIMAL.add(_DECIMAL.multiply(node, series[k]), series[k - 1])
            series.append(_DECIMAL.divide(following, Decimal(k + 1)))
        table[j] = [float(coefficient) for coefficient in series[: _TAIL_DEGREE + 1]]
        node = _DECIMAL.add(node, step)
        value = series[-1]
        for coefficient in reversed(series[:-1]):
            value = _DECIMAL.fma(value, step, coefficient)
    return table


_LN2 = _DECIMAL.ln(Decimal(2))
_LOG_QUANTUM = Decimal.from_float(2.0**-42)  # multiples of it up to 1100 ln 2 add exactly
_LN2_HIGH, _LN2_LOW = _split(_LN2, _LOG_QUANTUM)
_STEP_HIGH, _STEP_LOW = _split(_DECIMAL.divide(_LN2, Decimal(_STEPS)), _LOG_QUANTUM)
_STEPS_PER_UNIT = float(_DECIMAL.divide(Decimal(_STEPS), _LN2))
_EXP_TABLE = _exp_table()
_LOG_TABLE = _log_table()
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
_DENSITY_AT_ZERO = _DECIMAL.divide(Decimal(1), _DECIMAL.sqrt(_DECIMAL.multiply(Decimal(2), _PI)))
_TAIL_TABLE = _tail_table()
INVERSE_SQRT_TWO_PI = float(_DENSITY_AT_ZERO)
SQRT_TWO_PI = float(_DECIMAL.divide(Decimal(1), _DENSITY_AT_ZERO))


@kernel()
def _two_to(exponent: Int) -> Float:
    """2^exponent for -1022 <= exponent <= 1023."""
    return np.int64((exponent + _BIAS) << _MANTISSA_BITS).view(np.float64)


@kernel()
def _exp_of_sum(high: Float, low: Float) -> Float:
    """e^(high + low) for a tiny `low` and a sum between -746 and 710.

    high = (128 m + j) ln 2 / 128 + r, so e^high = 2^m 2^(j/128) e^r with |r| < 0.0028.
    """
    steps = (high * _STEPS_PER_UNIT + _ROUNDER) - _ROUNDER
    r = ((high - steps * _STEP_HIGH) - steps * _STEP_LOW) + low
    number = np.int64(steps)
    row = number & (_STEPS - 1)
    power = number >> 7
    r2 = r * r
    small = r + r2 * ((1.0 / 2.0 + r * (1.0 / 6.0)) + r2 * (1.0 / 24.0 + r * (1.0 / 120.0)))
    node = _EXP_TABLE[row, 0]
    value = node + (_EXP_TABLE[row, 1] + node * small)
    half = power >> 1  # Two factors, so that results below the normal numbers round once.
    return (value * _two_to(half)) * _two_to(power - half)


@kernel()
def exp(x: Float) -> Float:
    """e^x, within 0.52 ulp; within one unit of the smallest double where it is below the normal numbers."""
    if not (_EXP_ARGUMENT_MIN <= x <= _EXP_ARGUMENT_MAX):
        if x > 0.0:
            return _INFINITY
        return 0.0 if x < 0.0 else _NAN
    return _exp_of_sum(x, 0.0)


@kernel()
def sqrt(x: Float) -> Float:
    """The square root, correctly rounded as IEEE 754 demands; NaN below zero, and sqrt(-0.0) is -0.0."""
    return math.sqrt(x) if x >= 0.0 else _NAN


@kernel()
def _log_parts(bits: Int, shift: Int) -> tuple[Float, Float, Float, Float, Float]:
    """The logarithm's exact ingredients for the bits of a positive normal number times 2^shift.

    Returns (high, low, r, r_low, tail): log = high + low + log1p(r + r_low), where `high` and r + r_low are exact and
    tail is the sum's remainder, high + r = fl(high + r) + tail. x = 2^m z, r = c z - 1 with |r| < 2^-7.
    """
    exponent = (bits >> _MANTISSA_BITS) - _BIAS - shift
    row = (bits >> (_MANTISSA_BITS - 7)) & (_STEPS - 1)
    mantissa = np.int64((bits & _MANTISSA) | _ONE_BITS)
    whole = mantissa.view(np.float64)
    front = np.int64(mantissa & ~_LOW_BITS).view(np.float64)
    reciprocal = _LOG_TABLE[row, 0]
    a = front * reciprocal - 1.0
    b = (whole - front) * reciprocal
    r = a + b
    r_low = (a - r) + b
    high = exponent * _LN2_HIGH + _LOG_TABLE[row, 1]
    low = exponent * _LN2_LOW + _LOG_TABLE[row, 2]
    total = high + r
    return high, low, r, r_low, (high - total) + r


@kernel()
def _log_series(r: Float) -> Float:
    """(log1p(r) - r + r²/2) / r³ for |r| < 2^-7."""
    r2 = r * r
    first = (1.0 / 3.0 - r * (1.0 / 4.0)) + r2 * (1.0 / 5.0 - r * (1.0 / 6.0))
    return first + (r2 * r2) * (1.0 / 7.0 - r * (1.0 / 8.0))


@kernel()
def log(x: Float) -> Float:
    """The natural logarithm, within 0.53 ulp; -inf at 0, NaN below."""
    bits = np.float64(x).view(np.int64)
    shift = 0
    if bits < _NORMAL_BITS_MIN or bits >= _INFINITY_BITS:
        if x == 0.0:
            return -_INFINITY
        if not (0.0 < x < _INFINITY):
            return _INFINITY if x > 0.0 else _NAN
        bits = np.float64(x * _TWO_POW_54).view(np.int64)
        shift = 54
    high, low, r, r_low, tail = _log_parts(bits, shift)
    r2 = r * r
    return (high + r) + (tail + ((r_low + low) + r2 * (r * _log_series(r) - 0.5)))


@kernel()
def _product_error(a: Float, b: Float, product: Float) -> Float:
    """a b - product, exactly (Dekker)."""
    c = _SPLITTER * a
    a_high = c - (c - a)
    a_low = a - a_high
    d = _SPLITTER * b
    b_high = d - (d - b)
    b_low = b - b_high
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


@kernel()
def _pow_positive(x: Float, y: Float) -> Float:
    """x^y for finite x > 0 and finite y: the logarithm to 2^-66, times y, exponentiated."""
    bits = np.float64(x).view(np.int64)
    shift = 0
    if bits < _NORMAL_BITS_MIN:
        bits = np.float64(x * _TWO_POW_54).view(np.int64)
        shift = 54
    high, low, r, r_low, tail = _log_parts(bits, shift)
    first = high + r
    square = r * r
    half = -0.5 * square
    second = first + half
    rest = (first - second) + half - 0.5 * _product_error(r, r, square)
    series = _log_series(r) + square * square * square * (1.0 / 9.0 - r * (1.0 / 10.0))
    rest = tail + rest + (low + (r_low - r * r_low) + square * r * series)
    log_high = second + rest
    log_low = (second - log_high) + rest
    product = y * log_high
    if product > 720.0:
        return _INFINITY
    if product < -760.0:
        return 0.0
    if -1e-20 < product < 1e-20:
        return 1.0
    error = _product_error(y, log_high, product) + y * log_low
    if product + error > _EXP_ARGUMENT_MAX:
        return _INFINITY
    if product + error < _EXP_ARGUMENT_MIN:
        return 0.0
    return _exp_of_sum(product, error)


@kernel()
def pow(x: Float, y: Float) -> Float:
    """x^y, within 0.53 ulp, with the special cases of C99 (Annex F).

    x^0 and 1^y are 1 even for NaN; a negative base needs an integral power, else the result is NaN.
    """
    if y == 0.0 or x == 1.0:
        return 1.0
    if x != x or y != y:
        return _NAN
    size = abs(x)
    large = abs(y) >= _TWO_POW_53  # Then y is an even integer, or infinite.
    whole = np.int64(0) if large else np.int64(y)
    integral = large or np.float64(whole) == y
    negative = np.float64(x).view(np.int64) < 0 and not large and integral and (whole & 1) == 1
    if abs(y) == _INFINITY:
        if size == 1.0:
            return 1.0
        return _INFINITY if (size > 1.0) == (y > 0.0) else 0.0
    if size == 0.0 or size == _INFINITY:
        result = 0.0 if (size == 0.0) == (y > 0.0) else _INFINITY
    elif x < 0.0 and not integral:
        return _NAN
    else:
        result = _pow_positive(size, y)
    return -result if negative else result


@kernel()
def _tail_series(x: Float) -> Float:
    """The scaled tail by the Taylor series about the nearest node, for 0 <= x < 8."""
    row = np.int64(x * _TAIL_STEPS + 0.5)
    t = x - row * (1.0 / _TAIL_STEPS)
    c = _TAIL_TABLE[row]
    t2 = t * t
    t4 = t2 * t2
    low = (c[1] + t * c[2]) + t2 * (c[3] + t * c[4])
    high = (c[5] + t * c[6]) + t2 * (c[7] + t * c[8])
    return c[0] + t * (low + t4 * (high + t4 * (c[9] + t * c[10])))


@kernel()
def _half_normal(x: Float) -> Float:
    """e^(-x²/2) for 0 <= x < 39; the square is needed to more than a double holds, as its error is multiplied by it."""
    square = x * x
    return _exp_of_sum(-0.5 * square, -0.5 * _product_error(x, x, square))


@kernel()
def scaled_tail(x: Float) -> Float:
    """e^(x²/2) (1 - normal_cdf(x)): within 2 ulp for x >= 0, within 3 ulp below, where it grows beyond all bounds.

    The normal distribution without its exponential, which a caller that needs several values can share; times
    sqrt(2 pi) it is the Mills ratio.
    """
    size = abs(x)
    if size < _TAIL_END:
        value = _tail_series(size)
    elif size >= _TAIL_END:
        fraction = size
        for k in range(_TAIL_FRACTION_TERMS, 0, -1):
            fraction = size + k / fraction
        value = INVERSE_SQRT_TWO_PI / fraction
    else:
        return _NAN
    if x >= 0.0:
        return value
    return 1.0 / _half_normal(size) - value if size < 37.5 else _INFINITY


@kernel()
def normal_pdf(x: Float) -> Float:
    """The standard normal density e^(-x²/2) / sqrt(2 pi), within 2 ulp."""
    size = abs(x)
    if not size < 39.0:
        return 0.0 if size >= 39.0 else _NAN
    return INVERSE_SQRT_TWO_PI * _half_normal(size)


@kernel()
def normal_cdf(x: Float) -> Float:
    """The standard normal distribution function, within 3 ulp down to its last normal value near x = -37.5."""
    if x != x:
        return _NAN
    size = abs(x)
    if size >= 39.0:
        return 1.0 if x > 0.0 else 0.0
    tail = _half_normal(size) * scaled_tail(size)
    return 1.0 - tail if x > 0.0 else tail
