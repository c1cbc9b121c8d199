"""A desk in `ahead` mode, opened and closed: its journal, its sidecar, its rings, and the engine that runs on them.

Opening is a take-over. A journal that a killed host left is drained first; the engine folds TAPE to its end and meets
EVENTS again, as in `gated` mode; then a fresh journal begins with an EPOCH record, and nothing is decided before that
record is on TAPE under the fence. Closing drains everything, so that `gated` mode could go on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tapehouse.app.code import code_hash
from tapehouse.app.following import Follower
from tapehouse.app.journals import POLL_NS, committed, finish_journal, forget_journal, journal_of, ring_prefix
from tapehouse.app.live import require_same_feed
from tapehouse.app.logs import Logs
from tapehouse.app.pinning import Cores, pin
from tapehouse.app.sidecars import SidecarRunner
from tapehouse.core.clock import Clock
from tapehouse.core.errors import BusUnavailableError, ConflictError, MissingError
from tapehouse.core.ids import new_writer_id
from tapehouse.core.metrics import Metrics
from tapehouse.core.tasks import cancel_all, first_failure, see_through
from tapehouse.desk.state import SYMBOL_IDS_MAX
from tapehouse.engine import ClockSource, GatedEngine, Sequencer, Strategy
from tapehouse.engine.ahead import AheadEngine, FeedRing, JournalWriter, Outlets, feed_sources
from tapehouse.engine.journal import Journal, JournalView, create_journal
from tapehouse.engine.sequencer import DESK_SOURCE, FeedKey, TapeState
from tapehouse.log import Message, Progress, SnapshotStore, read_tail
from tapehouse.log.writer import OUTAGE_ATTEMPTS_MAX
from tapehouse.market import Cause, Cells, Confidence, Kind, empty_cells, gap_record, records_of
from tapehouse.ring import RING_CELLS, Policy, Ring, RingConsumer, RingFullError, RingProducer, remove

DECIDED_CELLS = 1 << 18
COMMANDS_CELLS = 1 << 14
STAGES_CELLS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AheadOptions:
    """How a desk runs in `ahead` mode."""

    busy: bool = False  # spin all the time instead of napping where nothing is to do
    journal_cells: int = RING_CELLS
    feeds: tuple[str, ...] = ()  # rings of feeds, made by who feeds them
    orders: str | None = None  # the ring on which decided records leave at once
    stages: bool = True  # time every burst, beside the cells
    rings: Path | None = None  # the directory of all rings; None for the usual one
    cpus: Mapping[str, Cores] = field(default_factory=dict)  # the cores of each role


@dataclass(slots=True, kw_only=True)
class AheadDesk:
    """A desk in `ahead` mode: feeds can be added until it starts."""

    engine: AheadEngine
    sequencer: Sequencer
    gated: GatedEngine
    journal: RingProducer
    commands: RingProducer
    stages: RingConsumer | None
    sidecar: SidecarRunner
    clock: Clock
    prefix: str  # of the names of its rings
    cpus: Mapping[str, Cores]
    watched: asyncio.Task[None]  # the sidecar
    publishing: asyncio.Task[None] | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)  # what must not fail while it runs
    progress: Progress = field(init=False)  # of TAPE, once it is closed

    def start(self) -> None:
        """Begin to decide."""
        self.engine.start(on_thread=partial(pin, "engine", self.cpus))
        self.publishing = asyncio.create_task(self.engine.publish())
        self.tasks += [self.watched, asyncio.create_task(self.engine.failed()), self.publishing]

    async def admit(self, message: Message) -> None:
        """Give a message of CMDS its place among the inputs; waits while the ring of commands is full."""
        state = self.sequencer.state
        if message.sequence <= state.commands_through:
            return
        state.now = max(state.now, self.engine.engine.now)
        self.sequencer.metrics.add("commands_total")
        await self._put(self.sequencer.command_cells(message))

    async def tick(self) -> None:
        """Let time pass, though nothing else happens."""
        self.sequencer.state.now = max(self.sequencer.state.now, self.engine.engine.now)
        for _, definition in records_of(self.sequencer.session_cells(), Kind.DEFINITION):
            await self._put(definition)  # one by one: all of a tape's instruments may be more than the ring holds
        await self._put(self.sequencer.clock_cell())

    async def _put(self, cells: Cells) -> None:
        while True:
            try:
                self.commands.append(cells)
                return
            except RingFullError:  # The engine takes them by and by; where it died, its task tells.
                await self.clock.sleep_until(self.clock.monotonic_ns() + POLL_NS)

    async def settled(self) -> None:
        """Return when all that the rings hold is decided upon and durable in both logs."""
        while not self.engine.idle:
            await self.clock.sleep_until(self.clock.monotonic_ns() + POLL_NS)
        await self.engine.until(self.engine.ordinal)

    async def close(self) -> None:
        """Stop deciding, see everything durable, keep a snapshot; of an engine that failed none is kept.

        Raises:
            BusUnavailableError: The sidecar did not bring it to TAPE in time; the journal keeps it.
        """
        await self.engine.stop()
        words, head = Journal(self.journal), self.journal.head
        identity = words.identity()
        try:
            await committed(words, head, self.clock, [self.watched])
            self.progress = Progress(
                log_id=identity.log_id,
                sequence=words.committed_sequence,
                next_ordinal=identity.base_ordinal + head,
            )
            if self.publishing is not None:
                if self.engine.is_whole:
                    durable = asyncio.create_task(self.engine.until(identity.base_ordinal + head))
                    await first_failure(durable, [self.publishing])
                self.engine.end_publishing()
                await self.publishing
                while await self.engine.publish_ready():
                    pass
        finally:
            with suppress(Exception):  # Of one that failed beside the first nobody need hear.
                await cancel_all([*self.tasks, self.watched])
            self.journal.close()
        await self.sidecar.stop()
        if self.engine.is_whole:
            self.gated.moved_to(self.progress)
            await self.gated.save()


@asynccontextmanager
async def ahead_desk(
    name: str,
    logs: Logs,
    *,
    strategy: Strategy,
    sidecar: SidecarRunner,
    clock: Clock,
    clock_source: ClockSource | None = None,
    guard: bool = True,
    feed: str = "",
    now: int = 0,
    snapshots: SnapshotStore | None = None,
    options: AheadOptions | None = None,
    metrics: Metrics | None = None,
    follower: Follower | None = None,
    leader: dict[str, object] | None = None,
) -> AsyncIterator[AheadDesk]:
    """Take a tape over in `ahead` mode; on leaving in order, close the desk.

    Args:
        name: Of the tape, for the names of its rings.
        feed: Of a whole feed that is recorded; it is known again where the recording goes on.
        now: The tape's time, where a history begins.
        follower: Who has followed the tape so far; None for one that begins now.
        leader: For the EPOCH record.

    Raises:
        ConflictError: A living host has the tape, or another writer took it over.
        MissingError: A feed's ring is not there.
        IntegrityError: EVENTS does not fit TAPE.
    """
    options = options or AheadOptions()
    extent = await logs.tape.extent()
    prefix = ring_prefix(name, extent)
    journal_name = journal_of(name, extent)
    leftover = await finish_journal(journal_name, sidecar, clock, directory=options.rings)
    follower = follower or Follower(logs, strategy=strategy, snapshots=snapshots, guard=guard, chain_feed=bool(feed))
    state = await follower.fold.catch_up()
    if leftover is not None:
        forget_journal(journal_name, leftover, state.feeds, directory=options.rings)
    if feed:
        require_same_feed(state, feed, logs.tape.name)
    state = await follower.complete()
    gated = follower.gated
    gated.writer.attempts_max = OUTAGE_ATTEMPTS_MAX  # EVENTS may wait for as long as the spill of the journal does.
    if clock_source is None:
        clock_source = "history" if state.clock == "history" else "wall"
    state.now = max(state.now, now)
    tail = await read_tail(logs.tape)
    with ExitStack() as rings:
        journal = create_journal(
            journal_name,
            log_id=extent.log_id,
            writer=new_writer_id(),
            epoch=tail.header.epoch + 1 if tail.header else 1,
            base_ordinal=tail.next_ordinal,
            commands_through=state.commands_through,
            cells=options.journal_cells,
            directory=options.rings,
        )
        rings.callback(_drop_journal, journal, journal_name, options.rings)
        sequencer = Sequencer(
            logs.tape, JournalWriter(journal), state, clock_source=clock_source, clock=clock, code=code_hash(),
            metrics=metrics,
        )  # fmt: skip
        decided, published = ring_pair(rings, f"{prefix}-decided", DECIDED_CELLS, Policy.BLOCK, options.rings)
        commands, taken = ring_pair(rings, f"{prefix}-commands", COMMANDS_CELLS, Policy.FAIL, options.rings)
        stages: RingConsumer | None = None
        timed: RingProducer | None = None
        if options.stages:
            timed, stages = ring_pair(rings, f"{prefix}-stages", STAGES_CELLS, Policy.DROP, options.rings)
        orders = rings.enter_context(Ring.produce(options.orders, directory=options.rings)) if options.orders else None
        outlets = Outlets(decided=decided, published=published, orders=orders, stages=timed)
        engine = AheadEngine(
            gated.engine, sequencer, gated.writer, journal, outlets, clock=clock, busy=options.busy,
            metrics=sequencer.metrics,
        )  # fmt: skip
        # The desk's own ring has definitions too, and calls instruments as the tape does.
        engine.add_feed(
            FeedRing(name="commands", source=DESK_SOURCE, ring=taken), np.arange(SYMBOL_IDS_MAX, dtype=np.uint32)
        )
        attached = dict(state.attached)
        feeds = _attach_feeds(rings, options, feed_sources(options.feeds, state.feeds), state)
        sequencer.open_epoch(
            feed=feed or state.feed, mode="ahead", feeds={ring.name: ring.key for ring in feeds}, leader=leader
        )
        engine.append(sequencer.take_pending())
        engine.append(_lost_feeds(attached, feeds, sequencer.now))
        await sidecar.start(journal_name)
        desk = AheadDesk(
            engine=engine, sequencer=sequencer, gated=gated, journal=journal, commands=commands, stages=stages,
            sidecar=sidecar, clock=clock, prefix=prefix, cpus=options.cpus,
            watched=asyncio.create_task(sidecar.failed()),
        )  # fmt: skip
        try:
            await committed(Journal(journal), journal.head, clock, [desk.watched])
            for ring in feeds:
                engine.add_feed(ring, _known_ids(ring, state))
            yield desk
        except BaseException:
            with suppress(BusUnavailableError, ConflictError):  # What led here is what the caller must hear.
                await see_through(desk.close())  # Cut short, it would leave the loop on rings that are gone.
            raise
        await see_through(desk.close())


def ring_pair(
    rings: ExitStack, name: str, cells: int, policy: Policy, directory: Path | None
) -> tuple[RingProducer, RingConsumer]:
    """Both ends of a ring inside this process; what a killed one left in it is in a log or a file, or was never due."""
    Ring.create(name, cells=cells, policy=policy, directory=directory, reclaim=True)
    producer = Ring.produce(name, directory=directory)
    rings.callback(_drop, producer, name, directory)
    return producer, rings.enter_context(Ring.consume(name, directory=directory))


def _drop_journal(producer: RingProducer, name: str, directory: Path | None) -> None:
    """Let go of a journal, and remove it where TAPE has all of it: what is in the spill needs it still."""
    producer.close()
    with suppress(ConflictError):  # Its sidecar is still at it: it ends by itself, and the next desk sees to the rest.
        with Ring.observe(name, directory=directory) as ring:
            drained = JournalView(ring).committed == ring.head
        if drained:
            remove(name, directory=directory)


def _drop(producer: RingProducer, name: str, directory: Path | None) -> None:
    """Let go of a ring inside this process, and remove it."""
    producer.close()
    remove(name, directory=directory)


def _attach_feeds(rings: ExitStack, options: AheadOptions, sources: dict[str, int], state: TapeState) -> list[FeedRing]:
    """Become the consumer of every feed's ring; what it declared to an earlier life is on the tape."""
    feeds = []
    for name in options.feeds:
        try:
            ring = rings.enter_context(Ring.consume(name, directory=options.rings))
        except MissingError as error:
            raise MissingError(
                "no feed has made this ring", subject=name, hint=f"start one: tapehouse feeds push … --ring {name}"
            ) from error
        feed = FeedRing(name=name, source=sources[name], ring=ring)
        known = state.declared.get(feed.key.declared, {})
        numbers = {tape_id: feed_id for feed_id, tape_id in known.items()}
        for feed_id, tape_id in known.items():
            instrument = state.instruments[tape_id]
            underlying = numbers.get(instrument.underlying, 0)
            feed.declared[feed_id] = replace(instrument, id=feed_id, underlying=underlying)
        feeds.append(feed)
    return feeds


def _known_ids(feed: FeedRing, state: TapeState) -> npt.NDArray[np.uint32]:
    """The tape's ids of what a feed declared to an earlier life."""
    known = state.declared.get(feed.key.declared, {})
    table = np.zeros(max(known, default=0) + 1, np.uint32)
    table[list(known)] = list(known.values())
    return table


def _lost_feeds(attached: dict[str, FeedKey], feeds: list[FeedRing], now: int) -> Cells:
    """A GAP record for each feed of the life before whose ring is not there any more: what it held is missing."""
    there = {feed.name: feed.key for feed in feeds}
    lost = [key for name, key in sorted(attached.items()) if there.get(name) != key]
    gaps = [gap_record(Cause.DETACHED, Confidence.SUSPECT, ts_recv=now, source=key.source) for key in lost]
    return np.concatenate([empty_cells(0), *gaps])
