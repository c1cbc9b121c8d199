"""Faults that a drill injects into a running KV: delays and refusals, off unless somebody turns them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from tapehouse.core.clock import Clock
from tapehouse.core.errors import UsageError
from tapehouse.core.units import NS_PER_SECOND

DELAY_NS_MAX = 3_600 * NS_PER_SECOND
SEED_MAX = 2**63 - 1
NS_PER_MS = NS_PER_SECOND // 1_000


class SomeWrites:
    """Refuses each write with a probability; which ones is drawn from a seed, and the same for the same seed.

    Raises:
        UsageError: It is no probability, or no seed.
    """

    def __init__(self, probability: float, seed: int = 0) -> None:
        if not 0 <= probability <= 1:
            raise UsageError(f"a probability of {probability:g}", hint="0 to 1")
        if not 0 <= seed <= SEED_MAX:
            raise UsageError(f"a seed of {seed}", hint=f"0 to {SEED_MAX}")
        self.probability = probability
        self.seed = seed
        self._asked = 0
        self._below = int(probability * 2**64)

    def __call__(self) -> bool:
        self._asked += 1
        return xxhash.xxh3_64_intdigest(self._asked.to_bytes(8, "little"), seed=self.seed) < self._below


@dataclass(slots=True, kw_only=True)
class Faults:
    """What is injected now; may be changed while the KV runs.

    Attributes:
        write_delay_ns: Before each append of a frame.
        view_delay_ns: Before a frame that was read is applied.
        snapshot_delay_ns: Before a local snapshot is written.
        refuses_write: Asked at each write; True refuses it before it is queued, with BusyError.
    """

    write_delay_ns: int = 0
    view_delay_ns: int = 0
    snapshot_delay_ns: int = 0
    refuses_write: Callable[[], bool] | None = None

    @property
    def is_on(self) -> bool:
        """Whether any fault is injected."""
        return bool(self.write_delay_ns or self.view_delay_ns or self.snapshot_delay_ns or self.refuses_write)

    def told(self) -> dict[str, str | float | int]:
        """What is injected now, as status pages say it; empty where nothing is."""
        found: dict[str, str | float | int] = {
            name: f"{ns / NS_PER_MS:g}ms"
            for name, ns in (
                ("write_delay", self.write_delay_ns), ("view_delay", self.view_delay_ns),
                ("snapshot_delay", self.snapshot_delay_ns),
            )
            if ns
        }  # fmt: skip
        if isinstance(self.refuses_write, SomeWrites):
            found |= {"write_failure": self.refuses_write.probability, "write_failure_seed": self.refuses_write.seed}
        elif self.refuses_write is not None:
            found["write_failure"] = "some"
        return found

    def turn(
        self,
        *,
        write_delay_ns: int | None = None,
        view_delay_ns: int | None = None,
        snapshot_delay_ns: int | None = None,
        write_failure: float | None = None,
        seed: int = 0,
    ) -> None:
        """Change what is named and leave the rest; 0 turns a fault off.

        Raises:
            UsageError: A delay that is too long or negative, no probability, no seed; nothing was changed.
        """
        refuses = SomeWrites(write_failure, seed) if write_failure else None
        delays = {
            "write_delay_ns": write_delay_ns, "view_delay_ns": view_delay_ns, "snapshot_delay_ns": snapshot_delay_ns,
        }  # fmt: skip
        for name, ns in delays.items():
            if ns is not None and not 0 <= ns <= DELAY_NS_MAX:
                raise UsageError(f"{name} of {ns}", hint=f"0 to {DELAY_NS_MAX}")
        for name, ns in delays.items():
            if ns is not None:
                setattr(self, name, ns)
        if write_failure is not None:
            self.refuses_write = refuses


async def delay(clock: Clock, duration_ns: int) -> None:
    """Wait, where there is anything to wait for."""
    if duration_ns > 0:
        await clock.sleep_until(clock.monotonic_ns() + duration_ns)
