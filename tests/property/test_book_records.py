"""Records of a book in the engine's loop, with its shortcuts, against the slow desk that looks at all levels each time.

The records are as bad as recordings get: adds of live orders, cancels that name another price, unknown orders, levels
stated over known orders, snapshots that begin anywhere.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapehouse.book import define, levels, make_books
from tapehouse.desk import GTC, POWERS, define_instrument, make_desk, stored, submit, working_orders
from tapehouse.desk import state as desk_state
from tapehouse.desk.reference import Market, ReferenceDesk, Request
from tapehouse.desk.state import CASH, COST, FEES, ORDINAL, POSITION
from tapehouse.engine.loop import _book_record
from tapehouse.market import Action, Flag, Instrument, Kind, Side, empty_cells, words

TICK = 1_000
SIDES = (int(Side.BID), int(Side.ASK))
ACTIONS = [Action.ADD] * 4 + [Action.CANCEL] * 3 + [Action.MODIFY] * 2 + [Action.CLEAR, Action.FILL]
RECORDS = st.tuples(
    st.sampled_from([Kind.MBO] * 3 + [Kind.MBP]),
    st.sampled_from(ACTIONS),
    st.sampled_from([*SIDES, *SIDES, *SIDES, int(Side.NONE)]),
    st.integers(0, 4),  # order id
    st.integers(95, 105),
    st.integers(0, 30),
    st.sampled_from([0] * 9 + [int(Flag.SNAPSHOT)]),
)
EVENTS = st.one_of(
    RECORDS.map(lambda fields: ("record", *fields)),
    RECORDS.map(lambda fields: ("record", *fields)),
    st.tuples(st.just("submit"), st.integers(0, 1), st.integers(95, 105), st.integers(1, 30)),
    st.just(("restore",)),
)


class Pair:
    """The loop's kernel and the slow desk, on one book."""

    def __init__(self) -> None:
        self.books = make_books(1, orders=64, levels=256)
        define(self.books, 0, TICK)
        self.desk = make_desk(maker_fee_ppm=-20, taker_fee_ppm=300)
        instrument = Instrument(id=7, symbol="X", tick_size=TICK, price_exponent=-5, currency_exponent=-4)
        define_instrument(self.desk, 0, instrument)
        self.out = np.zeros((20_000, 8), np.int64)
        self.ladder = np.zeros((2, 8), np.int64)
        market = Market(
            levels=lambda side: [level[:2] for level in levels(self.books, 0, side)], tick=TICK, money_exponent=-1
        )
        self.oracle = ReferenceDesk([market], maker_fee_ppm=-20, taker_fee_ppm=300)
        self.ordinal = 0

    def do(self, event: tuple) -> None:
        self.ordinal += 1
        self.desk.counters[ORDINAL], self.desk.counters[desk_state.INDEX] = self.ordinal, 0
        self.oracle.begin(self.ordinal, 0)
        getattr(self, event[0])(*event[1:])

    def record(self, kind: Kind, action: Action, side: int, order_id: int, price: int, size: int, flags: int) -> None:
        made = empty_cells(1)
        made["kind"], made["cells"], made["action"], made["side"], made["flags"] = kind, 1, action, side, flags
        made["order_id"], made["price"], made["size"] = order_id, price * TICK, size
        which = 0 if side == SIDES[0] else 1
        before = self.oracle.shown(0, which, price * TICK)
        _book_record(self.desk, self.books, self.out, POWERS, words(made), 0, 0)
        after = self.oracle.shown(0, which, price * TICK)
        if after > before:
            self.oracle.liquidity(0, which, price * TICK, after - before)
        if action != Action.CLEAR and not flags:
            self.oracle.shorten(0)

    def submit(self, side: int, price: int, size: int) -> None:
        if len(self.oracle.working) >= 60:
            return
        submit(self.desk, self.books, self.ladder, self.out, POWERS, 0, 0, side, price * TICK, size, GTC, 0)
        self.oracle.decide(Request(side=side, price=price * TICK, size=size))

    def restore(self) -> None:
        self.desk = stored.restore(stored.snapshot(self.desk))

    def compare(self) -> None:
        money = self.desk.accounts[0, 0]
        oracle = self.oracle.ledger(0, 0)
        assert money[[POSITION, CASH, FEES, COST]].tolist() == [
            oracle.position, oracle.cash, oracle.fees, oracle.cost,
        ]  # fmt: skip
        mine = [(order.side, order.price, order.left, order.ahead) for order in working_orders(self.desk, 0)]
        assert mine == [(order.side, order.price, order.left, order.ahead) for order in self.oracle.listed(0)]


BID = ("record", Kind.MBO, Action.ADD, SIDES[0])
MOVED = [(*BID, 1, 100, 20, 0), ("submit", 0, 100, 5), (*BID, 2, 99, 20, 0), (*BID, 1, 99, 20, 0)]


@settings(deadline=None, max_examples=300)
@example(MOVED)  # an add of a live order elsewhere leaves the level that we queue in
@given(st.lists(EVENTS, max_size=80))
def test_every_record_leaves_the_desk_as_the_slow_one(events: list) -> None:
    pair = Pair()
    for event in events:
        pair.do(event)
        pair.compare()


def test_control_a_queue_that_is_not_shortened_is_caught() -> None:
    pair = Pair()
    for event in MOVED[:-1]:
        pair.do(event)
        pair.compare()
    unmoved = pair.desk.orders.copy()
    pair.do(MOVED[-1])
    pair.compare()
    pair.desk.orders[...] = unmoved
    with pytest.raises(AssertionError):
        pair.compare()
