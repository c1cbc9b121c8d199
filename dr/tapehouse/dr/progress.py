"""How long work tells what it has done: a callback with (log, messages done, messages in all)."""

from __future__ import annotations

from collections.abc import Callable

ReportProgress = Callable[[str, int, int], None]


class Meter:
    """Counts messages over several logs for one callback."""

    def __init__(self, report: ReportProgress | None, total: int) -> None:
        self._report = report
        self._total = total
        self.done = 0

    def add(self, log: str, count: int = 1) -> None:
        """Count messages of a log."""
        self.done += count
        if self._report is not None and count:
            self._report(log, self.done, self._total)
