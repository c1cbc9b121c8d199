"""Deterministic maths: accuracy against 60-digit decimals, special values, and the same bits in every environment.

Run as a program it prints two digests, of a small and of the whole grid; the tests run it so in other environments.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import os
import random
import re
import sys
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from typing import Any

import numba
import numpy as np
import pytest
from blake3 import blake3

from tapehouse.core import detmath
from tests.support.other_cpus import MASKED, OTHERS, cpu_flags, words_of

SEED = int(os.environ.get("TAPEHOUSE_SEED", "7"))
GRID = 100_000
GRID_SMALL = 1_000
# BLAKE3 over all six functions on the grid: change it only together with a new digest version of every tape.
DIGEST_SMALL = "7d9c6321b9d30c4d9ad383bc8c583f11dad0247982792b4c5b73e6ca8c6be45d"
DIGEST = "757052c89caca5c9d7601e9346ac7c90291fc5949d915f4e56058b043c9487a0"

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899")
NAN, INFINITY = math.nan, math.inf


# The grid and its digest.


def _mixed(start: int, n: int) -> Any:
    """n 64-bit integers from a counter (SplitMix64's finaliser), without any random generator's version."""
    z = np.arange(start, start + n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def grid(n: int) -> tuple[Any, Any]:
    """Arguments: a quarter each of all bit patterns, [-40, 40], (0, 2) and special values among [-1000, 1000]."""
    raw = _mixed(1, n)
    unit = (raw >> np.uint64(11)).astype(np.float64) / 2.0**53
    x = unit * 2000.0 - 1000.0
    x[0::4] = raw.view(np.float64)[0::4]
    x[1::4] = unit[1::4] * 80.0 - 40.0
    x[2::4] = unit[2::4] * 2.0
    special = [0.0, -0.0, 1.0, -1.0, INFINITY, -INFINITY, NAN, 5e-324, 2.0**-1022, 8.0, -8.0, 39.0, 709.78, -745.13]
    x[3 : 3 + 4 * len(special) : 4] = special
    y = np.roll(x, 17)
    y[2::4] = np.round(y[2::4] * 20.0 - 20.0)  # Integral powers too.
    return x, y


def _fill(x: Any, y: Any, out: Any) -> None:
    for i in range(x.shape[0]):
        out[i, 0] = detmath.exp(x[i])
        out[i, 1] = detmath.log(x[i])
        out[i, 2] = detmath.sqrt(x[i])
        out[i, 3] = detmath.pow(x[i], y[i])
        out[i, 4] = detmath.normal_cdf(x[i])
        out[i, 5] = detmath.normal_pdf(x[i])


def compiled(function: Callable[..., Any]) -> Any:
    """Compiled here and now, under the options of `@kernel`, so that its assembly can be read."""
    return numba.njit(function, _nrt=False, error_model="numpy")


def digest(n: int) -> str:
    """BLAKE3 over the bits of all results on the grid."""
    x, y = grid(n)
    out = np.empty((n, 6))
    with np.errstate(all="ignore"):
        compiled(_fill)(x, y, out)
    return blake3(out.astype("<f8").tobytes()).hexdigest()


def libm_digest() -> str:
    """The same over the C library's own functions: the negative control."""
    values = [math.exp(a / 64) for a in range(-20_000, 20_000)]
    values += [math.sin(a / 64) * math.pow(1.0 + a / 1e4, 7.3) for a in range(20_000)]
    return blake3(np.array(values).tobytes()).hexdigest()


def said(*arguments: str, **environment: str) -> list[str]:
    """What this file prints when run in a process of its own with these variables set."""
    return words_of("tests.unit.core.test_detmath", *arguments, environment=environment)


def test_the_bits_are_the_pinned_ones() -> None:
    assert (digest(GRID_SMALL), digest(GRID)) == (DIGEST_SMALL, DIGEST)


@pytest.mark.parametrize("environment", OTHERS.values(), ids=OTHERS.keys())
def test_the_bits_are_the_same_on_other_cpus(environment: dict[str, str]) -> None:
    assert said(**environment) == [DIGEST_SMALL, DIGEST]


@pytest.mark.skipif("avx" not in cpu_flags(), reason="the CPU is no richer than the generic one")
def test_generic_code_is_other_code() -> None:
    assert said("encoding") == ["avx"]
    assert said("encoding", NUMBA_CPU_NAME="generic") == ["sse"]


def test_the_bits_are_the_same_interpreted() -> None:
    assert said("small", NUMBA_DISABLE_JIT="1") == [DIGEST_SMALL]


@pytest.mark.skipif("fma" not in cpu_flags(), reason="the CPU has no FMA that glibc could use")
def test_the_c_library_does_change_its_bits_so_the_mask_works() -> None:
    assert said("libm", GLIBC_TUNABLES=MASKED) != said("libm", GLIBC_TUNABLES="")


# What the compiler made of it.

FUSED = re.compile(r"\b(?:vfn?m(?:add|sub)\w*|fn?m(?:add|sub|la|ls))\b")
LIBRARY = re.compile(
    r"declare [^@]*@\"?(?:llvm\.)?(?:exp|exp2|expm1|log|log2|log10|log1p|pow|powi|sin|cos|tan|erfc?|fma|fmuladd)\b"
)


def assembly(function: Callable[..., Any], *arguments: Any) -> tuple[str, str]:
    """(machine code, LLVM) of a function compiled for these arguments."""
    dispatcher = compiled(function)
    dispatcher(*arguments)
    return "".join(dispatcher.inspect_asm().values()), "".join(dispatcher.inspect_llvm().values())


def test_no_multiply_add_is_fused_and_no_library_called() -> None:
    x, y = grid(64)
    machine_code, llvm = assembly(_fill, x, y, np.empty((64, 6)))
    assert "sqrt" in machine_code
    assert not FUSED.search(machine_code)
    assert not LIBRARY.search(llvm)


@pytest.mark.skipif("fma" not in cpu_flags(), reason="the CPU has no fused multiply-add")
def test_the_check_for_fused_operations_finds_them() -> None:
    dispatcher = numba.njit(lambda a, b, c: a * b + c, fastmath=True)
    dispatcher(1.5, 2.5, 3.5)
    assert FUSED.search("".join(dispatcher.inspect_asm().values()))


def test_the_check_for_library_calls_finds_them() -> None:
    _, llvm = assembly(lambda a: math.exp(a) + math.log(a), 1.5)
    assert LIBRARY.search(llvm)


# Accuracy, against decimals of 60 digits.


def density(x: Decimal) -> Decimal:
    return (-(x * x) / 2).exp() / (2 * PI).sqrt()


def unscale(x: Decimal) -> Decimal:
    return (-(x * x) / 2).exp()


def upper_tail(x: Decimal) -> Decimal:
    """1 - N(x) for x >= 0: the power series, or Laplace's continued fraction further out."""
    if x < 6:
        term = total = x
        k = 0
        while term > total * Decimal("1e-60"):
            k += 1
            term = term * x * x / (2 * k + 1)
            total += term
        return Decimal("0.5") - density(x) * total
    fraction = x
    for k in range(300, 0, -1):
        fraction = x + k / fraction
    return density(x) / fraction


def distribution(x: Decimal) -> Decimal:
    return upper_tail(-x) if x < 0 else 1 - upper_tail(x)


def errors(function: Any, exact: Callable[..., Decimal], arguments: list[tuple[float, ...]]) -> float:
    """The largest error in units in the last place."""
    worst = 0.0
    with localcontext(Context(prec=70, Emin=-999_999, Emax=999_999)):
        for given in arguments:
            truth = exact(*map(Decimal, given))
            worst = max(worst, float(abs(Decimal(function(*given)) - truth) / Decimal(math.ulp(float(truth)))))
    return worst


def uniform(low: float, high: float, n: int) -> list[tuple[float, ...]]:
    """n seeded arguments in a range."""
    random_source = random.Random(SEED)
    return [(random_source.uniform(low, high),) for _ in range(n)]


def near_one(n: int) -> list[tuple[float, ...]]:
    random_source = random.Random(SEED)
    return [(1.0 + random_source.uniform(-1, 1) * 2.0 ** -random_source.randint(2, 50),) for _ in range(n)]


def powers(n: int) -> list[tuple[float, ...]]:
    """Bases of all sizes with exponents whose result is a normal number."""
    random_source = random.Random(SEED)
    found: list[tuple[float, ...]] = []
    while len(found) < n:
        wide = random_source.random() < 0.5
        base = math.exp(random_source.uniform(-700, 700)) if wide else near_one(1)[0][0] + random_source.random()
        if base != 1.0:
            found.append((base, random_source.uniform(-705, 705) / math.log(base)))
    return found


@pytest.mark.parametrize(
    ("function", "exact", "arguments", "bound"),
    [
        pytest.param(detmath.exp, Decimal.exp, uniform(-708, 709.7, 3000) + uniform(-1, 1, 2000), 0.52, id="exp"),
        pytest.param(detmath.exp, Decimal.exp, uniform(-745.1, -708.4, 1000), 1.0, id="exp below normal"),
        pytest.param(detmath.log, Decimal.ln, uniform(0, 1e300, 1500) + uniform(0.3, 3, 2000), 0.53, id="log"),
        pytest.param(detmath.log, Decimal.ln, near_one(2000), 0.53, id="log near one"),
        pytest.param(detmath.log, Decimal.ln, uniform(0, 2.0**-1022, 500), 0.53, id="log below normal"),
        pytest.param(detmath.pow, lambda x, y: (y * x.ln()).exp(), powers(2000), 0.53, id="pow"),
        pytest.param(detmath.normal_pdf, density, uniform(-37.5, 37.5, 2000), 2.0, id="pdf"),
        pytest.param(detmath.normal_cdf, distribution, uniform(-37.4, 0, 1500) + uniform(-3, 9, 1500), 3.0, id="cdf"),
        pytest.param(
            detmath.scaled_tail,
            lambda x: upper_tail(x) / unscale(x),
            uniform(0, 8, 1500) + uniform(8, 12, 500) + uniform(12, 300, 500),
            2.0,
            id="tail",
        ),
        pytest.param(
            detmath.scaled_tail, lambda x: distribution(-x) / unscale(x), uniform(-37, 0, 500), 3.0, id="tail below"
        ),
    ],
)
def test_errors_stay_within_what_the_docstrings_say(
    function: Any, exact: Callable[..., Decimal], arguments: list[tuple[float, ...]], bound: float
) -> None:
    worst = errors(function, exact, arguments)
    assert 0.3 < worst <= bound, f"seed {SEED}"  # Half an ulp must occur, else nothing was measured.


def test_the_error_measure_sees_a_wrong_result() -> None:
    assert errors(lambda x: math.exp(x) * (1 + 4e-16), Decimal.exp, uniform(-1, 1, 50)) > 1.0


# Special values.


def same(a: float, b: float) -> bool:
    """The same bits, or both the one quiet NaN."""
    return bool(np.float64(a).view(np.int64) == np.float64(b).view(np.int64))


@pytest.mark.parametrize(
    ("function", "argument", "result"),
    [
        (detmath.exp, 0.0, 1.0),
        (detmath.exp, -0.0, 1.0),
        (detmath.exp, INFINITY, INFINITY),
        (detmath.exp, -INFINITY, 0.0),
        (detmath.exp, 709.7827128933841, INFINITY),
        (detmath.exp, -745.1332191019411, 5e-324),
        (detmath.exp, -745.1332191019413, 0.0),
        (detmath.exp, NAN, NAN),
        (detmath.log, 1.0, 0.0),
        (detmath.log, 0.0, -INFINITY),
        (detmath.log, -0.0, -INFINITY),
        (detmath.log, -1.0, NAN),
        (detmath.log, -INFINITY, NAN),
        (detmath.log, INFINITY, INFINITY),
        (detmath.log, NAN, NAN),
        (detmath.sqrt, -0.0, -0.0),
        (detmath.sqrt, -1.0, NAN),
        (detmath.sqrt, INFINITY, INFINITY),
        (detmath.sqrt, 2.0, 2.0**0.5),
        (detmath.sqrt, NAN, NAN),
        (detmath.normal_cdf, 0.0, 0.5),
        (detmath.normal_cdf, INFINITY, 1.0),
        (detmath.normal_cdf, -INFINITY, 0.0),
        (detmath.normal_cdf, NAN, NAN),
        (detmath.normal_pdf, INFINITY, 0.0),
        (detmath.normal_pdf, NAN, NAN),
        (detmath.scaled_tail, INFINITY, 0.0),
        (detmath.scaled_tail, NAN, NAN),
    ],
)
def test_special_values(function: Any, argument: float, result: float) -> None:
    assert same(function(argument), result)


def test_pow_has_the_special_cases_of_c99() -> None:
    values = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5, -0.5, 1.5, 2.0**53, 2.0**53 + 2, 1e300, -1e300, 5e-324]
    values += [INFINITY, -INFINITY, NAN]
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    libm.pow.restype, libm.pow.argtypes = ctypes.c_double, (ctypes.c_double, ctypes.c_double)
    for x in values:
        for y in values:
            expected = libm.pow(x, y)
            got = float(detmath.pow(x, y))
            if math.isnan(expected):
                assert same(got, NAN), (x, y, got)
            else:
                assert math.copysign(1.0, got) == math.copysign(1.0, expected), (x, y, got)
                assert got == pytest.approx(expected, rel=4e-16), (x, y, got)


def test_square_roots_are_the_nearest() -> None:
    for (x,) in uniform(0, 1e6, 500):
        assert detmath.sqrt(x) == math.sqrt(x)


def test_exp_and_log_undo_each_other() -> None:
    for (x,) in uniform(-700, 700, 2000):
        assert detmath.log(detmath.exp(x)) == pytest.approx(x, rel=1e-15, abs=2e-16)


if __name__ == "__main__":
    if "libm" in sys.argv:
        print(libm_digest())
    elif "encoding" in sys.argv:
        print("avx" if re.search(r"\bvmulsd\b", assembly(lambda a, b: a * b, 1.5, 2.5)[0]) else "sse")
    else:
        print(digest(GRID_SMALL))
        if "small" not in sys.argv:
            print(digest(GRID))
