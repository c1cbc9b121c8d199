"""Stage timings of a desk in `ahead` mode, kept beside the logs: Parquet files that the table `stages` reads.

The compiled loop notes, for every burst of cells that it took, the cycle counter at four moments. Here the counts
become times. Nothing of it reaches a log, a decision or a digest; what a slow disk could not take is dropped, and
counted. The newest FILES_MAX files are kept.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import polars as pl

from tapehouse.core.clock import Clock
from tapehouse.core.cycles import CycleScale, calibrate
from tapehouse.core.metrics import Metrics
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.market import Cells, Kind, words
from tapehouse.query.stages import STAGES_SCHEMA
from tapehouse.ring import RingConsumer

FILES_MAX = 64
ROWS_A_FILE = 1 << 18
FLUSH_INTERVAL_NS = 10 * NS_PER_SECOND  # a file at the latest after so long, if there is anything
POLL_NS = NS_PER_SECOND // 20


class StageKeeper:
    """Reads the ring of stage timings and writes the files."""

    def __init__(self, ring: RingConsumer, directory: Path, *, clock: Clock, metrics: Metrics) -> None:
        self._ring = ring
        self._directory = directory
        self._clock = clock
        self._metrics = metrics
        self._scale: CycleScale | None = None
        self._wall_ns = 0
        self._frames: list[pl.DataFrame] = []
        self._rows = 0
        self._flushed_ns = clock.monotonic_ns()

    async def run(self) -> None:
        """Keep what comes, until cancelled; then `close`."""
        self._scale = await asyncio.to_thread(calibrate, self._clock)
        self._wall_ns = self._clock.time_ns() - self._clock.monotonic_ns()
        while True:
            if not self.take():
                await self._clock.sleep_until(self._clock.monotonic_ns() + POLL_NS)
            now = self._clock.monotonic_ns()
            if self._rows >= ROWS_A_FILE or (self._rows and now - self._flushed_ns >= FLUSH_INTERVAL_NS):
                await asyncio.to_thread(self.flush)

    def take(self) -> int:
        """Take what is in the ring; how many bursts it was."""
        cells = self._ring.readable()
        if not len(cells) or self._scale is None:
            return 0
        taken = len(cells)
        frame = stage_rows(cells, self._scale, self._wall_ns)
        self._ring.release(taken)
        self._frames.append(frame)
        self._rows += len(frame)
        self._metrics.set("stages_dropped_total", self._ring.dropped)
        return taken

    def flush(self) -> None:
        """Write what was taken to a file of its own; the oldest files beyond FILES_MAX go."""
        if not self._rows:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        frame = pl.concat(self._frames)
        self._frames, self._rows, self._flushed_ns = [], 0, self._clock.monotonic_ns()
        path = self._directory / f"{int(frame['ts_ns'][0]):020d}.parquet"
        draft = path.with_suffix(".draft")
        frame.write_parquet(draft, compression="zstd", compression_level=1)
        draft.rename(path)
        for old in sorted(self._directory.glob("*.parquet"))[:-FILES_MAX]:
            old.unlink()

    def close(self) -> None:
        """Take and write what is left."""
        self.take()
        self.flush()


def stage_rows(cells: Cells, scale: CycleScale, wall_ns: int) -> pl.DataFrame:
    """The ring's records as rows of the table `stages`.

    Args:
        scale: From counts to monotonic ns.
        wall_ns: What monotonic ns lack to UTC ns.
    """
    rows = words(cells[cells["kind"] == Kind.RAW])
    counts = rows[:, :4]
    steps = np.rint(np.diff(counts, axis=1) * scale.ns_per_count).astype(np.int64)
    monotonic = scale.monotonic_ns + np.rint((counts[:, 0] - scale.count) * scale.ns_per_count).astype(np.int64)
    columns = {
        "ts_ns": monotonic + wall_ns,
        "ordinal": rows[:, 4],
        "cells": rows[:, 5],
        "feed": rows[:, 7],
        "journal_ns": steps[:, 0],
        "decide_ns": steps[:, 1],
        "send_ns": steps[:, 2],
        "total_ns": steps.sum(axis=1),
    }
    return pl.DataFrame(columns, schema=STAGES_SCHEMA)
