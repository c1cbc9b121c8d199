"""A small made-up day on a tape, and what a real engine decided on it: the material of tests of readers.

One instrument is told by order, one by level (small sizes, an awkward symbol), one by quotes alone; two are options.
Commands of two accounts are in it, with a repeat, a rejection and a kill. All of it follows from the seed.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np

from tapehouse.engine import Engine
from tapehouse.log import Envelope, FrameHeader, FrameWriter, MemoryLog
from tapehouse.market import (
    OPTION_EXTENSION,
    Action,
    Cells,
    Flag,
    Instrument,
    Kind,
    Side,
    empty_cells,
    extend,
    pack_payload,
)
from tapehouse.strategies.maker import maker

START = 1_767_623_400_000_000_000  # 2026-01-05T14:30:00Z
LOG_ID = bytes(range(16))
STOCK = Instrument(id=1, symbol="AAPL", venue="XNAS")
COIN = Instrument(
    id=2, symbol="BTC-USD.P", venue="TEST", asset_class="crypto", size_exponent=-8, tick_size=500_000_000, multiplier=5,
    lot_size=1000,
)  # fmt: skip
PAIR = Instrument(id=7, symbol="EUR/USD", venue="TEST", asset_class="crypto", tick_size=10_000)
CALL = Instrument(
    id=9, symbol="AAPL 260116C00190000", venue="XCBO", asset_class="option", underlying=1,
    strike=190_000_000_000, expiry_ns=START + 11 * 86_400 * 10**9, right="C",
)  # fmt: skip
PUT = Instrument(
    id=10, symbol="AAPL 260116P00180000", venue="XCBO", asset_class="option", underlying=1,
    strike=180_000_000_000, expiry_ns=START + 11 * 86_400 * 10**9, right="P",
)  # fmt: skip
INSTRUMENTS = (STOCK, COIN, PAIR, CALL, PUT)


@dataclass(slots=True)
class DeskDay:
    """The two logs of a day, and the engine that decided it."""

    tape: MemoryLog
    events: MemoryLog
    engine: Engine
    cells: Cells
    outputs: Cells


def record(kind: Kind, instrument: int, now: int, **fields: int) -> Cells:
    """One record of one cell."""
    cell = empty_cells(1)
    cell["ts_event"], cell["ts_recv"], cell["kind"], cell["cells"] = now - 1000, now, kind, 1
    cell["instrument"], cell["source"], cell["flags"] = instrument, 1, Flag.LAST
    for name, value in fields.items():
        cell[name] = value
    return cell


def quote(kind: Kind, instrument: int, now: int, bid: tuple[int, int], ask: tuple[int, int]) -> Cells:
    """A QUOTE or OPTION_QUOTE record."""
    cells = np.concatenate([record(kind, instrument, now)] * (2 if kind == Kind.QUOTE else 3))
    cells["cells"] = len(cells)
    cells["price"][:2], cells["size"][:2] = [bid[0], ask[0]], [bid[1], ask[1]]
    extend(cells)
    if kind == Kind.OPTION_QUOTE:
        third = cells[2:].view(OPTION_EXTENSION)
        third["forward"], third["mark"] = 185 * 10**9, (bid[0] + ask[0]) // 2
        third["mark_volatility"], third["open_interest"] = 300_000_000, 100
        third["bid_volatility"], third["ask_volatility"] = 290_000_000, 310_000_000
    return cells


def command(sequence: int, now: int, kind: str, body: dict[str, object], *, client: str = "", number: int = 0) -> Cells:
    """A COMMAND record, as the sequencer writes it."""
    envelope = Envelope(
        id=f"command-{sequence}", type=kind, version=1, client=client, number=number, correlation=f"command-{sequence}",
        time=now, body=body,
    )  # fmt: skip
    return pack_payload(Kind.COMMAND, envelope.encode(), ts_event=now, ts_recv=now, sequence=sequence, source=2)


class _Market:
    """Random records of the four markets."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.now = START
        self.mid = {1: 18_500, 2: 20_000, 7: 10_800}  # in ticks; books that stand still are never crossed
        self.orders: list[tuple[int, int, int, int]] = []  # id, side, price, size
        self.next_id = 1

    def step(self) -> list[Cells]:
        """The next record or two."""
        rng = self.rng
        self.now += int(rng.integers(1, 20)) * 1_000_000
        which = rng.choice([1, 1, 1, 2, 2, 7, 9])
        if which == 7:
            self.mid[7] += int(rng.integers(-1, 2))
        if which == 1:
            return self._by_order()
        if which == 2:
            return self._by_level()
        if which == 7:
            mid = self.mid[7] * PAIR.tick_size
            return [quote(Kind.QUOTE, 7, self.now, (mid - 10_000, 5), (mid + 10_000, 7))]
        option = int(rng.choice([9, 10]))
        price = int(rng.integers(200, 260)) * 10_000_000
        return [quote(Kind.OPTION_QUOTE, option, self.now, (price, 10), (price + 50_000_000, 12))]

    def _by_order(self) -> list[Cells]:
        rng, tick = self.rng, STOCK.tick_size
        if self.orders and rng.random() < 0.45:
            at = int(rng.integers(len(self.orders)))
            order_id, side, price, size = self.orders.pop(at)
            cancel = record(
                Kind.MBO, 1, self.now, action=Action.CANCEL, side=side, price=price, size=size, order_id=order_id
            )
            if rng.random() < 0.5:
                return [cancel]
            aggressor = Side.ASK if side == Side.BID else Side.BID
            trade = record(Kind.MBO, 1, self.now, action=Action.TRADE, side=aggressor, price=price, size=size, flags=0)
            return [trade, cancel]
        side = Side.BID if rng.random() < 0.5 else Side.ASK
        away = int(rng.integers(1, 5))
        price = (self.mid[1] + (-away if side == Side.BID else away)) * tick
        added = (self.next_id, int(side), price, int(rng.integers(1, 4)) * 100)
        self.next_id += 1
        self.orders.append(added)
        return [
            record(
                Kind.MBO, 1, self.now, action=Action.ADD, side=added[1], price=price, size=added[3], order_id=added[0]
            )
        ]

    def _by_level(self) -> list[Cells]:
        rng, tick = self.rng, COIN.tick_size
        if rng.random() < 0.3:
            price = self.mid[2] * tick
            return [record(Kind.TRADE, 2, self.now, side=Side.ASK, price=price, size=int(rng.integers(1, 50)) * 1000)]
        side = Side.BID if rng.random() < 0.5 else Side.ASK
        away = int(rng.integers(1, 4))
        price = (self.mid[2] + (-away if side == Side.BID else away)) * tick
        size = int(rng.integers(0, 40)) * 100_000
        return [record(Kind.MBP, 2, self.now, action=Action.MODIFY, side=side, price=price, size=size)]


