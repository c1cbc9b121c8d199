"""A feed pushed into a ring: what a feed handler of a live venue does, done with a recorded or generated source.

A desk in `ahead` mode takes it from there. The instruments are declared first; the cells follow at the source's own
pace, at a factor of it, or as fast as the desk takes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tapehouse.app.live import batches_of
from tapehouse.core.clock import Clock
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.feeds.port import Feed
from tapehouse.market import Cells
from tapehouse.replay.pacing import Pacer
from tapehouse.ring import Policy, Ring, RingFullError, RingProducer

RING_WAIT_NS = 100_000_000  # a round of waiting for room; between two of them a Ctrl-C is heard
DESK_PATIENCE_NS = 60 * NS_PER_SECOND  # for another desk, where the one that took the cells has gone


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """What was pushed."""

    cells: int
    instruments: int
    dropped: int
    seconds: float
    lateness_p99_us: float


async def push(
    feed: Feed,
    name: str,
    *,
    clock: Clock,
    speed: float | None = None,
    stamp: bool = False,
    policy: Policy | None = None,
    cells: int | None = None,
    directory: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> PushReport:
    """Push a whole feed into a ring, and close the ring.

    Args:
        speed: A factor of the source's own pace by its receive times; None for as fast as the ring is drained.
        stamp: Give every cell the present time as its receive time, as a live feed handler does.
        policy, cells: Of a ring that is made here: to wait for the desk or to drop and leave gap records; its capacity.
            One that is there already must have the same, if they are given.

    Raises:
        ConflictError: Another process feeds the ring.
        DataError: The feed is bad; what came before the fault is in the ring.
    """
    start = clock.monotonic_ns()
    pacer: Pacer | None = None
    pushed = 0
    with Ring.produce(name, cells=cells, policy=policy, directory=directory) as ring:
        for instrument in sorted(feed.instruments, key=lambda declared: declared.underlying != 0):
            await append(ring, instrument.definition(ts_recv=clock.time_ns()), clock)
        async for batch in batches_of(feed):
            if speed is not None and pacer is None:
                pacer = Pacer(clock, speed, start_time=int(batch["ts_recv"][0]))
            at = 0
            while at < len(batch):
                end = len(batch) if pacer is None else await _due(pacer, batch, at)
                piece = batch[at:end]
                if stamp:
                    piece = piece.copy()
                    piece["ts_recv"][piece["cells"] > 0] = clock.time_ns()
                await append(ring, piece, clock)
                at = end
                pushed += len(piece)
                if on_progress:
                    on_progress(pushed)
        dropped = ring.dropped
    late = pacer.lateness_ns() if pacer is not None and pacer.samples else np.zeros(1, np.int64)
    return PushReport(
        cells=pushed,
        instruments=len(feed.instruments),
        dropped=dropped,
        seconds=(clock.monotonic_ns() - start) / 1e9,
        lateness_p99_us=float(np.percentile(late, 99)) / 1e3,
    )


async def _due(pacer: Pacer, batch: Cells, at: int) -> int:
    """Wait until the record at `at` is due; the end of all whole records that are due by then."""
    await pacer.wait(int(batch["ts_recv"][at]))
    starts = np.flatnonzero(batch["cells"][at:]) + at
    times = np.maximum.accumulate(batch["ts_recv"][starts])
    due = int(np.searchsorted(times, pacer.reached(), side="right"))
    following = starts[max(1, due) :]
    return int(following[0]) if len(following) else len(batch)


async def append(ring: RingProducer, cells: Cells, clock: Clock) -> None:
    """Append, for as long as a desk takes to make room; for one that has gone another may come."""
    at = 0
    deadline: int | None = None
    while at < len(cells):
        try:
            await asyncio.to_thread(ring.append, cells[at:], timeout_ns=RING_WAIT_NS)
            return
        except RingFullError as error:
            at += error.written
            if ring.consumer_alive() or not ring.tail:
                deadline = None
                continue
            now = clock.monotonic_ns()
            deadline = deadline or now + DESK_PATIENCE_NS
            if now >= deadline:
                raise
            await clock.sleep_until(now + RING_WAIT_NS)
