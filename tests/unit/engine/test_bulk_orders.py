"""Orders of frames on the tape: what the engine makes of each, and how a frame gets there."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from tapehouse.core import VirtualClock
from tapehouse.core.errors import DataError, DecodeError, IntegrityError
from tapehouse.desk.order_frames import (
    ORDERS_PER_FRAME_MAX,
    check_orders,
    consumed_through,
    decode_orders,
    encode_orders,
    make_orders,
    pack_depth,
    place_orders,
)
from tapehouse.desk.orders_projection import OrdersProjection
from tapehouse.desk.positions_projection import PositionsProjection
from tapehouse.desk.requests import (
    BAD_PRICE,
    BAD_REQUEST,
    IOC,
    LIMIT,
    OK,
    POST_ONLY_FLAG,
    STALE_NUMBER,
    UNKNOWN_ACCOUNT,
    WOULD_CROSS,
)
from tapehouse.desk.state import WORKING
from tapehouse.engine import Sequencer, catch_up, read_tape
from tapehouse.engine.sequencer import DESK_SOURCE, TapeState
from tapehouse.engine.sidecar import commands_through
from tapehouse.log import FrameHeader, FrameWriter, MemoryLog, decode_frame
from tapehouse.market import Action, Cells, Kind, Side, from_words, records_of, unpack_payload, words
from tests.support.bench import LOG_ID, NOW, SHARE, EngineBench, events_in, fills_in, level
from tests.support.bulk_orders import Answer, answers_in, orders

CLIENT = 2**64 - 5


def fed(bench: EngineBench, made: Cells) -> list[Answer]:
    """Give orders to a bench as its sequencer would; returns the answers, all decisions are in `bench.outputs`."""
    encoded = decode_orders(encode_orders(made))
    bench.outputs = bench.feed(place_orders(encoded, sequence=1, now=NOW, source=DESK_SOURCE))
    return answers_in(bench.outputs)


# What the engine decides.


def test_an_order_is_decided_and_answered_in_its_own_record() -> None:
    bench = EngineBench()
    ordinal = bench.ordinal
    (first, second) = fed(bench, orders(CLIENT, 7, 2, ticks=[98, 99]))
    assert first == Answer(CLIENT, 7, "ACCEPTED", ordinal << 12, OK, ordinal)
    assert second == Answer(CLIENT, 8, "ACCEPTED", (ordinal + 2) << 12, OK, ordinal + 2)
    assert len(bench.outputs) == 6, "an answer costs one cell"


def test_fills_follow_the_answer_and_keep_their_bytes() -> None:
    bench, alone = EngineBench(), EngineBench()
    for one in (bench, alone):
        one.feed(level("sell", 101, 4), level("sell", 102, 9))
    fed(bench, orders(CLIENT, 1, ticks=102, size=10))
    alone.order("buy", "1.02", "10", account="strategy")
    assert fills_in(bench.outputs) == fills_in(alone.outputs) == [(Side.BID, 101, 4), (Side.BID, 102, 6)]
    told = bench.outputs[bench.outputs["kind"] == Kind.FILL]
    want = alone.outputs[alone.outputs["kind"] == Kind.FILL]
    assert np.array_equal(words(told)[1::2, :6], words(want)[1::2, :6])


def test_a_number_seen_before_is_repeated_and_has_no_effect() -> None:
    bench = EngineBench()
    (first,) = fed(bench, orders(CLIENT, 1))
    before = bench.engine.desk.accounts.copy()
    (again,) = fed(bench, orders(CLIENT, 1, size=500))
    assert again == Answer(CLIENT, 1, "REPEATED", first.order_id, OK, bench.ordinal - 2)
    assert np.array_equal(before, bench.engine.desk.accounts)
    assert len(bench.outputs) == 3
    (other,) = fed(bench, orders(CLIENT - 1, 1))
    assert other.action == "ACCEPTED", "numbers are each client's own"


def test_a_repeated_rejection_names_the_first_reason() -> None:
    bench = EngineBench()
    (first,) = fed(bench, orders(CLIENT, 1, price=1))
    (again,) = fed(bench, orders(CLIENT, 1, price=1))
    assert (first.action, first.reason) == ("REJECTED", BAD_PRICE)
    assert (again.action, again.reason, again.order_id) == ("REPEATED", BAD_PRICE, first.order_id)


def test_cancels_are_answered_too() -> None:
    bench = EngineBench()
    (order,) = fed(bench, orders(CLIENT, 1))
    (gone,) = fed(bench, orders(CLIENT, 2, action=int(Action.CANCEL), order_id=order.order_id))
    assert (gone.number, gone.action, gone.order_id, gone.reason) == (2, "CANCELLED", order.order_id, OK)
    (unknown,) = fed(bench, orders(CLIENT, 3, action=int(Action.CANCEL), order_id=order.order_id))
    assert unknown.action == "REJECTED"
    assert unknown.reason != OK


def test_type_flags_and_time_in_force_reach_the_order() -> None:
    bench = EngineBench()
    bench.feed(level("sell", 101, 4))
    (crossing,) = fed(bench, orders(CLIENT, 1, ticks=101, flags=POST_ONLY_FLAG))
    assert crossing.reason == WOULD_CROSS
    fed(bench, orders(CLIENT, 2, ticks=101, size=9, depth=pack_depth(LIMIT, IOC)))
    assert fills_in(bench.outputs) == [(Side.BID, 101, 4)]
    assert bench.engine.desk.counters[WORKING] == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"instrument": 9}, BAD_REQUEST), ({"instrument": 1 << 20}, BAD_REQUEST), ({"account": 1}, UNKNOWN_ACCOUNT),
     ({"account": 2**32 - 1}, UNKNOWN_ACCOUNT)],
)  # fmt: skip
def test_who_names_nobody_is_rejected_and_projections_go_on(fields: dict[str, int], reason: int) -> None:
    bench = EngineBench(share=None)
    outputs = [bench.feed(SHARE.definition(ts_recv=NOW))]
    (answer,) = fed(bench, orders(CLIENT, 1, **fields))
    assert (answer.action, answer.reason) == ("REJECTED", reason)
    outputs.append(bench.outputs)
    fed(bench, orders(CLIENT, 2, 3))
    outputs.append(bench.outputs)
    fed(bench, orders(CLIENT, 2, 3))
    outputs.append(bench.outputs)
    header = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0)
    projection = OrdersProjection()
    projection.apply(header, np.concatenate(outputs))
    PositionsProjection().apply(header, np.concatenate(outputs))
    assert [value["status"] for _, value in projection.items()] == ["working"] * 3


def test_an_opened_account_can_trade() -> None:
    bench = EngineBench()
    assert fed(bench, orders(CLIENT, 1, account=1))[0].reason == UNKNOWN_ACCOUNT
    assert bench.send("account.open", account="alice")["outcome"] == "accepted"
    assert fed(bench, orders(CLIENT, 2, account=1))[0].reason == OK
    fork = bench.fork()
    assert fed(fork, orders(CLIENT, 3, account=1))[0].reason == OK
    assert fork.engine.digests() != bench.engine.digests()


def test_below_the_window_nothing_runs() -> None:
    bench = EngineBench()
    fed(bench, orders(CLIENT, 100_000))
    (stale,) = fed(bench, orders(CLIENT, 50))
    assert (stale.action, stale.reason) == ("REJECTED", STALE_NUMBER)
    (late,) = fed(bench, orders(CLIENT, 99_999))
    assert late.action == "ACCEPTED", "within the window it is known that it was never seen"


def test_an_order_of_a_feed_is_no_input() -> None:
    with pytest.raises(DecodeError, match="record kind 7 is unknown"):
        EngineBench().feed(place_orders(orders(CLIENT, 1), sequence=1, now=NOW, source=1))


def test_a_triggered_order_goes_on_with_its_new_limit() -> None:
    bench = EngineBench(share=None)
    outputs = [bench.feed(SHARE.definition(ts_recv=NOW))]
    (order,) = fed(bench, orders(CLIENT, 1))
    triggered = bench.outputs.copy()
    triggered["action"], triggered["price"][0] = Action.TRIGGERED, 77 * 10_000_000
    projection = OrdersProjection()
    header = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0)
    projection.apply(header, np.concatenate([*outputs, bench.outputs, triggered]))
    value = projection.get(f"orders/{order.order_id}")
    assert value is not None
    assert (value["status"], value["price"]) == ("working", "0.77")


# How a frame gets onto the tape.


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda cells: cells[:-1], "cells are not 1 to"),
        (lambda cells: cells[:0], "0 cells are not"),
        (lambda cells: _with(cells, kind=Kind.FILL), "no order"),
        (lambda cells: _with(cells, action=ord("T")), "an action that is none"),
        (lambda cells: _with(cells, side=Side.NONE), "a side that is none"),
        (lambda cells: _with(cells, depth=4), "an order type"),
        (lambda cells: _with(cells, depth=6 << 4), "a time in force"),
        (lambda cells: _with(cells, flags=128), "a flag"),
        (lambda cells: _with(cells, order_id=2**63), "an id of an order"),
        (lambda cells: _with(cells, source=2), "must be 0"),
        (lambda cells: _said(cells, 0, 5), "another client"),
        (lambda cells: _said(cells, 1, 9), "does not follow"),
        (lambda cells: make_orders(2, client=0, number=1), "or none"),
        (lambda cells: make_orders(2, client=1, number=0), "a number that is not"),
        (lambda cells: make_orders(2, client=1, number=2**63 - 1), "a number that is not"),
        (lambda cells: make_orders(ORDERS_PER_FRAME_MAX + 1, client=1, number=1), "cells are not 1 to"),
    ],
)
def test_a_frame_that_no_desk_would_take_is_not_made(spoil: Callable[[Cells], Cells], what: str) -> None:
    encode_orders(orders(CLIENT, 1, 3))
    with pytest.raises(DataError, match=what):
        encode_orders(spoil(orders(CLIENT, 1, 3)))


def _with(cells: Cells, **fields: int) -> Cells:
    for name, value in fields.items():
        cells[name][2] = value
    return cells


def _said(cells: Cells, column: int, value: int) -> Cells:
    array = words(cells)
    array[3, column] = value
    return from_words(array)


def test_an_extension_of_another_order_is_found() -> None:
    cells = decode_orders(encode_orders(orders(CLIENT, 1, 3)))
    cells["instrument"][3] = 2
    with pytest.raises(DataError, match=r"order 1 of the frame.*an extension that is not its order's"):
        check_orders(cells)


async def sequencer_of(log: MemoryLog) -> tuple[Sequencer, FrameWriter, TapeState]:
    state = await read_tape(log)
    writer = await FrameWriter.open(log, writer=1, frame_cells=10)
    made = Sequencer(log, writer, state, clock_source="wall", clock=VirtualClock(NOW), code="code")
    await made.begin()
    return made, writer, state


async def cells_of(log: MemoryLog) -> Cells:
    return np.concatenate([decode_frame(message.payload)[1] async for message in log.read(1)])


@pytest.mark.parametrize("kept", [None, 1, 2, 3])
async def test_a_successor_goes_on_within_a_frame(kept: int | None) -> None:
    """However many frames of TAPE hold a part of the message when the sequencer dies."""
    tape, commands = MemoryLog("TAPE_t", log_id=LOG_ID), MemoryLog("CMDS_t", log_id=LOG_ID)
    await commands.append(b"{}", expected_last=None)
    await commands.append(encode_orders(orders(CLIENT, 10, 14)), expected_last=None)
    await commands.append(encode_orders(orders(CLIENT, 24, 2)), expected_last=None)
    first, writer, _ = await sequencer_of(tape)
    await first.flush()
    begun = writer.last_sequence
    await catch_up(first, commands)
    if kept is not None:
        shorter = MemoryLog("TAPE_t", log_id=LOG_ID)
        async for message in tape.read(1, through=begun + kept):
            await shorter.append(message.payload, expected_last=message.sequence - 1)
        tape = shorter
    before = await read_tape(tape)
    assert before.commands_through == {None: 3, 1: 1, 2: 1, 3: 2}[kept]
    assert before.part[1] == {None: 0, 1: 4, 2: 9, 3: 0}[kept]
    second, _, state = await sequencer_of(tape)
    await catch_up(second, commands)
    cells = await cells_of(tape)
    told = cells[(cells["kind"] == Kind.ORDER) & (cells["cells"] == 0)]
    assert words(told)[:, 1].tolist() == list(range(10, 26)), "each order is there once, in order"
    assert state.commands_through == 3
    assert (await read_tape(tape)).commands_through == 3
    orders_there = cells[(cells["kind"] == Kind.ORDER) & (cells["cells"] > 0)]
    assert orders_there["sequence"].tolist() == [2] * 14 + [3] * 2
    assert (orders_there["flags"] & 128 != 0).tolist() == [False] * 13 + [True, False, True]


async def test_a_successor_with_another_cmds_halts() -> None:
    tape, commands = MemoryLog("TAPE_t", log_id=LOG_ID), MemoryLog("CMDS_t", log_id=LOG_ID)
    await commands.append(encode_orders(orders(CLIENT, 10, 3)), expected_last=None)
    made, _, state = await sequencer_of(tape)
    state.part = (1, 3)
    with pytest.raises(IntegrityError, match="CMDS has 3 orders where the tape has the first 3 of more"):
        await catch_up(made, commands)


async def test_a_bad_frame_is_answered_as_a_command() -> None:
    tape, commands = MemoryLog("TAPE_t", log_id=LOG_ID), MemoryLog("CMDS_t", log_id=LOG_ID)
    good = encode_orders(orders(CLIENT, 1, 2))
    await commands.append(good[:-1] + bytes([good[-1] ^ 1]), expected_last=None)
    made, _, _ = await sequencer_of(tape)
    await catch_up(made, commands)
    cells = await cells_of(tape)
    ((_, record),) = records_of(cells, Kind.COMMAND)
    assert "refused_frame" in json.loads(unpack_payload(record))
    assert made.metrics.get("commands_refused_total") == 1
    bench = EngineBench()
    event = events_in(bench.feed(record))[-1]
    assert (event["causation"], event["body"]["outcome"]) == ("cmds:1", "parked")
    assert "checksum" in event["body"]["reason"]


def test_a_part_of_a_message_is_not_consumed_yet() -> None:
    placed = place_orders(orders(CLIENT, 1, 4), sequence=8, now=NOW, source=DESK_SOURCE)
    assert commands_through(placed[:-2], 5) == 5
    assert commands_through(placed, 5) == 8
    assert consumed_through(placed, 5, source=1) == 5, "a feed's orders are nobody's commands"
