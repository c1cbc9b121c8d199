"""`@kernel`: how every compiled function of tapehouse is declared, and where its machine code is cached.

Numba's own cache sees a change in the file of a kernel but not in the file of a function that it calls, so a stale
caller could run on. Here the cache directory is named by a hash over all sources, the Numba version and the CPU: any
edit leads to a fresh directory. `_nrt=False` says that a kernel allocates nothing; it is also 3 to 8 times faster.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

# What a kernel's parameters are, for the reader; Numba infers the machine types, so a type checker is told nothing.
Array = Any
State = Any  # a NamedTuple of arrays
Int = Any
Float = Any


def source_roots() -> list[Path]:
    """The directories that make up the `tapehouse` namespace."""
    import tapehouse

    return sorted(Path(entry) for entry in tapehouse.__path__)


def source_digest() -> str:
    """One hash over every Python source of tapehouse that declares or may be called by a kernel."""
    hasher = hashlib.blake2b(digest_size=10)
    for root in source_roots():
        for path in sorted(root.rglob("*.py")):
            text = path.read_bytes()
            if b"kernel" in text:
                hasher.update(path.relative_to(root).as_posix().encode() + b"\0" + text)
    return hasher.hexdigest()


def cpu_name() -> str:
    """The CPU that the machine code is for, as `NUMBA_CPU_NAME` may override it."""
    override = os.environ.get("NUMBA_CPU_NAME")
    if override:
        return override
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # Not Linux: the machine type below is all there is to know.
    return platform.machine()


def cache_directory() -> Path:
    """Where this build's kernels are cached, below `TAPEHOUSE_CACHE` or the user's cache directory."""
    base = os.environ.get("TAPEHOUSE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tapehouse"
    )
    cpu = hashlib.blake2b(cpu_name().encode(), digest_size=4).hexdigest()
    return Path(base) / "kernels" / f"{source_digest()}-{version('numba')}-{cpu}"


if "NUMBA_CACHE_DIR" not in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = str(cache_directory())

import numba  # noqa: E402  (it reads NUMBA_CACHE_DIR when it is imported)


def kernel(*signature: Any, inline: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a compiled function: cached, allocation-free, IEEE arithmetic only.

    Args:
        signature: Numba signatures to compile at import; none to compile at the first call.
        inline: Always inline into its callers; for the smallest helpers.

    Division by zero follows IEEE (or gives 0 for integers) instead of raising, so every kernel must exclude it.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {"cache": True, "_nrt": False, "error_model": "numpy", "boundscheck": False}
        if inline:
            options["inline"] = "always"
        compiled: Callable[..., Any] = numba.njit(*signature, **options)(function)
        return compiled

    return wrap
