"""The sequencer: the only writer of a TAPE, and so the one who says what came before what.

It takes a feed's cells, the commands of CMDS and the clock, allots instrument ids, and appends whole records in one
order. Every take-over begins with an EPOCH record that says by whom, in which mode, with which clock and which code. A
frame's `input_ordinal` is the CMDS sequence that the tape has consumed through, so that a successor knows where to go
on; how much of a feed is there is counted from the tape itself.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from tapehouse.core.clock import Clock
from tapehouse.core.digest import DigestChain
from tapehouse.core.errors import DataError, GapError, IntegrityError, TapehouseError
from tapehouse.core.metrics import Metrics
from tapehouse.desk.order_frames import (
    consumed_through,
    decode_orders,
    is_order_frame,
    orders_of,
    place_orders,
    refusal,
)
from tapehouse.engine.registration import definition_of
from tapehouse.engine.session_closes import SessionCloses
from tapehouse.log import FrameHeader, Log, Message, Progress, open_frame
from tapehouse.market import (
    CELL_BYTES,
    PAYLOAD_BYTES_MAX,
    Cells,
    Flag,
    Instrument,
    Kind,
    empty_cells,
    pack_payload,
    read_definition,
    records_of,
    unpack_payload,
    whole_records,
)
from tapehouse.market.gap_spans import SEQUENCER_SOURCE

ClockSource = Literal["wall", "history"]


class TapeWriter(Protocol):
    """How the sequencer's records reach the tape: `FrameWriter` appends frames, a journal hands on to its sidecar."""

    @property
    def epoch(self) -> int: ...

    async def append(self, cells: Cells, *, input_ordinal: int = 0) -> int: ...


FEED_SOURCE, DESK_SOURCE = 1, SEQUENCER_SOURCE  # the `source` of a feed's cells, and of those that the sequencer adds
APPEND_CELLS = 65_536  # appended in one go: several frames, whose encoding overlaps their acknowledgements
COMMANDS_QUEUED_MAX = 4096
CLOCK_INTERVAL_NS = 100_000_000
_MARKET_KINDS = (int(Kind.MBO), int(Kind.MBP), int(Kind.QUOTE), int(Kind.TRADE), int(Kind.OPTION_QUOTE))


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedKey:
    """How a tape knows the ring of a feed: by the `source` of its cells, and by which ring it was."""

    source: int
    ring: str  # its creation id in hex: another ring of the same name holds other cells

    @property
    def declared(self) -> str:
        """Its key in `TapeState.declared`: as much of the creation id as a cell has room for."""
        return self.ring[:16]


@dataclass(slots=True)
class TapeState:
    """What a successor must know of a tape."""

    instruments: dict[int, Instrument] = field(default_factory=dict)
    feed_cells: int = 0
    now: int = 0
    clock: str = ""
    feed: str = ""
    feeds: dict[str, FeedKey] = field(default_factory=dict)  # every feed ring that it ever had, by name
    attached: dict[str, FeedKey] = field(default_factory=dict)  # those of the last life in `ahead` mode
    declared: dict[str, dict[int, int]] = field(default_factory=dict)  # by ring: the tape's id of a feed's id
    progress: Progress | None = None
    commands_through: int = 0
    part: tuple[int, int] = (0, 0)  # of a frame of orders that is not whole: its CMDS sequence, its orders so far
    feed_chain: DigestChain = field(default_factory=lambda: DigestChain(CELL_BYTES))  # over the feed's cells, if asked


