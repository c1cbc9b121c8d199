"""Implied volatility: the one volatility at which Black's formula gives a price, or a status that says why none does.

The price is first made the value b of an out-of-the-money option on a forward of 1, a function of x = -|ln(F/K)| and
the standard deviation s = sigma sqrt(T) alone: increasing in s, convex below s = sqrt(-2x) and concave above. Each
side has an objective on which Halley's method converges in three or four steps from that point: 1/ln b below, ln of
the distance to the largest possible value above its half, b itself between. A bracket catches every step that leaves
it, so the loop always ends. The bits are the same everywhere, as `core.detmath` gives them.

Source: P. Jaeckel, "Let's be rational" (Wilmott, 2015) for the normalisation and the lower objective.
"""

from __future__ import annotations

from tapehouse.core.detmath import INVERSE_SQRT_TWO_PI, SQRT_TWO_PI, exp, log, scaled_tail, sqrt
from tapehouse.core.kernel import Float, Int, kernel

SOLVED = 0
AT_INTRINSIC = 1  # no time value, or less than 1e-300 of the forward: volatility 0.0
BELOW_INTRINSIC = 2
ABOVE_MAXIMUM = 3  # not below the forward (call) or the strike (put)
BAD_INPUT = 4  # a forward, strike, time or discount that is not positive, a NaN, or beyond all reason
NOT_CONVERGED = 5

ITERATIONS_MAX = 64
_DEVIATION_MAX = 128.0
_STEP_TOLERANCE = 1e-5  # Halley's next error is of the order of its cube
_FINITE_MAX = 1e300
_YEARS_MAX = 1e9
_TIME_VALUE_MIN = 1e-300
_LOWER, _MIDDLE, _UPPER = 0, 1, 2  # which objective


@kernel()
def _tail_difference(a: Float, t: Float) -> Float:
    """A(a - t) - A(a + t) for the scaled tail A, by its odd derivatives where the difference would cancel."""
    if t > 1e-3:
        return scaled_tail(a - t) - scaled_tail(a + t)
    value = scaled_tail(a)
    first = a * value - INVERSE_SQRT_TWO_PI  # A' = aA - 1/sqrt(2 pi), and above it A'[k+1] = a A[k] + k A[k-1]
    second = a * first + value
    third = a * second + 2.0 * first
    fifth = a * (a * third + 3.0 * second) + 4.0 * third
    square = t * t
    return -2.0 * t * (first + square * (third / 6.0 + square * fifth / 120.0))


@kernel()
def _deviation(value: Float, x: Float) -> tuple[Int, Float]:
    """The s with b(x, s) = value for x <= 0 and 0 < value < e^(x/2)."""
    largest = exp(0.5 * x)
    low = 0.0
    high = _DEVIATION_MAX
    side = _MIDDLE
    goal = value
    turn = sqrt(-2.0 * x)
    s = SQRT_TWO_PI * value
    if turn > 1e-8:
        h = x / turn
        t = 0.5 * turn
        bell = exp(-0.5 * (h * h + t * t))
        level = bell * _tail_difference(-h, t)
        if value < level:
            side = _LOWER
            high = turn
            goal = log(value)
            s = turn * sqrt(log(level) / goal)  # as far out, where ln b goes with 1/s²
        else:
            low = turn
            s = turn + SQRT_TWO_PI * (value - level) / bell
    if side == _MIDDLE and value > 0.5 * largest:
        side = _UPPER
        goal = log(largest - value)
    for _ in range(ITERATIONS_MAX):
        h = x / s
        t = 0.5 * s
        exponent = -0.5 * (h * h + t * t)
        bend = h * h / s - 0.5 * t  # b'' / b', where b' = e^exponent / sqrt(2 pi)
        if side == _LOWER:
            difference = _tail_difference(-h, t)
            near = SQRT_TWO_PI * difference  # b / b'
            level = log(difference) + exponent
            above = level > goal
            newton = near * level * (goal - level) / goal
            bend -= (1.0 + 2.0 / level) / near
        elif side == _UPPER:
            both = scaled_tail(t + h) + scaled_tail(t - h)
            rest = SQRT_TWO_PI * both  # (largest - b) / b'
            level = log(both) + exponent
            above = level < goal
            newton = rest * (level - goal)
            bend += 1.0 / rest
        else:
            bell = exp(exponent)
            level = bell * _tail_difference(-h, t)
            above = level > goal
            newton = SQRT_TWO_PI * (goal - level) / bell
        if above:
            high = s
        else:
            low = s
        correction = 1.0 + 0.5 * newton * bend
        step = newton / correction if correction > 0.5 else newton
        following = s + step
        if abs(step) < _STEP_TOLERANCE * s:
            return SOLVED, following
        if not (low < following < high):
            following = 0.5 * (low + high)
            if following == low or following == high:
                return SOLVED, following
        s = following
    return NOT_CONVERGED, s


@kernel()
def implied_volatility(
    price: Float, forward: Float, strike: Float, years: Float, discount: Float, sign: Int
) -> tuple[Int, Float]:
    """Return (status, volatility per year); the volatility is 0.0 unless the status is SOLVED.

    Args:
        price: The option's value today, that is discount times Black's value on the forward.
        discount: e^(-rT).
        sign: +1 call, -1 put.

    For well-conditioned prices the volatility is right to some 1e-15; in general to the price's rounding over vega.
    """
    if not (0.0 < forward < _FINITE_MAX and 0.0 < strike < _FINITE_MAX):
        return BAD_INPUT, 0.0
    if not (0.0 < years < _YEARS_MAX and 0.0 < discount < _FINITE_MAX):
        return BAD_INPUT, 0.0
    value = price / discount
    if not (-_FINITE_MAX < value < _FINITE_MAX):
        return BAD_INPUT, 0.0
    intrinsic = max(sign * (forward - strike), 0.0)
    if value < intrinsic:
        return BELOW_INTRINSIC, 0.0
    if value >= (forward if sign > 0 else strike):
        return ABOVE_MAXIMUM, 0.0
    normal = (value - intrinsic) / (sqrt(forward) * sqrt(strike))
    if normal < _TIME_VALUE_MIN:
        return AT_INTRINSIC, 0.0
    x = -abs(log(forward / strike))
    if normal >= exp(0.5 * x):
        return ABOVE_MAXIMUM, 0.0
    status, deviation = _deviation(normal, x)
    if status != SOLVED:
        return status, 0.0
    return SOLVED, deviation / sqrt(years)
