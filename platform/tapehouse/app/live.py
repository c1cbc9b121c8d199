"""A live desk in one process: a feed or nothing, commands, the sequencer, the engine in gated mode.

`record` puts a whole feed on a tape of its own with the strategy beside it; `serve` follows wall time and commands
until it is stopped. Both write the same two logs, so what runs here can be replayed from them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from tapehouse.app.code import code_hash
from tapehouse.app.following import Follower
from tapehouse.app.leadership import Leadership
from tapehouse.app.logs import Logs as Logs
from tapehouse.core.clock import Clock
from tapehouse.core.errors import ConflictError, DataError
from tapehouse.core.ids import new_writer_id
from tapehouse.core.metrics import Metrics
from tapehouse.core.tasks import cancel_all, first_failure
from tapehouse.engine import (
    ClockSource,
    Digests,
    Engine,
    GatedEngine,
    Sequencer,
    Strategy,
    TapeState,
    catch_up,
    listen,
    take_tape,
)
from tapehouse.engine import record as record_feed
from tapehouse.engine.sequencer import CLOCK_INTERVAL_NS
from tapehouse.feeds.port import Feed
from tapehouse.log import FrameWriter, SnapshotStore
from tapehouse.market import Cells


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordReport:
    """What a recording did."""

    cells: int
    feed_cells: int
    skipped_cells: int
    commands: int
    bytes: int | None  # None where another process wrote them
    record_seconds: float
    seconds: float
    last_sequence: int
    digests: Digests | None


async def batches_of(feed: Feed) -> AsyncIterator[Cells]:
    """A feed's batches, decoded in a thread so that acknowledgements are not kept waiting."""
    iterator = feed.batches()
    while True:
        cells = await asyncio.to_thread(next, iterator, None)
        if cells is None:
            return
        if len(cells):
            yield cells


async def chain_batches(first: Cells, rest: AsyncIterator[Cells]) -> AsyncIterator[Cells]:
    """A batch that was looked at already, and those after it."""
    yield first
    async for cells in rest:
        yield cells


async def first_batch(name: str, batches: AsyncIterator[Cells]) -> Cells:
    """The first batch of a feed; raises DataError where there is none."""
    first = await anext(batches, None)
    if first is None:
        raise DataError("there is nothing in it", subject=name, hint="is it the right file?")
    return first


def require_same_feed(state: TapeState, feed: str, tape: str) -> None:
    """Refuse to record a feed onto a tape that holds another one."""
    if state.feed and state.feed != feed:
        raise DataError(
            f"it holds the feed {state.feed!r}, not {feed!r}",
            subject=tape,
            hint="record each history into a tape of its own: --tape NAME",
        )


async def open_sequencer(
    logs: Logs, *, clock_source: ClockSource | None, clock: Clock, metrics: Metrics, chain_feed: bool = False
) -> tuple[Sequencer, FrameWriter]:
    """Take over a tape: read what a successor must know, become its writer.

    Args:
        clock_source: None for the one that the tape has; a new tape lives by wall time.
        chain_feed: The feed that the tape holds goes on: know it again.

    Raises:
        ConflictError: Somebody goes on writing it.
    """
    state, writer = await take_tape(logs.tape, writer=new_writer_id(), chain_feed=chain_feed)
    if clock_source is None:
        clock_source = "history" if state.clock == "history" else "wall"
    sequencer = Sequencer(
        logs.tape, writer, state, clock_source=clock_source, clock=clock, code=code_hash(), metrics=metrics
    )
    return sequencer, writer