class TapeFold:
    """Folds a tape, as far as it is there and as it grows, into what its next sequencer must know."""

    def __init__(self, log: Log, *, chain_feed: bool = False) -> None:
        """`chain_feed`: chain the feed's cells too, for one who goes on with a feed and must know it again."""
        self.state = TapeState()
        self._log = log
        self._chain_feed = chain_feed

    @property
    def sequence(self) -> int:
        """The last sequence that was folded; 0 before the first."""
        return self.state.progress.sequence if self.state.progress else 0

    async def catch_up(self) -> TapeState:
        """Fold what the tape holds beyond what was folded."""
        extent = await self._log.extent()
        progress = self.state.progress
        if progress is None:
            progress = Progress(log_id=extent.log_id_at(extent.first), sequence=extent.first - 1, next_ordinal=-1)
        self.state.progress = progress
        async for message in self._log.read(progress.sequence + 1):
            header, cells = open_frame(self._log.name, message, extent, self.state.progress)
            self.take(message, header, cells)
        return self.state

    def take(self, message: Message, header: FrameHeader, cells: Cells) -> None:
        """Fold a frame that somebody else has opened; one that was folded before is passed over.

        Raises:
            GapError: One before it was not folded.
        """
        state = self.state
        if message.sequence <= self.sequence:
            return
        if state.progress is not None and message.sequence != self.sequence + 1:
            raise GapError(
                f"sequence {self.sequence + 1} was not folded",
                subject=self._log.name,
                position=f"sequence {message.sequence}",
            )
        # From the cells, not from the header: a header's position covers an append whose last frames may be missing.
        state.commands_through = commands_through(cells, state.commands_through)
        state.part = _part_of(cells, state)
        state.now = max(state.now, int(cells["ts_recv"][cells["cells"] > 0].max(initial=0)))
        of_feed = cells["source"] == FEED_SOURCE
        state.feed_cells += int(of_feed.sum())
        if self._chain_feed:
            state.feed_chain.update(cells[of_feed].tobytes())
        for _, record in records_of(cells, Kind.DEFINITION):
            instrument = read_definition(record)
            state.instruments[instrument.id] = instrument
        for _, record in records_of(cells, Kind.EPOCH):
            epoch = json.loads(unpack_payload(record))
            state.clock, state.feed = epoch["clock"], epoch.get("feed") or state.feed
            if epoch.get("mode") == "ahead":
                state.attached = {name: FeedKey(**key) for name, key in epoch.get("feeds", {}).items()}
                state.feeds.update(state.attached)
        declared = cells[(cells["kind"] == Kind.RAW) & (cells["source"] == DESK_SOURCE) & (cells["cells"] > 0)]
        for ring, feed_id, tape_id in declared[["sequence", "order_id", "instrument"]].tolist():
            state.declared.setdefault(f"{ring:016x}", {})[feed_id] = tape_id
        state.progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)


async def read_tape(log: Log, *, chain_feed: bool = False) -> TapeState:
    """Fold a whole tape into what its next sequencer must know; `chain_feed` as in `TapeFold`."""
    return await TapeFold(log, chain_feed=chain_feed).catch_up()


def commands_through(cells: Cells, before: int) -> int:
    """The CMDS sequence that TAPE has consumed with these cells of it, where it was `before` without them."""
    return consumed_through(cells, before, DESK_SOURCE)


def _part_of(cells: Cells, state: TapeState) -> tuple[int, int]:
    """The message of which a crash left only a part on TAPE, as far as these cells and those before them tell."""
    left = orders_of(cells, DESK_SOURCE)["sequence"]
    left = left[left > state.commands_through]
    sequence, count = state.part if state.part[0] > state.commands_through else (0, 0)
    return (int(left[0]), count + len(left)) if len(left) else (sequence, count)


