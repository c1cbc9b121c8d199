"""What OUT's fold makes of records that are no everyday ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.desk.out_events import WORKING_MAX, OutEvents
from tapehouse.log import FrameFlag, FrameHeader
from tapehouse.market import Action, Cells, Kind
from tests.support.bench import cell
from tests.support.decided_day import NOW, SHARES, decided_day, event_record, fill_record, order_record

SHARE = SHARES[0]


def header(first: int = 0, *, partial: bool = False) -> FrameHeader:
    return FrameHeader(
        log_id=bytes(16), writer=1, epoch=1, first_ordinal=first, flags=FrameFlag.PARTIAL if partial else 0
    )


def at(ordinal: int, *records: Cells) -> Cells:
    """The records of one input."""
    for index, record in enumerate(records):
        starts = record["cells"] > 0
        record["sequence"][starts], record["count"][starts], record["ts_recv"][starts] = ordinal, index, NOW
    return np.concatenate(records)


def outcome(ordinal: int, index: int, command: str) -> Cells:
    return event_record("command.outcome", ordinal, index, command, f"chain-{command}", {"outcome": "accepted"})


def told(machine: OutEvents) -> list[tuple[str, str]]:
    return [(each.type, json.loads(each.payload)["causation"]) for each in machine.take()]


def test_a_command_that_is_replayed_by_another_keeps_what_it_led_to() -> None:
    machine = OutEvents("day")
    cells = at(
        9,
        event_record("command.unparked", 9, 0, "replay", "r", {}),
        SHARE.definition(ts_recv=NOW),
        order_record(Action.ACCEPTED, 9 << 12, SHARE, 5),
        outcome(9, 3, "first"),
        outcome(9, 4, "replay"),
    )
    machine.apply(header(), cells)
    assert told(machine) == [
        ("command.unparked", "replay"), ("instrument.defined", "first"), ("order.accepted", "first"),
        ("command.outcome", "first"), ("command.outcome", "replay"),
    ]  # fmt: skip


def test_an_input_whose_records_span_frames_is_told_when_its_outcome_is_there() -> None:
    machine = OutEvents("day")
    cells = at(
        9, SHARE.definition(ts_recv=NOW), order_record(Action.ACCEPTED, 9 << 12, SHARE, 5), outcome(9, 2, "command")
    )
    machine.apply(header(partial=True), cells[:9])
    assert machine.take() == []
    assert not machine.is_between_appends
    with pytest.raises(IntegrityError, match="not told yet"):
        machine.snapshot()
    machine.apply(header(9), cells[9:])
    assert {cause for _, cause in told(machine)} == {"command"}
    assert machine.is_between_appends


def test_a_snapshot_is_canonical_and_goes_on_alike() -> None:
    day = decided_day(1, 30)
    half = len(np.concatenate(day.inputs[:15]))
    whole, first = OutEvents("day"), OutEvents("day")
    whole.apply(header(), day.cells)
    first.apply(header(), day.cells[:half])
    before = first.take()
    second = OutEvents("day")
    second.restore(first.snapshot())
    assert second.digest() == first.digest()
    second.apply(header(half), day.cells[half:])
    assert before + second.take() == whole.take()
    assert second.digest() == whole.digest()
    with pytest.raises(IntegrityError, match="of tape day"):
        OutEvents("other").restore(first.snapshot())
    with pytest.raises(IntegrityError):
        second.restore(b"damaged")


def test_what_is_remembered_of_working_orders_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert WORKING_MAX == 1 << 17
    monkeypatch.setattr("tapehouse.desk.out_events.WORKING_MAX", 2)
    machine = OutEvents("day")
    orders = [order_record(Action.ACCEPTED, (9 << 12) + index, SHARE, 5) for index in range(1, 4)]
    machine.apply(header(), at(9, SHARE.definition(ts_recv=NOW), *orders))
    machine.take()
    machine.apply(header(), at(11, *(fill_record((9 << 12) + index, SHARE, 5, index) for index in range(1, 4))))
    messages = [json.loads(each.payload) for each in machine.take()]
    assert [message["correlation"] for message in messages] == ["tape:11", "tape:9", "tape:9"]
    assert ["left" in message["body"] for message in messages] == [False, True, True]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (lambda: cell(Kind.CLOCK, 0), "kind 12 is no decision"),
        (lambda: order_record(Action.ADD, 5, SHARE, 1), "action 65 of an order is unknown"),
        (lambda: cell(Kind.ORDER, 1), "cut short"),
    ],
)
def test_what_is_no_decision_halts(record: object, said: str) -> None:
    machine = OutEvents("day")
    with pytest.raises(DecodeError, match=said):
        machine.apply(header(), at(9, SHARE.definition(ts_recv=NOW), record()))  # type: ignore[operator]


def test_an_instrument_that_nobody_defined_halts_and_a_kind_for_readers_is_skipped() -> None:
    machine = OutEvents("day")
    with pytest.raises(DecodeError, match="used before its definition"):
        machine.apply(header(), at(9, fill_record(1, SHARE, 5, 1)))
    machine = OutEvents("day")
    machine.apply(header(), at(9, cell(Kind.BAR, 0), SHARE.definition(ts_recv=NOW)))
    assert told(machine) == [("instrument.defined", "tape:9")]
