"""The CPU's counter: it only grows, and calibrated it agrees with the clock that it was held against."""

from __future__ import annotations

import time

import numpy as np

from tapehouse.core.clock import SystemClock
from tapehouse.core.cycles import CycleScale, calibrate, cycles, fenced_cycles
from tapehouse.core.kernel import Array, kernel


@kernel()
def _readings(plain: Array, fenced: Array) -> None:
    for at in range(plain.shape[0]):
        plain[at] = cycles()
        fenced[at] = fenced_cycles()


def test_readings_grow() -> None:
    plain, fenced = np.zeros(1000, np.int64), np.zeros(1000, np.int64)
    _readings(plain, fenced)
    assert (np.diff(fenced) > 0).all()
    assert (fenced >= plain).all()
    assert (np.diff(plain) > 0).all()


def test_a_scale_turns_counts_into_times_of_its_clock() -> None:
    scale = CycleScale(count=1000, monotonic_ns=50, ns_per_count=0.5)
    assert scale.duration_ns(10) == 5.0
    assert scale.at_ns(1010) == 55
    assert scale.at_ns(990) == 45


def test_a_calibration_agrees_with_the_clock() -> None:
    clock = SystemClock()
    scale = calibrate(clock, during_ns=20_000_000)
    before = time.monotonic_ns()
    read = scale.at_ns(cycles())
    after = time.monotonic_ns()
    slack = 2_000_000  # of the calibration's own error, over the time since then
    assert before - slack <= read <= after + slack
