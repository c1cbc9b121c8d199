"""How much one input may do: thousands of orders filled, triggered, cancelled, expired, and where each bound holds."""

from __future__ import annotations

import numpy as np
import pytest

from tapehouse.core.units import UNDEFINED
from tapehouse.desk import POWERS, catch_up, decide, follow_up, mass_cancel, on_trade, refuse, working_orders
from tapehouse.desk import requests as r
from tapehouse.desk.crossing import MATCHES_MAX
from tapehouse.desk.kernels import REACH_MAX
from tapehouse.desk.orders import FOLLOWED_MAX
from tapehouse.desk.records import IDS_MAX
from tapehouse.desk.state import (
    ID_BASE,
    INDEX,
    LIMIT_OPEN_ORDERS,
    LIMIT_POSITION,
    NEXT_DUE,
    NOW,
    ORDERS_MAX,
    ORDINAL,
    OUT_ROWS,
    UNSETTLED_SLOTS,
    WORKING,
    WORKING_MAX,
)
from tapehouse.market import Action, Side, from_words
from tests.support.desk_pair import ACTIONS, TICK, DeskPair, read_records

PAPER, CROSSING = 0, 1
PRICE = 100 * TICK


class Crowd(DeskPair):
    """A pair whose slow half stands still: with thousands of orders it would take minutes."""

    def __init__(self) -> None:
        super().__init__()
        self.desk.limits[:, :, [LIMIT_OPEN_ORDERS, LIMIT_POSITION]] = 1 << 20

    def input(self) -> None:
        """The next input begins."""
        self.ordinal += 1
        counters = self.desk.counters
        counters[ORDINAL], counters[INDEX], counters[ID_BASE], counters[OUT_ROWS] = self.ordinal, 0, 0, 0

    def send(self, **columns: int) -> int:
        """An order, each in an input of its own."""
        self.input()
        return self.decide(**columns)

    def decide(self, **columns: int) -> int:
        """A request in the present input."""
        row = np.zeros(r.REQUEST_COLUMNS, np.int64)
        for name, value in {"price": PRICE, "size": 2, **columns}.items():
            row[getattr(r, f"REQUEST_{name.upper()}")] = value
        return int(decide(self.desk, self.books, self.ladder, self.out, POWERS, row))

    def said(self) -> list[str]:
        """What happened to orders in the present input."""
        count = int(self.desk.counters[OUT_ROWS])
        return [str(record[1]) for record in read_records(from_words(self.out[:count].copy()))]

    def said_since(self) -> list[str]:
        """The same, and `out` begins anew."""
        cells = from_words(self.out[: int(self.desk.counters[OUT_ROWS])].copy())
        said = [ACTIONS[Action(int(action))] for action in cells["action"][cells["cells"] > 0]]
        self.desk.counters[OUT_ROWS] = 0
        return said


def test_five_thousand_orders_are_cancelled_at_once_or_piece_by_piece() -> None:
    whole, pieces = Crowd(), Crowd()
    for crowd in (whole, pieces):
        for number in range(5_000):
            assert crowd.send(account=number % 2, side=number % 3 == 0, price=(100 + number % 7) * TICK) == 0
        crowd.input()
    assert mass_cancel(whole.desk, whole.out, 0, -1, -1) == 0
    assert whole.said() == ["cancelled"] * 2_500
    told, small = [], np.zeros((300, 8), np.int64)
    while True:
        more = mass_cancel(pieces.desk, small, 0, -1, -1)
        told.append(small[: int(pieces.desk.counters[OUT_ROWS])].copy())
        pieces.desk.counters[OUT_ROWS] = 0
        if not more:
            break
    assert len(told) > 10
    assert np.array_equal(np.concatenate(told), whole.out[: int(whole.desk.counters[OUT_ROWS])])
    assert {order.account for order in working_orders(pieces.desk, PAPER)} == {1}


def test_an_instrument_takes_so_many_orders_and_no_more() -> None:
    crowd = Crowd()
    for _ in range(WORKING_MAX):
        crowd.send(price=50 * TICK)
    assert crowd.said() == ["accepted"]
    assert crowd.send(price=50 * TICK) == r.OK
    assert crowd.said() == ["accepted", "cancelled"]
    assert crowd.desk.counters[WORKING] == WORKING_MAX < ORDERS_MAX
    assert crowd.send(slot=CROSSING, price=50 * TICK) == r.OK
    assert crowd.said() == ["accepted"]


