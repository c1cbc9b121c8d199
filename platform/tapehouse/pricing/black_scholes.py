"""European options: the generalised Black-Scholes formula with its Greeks, in deterministic arithmetic.

One formula serves every contract through the cost of carry b: b = r for a stock without dividend, b = r - q with a
dividend yield q, b = 0 for a future (Black 1976), b = r - r_foreign for a currency. Years are floats, rates and
volatilities are per year as fractions, `sign` is +1 for a call and -1 for a put.

Everything follows from one exponential. With x = ln(F/K) and s = sigma sqrt(T), d1 = x/s + s/2 and d2 = x/s - s/2
have e^(-d1²/2) = c / sqrt(F/K) and e^(-d2²/2) = c sqrt(F/K), where c = e^(-((x/s)² + (s/2)²) / 2), and
N(-d) = e^(-d²/2) A(d), where the scaled tail A is a short polynomial. That is faster than two distribution functions,
and a far out-of-the-money price keeps its relative precision.

Where nothing is random any more (no time, no volatility, a forward or strike of zero) the value is the discounted
intrinsic one: delta is its slope (half of it exactly at the strike), gamma and vega are 0.

Source: F. Black and M. Scholes (J. Polit. Econ. 81, 1973); F. Black (J. Financ. Econ. 3, 1976); E. G. Haug, "The
Complete Guide to Option Pricing Formulas" (1998).
"""

from __future__ import annotations

from typing import NamedTuple

from tapehouse.core.detmath import INVERSE_SQRT_TWO_PI, exp, log, scaled_tail, sqrt
from tapehouse.core.kernel import Float, Int, kernel


class Greeks(NamedTuple):
    """A value and its sensitivities, in the currency of the strike.

    delta and gamma are by the spot; vega by a volatility of 1.00; theta by calendar time, per year (mostly negative);
    rho by a rate of 1.00 where spot and dividend yield stay (b - r is constant); carry_rho by a cost of carry of 1.00
    where the rate stays: minus the sensitivity to the dividend yield.
    """

    price: float
    delta: float
    gamma: float
    vega: float
    theta: float
    rho: float
    carry_rho: float


class Terms(NamedTuple):
    """What the formula's terms are made of: N(-|d1|), N(-|d2|), the signs of d1 and d2 (as floats) and phi(d1)."""

    tail1: float
    tail2: float
    d1: float
    d2: float
    density: float


@kernel()
def black_terms(forward: Float, strike: Float, deviation: Float) -> Terms:
    """The terms for a standard deviation sigma sqrt(T) of the forward's logarithm."""
    if deviation <= 0.0 or forward <= 0.0 or strike <= 0.0:
        if forward == strike:
            return Terms(0.5, 0.5, 0.0, 0.0, 0.0)
        direction = 1.0 if forward > strike else -1.0
        return Terms(0.0, 0.0, direction, direction, 0.0)
    ratio = forward / strike
    h = log(ratio) / deviation
    t = 0.5 * deviation
    common = exp(-0.5 * (h * h + t * t))
    root = sqrt(ratio)
    d1 = h + t
    d2 = h - t
    bell1 = common / root
    bell2 = common * root
    return Terms(bell1 * scaled_tail(abs(d1)), bell2 * scaled_tail(abs(d2)), d1, d2, INVERSE_SQRT_TWO_PI * bell1)


@kernel()
def probability(tail: Float, d: Float) -> Float:
    """N(d) from N(-|d|)."""
    return tail if d < 0.0 else 1.0 - tail


@kernel()
def not_negative(value: Float) -> Float:
    """The value, or 0.0 where rounding brought a worthless option below it."""
    return 0.0 if value <= 0.0 else value


@kernel()
def black_price(forward: Float, strike: Float, years: Float, volatility: Float, sign: Int) -> Float:
    """The undiscounted value of an option on a forward, within about 1e-15 of the larger of forward and strike."""
    terms = black_terms(forward, strike, volatility * sqrt(0.0 if years < 0.0 else years))
    first = forward * probability(terms.tail1, sign * terms.d1)
    return not_negative(sign * (first - strike * probability(terms.tail2, sign * terms.d2)))


@kernel()
def price(spot: Float, strike: Float, years: Float, rate: Float, carry: Float, volatility: Float, sign: Int) -> Float:
    """The value today of a European option."""
    time = 0.0 if years < 0.0 else years
    return exp(-rate * time) * black_price(spot * exp(carry * time), strike, time, volatility, sign)


@kernel()
def greeks(spot: Float, strike: Float, years: Float, rate: Float, carry: Float, volatility: Float, sign: Int) -> Greeks:
    """The value today of a European option, with its sensitivities."""
    time = 0.0 if years < 0.0 else years
    root = sqrt(time)
    discount = exp(-rate * time)
    growth = exp((carry - rate) * time)
    deviation = volatility * root
    terms = black_terms(spot * exp(carry * time), strike, deviation)
    first = spot * growth * probability(terms.tail1, sign * terms.d1)
    second = strike * discount * probability(terms.tail2, sign * terms.d2)
    bend = spot * growth * terms.density
    decay = 0.5 * bend * volatility / root if terms.density > 0.0 else 0.0
    return Greeks(
        not_negative(sign * (first - second)),
        sign * growth * probability(terms.tail1, sign * terms.d1),
        growth * terms.density / (spot * deviation) if terms.density > 0.0 else 0.0,
        bend * root,
        -decay - sign * ((carry - rate) * first + rate * second),
        sign * time * second,
        sign * time * first,
    )
