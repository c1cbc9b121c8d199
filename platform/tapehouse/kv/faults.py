"""Faults that a drill injects into a running KV: delays and refusals, off unless somebody turns them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tapehouse.core.clock import Clock


@dataclass(slots=True, kw_only=True)
class Faults:
    """What is injected now; may be changed while the KV runs.

    Attributes:
        write_delay_ns: Before each append of a frame.
        view_delay_ns: Before a frame that was read is applied.
        refuses_write: Asked at each write; True refuses it before it is queued, with BusyError.
    """

    write_delay_ns: int = 0
    view_delay_ns: int = 0
    refuses_write: Callable[[], bool] | None = None

    @property
    def is_on(self) -> bool:
        """Whether any fault is injected."""
        return bool(self.write_delay_ns or self.view_delay_ns or self.refuses_write)


async def delay(clock: Clock, duration_ns: int) -> None:
    """Wait, where there is anything to wait for."""
    if duration_ns > 0:
        await clock.sleep_until(clock.monotonic_ns() + duration_ns)