def test_a_trade_fills_so_many_orders_and_no_more() -> None:
    crowd = Crowd()
    for _ in range(REACH_MAX + 50):
        crowd.send()
    crowd.input()
    on_trade(crowd.desk, crowd.books, crowd.out, POWERS, PAPER, PRICE - TICK, 10**6, int(Side.ASK))
    assert crowd.said() == ["maker"] * REACH_MAX
    assert len(working_orders(crowd.desk, PAPER)) == 50


def test_an_order_meets_so_many_others_and_the_rest_of_it_is_cancelled() -> None:
    crowd = Crowd()
    for _ in range(MATCHES_MAX + 1):
        crowd.send(slot=CROSSING, side=r.SELL)
    assert crowd.send(slot=CROSSING, account=1, size=2 * MATCHES_MAX + 2) == r.OK
    assert crowd.said() == ["accepted", *["maker", "taker"] * MATCHES_MAX, "cancelled"]
    assert len(working_orders(crowd.desk, CROSSING)) == 1


def test_stops_beyond_what_an_input_may_lead_to_come_alive_before_the_next() -> None:
    crowd = Crowd()
    stops = FOLLOWED_MAX
    for number in range(stops):
        assert crowd.send(type=r.STOP_LIMIT, stop=PRICE, price=200 * TICK, number=number) == 0
    crowd.input()
    on_trade(crowd.desk, crowd.books, crowd.out, POWERS, PAPER, PRICE, 1, int(Side.NONE))
    assert follow_up(crowd.desk, crowd.books, crowd.ladder, crowd.out, POWERS, PAPER, 0) == 0
    assert crowd.said() == ["triggered"] * stops
    for number in range(stops + 10):
        assert crowd.send(type=r.STOP, stop=2 * PRICE, number=number) == 0
    crowd.input()
    on_trade(crowd.desk, crowd.books, crowd.out, POWERS, PAPER, 2 * PRICE, 1, int(Side.NONE))
    assert follow_up(crowd.desk, crowd.books, crowd.ladder, crowd.out, POWERS, PAPER, 0) == 1
    assert crowd.said() == ["triggered", "cancelled"] * (FOLLOWED_MAX // 2)
    crowd.input()
    told = []
    while catch_up(crowd.desk, crowd.books, crowd.ladder, crowd.out, POWERS, 100):
        told += crowd.said_since()
    told += crowd.said_since()
    assert told == ["triggered", "cancelled"] * (stops + 10 - FOLLOWED_MAX // 2)
    assert crowd.desk.counters[UNSETTLED_SLOTS] == 0
    assert crowd.send(price=PRICE) == r.OK


def test_what_expires_before_an_input_takes_no_ids_from_it() -> None:
    crowd = Crowd()
    for number in range(IDS_MAX + 5):
        crowd.send(time_in_force=r.GTD, expiry=1_000 + number % 7, number=number)
    crowd.input()
    crowd.desk.counters[NOW] = 2_000
    while catch_up(crowd.desk, crowd.books, crowd.ladder, crowd.out, POWERS, 500):
        crowd.desk.counters[OUT_ROWS] = 0
    assert crowd.desk.counters[INDEX] == IDS_MAX + 5
    assert crowd.desk.counters[NEXT_DUE] == UNDEFINED
    crowd.desk.counters[OUT_ROWS] = 0
    assert crowd.decide() == r.OK
    assert [order.order_id for order in working_orders(crowd.desk, PAPER)] == [crowd.ordinal << 12]


def test_an_input_announces_so_many_orders() -> None:
    crowd = Crowd()
    crowd.input()
    for _ in range(IDS_MAX):
        assert crowd.decide() == r.OK
    assert crowd.decide() == r.NO_ROOM
    assert crowd.said() == ["accepted"] * IDS_MAX
    assert len({order.order_id for order in working_orders(crowd.desk, PAPER)}) == IDS_MAX


@pytest.mark.parametrize(("kind", "target", "told"), [(r.SUBMIT, 77, 0), (r.CANCEL, 77, 77), (r.REPLACE, 77, 77)])
def test_a_request_that_left_no_record_can_be_refused_in_one(kind: int, target: int, told: int) -> None:
    crowd = Crowd()
    crowd.input()
    row = np.zeros(r.REQUEST_COLUMNS, np.int64)
    row[[r.REQUEST_KIND, r.REQUEST_TARGET, r.REQUEST_NUMBER, r.REQUEST_SIZE]] = kind, target, 5, 3
    refuse(crowd.desk, crowd.out, row, r.UNKNOWN_ORDER)
    record = read_records(from_words(crowd.out[:2].copy()))
    assert record == [("order", "rejected", r.UNKNOWN_ORDER, 0, 0, 0, 3, 0, 5, UNDEFINED, 3, 0, told)]
    assert int(from_words(crowd.out[:1].copy())["action"][0]) == Action.REJECTED
