"""The desk's arrays: which instruments it takes, and which bytes are no desk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tapehouse.core.errors import DataError, IntegrityError
from tapehouse.desk import cancel_order, define_instrument, make_desk, order_pool, revise_instrument, working_orders
from tapehouse.desk.state import INSTRUMENTS_MAX, LOT, MONEY_EXPONENT, MULTIPLIER, MULTIPLIER_MAX, WORKING
from tapehouse.desk.state import TICK as TICK_COLUMN
from tapehouse.desk.stored import ORDER_WORDS, VERSION, restore, snapshot
from tests.support.bench import SHARE, TICK, EngineBench, level


def test_an_instrument_fills_its_slot() -> None:
    desk = make_desk()
    terms = replace(SHARE, tick_size=5, lot_size=10, multiplier=MULTIPLIER_MAX, price_exponent=-4, currency_exponent=-2)
    define_instrument(desk, INSTRUMENTS_MAX - 1, terms)
    row = desk.instruments[INSTRUMENTS_MAX - 1]
    assert row[[TICK_COLUMN, LOT, MULTIPLIER, MONEY_EXPONENT]].tolist() == [5, 10, MULTIPLIER_MAX, -2]


@pytest.mark.parametrize("slot", [-1, INSTRUMENTS_MAX])
def test_there_are_so_many_slots(slot: int) -> None:
    with pytest.raises(DataError, match="64 instruments at most"):
        define_instrument(make_desk(), slot, SHARE)


@pytest.mark.parametrize(
    "terms",
    [
        {"tick_size": 0}, {"lot_size": 0}, {"multiplier": 0}, {"multiplier": MULTIPLIER_MAX + 1},
        {"price_exponent": -28}, {"currency_exponent": -28}, {"size_exponent": 20},
    ],
)  # fmt: skip
def test_terms_that_no_money_can_be_counted_in_are_refused(terms: dict[str, int]) -> None:
    with pytest.raises(DataError):
        define_instrument(make_desk(), 0, replace(SHARE, **terms))


def used() -> bytes:
    """A desk with working orders of two accounts."""
    bench = EngineBench()
    bench.feed(level("buy", 99, 20), level("sell", 101, 20))
    for account in ("alice", "bob", "alice"):
        bench.order("buy", "0.98", "5", account=account)
    return snapshot(bench.engine.desk)


def test_a_restored_desk_has_room_for_all_other_orders() -> None:
    desk = restore(used())
    assert desk.counters[WORKING] == 3
    assert order_pool(desk).used == order_pool(desk).held == 3
    assert [(order.account, order.left) for order in working_orders(desk, 0)] == [(1, 5), (2, 5), (1, 5)]
    assert snapshot(desk) == used()


def test_bytes_that_are_no_desk_are_refused() -> None:
    data = used()
    words = len(data) // 8
    for wrong in (b"", data[:-8], data + bytes(8), data[:-3], data[8:]):
        with pytest.raises(IntegrityError):
            restore(wrong)
    count_at = words - 1 - 3 * ORDER_WORDS  # The orders come last.
    for at, value, told in (
        (0, VERSION + 1, "version"),
        (count_at, -1, "impossible rows"),
        (count_at, 2**40, "impossible rows"),
        (count_at + 1, 2 * INSTRUMENTS_MAX, "impossible order"),  # its slot
        (count_at + 2, 2, "impossible order"),  # its side
        (count_at + 4, 0, "impossible order"),  # what is shown of it
        (count_at + 3, int(np.frombuffer(data, np.int64)[count_at + 3 + ORDER_WORDS]), "cannot rest"),  # its id, twice
    ):
        damaged = np.frombuffer(data, np.int64).copy()
        damaged[at] = value
        with pytest.raises(IntegrityError, match=told):
            restore(damaged.tobytes())


def test_orders_go_on_where_they_are_when_the_tick_changes() -> None:
    desk = restore(used())
    before = working_orders(desk, 0)
    for tick in (3 * TICK, TICK // 2, TICK):
        revise_instrument(desk, 0, replace(SHARE, tick_size=tick))
        assert [order[:-1] for order in working_orders(desk, 0)] == [order[:-1] for order in before]
        assert [order[:-1] for order in working_orders(restore(snapshot(desk)), 0)] == [order[:-1] for order in before]
    assert cancel_order(desk, np.zeros((10, 8), np.int64), 0, 1, before[0].order_id) == 0
    assert len(working_orders(desk, 0)) == 2