async def record(
    feed: Feed,
    logs: Logs,
    *,
    strategy: Strategy | None,
    clock: Clock,
    guard: bool = True,
    snapshots: SnapshotStore | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> RecordReport:
    """Put a whole feed on a tape; with a strategy, the engine follows and its decisions go to EVENTS.

    A recording that was stopped goes on where it stopped: the cells that the tape already holds are skipped.

    Raises:
        ConflictError: Another sequencer took over the tape.
        DataError: The tape holds another feed, or the feed is damaged; what it gave before that stays.
        StrategyError: The strategy broke its contract; what was recorded stays.
    """
    metrics = Metrics()
    sequencer, writer = await open_sequencer(
        logs, clock_source="history", clock=clock, metrics=metrics, chain_feed=True
    )
    require_same_feed(sequencer.state, feed.name, logs.tape.name)
    skip = sequencer.state.feed_cells
    start = clock.monotonic_ns()
    batches = batches_of(feed)
    first = await first_batch(feed.name, batches)
    # A history's clock begins with its first record, not in 1970.
    sequencer.state.now = max(sequencer.state.now, int(first["ts_recv"][0]))
    engine = Engine(strategy, guard=guard) if strategy is not None else None
    await sequencer.begin(feed=feed.name)
    table = sequencer.define(feed.instruments)
    gated: GatedEngine | None = None
    tasks: list[asyncio.Task[None]] = []
    try:
        if logs.commands is not None:
            after = await catch_up(sequencer, logs.commands)
            tasks.append(asyncio.create_task(listen(sequencer, logs.commands, after=after)))
        if engine is not None:
            gated = GatedEngine(engine, logs.tape, logs.events, writer=new_writer_id(), snapshots=snapshots)
            await gated.open()
            tasks.append(asyncio.create_task(gated.run(follow=True)))
        pump = asyncio.create_task(
            record_feed(sequencer, chain_batches(first, batches), table, skip=skip, on_progress=on_progress)
        )
        await first_failure(pump, tasks)
        recorded = clock.monotonic_ns()
        if gated is not None:
            await first_failure(asyncio.create_task(gated.until(writer.last_sequence)), tasks)
    finally:
        await cancel_all(tasks)
    if gated is not None:
        await gated.save()
    return RecordReport(
        cells=writer.next_ordinal,
        feed_cells=sequencer.state.feed_cells,
        skipped_cells=skip,
        commands=int(metrics.get("commands_total")),
        bytes=writer.bytes_written,
        record_seconds=(recorded - start) / 1e9,
        seconds=(clock.monotonic_ns() - start) / 1e9,
        last_sequence=writer.last_sequence,
        digests=engine.digests() if engine is not None else None,
    )


async def serve(
    logs: Logs,
    *,
    strategy: Strategy,
    clock: Clock,
    snapshots: SnapshotStore | None = None,
    on_open: Callable[[Sequencer], None] | None = None,
    on_ready: Callable[[], None] | None = None,
    follower: Follower | None = None,
    leadership: Leadership | None = None,
    metrics: Metrics | None = None,
) -> None:
    """Follow commands, and wall time on a live tape, until cancelled: the desk of a tape without a feed.

    Args:
        on_open: Called with the sequencer, for those who watch how far it is.
        follower: Who has followed the tape so far; None for one that begins now.
        leadership: What is told how far the take-over is, and is given up at the end, once all that was decided is
            durable; None where nobody else may want the tape.

    Raises:
        ConflictError: Another host took over; this one is fenced off.
    """
    follower = follower or Follower(logs, strategy=strategy, snapshots=snapshots)
    leader = leadership.note() if leadership else None
    sequencer, _ = await follower.lead_gated(clock=clock, metrics=metrics or Metrics(), leader=leader)
    gated = follower.gated
    if on_open:
        on_open(sequencer)
    if leadership:
        leadership.folded()
    tasks = [asyncio.create_task(gated.run(follow=True))]
    try:
        if logs.commands is not None:
            after = await catch_up(sequencer, logs.commands)
            tasks.append(asyncio.create_task(listen(sequencer, logs.commands, after=after)))
        if on_ready:
            on_ready()
        await first_failure(asyncio.create_task(_keep_time(sequencer, clock)), tasks)
    finally:
        if leadership:
            leadership.stopped()
        await cancel_all(tasks)
        with suppress(ConflictError):
            await gated.complete()
            if leadership:
                await leadership.give_up()  # Before the snapshot: who takes over need not wait for it.
            await gated.save()


async def _keep_time(sequencer: Sequencer, clock: Clock) -> None:
    """Admit commands as they come, and a CLOCK cell at the latest every CLOCK_INTERVAL_NS."""
    due = clock.monotonic_ns()
    while True:
        admitted = sequencer.admit_commands()
        if admitted:
            await sequencer.flush()
        elif clock.monotonic_ns() >= due:
            if sequencer.clock_source == "wall":
                await sequencer.tick()
            due = clock.monotonic_ns() + CLOCK_INTERVAL_NS
        await sequencer.command_or(due, clock)
