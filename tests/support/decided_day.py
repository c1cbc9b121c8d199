"""EVENTS made by hand, with what OUT must say of each record: who caused it, which chain it is of, what is left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tapehouse.log import Envelope, FrameWriter, MemoryLog, deterministic_id
from tapehouse.market import (
    FILL_EXTENSION,
    ORDER_EXTENSION,
    Action,
    Cells,
    Instrument,
    Kind,
    Side,
    empty_cells,
    extend,
    pack_payload,
    record_starts,
)

NOW = 1_767_623_400_000_000_000
TICK = 10_000_000
NONE = 2**63 - 1
SHARES = (
    Instrument(id=1, symbol="ALFA", venue="TEST"),
    Instrument(id=2, symbol="BRAVO/X", venue="TEST", size_exponent=-3, currency="EUR", currency_exponent=-2),
)


@dataclass(slots=True)
class Told:
    """What OUT must say of one record."""

    type: str
    causation: str
    correlation: str
    left: str | None = None


@dataclass(slots=True)
class DecidedDay:
    """The records of each input, and what OUT must say of them in order."""

    inputs: list[Cells] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)

    @property
    def cells(self) -> Cells:
        """All of it."""
        return np.concatenate(self.inputs)

    async def log(self, *, appends: int = 3, frame_cells: int = 32_768, name: str = "EVENTS_day") -> MemoryLog:
        """EVENTS in memory: `appends` inputs to an append, cut into frames of so many cells."""
        log = MemoryLog(name, log_id=bytes(range(16)))
        await self.extend(log, appends=appends, frame_cells=frame_cells)
        return log

    async def extend(
        self, log: MemoryLog, *, first: int = 0, last: int | None = None, appends: int = 3, frame_cells: int = 32_768
    ) -> None:
        """Append the inputs from `first` on and before `last`."""
        writer = await FrameWriter.open(log, writer=1, frame_cells=frame_cells)
        inputs = self.inputs[first:last]
        for at in range(0, len(inputs), appends):
            cells = np.concatenate(inputs[at : at + appends])
            await writer.append(cells, input_ordinal=int(cells["sequence"][record_starts(cells)[-1]]) + 1)


class _Desk:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.day = DecidedDay()
        self.working: dict[int, tuple[Instrument, int, str]] = {}
        self.defined: set[int] = set()
        self.ordinal = 5
        self.records: list[Cells] = []
        self.matches = 0

    def add(self, record: Cells) -> None:
        starts = record["cells"] > 0
        record["sequence"][starts], record["count"][starts] = self.ordinal, len(self.records)
        record["ts_event"][starts] = record["ts_recv"][starts] = NOW + self.ordinal
        extend(record)
        self.records.append(record)

    def define(self, instrument: Instrument, cause: str, chain: str) -> None:
        if instrument.id not in self.defined:
            self.defined.add(instrument.id)
            self.add(instrument.definition(ts_recv=NOW))
            self.day.told.append(Told("instrument.defined", cause, chain))

    def order(self, action: Action, order_id: int, instrument: Instrument, left: int, number: int = 0) -> None:
        self.add(order_record(action, order_id, instrument, left, number=number))

    def submit(self, cause: str, chain: str, number: int = 0) -> None:
        instrument = SHARES[int(self.rng.integers(2))]
        self.define(instrument, cause, chain)
        order_id, size = self.ordinal << 12 | len(self.records), int(self.rng.integers(2, 60))
        if self.rng.random() < 0.2:
            self.order(Action.REJECTED, order_id, instrument, size, number)
            self.day.told.append(Told("order.rejected", cause, chain, decimal(size, instrument)))
            return
        self.order(Action.ACCEPTED, order_id, instrument, size, number)
        self.day.told.append(Told("order.accepted", cause, chain, decimal(size, instrument)))
        self.working[order_id] = (instrument, size, chain)

    def fill(self, cause: str) -> None:
        order_id = int(self.rng.choice(list(self.working)))
        instrument, left, chain = self.working[order_id]
        size = int(self.rng.integers(1, left + 1))
        self.matches += 1
        self.add(fill_record(order_id, instrument, size, self.matches))
        self.day.told.append(Told("order.filled", cause, chain, decimal(left - size, instrument)))
        self.working[order_id] = (instrument, left - size, chain)
        if left == size:
            del self.working[order_id]

    def end(self, cause: str) -> None:
        order_id = int(self.rng.choice(list(self.working)))
        instrument, left, chain = self.working.pop(order_id)
        action, name = [(Action.CANCELLED, "cancelled"), (Action.EXPIRED, "expired")][int(self.rng.integers(2))]
        self.order(action, order_id, instrument, left)
        self.day.told.append(Told(f"order.{name}", cause, chain, decimal(left, instrument)))

    def event(self, kind: str, cause: str, chain: str, **body: Any) -> None:
        self.add(event_record(kind, self.ordinal, len(self.records), cause, chain, body))
        self.day.told.append(Told(kind, cause, chain))

    def step(self) -> None:
        command = self.rng.random() < 0.5
        cause = f"command-{self.ordinal}" if command else f"tape:{self.ordinal}"
        chain = f"chain-{self.ordinal}" if command else cause
        for _ in range(int(self.rng.integers(1, 4))):
            choice = self.rng.random()
            if choice < 0.5 or not self.working:
                self.submit(cause, chain, number=self.ordinal if command else 0)
            elif choice < 0.8:
                self.fill(cause)
            else:
                self.end(cause)
        if command:
            self.event("command.outcome", cause, chain, outcome="accepted", position=self.ordinal)
        self.day.inputs.append(np.concatenate(self.records))
        self.records = []
        self.ordinal += int(self.rng.integers(1, 9))


def decided_day(seed: int, inputs: int) -> DecidedDay:
    """A random day of decisions."""
    desk = _Desk(seed)
    for _ in range(inputs):
        desk.step()
    return desk.day


def order_record(
    action: Action, order_id: int, instrument: Instrument, left: int, *, number: int = 0, **more: int
) -> Cells:
    """An ORDER record; its place is yet to be written."""
    record = empty_cells(2)
    record["kind"], record["cells"][0], record["instrument"] = Kind.ORDER, 2, instrument.id
    record["action"], record["side"], record["order_id"][0] = action, Side.BID, order_id
    record["price"][0], record["size"][0] = 100 * TICK, left
    if action == Action.REJECTED:
        record["depth"] = 2
    extension = record[1:].view(ORDER_EXTENSION)
    extension["number"], extension["stop"], extension["display"] = number, NONE, left
    for name, value in more.items():
        extension[name] = value
    return record


def fill_record(order_id: int, instrument: Instrument, size: int, match: int, *, counter: int = 0) -> Cells:
    """A FILL record; its place is yet to be written."""
    record = empty_cells(2)
    record["kind"], record["cells"][0], record["instrument"] = Kind.FILL, 2, instrument.id
    record["action"], record["side"], record["order_id"][0], record["depth"] = Action.FILL, Side.ASK, order_id, 1
    record["price"][0], record["size"][0] = 101 * TICK, size
    extension = record[1:].view(FILL_EXTENSION)
    extension["match_id"], extension["fee"], extension["position"], extension["cash"] = match, -25, -size, 12_345
    extension["counter_order"] = counter
    return record


def event_record(kind: str, ordinal: int, index: int, cause: str, chain: str, body: dict[str, Any]) -> Cells:
    """An EVENT record."""
    event = Envelope(
        id=deterministic_id(kind, ordinal, index), type=kind, version=1, causation=cause, correlation=chain,
        time=NOW + ordinal, body=body,
    )  # fmt: skip
    return pack_payload(Kind.EVENT, event.encode(), ts_event=NOW, ts_recv=NOW)


def decimal(size: int, instrument: Instrument) -> str:
    """A size as OUT writes it."""
    return format(instrument.size(size).normalize(), "f")
