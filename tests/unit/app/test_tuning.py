"""What doctor says about other machines, shown as trees of what their kernels tell."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tapehouse.app import tuning
from tapehouse.app.machine import examine
from tapehouse.app.tuning import Finding, examine_tuning

GOVERNOR = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
ISOLATED = "sys/devices/system/cpu/isolated"
TICKLESS = "sys/devices/system/cpu/nohz_full"
CLOCK = "sys/devices/system/clocksource/clocksource0/current_clocksource"
HUGE = "sys/kernel/mm/transparent_hugepage/enabled"
MEMORY = "SwapTotal: {} kB\nSwapFree: {} kB\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


Look = Callable[[Path], Finding]


@pytest.mark.parametrize(
    ("look", "files", "well", "value"),
    [
        (tuning.governor, {GOVERNOR: "performance\n"}, True, "performance"),
        (tuning.governor, {GOVERNOR: "powersave\n"}, False, "powersave"),
        (lambda root: tuning.isolated_cores(root, 8), {ISOLATED: "6-7\n", TICKLESS: "6-7\n"}, True, "6-7 of 8"),
        (lambda root: tuning.isolated_cores(root, 8), {ISOLATED: "\n", TICKLESS: "(null)\n"}, False, "none of 8"),
        (lambda root: tuning.isolated_cores(root, 8), {ISOLATED: "7\n"}, False, "(nohz_full): none"),
        (lambda root: tuning.isolated_cores(root, 2), {ISOLATED: "\n"}, True, "none of 2"),
        (tuning.clock_source, {CLOCK: "tsc\n"}, True, "tsc"),
        (tuning.clock_source, {CLOCK: "hpet\n"}, False, "hpet"),
        (tuning.clock_source, {CLOCK: "acpi_pm\n"}, False, "acpi_pm"),
        (
            tuning.time_stamp_counter,
            {"proc/cpuinfo": "flags\t\t: fpu tsc constant_tsc nonstop_tsc\n"},
            True,
            "constant_tsc, nonstop_tsc",
        ),
        (tuning.time_stamp_counter, {"proc/cpuinfo": "flags\t: fpu tsc constant_tsc\n"}, False, "constant_tsc"),
        (tuning.time_stamp_counter, {"proc/cpuinfo": "flags\t: fpu tsc\n"}, False, "neither"),
        (tuning.huge_pages, {HUGE: "always [madvise] never", "proc/sys/vm/nr_hugepages": "64"}, True, "reserved: 64"),
        (tuning.huge_pages, {HUGE: "[always] madvise never\n"}, False, "transparent: always"),
        (tuning.swap, {"proc/meminfo": MEMORY.format(0, 0)}, True, "none"),
        (tuning.swap, {"proc/meminfo": MEMORY.format(4096, 4096)}, True, "0 of 4 MiB"),
        (
            tuning.swap,
            {"proc/meminfo": MEMORY.format(4096, 1024), "proc/sys/vm/swappiness": "60\n"},
            False,
            "3 of 4 MiB used, swappiness 60",
        ),
        (tuning.steal, {"proc/stat": "cpu  900 0 50 40 0 0 5 5 0 0\ncpu0 1 2\n"}, True, "0.50%"),
        (tuning.steal, {"proc/stat": "cpu  800 0 50 40 0 0 10 100 0 0\n"}, False, "10.00%"),
    ],
)  # fmt: skip
def test_each_setting_is_judged(look: Look, files: dict[str, str], well: bool, value: str, tmp_path: Path) -> None:
    finding = look(machine(tmp_path, files))
    assert finding.well == well
    assert value in finding.value
    assert finding.advice or well, "whatever is not well says what to do"


def test_what_is_not_shown_is_held_against_nobody(tmp_path: Path) -> None:
    findings = {finding.name: finding for finding in examine_tuning(tmp_path)}
    missing = findings.pop("/dev/shm")
    assert not missing.well
    assert "tmpfs" in missing.advice
    findings.pop("hiccups")
    assert all(finding.well for finding in findings.values())


@pytest.mark.parametrize(("free_mib", "well"), [(24_000, True), (256, True), (255, False), (64, False)])
def test_shared_memory_is_held_against_what_rings_need(
    free_mib: int, well: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4096
    blocks = free_mib * (1 << 20) // size
    answer = os.statvfs_result((size, size, 2 * blocks, blocks, blocks, 1, 1, 1, 0, 255))
    monkeypatch.setattr(tuning.os, "statvfs", lambda place: answer)
    finding = tuning.shared_memory(tmp_path)
    assert finding.well == well
    assert f"{free_mib // 64} rings of 64 MiB" in finding.value


class Clock:
    """A clock that moves by 100 ns a reading, and now and then by more."""

    def __init__(self, gaps: dict[int, int]) -> None:
        self._gaps, self._reads, self._now = gaps, 0, 0

    def perf_counter_ns(self) -> int:
        self._reads += 1
        self._now += self._gaps.get(self._reads, 100)
        return self._now


def test_time_lost_in_a_spin_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "time", Clock({50: 100_000, 60: 300_000, 70: 19_999}))
    share, longest = tuning.lost_share(1_000_000)
    assert share == pytest.approx(0.4, abs=0.001), "two gaps of 100 and 300 us in a millisecond"
    assert longest == 300_000
    monkeypatch.setattr(tuning, "time", Clock({}))
    assert tuning.lost_share(1_000_000) == (0.0, 0)
    monkeypatch.setattr(tuning, "time", Clock({50: 100_000}))
    assert not tuning.hiccups(1_000_000).well


def test_doctor_has_all_of_it_as_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {finding.name for finding in examine(tmp_path)}
    assert {"isolated cores", "clock source", "huge pages", "/dev/shm", "swap", "steal", "hiccups"} <= names
    from tapehouse.cli import main as cli

    assert cli.run(["doctor", "--home", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in names)
    assert cli.run(["doctor", "--json", "--home", str(tmp_path)]) == 0
    keys = {field.name for field in dataclasses.fields(Finding)}
    assert '"hiccups"' in capsys.readouterr().out
    assert keys == {"name", "value", "well", "advice"}
