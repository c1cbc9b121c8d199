"""Deterministic maths where it is hardest: all bit patterns, borders of tables and ranges, and neighbours of those.

The same 60-digit decimals judge as in `test_detmath`; what is not a normal number is judged in units of the smallest.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import pytest

from tapehouse.core import detmath
from tests.unit.core.test_detmath import SEED, density, distribution, errors, unscale, upper_tail

LN2 = math.log(2.0)
SMALLEST = 5e-324
LARGEST = 1.7976931348623157e308
Arguments = list[tuple[float, ...]]


def beside(values: Iterable[float], steps: int = 2) -> list[float]:
    """Each value, and its neighbours on both sides."""
    found = []
    for value in values:
        below = above = value
        found.append(value)
        for _ in range(steps):
            below, above = math.nextafter(below, -math.inf), math.nextafter(above, math.inf)
            found += [below, above]
    return found


def within(values: Iterable[float], low: float, high: float) -> Arguments:
    return [(value,) for value in values if low <= value <= high]


def patterns(n: int) -> list[float]:
    """Doubles of n random bit patterns, those that are no numbers left out."""
    source = random.Random(SEED)
    found = [struct.unpack("<d", source.randbytes(8))[0] for _ in range(n)]
    return [value for value in found if math.isfinite(value)]


def signed(values: Iterable[float]) -> list[float]:
    return [sign * value for value in values for sign in (1.0, -1.0)]


TINY = [2.0**-k for k in range(1, 1075, 13)]
EXP_BORDERS = [(j + part) * LN2 / 128 for j in range(-300, 300, 7) for part in (0.0, 0.5)]
EXP_ENDS = [709.782712893384, 709.0, 708.3964185322641, 688.0, 1.0, LN2]
LOG_BORDERS = [(1 + j / 128) * 2.0**m for j in range(0, 129, 3) for m in (-1022, -500, -1, 0, 1, 700, 1022)]
LOG_ENDS = [SMALLEST, 2.0**-1074 * 3, 2.0**-1022, LARGEST, 0.5, 1.0, 2.0, math.e]
TAIL_BORDERS = [(j + part) / 8 for j in range(65) for part in (0.0, 0.5)]
TAIL_ARGUMENTS = beside([*TAIL_BORDERS, *TINY[:6], 20.0, 37.4, 37.5])
POWERS: Arguments = [
    *((x, y) for x in (2.0, 3.0, 10.0, 1.1, 0.7) for y in (2.0, 3.0, 0.5, -0.5, -1.0, 1 / 3, 17.0, -20.0)),
    *((1.0 + 2.0**-k, y * 2.0**k) for k in (8, 20, 40, 52) for y in (0.001, 1.0, 100.0, 700.0, -700.0)),
    *((1.0 - 2.0**-k, y * 2.0**k) for k in (8, 20, 40, 53) for y in (0.001, 1.0, 100.0, 700.0, -700.0)),
    *((x, y) for x in (SMALLEST, 3e-320, 2.0**-1022) for y in (0.5, 0.9, -0.9, 1e-10, 0.01)),
    *((LARGEST, y) for y in (0.5, 0.999, -0.99, 1e-12, 1e-300)),
    *((x, math.log(LARGEST) / math.log(x) * 0.9999999) for x in (1.5, 7.0, 1e100, 0.3)),
    *((x, -708.3 / math.log(x)) for x in (1.5, 7.0, 1e100, 0.3)),
]


@pytest.mark.parametrize(
    ("function", "exact", "arguments", "bound"),
    [
        pytest.param(detmath.exp, Decimal.exp, within(patterns(4000), -708.39, 709.78), 0.52, id="exp, all"),
        pytest.param(detmath.exp, Decimal.exp, within(beside(EXP_BORDERS), -708, 709.7), 0.52, id="exp, table"),
        pytest.param(
            detmath.exp, Decimal.exp, within(beside(signed(EXP_ENDS + TINY)), -708.39, 709.782712893384), 0.52,
            id="exp, ends",
        ),
        pytest.param(detmath.log, Decimal.ln, within(patterns(3000), SMALLEST, LARGEST), 0.53, id="log, all"),
        pytest.param(detmath.log, Decimal.ln, within(beside(LOG_BORDERS), 2.0**-1022, LARGEST), 0.53, id="log, table"),
        pytest.param(
            detmath.log, Decimal.ln, [(x,) for (x,) in within(beside(LOG_ENDS), SMALLEST, LARGEST) if x != 1.0], 0.53,
            id="log, ends",
        ),
        pytest.param(detmath.pow, lambda x, y: (y * x.ln()).exp(), POWERS, 0.53, id="pow, edges"),
        pytest.param(detmath.sqrt, Decimal.sqrt, within(patterns(3000), SMALLEST, LARGEST), 0.5, id="sqrt, all"),
        pytest.param(
            detmath.sqrt, Decimal.sqrt, within(beside([*LOG_ENDS, *(float(k * k) for k in range(1, 200))]), 0.1, 1e308),
            0.5, id="sqrt, squares",
        ),
        pytest.param(
            detmath.normal_pdf, density, within(signed(TAIL_ARGUMENTS), -37.5, 37.5), 2.0,
            id="pdf",
        ),
        pytest.param(
            detmath.normal_cdf, distribution, within(signed(TAIL_ARGUMENTS), -37.4, 40.0), 3.0,
            id="cdf",
        ),
        pytest.param(
            detmath.scaled_tail, lambda x: upper_tail(x) / unscale(x), within([*TAIL_ARGUMENTS, 1e3], 0, 2e3), 2.0,
            id="tail",
        ),
    ],
)  # fmt: skip
def test_errors_stay_within_what_the_docstrings_say(
    function: Any, exact: Callable[..., Decimal], arguments: Arguments, bound: float
) -> None:
    assert len(arguments) > 30
    assert errors(function, exact, arguments) <= bound, f"seed {SEED}"


@pytest.mark.parametrize("x", within(beside([-708.3964185322641, -720.5, -745.0, -745.1332191019411], 4), -746, -708))
def test_exp_below_the_normal_numbers_is_within_one_of_the_smallest(x: tuple[float, ...]) -> None:
    assert errors(detmath.exp, Decimal.exp, [x]) <= 1.0


def test_exp_and_the_distribution_never_fall_where_they_must_rise() -> None:
    """Over neighbours at the borders of the tables, where one formula hands over to the next."""
    for border in EXP_BORDERS[::5]:
        values = [detmath.exp(x) for x in sorted(beside([border], 20))]
        assert values == sorted(values)
    for border in TAIL_BORDERS[1::4]:
        low, high = detmath.normal_cdf(-border - 1e-9), detmath.normal_cdf(-border + 1e-9)
        assert low < high


def test_the_error_measure_sees_one_wrong_neighbour() -> None:
    """The control: the nearest double but one is caught, even at an edge."""
    assert errors(lambda x: math.nextafter(detmath.sqrt(x), math.inf), Decimal.sqrt, [(2.0,), (LARGEST,)]) > 0.5
