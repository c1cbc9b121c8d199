"""`@kernel`: how every compiled function of tapehouse is declared, and where its machine code is cached.

Numba's own cache sees a change in the file of a kernel but not in the file of a function that it calls, so a stale
caller could run on. Here the cache directory is named by a hash over all sources that a kernel can depend on, the Numba
version and the CPU: any such edit leads to a fresh directory. `_nrt=False` says that a kernel allocates nothing; it is
also 3 to 8 times faster.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
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


_DECLARES = re.compile(rb"\bkernel\(|^[ \t]*(?:from|import)[ \t]+numba\b", re.M)
_IMPORT = re.compile(rb"^[ \t]*(?:from|import)[ \t]+tapehouse\.([\w.]+)(?:[ \t]+import[ \t]+(\([^)]*\)|[^\n]*))?", re.M)


def kernel_sources() -> dict[str, bytes]:
    """Every source, by path below its root, that machine code may depend on.

    Those are the files that declare kernels, and all that these import, directly or not: a constant that a kernel uses
    is compiled into it, wherever it is defined.
    """
    texts = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for root in source_roots()
        for path in sorted(root.rglob("*.py"))
    }
    needed = [name for name, text in texts.items() if _DECLARES.search(text)]
    found = dict.fromkeys(needed)
    while needed:
        for module, names in _IMPORT.findall(texts[needed.pop()]):
            base = module.decode().replace(".", "/")
            members = [f"{base}/{name.decode()}" for name in re.findall(rb"\w+", names)]
            for name in (f"{path}{end}" for path in (base, *members) for end in (".py", "/__init__.py")):
                if name in texts and name not in found:
                    found[name] = None
                    needed.append(name)
    return {name: texts[name] for name in sorted(found)}


def source_digest() -> str:
    """One hash over `kernel_sources`."""
    hasher = hashlib.blake2b(digest_size=10)
    for name, text in kernel_sources().items():
        hasher.update(name.encode() + b"\0" + len(text).to_bytes(8, "little") + text)
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

_config: Any = numba.config
if not _config.CACHE_DIR:  # Somebody imported Numba before us: it has read the environment already.
    _config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]


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
        }
        if inline:
            options["forceinline"] = True
        compiled: Callable[..., Any] = numba.njit(*signature, **options)(function)
        return compiled

    return wrap