def make_tape(seed: int, records: int, *, commands: bool = True) -> Cells:
    """The cells of a day's tape."""
    market = _Market(np.random.default_rng(seed))
    parts = [pack_payload(Kind.EPOCH, b'{"clock":"history"}', ts_event=START, ts_recv=START, source=2)]
    parts += [instrument.definition(ts_recv=START, source=2) for instrument in INSTRUMENTS]
    every = max(1, records // 12)
    sequence = 0
    for at in range(records):
        parts += market.step()
        if commands and at % every == every - 1:
            sequence += 1
            parts.append(_command(sequence, market))
    return np.concatenate(parts)


def _command(sequence: int, market: _Market) -> Cells:
    now, account = market.now, "alice" if sequence % 2 else "bob"
    buy = {"instrument": "AAPL", "side": "buy", "size": "100", "account": account}
    if sequence == 4:  # The same number as before: answered, not run.
        return command(sequence, now, "order.submit", {**buy, "price": "300"}, client="desk", number=3)
    if sequence == 6:
        return command(sequence, now, "order.submit", {**buy, "price": "185.001"}, client="desk", number=sequence)
    if sequence == 9:
        return command(sequence, now, "account.kill", {"account": "alice"}, client="desk", number=sequence)
    price = "300" if sequence % 3 == 0 else "184.50"  # takes what is there, or rests
    if sequence % 5 == 0:
        coin = {"instrument": "BTC-USD.P", "side": "sell", "size": "0.00005", "price": "9000", "account": account}
        return command(sequence, now, "order.submit", coin, client="desk", number=sequence)
    return command(sequence, now, "order.submit", {**buy, "price": price}, client="desk", number=sequence)


async def make_day(*, seed: int = 1, records: int = 3000, frame_cells: int = 200, commands: bool = True) -> DeskDay:
    """Write a day's tape, run the engine on it, write what it decided."""
    cells = make_tape(seed, records, commands=commands)
    tape = MemoryLog("TAPE_day", log_id=LOG_ID)
    events = MemoryLog("EVENTS_day", log_id=LOG_ID[::-1])
    tape_writer = await FrameWriter.open(tape, writer=1)
    events_writer = await FrameWriter.open(events, writer=2)
    engine = Engine(maker(interval_ms=20))
    outputs = []
    for start, end in split(cells, frame_cells):
        await tape_writer.append(cells[start:end])
        header = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=start)
        engine.apply(header, cells[start:end])
        decided = engine.take_outputs()
        if len(decided):
            await events_writer.append(decided, input_ordinal=end)
            outputs.append(decided)
    return DeskDay(tape=tape, events=events, engine=engine, cells=cells, outputs=np.concatenate(outputs))


@cache
def shared_day(seed: int = 1, records: int = 3000) -> DeskDay:
    """A day made once in this process; not to be changed."""
    with ThreadPoolExecutor(1) as thread:  # A loop of its own, for callers that have one running.
        return thread.submit(asyncio.run, make_day(seed=seed, records=records)).result()


def split(cells: Cells, frame_cells: int) -> list[tuple[int, int]]:
    """Whole records in spans of about `frame_cells`."""
    starts = np.flatnonzero(cells["cells"] > 0)
    cuts = [0]
    for start in starts.tolist():
        if start - cuts[-1] >= frame_cells:
            cuts.append(start)
    return list(zip(cuts, [*cuts[1:], len(cells)], strict=True))
