"""`instrument.register`: the sequencer defines what is new before the command, the engine answers; both agree."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tapehouse.core import VirtualClock
from tapehouse.core.errors import DataError
from tapehouse.desk.commands import COMMANDS, RegisterInstrument
from tapehouse.desk.state import INSTRUMENTS_MAX, SYMBOL_IDS_MAX
from tapehouse.engine.registration import registered
from tapehouse.engine.sequencer import Sequencer, read_tape
from tapehouse.log import FrameHeader, FrameWriter, MemoryLog, Message, decode_frame
from tapehouse.market import Cells, Instrument, Kind, read_definition, records_of
from tests.support.bench import LOG_ID, NOW, SHARE, EngineBench, command_bytes, events_in

GOLD = {"symbol": "GOLD", "venue": "internal", "tick_size": "0.5", "lot_size": "0.1", "multiplier": 10}
OPTION = {
    "asset_class": "option",
    "underlying": "ALFA",
    "strike": "1.5",
    "right": "C",
    "expiry": "2026-12-18T21:00:00Z",
}


def message(sequence: int, body: dict[str, Any]) -> Message:
    payload = command_bytes(sequence, "instrument.register", body)
    return Message(sequence=sequence, subject="cmd.v1.day.instrument.register", payload=payload)


async def opened(log: MemoryLog) -> Sequencer:
    writer = await FrameWriter.open(log, writer=1)
    state = await read_tape(log)
    sequencer = Sequencer(log, writer, state, clock_source="history", clock=VirtualClock(1), code="test")
    state.now = max(state.now, NOW)
    await sequencer.begin()
    return sequencer


async def admitted(sequencer: Sequencer, *messages: Message) -> None:
    for each in messages:
        await sequencer.offer_command(each)
    sequencer.admit_commands()
    await sequencer.flush()


async def tape_of(log: MemoryLog) -> Cells:
    return np.concatenate([decode_frame(message.payload)[1] async for message in log.read(1)])


def kinds_of(cells: Cells) -> list[Kind]:
    return [Kind(kind) for kind in cells["kind"][cells["cells"] > 0].tolist()]


def answers(cells: Cells) -> list[dict[str, Any]]:
    bench = EngineBench(share=None)
    bench.engine.apply(FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0), cells)
    return [event["body"] for event in events_in(bench.engine.take_outputs()) if event["type"] == "command.outcome"]


async def test_a_new_instrument_is_defined_before_its_command_and_can_be_traded() -> None:
    log = MemoryLog("TAPE_day", log_id=LOG_ID)
    sequencer = await opened(log)
    table = sequencer.define((Instrument(id=1, symbol="ALFA"),))
    await admitted(sequencer, message(1, GOLD), message(2, GOLD))
    cells = await tape_of(log)
    assert kinds_of(cells) == [Kind.EPOCH, Kind.DEFINITION, Kind.DEFINITION, Kind.COMMAND, Kind.COMMAND]
    made = [read_definition(record) for _, record in records_of(cells, Kind.DEFINITION)][1]
    assert (made.id, made.venue, made.tick_size, made.lot_size, made.multiplier) == (2, "internal", 500_000_000, 1, 10)
    assert [(body["outcome"], body["instrument"]) for body in answers(cells)] == [("accepted", 2), ("accepted", 2)]
    assert table[1] == 1
    bench = EngineBench(share=None)
    bench.engine.apply(FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0), cells)
    bench.engine.take_outputs()
    bench.ordinal, bench.now = len(cells), NOW
    order = bench.tell("order.submit", instrument="GOLD", side="buy", price="10.5", size="0.2")
    assert order["outcome"] == "accepted"


async def test_a_command_that_was_cut_off_from_its_definition_is_answered_when_it_comes_again() -> None:
    log = MemoryLog("TAPE_day", log_id=LOG_ID)
    sequencer = await opened(log)
    definition = sequencer.command_cells(message(1, GOLD))
    await sequencer._writer.append(definition[: int(definition["cells"][0])])  # its last act
    successor = await opened(log)
    assert successor.state.commands_through == 0
    await admitted(successor, message(1, GOLD))
    cells = await tape_of(log)
    assert kinds_of(cells) == [Kind.EPOCH, Kind.DEFINITION, Kind.EPOCH, Kind.COMMAND]
    assert [body["outcome"] for body in answers(cells)] == ["accepted"]


async def test_a_feed_waits_for_definitions_that_go_another_way() -> None:
    """In `ahead` mode a command's definition goes through a ring: what a feed declares must not overtake it."""
    log = MemoryLog("TAPE_day", log_id=LOG_ID)
    sequencer = await opened(log)
    on_their_way = sequencer.command_cells(message(1, {**GOLD, "venue": "XCEC"}))
    gold = read_definition(on_their_way[: int(on_their_way["cells"][0])])
    declared = (replace(gold, id=7), Instrument(id=8, symbol="BETA"))
    assert sequencer.define_after({}, declared) is None
    assert sequencer.take_pending().size == 0
    table = sequencer.define_after({1: gold}, declared)
    assert table is not None
    assert (table[7], table[8]) == (1, 2)
    assert [read_definition(record).symbol for _, record in records_of(sequencer.take_pending(), Kind.DEFINITION)] == [
        "BETA"
    ]


