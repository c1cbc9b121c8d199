"""What this machine does to latency, and what to do about it: for `tapehouse doctor`.

Everything but the hiccup figure is read from where Linux shows it; what a kernel or a container does not show is said
to be so and held against nobody. `root` stands for `/`, so that tests can show other machines.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

RING_BYTES = 64 << 20  # of one ring of the default capacity: 2^20 cells of 64 bytes
RINGS_MIN = 4  # a journal, two feeds, one to spare
SPIN_NS = 50_000_000
HICCUP_NS = 20_000  # a turn of the spin takes a tenth of a microsecond: so long a one was somebody else's
HICCUP_SHARE_MAX = 0.02
STEAL_SHARE_MAX = 0.01
ISOLATION_CORES_MIN = 4  # below, isolating one leaves too little for brokers and everything else
_SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit")
_TSC_FLAGS = ("constant_tsc", "nonstop_tsc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at; `advice` says what to do where it is not well."""

    name: str
    value: str
    well: bool = True
    advice: str = ""


def examine_tuning(root: Path = Path("/")) -> list[Finding]:
    """Look at everything that costs latency without being a fault."""
    return [
        governor(root),
        isolated_cores(root),
        clock_source(root),
        time_stamp_counter(root),
        huge_pages(root),
        shared_memory(root / "dev/shm"),
        swap(root),
        steal(root),
        hiccups(),
    ]


def governor(root: Path) -> Finding:
    """Whether cores keep their full frequency."""
    shown = _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if shown is None:
        return Finding(name="governor", value="not shown by this kernel")
    advice = "cpupower frequency-set -g performance"
    return Finding(name="governor", value=shown, well=shown == "performance", advice=advice)


def isolated_cores(root: Path, cores: int | None = None) -> Finding:
    """Cores that the scheduler and its tick leave alone."""
    isolated = _read(root / "sys/devices/system/cpu/isolated")
    tickless = _read(root / "sys/devices/system/cpu/nohz_full") or "none"
    if isolated is None:
        return Finding(name="isolated cores", value="not shown by this kernel")
    count = cores if cores is not None else os.cpu_count() or 1
    tickless = "none" if tickless == "(null)" else tickless
    return Finding(
        name="isolated cores",
        value=f"{isolated or 'none'} of {count}; without tick (nohz_full): {tickless}",
        well=count < ISOLATION_CORES_MIN or (bool(isolated) and tickless != "none"),
        advice=f"boot with isolcpus={count - 1} nohz_full={count - 1} and set TAPEHOUSE_CPUS=engine={count - 1}",
    )


def clock_source(root: Path) -> Finding:
    """What a reading of the clock asks: a register, or a chip a microsecond away."""
    shown = _read(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    if shown is None:
        return Finding(name="clock source", value="not shown by this kernel")
    advice = "boot with clocksource=tsc tsc=reliable: every reading of the clock is a system call otherwise"
    return Finding(name="clock source", value=shown, well=shown not in _SLOW_CLOCKS, advice=advice)


def time_stamp_counter(root: Path) -> Finding:
    """Whether cycles are time on this CPU: at one rate, and in sleep too."""
    info = _read(root / "proc/cpuinfo") or ""
    found = re.search(r"^flags\s*:(.*)$", info, re.MULTILINE)
    if found is None:
        return Finding(name="cycle counter", value="not an x86 CPU, or not shown")
    flags = set(found.group(1).split())
    missing = [name for name in _TSC_FLAGS if name not in flags]
    return Finding(
        name="cycle counter",
        value=", ".join(name for name in _TSC_FLAGS if name in flags) or "neither constant nor nonstop",
        well=not missing,
        advice=f"without {' and '.join(missing)} cycles are not times; use a CPU or a VM that has them",
    )


def huge_pages(root: Path) -> Finding:
    """How memory is paged: `always` lets the kernel stop a process to tidy its pages up."""
    shown = _read(root / "sys/kernel/mm/transparent_hugepage/enabled")
    reserved = _read(root / "proc/sys/vm/nr_hugepages") or "0"
    chosen = re.search(r"\[(\w+)\]", shown or "")
    if chosen is None:
        return Finding(name="huge pages", value="not shown by this kernel")
    return Finding(
        name="huge pages",
        value=f"transparent: {chosen.group(1)}; reserved: {reserved}",
        well=chosen.group(1) != "always",
        advice="echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    )


def shared_memory(place: Path) -> Finding:
    """Room for rings, which are files there."""
    try:
        found = os.statvfs(place)
    except OSError as error:
        advice = "mount a tmpfs at /dev/shm: rings live there"
        return Finding(name="/dev/shm", value=error.strerror or str(error), well=False, advice=advice)
    size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return Finding(
        name="/dev/shm",
        value=f"{free >> 20:,} of {size >> 20:,} MiB free: {free // RING_BYTES:,} rings of {RING_BYTES >> 20} MiB",
        well=free >= RINGS_MIN * RING_BYTES,
        advice="mount -o remount,size=1G /dev/shm; for a container --shm-size=1g",
    )


def swap(root: Path) -> Finding:
    """Whether memory of ours can be on a disk when it is needed."""
    info = _read(root / "proc/meminfo") or ""
    kib = {name: int(value) for name, value in re.findall(r"^(Swap(?:Total|Free)):\s+(\d+)", info, re.MULTILINE)}
    total, free = kib.get("SwapTotal", 0), kib.get("SwapFree", 0)
    if not total:
        return Finding(name="swap", value="none")
    swappiness = _read(root / "proc/sys/vm/swappiness") or "?"
    return Finding(
        name="swap",
        value=f"{(total - free) >> 10:,} of {total >> 10:,} MiB used, swappiness {swappiness}",
        well=total == free,
        advice="swapoff -a, or sysctl vm.swappiness=1",
    )


def steal(root: Path) -> Finding:
    """The share of time since boot in which the host ran somebody else."""
    line = next((line for line in (_read(root / "proc/stat") or "").splitlines() if line.startswith("cpu ")), "")
    times = [int(word) for word in line.split()[1:9]]
    if len(times) < 8 or not sum(times):
        return Finding(name="steal", value="not shown by this kernel")
    share = times[7] / sum(times)
    return Finding(
        name="steal",
        value=f"{share:.2%} of all core time since boot",
        well=share <= STEAL_SHARE_MAX,
        advice="the host gives your cores to others: ask for dedicated ones",
    )


def lost_share(duration_ns: int = SPIN_NS) -> tuple[float, int]:
    """Spin and do nothing else: the share of time lost in gaps of HICCUP_NS and more, and the longest gap, ns."""
    clock = time.perf_counter_ns
    start = before = clock()
    end = start + duration_ns
    lost = longest = 0
    while before < end:
        now = clock()
        gap = now - before
        if gap >= HICCUP_NS:
            lost += gap
            longest = max(longest, gap)
        before = now
    return lost / (before - start), longest


def hiccups(duration_ns: int = SPIN_NS) -> Finding:
    """What other tasks and the machine take from a loop that never waits."""
    share, longest = lost_share(duration_ns)
    return Finding(
        name="hiccups",
        value=f"{share:.2%} of a spin of {duration_ns / 1e6:.0f} ms lost, the longest {longest / 1e3:,.0f} us",
        well=share <= HICCUP_SHARE_MAX,
        advice="stop what else runs here, or give the engine a core of its own: isolcpus, TAPEHOUSE_CPUS",
    )


def _read(path: Path) -> str | None:
    """What a file of the kernel says, None where it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