class Sequencer:
    """Writes one tape from one life of one process."""

    def __init__(
        self,
        log: Log,
        writer: TapeWriter,
        state: TapeState,
        *,
        clock_source: ClockSource,
        clock: Clock,
        code: str,
        metrics: Metrics | None = None,
    ) -> None:
        if state.clock and state.clock != clock_source:
            raise DataError(
                f"its clock is {state.clock!r}, not {clock_source!r}",
                subject=log.name,
                hint="record each history into a tape of its own",
            )
        self._log = log
        self._writer = writer
        self.clock_source = clock_source
        self._clock = clock
        self._code = code
        self.state = state
        self.metrics = metrics or Metrics()
        self._ids = {(i.venue, i.symbol): i.id for i in state.instruments.values()}
        self._next_id = max(state.instruments, default=0) + 1
        self._allotting = threading.Lock()  # in `ahead` mode feeds are heard in another thread than commands
        self._apart: dict[int, Instrument] = {}  # given out by `command_cells` and `session_cells`, not made pending
        self._closes = SessionCloses()
        self._commands: asyncio.Queue[Message] = asyncio.Queue(COMMANDS_QUEUED_MAX)
        self._arrived = asyncio.Event()
        self._pending: list[Cells] = []
        self._pending_cells = 0

    @property
    def name(self) -> str:
        """The tape's."""
        return self._log.name

    @property
    def now(self) -> int:
        """The tape's present time: wall time, or the last receive time of a history."""
        if self.clock_source == "wall":
            self.state.now = max(self.state.now, self._clock.time_ns())
        return self.state.now

    async def begin(self, *, feed: str = "", leader: dict[str, object] | None = None) -> None:
        """Take over in `gated` mode: append the EPOCH record under the fence.

        Args: As `open_epoch`.

        Raises:
            ConflictError: Another sequencer took over meanwhile.
        """
        self.open_epoch(feed=feed, leader=leader)
        await self.flush()

    def open_epoch(
        self,
        *,
        feed: str = "",
        mode: str = "gated",
        feeds: dict[str, FeedKey] | None = None,
        leader: dict[str, object] | None = None,
    ) -> None:
        """Make the EPOCH record pending: everything after it was written by this life, in this mode.

        Args:
            leader: Who took over under which generation of the tape's lease, and how; nobody decides by it.
        """
        body: dict[str, object] = {
            "type": "epoch",
            "version": 1,
            "mode": mode,
            "clock": self.clock_source,
            "code": self._code,
            "epoch": self._writer.epoch,
            "feed": feed,
        }
        if leader:
            body["leader"] = leader
        if feeds:
            body["feeds"] = {name: asdict(key) for name, key in feeds.items()}
        payload = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        self._add(pack_payload(Kind.EPOCH, payload, ts_event=self.now, ts_recv=self.now, source=DESK_SOURCE))

    def define(self, instruments: tuple[Instrument, ...]) -> np.ndarray:
        """Allot tape ids to a feed's instruments and write the definitions of new ones.

        Returns:
            Shape (highest feed id + 1,), dtype uint32: the tape's id of each feed id.

        Raises:
            DataError: The tape has an instrument of that name with other terms, or an underlying is missing.
        """
        with self._allotting:
            return self._define(instruments)

    def define_after(
        self, taped: Mapping[int, Instrument], instruments: tuple[Instrument, ...]
    ) -> npt.NDArray[np.uint32] | None:
        """As `define`; None while a definition that was given out apart is not among those on the tape.

        In `ahead` mode those go through a ring, and what a feed declares would overtake them.

        Args:
            taped: The instruments that the tape has, by id.
        """
        with self._allotting:
            for made in list(self._apart.values()):
                there = taped.get(made.id)
                if there is None or there.revision < made.revision:
                    return None
                del self._apart[made.id]
            return self._define(instruments)

    def _define(self, instruments: tuple[Instrument, ...]) -> npt.NDArray[np.uint32]:
        table = np.zeros(max((i.id for i in instruments), default=0) + 1, np.uint32)
        for instrument in sorted(instruments, key=lambda i: i.underlying != 0):  # what others derive from comes first
            key = (instrument.venue, instrument.symbol)
            number = self._ids.setdefault(key, self._next_id)
            self._next_id = max(self._next_id, number + 1)
            underlying = int(table[instrument.underlying]) if instrument.underlying < len(table) else 0
            if instrument.underlying and not underlying:
                raise DataError(f"its underlying {instrument.underlying} is not declared", subject=instrument.symbol)
            table[instrument.id] = number
            known = self.state.instruments.get(number)
            close = known.session_close_ns if known else 0
            defined = replace(instrument, id=number, underlying=underlying, revision=1, session_close_ns=close)
            terms = defined if known is None else defined.revised(known)
            if terms is None:
                raise DataError(
                    "the tape has it with other terms",
                    subject=instrument.symbol,
                    hint="only tick, lot, calendar and expiry may change on one tape: record into another",
                )
            if terms is not known:
                self.state.instruments[number] = terms
                self._closes.forget()
                self._add(terms.definition(ts_recv=self.now, source=DESK_SOURCE))
        return table

    async def feed(self, cells: Cells, table: np.ndarray) -> None:
        """Append a feed's cells with the tape's instrument ids; earlier commands go first.

        Raises:
            DataError: A cell is of an instrument that the feed did not declare.
        """
        cells = as_taped(cells, table)
        self.state.feed_cells += len(cells)
        start = 0
        while start < len(cells):
            self.admit_commands()
            end = start + whole_records(cells[start:], APPEND_CELLS)
            piece = cells[start:end]
            self._add(self.session_cells())
            self.state.now = max(self.state.now, int(piece["ts_recv"][piece["cells"] > 0].max()))
            self._add(piece)
            if self._pending_cells >= APPEND_CELLS:
                await self.flush()
            start = end

    async def tick(self) -> None:
        """Append a CLOCK cell, so that timers fire while the market is quiet."""
        self._add(self.session_cells())
        self._add(self.clock_cell())
        await self.flush()

    def session_cells(self) -> Cells:
        """Definitions of instruments whose session has ended by now, with the close of the one that is on or next."""
        if not self._closes.due(self.now, self.state.instruments):
            return empty_cells(0)
        with self._allotting:
            revised = self._closes.revisions(self.now, self.state.instruments)
            for instrument in revised:
                self._apart[instrument.id] = self.state.instruments[instrument.id] = instrument
            made = [instrument.definition(ts_recv=self.now, source=DESK_SOURCE) for instrument in revised]
        self.metrics.add("session_closes_total", len(revised))
        self.metrics.set("session_calendars_unknown", self._closes.unknown)
        return np.concatenate([empty_cells(0), *made])

    def clock_cell(self) -> Cells:
        """A CLOCK cell of the tape's present time."""
        cell = empty_cells(1)
        cell["ts_event"] = cell["ts_recv"] = self.now
        cell["kind"], cell["cells"], cell["source"] = Kind.CLOCK, 1, DESK_SOURCE
        return cell

    async def offer_command(self, message: Message) -> None:
        """Queue a message of CMDS; waits while COMMANDS_QUEUED_MAX are queued."""
        await self._commands.put(message)
        self._arrived.set()

    async def command_or(self, due_ns: int, clock: Clock) -> None:
        """Return when a command is queued, at the latest at a monotonic time."""
        if not self._commands.empty():
            return
        arrival = asyncio.ensure_future(self._arrived.wait())
        timer = asyncio.ensure_future(clock.sleep_until(due_ns))
        try:
            await asyncio.wait({arrival, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrival.cancel()
            timer.cancel()

    def command_cells(self, message: Message) -> Cells:
        """The records of a message of CMDS, stamped with the tape's present time; it counts as consumed.

        Before one that registers a new instrument stands its definition: only a sequencer allots ids.

        Raises:
            IntegrityError: A part of it is on the tape, and more than there is of it.
        """
        self.state.commands_through = message.sequence
        payload = message.payload
        if is_order_frame(payload):
            try:
                return self._order_cells(message.sequence, decode_orders(payload))
            except DataError as error:
                payload = refusal(str(error))
                self.metrics.add("commands_refused_total")
        if len(payload) > PAYLOAD_BYTES_MAX:
            payload = json.dumps({"refused": f"{len(payload)} bytes"}).encode()
            self.metrics.add("commands_refused_total")
        now = self.now
        command = pack_payload(
            Kind.COMMAND, payload, ts_event=now, ts_recv=now, sequence=message.sequence, source=DESK_SOURCE
        )
        return np.concatenate([self._registration(payload), command])

    def _registration(self, payload: bytes) -> Cells:
        """The definition that a message of CMDS needs before it; no cells where it needs none."""
        with self._allotting:
            made = definition_of(payload, self.state.instruments)
            if made is None:
                return empty_cells(0)
            self._ids[made.venue, made.symbol] = made.id
            self._next_id = max(self._next_id, made.id + 1)
            self._apart[made.id] = self.state.instruments[made.id] = made
            return made.definition(ts_recv=self.now, source=DESK_SOURCE)

    def _order_cells(self, sequence: int, orders: Cells) -> Cells:
        """A frame of orders as the tape has it; without the orders that a sequencer before put there."""
        skip = self.state.part[1] if self.state.part[0] == sequence else 0
        placed = place_orders(orders, sequence=sequence, now=self.now, source=DESK_SOURCE, skip=skip)
        if not len(placed):
            raise IntegrityError(
                f"CMDS has {len(orders) // 2} orders where the tape has the first {skip} of more",
                subject=self.name,
                position=f"CMDS sequence {sequence}",
                hint="CMDS is not the one that this tape was written from: restore both from one backup",
            )
        self.metrics.add("orders_total", len(placed) // 2)
        return placed

    def admit_commands(self) -> int:
        """Give queued commands their place on the tape, now; returns how many. Those beyond APPEND_CELLS wait."""
        admitted = 0
        self._arrived.clear()
        while not self._commands.empty() and self._pending_cells < APPEND_CELLS:
            message = self._commands.get_nowait()
            if message.sequence <= self.state.commands_through:
                continue
            self._add(self.command_cells(message))
            admitted += 1
        self.metrics.add("commands_total", admitted)
        return admitted

    async def flush(self) -> None:
        """Append everything that is pending."""
        if not self._pending:
            return
        cells = self.take_pending()
        await self._writer.append(cells, input_ordinal=self.state.commands_through)
        self.metrics.add("tape_cells_total", len(cells))

    def note_declared(self, ring: str, ids: dict[int, int], *, source: int = 0) -> None:
        """Have the tape remember which of its instruments a feed's ids mean: the feed itself says it only once.

        Args:
            ring: The key of the feed's ring in `state.declared`.
            ids: The tape's id of each of the feed's ids; what the tape remembers already is not written again.
            source: Of the feed's cells: a GAP record of all of this source concerns these instruments.
        """
        known = self.state.declared.setdefault(ring, {})
        fresh = [(feed_id, tape_id) for feed_id, tape_id in ids.items() if known.get(feed_id) != tape_id]
        if not fresh:
            return
        known.update(fresh)
        cells = empty_cells(len(fresh))
        cells["ts_event"] = cells["ts_recv"] = self.now
        cells["kind"], cells["cells"], cells["source"], cells["flags"] = Kind.RAW, 1, DESK_SOURCE, Flag.SYNTHETIC
        cells["sequence"] = int(ring, 16)
        cells["order_id"] = [feed_id for feed_id, _ in fresh]
        cells["instrument"] = [tape_id for _, tape_id in fresh]
        cells["size"] = source
        self._add(cells)

    def take_pending(self) -> Cells:
        """Everything that is pending, for one who brings it to the tape by another way."""
        cells = np.concatenate(self._pending) if self._pending else empty_cells(0)
        self._pending.clear()
        self._pending_cells = 0
        return cells

    def _add(self, cells: Cells) -> None:
        self._pending.append(cells)
        self._pending_cells += len(cells)

    @property
    def pending_cells(self) -> int:
        """Cells that the next `flush` will append."""
        return self._pending_cells


def as_taped(cells: Cells, table: np.ndarray) -> Cells:
    """A feed's cells as its tape has them: with the tape's instrument ids, marked as the feed's.

    Raises:
        DataError: A cell is of an instrument that the feed did not declare; only what concerns no single one has none.
    """
    cells = cells.copy()
    ids = cells["instrument"]
    undeclared = ids >= len(table)
    undeclared |= table[np.where(undeclared, 0, ids)] == 0
    undeclared &= (ids != 0) | np.isin(cells["kind"], _MARKET_KINDS)
    if undeclared.any():
        raise DataError(f"the feed did not declare instrument {int(ids[undeclared][0])}", hint="this is the feed's bug")
    cells["instrument"] = table[ids]
    cells["source"] = FEED_SOURCE
    return cells


async def catch_up(sequencer: Sequencer, commands: Log) -> int:
    """Put what waits in CMDS on the tape; returns the last sequence that was looked at."""
    extent = await commands.extent()
    first = max(extent.first, sequencer.state.commands_through + 1)
    async for message in commands.read(first, through=extent.last):
        await sequencer.offer_command(message)
        sequencer.admit_commands()
        if sequencer.pending_cells >= APPEND_CELLS:
            await sequencer.flush()
    await sequencer.flush()
    return max(extent.last, sequencer.state.commands_through)


async def listen(sequencer: Sequencer, commands: Log, *, after: int) -> None:
    """Hand every message of CMDS that follows sequence `after` to the sequencer; runs until cancelled."""
    async for message in commands.read(after + 1, follow=True):
        await sequencer.offer_command(message)


async def record(
    sequencer: Sequencer,
    batches: AsyncIterator[Cells],
    table: np.ndarray,
    *,
    skip: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Put a whole feed on the tape; where the feed fails, what it gave before is on the tape.

    Args: As `new_cells`.

    Raises:
        DataError: The feed is not the one that the tape holds.
    """
    try:
        async for cells in new_cells(sequencer, batches, table, skip=skip, on_progress=on_progress):
            await sequencer.feed(cells, table)
    except TapehouseError:
        await sequencer.flush()
        raise
    while sequencer.admit_commands():
        await sequencer.flush()
    await sequencer.flush()


async def new_cells(
    sequencer: Sequencer,
    batches: AsyncIterator[Cells],
    table: np.ndarray,
    *,
    skip: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> AsyncIterator[Cells]:
    """What the tape does not hold yet of a feed.

    Args:
        table: What `Sequencer.define` returned for the feed's instruments.
        skip: Cells of the feed that the tape already holds, from an earlier run that was stopped; they must be those
            of `state.feed_chain`.
        on_progress: Called with the number of cells taken from the feed, when they are dealt with.

    Raises:
        DataError: The feed is not the one that the tape holds.
    """
    taken = 0
    chain = DigestChain(CELL_BYTES)
    recorded = sequencer.state.feed_chain.head()
    async for cells in batches:
        old = min(len(cells), max(0, skip - taken))
        taken += len(cells)
        if old:
            chain.update(as_taped(cells[:old], table).tobytes())
            if taken >= skip and chain.head() != recorded:
                raise _other_feed(sequencer, skip)
        if old < len(cells):
            yield cells[old:]
        if on_progress:
            on_progress(taken)
    if taken < skip:
        raise _other_feed(sequencer, skip)


def _other_feed(sequencer: Sequencer, cells: int) -> DataError:
    return DataError(
        f"its {cells} cells are not those that this feed begins with",
        subject=sequencer.name,
        hint="it is another file or day of the same name: record it into a tape of its own",
    )


__all__ = [
    "ClockSource",
    "Sequencer",
    "TapeFold",
    "TapeState",
    "TapeWriter",
    "catch_up",
    "listen",
    "new_cells",
    "read_tape",
    "record",
]
