"""Times: of whole loops by the clock port, of single operations by a fenced counter inside the loop.

A fenced reading waits for everything before it, so an operation between two readings cannot overlap its neighbours: its
figure is a latency, larger than the loop's mean. What two readings cost with nothing between them is measured each
time and subtracted; the counter's step is the finest difference that it can show.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tapehouse.app.bench.histogram import Spread, new_histogram, percentile, record_value
from tapehouse.core.clock import Clock
from tapehouse.core.cycles import calibrate, cycles, fenced_cycles
from tapehouse.core.kernel import Array, Int, kernel

CALIBRATIONS = 3  # one that the machine interrupted is not the median
OVERHEAD_PROBES = 100_000
STEP_PROBES = 10_000

Histogram = npt.NDArray[np.int64]


@kernel()
def probe_overhead(histogram: Array, probes: Int) -> None:
    """Record what two readings with nothing between them show."""
    for _ in range(probes):
        before = fenced_cycles()
        record_value(histogram, fenced_cycles() - before)


@kernel()
def probe_step(probes: Int) -> Int:
    """The greatest common divisor of many differences of readings: the counter's step."""
    step = 0
    start = fenced_cycles()
    for _ in range(probes):
        other = fenced_cycles() - start
        while other > 0:
            step, other = other, step % other
    return step


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """A calibrated counter.

    Args:
        ns_per_count: What one count is worth.
        overhead: Counts that two readings show with nothing between them: the median.
        step: Counts between two values that the counter can have.
    """

    clock: Clock
    ns_per_count: float
    overhead: int
    step: int

    @classmethod
    def start(cls, clock: Clock) -> Timer:
        """Calibrate, and measure the timer itself."""
        cycles()  # loaded before the first calibration begins
        rates = [calibrate(clock).ns_per_count for _ in range(CALIBRATIONS)]
        histogram = new_histogram()
        probe_overhead(histogram, 1)
        histogram = new_histogram()
        probe_overhead(histogram, OVERHEAD_PROBES)
        return cls(
            clock=clock,
            ns_per_count=statistics.median(rates),
            overhead=percentile(histogram, 0.5),
            step=int(probe_step(STEP_PROBES)),
        )

    def spread(self, histogram: Histogram) -> Spread:
        """A histogram of counts, overhead already subtracted, in ns."""
        return Spread.of(histogram, self.ns_per_count)

    def describe(self) -> dict[str, float]:
        """The timer, for the report."""
        return {
            "counter_ns": self.ns_per_count,
            "overhead_ns": self.overhead * self.ns_per_count,
            "step_ns": self.step * self.ns_per_count,
        }

    def seconds(self, work: Callable[[], object]) -> float:
        """How long a call takes."""
        start = self.clock.monotonic_ns()
        work()
        return (self.clock.monotonic_ns() - start) / 1e9

    def ns_each(self, work: Callable[[], object], operations: int) -> float:
        """ns of each of the operations that a call does."""
        return self.seconds(work) * 1e9 / operations


def middle(spreads: list[Spread]) -> dict[str, float]:
    """The fields of a row: the median over runs of each percentile."""
    return {name: statistics.median(getattr(spread, name) for spread in spreads) for name in ("p50", "p99", "p999")}


__all__ = ["Histogram", "Timer", "middle", "new_histogram"]
