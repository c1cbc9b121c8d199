"""Counters and gauges that a process keeps about itself, readable as one flat table."""

from __future__ import annotations


class Metrics:
    """A registry of named numbers; names follow Prometheus (`_total` counts, base units)."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}

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
