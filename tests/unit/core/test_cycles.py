"""The CPU's counter: it only grows, and calibrated it agrees with the clock that it was held against."""

from __future__ import annotations

import time

import numpy as np
import pytest

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


class Interrupted:
    """A counter of two a nanosecond and a clock, both of one time; some readings take very long."""

    def __init__(self, slow: set[int]) -> None:
        self.now_ns, self.readings, self.slow = 0, 0, slow

    def _pass(self) -> int:
        self.readings += 1
        self.now_ns += 300_000_000 if self.readings in self.slow else 50
        return self.now_ns

    def cycles(self) -> int:
        return 2 * self._pass()

    def monotonic_ns(self) -> int:
        return self._pass()


@pytest.mark.parametrize("slow", [{1}, {2}, {3}, {1, 5, 9}])
def test_a_slow_first_reading_does_not_bend_the_scale(slow: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter's first call from Python compiles it, and any call may be interrupted."""
    machine = Interrupted(slow)
    monkeypatch.setattr("tapehouse.core.cycles.cycles", machine.cycles)
    scale = calibrate(machine, during_ns=10_000_000)  # type: ignore[arg-type]
    assert abs(scale.ns_per_count - 0.5) < 1e-4
