"""Arithmetic on the way to a decision: no C library, no fast-math, no order of adding that the machine chooses.

Read from the sources: what a kernel of any room may use of `math` and `numpy` is listed, and everything else is caught;
in the rooms that decide, even code outside kernels may not call functions whose last bits differ between machines (a
constant is compiled into its user). Read from the machine code: no compiled kernel refers to a library's function.
Every check has a control that it must catch.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arch.test_imports import CORES, PROJECT, ROOTS, Source, dotted, imports_of, read_sources

DECORATORS = {"kernel", "strategy_kernel", "njit", "jit", "cfunc", "vectorize", "guvectorize", "register_jitable"}
# Who may name Numba's own decorators; everybody else declares kernels with ours, so that this check sees them.
DECLARING = {"core/kernel.py", "engine/strategy.py", "ring/fastcall.py"}
PEERS = "app/bench/peers/"  # programs of their own, which import nothing of ours

# Exact by definition, or rounded once as IEEE 754 demands.
EXACT_MATH = {"sqrt", "floor", "ceil", "trunc", "fabs", "copysign", "isnan", "isinf", "isfinite", "inf", "nan", "pi"}
EXACT_NUMPY = {
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "bool_"),
    *("sqrt", "floor", "ceil", "trunc", "rint", "abs", "copysign", "isnan", "isinf", "isfinite", "inf", "nan"),
}
# Outside kernels: functions whose result hangs on the library or on the width of the CPU's registers.
LIBRARY_FUNCTIONS = {
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "power", "float_power", "cbrt", "hypot"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "arcsin", "arccos", "arctan", "arctan2", "arcsinh"),
    *("arccosh", "arctanh", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "gamma", "lgamma"),
    *("logaddexp", "logaddexp2", "sinc", "i0", "fma", "sumprod", "dist"),
    *("dot", "vdot", "inner", "outer", "matmul", "einsum", "tensordot", "linalg", "fft", "convolve", "interp"),
    *("mean", "average", "std", "var", "polyfit", "trapezoid", "nanmean", "nansum", "corrcoef", "cov"),
}
SUMMING = {"sum", "cumsum", "prod", "cumprod", "dot", "mean", "std", "var", "nansum", "trace"}
LIBRARIES = ("math", "cmath", "numpy", "scipy", "statistics")


def library_names(source: Source) -> dict[str, str]:
    """Local name -> full name, of everything that a file imports from the libraries of mathematics and from Numba."""
    return {
        local: full for _, full, local in imports_of(source) if local and full.split(".")[0] in (*LIBRARIES, "numba")
    }


def full_name(node: ast.expr, names: dict[str, str]) -> str:
    """`numpy.exp` of `np.exp` or of an imported `exp`; empty for what no library of mathematics gave."""
    head, _, rest = dotted(node).partition(".")
    if head not in names:
        return ""
    return f"{names[head]}.{rest}" if rest else names[head]


def declared_in(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Every function that is compiled: decorated, or handed to a decorator by its name."""
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for function in functions.values():
        for decorator in function.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if dotted(called).split(".")[-1] in DECORATORS:
                yield function
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Name):
            called = node.func.func if isinstance(node.func, ast.Call) else node.func
            if dotted(called).split(".")[-1] in DECORATORS and node.args[0].id in functions:
                yield functions[node.args[0].id]


def is_whole_power(node: ast.BinOp) -> bool:
    """Whether a power is one of two written integers, which no code computes at run time."""
    return all(isinstance(part, ast.Constant) and type(part.value) is int for part in (node.left, node.right))


