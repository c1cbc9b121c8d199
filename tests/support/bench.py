"""An engine fed by hand, and generated days recorded into memory: the material of tests of the engine and of replay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from tapehouse.app.live import Logs, RecordReport, record
from tapehouse.core import VirtualClock
from tapehouse.desk.commands import COMMANDS
from tapehouse.engine import CompiledStrategy, Engine, Strategy
from tapehouse.engine.loop import idle
from tapehouse.feeds.generated import GeneratedDay
from tapehouse.log import Envelope, FrameHeader, Log, MemoryLog, decode_frame
from tapehouse.market import Action, Cells, Flag, Instrument, Kind, Side, empty_cells, extend, pack_payload, records_of
from tapehouse.market import unpack_payload as payload_of
from tapehouse.strategies import maker, watcher

LOG_ID = bytes(range(16))
NOW = 1_767_623_400_000_000_000
TICK = 10_000_000
SHARE = Instrument(id=1, symbol="ALFA", venue="TEST")
SIDES = {"buy": int(Side.BID), "sell": int(Side.ASK)}


def idler(**parameters: int) -> CompiledStrategy:
    """A strategy that never acts."""
    return CompiledStrategy(name="idler", on_market=idle, parameters=parameters)


def cell(kind: int, instrument: int = 1, **fields: int) -> Cells:
    """One record of one cell, complete in itself."""
    made = empty_cells(1)
    made["kind"], made["cells"], made["instrument"], made["flags"] = kind, 1, instrument, Flag.LAST
    for name, value in fields.items():
        made[name] = value
    return made


def level(side: str, ticks: int, size: int, instrument: int = 1, **fields: int) -> Cells:
    """A market-by-price record: the whole size of a level."""
    place = {"action": int(Action.MODIFY), "side": SIDES[side], "price": ticks * TICK, "size": size}
    return cell(Kind.MBP, instrument, **{**place, **fields})


def trade(aggressor: int, ticks: int, size: int, instrument: int = 1, **fields: int) -> Cells:
    """A TRADE record."""
    return cell(Kind.TRADE, instrument, **{"side": aggressor, "price": ticks * TICK, "size": size, **fields})


def quote(bid: tuple[int, int], ask: tuple[int, int], instrument: int = 1) -> Cells:
    """A QUOTE record of (ticks, size) each."""
    made = np.concatenate([cell(Kind.QUOTE, instrument)] * 2)
    made["cells"][0] = 2
    made["price"], made["size"] = [bid[0] * TICK, ask[0] * TICK], [bid[1], ask[1]]
    extend(made)
    return made


class EngineBench:
    """An engine and the tape that it has been given so far."""

    def __init__(
        self, strategy: Strategy | None = None, *, guard: bool = True, share: Instrument | None = SHARE
    ) -> None:
        self.engine = Engine(strategy or idler(), guard=guard)
        self.ordinal = 0
        self.commands = 0
        self.answered: int | None = None  # the number that the last outcome of version 2 gave
        self.now = NOW
        if share is not None:
            self.feed(share.definition(ts_recv=NOW))

    def feed(self, *records: Cells) -> Cells:
        """Fold records, each a millisecond after the one before; returns what was decided."""
        for made in records:
            self.now += 1_000_000
            starts = made["cells"] > 0
            made["ts_recv"][starts] = made["ts_event"][starts] = self.now
        cells = np.concatenate(records)
        header = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=self.ordinal)
        self.engine.apply(header, cells)
        self.ordinal += len(cells)
        return self.engine.take_outputs()

    def send(self, kind: str, /, *, client: str = "", number: int = 0, version: int = 1, **body: Any) -> dict[str, Any]:
        """Send a command; returns the body of its outcome, which must be the only one and name the command."""
        self.commands += 1
        envelope = Envelope(
            id=f"command-{self.commands}", type=kind, version=version, client=client, number=number,
            correlation=f"chain-{self.commands}", time=self.now, body=body,
        )  # fmt: skip
        return self.send_bytes(envelope.encode(), envelope.id, envelope.correlation)

    def send_bytes(self, payload: bytes, causation: str, correlation: str) -> dict[str, Any]:
        """Send any bytes as a command; the body of its outcome, without where it was decided and what it answers."""
        made = pack_payload(Kind.COMMAND, payload, ts_event=0, ts_recv=0, sequence=self.commands)
        self.outputs = self.feed(made)
        answers = [event for event in events_in(self.outputs) if event["type"] == "command.outcome"]
        assert len(answers) == 1
        assert (answers[0]["causation"], answers[0]["correlation"]) == (causation, correlation)
        body: dict[str, Any] = answers[0]["body"]
        assert body.pop("position") == self.ordinal - len(made)
        if answers[0]["version"] > 1:
            assert body.pop("input") == self.commands
            self.answered = body.pop("number", None)
        return body

    def tell(self, kind: str, /, **body: Any) -> dict[str, Any]:
        """Send a command of the newest version; returns the body of its outcome."""
        return self.send(kind, version=COMMANDS.version(kind), **body)

    def order(self, side: str, price: str, size: str, **more: Any) -> dict[str, Any]:
        """Send `order.submit` for the one share."""
        envelope = {name: more.pop(name) for name in ("client", "number") if name in more}
        body = {"instrument": "ALFA", "side": side, "price": price, "size": size, **more}
        return self.send("order.submit", **envelope, **body)

    def fork(self, strategy: Strategy | None = None) -> EngineBench:
        """A bench whose engine was restored from this one's snapshot."""
        other = EngineBench(strategy, share=None)
        other.engine.restore(self.engine.snapshot())
        other.ordinal, other.commands, other.now = self.ordinal, self.commands, self.now
        return other


