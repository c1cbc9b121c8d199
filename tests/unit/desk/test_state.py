"""The desk's arrays: which instruments it takes, and which bytes are no desk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tapehouse.core.errors import DataError, IntegrityError
from tapehouse.desk import define_instrument, make_desk
from tapehouse.desk.state import (
    FREE_HEAD,
    INSTRUMENTS_MAX,
    LOT,
    MONEY_EXPONENT,
    MULTIPLIER,
    MULTIPLIER_MAX,
    ORDER_LEFT,
    ORDERS_MAX,
    TICK,
    WORKING_MAX,
    restore,
    snapshot,
)
from tests.support.bench import SHARE, EngineBench, level


def test_an_instrument_fills_its_slot() -> None:
    desk = make_desk()
    terms = replace(SHARE, tick_size=5, lot_size=10, multiplier=MULTIPLIER_MAX, price_exponent=-4, currency_exponent=-2)
    define_instrument(desk, INSTRUMENTS_MAX - 1, terms)
    row = desk.instruments[INSTRUMENTS_MAX - 1]
    assert row[[TICK, LOT, MULTIPLIER, MONEY_EXPONENT]].tolist() == [5, 10, MULTIPLIER_MAX, -2]


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


def test_a_restored_desk_has_all_other_slots_of_the_pool_free() -> None:
    desk = restore(used())
    free, at = 0, int(desk.counters[FREE_HEAD])
    seen = set()
    while at >= 0:
        assert at not in seen
        seen.add(at)
        free += 1
        at = int(desk.orders[at, ORDER_LEFT])
    assert free == ORDERS_MAX - 3
    assert seen.isdisjoint(desk.working[0, :3].tolist())


def test_bytes_that_are_no_desk_are_refused() -> None:
    data = used()
    empty = make_desk()
    counts_at = sum(
        array.nbytes for array in (empty.accounts, empty.limits, empty.instruments, empty.fees, empty.counters)
    )
    for wrong in (b"", data[:-8], data + bytes(8), data[: counts_at - 8], data[8:]):
        with pytest.raises(IntegrityError):
            restore(wrong)
    for count in (-1, WORKING_MAX + 1, 2**62):
        damaged = np.frombuffer(data, np.int64).copy()
        damaged[counts_at // 8] = count
        with pytest.raises(IntegrityError, match="impossible orders"):
            restore(damaged.tobytes())
