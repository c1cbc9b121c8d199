"""Limits of a notional are in 10^-9 of a currency; amounts are held against them in their own unit, exactly."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from tapehouse.desk.money import MONEY_MAX, POWERS
from tapehouse.desk.risk import is_above


@given(st.integers(0, MONEY_MAX), st.integers(0, 2**63 - 1), st.integers(-30, 30))
def test_any_amount_against_any_limit(value: int, limit: int, scale: int) -> None:
    assert bool(is_above(value, limit, scale, POWERS)) == (value * Fraction(10) ** scale > limit)


@given(st.integers(0, 10**6), st.integers(-3, 3), st.integers(-9, 9))
def test_around_the_limit(value: int, beside: int, scale: int) -> None:
    limit = max(0, int(value * Fraction(10) ** scale) + beside)
    assert bool(is_above(value, limit, scale, POWERS)) == (value * Fraction(10) ** scale > limit)
