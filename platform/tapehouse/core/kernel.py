"""`@kernel`: how every compiled function of tapehouse is declared, and where its machine code is cached.

Numba's own cache sees a change in the file of a kernel but not in the file of a function that it calls, so a stale
caller could run on. Here each file's kernels are cached in a directory that is named by a hash over all sources that
they can depend on, the Numba version and the CPU: an edit leads what may see it to a fresh directory, and leaves the
rest warm. `_nrt=False` says that a kernel allocates nothing; it is also 3 to 8 times faster.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import types

from tapehouse.core.sources import Sources, source_roots

# What a kernel's parameters are, for the reader; Numba infers the machine types, so a type checker is told nothing.
Array = Any
State = Any  # a NamedTuple of arrays
Int = Any
Float = Any

_config: Any = numba.config
_unliteral: Any = types.unliteral  # it has no types


@cache
def _sources() -> Sources:
    return Sources(source_roots())


def source_digest() -> str:
    """One hash over every source that any kernel can depend on: the version of what decides."""
    sources = _sources()
    return sources.digest(sources.closure(*sources.deciding()))


def cpu_name() -> str:
    """The CPU that the machine code is for, as `NUMBA_CPU_NAME` may override it."""
    return os.environ.get("NUMBA_CPU_NAME") or _model_name()


@cache
def _model_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # Not Linux: the machine type below is all there is to know.
    return platform.machine()


def cache_directory() -> Path:
    """Where this machine's kernels are cached, below `TAPEHOUSE_CACHE` or the user's cache directory."""
    base = os.environ.get("TAPEHOUSE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tapehouse"
    )
    cpu = "".join(letter if letter.isalnum() else "-" for letter in cpu_name())
    return Path(base) / "kernels" / f"{numba.__version__}-{cpu}"


@cache
def kernel_directory(file: str) -> Path:
    """Where the kernels of a source file are cached: named by everything that they can depend on."""
    sources = _sources()
    name = sources.name_of(file)
    texts = []
    if name is None:  # Somebody's strategy: its own text, and what it imports of tapehouse.
        try:
            texts.append(Path(file).read_bytes())
        except OSError:  # Made by exec: it may depend on anything.
            return cache_directory() / f"unknown-{source_digest()}"
        names = sources.closure(texts=texts)
    else:
        names = sources.closure(name)
    label = (name or Path(file).name).removesuffix(".py").replace("/", ".")
    return cache_directory() / f"{label}-{sources.digest(names, texts=texts)}"


@contextmanager
def cached_with(function: Callable[..., Any]) -> Iterator[None]:
    """While a function is declared to Numba, direct its cache to where the kernels of its file belong.

    Numba asks for the directory once, at the declaration. One that the user set (`NUMBA_CACHE_DIR`) is left alone.
    """
    before = _config.CACHE_DIR
    if "NUMBA_CACHE_DIR" not in os.environ:
        _config.CACHE_DIR = str(kernel_directory(function.__code__.co_filename))
    try:
        yield
    finally:
        _config.CACHE_DIR = before


def called_with_machine_types(compiled: Any) -> Any:
    """Have kernels call this one with int64 where they write a constant: one compilation instead of one a constant.

    Numba compiles a callee anew for every constant argument, and even for the 0 that a loop variable begins with.
    LLVM propagates constants into what it inlines all the same.
    """
    if not hasattr(compiled, "get_call_template"):  # NUMBA_DISABLE_JIT: a plain function, interpreted.
        return compiled
    find = compiled.get_call_template

    def get_call_template(arguments: Any, keywords: Any) -> Any:
        plain = tuple(_unliteral(argument) for argument in arguments)
        return find(plain, {name: _unliteral(argument) for name, argument in keywords.items()})

    compiled.get_call_template = get_call_template
    return compiled


def kernel(*signature: Any, inline: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a compiled function: cached, allocation-free, IEEE arithmetic only.

    Args:
        signature: Numba signatures to compile at import; none to compile at the first call.
        inline: Have LLVM inline it into every caller, for small helpers that take many arrays: such a call costs
            10 to 15 ns otherwise. (Numba's own `inline="always"` copies IR and makes compiling several times slower.)

    Division by zero follows IEEE (or gives 0 for integers) instead of raising, so every kernel must exclude it.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {
            "cache": True,
            "_nrt": False,
            "error_model": "numpy",
            "no_cfunc_wrapper": True,
            "nogil": True,
            "forceinline": inline,  # said either way: unsaid, it is taken from whoever compiles this one
        }
        with cached_with(function):
            compiled: Any = numba.njit(*signature, **options)(function)
        declared: Callable[..., Any] = called_with_machine_types(compiled)
        return declared

    return wrap
