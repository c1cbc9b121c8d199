"""A replay session: a range of a tape, at some speed, into the same engine that runs live.

The tape may be the living stream, segments in a store, or memory: anything behind the `Log` port. The engine does not
know how fast it is fed, so every speed must give the same digests; `replay.prove` compares them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tapehouse.core.clock import Clock
from tapehouse.engine import Digests, Engine
from tapehouse.log import FrameHeader, Log, Progress, open_frame
from tapehouse.market import Cells
from tapehouse.replay.pacing import Pacer

YIELD_CELLS = 65_536  # folded between two moments in which other tasks may run
_FOR_EVER = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast: `speed` times tape time, None for as fast as possible; after `paced_ns` of tape time go on at max."""

    speed: float | None = None
    paced_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReport:
    """What a session did."""

    name: str
    digests: Digests
    seconds: float
    cells: int
    paced_seconds: float
    lateness_p50_us: float
    lateness_p99_us: float
    drift_us: float

    @property
    def cells_per_second(self) -> float:
        """Cells over the time of the whole session."""
        return self.cells / self.seconds if self.seconds else 0.0


class Session:
    """One run of one engine over one tape."""

    def __init__(
        self,
        name: str,
        tape: Log,
        engine: Engine,
        *,
        clock: Clock,
        pace: Pace | None = None,
        through: int | None = None,
        on_progress: Callable[[int], None] | None = None,
        on_outputs: Callable[[Cells], None] | None = None,
    ) -> None:
        self.name = name
        self._tape = tape
        self._engine = engine
        self._clock = clock
        self._pace = pace or Pace()
        self._through = through
        self._on_progress = on_progress
        self._on_outputs = on_outputs
        self._pacer: Pacer | None = None
        self._paced_until = 0
        self._paced_wall_ns = 0
        self._drift_ns = 0

    async def run(self) -> SessionReport:
        """Replay to the end, or through the sequence asked for.

        Raises:
            GapError, DecodeError, IntegrityError: The tape is damaged or its beginning missing; the sequence is named.
        """
        extent = await self._tape.extent()
        progress = Progress(log_id=extent.log_id_at(extent.first), sequence=extent.first - 1, next_ordinal=0)
        start = self._clock.monotonic_ns()
        since_yield = 0
        async for message in self._tape.read(extent.first, through=self._through):
            header, cells = open_frame(self._tape.name, message, extent, progress)
            progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
            await self._frame(header, cells, start)
            since_yield += len(cells)
            if since_yield >= YIELD_CELLS:
                await asyncio.sleep(0)
                since_yield = 0
            if self._on_progress:
                self._on_progress(header.next_ordinal)
        return self._report((self._clock.monotonic_ns() - start) / 1e9)

    async def _frame(self, header: FrameHeader, cells: Cells, wall_start: int) -> None:
        at = 0
        if self._pace.speed is not None:
            if self._pacer is None:
                self._pacer = Pacer(self._clock, self._pace.speed, start_time=header.first_time)
                held = self._pace.paced_ns
                self._paced_until = _FOR_EVER if held is None else header.first_time + held
            times = np.maximum.accumulate(np.where(cells["cells"] > 0, cells["ts_recv"], np.iinfo(np.int64).min))
            while at < len(cells):
                due = int(times[at])
                if due > self._paced_until:
                    break
                await self._pacer.wait(due)
                end = self._due_end(cells, times, at)
                self._apply(header, cells[at:end], at)
                at = end
                self._paced_wall_ns = self._clock.monotonic_ns() - wall_start
                self._drift_ns = self._clock.monotonic_ns() - self._pacer.due_ns(due)
        if at < len(cells):
            self._apply(header, cells[at:], at)

    def _due_end(self, cells: Cells, times: npt.NDArray[np.int64], at: int) -> int:
        """The end of the whole records that are due by now, at least one; `times` are the engine's at each cell."""
        assert self._pacer is not None
        reached = min(self._pacer.reached(), self._paced_until)
        end = max(int(np.searchsorted(times, reached, side="right")), at + int(cells["cells"][at]))
        while end < len(cells) and cells["cells"][end] == 0:
            end += 1
        return end

    def _apply(self, header: FrameHeader, cells: Cells, at: int) -> None:
        self._engine.apply(replace(header, first_ordinal=header.first_ordinal + at), cells)
        outputs = self._engine.take_outputs()
        if self._on_outputs is not None and len(outputs):
            self._on_outputs(outputs)

    def _report(self, seconds: float) -> SessionReport:
        late = self._pacer.lateness_ns() if self._pacer and self._pacer.samples else np.zeros(1, np.int64)
        return SessionReport(
            name=self.name,
            digests=self._engine.digests(),
            seconds=seconds,
            cells=self._engine.cells,
            paced_seconds=self._paced_wall_ns / 1e9,
            lateness_p50_us=float(np.percentile(late, 50)) / 1e3,
            lateness_p99_us=float(np.percentile(late, 99)) / 1e3,
            drift_us=self._drift_ns / 1e3,
        )
