"""A mass cancel of thousands of orders: it spans many frames of EVENTS, and kills between them change nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest

from tapehouse.core import VirtualClock
from tapehouse.core.errors import ConflictError
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.order_frames import encode_orders, make_orders, pack_depth
from tapehouse.desk.requests import GTC, LIMIT
from tapehouse.engine import Engine, GatedEngine, Sequencer, catch_up, read_tape
from tapehouse.log import Envelope, FrameHeader, FrameWriter, MemoryLog, MemorySnapshots, decode_frame
from tapehouse.market import ORDER_EXTENSION, Action, Side, record_starts
from tests.support.bench import idler
from tests.support.desk_streams import START
from tests.support.desk_told import decisions_in
from tests.support.desk_world import NEVER, KilledError, Life, MortalLog, cells_of

ORDERS, IN_A_FRAME = 5_000, 1_000
FRAME_CELLS = 500  # of EVENTS
LIVES_END = 52  # a life dies within a few appends until EVENTS has so many frames
ACCOUNTS = ("alice", "bob")
CANCEL = "the mass cancel"
TICK = 10_000_000


class Events(MortalLog):
    """Lives end at appends alone: what is read does not count."""

    def _called(self) -> None:
        if self.life.dead:
            raise KilledError


def messages() -> list[bytes]:
    """An instrument that crosses, two accounts, 5,000 orders of theirs that do not meet, and the end of all."""
    commands: list[tuple[str, dict[str, Any]]] = [
        ("instrument.register", {"symbol": "XONE", "venue": "internal"}),
        *(("account.open", {"account": name}) for name in ACCOUNTS),
        *(("risk.set_limits", {"account": name, "open_orders": ORDERS}) for name in ACCOUNTS),
    ]
    told = [_command(f"c{at}", kind, body) for at, (kind, body) in enumerate(commands)]
    for first in range(1, ORDERS + 1, IN_A_FRAME):
        cells = make_orders(IN_A_FRAME, client=9, number=first)
        orders, said = cells[::2], cells[1::2].view(ORDER_EXTENSION)
        numbers = said["number"].astype("int64")
        orders["instrument"], orders["count"], orders["size"] = 1, 1 + numbers % 2, 1 + numbers % 7
        orders["side"] = [Side.BID if number % 3 else Side.ASK for number in numbers.tolist()]
        away = 1 + numbers % 400
        orders["price"] = (1_000 + away * [(-1 if number % 3 else 1) for number in numbers.tolist()]) * TICK
        orders["depth"], said["stop"] = pack_depth(LIMIT, GTC), UNDEFINED
        told.append(encode_orders(cells))
    told.append(_command(CANCEL, "order.mass_cancel", {"instrument": "XONE"}))
    return told


def _command(name: str, kind: str, body: dict[str, Any]) -> bytes:
    return Envelope(id=name, type=kind, version=1, correlation=name, time=0, body=body).encode()


async def record_tape() -> MemoryLog:
    """A tape of those messages."""
    commands, tape = MemoryLog("CMDS"), MemoryLog("TAPE")
    for payload in messages():
        await commands.append(payload, expected_last=None)
    state = await read_tape(tape)
    state.now = START
    writer = await FrameWriter.open(tape, writer=1)
    sequencer = Sequencer(tape, writer, state, clock_source="history", clock=VirtualClock(), code="")
    await sequencer.begin()
    await catch_up(sequencer, commands)
    return tape


@pytest.mark.parametrize("fate", ["before", "after", "late"])
def test_every_order_is_cancelled_once(fate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lives end at appends of EVENTS all along the mass cancel; what is left is what a run without a kill writes."""
    monkeypatch.setattr("tapehouse.log.writer.FRAME_CELLS_MAX", FRAME_CELLS)

    async def run() -> tuple[MemoryLog, MortalLog, Engine, int]:
        tape = await record_tape()
        events, snapshots, ends = Events("EVENTS", Random(1), ambiguous=0), MemorySnapshots(), 0
        while True:
            held = len(events._messages)
            events.life, arrived = Life(fate=fate), events.arrived
            gated = GatedEngine(Engine(idler()), tape, events, writer=1 + ends, snapshots=snapshots, snapshot_cells=1)
            await gated.open()
            events.life.last = 2 + ends % 3 if held < LIVES_END else NEVER
            try:
                await gated.run()
                await gated.complete()
            except KilledError:
                ends += 1
                continue
            except ConflictError:  # What the life before had sent came after this one had looked.
                assert events.arrived > arrived
                continue
            return tape, events, gated.engine, ends

    tape, events, engine, ends = asyncio.run(run())
    assert ends > 10, "the campaign ended lives"
    cells = asyncio.run(cells_of(events))
    calm = Engine(idler())
    calm.apply(FrameHeader(log_id=bytes(16), writer=1, epoch=1, first_ordinal=0), asyncio.run(cells_of(tape)))
    assert calm.take_outputs().tobytes() == cells.tobytes()
    assert calm.digests() == engine.digests()
    counts, told = Counter[tuple[int, int]](), decisions_in(cells)
    counts.update((one["action"], one["order_id"]) for one in told if one["kind"] == "order")
    accepted = [order for action, order in counts if action == Action.ACCEPTED]
    cancelled = [order for action, order in counts if action == Action.CANCELLED]
    assert len(accepted) == ORDERS
    assert sorted(accepted) == sorted(cancelled)
    assert set(counts.values()) == {1}, "each order is accepted once and cancelled once"
    assert (told[-1]["causation"], told[-1]["body"]["count"]) == (CANCEL, ORDERS)
    spanned = [message for message in events._messages if _has_cancels(message.payload)]
    assert len(spanned) > 15, "the mass cancel spans many frames"


def _has_cancels(payload: bytes) -> bool:
    cells = decode_frame(payload)[1]
    return bool((cells["action"][record_starts(cells)] == Action.CANCELLED).any())
