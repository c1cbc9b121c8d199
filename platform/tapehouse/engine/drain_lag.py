"""How far a sidecar is behind, measured as it goes: cells, time, and how large its frames are."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tapehouse.core.clock import Clock
from tapehouse.core.metrics import Metrics

FRAMES_REMEMBERED = 1024  # whose sizes the median is of
SIGHTINGS_MAX = 4096  # heads whose time is remembered; with more than that waiting, time is measured more coarsely


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """What one life of a sidecar did, and what it left."""

    ended: str
    cells: int
    frames: int
    stored_bytes: int
    frame_cells_p50: int
    frame_cells_max: int
    left_cells: int  # published by the producer, and not where they belong
    spilled_cells: int  # of these, in the spill
    next_ordinal: int  # of the first cell that was not taken from the ring
    outages: int
    dropped_records: int  # by the producer, since the ring was made
    lag_cells_max: int
    lag_ms_max: float
    seconds: float


class LagWatch:
    """Counts what was drained, and for how long cells wait."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._sightings: deque[tuple[int, int]] = deque()  # (head, when it was first seen)
        self._sizes: deque[int] = deque(maxlen=FRAMES_REMEMBERED)
        self._frame_cells_max = 0
        self.cells = 0
        self.lag_ns_max = 0

    def saw(self, head: int) -> None:
        """Remember when the producer's head was seen there first."""
        newest = self._sightings[-1][0] if self._sightings else -1
        if head > newest and len(self._sightings) < SIGHTINGS_MAX:
            self._sightings.append((head, self._clock.monotonic_ns()))

    def committed(self, index: int) -> None:
        """Everything below a ring index has arrived."""
        now = self._clock.monotonic_ns()
        while len(self._sightings) > 1 and self._sightings[0][0] <= index:
            self.lag_ns_max = max(self.lag_ns_max, now - self._sightings.popleft()[1])
        if self._sightings and self._sightings[0][0] <= index:  # The newest stays, so that it is not seen again.
            head, seen = self._sightings[0]
            self.lag_ns_max = max(self.lag_ns_max, now - seen)
            self._sightings[0] = (head, now)

    def drained(self, cells: int, stored_bytes: int) -> None:
        """Count one frame that left the ring."""
        self.cells += cells
        self._sizes.append(cells)
        self._frame_cells_max = max(self._frame_cells_max, cells)
        self._metrics.add("drain_frames_total")
        self._metrics.add("drain_cells_total", cells)
        self._metrics.add("drain_bytes_total", stored_bytes)

    def note(self, left_cells: int) -> None:
        """Set the gauges that are cheap to know."""
        metrics = self._metrics
        metrics.set("drain_lag_cells", left_cells)
        metrics.set("drain_lag_cells_max", max(metrics.get("drain_lag_cells_max"), left_cells))
        waiting_ns = self._clock.monotonic_ns() - self._sightings[0][1] if left_cells and self._sightings else 0
        metrics.set("drain_lag_ms", waiting_ns / 1e6)
        metrics.set("drain_lag_ms_max", self.lag_ns_max / 1e6)
        metrics.set("drain_frame_cells_max", self._frame_cells_max)

    @property
    def frame_cells_p50(self) -> int:
        """The median size of the last FRAMES_REMEMBERED frames."""
        return sorted(self._sizes)[len(self._sizes) // 2] if self._sizes else 0

    def report(
        self,
        *,
        ended: str,
        left_cells: int,
        spilled_cells: int,
        dropped: int,
        next_ordinal: int,
        duration_ns: int,
    ) -> DrainReport:
        """Everything, at the end."""
        metrics = self._metrics
        metrics.set("drain_frame_cells_p50", self.frame_cells_p50)
        return DrainReport(
            ended=ended,
            cells=self.cells,
            frames=int(metrics.get("drain_frames_total")),
            stored_bytes=int(metrics.get("drain_bytes_total")),
            frame_cells_p50=self.frame_cells_p50,
            frame_cells_max=self._frame_cells_max,
            left_cells=left_cells,
            spilled_cells=spilled_cells,
            next_ordinal=next_ordinal,
            outages=int(metrics.get("drain_outages_total")),
            dropped_records=dropped,
            lag_cells_max=int(metrics.get("drain_lag_cells_max")),
            lag_ms_max=round(self.lag_ns_max / 1e6, 3),
            seconds=round(duration_ns / 1e9, 3),
        )