def events_in(outputs: Cells) -> list[dict[str, Any]]:
    """The JSON of every EVENT record."""
    return [json.loads(payload_of(made)) for _, made in records_of(outputs, Kind.EVENT)]


def fills_in(outputs: Cells) -> list[tuple[int, int, int]]:
    """(side, price in ticks, size) of every FILL record."""
    first = outputs[(outputs["kind"] == Kind.FILL) & (outputs["cells"] > 0)]
    return [(int(fill["side"]), int(fill["price"]) // TICK, int(fill["size"])) for fill in first]


def actions_in(outputs: Cells) -> str:
    """The letters of what became of orders, in order."""
    first = outputs[(outputs["kind"] == Kind.ORDER) & (outputs["cells"] > 0)]
    return "".join(map(chr, first["action"].tolist()))


# Generated days.


def quick_maker() -> Strategy:
    """The sample maker, deciding often enough for a small day."""
    return maker(interval_ms=50)


def quick_watcher() -> Strategy:
    """The sample Python strategy, deciding often enough for a small day."""
    return watcher(interval_ms=50, ratio=2)


def command_bytes(number: int, kind: str, body: dict[str, Any], *, client: str = "tests") -> bytes:
    """A command as it lies in CMDS."""
    return Envelope(
        id=f"command-{number}", type=kind, version=1, client=client, number=number, correlation="tests", time=NOW,
        body=body,
    ).encode()  # fmt: skip


async def inbox(symbol: str = "ALFA") -> MemoryLog:
    """A CMDS with a resting order, a repeat of it, a bad one and a kill of another account."""
    log = MemoryLog("CMDS_day", log_id=LOG_ID)
    order = {"instrument": symbol, "side": "buy", "price": "1.00", "size": "10", "account": "alice"}
    for payload in (
        command_bytes(1, "order.submit", order),
        command_bytes(1, "order.submit", order),
        command_bytes(2, "order.submit", {**order, "price": "1.001"}),
        b"no command at all",
        command_bytes(3, "account.kill", {"account": "bob"}),
    ):
        await log.append(payload, expected_last=None, subject="cmd.v1.day.any.thing")
    return log


def new_logs(commands: MemoryLog | None = None) -> Logs:
    """Empty logs of fixed identity, so that two runs can be compared byte by byte."""
    tape, events = MemoryLog("TAPE_day", log_id=LOG_ID), MemoryLog("EVENTS_day", log_id=LOG_ID[::-1])
    return Logs(tape=tape, events=events, commands=commands)


async def recorded(strategy: Strategy | None, *, cells: int = 5_000, seed: int = 7) -> tuple[Logs, RecordReport]:
    """A generated day with commands, recorded into memory."""
    logs = new_logs(await inbox())
    report = await record(GeneratedDay(seed=seed, cells=cells), logs, strategy=strategy, clock=VirtualClock(NOW))
    return logs, report


async def cells_of(log: Log) -> Cells:
    """Everything that a log of frames holds."""
    parts = [decode_frame(message.payload)[1] async for message in log.read((await log.extent()).first)]
    return np.concatenate(parts) if parts else empty_cells(0)


@cache
def shared_day(
    make: Callable[[], Strategy], cells: int = 5_000, seed: int = 7
) -> tuple[Logs, RecordReport, Cells, Cells]:
    """A day made once in this process: logs, report, tape cells, output cells; not to be changed."""

    async def make_day() -> tuple[Logs, RecordReport, Cells, Cells]:
        logs, report = await recorded(make(), cells=cells, seed=seed)
        return logs, report, await cells_of(logs.tape), await cells_of(logs.events)

    with ThreadPoolExecutor(1) as thread:  # A loop of its own, for callers that have one running.
        return thread.submit(asyncio.run, make_day()).result()


def fold(engine: Engine, cells: Cells, cuts: list[int], *, start: int = 0) -> Cells:
    """Fold a tape's cells from `start` on in the pieces that `cuts` make; returns what was decided."""
    outputs = []
    for begin, end in zip([start, *cuts], [*cuts, len(cells)], strict=True):
        if begin < end:
            engine.apply(FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=begin), cells[begin:end])
            outputs.append(engine.take_outputs())
    return np.concatenate(outputs) if outputs else empty_cells(0)
