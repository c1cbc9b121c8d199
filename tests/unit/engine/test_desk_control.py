"""Commands that steer a desk, through the engine: many orders, limits, kill switches, the strategy, bookings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tapehouse.core.kernel import Array, Int
from tapehouse.desk.commands import EVENTS
from tapehouse.desk.state import POSITION, SWITCHED_OFF
from tapehouse.engine import CompiledStrategy, Submit, View
from tapehouse.engine.strategy import INTENT_KIND, INTENT_PRICE, INTENT_SIDE, INTENT_SIZE, SUBMIT, strategy_kernel
from tests.support.bench import SHARE, TICK, EngineBench, actions_in, events_in, level


def desk(**more: Any) -> EngineBench:
    bench = EngineBench(**more)
    bench.feed(replace(SHARE, id=2, symbol="BETA").definition(ts_recv=0))
    bench.feed(level("buy", 99, 20), level("sell", 101, 20))
    return bench


def order(bench: EngineBench, account: str, side: str = "buy", instrument: str = "ALFA", **more: Any) -> dict[str, Any]:
    price = "0.5" if side == "buy" else "2"
    return bench.tell(
        "order.submit",
        **{"instrument": instrument, "side": side, "price": price, "size": "5", "account": account, **more},
    )


def told(bench: EngineBench) -> list[tuple[str, dict[str, Any]]]:
    """The events of the last command before its outcome, each of which the registry can read."""
    events = events_in(bench.outputs)
    assert events[-1]["type"] == "command.outcome"
    assert {event["causation"] for event in events} == {f"command-{bench.commands}"}
    assert {event["correlation"] for event in events} == {f"chain-{bench.commands}"}
    for event in events:
        EVENTS.model(event["type"]).model_validate(event["body"])
    return [(event["type"], event["body"]) for event in events[:-1]]


# Orders.


def test_an_outcome_says_what_it_answers() -> None:
    bench = desk()
    body = {"instrument": "ALFA", "side": "buy", "price": "0.98", "size": "5", "tag": "hedge 7"}
    outcome = bench.send("order.submit", version=3, client="alice", number=41, **body)
    assert (outcome["outcome"], outcome["tag"], bench.answered) == ("accepted", "hedge 7", 41)
    again = bench.send("order.submit", version=3, client="alice", number=41, **body)
    assert (again["outcome"], again["first"], again["tag"]) == ("repeated", "accepted", "hedge 7")
    assert again["order_id"] == outcome["order_id"]


def test_an_order_is_cancelled_by_its_id_alone() -> None:
    bench = desk()
    order_id = order(bench, "alice")["order_id"]
    for refused in ({"account": "bob"}, {"account": "alice", "instrument": "BETA"}):
        outcome = bench.tell("order.cancel", order_id=order_id, **refused)
        assert outcome == {"outcome": "rejected", "reason": "no such working order", "order_id": order_id}
    assert bench.tell("order.cancel", order_id=order_id, account="alice")["outcome"] == "accepted"
    assert actions_in(bench.outputs) == "c"
    assert bench.tell("order.cancel", order_id=order_id, account="alice")["outcome"] == "rejected"
    assert bench.tell("order.cancel", order_id=0, account="alice")["outcome"] == "rejected"  # what a free row has


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({}, 8),
        ({"account": "alice"}, 4),
        ({"instrument": "BETA"}, 4),
        ({"side": "sell"}, 4),
        ({"account": "bob", "instrument": "ALFA", "side": "buy"}, 1),
        ({"account": "nobody"}, 0),
    ],
)
def test_a_mass_cancel_takes_what_it_describes_and_counts_it(body: dict[str, str], count: int) -> None:
    bench = desk()
    for account in ("alice", "bob"):
        for instrument in ("ALFA", "BETA"):
            for side in ("buy", "sell"):
                assert order(bench, account, side, instrument)["outcome"] == "accepted"
    assert bench.tell("order.mass_cancel", **body) == {"outcome": "accepted", "count": count}
    assert actions_in(bench.outputs) == "c" * count
    assert bench.tell("order.mass_cancel") == {"outcome": "accepted", "count": 8 - count}


def test_a_mass_cancel_of_an_unknown_instrument_is_rejected() -> None:
    bench = desk()
    assert "unknown instrument 'OMEGA'" in bench.tell("order.mass_cancel", instrument="OMEGA")["reason"]


# Risk.


def test_limits_hold_from_the_next_order_on() -> None:
    bench = desk()
    outcome = bench.tell("risk.set_limits", account="alice", order_size=4, position=6, notional="3.5", open_orders=1)
    assert outcome == {"outcome": "accepted"}
    limits = {"order_size": 4, "position": 6, "notional": 3_500_000_000, "open_orders": 1}
    opened, changed = told(bench)
    assert opened[0] == "account.opened"
    assert changed == ("limits.set", {"account": "alice", "limits": limits})
    assert "size is not" in order(bench, "alice", size="5")["reason"]
    assert order(bench, "alice", price="1", size="4")["reason"] == "notional is beyond the limit"
    assert order(bench, "alice", size="4")["outcome"] == "accepted"
    assert order(bench, "alice", size="3")["reason"] == "position would go beyond the limit"
    assert order(bench, "alice", size="2")["reason"] == "too many open orders"
    assert order(bench, "bob", size="5")["outcome"] == "accepted"
    bench.tell("risk.set_limits", account="alice", position=100)  # the others stay
    assert order(bench, "alice", size="5")["outcome"] == "rejected"


def test_a_limit_that_cannot_be_changes_none() -> None:
    bench = desk()
    outcome = bench.tell("risk.set_limits", account="alice", order_size=4, notional="1e30")
    assert outcome["outcome"] == "rejected"
    assert "does not fit 64 bits" in outcome["reason"]
    assert order(bench, "alice", size="5")["outcome"] == "accepted"


def test_a_kill_switch_of_an_account_the_strategy_or_all() -> None:
    bench = desk()
    order(bench, "alice")
    order(bench, "bob")
    assert bench.tell("kill.switch", scope="account", account="alice") == {"outcome": "accepted", "count": 1}
    assert told(bench) == [("kill.switched", {"scope": "account", "account": "alice", "on": True, "count": 1})]
    assert order(bench, "alice")["reason"] == "kill switch is on"
    assert bench.tell("kill.switch", scope="all") == {"outcome": "accepted", "count": 1}
    for account in ("alice", "bob", "carol"):  # one that nobody had opened too
        assert order(bench, account)["reason"] == "kill switch is on"
    bench.tell("kill.switch", scope="all", on=False)
    assert order(bench, "alice")["reason"] == "kill switch is on"  # its own is on still
    assert order(bench, "bob")["outcome"] == "accepted"
    bench.send("account.kill", account="alice", on=False)
    assert order(bench, "alice")["outcome"] == "accepted"
    bench.tell("kill.switch", scope="strategy")
    assert bench.engine.desk.conduct[0, SWITCHED_OFF] != 0


# The strategy.


class Eager:
    """Buys at every turn, as much as it was told."""

    name = "eager"

    def __init__(self) -> None:
        self.size = 1

    def on_market(self, view: View) -> list[Submit]:
        return [Submit(side=0, price=98 * TICK, size=self.size)]

    def configure(self, parameters: dict[str, int]) -> None:
        for name, value in parameters.items():  # what came before a refused one must not stay
            if name == "size":
                self.size = value
            else:
                raise ValueError(f"no parameter {name}")

    def state(self) -> bytes:
        return self.size.to_bytes(8, "little")

    def restore(self, state: bytes) -> None:
        self.size = int.from_bytes(state, "little")


@strategy_kernel
def _buys(view: Array, numbers: Array, parameters: Array, memory: Array, intents: Array) -> Int:
    intents[0, INTENT_KIND] = SUBMIT
    intents[0, INTENT_SIDE] = 0
    intents[0, INTENT_PRICE] = 98 * TICK
    intents[0, INTENT_SIZE] = parameters[0]
    return 1


def compiled() -> CompiledStrategy:
    return CompiledStrategy(name="eager", on_market=_buys, parameters={"size": 1, "spare": 0})


@pytest.mark.parametrize("strategy", [Eager, compiled])
def test_a_strategy_is_stopped_and_started(strategy: Any) -> None:
    bench = desk(strategy=strategy())
    assert actions_in(bench.feed(level("buy", 99, 30))) == "a"
    assert bench.tell("strategy.stop", strategy="eager") == {"outcome": "accepted", "count": 3}
    assert told(bench)[-1] == ("strategy.stopped", {"strategy": "eager", "count": 3})
    assert actions_in(bench.outputs) == "ccc"
    assert actions_in(bench.feed(level("buy", 99, 40))) == ""
    forked = bench.fork(strategy())
    for each in (bench, forked):
        assert actions_in(each.feed(level("buy", 99, 50))) == ""
        assert each.tell("strategy.stop") == {"outcome": "accepted", "count": 0}
        assert told(each) == []  # it was stopped already
        assert each.tell("strategy.start") == {"outcome": "accepted"}
        assert told(each) == [("strategy.started", {"strategy": "eager"})]
        assert (
            actions_in(each.feed(level("buy", 99, 50))) == "a"
        )  # called once for what it has seen, though nothing moved
        assert actions_in(each.feed(level("buy", 99, 50))) == ""
        assert actions_in(each.feed(level("buy", 99, 60))) == "a"
    assert bench.engine.snapshot() == forked.engine.snapshot()


def test_a_strategy_that_stops_may_leave_its_orders() -> None:
    bench = desk(strategy=compiled())
    assert bench.tell("strategy.stop", cancel_orders=False) == {"outcome": "accepted", "count": 0}
    assert actions_in(bench.outputs) == ""


@pytest.mark.parametrize("kind", ["strategy.start", "strategy.stop", "strategy.configure"])
def test_a_command_to_another_strategy_is_rejected(kind: str) -> None:
    bench = desk(strategy=compiled())
    more = {"parameters": {"size": 2}} if kind == "strategy.configure" else {}
    outcome = bench.tell(kind, strategy="maker", **more)
    assert outcome["reason"] == "strategy 'maker' does not run here (this desk runs eager)"


@pytest.mark.parametrize("strategy", [Eager, compiled])
def test_parameters_change_while_it_runs_and_outlive_a_restart(strategy: Any) -> None:
    bench = desk(strategy=strategy())
    before = bench.engine.digest()
    assert bench.tell("strategy.configure", parameters={"size": 7}) == {"outcome": "accepted"}
    assert told(bench) == [("strategy.configured", {"strategy": "eager", "parameters": {"size": 7}})]
    assert bench.engine.digest() != before
    refused = bench.tell("strategy.configure", parameters={"size": 9, "colour": 1})
    assert refused["outcome"] == "rejected"
    assert "colour" in refused["reason"]
    forked = bench.fork(strategy())
    for each in (bench, forked):
        outputs = each.feed(level("buy", 99, 30))
        assert [int(size) for size in outputs["size"][(outputs["action"] == ord("a")) & (outputs["cells"] > 0)]] == [7]
    assert bench.engine.snapshot() == forked.engine.snapshot()


def test_a_strategy_without_parameters_says_so() -> None:
    class Plain(Eager):
        configure = None  # type: ignore[assignment]

    bench = desk(strategy=Plain())
    outcome = bench.tell("strategy.configure", parameters={"size": 7})
    assert "it takes no parameters while it runs" in outcome["reason"]


# Bookings.


def test_a_position_is_corrected_against_the_street() -> None:
    bench = desk()
    body = {"account": "alice", "instrument": "ALFA", "size": "-3", "price": "1.00", "reason": "a missed fill"}
    assert bench.tell("position.correct", **body) == {"outcome": "accepted"}
    assert told(bench)[-1] == ("position.corrected", body)
    assert bench.engine.desk.accounts[1, 0, POSITION] == -3
    assert bench.engine.desk.accounts[:, 0, POSITION].sum() == 0
    again = bench.fork()
    assert again.engine.desk.accounts[1, 0, POSITION] == -3


def test_cash_is_booked_and_kept() -> None:
    bench = desk()
    body = {"account": "alice", "currency": "USD", "amount": "100.25"}
    assert bench.tell("cash.book", **body) == {"outcome": "accepted"}
    assert told(bench)[-1][1] == {**body, "kind": "deposit", "exponent": -9, "reason": ""}
    bench.tell("cash.book", **{**body, "kind": "fee", "amount": "0.25"})
    forked = bench.fork()
    assert forked.engine.snapshot() == bench.engine.snapshot()
    assert "does not fit" in bench.tell("cash.book", **{**body, "amount": "1e12"})["reason"]


def test_an_account_is_configured_piece_by_piece() -> None:
    bench = desk()
    assert bench.tell("account.configure", account="alice", method="fifo") == {"outcome": "accepted"}
    assert bench.tell("account.configure", account="alice", maker_fee_ppm=-10) == {"outcome": "accepted"}
    booking = {"mode": "netting", "method": "fifo", "maker_fee_ppm": -10, "taker_fee_ppm": None}
    assert told(bench)[-1] == ("account.configured", {"account": "alice", **booking})
    order(bench, "alice")
    assert "not flat" in bench.tell("account.configure", account="alice", mode="hedging")["reason"]


def test_a_ping_changes_nothing_but_is_answered() -> None:
    bench = desk()
    before = [
        array.copy() for array in (bench.engine.desk.accounts, bench.engine.desk.limits, bench.engine.desk.orders)
    ]
    assert bench.send("desk.ping") == {"outcome": "accepted"}
    assert told(bench) == []
    after = (bench.engine.desk.accounts, bench.engine.desk.limits, bench.engine.desk.orders)
    assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))
