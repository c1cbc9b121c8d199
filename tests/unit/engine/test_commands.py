"""Commands in the engine: each is answered by one event that names it, and has one effect however often it comes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tapehouse.core.errors import IntegrityError
from tapehouse.desk.clients import CLIENTS_MAX, OUTCOMES_MAX, Clients
from tapehouse.desk.commands import COMMANDS, EVENTS
from tapehouse.desk.requests import REASONS
from tapehouse.desk.state import DEFAULT_LIMITS, OPEN_ORDERS_DEFAULT, POSITION, STREET, SWITCHED_OFF, working_count
from tapehouse.engine import Submit, View
from tapehouse.log import Envelope
from tapehouse.market import PAYLOAD_BYTES_MAX, Kind, pack_payload
from tests.support.bench import (
    SHARE,
    TICK,
    EngineBench,
    actions_in,
    events_in,
    fills_in,
    level,
)


def desk(**more: Any) -> EngineBench:
    bench = EngineBench(**more)
    bench.feed(level("buy", 99, 20), level("sell", 101, 20))
    return bench


def test_an_order_is_accepted_and_its_id_tells_where_it_was_decided() -> None:
    bench = desk()
    ordinal = bench.ordinal
    outcome = bench.order("buy", "0.98", "5", client="alice", number=7)
    order = bench.outputs[bench.outputs["kind"] == Kind.ORDER][0]
    assert outcome == {"outcome": "accepted", "order_id": int(order["order_id"])}
    assert (order["order_id"] >> 12, order["order_id"] & 4095) == (ordinal, 1)  # 0 is the account that was opened
    assert (order["sequence"], order["count"], order["price"], order["size"]) == (ordinal, 1, 98 * TICK, 5)
    assert actions_in(bench.outputs) == "a"


def test_a_first_order_opens_the_account_and_the_next_does_not() -> None:
    bench = desk()
    bench.order("buy", "0.98", "5", account="alice")
    opened = [event for event in events_in(bench.outputs) if event["type"] == "account.opened"]
    assert [event["body"] for event in opened] == [{"account": "alice", "number": 1}]
    assert (opened[0]["causation"], opened[0]["correlation"]) == ("command-1", "chain-1")
    bench.order("buy", "0.98", "5", account="alice")
    assert [event["type"] for event in events_in(bench.outputs)] == ["command.outcome"]
    assert all(EVENTS.decode(json.dumps(event).encode()) for event in opened)


def test_a_working_order_is_cancelled_once() -> None:
    bench = desk()
    order_id = bench.order("buy", "0.98", "5")["order_id"]
    cancel = {"instrument": "ALFA", "order_id": order_id}
    assert bench.send("order.cancel", **cancel) == {"outcome": "accepted", "order_id": order_id}
    assert actions_in(bench.outputs) == "c"
    for more in ({}, {"account": "alice"}, {"account": "strategy"}):
        refused = bench.send("order.cancel", **cancel, **more)
        assert refused == {"outcome": "rejected", "reason": "no such working order", "order_id": order_id}
        assert [event["type"] for event in events_in(bench.outputs)] == ["command.outcome"]  # no account is opened


def test_another_account_cannot_cancel() -> None:
    bench = desk()
    order_id = bench.order("buy", "0.98", "5", account="alice")["order_id"]
    bench.order("buy", "0.98", "5", account="bob")
    refused = bench.send("order.cancel", instrument="ALFA", order_id=order_id, account="bob")
    assert refused["outcome"] == "rejected"
    assert working_count(bench.engine.desk, 0) == 2


def test_the_kill_switch_cancels_stops_and_lets_go() -> None:
    bench = desk()
    bench.feed(replace(SHARE, id=2, symbol="BETA").definition(ts_recv=0))
    for symbol in ("ALFA", "BETA"):
        bench.send("order.submit", instrument=symbol, side="buy", price="0.5", size="5", account="alice")
        bench.send("order.submit", instrument=symbol, side="sell", price="2", size="5", account="alice")
    bench.order("buy", "0.98", "5", account="bob")
    assert bench.send("account.kill", account="alice") == {"outcome": "accepted"}
    assert actions_in(bench.outputs) == "cccc"
    assert bench.order("buy", "0.98", "5", account="alice")["reason"] == "kill switch is on"
    assert bench.order("buy", "0.98", "5", account="bob")["outcome"] == "accepted"
    assert bench.send("account.kill", account="alice", on=False) == {"outcome": "accepted"}
    assert bench.order("buy", "0.98", "5", account="alice")["outcome"] == "accepted"


def test_an_account_can_be_killed_before_it_ever_traded() -> None:
    bench = desk()
    bench.send("account.kill", account="carol")
    assert bench.order("buy", "0.98", "5", account="carol")["reason"] == "kill switch is on"


class Eager:
    """Buys at every turn."""

    name = "eager"

    def on_market(self, view: View) -> list[Submit]:
        return [Submit(side=0, price=98 * TICK, size=1)]

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


def test_the_strategys_account_has_its_name_and_can_be_killed() -> None:
    bench = desk(strategy=Eager())
    bench.send("account.kill", account="strategy")
    assert actions_in(bench.outputs) == "cc"
    assert actions_in(bench.feed(level("buy", 99, 30))) == "j"
    assert bench.engine.desk.conduct[0, SWITCHED_OFF] == 1


# Rejections.

SIZE_LIMIT, POSITION_LIMIT = DEFAULT_LIMITS[0], DEFAULT_LIMITS[1]


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ({"size": str(SIZE_LIMIT + 1)}, "size is not a positive whole number of lots within the limit"),
        ({"price": "0.985"}, "price is not a positive whole number of ticks"),
        ({"price": "1e5", "size": "1001"}, "notional is beyond the limit"),
        ({"price": "1.01", "time_in_force": "post_only"}, "post-only order would trade"),
        ({"price": "0.9800000001"}, "is no whole number of 10^-9"),
        ({"size": "1.5"}, "is no whole number of 10^0"),
        ({"price": "1e12"}, "does not fit 64 bits"),
        ({"price": "1e999999"}, "does not fit 64 bits"),
        ({"price": "1e-999999"}, "is no whole number of 10^-9"),
        ({"price": "NaN"}, "price: "),
        ({"price": "Infinity"}, "price: "),
        ({"price": "0"}, "price: "),
        ({"size": "-5"}, "size: "),
        ({"size": None}, "size: "),
        ({"side": "hold"}, "side: "),
        ({"time_in_force": "tomorrow"}, "time_in_force: "),
        ({"account": "Alice Smith"}, "account: "),
        ({"colour": "red"}, "colour: "),
        ({"instrument": "OMEGA"}, "unknown instrument 'OMEGA' (known: ALFA)"),
    ],
)
def test_an_order_that_cannot_be_is_rejected_with_its_reason(order: dict[str, Any], reason: str) -> None:
    bench = desk()
    outcome = bench.send("order.submit", **{"instrument": "ALFA", "side": "buy", "price": "0.98", "size": "5", **order})
    assert outcome["outcome"] == ("parked" if reason.endswith(": ") else "rejected")  # which field is wrong
    assert reason in outcome["reason"]
    assert fills_in(bench.outputs) == []
    assert working_count(bench.engine.desk, 0) == 0
    assert bool(actions_in(bench.outputs) == "j") == (reason in REASONS)


def test_lots_are_held() -> None:
    bench = EngineBench(share=replace(SHARE, lot_size=10))
    assert bench.order("buy", "0.98", "15")["outcome"] == "rejected"
    assert bench.order("buy", "0.98", "20")["outcome"] == "accepted"


def test_the_position_limit_counts_what_may_still_fill() -> None:
    bench = desk()
    for _ in range(POSITION_LIMIT // SIZE_LIMIT):
        assert bench.order("buy", "0.98", str(SIZE_LIMIT))["outcome"] == "accepted"
    assert bench.order("buy", "0.98", "1")["reason"] == "position would go beyond the limit"
    assert bench.order("sell", "1.05", "1")["outcome"] == "accepted"


def test_one_instrument_holds_so_many_working_orders() -> None:
    bench = desk()
    for _ in range(OPEN_ORDERS_DEFAULT):
        assert bench.order("buy", "0.98", "1")["outcome"] == "accepted"
    assert bench.order("buy", "0.98", "1")["reason"] == "too many open orders"


def test_a_desk_keeps_so_many_accounts() -> None:
    bench = desk()
    for number in range(1, STREET):
        assert bench.order("buy", "0.98", "1", account=f"a{number}")["outcome"] == "accepted"
    assert "no room for account 'last'" in bench.order("buy", "0.98", "1", account="last")["reason"]
    assert bench.order("buy", "0.98", "1", account="a3")["outcome"] == "accepted"


def test_two_instruments_of_one_symbol_trade_the_first() -> None:
    bench = EngineBench()
    bench.feed(replace(SHARE, id=2, venue="ELSEWHERE", tick_size=1).definition(ts_recv=0))
    assert bench.order("buy", "0.985", "1")["reason"] == "price is not a positive whole number of ticks"


def test_an_option_of_the_same_symbol_is_not_meant() -> None:
    option = {"asset_class": "option", "underlying": 7, "strike": 1, "expiry_ns": 2**62, "right": "C"}
    bench = EngineBench(share=replace(SHARE, id=7, symbol="UNDER"))
    bench.feed(replace(SHARE, id=2, price_exponent=-2, tick_size=1, **option).definition(ts_recv=0))
    bench.feed(replace(SHARE, id=3).definition(ts_recv=0))
    bench.order("buy", "0.98", "1")
    assert int(bench.outputs["price"][bench.outputs["kind"] == Kind.ORDER][0]) == 98 * TICK


# What is no command at all.


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[1]", "envelope"),
        (b"{}", "id: Field required"),
        (b'{"refused": "20000 bytes"}', "envelope"),
        (b"[" * 12_000, "no JSON"),
        (b"null", "envelope"),
    ],
)
def test_bytes_that_are_no_command_are_answered_by_their_sequence(payload: bytes, reason: str) -> None:
    bench = desk()
    bench.commands = 41
    outcome = bench.send_bytes(payload, "cmds:41", "cmds:41")
    assert outcome["outcome"] == "parked"
    assert reason in outcome["reason"]


def test_a_payload_that_its_record_does_not_hold_is_answered_too() -> None:
    bench = desk()
    made = pack_payload(Kind.COMMAND, b"{}", ts_event=0, ts_recv=0, sequence=9)
    made["size"][0] = PAYLOAD_BYTES_MAX
    events = events_in(bench.feed(made))
    told = [("command.parked", "cmds:9"), ("command.outcome", "cmds:9")]
    assert [(event["type"], event["causation"]) for event in events] == told
    assert all("cannot hold" in event["body"]["reason"] for event in events)


def test_unknown_types_and_versions_are_told() -> None:
    bench = desk()
    assert "unknown type 'order.shout'" in bench.send("order.shout")["reason"]
    known = COMMANDS.version("order.submit")
    newer = bench.send("order.submit", version=known + 1, instrument="ALFA", side="buy", price="1", size="1")
    assert f"version {known + 1} is newer than {known}" in newer["reason"]


def test_an_answer_never_outgrows_its_record() -> None:
    bench = desk()
    outcome = bench.send("order.submit", **{"x" * 11_000: 1, "instrument": "ALFA"})
    assert outcome["outcome"] == "parked"
    assert len(outcome["reason"]) <= 400


def test_every_registered_command_has_a_handler() -> None:
    bodies: dict[str, dict[str, Any]] = {
        "order.submit": {"instrument": "ALFA", "side": "buy", "price": "0.98", "size": "1"},
        "order.cancel": {"instrument": "ALFA", "order_id": 1},
        "order.replace": {"order_id": 1, "price": "0.97"},
        "order.mass_cancel": {},
        "account.kill": {"account": "alice"},
        "kill.switch": {"scope": "all"},
        "risk.set_limits": {"account": "alice", "order_size": 5},
        "instrument.register": {"symbol": "ALFA", "venue": "TEST"},
        "strategy.start": {},
        "strategy.stop": {},
        "strategy.configure": {"parameters": {"interval_ms": 1}},
        "desk.ping": {},
        "account.configure": {"account": "alice", "method": "fifo"},
        "cash.book": {"account": "alice", "currency": "USD", "amount": "1"},
        "position.correct": {"account": "alice", "instrument": "ALFA", "size": "1", "price": "1"},
        "parked.replay": {"position": 1},
        "parked.drop": {"position": 1},
        "desk.poison": {"policy": "park"},
        "account.open": {"account": "alice"},
    }
    assert sorted(bodies) == COMMANDS.names()
    for kind, body in bodies.items():
        assert "handler" not in desk().send(kind, **body).get("reason", "")


# One effect.


def test_a_repeat_is_answered_with_the_first_outcome_and_has_no_effect() -> None:
    bench = desk()
    first = bench.order("buy", "1.01", "5", client="alice", number=1)
    assert fills_in(bench.outputs) != []
    again = bench.order("buy", "1.01", "5", client="alice", number=1)
    assert again == {**first, "outcome": "repeated", "first": "accepted"}
    assert len(events_in(bench.outputs)) == 1
    assert actions_in(bench.outputs) == ""
    different = bench.send("account.kill", client="alice", number=1, account="manual")
    assert different == again  # the number is what counts
    assert bench.engine.desk.accounts[1, 0, POSITION] == 5
    assert bench.order("buy", "1.01", "5", client="bob", number=1)["outcome"] == "accepted"
    assert bench.order("buy", "1.01", "5", client="alice", number=2)["outcome"] == "accepted"
    for _ in range(2):
        assert bench.order("buy", "1.01", "5")["outcome"] == "accepted"  # without a client nothing is remembered


def test_a_rejection_is_remembered_too() -> None:
    bench = desk()
    first = bench.order("buy", "0.985", "5", client="alice", number=1)
    again = bench.order("buy", "0.98", "5", client="alice", number=1)
    assert again == {**first, "outcome": "repeated", "first": "rejected"}
    assert actions_in(bench.outputs) == ""


def test_a_number_below_the_window_is_expired_and_never_runs() -> None:
    bench = desk()
    for number in range(1, 301):
        bench.send("account.kill", client="alice", number=number, account="bob", on=False)
    outcomes = {
        number: bench.order("buy", "1.01", "1", client="alice", number=number)["outcome"]
        for number in (1, 44, 45, 300, 301)
    }
    assert outcomes == {1: "expired", 44: "expired", 45: "repeated", 300: "repeated", 301: "accepted"}
    assert bench.engine.desk.accounts[2, 0, POSITION] == 1
    answer = bench.order("buy", "1.01", "1", client="alice", number=2)
    assert answer == {"outcome": "expired", "reason": "number 2 is below this client's window"}
    restored = bench.fork()
    for each in (bench, restored):
        assert each.order("buy", "1.01", "1", client="alice", number=44)["outcome"] == "expired"
        assert each.order("buy", "1.01", "1", client="alice", number=46)["outcome"] == "repeated"
    assert bench.engine.digest() == restored.engine.digest()


def test_a_snapshot_keeps_accounts_and_outcomes() -> None:
    bench = desk()
    bench.order("buy", "0.98", "5", client="alice", number=3, account="alice")
    bench.send("account.kill", account="bob")
    restored = bench.fork()
    for each in (bench, restored):
        assert each.order("buy", "0.98", "5", client="alice", number=3, account="alice")["outcome"] == "repeated"
        assert each.order("buy", "0.98", "5", account="bob")["reason"] == "kill switch is on"
        assert each.order("buy", "0.98", "5", account="carol")["outcome"] == "accepted"
    assert bench.engine.snapshot() == restored.engine.snapshot()


# Clients.


def test_clients_and_their_outcomes_are_bounded() -> None:
    clients = Clients()
    for number in range(CLIENTS_MAX + 10):
        clients.remember(f"c{number}", 1, {"outcome": "accepted"})
    assert clients.find("c9", 1) is None
    assert clients.find("c10", 1) == {"outcome": "accepted"}
    for number in range(2, OUTCOMES_MAX + 2):
        clients.remember("c10", number, {"outcome": "accepted"})
    assert clients.find("c10", 1) == {"outcome": "expired", "reason": "number 1 is below this client's window"}
    assert Clients.restore(clients.snapshot()).snapshot() == clients.snapshot()
    clients.remember("new", 1, {"outcome": "accepted"})
    assert clients.find("c11", 1) is None  # silent for longest, c10 spoke again
    assert clients.find("c10", 2) is not None
    assert len(json.loads(clients.snapshot())) == CLIENTS_MAX


def test_numbers_may_leave_gaps_but_not_go_back() -> None:
    clients = Clients()
    clients.remember("a", 10, {"outcome": "accepted"})
    clients.remember("a", 20, {"outcome": "rejected"})
    assert clients.find("a", 15) is None
    expired = clients.find("a", 9)
    assert expired is not None
    assert expired["outcome"] == "expired"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1]", b'[["a"]]', b'[["a",[]]]', b'[["a",[["x",{}]]]]', b'[["a",[[1,7]]]]', b'{"a":1}', b"7"]
)
def test_damaged_clients_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="clients of a snapshot"):
        Clients.restore(data)


def test_the_outcome_event_is_a_valid_envelope() -> None:
    bench = desk()
    bench.order("buy", "0.98", "5", client="alice", number=1)
    body = next(event for event in events_in(bench.outputs) if event["type"] == "command.outcome")
    envelope = Envelope.model_validate(body)
    assert envelope.time == bench.engine.now
    assert EVENTS.decode(envelope.encode())[0] == envelope
    again = EngineBench()
    again.feed(level("buy", 99, 20), level("sell", 101, 20))
    again.order("buy", "0.98", "5", client="alice", number=1)
    assert np.array_equal(again.outputs, bench.outputs)  # ids are made of positions: the same in every replay
