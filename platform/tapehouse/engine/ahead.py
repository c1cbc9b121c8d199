"""The engine in `ahead` mode: each input is decided upon in the very loop that puts it into the journal.

A thread runs the compiled loop (`ahead_loop`); outputs leave at once, through a ring, to whoever sends orders. The
sidecar brings the journal to TAPE; what TAPE has acknowledged is then published to EVENTS here, never earlier, so both
logs end up as `gated` mode would have written them, and a command is answered only when its answer is durable.

After a crash the journal is still there: the sidecar drains it, the engine folds TAPE as in `gated` mode, meets EVENTS
again, and begins a new epoch. `GatedEngine` does that; this class goes on from where it ends.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tapehouse.core.atomics import nap
from tapehouse.core.clock import Clock
from tapehouse.core.cycles import CycleScale, calibrate, cycles
from tapehouse.core.errors import ConflictError, DataError, InvariantError
from tapehouse.core.metrics import Metrics
from tapehouse.core.pools import PoolWatch
from tapehouse.desk.state import SYMBOL_IDS_MAX
from tapehouse.engine import ahead_loop
from tapehouse.engine.ahead_loop import (
    ADDRESS,
    BASE,
    CONTROLS,
    DEADLINE,
    DECIDED,
    FEED,
    FEED_COLUMNS,
    FEEDS,
    FEEDS_MAX,
    FENCED,
    FOLDED,
    FULL_TURNS,
    GAP_COUNTS,
    GAPS,
    JOURNAL,
    NAP_US,
    ORDERS,
    SENT,
    SOURCE,
    SPINS,
    STAGES,
    STALLED_TURNS,
    STOP,
    TURN,
    WITHHELD_TURNS,
)  # fmt: skip
from tapehouse.engine.journal import FENCED as FENCED_WORD
from tapehouse.engine.journal import Journal
from tapehouse.engine.machine import Engine
from tapehouse.engine.pools import pools_of
from tapehouse.engine.sequencer import FeedKey, Sequencer
from tapehouse.log import FrameWriter
from tapehouse.market import Cells, Instrument, Kind, empty_cells, read_definition, records_of, words
from tapehouse.ring import RingConsumer, RingProducer
from tapehouse.ring.layout import APPLICATION

FIRST_FEED_SOURCE = 16  # of feed rings, in the order in which the tape met them
HELD_CELLS_MAX = 1 << 20  # decided, and not yet published because TAPE has not acknowledged their inputs
DRAIN_CELLS = 1 << 16  # taken from the decided ring at once
HEARD_CELLS = 4096  # of definitions, read from a feed at once
PUBLISH_PAUSE_NS = 500_000
HOLD_PAUSE_NS = 5_000_000  # between two looks at what is decided while an append takes its time
STALL_PATIENCE_NS = 10_000_000_000  # for outputs to find room, when the loop is to end
SPINS_BEFORE_NAP = 20_000
NAP_DEFAULT_US = 50


@dataclass(slots=True, kw_only=True)
class FeedRing:
    """One feed: its ring, and what it has declared so far."""

    name: str
    source: int  # of its cells on the tape
    ring: RingConsumer
    declared: dict[int, Instrument] = field(default_factory=dict)

    @property
    def key(self) -> FeedKey:
        """How the tape knows it."""
        return FeedKey(source=self.source, ring=self.ring.creation.hex())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlets:
    """Where the loop sends what it decided: the ring to the publisher, and those that may be there beside it."""

    decided: RingProducer
    published: RingConsumer  # the other end of `decided`
    orders: RingProducer | None = None
    stages: RingProducer | None = None
    gaps: RingProducer | None = None  # when the loop was away, though nothing was to do
    gap_counts: int = 0  # of the cycle counter: how long a turn without work may take


class AheadEngine:
    """Runs an engine that stands at the end of TAPE over a journal that goes on from there."""

    def __init__(
        self,
        engine: Engine,
        sequencer: Sequencer,
        events: FrameWriter,
        journal: RingProducer,
        outlets: Outlets,
        *,
        clock: Clock,
        busy: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        """`busy` spins all the time, for the lowest latency: give it a core. Otherwise idle turns nap."""
        self.engine = engine
        self._sequencer = sequencer
        self._events = events
        self._journal = journal
        self._words = Journal(journal)
        self._base = self._words.identity().base_ordinal
        self._outlets = outlets
        self._clock = clock
        self.metrics = metrics or Metrics()
        self._feeds: list[FeedRing] = []
        self._feed_table = np.zeros((FEEDS_MAX, FEED_COLUMNS), np.int64)
        self._maps = np.zeros((FEEDS_MAX, SYMBOL_IDS_MAX), np.int64)
        self._cells = journal.view()
        self._slots = words(self._cells)
        self._control = np.zeros(CONTROLS, np.int64)
        control = self._control
        control[JOURNAL], control[BASE] = journal.address, self._base
        control[DECIDED] = outlets.decided.address
        control[ORDERS] = outlets.orders.address if outlets.orders else 0
        control[STAGES] = outlets.stages.address if outlets.stages else 0
        control[GAPS] = outlets.gaps.address if outlets.gaps else 0
        control[GAP_COUNTS] = outlets.gap_counts
        control[FENCED] = journal.address + APPLICATION + FENCED_WORD * 8
        control[SPINS], control[NAP_US] = SPINS_BEFORE_NAP, 0 if busy else NAP_DEFAULT_US
        self._held = _Held()
        self._scale: CycleScale | None = None
        self._pools = PoolWatch()
        self._published = self._base
        self._advanced = asyncio.Condition()
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._failure: asyncio.Future[None] | None = None
        self._on_thread: Callable[[], object] | None = None
        self._cells_before = engine.cells

    # Before it runs.

    def add_feed(self, feed: FeedRing, table: npt.NDArray[np.uint32] | None = None) -> None:
        """Take a feed's cells from now on.

        Args:
            table: The tape's ids of its instruments, as `Sequencer.define` returned them, where they are known.

        Raises:
            DataError: There are FEEDS_MAX already.
            InvariantError: The loop runs already.
        """
        if self._thread is not None:
            raise InvariantError("a feed cannot be added to a loop that runs", subject=feed.name)
        at = len(self._feeds)
        if at == FEEDS_MAX:
            raise DataError(f"an engine takes {FEEDS_MAX} feeds at most", subject=feed.name, hint="merge some of them")
        self._feeds.append(feed)
        self._feed_table[at, ADDRESS], self._feed_table[at, SOURCE] = feed.ring.address, feed.source
        if table is not None:
            self._note_ids(at, table)
        self._control[FEEDS] = len(self._feeds)

    def append(self, cells: Cells) -> None:
        """Put the sequencer's own records (the epoch, definitions) into the journal."""
        if len(cells):
            self._journal.append(cells)

    # While it runs.

    def start(self, *, on_thread: Callable[[], object] | None = None) -> None:
        """Run the loop in a thread of its own; `failed` tells how it ends if it ends by itself.

        Args:
            on_thread: Called first in that thread, to put it on its cores.
        """
        self._failure = asyncio.get_running_loop().create_future()
        self._on_thread = on_thread
        self._thread = threading.Thread(target=self._work, args=(asyncio.get_running_loop(),), name="tapehouse-engine")
        self._thread.start()

    async def failed(self) -> None:
        """Return never; raise what ended the loop."""
        assert self._failure is not None
        await asyncio.shield(self._failure)

    async def stop(self) -> None:
        """End the loop after its present turn; inputs that the feeds still hold stay there.

        Where what it decided cannot be sent on for STALL_PATIENCE_NS it ends all the same, and counts as halted.
        """
        if self._thread is None:
            return
        self._control[STOP] = 1
        deadline = self._clock.monotonic_ns() + STALL_PATIENCE_NS
        while self._thread.is_alive() and self._clock.monotonic_ns() < deadline:
            await self._clock.sleep_until(self._clock.monotonic_ns() + PUBLISH_PAUSE_NS)
        self._control[STOP] = 2
        await asyncio.to_thread(self._thread.join)
        if self._control[SENT] != self._journal.head:
            self.engine.halted = True
        self.engine.cells = self._cells_before + int(self._control[FOLDED])

    async def limit(self, monotonic_ns: int) -> None:
        """Have orders leave until a monotonic time alone; `allow_until` moves it."""
        self._scale = await asyncio.to_thread(calibrate, self._clock)
        self.allow_until(monotonic_ns)

    def allow_until(self, monotonic_ns: int) -> None:
        """Move the time until which orders may leave; what is decided later waits in the loop.

        What goes to TAPE and EVENTS goes on: there the fences decide.
        """
        if self._scale is None:
            raise InvariantError("the time until which orders may leave is moved before it is set")
        left_ns = monotonic_ns - self._clock.monotonic_ns()
        self._control[DEADLINE] = cycles() + round(left_ns / self._scale.ns_per_count)

    @property
    def is_whole(self) -> bool:
        """Whether it ran, and nothing that it took is half done."""
        return self._thread is not None and not self.engine.halted

    @property
    def ordinal(self) -> int:
        """The TAPE ordinal that the journal's next cell will have."""
        return self._base + self._journal.head

    @property
    def idle(self) -> bool:
        """Whether everything that the feeds gave is decided upon and sent on."""
        return all(feed.ring.lag == 0 for feed in self._feeds) and self._control[SENT] == self._journal.head

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            if self._on_thread is not None:
                self._on_thread()
            with self.engine.sending_to(self._push):
                self._run()
        except BaseException as error:  # Whatever it is, the waiting side must hear of it.
            self.engine.halted = True
            loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    def _run(self) -> None:
        control = self._control
        while True:
            arguments = (control, self._feed_table, self._maps, self._slots, *self.engine.arguments)
            why = ahead_loop.advance(*arguments)
            if why == ahead_loop.STOPPED:
                return
            if why == ahead_loop.FENCED_OFF:
                raise ConflictError(
                    "another writer has taken the tape over",
                    subject=self._sequencer.name,
                    position=f"cell {self.ordinal}",
                    hint="this host is fenced off and has stopped",
                )
            if why == ahead_loop.FEED_SPEAKS:
                self._hear(int(control[FEED]))
            elif why in (ahead_loop.UNDECLARED, ahead_loop.TORN_RECORD):
                self._refuse(why, self._feeds[int(control[FEED])])
            else:
                self._resolve(why)

    def _resolve(self, why: int) -> None:
        """Have the engine do in Python what its loop stopped for."""
        control = self._control
        at = int(control[FOLDED])
        row = at & (len(self._slots) // 2 - 1)
        following, turn = self.engine.resolve(why, self._cells, row, int(control[BASE]) + at - row)
        control[FOLDED], control[TURN] = at + following - row, turn

    def _push(self, outputs: Cells) -> None:
        """Send on what Python collected, as the loop does."""
        if self._outlets.orders is not None:
            self._await_deadline()
            self._outlets.orders.append(outputs)
        self._outlets.decided.append(outputs)

    def _await_deadline(self) -> None:
        """Wait in the engine's thread while orders may not leave, as the loop does.

        Raises:
            ConflictError: The desk was ended meanwhile.
        """
        control = self._control
        while control[DEADLINE] and cycles() > control[DEADLINE]:
            if control[STOP] > 1 or self._words.is_fenced:
                raise ConflictError(
                    "an order may not leave: the tape's lease ran out", subject=self._sequencer.name,
                    hint="tapehouse status shows who leads",
                )  # fmt: skip
            control[WITHHELD_TURNS] += 1
            nap(ahead_loop.NAP_WITHHELD_US)

    def _hear(self, at: int) -> None:
        """Take the definitions that a feed sends, and put them on the tape before their first use."""
        feed = self._feeds[at]
        cells = feed.ring.readable(HEARD_CELLS)
        taken = 0
        for start, record in records_of(cells, Kind.DEFINITION):
            if start != taken:
                break
            instrument = read_definition(record)
            feed.declared[instrument.id] = instrument
            taken += len(record)
        if not taken:
            raise DataError(
                f"a feed may not say a record of kind {int(cells['kind'][0])}", subject=feed.name, hint="mend the feed"
            )
        table = self._sequencer.define_after(self.engine.instruments, tuple(feed.declared.values()))
        if table is None:
            return  # The feed keeps its definitions until what a command or calendar defined has come to the tape.
        self._note_ids(at, table)
        self._sequencer.note_declared(
            feed.key.declared, {number: int(table[number]) for number in feed.declared}, source=feed.source
        )
        self.append(self._sequencer.take_pending())
        feed.ring.release(taken)

    def _note_ids(self, at: int, table: npt.NDArray[np.uint32]) -> None:
        if len(table) > SYMBOL_IDS_MAX:
            raise DataError(
                f"a feed's instrument ids end at {SYMBOL_IDS_MAX - 1}, not {len(table) - 1}",
                subject=self._feeds[at].name,
            )
        self._maps[at, : len(table)] = table

    def _refuse(self, why: int, feed: FeedRing) -> None:
        cells = feed.ring.readable(HEARD_CELLS)
        if why == ahead_loop.UNDECLARED and len(cells):
            raise DataError(
                f"the feed did not declare instrument {int(cells['instrument'][0])}",
                subject=feed.name,
                hint="a feed sends a definition before an instrument's first record",
            )
        raise DataError("a record in its ring is cut short", subject=feed.name, hint="this is the feed's bug")

    # Publishing.

    async def publish(self) -> None:
        """Publish to EVENTS what was decided on inputs that TAPE has acknowledged, until `end_publishing`.

        Raises:
            ConflictError: Another engine has taken over EVENTS.
        """
        while not self._is_closing:
            if not await self.publish_ready():
                await self._clock.sleep_until(self._clock.monotonic_ns() + PUBLISH_PAUSE_NS)

    def end_publishing(self) -> None:
        """Have `publish` return after the append under way: one that is cut short would leave a hole in EVENTS."""
        self._is_closing = True

    async def publish_ready(self) -> bool:
        """Publish what can be published now; whether the position moved."""
        through = self._base + min(self._words.committed, int(self._control[SENT]))
        self._hold()
        if through <= self._published:
            self.metrics.set("orders_withheld_turns_total", int(self._control[WITHHELD_TURNS]))  # Why it stands still.
            return False
        ready = self._held.take(through)
        if len(ready):
            await self._append(ready, through)
        async with self._advanced:
            self._published = through
            self._advanced.notify_all()
        self._measure()
        return True

    async def _append(self, ready: Cells, through: int) -> None:
        """Append to EVENTS; in an outage that takes long, and what is decided meanwhile must not stop the loop."""
        append = asyncio.create_task(self._events.append(ready, input_ordinal=through))
        try:
            while not append.done():
                pause = asyncio.ensure_future(self._clock.sleep_until(self._clock.monotonic_ns() + HOLD_PAUSE_NS))
                await asyncio.wait({append, pause}, return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
                self._hold()
        finally:
            if not append.done():
                append.cancel()
                await asyncio.gather(append, return_exceptions=True)
        append.result()

    def _hold(self) -> None:
        """Take up what was decided, to hold it until TAPE has acknowledged what led to it."""
        while self._held.cells < HELD_CELLS_MAX:
            cells = self._outlets.published.readable(DRAIN_CELLS)
            if not len(cells):
                break
            kept = cells.copy()
            self._outlets.published.release(len(kept))
            self.engine.note(kept)
            self._held.add(kept)

    async def until(self, ordinal: int) -> None:
        """Return when everything decided on the inputs before a TAPE ordinal is durable in EVENTS.

        `publish` must run meanwhile: whoever waits watches it.
        """
        async with self._advanced:
            await self._advanced.wait_for(lambda: self._published >= ordinal)

    def _measure(self) -> None:
        control, metrics = self._control, self.metrics
        metrics.set("journal_cells_total", self._journal.head)
        metrics.set("journal_lag_cells", self._journal.head - self._journal.tail)
        metrics.set("journal_full_turns_total", int(control[FULL_TURNS]))
        metrics.set("outputs_stalled_turns_total", int(control[STALLED_TURNS]))
        metrics.set("orders_withheld_turns_total", int(control[WITHHELD_TURNS]))
        metrics.set("decided_held_cells", self._held.cells)
        self._pools.observe(pools_of(self.engine))
        self._pools.write(metrics)


class _Held:
    """Decided records that wait until TAPE has acknowledged the inputs that led to them."""

    def __init__(self) -> None:
        self._chunks: list[Cells] = []
        self.cells = 0

    def add(self, cells: Cells) -> None:
        self._chunks.append(cells)
        self.cells += len(cells)

    def take(self, through: int) -> Cells:
        """The records decided on inputs before an ordinal, in order; they are not held any more."""
        ready: list[Cells] = []
        while self._chunks:
            chunk = self._chunks[0]
            starts = np.flatnonzero(chunk["cells"])
            cut = int(np.searchsorted(chunk["sequence"][starts], through))  # inputs only grow
            if cut < len(starts):
                ready.append(chunk[: starts[cut]])
                self._chunks[0] = chunk[starts[cut] :]
                break
            ready.append(self._chunks.pop(0))
        taken = np.concatenate(ready) if ready else empty_cells(0)
        self.cells -= len(taken)
        return taken


def feed_sources(names: Sequence[str], known: Mapping[str, FeedKey]) -> dict[str, int]:
    """The `source` of each feed: the one that the tape knows it by, or the next free one."""
    sources = {name: key.source for name, key in known.items()}
    for name in names:
        sources.setdefault(name, FIRST_FEED_SOURCE + len(sources))
    return sources


class JournalWriter:
    """A journal as the sequencer's way to the tape: its sidecar appends the frames."""

    def __init__(self, journal: RingProducer) -> None:
        self._journal = journal
        self._identity = Journal(journal).identity()

    @property
    def epoch(self) -> int:
        """The epoch that the sidecar's frames carry."""
        return self._identity.epoch

    async def append(self, cells: Cells, *, input_ordinal: int = 0) -> int:
        """Put whole records into the journal; returns its head. The sidecar sees the commands among the cells."""
        self._journal.append(cells)
        return self._journal.head


__all__ = ["AheadEngine", "FeedRing", "JournalWriter", "Outlets", "feed_sources"]