def wrong_in_kernel(function: ast.FunctionDef, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Line and fault of all that a kernel may not hold."""
    for node in ast.walk(function):
        if isinstance(node, ast.BinOp | ast.AugAssign):
            if isinstance(node.op, ast.MatMult):
                yield node.lineno, "a matrix product adds in an order of its own"
            if isinstance(node.op, ast.Pow) and not (isinstance(node, ast.BinOp) and is_whole_power(node)):
                yield node.lineno, "** calls the library's pow: multiply, or use detmath.pow"
        elif isinstance(node, ast.Name | ast.Attribute):
            name = full_name(node, names)
            library, _, member = name.partition(".")
            exact = EXACT_MATH if library == "math" else EXACT_NUMPY if library == "numpy" else set()
            if library in LIBRARIES and member and member not in exact:
                yield node.lineno, f"{name} is not in the list of exact functions: use tapehouse.core.detmath"
            if name.endswith("prange"):
                yield node.lineno, "prange splits the work by the number of cores"
        elif isinstance(node, ast.Call):
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if method in SUMMING and not full_name(node.func, names):
                yield node.lineno, f".{method}() adds in an order that the library chooses"
            if isinstance(node.func, ast.Name) and node.func.id in ("pow", "sum") and node.func.id not in names:
                yield node.lineno, f"{node.func.id}(): write the loop, or use detmath"
            if isinstance(node.func, ast.Name) and node.func.id == "round" and len(node.args) > 1:
                yield node.lineno, "round() to digits calls the library's pow"


COMPOSITION = "app"  # decides nothing: its kernels measure others, the library among them


def wrong_arithmetic(sources: list[Source]) -> list[str]:
    """Every fault as `file:line: what`."""
    wrong = set()
    for source in sources:
        names = library_names(source)
        peer = source.name.startswith(PEERS)
        for function in declared_in(source.tree) if source.room != COMPOSITION else ():
            wrong |= {f"{source.name}:{line}: {fault}" for line, fault in wrong_in_kernel(function, names)}
        for node in ast.walk(source.tree):
            if isinstance(node, ast.keyword) and node.arg in ("fastmath", "parallel"):
                if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                    wrong.add(f"{source.name}:{node.value.lineno}: {node.arg} changes results")
            elif isinstance(node, ast.Constant) and node.value in ("fastmath", "parallel"):
                wrong.add(f"{source.name}:{node.lineno}: {node.value} changes results")
            elif isinstance(node, ast.Name | ast.Attribute):
                library, _, member = full_name(node, names).partition(".")
                if library in LIBRARIES and source.room in CORES and member.split(".")[0] in LIBRARY_FUNCTIONS:
                    wrong.add(f"{source.name}:{node.lineno}: {library}.{member} in a room that decides")
                if library == "numba" and member in DECORATORS and source.name not in DECLARING and not peer:
                    wrong.add(f"{source.name}:{node.lineno}: {member} hides a kernel: declare it with @kernel()")
    return sorted(wrong)


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return read_sources(ROOTS)


def test_nothing_on_a_decision_path_hangs_on_the_library_or_the_cpu(sources: list[Source]) -> None:
    assert wrong_arithmetic(sources) == []


def test_peers_import_nothing_of_ours(sources: list[Source]) -> None:
    peers = [source for source in sources if source.name.startswith(PEERS)]
    assert peers
    assert not [full for source in peers for _, full, _ in imports_of(source) if full.startswith("tapehouse")]


def test_the_kernels_are_seen(sources: list[Source]) -> None:
    found = {source.name: len(list(declared_in(source.tree))) for source in sources}
    assert sum(found.values()) > 150
    assert found["core/detmath.py"] > 10
    assert found["strategies/maker.py"] >= 2


HEAD = "import math\nimport numpy as np\nfrom tapehouse.core.kernel import kernel\n"
BAD_KERNELS = {
    "math.exp": "return math.exp(x)",
    "math.sin": "return math.sin(x)",
    "math.pow": "y = math.pow(x, 2.0)\n    return y",
    "math.fmod, which nobody allowed": "return math.fmod(x, 2.0)",
    "np.log": "return np.log(x)",
    "np.power": "return np.power(x, 2)",
    "np.sum": "return np.sum(x)",
    "np.dot": "return np.dot(x, x)",
    "np.linalg.norm": "return np.linalg.norm(x)",
    "x.sum()": "return x[1:].sum()",
    "power of a variable": "return x ** 2",
    "power to a variable": "return 2 ** x",
    "power of floats": "return 2.0 ** 3.0",
    "power in place": "x **= 2\n    return x",
    "matrix product": "return x @ x",
    "pow()": "return pow(x, 3)",
    "sum()": "return sum(x)",
    "round to digits": "return round(x, 2)",
    "within a loop": "for i in range(3):\n        if x > i:\n            x += math.tanh(x)\n    return x",
}
BAD_FILES = {
    "an imported exp": "from math import exp\n@kernel()\ndef f(x):\n    return exp(x)",
    "a renamed exp": "from numpy import exp as e\n@kernel()\ndef f(x):\n    return e(x)",
    "fastmath": "import numba\n@kernel(fastmath=True)\ndef f(x):\n    return x",
    "fastmath by parts": "@kernel(fastmath={'contract'})\ndef f(x):\n    return x",
    "parallel in a table of options": "OPTIONS = {'parallel': True}",
    "prange": "from numba import prange\n@kernel()\ndef f(x):\n    for i in prange(3):\n        x += i\n    return x",
    "Numba's own decorator": "from numba import njit\n@njit\ndef f(x):\n    return x",
    "Numba's own decorator, dotted": "import numba\n@numba.jit(nopython=True)\ndef f(x):\n    return x",
    "handed to the decorator": "def f(x):\n    return math.exp(x)\ng = kernel(inline=True)(f)",
    "a strategy": "@strategy_kernel\ndef f(view):\n    return math.log(view[0])",
    "a constant": "HALF_LIFE = math.log(2.0)",
    "a table made by numpy": "TABLE = np.exp(np.arange(10))",
    "plain Python": "def f(x):\n    return math.exp(-x)",
}
GOOD = """
from tapehouse.core import detmath
@kernel()
def f(x):
    y = math.sqrt(x) + math.floor(x) + detmath.exp(x) + detmath.pow(x, 2.0) + np.float64(2**53)
    return np.int64(y) + round(y) + (1 << 3) + min(x, y)
def g(rows):
    return rows[:, 0].sum() + 10**max(0, 3)
"""


def one_file(folder: Path, text: str) -> list[Source]:
    path = folder / "tapehouse" / "desk" / "a.py"
    path.parent.mkdir(parents=True)
    path.write_text(HEAD + text)
    return read_sources((folder / "tapehouse",))


@pytest.mark.parametrize("body", BAD_KERNELS.values(), ids=BAD_KERNELS.keys())
def test_control_a_bad_kernel_is_caught(body: str, tmp_path: Path) -> None:
    assert wrong_arithmetic(one_file(tmp_path, f"@kernel()\ndef f(x):\n    {body}\n")) != []


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_control_a_bad_file_is_caught(text: str, tmp_path: Path) -> None:
    assert wrong_arithmetic(one_file(tmp_path, text)) != []


def test_control_good_code_passes(tmp_path: Path) -> None:
    assert wrong_arithmetic(one_file(tmp_path, GOOD)) == []


# The machine code itself: what the compiled kernels of a decided day refer to.


def referred(*arguments: str) -> dict[str, list[str]]:
    """Kernel -> names outside it that its object code refers to, from a process of its own."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.object_code", *arguments],
        cwd=PROJECT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found: dict[str, list[str]] = json.loads(run.stdout)
    return found


# Python's own functions in the wrappers, Numba's helpers, other kernels: none of them computes with floats.
HARMLESS = {"memset", "memcpy", "memmove"}
HARMLESS_PREFIXES = ("Py", "_Py", "numba_", "_ZN")


def library_calls(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Those names that are neither kernels nor Numba's own."""
    calls = {
        kernel: [name for name in names if name not in HARMLESS and not name.startswith(HARMLESS_PREFIXES)]
        for kernel, names in found.items()
    }
    return {kernel: names for kernel, names in calls.items() if names}


def test_no_compiled_kernel_calls_a_library() -> None:
    """A kernel's object code holds all that it calls, so the few that a desk enters speak for all behind them."""
    found = referred()
    rooms = {kernel.split(".")[1] for kernel in found}
    assert rooms >= {"log", "feeds", "book", "engine", "strategies"}, sorted(found)
    assert any(kernel.startswith("tapehouse.engine.loop.run") for kernel in found)
    assert library_calls(found) == {}


def test_control_a_library_call_is_seen_in_machine_code() -> None:
    calls = library_calls(referred("control"))
    assert {name for names in calls.values() for name in names} >= {"exp", "pow"}
