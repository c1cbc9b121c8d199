"""Loops over one function each: `core.detmath`'s, and libm's as Numba compiles it.

libm's bits may differ from one CPU to the next: these loops are measured, and nothing decides on what they give.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tapehouse.core import detmath
from tapehouse.core.kernel import Array, kernel

EXPONENT = 1.7
_HALF_ROOT = math.sqrt(0.5)
_exp, _log, _pow, _normal_cdf = detmath.exp, detmath.log, detmath.pow, detmath.normal_cdf


@kernel()
def exp_ours(numbers: Array, out: Array) -> None:
    """detmath.exp of every number."""
    for at in range(numbers.shape[0]):
        out[at] = _exp(numbers[at])


@kernel()
def exp_libm(numbers: Array, out: Array) -> None:
    """libm's."""
    for at in range(numbers.shape[0]):
        out[at] = math.exp(numbers[at])


@kernel()
def log_ours(numbers: Array, out: Array) -> None:
    """detmath.log of every number."""
    for at in range(numbers.shape[0]):
        out[at] = _log(numbers[at])


@kernel()
def log_libm(numbers: Array, out: Array) -> None:
    """libm's."""
    for at in range(numbers.shape[0]):
        out[at] = math.log(numbers[at])


@kernel()
def pow_ours(numbers: Array, out: Array) -> None:
    """detmath.pow of every number."""
    for at in range(numbers.shape[0]):
        out[at] = _pow(numbers[at], EXPONENT)


@kernel()
def pow_libm(numbers: Array, out: Array) -> None:
    """libm's."""
    for at in range(numbers.shape[0]):
        out[at] = math.pow(numbers[at], EXPONENT)


@kernel()
def normal_cdf_ours(numbers: Array, out: Array) -> None:
    """detmath.normal_cdf of every number."""
    for at in range(numbers.shape[0]):
        out[at] = _normal_cdf(numbers[at])


@kernel()
def normal_cdf_libm(numbers: Array, out: Array) -> None:
    """The same from libm's erfc."""
    for at in range(numbers.shape[0]):
        out[at] = 0.5 * math.erfc(-numbers[at] * _HALF_ROOT)


LOOPS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "exp": (exp_ours, exp_libm),
    "log": (log_ours, log_libm),
    "pow": (pow_ours, pow_libm),
    "normal CDF": (normal_cdf_ours, normal_cdf_libm),
}
