"""What each kind of market record does to the book, to resting orders and to what a strategy sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tapehouse.book import levels
from tapehouse.core import UNDEFINED
from tapehouse.core.errors import DataError, StrategyError
from tapehouse.desk.state import CASH, DEFAULT_LIMITS, LAST_TRADE, LIMIT_NOTIONAL, POSITION, working_orders
from tapehouse.engine import CancelSide, CompiledStrategy, Engine, Submit, View, strategy_kernel
from tapehouse.engine.strategy import INTENT_KIND, INTENT_PRICE, INTENT_SIDE, INTENT_SIZE, INTENTS_MAX, SUBMIT, VIEW_BID
from tapehouse.engine.strategy import INTENT_TIME_IN_FORCE as TIME_IN_FORCE
from tapehouse.engine.strategy import IOC as WITHIN
from tapehouse.market import Action, Flag, Kind, Side
from tapehouse.strategies import maker
from tests.support.bench import (
    SHARE,
    TICK,
    EngineBench,
    actions_in,
    cell,
    fills_in,
    fold,
    level,
    quote,
    shared_day,
    trade,
)

BUYER, SELLER, NOBODY = int(Side.BID), int(Side.ASK), int(Side.NONE)


def book(bench: EngineBench) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Both sides as (ticks, size), best first."""
    bids, asks = (
        [(price // TICK, size) for price, size, _ in levels(bench.engine.books, 0, side)] for side in range(2)
    )
    return bids, asks


def resting(bench: EngineBench) -> list[int]:
    """The queue ahead of each working order, bids first, by price and then by age."""
    return [order.ahead for order in working_orders(bench.engine.desk, 0)]


def test_quotes_are_the_book_and_replace_each_other() -> None:
    bench = EngineBench()
    bench.feed(quote((99, 5), (101, 7)))
    assert book(bench) == ([(99, 5)], [(101, 7)])
    bench.feed(quote((98, 4), (101, 6)))
    assert book(bench) == ([(98, 4)], [(101, 6)])
    gone = quote((98, 4), (101, 6))
    gone["price"][0] = UNDEFINED
    bench.feed(gone)
    assert book(bench) == ([], [(101, 6)])


def test_a_quote_beyond_a_resting_order_trades_with_it() -> None:
    bench = EngineBench()
    bench.feed(quote((99, 5), (101, 7)))
    bench.order("buy", "1.00", "10")
    bench.order("sell", "1.05", "3")
    assert fills_in(bench.feed(quote((99, 5), (100, 4)))) == [(BUYER, 100, 4)]
    assert fills_in(bench.feed(quote((99, 5), (100, 4)))) == []  # nothing new is displayed
    assert fills_in(bench.feed(quote((99, 5), (100, 9)))) == [(BUYER, 100, 5)]
    assert fills_in(bench.feed(quote((105, 2), (106, 9)))) == [(SELLER, 105, 2)]
    assert fills_in(bench.feed(quote((106, 50), (107, 9)))) == [(SELLER, 105, 1)]


def test_trades_reach_a_resting_order_behind_its_queue() -> None:
    bench = EngineBench()
    bench.feed(level("buy", 99, 20), level("sell", 101, 20))
    bench.order("buy", "0.99", "10")
    assert resting(bench) == [20]
    assert fills_in(bench.feed(trade(SELLER, 99, 15))) == []
    assert resting(bench) == [5]
    assert fills_in(bench.feed(trade(BUYER, 99, 15))) == []  # a buyer does not meet our buy order
    assert fills_in(bench.feed(trade(NOBODY, 99, 15))) == []  # nor, at its price, somebody unknown
    assert fills_in(bench.feed(trade(SELLER, 99, 9))) == [(BUYER, 99, 4)]
    assert fills_in(bench.feed(trade(NOBODY, 98, 2))) == [(BUYER, 99, 2)]  # through its price, at its price
    assert bench.engine.desk.instruments[0, LAST_TRADE] == 98 * TICK


@pytest.mark.parametrize(
    "fields", [{"price": UNDEFINED}, {"size": UNDEFINED}, {"size": 0}, {"size": -5}, {"price": UNDEFINED, "size": 0}]
)
@pytest.mark.parametrize("kind", [Kind.TRADE, Kind.MBO, Kind.MBP])
def test_a_trade_without_price_or_size_fills_nobody(kind: Kind, fields: dict[str, int]) -> None:
    bench = EngineBench()
    bench.feed(level("buy", 99, 20), level("sell", 101, 20))
    bench.order("buy", "0.99", "10")
    bench.order("sell", "1.01", "10")
    for aggressor in (BUYER, SELLER, NOBODY):
        place = {"action": int(Action.TRADE), "side": aggressor, "price": 1 * TICK, "size": 100}
        outputs = bench.feed(cell(kind, **{**place, **fields}))
        assert len(outputs) == 0
    assert bench.engine.desk.instruments[0, LAST_TRADE] == 0
    assert resting(bench) == [20, 20]


@pytest.mark.parametrize("how", ["clear", "snapshot"])
def test_a_book_that_is_told_anew_does_not_bring_our_order_to_the_front(how: str) -> None:
    bench = EngineBench()
    bench.feed(level("buy", 99, 20), level("sell", 101, 20))
    bench.order("buy", "0.99", "10")
    flags = int(Flag.SNAPSHOT) if how == "snapshot" else int(Flag.LAST)
    if how == "clear":
        bench.feed(cell(Kind.MBP, action=int(Action.CLEAR), side=NOBODY, price=UNDEFINED, flags=flags))
        assert book(bench) == ([], [])
        assert resting(bench) == [20]
        bench.feed(level("buy", 99, 15, flags=int(Flag.SNAPSHOT)), level("sell", 101, 20, flags=int(Flag.SNAPSHOT)))
    else:
        bench.feed(level("sell", 101, 20, flags=flags), level("buy", 98, 1, flags=flags))
        assert resting(bench) == [20]
        bench.feed(level("buy", 99, 15, flags=flags))
    assert resting(bench) == [20]
    bench.feed(level("sell", 102, 5))  # the book is whole again
    assert resting(bench) == [15]


def test_a_marketable_order_takes_what_is_displayed_level_by_level() -> None:
    bench = EngineBench()
    bench.feed(*(level("sell", 101 + at, 10) for at in range(3)), level("buy", 99, 5))
    outputs = bench.order("buy", "1.02", "25") and bench.outputs
    assert fills_in(outputs) == [(BUYER, 101, 10), (BUYER, 102, 10)]
    assert actions_in(outputs) == "a"
    assert resting(bench) == [0]
    outputs = bench.order("sell", "0.98", "8", time_in_force="ioc") and bench.outputs
    assert fills_in(outputs) == [(SELLER, 99, 5)]
    assert actions_in(outputs) == "ac"


def test_money_counts_the_multiplier() -> None:
    future = replace(SHARE, symbol="ALFA", asset_class="future", multiplier=50)
    bench = EngineBench(share=future)
    bench.feed(level("sell", 101, 10))
    bench.order("buy", "1.01", "2")
    money = bench.engine.desk.accounts[1, 0]
    value = 2 * 50 * 1_010_000_000
    assert (int(money[POSITION]), int(money[CASH])) == (2, -value - value * 30 // 1_000_000)


def test_a_notional_beyond_the_limit_counts_the_multiplier() -> None:
    limit = DEFAULT_LIMITS[2]
    for multiplier, outcome in ((10**6, "accepted"), (10**6 + 1, "rejected")):
        bench = EngineBench(share=replace(SHARE, multiplier=multiplier))
        price = limit // 10**6 // 100
        assert bench.order("buy", f"{price}e-9", "100")["outcome"] == outcome


def test_money_that_does_not_fit_halts_and_names_the_cell() -> None:
    bench = EngineBench()
    bench.feed(replace(SHARE, id=2, symbol="DEAR", tick_size=1, multiplier=10**9).definition(ts_recv=0))
    bench.feed(cell(Kind.MBP, 2, action=int(Action.MODIFY), side=BUYER, price=2**40, size=10_000))
    with pytest.raises(DataError, match="money does not fit") as caught:
        bench.send("order.submit", instrument="DEAR", side="sell", price="1e-9", size="50")
    assert caught.value.position == f"cell {bench.ordinal}"


def test_a_resting_order_whose_money_does_not_fit_halts_at_the_market_record() -> None:
    bench = EngineBench()
    bench.engine.desk.limits[:, :, LIMIT_NOTIONAL] = 2**62
    bench.feed(replace(SHARE, id=2, symbol="DEAR", tick_size=1, multiplier=10**9).definition(ts_recv=0))
    bench.send("order.submit", instrument="DEAR", side="buy", price="1", size="4")
    with pytest.raises(DataError, match="money does not fit") as caught:
        bench.feed(cell(Kind.CLOCK, 0), cell(Kind.TRADE, 2, side=SELLER, price=1, size=4))
    assert caught.value.position == f"cell {bench.ordinal + 1}"


def test_sums_of_money_that_no_longer_fit_halt_too() -> None:
    bench = EngineBench(share=replace(SHARE, tick_size=1))
    price = 10**17  # a hundred million dollars, which is as much as one order may be worth
    message = ""
    for _ in range(60):  # until the account holds more than can be counted
        bench.feed(cell(Kind.MBP, action=int(Action.MODIFY), side=SELLER, price=price, size=1))
        try:
            bench.send("order.submit", instrument="ALFA", side="buy", price=str(10**8), size="1")
        except DataError as error:
            message = str(error)
            break
        bench.feed(cell(Kind.MBP, action=int(Action.MODIFY), side=SELLER, price=price, size=0))
    assert "money does not fit" in message
    assert -(2**61) < bench.engine.desk.accounts[1, 0, CASH] < price - 2**61  # Nothing of the last fill is booked.


# What a strategy sees and may do.


class Watching:
    """Keeps every view, answers with what it was given."""

    name = "watching"

    def __init__(self, *answers: Any) -> None:
        self.views: list[View] = []
        self.answers = list(answers)

    def on_market(self, view: View) -> Any:
        self.views.append(view)
        return self.answers.pop(0) if self.answers else []

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


@strategy_kernel
def remember_volatility(view: Any, numbers: Any, parameters: Any, memory: Any, intents: Any) -> Any:
    """Counts in its memory the turns that had a volatility."""
    memory[0] += 1
    if numbers[0] > 0.0:
        memory[1] += 1
    return 0


def test_option_quotes_reach_the_strategys_numbers() -> None:
    _, _, cells, _ = shared_day(maker)
    strategy = Watching()
    engine = Engine(strategy)
    fold(engine, cells, [])
    numbers = [view.volatility for view in strategy.views if view.slot == 0]
    assert numbers[0] == 0.0  # before the first quote of an option
    later = [number for number in numbers if number]
    assert len(later) > len(numbers) // 2
    assert all(0.05 < number < 1.0 for number in later)
    assert any(view.chain_delta != 0.0 for view in strategy.views)
    assert all(view.volatility == 0.0 for view in strategy.views if view.slot != 0)  # the options are on the first
    compiled = Engine(CompiledStrategy(name="counts", on_market=remember_volatility))
    fold(compiled, cells, [])
    assert compiled._memory[:2].tolist() == [len(strategy.views), len(later)]


def test_a_strategy_is_called_where_the_top_moved_and_the_event_is_complete() -> None:
    strategy = Watching()
    bench = EngineBench(strategy)
    bench.feed(level("buy", 99, 5, flags=0))  # the event goes on
    assert len(strategy.views) == 0
    bench.feed(level("sell", 101, 5))
    bench.feed(level("sell", 102, 5), trade(BUYER, 101, 1), cell(Kind.CLOCK, 0))  # the top stands still
    assert len(strategy.views) == 1
    bench.feed(level("sell", 101, 4, flags=int(Flag.LAST | Flag.SNAPSHOT)))
    assert len(strategy.views) == 1
    bench.feed(level("buy", 99, 6))
    view = strategy.views[-1]
    assert (view.bid, view.bid_size, view.ask, view.last_trade) == (99 * TICK, 6, 101 * TICK, 101 * TICK)
    assert (view.position, view.own_bid, view.tick, view.lot, view.instrument) == (0, None, TICK, 1, 1)


def test_intents_become_orders_of_account_0() -> None:
    strategy = Watching([Submit(side=0, price=99 * TICK, size=3), Submit(side=1, price=101 * TICK, size=2)])
    bench = EngineBench(strategy)
    outputs = bench.feed(np.concatenate([level("buy", 98, 5, flags=0), level("sell", 102, 5)]))
    assert actions_in(outputs) == "aa"
    strategy.answers = [(CancelSide(side=0),)]
    assert actions_in(bench.feed(level("sell", 102, 6))) == "c"
    bench.feed(level("sell", 102, 7))
    view = strategy.views[-1]
    assert (view.own_bid, view.own_ask, view.own_ask_left) == (None, 101 * TICK, 2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "returned a NoneType"),
        ((intent for intent in ()), "returned a generator"),
        ({}, "returned a dict"),
        (["buy"], "an intent is a str"),
        ([Submit(side=2, price=1, size=1)], "the side of an intent is 2"),
        ([Submit(side="buy", price=1, size=1)], "the side of an intent is 'buy'"),  # type: ignore[arg-type]
        ([CancelSide(side=-1)], "the side of an intent is -1"),
        ([Submit(side=0, price=1.5, size=1)], "price or size of an order is 1.5"),  # type: ignore[arg-type]
        ([Submit(side=0, price=1, size=2**63)], "no 64-bit integer"),
        ([Submit(side=0, price=1, size=1, time_in_force=7)], "a time in force is 7"),
        ([Submit(side=0, price=1, size=1)] * (INTENTS_MAX + 1), "17 intents in one turn"),
    ],
)
def test_an_answer_that_is_none_stops_the_strategy(answer: object, message: str) -> None:
    bench = EngineBench(Watching(answer))
    with pytest.raises(StrategyError, match=message) as caught:
        bench.feed(level("buy", 99, 5))
    assert caught.value.position == f"cell {bench.ordinal}"


def test_sixteen_intents_are_as_many_as_there_may_be() -> None:
    bench = EngineBench(Watching([Submit(side=0, price=TICK * at, size=1) for at in range(1, INTENTS_MAX + 1)]))
    assert actions_in(bench.feed(level("buy", 99, 5))) == "a" * INTENTS_MAX


def test_a_state_that_is_no_bytes_is_told() -> None:
    strategy = Watching()
    bench = EngineBench(strategy)
    strategy.state = lambda: "text"  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(StrategyError, match="its state is a str"):
        bench.engine.snapshot()


@strategy_kernel
def first_within_then_forgets(view: Any, numbers: Any, parameters: Any, memory: Any, intents: Any) -> Any:
    """Sends an immediate order in its first turn; later ones say nothing of their time in force."""
    intents[0, INTENT_KIND] = SUBMIT
    intents[0, INTENT_SIDE] = 0
    intents[0, INTENT_PRICE] = view[VIEW_BID]
    intents[0, INTENT_SIZE] = 1
    if memory[0] == 0:
        intents[0, TIME_IN_FORCE] = WITHIN
    memory[0] += 1
    return 1


@strategy_kernel
def returns_its_parameter(view: Any, numbers: Any, parameters: Any, memory: Any, intents: Any) -> Any:
    """An answer that a test chooses."""
    return parameters[0]


def test_what_an_earlier_turn_left_in_the_intents_is_gone() -> None:
    """Else a restored engine, whose scratch is fresh, would decide otherwise."""
    strategy = CompiledStrategy(name="forgets", on_market=first_within_then_forgets)
    bench = EngineBench(strategy)
    assert actions_in(bench.feed(level("buy", 99, 5))) == "ac"
    restored = bench.fork(strategy)
    outputs = [each.feed(level("buy", 99, 6)) for each in (bench, restored)]
    assert actions_in(outputs[0]) == "a"
    assert np.array_equal(*outputs)


@pytest.mark.parametrize("count", [-1, INTENTS_MAX + 1, 2**62])
def test_an_impossible_count_of_intents_stops_a_compiled_strategy(count: int) -> None:
    strategy = CompiledStrategy(name="wild", on_market=returns_its_parameter, parameters={"count": count})
    bench = EngineBench(strategy)
    with pytest.raises(StrategyError, match="impossible number of intents") as caught:
        bench.feed(level("buy", 99, 5))
    assert (caught.value.subject, caught.value.position) == ("strategy wild", f"cell {bench.ordinal}")
