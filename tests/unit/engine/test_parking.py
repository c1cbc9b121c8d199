"""What cannot be understood is parked: an event, an outcome, bytes that are kept, and a second chance."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DataError, DecodeError, IntegrityError
from tapehouse.desk.commands import COMMANDS, EVENTS
from tapehouse.desk.state import WORKING
from tapehouse.engine import parking
from tapehouse.engine.parking import PARKED_BYTES_MAX, PARKED_MAX, SETTLED_MAX, Parked, Parking
from tapehouse.log import Envelope
from tapehouse.market import ORDER_EXTENSION, Kind, pack_payload
from tests.support.bench import NOW, EngineBench, actions_in, cell, events_in, level, quote, trade

ORDER = {"instrument": "ALFA", "side": "buy", "price": "0.98", "size": "5"}


def desk() -> EngineBench:
    bench = EngineBench()
    bench.feed(level("buy", 99, 20), level("sell", 101, 20))
    return bench


def types_in(bench: EngineBench) -> list[str]:
    return [event["type"] for event in events_in(bench.outputs)]


def envelope_bytes(kind: str, body: dict[str, Any], *, version: int = 1, client: str = "", number: int = 0) -> bytes:
    return Envelope(
        id="c-1", type=kind, version=version, client=client, number=number, correlation="chain", time=NOW, body=body
    ).encode()


def upgrade(monkeypatch: pytest.MonkeyPatch, name: str = "order.submit") -> int:
    """Have the code know one version more of a type, as an upgrade would; returns that version."""
    entry = COMMANDS._types[name]
    monkeypatch.setitem(entry.upcasters, entry.version, lambda body: body)
    monkeypatch.setattr(entry, "version", entry.version + 1)
    return entry.version


def park_an_order(bench: EngineBench) -> int:
    """An order of a version that this code does not know; returns the position at which it was parked."""
    position = bench.ordinal
    payload = envelope_bytes("order.submit", ORDER, version=COMMANDS.version("order.submit") + 1, client="al", number=7)
    assert bench.send_bytes(payload, "c-1", "chain")["outcome"] == "parked"
    return position


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"\xff no JSON", {"client": "", "number": 0, "type": "", "version": 0}),
        (
            envelope_bytes("order.shout", {}, client="al", number=3),
            {"client": "al", "number": 3, "type": "order.shout", "version": 1},
        ),
        (
            envelope_bytes("order.submit", {"side": "hold"}, client="al", number=3),
            {"client": "al", "number": 3, "type": "order.submit", "version": 1},
        ),
    ],
)
def test_a_parked_command_is_told_by_an_event_before_its_outcome(payload: bytes, told: dict[str, Any]) -> None:
    bench = desk()
    name = ("c-1", "chain") if payload[:1] == b"{" else ("cmds:0", "cmds:0")
    outcome = bench.send_bytes(payload, *name)
    assert types_in(bench) == ["command.parked", "command.outcome"]
    event = events_in(bench.outputs)[0]
    size, digest = len(payload), blake3(payload).hexdigest()
    assert event["body"] == {**told, "reason": outcome["reason"], "sequence": 0, "size": size, "hash": digest}
    assert (event["causation"], event["correlation"]) == name
    assert outcome["outcome"] == "parked"
    assert EVENTS.decode(json.dumps(event).encode())


def test_what_is_understood_and_refused_is_not_parked() -> None:
    bench = desk()
    for order in ({**ORDER, "instrument": "OMEGA"}, {**ORDER, "price": "0.985"}):
        assert bench.send("order.submit", **order)["outcome"] == "rejected"
        assert "command.parked" not in types_in(bench)


def test_a_repeat_of_a_parked_command_is_not_parked_again() -> None:
    bench = desk()
    park_an_order(bench)
    again = bench.send("order.submit", client="al", number=7, **ORDER)
    assert (again["outcome"], again["first"]) == ("repeated", "parked")
    assert types_in(bench) == ["command.outcome"]


def replayed(bench: EngineBench, position: int) -> list[dict[str, Any]]:
    """Events of a replay, which has two outcomes."""
    bench.commands += 1
    body = {"position": position}
    envelope = Envelope(
        id="again", type="parked.replay", version=1, client="ops", number=bench.commands, correlation="ops",
        time=NOW, body=body,
    )  # fmt: skip
    bench.outputs = bench.feed(pack_payload(Kind.COMMAND, envelope.encode(), ts_event=0, ts_recv=0, sequence=50))
    return events_in(bench.outputs)


def test_a_replay_decides_the_old_bytes_with_todays_code(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = desk()
    position = park_an_order(bench)
    upgrade(monkeypatch)
    at = bench.ordinal
    events = replayed(bench, position)
    assert [event["type"] for event in events] == [
        "command.unparked", "account.opened", "command.outcome", "command.outcome",
    ]  # fmt: skip
    unparked, _, its_own, answer = events
    assert unparked["body"] == {"position": position, "sequence": 0}
    assert (unparked["causation"], its_own["causation"], answer["causation"]) == ("again", "c-1", "again")
    assert (its_own["correlation"], its_own["body"]["outcome"], its_own["body"]["position"]) == (
        "chain",
        "accepted",
        at,
    )
    assert answer["body"]["outcome"] == "accepted"
    assert answer["body"]["reason"] == "decided again, accepted"
    order = bench.outputs[bench.outputs["kind"] == Kind.ORDER]
    assert actions_in(bench.outputs) == "a"
    assert int(order[1:].view(ORDER_EXTENSION)["number"][0]) == 7
    assert answer["body"]["order_id"] == its_own["body"]["order_id"] == int(order["order_id"][0])
    # What was parked is settled: its client hears what came of it, and nobody can have it twice.
    assert bench.send("order.submit", client="al", number=7, **ORDER)["first"] == "accepted"
    twice = bench.send("parked.replay", position=position)
    assert twice["outcome"] == "rejected"
    assert f"the command parked at {position} was replayed at {at}" in twice["reason"]
    assert bench.engine.desk.counters[WORKING] == 1


def test_a_replay_that_still_cannot_be_read_leaves_it_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = desk()
    position = park_an_order(bench)
    refused = bench.send("parked.replay", position=position)
    assert refused["outcome"] == "rejected"
    assert "is newer than" in refused["reason"]
    upgrade(monkeypatch)
    assert len(replayed(bench, position)) == 4


def test_a_replayed_command_can_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = desk()
    position = park_an_order(bench)
    bench.send("account.kill", account="manual")
    upgrade(monkeypatch)
    events = replayed(bench, position)
    assert [event["body"]["outcome"] for event in events[1:]] == ["rejected", "accepted"]
    assert events[-1]["body"]["reason"] == "decided again, rejected: kill switch is on"


def test_a_replay_is_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = desk()
    position = bench.ordinal
    payload = envelope_bytes("parked.replay", {"position": position}, version=2)
    bench.send_bytes(payload, "c-1", "chain")
    upgrade(monkeypatch, "parked.replay")
    assert "a parked.replay is not replayed" in bench.send("parked.replay", position=position)["reason"]
    assert bench.send("parked.drop", position=position)["outcome"] == "accepted"


def test_a_drop_forgets_by_event() -> None:
    bench = desk()
    position = park_an_order(bench)
    at = bench.ordinal
    assert bench.send("parked.drop", position=position) == {"outcome": "accepted"}
    dropped = events_in(bench.outputs)[0]
    assert (dropped["type"], dropped["body"]) == (
        "command.dropped", {"position": position, "sequence": 0, "why": "asked"},
    )  # fmt: skip
    for kind in ("parked.replay", "parked.drop"):
        assert f"was dropped at {at}" in bench.send(kind, position=position)["reason"]
    assert "nothing is parked at 3" in bench.send("parked.drop", position=3)["reason"]


def test_the_oldest_falls_out_by_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PARKED_MAX", 2)
    bench = desk()
    positions = []
    for _ in range(3):
        positions.append(bench.ordinal)
        bench.send_bytes(b"?", f"cmds:{bench.commands}", f"cmds:{bench.commands}")
    assert types_in(bench) == ["command.dropped", "command.parked", "command.outcome"]
    assert events_in(bench.outputs)[0]["body"] == {"position": positions[0], "sequence": 0, "why": "no room"}
    assert "had to make room" in bench.send("parked.replay", position=positions[0])["reason"]
    assert "no JSON" in bench.send("parked.replay", position=positions[1])["reason"]


def test_a_restored_desk_goes_on_with_what_is_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = desk()
    first, second = park_an_order(bench), bench.ordinal
    bench.send_bytes(b"\x00", f"cmds:{bench.commands}", f"cmds:{bench.commands}")
    bench.send("parked.drop", position=second)
    bench.send("desk.poison", policy="park")
    bench.feed(trade(0, 99, 1, instrument=9))
    other = bench.fork()
    assert bench.engine.snapshot() == other.engine.snapshot()
    upgrade(monkeypatch)
    outputs = []
    for each in (bench, other):
        replayed(each, first)
        outputs.append(
            (each.outputs.tobytes(), each.feed(trade(0, 99, 1, instrument=9)).tobytes(), each.engine.digest())
        )
    assert outputs[0] == outputs[1]
    assert b"input.parked" in outputs[0][1]


# Records of the tape.


def poison() -> list[tuple[Any, str]]:
    return [
        (trade(0, 99, 1, instrument=9), "instrument 9 is used before its definition"),
        (quote((98, 1), (102, 1), instrument=4_000_000_000), "instrument 4000000000 is used before its definition"),
        (cell(127), "record kind 127 is unknown"),
    ]


@pytest.mark.parametrize(("record", "reason"), poison())
def test_a_record_that_cannot_be_applied_halts_unless_told_otherwise(record: Any, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        desk().feed(record)
    bench = desk()
    bench.send("desk.poison", policy="park")
    bench.send("desk.poison", policy="halt")
    with pytest.raises(DecodeError, match=reason):
        bench.feed(record)
    assert bench.engine.halted


@pytest.mark.parametrize(("record", "reason"), poison())
def test_told_to_the_desk_parks_it_and_goes_on(record: Any, reason: str) -> None:
    bench = desk()
    assert bench.send("desk.poison", policy="park") == {"outcome": "accepted"}
    assert events_in(bench.outputs)[0]["type"] == "desk.poison_set"
    at = bench.ordinal
    outputs = bench.feed(record, level("buy", 99, 30), record)
    events = events_in(outputs)
    assert [event["type"] for event in events] == ["input.parked"] * 2
    body = {"reason": reason, "kind": int(record["kind"][0]), "cells": len(record)}
    instrument = int(record["instrument"][0])
    assert events[0]["body"] == {**body, "ordinal": at, "instrument": instrument}
    assert events[1]["body"]["ordinal"] == at + len(record) + 1
    assert [event["causation"] for event in events] == [f"tape:{event['body']['ordinal']}" for event in events]
    assert outputs["sequence"][0] == at
    assert bench.order("buy", "0.98", "5")["outcome"] == "accepted"
    assert EVENTS.decode(json.dumps(events[0]).encode())


def test_batches_do_not_matter_to_what_is_skipped() -> None:
    one, many = desk(), desk()
    for bench in (one, many):
        bench.send("desk.poison", policy="park")
    records = [poison()[0][0], level("buy", 99, 30), poison()[1][0], poison()[2][0]]
    whole = one.feed(*(each.copy() for each in records))
    pieces = np.concatenate([many.feed(each.copy()) for each in records])
    assert whole.tobytes() == pieces.tobytes()
    assert one.engine.digest() == many.engine.digest()


def test_a_record_whose_length_is_broken_halts_all_the_same() -> None:
    bench = desk()
    bench.send("desk.poison", policy="park")
    record = quote((98, 1), (102, 1), instrument=9)
    record["cells"][1] = 1
    with pytest.raises(DecodeError, match="cut short"):
        bench.feed(record)


# The state.


def parked(position: int, payload: bytes = b"?") -> Parked:
    return Parked(position=position, sequence=position * 2, payload=payload, reason="because")


def test_what_is_kept_is_bounded_by_count_and_by_bytes() -> None:
    kept = Parking()
    for position in range(PARKED_MAX):
        assert kept.add(parked(position)) == []
    assert [each.position for each in kept.add(parked(PARKED_MAX))] == [0]
    gone = kept.add(parked(PARKED_MAX + 1, b"x" * PARKED_BYTES_MAX))
    assert len(gone) == PARKED_MAX
    assert (len(kept), kept.size) == (1, PARKED_BYTES_MAX)
    for position in range(2000, 2000 + SETTLED_MAX + 1):
        kept.add(parked(position))
        kept.settle(position, "was dropped")
    with pytest.raises(DataError, match="nothing is parked at 2000"):
        kept.find(2000)
    with pytest.raises(DataError, match="parked at 2001 was dropped"):
        kept.find(2001)
    assert Parking.restore(kept.snapshot()).snapshot() == kept.snapshot()


class Obvious:
    """The slow oracle: a list of what is there, oldest first."""

    def __init__(self, count: int, room: int) -> None:
        self.there: list[Parked] = []
        self.count, self.room = count, room

    def add(self, new: Parked) -> list[int]:
        self.there.append(new)
        gone = []
        while len(self.there) > self.count or sum(len(each.payload) for each in self.there) > self.room:
            gone.append(self.there.pop(0).position)
        return gone


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 30)), max_size=60))
def test_parking_equals_the_obvious_list(steps: list[tuple[bool, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parking, "PARKED_MAX", 5)
        patch.setattr(parking, "PARKED_BYTES_MAX", 60)
        kept, obvious = Parking(), Obvious(5, 60)
        for position, (adds, size, which) in enumerate(steps):
            if adds:
                new = parked(position, b"x" * size)
                assert [each.position for each in kept.add(new)] == obvious.add(new)
            elif which in [each.position for each in obvious.there]:
                assert kept.find(which) in obvious.there
                kept.settle(which, "went")
                obvious.there = [each for each in obvious.there if each.position != which]
            kept = Parking.restore(kept.snapshot())
            assert kept.size == sum(len(each.payload) for each in obvious.there)
            assert len(kept) == len(obvious.there)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        Parking().snapshot().replace(b"halt", b"hope"),
        Parking().snapshot().replace(b'"parked":[]', b'"parked":[[1,2,"?","no base64"]]'),
        Parking().snapshot().replace(b'"parked":[]', b'"parked":[[1,2,"","x"],[1,2,"","x"]]'),
    ],
)
def test_a_damaged_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="damaged"):
        Parking.restore(data)