async def test_ids_go_on_after_the_highest_though_one_was_lost() -> None:
    log = MemoryLog("TAPE_day", log_id=LOG_ID)
    sequencer = await opened(log)
    sequencer.command_cells(message(1, GOLD))  # id 1, which never comes to the tape
    table = sequencer.define((Instrument(id=1, symbol="BETA"),))
    assert table[1] == 2
    await sequencer.flush()
    successor = await opened(log)
    await admitted(successor, message(2, {**GOLD, "symbol": "IRON"}))
    assert {i.id: i.symbol for i in successor.state.instruments.values()} == {2: "BETA", 3: "IRON"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"symbol": "ALFA", "venue": "TEST", "tick_size": "0.05"}, "tick_size 10000000, not 50000000"),
        ({"symbol": "ALFA", "venue": "internal"}, "TEST has the symbol already"),
        ({**GOLD, "underlying": "OMEGA"}, "its underlying 'OMEGA' is not declared"),
        ({**GOLD, "asset_class": "option"}, "an option needs underlying, strike, expiry, right"),
        ({**GOLD, "tick_size": "1e9"}, "a tick_size of"),
        ({**GOLD, "tick_size": "1e-30"}, "a price_exponent of -30"),
        ({**GOLD, "tick_size": "1e-999999999"}, "is no whole number of 10^-9"),
        ({**GOLD, "multiplier": 10**30}, "a multiplier of"),
        ({**GOLD, "expiry": "2300-01-01"}, "its expiry is not between 1970 and 2262"),
        ({**GOLD, "symbol": "G" * 65}, "a symbol of more than 64 characters"),
        ({**GOLD, "currency": "U" * 5000}, "a currency of more than 64 characters"),
        ({**GOLD, "price_exponent": 18, "size_exponent": 18, "tick_size": "1e18", "lot_size": "1e18"}, "scaled by"),
    ],
)
async def test_what_cannot_be_registered_is_rejected_and_nothing_is_defined(body: dict[str, Any], reason: str) -> None:
    log = MemoryLog("TAPE_day", log_id=LOG_ID)
    sequencer = await opened(log)
    sequencer.define((SHARE,))
    await admitted(sequencer, message(1, body))
    cells = await tape_of(log)
    assert kinds_of(cells).count(Kind.DEFINITION) == 1
    told = answers(cells)
    assert told[0]["outcome"] == "rejected"
    assert reason in told[0]["reason"]


async def test_an_option_derives_from_what_the_tape_has() -> None:
    log = MemoryLog("TAPE_day", log_id=LOG_ID)
    sequencer = await opened(log)
    sequencer.define((SHARE,))
    await admitted(sequencer, message(1, {"symbol": "ALFA C1.5", **OPTION}))
    cells = await tape_of(log)
    made = [read_definition(record) for _, record in records_of(cells, Kind.DEFINITION)][1]
    assert (made.underlying, made.strike, made.right) == (1, 1_500_000_000, "C")
    assert answers(cells)[0]["outcome"] == "accepted"


def test_a_tape_has_room_for_so_many() -> None:
    books = {number: Instrument(id=number, symbol=f"S{number}") for number in range(1, INSTRUMENTS_MAX + 1)}
    command = RegisterInstrument(symbol="LAST")
    with pytest.raises(DataError, match=f"a desk trades {INSTRUMENTS_MAX} instruments at most"):
        registered(command, books)
    del books[7]
    assert registered(command, books).id == INSTRUMENTS_MAX + 1
    far = {SYMBOL_IDS_MAX - 1: Instrument(id=SYMBOL_IDS_MAX - 1, symbol="FAR")}
    with pytest.raises(DataError, match=f"a tape has {SYMBOL_IDS_MAX - 1} instruments at most"):
        registered(command, far)


async def test_the_engine_refuses_a_command_whose_definition_is_missing() -> None:
    bench = EngineBench()
    outcome = bench.tell("instrument.register", **GOLD)
    assert "no definition stands before this command" in outcome["reason"]
    assert COMMANDS.version("instrument.register") == 1
    assert json.loads(json.dumps(outcome)) == outcome


async def test_commands_of_other_types_bring_no_definition() -> None:
    log = MemoryLog("TAPE_day", log_id=LOG_ID)
    sequencer = await opened(log)
    mentioned = command_bytes(1, "strategy.start", {"strategy": "instrument.register"})
    await admitted(sequencer, Message(sequence=1, subject="x", payload=mentioned))
    await admitted(sequencer, Message(sequence=2, subject="x", payload=b'{"instrument.register"'))
    assert kinds_of(await tape_of(log)) == [Kind.EPOCH, Kind.COMMAND, Kind.COMMAND]
