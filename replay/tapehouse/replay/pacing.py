"""Pacing: which record is due when, at 1x, 10x, any factor or as fast as possible; and how late each one was.

Due times are derived from the first record's time on a monotonic clock, never from the record before, so that errors
do not add up. Time jumps in the tape are kept as they are.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tapehouse.core.clock import Clock
from tapehouse.core.errors import UsageError

SPEED_MAX = 1_000_000.0
SPIN_NS = 2_000_000  # the last stretch before a due time is spun through: event loops wake to the millisecond
STILL_READINGS_MAX = 1_000  # of a clock in a row, before it is taken for one that only moves when somebody sleeps
LATENESS_SAMPLES_MAX = 1_000_000


def parse_speed(text: str) -> float | None:
    """`1x`, `10x`, `0.5`, or `max` (None); raises UsageError for anything else."""
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed <= SPEED_MAX:
        raise UsageError(f"{text!r} is no speed", hint="use 1x, 10x, any factor such as 2.5x, or max")
    return speed


class Pacer:
    """Holds records back until they are due."""

    def __init__(self, clock: Clock, speed: float, *, start_time: int) -> None:
        self._clock = clock
        self._speed = speed
        self._tape_start = start_time
        self._wall_start = clock.monotonic_ns()
        self._lateness = np.zeros(LATENESS_SAMPLES_MAX, np.int64)
        self.samples = 0

    def due_ns(self, tape_time: int) -> int:
        """The monotonic time at which a record of that tape time is due."""
        return self._wall_start + int((tape_time - self._tape_start) / self._speed)

    def reached(self) -> int:
        """The tape time that is due now."""
        return self._tape_start + int((self._clock.monotonic_ns() - self._wall_start) * self._speed)

    async def wait(self, tape_time: int) -> None:
        """Return when that tape time is due, and note how late it is by then."""
        due = self.due_ns(tape_time)
        await self._clock.sleep_until(due - SPIN_NS)
        now = self._clock.monotonic_ns()
        still = 0
        while now < due:
            before, now = now, self._clock.monotonic_ns()
            still = still + 1 if now == before else 0
            if still >= STILL_READINGS_MAX:
                await self._clock.sleep_until(due)
                still = 0
        self._lateness[self.samples % LATENESS_SAMPLES_MAX] = now - due
        self.samples += 1

    def lateness_ns(self) -> npt.NDArray[np.int64]:
        """The noted delays, ns; at most the last LATENESS_SAMPLES_MAX."""
        return self._lateness[: min(self.samples, LATENESS_SAMPLES_MAX)]
