"""Every status of the solver, at its border."""

from __future__ import annotations

import math

import pytest

from tapehouse.pricing import black_price, implied_volatility
from tapehouse.pricing.implied_volatility import (
    ABOVE_MAXIMUM,
    AT_INTRINSIC,
    BAD_INPUT,
    BELOW_INTRINSIC,
    SOLVED,
)

CALL, PUT = 1, -1


def test_a_price_of_the_formula_gives_its_volatility_back() -> None:
    status, found = implied_volatility(black_price(100.0, 120.0, 0.5, 0.35, CALL), 100.0, 120.0, 0.5, 1.0, CALL)
    assert status == SOLVED
    assert found == pytest.approx(0.35, rel=1e-14)


def test_discounting_is_taken_out_first() -> None:
    discount = math.exp(-0.05)
    worth = discount * black_price(100.0, 90.0, 1.0, 0.2, PUT)
    status, found = implied_volatility(worth, 100.0, 90.0, 1.0, discount, PUT)
    assert (status, found) == (SOLVED, pytest.approx(0.2, rel=1e-13))


@pytest.mark.parametrize(
    ("worth", "strike", "sign", "status"),
    [
        (9.99, 90.0, CALL, BELOW_INTRINSIC),
        (10.0, 90.0, CALL, AT_INTRINSIC),
        (100.0, 90.0, CALL, ABOVE_MAXIMUM),
        (90.0, 90.0, PUT, ABOVE_MAXIMUM),
        (0.0, 110.0, CALL, AT_INTRINSIC),
        (-0.01, 110.0, CALL, BELOW_INTRINSIC),
        (math.nan, 110.0, CALL, BAD_INPUT),
        (math.inf, 110.0, CALL, BAD_INPUT),
        (1.0, 0.0, CALL, BAD_INPUT),
        (1.0, math.nan, CALL, BAD_INPUT),
    ],
)
def test_a_price_without_a_volatility_says_why(worth: float, strike: float, sign: int, status: int) -> None:
    assert implied_volatility(worth, 100.0, strike, 1.0, 1.0, sign) == (status, 0.0)


def test_hardly_any_time_value_is_none() -> None:
    """Found by the property test: below the normal numbers no step is ever small enough."""
    assert implied_volatility(144.0, 2e212, 2e212, 1.0, 9e112, CALL) == (AT_INTRINSIC, 0.0)
    assert implied_volatility(1.0, 1e216, 1e216, 1e216, 1.0, CALL) == (BAD_INPUT, 0.0)


@pytest.mark.parametrize(("years", "discount"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, math.nan)])
def test_time_and_discount_must_be_positive(years: float, discount: float) -> None:
    assert implied_volatility(5.0, 100.0, 100.0, years, discount, CALL) == (BAD_INPUT, 0.0)


def test_the_last_price_below_the_maximum_still_has_a_volatility() -> None:
    status, found = implied_volatility(math.nextafter(100.0, 0.0), 100.0, 100.0, 1.0, 1.0, CALL)
    assert status == SOLVED
    assert 16.0 < found < 17.0  # 2 N(s/2) - 1 = 1 - 2^-53 at s = 16.6


def test_the_smallest_price_has_one_too() -> None:
    status, found = implied_volatility(1e-297, 100.0, 120.0, 1.0, 1.0, CALL)
    assert status == SOLVED
    assert black_price(100.0, 120.0, 1.0, found, CALL) == pytest.approx(1e-297, rel=1e-9)
