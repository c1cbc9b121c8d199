"""How well preallocated memory is used: what a pool holds against what lives in it.

A pool is an array made once. A row is *held* from its first use on: its memory is then the process's for good, because
rows that are given back are taken again before fresh ones (so that they are still in the cache) and none is returned to
the system. A row is *used* while something lives in it. Rows never touched cost address space alone.

*Efficiency* is used over held, summed over the observations of a load: 1 where every row that the pool ever took is in
use all the time. It is a property of pool and load together: a load whose number of live things stays near its highest
comes close to 1, one that swings between many and few can't, in any pool that keeps what its peak needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tapehouse.core.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool at one moment, in rows."""

    name: str  # the beginning of its metrics' names
    used: int
    held: int
    capacity: int
    row_bytes: int
    refused: int = 0  # how often it was full


class PoolWatch:
    """Pools over a load: observe it as often as you like, ask in the end."""

    def __init__(self) -> None:
        self._last: dict[str, Pool] = {}
        self._used_max: dict[str, int] = {}
        self._sums: dict[str, tuple[int, int]] = {}

    def observe(self, pools: Iterable[Pool]) -> None:
        """Note the state of some pools now."""
        for pool in pools:
            used, held = self._sums.get(pool.name, (0, 0))
            self._sums[pool.name] = used + pool.used, held + pool.held
            self._used_max[pool.name] = max(pool.used, self._used_max.get(pool.name, 0))
            self._last[pool.name] = pool

    def efficiency(self, name: str) -> float:
        """Used over held of all observations of a pool; 1 where it never held anything."""
        used, held = self._sums.get(name, (0, 0))
        return used / held if held else 1.0

    def rows(self) -> list[dict[str, str | int | float]]:
        """One row for each pool, for reports."""
        return [
            {
                "pool": pool.name,
                "used": pool.used,
                "used_max": self._used_max[pool.name],
                "held": pool.held,
                "capacity": pool.capacity,
                "held_bytes": pool.held * pool.row_bytes,
                "refused": pool.refused,
                "efficiency": round(self.efficiency(pool.name), 4),
            }
            for pool in self._last.values()
        ]

    def write(self, metrics: Metrics) -> None:
        """Set each pool's `NAME_used`, `_used_max`, `_held`, `_efficiency` and `_refused_total`."""
        for pool in self._last.values():
            metrics.set(f"{pool.name}_used", pool.used)
            metrics.set(f"{pool.name}_used_max", self._used_max[pool.name])
            metrics.set(f"{pool.name}_held", pool.held)
            metrics.set(f"{pool.name}_efficiency", self.efficiency(pool.name))
            metrics.set(f"{pool.name}_refused_total", pool.refused)
