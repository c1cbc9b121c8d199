"""Black-Scholes and implied volatility against scipy, finite differences, bisection and no-arbitrage."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from tapehouse.core import detmath
from tapehouse.pricing import black_price, greeks, implied_volatility, price
from tapehouse.pricing.implied_volatility import ABOVE_MAXIMUM, AT_INTRINSIC, SOLVED

EPSILON = 2.0**-52
signs = st.sampled_from([1, -1])
spots = st.floats(1.0, 1e5)
moneyness = st.floats(-1.5, 1.5)
years = st.floats(1e-4, 10.0)
rates = st.floats(-0.05, 0.15)
volatilities = st.floats(0.01, 3.0)


def slow_price(
    spot: float, strike: float, time: float, rate: float, carry: float, volatility: float, sign: int
) -> float:
    """The textbook, on scipy's normal distribution."""
    forward = spot * math.exp(carry * time)
    deviation = volatility * math.sqrt(time)
    d1 = (math.log(forward / strike) + 0.5 * deviation**2) / deviation
    inside = forward * ndtr(sign * d1) - strike * ndtr(sign * (d1 - deviation))
    return float(sign * math.exp(-rate * time) * inside)


@settings(deadline=None, max_examples=300)
@given(spots, moneyness, years, rates, rates, volatilities, signs)
def test_prices_are_the_textbooks(
    spot: float, k: float, time: float, rate: float, carry: float, volatility: float, sign: int
) -> None:
    strike = spot * math.exp(k)
    expected = slow_price(spot, strike, time, rate, carry, volatility, sign)
    scale = max(spot * math.exp((carry - rate) * time), strike * math.exp(-rate * time))
    # Where little is random, rounding of ln(F/K) counts as much as that of the result.
    tolerance = 1e-14 * scale * (1.0 + abs(k) / (volatility * math.sqrt(time)) * 0.01)
    assert price(spot, strike, time, rate, carry, volatility, sign) == pytest.approx(expected, rel=0, abs=tolerance)
    assert greeks(spot, strike, time, rate, carry, volatility, sign).price == pytest.approx(
        expected, rel=0, abs=tolerance
    )


@settings(deadline=None, max_examples=200)
@given(spots, moneyness, years, rates, rates, volatilities)
def test_put_and_call_differ_by_the_forward_contract(
    spot: float, k: float, time: float, rate: float, carry: float, volatility: float
) -> None:
    strike = spot * math.exp(k)
    call = greeks(spot, strike, time, rate, carry, volatility, 1)
    put = greeks(spot, strike, time, rate, carry, volatility, -1)
    stock = spot * detmath.exp((carry - rate) * time)
    cash = strike * detmath.exp(-rate * time)
    tolerance = 8 * EPSILON * (stock + cash)
    assert call.price - put.price == pytest.approx(stock - cash, rel=0, abs=tolerance)
    assert call.delta - put.delta == pytest.approx(stock / spot, rel=8 * EPSILON)
    assert (call.gamma, call.vega) == (put.gamma, put.vega)
    assert call.rho - put.rho == pytest.approx(time * cash, rel=8 * EPSILON)


@settings(deadline=None, max_examples=200)
@given(moneyness, st.floats(0.01, 5.0), volatilities, st.floats(0.001, 1.0), signs)
def test_prices_stay_within_their_bounds_and_grow_with_volatility(
    k: float, time: float, volatility: float, more: float, sign: int
) -> None:
    strike = 100.0 * math.exp(k)
    low = black_price(100.0, strike, time, volatility, sign)
    high = black_price(100.0, strike, time, volatility + more, sign)
    intrinsic = max(sign * (100.0 - strike), 0.0)
    slack = 4 * EPSILON * max(100.0, strike)
    assert intrinsic - slack <= low <= high + slack
    assert high <= (100.0 if sign > 0 else strike)


