"""The clock port: the only way any part of tapehouse learns the time.

Cores take times as values. Shells take a `Clock`, so that tests and replays can give them a virtual one.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time, monotonic time and sleep, in nanoseconds."""

    def time_ns(self) -> int:
        """UTC now, ns since 1970."""
        ...

    def monotonic_ns(self) -> int:
        """A time that only grows, for durations, ns."""
        ...

    async def sleep_until(self, monotonic_ns: int) -> None:
        """Return at the given monotonic time, or at once if it has passed."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def time_ns(self) -> int:
        return time.time_ns()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    async def sleep_until(self, monotonic_ns: int) -> None:
        delay_ns = monotonic_ns - time.monotonic_ns()
        if delay_ns > 0:
            import asyncio  # Only whoever sleeps needs it; a page of help does not.

            await asyncio.sleep(delay_ns / 1e9)


class VirtualClock:
    """A clock that moves only when told to, or when somebody sleeps; for tests and simulations."""

    def __init__(self, start_ns: int = 0) -> None:
        self._now_ns = start_ns

    def time_ns(self) -> int:
        return self._now_ns

    def monotonic_ns(self) -> int:
        return self._now_ns

    def advance(self, duration_ns: int) -> None:
        """Move forward by `duration_ns` >= 0."""
        if duration_ns < 0:
            raise ValueError(f"a clock only moves forward, not by {duration_ns} ns")
        self._now_ns += duration_ns

    async def sleep_until(self, monotonic_ns: int) -> None:
        import asyncio

        self._now_ns = max(self._now_ns, monotonic_ns)
        await asyncio.sleep(0)
