"""Counters, gauges and histograms that a process keeps about itself, readable as flat tables."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

# From 100 us to a minute: what a caller may wait, in seconds.
SECONDS_BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
)  # fmt: skip
# Sizes: powers of four from one to a million.
SIZE_BOUNDS = tuple(float(4**power) for power in range(11))


class Histogram:
    """How often a measure fell at or below each bound, and not at or below the one before.

    Args:
        bounds: Rising; what is above the last is counted in `count` and `sum` alone.
    """

    __slots__ = ("bounds", "count", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * len(self.bounds)
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one measure."""
        place = bisect_left(self.bounds, value)
        if place < len(self.counts):
            self.counts[place] += 1
        self.count += 1
        self.sum += value


class Metrics:
    """A registry of named numbers; names follow Prometheus (`_total` counts, base units)."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._histograms: dict[str, Histogram] = {}

    def add(self, name: str, amount: float = 1) -> None:
        """Count `amount` more."""
        self._values[name] = self._values.get(name, 0) + amount

    def set(self, name: str, value: float) -> None:
        """Record the present value."""
        self._values[name] = value

    def get(self, name: str) -> float:
        """The value, 0 where nothing was recorded."""
        return self._values.get(name, 0)

    def table(self) -> dict[str, float]:
        """A copy of all values, sorted by name."""
        return dict(sorted(self._values.items()))

    def observe(self, name: str, value: float, bounds: Sequence[float]) -> None:
        """Count a measure in a histogram, which has the bounds that it was first given."""
        histogram = self._histograms.get(name)
        if histogram is None:
            histogram = self._histograms[name] = Histogram(bounds)
        histogram.observe(value)

    def histograms(self) -> dict[str, Histogram]:
        """All histograms, by name."""
        return dict(sorted(self._histograms.items()))
