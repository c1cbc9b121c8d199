"""The desk's kernels against the slow desk, over random markets and random orders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book import best_price, define, levels, make_books, set_level
from tapehouse.desk import POWERS, define_instrument, make_desk, on_liquidity, on_trade, shrink_queues, submit
from tapehouse.desk import cancel_side as cancel_side_kernel
from tapehouse.desk import state as desk_state
from tapehouse.desk.reference import GTC, IOC, POST_ONLY, ReferenceDesk
from tapehouse.desk.state import (
    CASH,
    COST,
    FEES,
    ORDER_AHEAD,
    ORDER_LEFT,
    ORDER_PRICE,
    ORDER_SIDE,
    ORDINAL,
    OUT_ROWS,
    POSITION,
    REALISED,
)
from tapehouse.market import Instrument, Kind, Side, from_words

TICK = 1_000
SIDES = (int(Side.BID), int(Side.ASK))
PRICES = st.integers(95, 105)
SIZES = st.integers(1, 30)
EVENTS = st.one_of(
    st.tuples(st.just("level"), st.integers(0, 1), PRICES, st.integers(0, 40)),
    st.tuples(st.just("trade"), st.sampled_from([0, 1, None]), PRICES, SIZES),
    st.tuples(st.just("submit"), st.integers(0, 1), PRICES, SIZES, st.sampled_from([GTC, IOC, POST_ONLY])),
    st.tuples(st.just("cancel"), st.integers(0, 1)),
)


class Pair:
    """The kernels and the oracle, side by side on one book."""

    def __init__(self, multiplier: int = 1) -> None:
        self.books = make_books(1, orders=64, levels=256)
        define(self.books, 0, TICK)
        instrument = Instrument(
            id=7, symbol="X", tick_size=TICK, price_exponent=-5, currency_exponent=-4, multiplier=multiplier
        )
        self.desk = make_desk(maker_fee_ppm=-20, taker_fee_ppm=300)
        define_instrument(self.desk, 0, instrument)
        self.out = np.zeros((20_000, 8), np.int64)
        self.ladder = np.zeros((2, 8), np.int64)
        self.oracle = ReferenceDesk(self.shown, -1, -20, 300, multiplier)
        self.ordinal = 0

    def shown(self, side: int) -> list[tuple[int, int]]:
        return [(price, size) for price, size, _ in levels(self.books, 0, side)]

    def do(self, event: tuple) -> None:
        self.ordinal += 1
        self.desk.counters[ORDINAL] = self.ordinal
        self.desk.counters[desk_state.INDEX] = 0
        kind, rest = event[0], event[1:]
        getattr(self, kind)(*rest)

    def level(self, side: int, price: int, size: int) -> None:
        opposite = best_price(self.books, 0, 1 - side)
        crosses = opposite != 2**63 - 1 and (price * TICK >= opposite if side == 0 else price * TICK <= opposite)
        if size and crosses:
            return  # A venue's own book never shows a crossed level.
        before = dict(self.shown(side)).get(price * TICK, 0)
        set_level(self.books, 0, side, price * TICK, size)
        if size > before:
            on_liquidity(self.desk, self.out, POWERS, 0, side, price * TICK, size - before)
            self.oracle.liquidity(side, price * TICK, size - before)
        shrink_queues(self.desk, self.books, 0)
        self.oracle.shrink()

    def trade(self, aggressor: int | None, price: int, size: int) -> None:
        letter = int(Side.NONE) if aggressor is None else SIDES[aggressor]
        on_trade(self.desk, self.out, POWERS, 0, price * TICK, size, letter)
        self.oracle.trade(price * TICK, size, aggressor)

    def submit(self, side: int, price: int, size: int, time_in_force: int) -> None:
        if len(self.oracle.working) >= 60:
            return
        order_id = self.ordinal << 12
        reason = submit(
            self.desk, self.books, self.ladder, self.out, POWERS, 0, 0, side, price * TICK, size, time_in_force, 0
        )
        assert (reason == 0) == self.oracle.submit(order_id, side, price * TICK, size, time_in_force)

    def cancel(self, side: int) -> None:
        cancel_side_kernel(self.desk, self.out, 0, 0, side)
        self.oracle.cancel_side(side)

    def compare(self) -> None:
        money = self.desk.accounts[0, 0]
        oracle = self.oracle
        assert money[[POSITION, CASH, FEES, COST, REALISED]].tolist() == [
            oracle.position, oracle.cash, oracle.fees, oracle.cost, oracle.realised,
        ]  # fmt: skip
        count = int(self.desk.working_count[0])
        rows = self.desk.orders[self.desk.working[0, :count]]
        mine = rows[:, [ORDER_SIDE, ORDER_PRICE, ORDER_LEFT, ORDER_AHEAD]].tolist()
        assert mine == [[order.side, order.price, order.left, order.ahead] for order in oracle.working]


@settings(deadline=None, max_examples=150)
@given(st.lists(EVENTS, max_size=120), st.sampled_from([1, 7, 50]))
def test_kernels_equal_the_slow_desk(events: list, multiplier: int) -> None:
    pair = Pair(multiplier)
    for event in events:
        pair.do(event)
        pair.compare()
    cells = from_words(pair.out[: int(pair.desk.counters[OUT_ROWS])].copy())
    fills = cells[(cells["kind"] == Kind.FILL) & (cells["cells"] > 0)]
    assert [(int(f["order_id"]), int(f["price"]), int(f["size"])) for f in fills] == pair.oracle.fills


@settings(deadline=None, max_examples=60)
@given(st.lists(EVENTS, max_size=60), st.lists(EVENTS, max_size=60))
def test_a_restored_desk_goes_on_alike(before: list, after: list) -> None:
    pair = Pair()
    for event in before:
        pair.do(event)
    state = desk_state.snapshot(pair.desk)
    restored = desk_state.restore(state)
    assert desk_state.snapshot(restored) == state
    pair.desk = restored
    for event in after:
        pair.do(event)
        pair.compare()


def test_the_comparison_can_fail() -> None:
    pair = Pair()
    pair.do(("level", 1, 100, 10))
    pair.do(("submit", 0, 100, 5, GTC))
    pair.oracle.cash += 1
    with pytest.raises(AssertionError):
        pair.compare()
