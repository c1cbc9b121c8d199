"""The formula's degenerate corners, and what the compiler made of the pricing kernels."""

from __future__ import annotations

import math
import re
from typing import Any

import numba
import numpy as np
import pytest

from tapehouse.pricing import black_price, greeks, make_chain, price, price_chain
from tapehouse.pricing.projection import fold_quotes

CALL, PUT = 1, -1


def test_without_time_the_value_is_intrinsic() -> None:
    assert price(110.0, 100.0, 0.0, 0.05, 0.02, 0.3, CALL) == 10.0
    assert price(110.0, 100.0, 0.0, 0.05, 0.02, 0.3, PUT) == 0.0
    assert price(110.0, 100.0, -1.0, 0.05, 0.02, 0.3, CALL) == 10.0  # After the expiry too.


def test_without_volatility_the_value_is_the_discounted_intrinsic_of_the_forward() -> None:
    forward = 100.0 * math.exp(0.03 * 2.0)
    expected = math.exp(-0.05 * 2.0) * (forward - 90.0)
    assert price(100.0, 90.0, 2.0, 0.05, 0.03, 0.0, CALL) == pytest.approx(expected, rel=1e-14)
    assert price(100.0, 90.0, 2.0, 0.05, 0.03, 0.0, PUT) == 0.0


@pytest.mark.parametrize(("spot", "delta"), [(110.0, 1.0), (100.0, 0.5), (90.0, 0.0)])
def test_without_time_delta_is_the_slope_of_the_intrinsic_value(spot: float, delta: float) -> None:
    found = greeks(spot, 100.0, 0.0, 0.05, 0.05, 0.3, CALL)
    assert found.delta == delta
    assert (found.gamma, found.vega, found.rho) == (0.0, 0.0, 0.0)
    other = greeks(spot, 100.0, 0.0, 0.05, 0.05, 0.3, PUT)
    assert other.delta == delta - 1.0


def test_a_worthless_forward_or_strike_prices_without_a_logarithm() -> None:
    assert black_price(0.0, 100.0, 1.0, 0.3, PUT) == 100.0
    assert black_price(0.0, 100.0, 1.0, 0.3, CALL) == 0.0
    assert black_price(100.0, 0.0, 1.0, 0.3, CALL) == 100.0


def test_an_endless_volatility_makes_the_call_the_forward() -> None:
    assert black_price(100.0, 120.0, 1.0, 1e6, CALL) == 100.0
    assert black_price(100.0, 120.0, 1.0, 1e6, PUT) == 120.0


def test_a_nan_stays_one() -> None:
    assert math.isnan(black_price(math.nan, 100.0, 1.0, 0.3, CALL))
    assert math.isnan(price(100.0, 100.0, 1.0, 0.05, 0.05, math.nan, CALL))


def test_far_out_of_the_money_prices_are_never_negative() -> None:
    for strike in np.linspace(101.0, 5000.0, 400):
        assert black_price(100.0, float(strike), 0.01, 0.05, CALL) >= 0.0


def test_no_pricing_kernel_fuses_or_calls_the_c_library() -> None:
    """`test_detmath` holds the controls that these patterns find what they look for."""

    def everything(chain: Any, slots: Any, array: Any) -> float:
        fold_quotes(chain, slots, array, 0)
        price_chain(chain, 0, 100.0, 1)
        return float(greeks(100.0, 110.0, 0.5, 0.05, 0.02, 0.3, 1).price)

    dispatcher = numba.njit(everything, _nrt=False, error_model="numpy")
    dispatcher(make_chain(1, 1), np.full(1, -1, np.int64), np.zeros((0, 8), np.int64))
    machine_code = "".join(dispatcher.inspect_asm().values())
    llvm = "".join(dispatcher.inspect_llvm().values())
    assert "sqrt" in machine_code
    assert not re.search(r"\b(?:vfn?m(?:add|sub)\w*|fn?m(?:add|sub|la|ls))\b", machine_code)
    assert not re.search(r"declare [^@]*@\"?(?:llvm\.)?(?:exp|log|pow|powi|sin|cos|tan|erfc?|fma|fmuladd)\b", llvm)