@settings(deadline=None, max_examples=150)
@given(st.floats(-0.5, 0.5), st.floats(0.05, 3.0), rates, rates, st.floats(0.1, 1.0), signs)
def test_greeks_are_the_slopes_of_the_price(
    k: float, time: float, rate: float, carry: float, volatility: float, sign: int
) -> None:
    spot, strike = 100.0, 100.0 * math.exp(k)
    found = greeks(spot, strike, time, rate, carry, volatility, sign)

    def slope(index: int, step: float, *also: int) -> float:
        arguments = [spot, strike, time, rate, carry, volatility]
        values = []
        for direction in (step, -step):
            moved = list(arguments)
            for at in (index, *also):
                moved[at] += direction
            values.append(price(*moved, sign))
        return float((values[0] - values[1]) / (2 * step))

    assert found.delta == pytest.approx(slope(0, 1e-3), abs=1e-6)
    assert found.vega == pytest.approx(slope(5, 1e-5), abs=1e-4)
    assert found.theta == pytest.approx(-slope(2, 1e-5), abs=1e-3)
    assert found.rho == pytest.approx(slope(3, 1e-5, 4), abs=1e-3)  # The dividend yield r - b stays.
    assert found.carry_rho == pytest.approx(slope(4, 1e-5), abs=1e-3)
    up = greeks(spot + 1e-3, strike, time, rate, carry, volatility, sign).delta
    down = greeks(spot - 1e-3, strike, time, rate, carry, volatility, sign).delta
    assert found.gamma == pytest.approx((up - down) / 2e-3, abs=1e-6)


@settings(deadline=None, max_examples=500)
@given(
    st.floats(0.1, 1e5),
    st.sampled_from([1.0, 0.1, 1e-3, 0.0]).flatmap(lambda width: st.floats(-3.0 * width, 3.0 * width)),
    st.floats(-4.5, 1.5).map(lambda power: 10.0**power),
    st.floats(-2.0, 0.7).map(lambda power: 10.0**power),
    signs,
)
def test_a_price_gives_its_volatility_back(forward: float, k: float, time: float, volatility: float, sign: int) -> None:
    strike = forward * math.exp(k)
    worth = black_price(forward, strike, time, volatility, sign)
    status, found = implied_volatility(worth, forward, strike, time, 1.0, sign)
    rounding = EPSILON * (worth + max(forward, strike))
    if worth <= max(sign * (forward - strike), 0.0) + 4 * rounding and status != SOLVED:
        assert found == 0.0  # The time value was lost in the price's own rounding.
        return
    if status == ABOVE_MAXIMUM:
        assert worth >= (forward if sign > 0 else strike) * (1 - 4 * EPSILON)
        return
    assert status == SOLVED
    vega = greeks(forward, strike, time, 0.0, 0.0, volatility, sign).vega
    assume(vega > 1e-300)
    # What the price's rounding makes of the volatility, a few times over.
    assert (
        abs(found - volatility) <= 8 * (rounding / vega + EPSILON * volatility)
        or abs(black_price(forward, strike, time, found, sign) - worth) <= 8 * rounding
    )


@settings(deadline=None, max_examples=100)
@given(st.floats(-1.0, 1.0), st.floats(0.02, 2.0), st.floats(0.001, 0.95), signs)
def test_the_solver_finds_what_bisection_finds(k: float, time: float, share: float, sign: int) -> None:
    strike = 100.0 * math.exp(k)
    intrinsic = max(sign * (100.0 - strike), 0.0)
    worth = intrinsic + share * ((100.0 if sign > 0 else strike) - intrinsic)
    low, high = 0.0, 100.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if black_price(100.0, strike, time, middle, sign) < worth:
            low = middle
        else:
            high = middle
    status, found = implied_volatility(worth, 100.0, strike, time, 1.0, sign)
    assert status == SOLVED
    assert found == pytest.approx(high, rel=1e-9)


positive = st.one_of(st.floats(), st.floats(min_value=0.0), st.floats(-300.0, 300.0).map(lambda power: 10.0**power))


@settings(deadline=None, max_examples=1500)
@given(positive, positive, positive, positive, positive, signs)
def test_the_solver_answers_anything(
    worth: float, forward: float, strike: float, time: float, discount: float, sign: int
) -> None:
    status, found = implied_volatility(worth, forward, strike, time, discount, sign)
    assert math.isfinite(found)
    assert found > 0.0 if status == SOLVED else found == 0.0
    assert status in range(5)  # Never NOT_CONVERGED.


def test_at_intrinsic_is_not_solved() -> None:
    """The control of the round trip's way out: it may not hide a price that has a time value."""
    assert implied_volatility(10.0, 110.0, 100.0, 1.0, 1.0, 1)[0] == AT_INTRINSIC
    assert implied_volatility(10.0 + 1e-9, 110.0, 100.0, 1.0, 1.0, 1)[0] == SOLVED
