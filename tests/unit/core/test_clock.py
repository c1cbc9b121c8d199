"""Clocks: the machine's, and one that moves only when told to."""

from __future__ import annotations

import pytest

from tapehouse.core import Clock, Metrics, SystemClock, VirtualClock


async def test_a_virtual_clock_moves_only_when_told() -> None:
    clock = VirtualClock(1000)
    assert (clock.time_ns(), clock.monotonic_ns()) == (1000, 1000)
    clock.advance(0)
    clock.advance(5)
    await clock.sleep_until(900)
    assert clock.time_ns() == 1005
    await clock.sleep_until(10**18)
    assert clock.time_ns() == 10**18
    with pytest.raises(ValueError, match="only moves forward"):
        clock.advance(-1)


async def test_the_system_clock_sleeps_until_then_and_no_less() -> None:
    clock: Clock = SystemClock()
    due = clock.monotonic_ns() + 2_000_000
    await clock.sleep_until(due)
    assert clock.monotonic_ns() >= due
    await clock.sleep_until(0)
    assert clock.time_ns() > 1_700_000_000 * 10**9


def test_metrics_count_and_record() -> None:
    metrics = Metrics()
    assert metrics.get("frames_written_total") == 0
    metrics.add("frames_written_total")
    metrics.add("frames_written_total", 2)
    metrics.set("lag_seconds", 0.5)
    metrics.set("lag_seconds", 0.25)
    table = metrics.table()
    assert list(table.items()) == [("frames_written_total", 3), ("lag_seconds", 0.25)]
    table.clear()
    assert metrics.get("lag_seconds") == 0.25, "the table is a copy"
