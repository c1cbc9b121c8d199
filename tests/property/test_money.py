"""Exact products: the kernel against Python's own integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.desk.money import OVERFLOW, POWERS, contract_value, divide_long, multiply_divide, notional
from tapehouse.desk.reference import half_away

INT64 = st.integers(-(2**63) + 1, 2**63 - 1)
BOUND = 2**63


def expected(value: int) -> int:
    return value if -BOUND < value < BOUND else OVERFLOW


@settings(deadline=None, max_examples=500)
@given(INT64, INT64, st.integers(1, 2**63 - 1))
def test_a_quotient_is_exact_or_says_that_it_overflows(a: int, b: int, divisor: int) -> None:
    assert multiply_divide(a, b, divisor) == expected(half_away(Fraction(a * b, divisor)))


HARD = st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 2**32, 2**64 - 2**32 - 1, 2**64 - 1])
UINT64 = st.one_of(HARD, st.integers(0, 2**64 - 1))


@settings(deadline=None, max_examples=2_000)
@given(UINT64, UINT64, UINT64)
def test_a_long_division_leaves_its_remainder(high: int, low: int, divisor: int) -> None:
    divisor = max(divisor, 1)
    high %= divisor
    quotient, remainder = divide_long(np.uint64(high), np.uint64(low), np.uint64(divisor))
    assert (int(quotient), int(remainder)) == divmod((high << 64) | low, divisor)


@settings(deadline=None, max_examples=500)
@given(st.integers(-(2**40), 2**40), st.integers(-(2**30), 2**30), st.integers(-18, 18))
def test_a_notional_is_rescaled_once(price: int, size: int, exponent: int) -> None:
    assert notional(price, size, exponent, POWERS) == expected(
        half_away(Fraction(price * size) * Fraction(10) ** exponent)
    )


@settings(deadline=None, max_examples=300)
@given(st.integers(-(2**40), 2**40), INT64, st.integers(1, 10**9), st.integers(-18, 18))
def test_a_contracts_value_counts_its_multiplier(price: int, size: int, multiplier: int, exponent: int) -> None:
    units = expected(size * multiplier)
    value = half_away(Fraction(price * size * multiplier) * Fraction(10) ** exponent)
    assert contract_value(price, size, multiplier, exponent, POWERS) == (
        OVERFLOW if units == OVERFLOW else expected(value)
    )


def test_halves_go_away_from_zero() -> None:
    assert multiply_divide(5, 1, 2) == 3
    assert multiply_divide(-5, 1, 2) == -3
    assert multiply_divide(2**62, 3, 2**63 - 1) == 2
