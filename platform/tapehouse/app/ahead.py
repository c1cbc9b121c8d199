"""A live desk in `ahead` mode: what `app.live` does in `gated` mode, with the engine in front of the journal.

The two modes put the same cells on TAPE for the same feed, and decide alike; only the moment at which an output may
leave differs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tapehouse.app.ahead_desk import AheadDesk, AheadOptions, ahead_desk, ring_pair
from tapehouse.app.following import Follower
from tapehouse.app.leadership import Leadership
from tapehouse.app.live import RecordReport, batches_of, chain_batches, first_batch
from tapehouse.app.logs import Logs
from tapehouse.app.sidecars import SidecarRunner
from tapehouse.app.stages import StageKeeper
from tapehouse.core.clock import Clock
from tapehouse.core.errors import TapehouseError
from tapehouse.core.metrics import Metrics
from tapehouse.core.tasks import first_failure
from tapehouse.engine import Sequencer, Strategy, new_cells
from tapehouse.engine.ahead import FeedRing
from tapehouse.engine.sequencer import CLOCK_INTERVAL_NS, FEED_SOURCE
from tapehouse.feeds.port import Feed
from tapehouse.log import Log, SnapshotStore
from tapehouse.market import Cells
from tapehouse.ring import Policy, RingConsumer, RingProducer

FEED_CELLS = 1 << 17


async def record_ahead(
    name: str,
    feed: Feed,
    logs: Logs,
    *,
    strategy: Strategy,
    sidecar: SidecarRunner,
    clock: Clock,
    guard: bool = True,
    snapshots: SnapshotStore | None = None,
    options: AheadOptions | None = None,
    timings: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> RecordReport:
    """Put a whole feed on a tape through the journal, the strategy deciding before it is durable.

    Raises:
        As `app.live.record`.
    """
    metrics = Metrics()
    start = clock.monotonic_ns()
    batches = batches_of(feed)
    first = await first_batch(feed.name, batches)
    options = options or AheadOptions()
    async with ahead_desk(
        name, logs, strategy=strategy, sidecar=sidecar, clock=clock, clock_source="history", guard=guard,
        feed=feed.name, now=int(first["ts_recv"][0]), snapshots=snapshots, options=options, metrics=metrics,
    ) as desk:  # fmt: skip
        state = desk.sequencer.state
        skip = state.feed_cells
        table = desk.sequencer.define(feed.instruments)
        desk.engine.append(desk.sequencer.take_pending())
        with feed_ring(f"{desk.prefix}-feed", options) as (producer, consumer):
            desk.engine.add_feed(FeedRing(name=feed.name, source=FEED_SOURCE, ring=consumer), table)
            desk.start()
            after = await _catch_up(desk, logs.commands) if logs.commands is not None else 0
            if logs.commands is not None:
                desk.tasks.append(asyncio.create_task(_listen(desk, logs.commands, after=after)))
            fresh = new_cells(desk.sequencer, chain_batches(first, batches), table, skip=skip, on_progress=on_progress)
            with keeping_stages(desk, timings):
                await first_failure(asyncio.create_task(_pump(fresh, producer, desk)), desk.tasks)
                recorded = clock.monotonic_ns()
                await first_failure(asyncio.create_task(desk.settled()), desk.tasks)
    engine = desk.engine.engine
    return RecordReport(
        cells=desk.progress.next_ordinal,
        feed_cells=state.feed_cells,
        skipped_cells=skip,
        commands=int(metrics.get("commands_total")),
        bytes=None,
        record_seconds=(recorded - start) / 1e9,
        seconds=(clock.monotonic_ns() - start) / 1e9,
        last_sequence=desk.progress.sequence,
        digests=engine.digests(),
    )


async def serve_ahead(
    name: str,
    logs: Logs,
    *,
    strategy: Strategy,
    sidecar: SidecarRunner,
    clock: Clock,
    snapshots: SnapshotStore | None = None,
    options: AheadOptions | None = None,
    timings: Path | None = None,
    metrics: Metrics | None = None,
    on_open: Callable[[Sequencer], None] | None = None,
    on_ready: Callable[[], None] | None = None,
    follower: Follower | None = None,
    leadership: Leadership | None = None,
) -> None:
    """Follow feed rings, commands and wall time until cancelled.

    Args:
        timings: Where stage timings are kept.
        on_open: Called with the sequencer, for those who watch how far it is.
        follower: Who has followed the tape so far; None for one that begins now.
        leadership: What says until when orders may leave; None where nothing limits it.

    Raises:
        ConflictError: Another host took over; this one is fenced off.
    """
    async with ahead_desk(
        name, logs, strategy=strategy, sidecar=sidecar, clock=clock, snapshots=snapshots, options=options,
        metrics=metrics, follower=follower, leader=leadership.note() if leadership else None,
    ) as desk:  # fmt: skip
        if on_open:
            on_open(desk.sequencer)
        if leadership is not None:
            leadership.folded()
            await desk.engine.limit(leadership.lease.valid_until_ns)
            leadership.on_deadline = desk.engine.allow_until
        desk.start()
        after = await _catch_up(desk, logs.commands) if logs.commands is not None else 0
        if logs.commands is not None:
            desk.tasks.append(asyncio.create_task(_listen(desk, logs.commands, after=after)))
        if on_ready:
            on_ready()
        try:
            with keeping_stages(desk, timings):
                await first_failure(asyncio.create_task(_keep_time(desk, clock)), desk.tasks)
        finally:
            if leadership is not None:
                leadership.stopped()


@contextmanager
def keeping_stages(desk: AheadDesk, directory: Path | None) -> Iterator[None]:
    """Meanwhile, keep the desk's stage timings in a directory, if it takes them."""
    if desk.stages is None or directory is None:
        yield
        return
    keeper = StageKeeper(desk.stages, directory, clock=desk.clock, metrics=desk.sequencer.metrics)
    task = asyncio.create_task(keeper.run())
    desk.tasks.append(task)
    try:
        yield
    finally:
        task.cancel()
        keeper.close()


@contextmanager
def feed_ring(name: str, options: AheadOptions) -> Iterator[tuple[RingProducer, RingConsumer]]:
    """Both ends of a ring for a feed that this process reads itself."""
    with ExitStack() as rings:
        yield ring_pair(rings, name, FEED_CELLS, Policy.BLOCK, options.rings)


async def _catch_up(desk: AheadDesk, commands: Log) -> int:
    """Admit what waits in CMDS; returns the last sequence that was looked at."""
    extent = await commands.extent()
    first = max(extent.first, desk.sequencer.state.commands_through + 1)
    async for message in commands.read(first, through=extent.last):
        await desk.admit(message)
    return max(extent.last, desk.sequencer.state.commands_through)


async def _listen(desk: AheadDesk, commands: Log, *, after: int) -> None:
    async for message in commands.read(after + 1, follow=True):
        await desk.admit(message)


async def _pump(batches: AsyncIterator[Cells], ring: RingProducer, desk: AheadDesk) -> None:
    """Put a feed's cells into its ring, at the pace of the engine; where the feed fails, what it gave is kept."""
    try:
        async for cells in batches:
            await asyncio.to_thread(ring.append, cells)
            desk.sequencer.state.feed_cells += len(cells)
    except TapehouseError:
        await desk.settled()
        raise


async def _keep_time(desk: AheadDesk, clock: Clock) -> None:
    """A CLOCK cell every CLOCK_INTERVAL_NS on a tape that lives by wall time."""
    while True:
        if desk.sequencer.clock_source == "wall":
            await desk.tick()
        await clock.sleep_until(clock.monotonic_ns() + CLOCK_INTERVAL_NS)
