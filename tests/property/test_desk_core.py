"""The order core against the slow desk: every kind of request, on paper and where accounts cross, record by record."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.desk import requests as r
from tapehouse.desk.orders_projection import (
    FILLED,
    ID,
    LEFT,
    PRICE,
    SIZE,
    STATUS,
    STATUSES,
    WORKING,
    OrdersProjection,
)
from tapehouse.desk.reference import Limits, Order, ReferenceDesk, Request
from tapehouse.log import FrameHeader
from tests.support.desk_pair import ACCOUNTS, INSTRUMENTS, TICK, DeskPair

STEPS, SEEDS = 1_500, 6
HEADER = FrameHeader(log_id=bytes(16), writer=1, epoch=1, first_ordinal=0)
LIMITS = Limits(order_size=60, position=120, open_orders=12)
HOUR = 3_600 * 10**9


def random_request(chance: Random, pair: DeskPair) -> Request:
    """A request that means something, mostly."""
    slot, account, side = chance.choice([0, 0, 1]), chance.randrange(ACCOUNTS), chance.randrange(2)
    working = pair.slow.listed(slot)
    price, size = chance.randint(94, 106) * TICK, chance.choice([2, 4, 6, 10, 20, 30])
    if working and chance.random() < 0.3:
        order = chance.choice(working)
        kind = chance.choice([r.CANCEL, r.REPLACE, r.REPLACE])
        account = order.account if chance.random() < 0.95 else account
        price = order.price if chance.random() < 0.6 else price
        size = chance.choice([order.left, max(2, order.left - 2), 2, size])
        stop = chance.choice([0, 0, 0, price])
        return Request(
            kind=kind, account=account, slot=slot, price=price, size=size, stop=stop, target=order.order_id,
            display=chance.choice([0, 0, 2]), number=chance.randrange(99),
        )  # fmt: skip
    position = pair.slow.ledger(account, slot).position
    if position and chance.random() < 0.2:  # Two that would close more than there is, if both were filled.
        reducing = 0 if chance.random() < 0.4 else r.REDUCE_ONLY_FLAG
        return Request(account=account, slot=slot, side=int(position > 0), price=price, size=abs(position),
                       flags=reducing, number=7)  # fmt: skip
    order_type = chance.choice([r.LIMIT] * 6 + [r.MARKET, r.STOP, r.STOP, r.STOP_LIMIT, r.STOP_LIMIT])
    last = pair.slow.markets[slot].last_trade or 100 * TICK
    beyond = last + (1 - 2 * side) * chance.choice([-1, 1, 1, 1, 2, 2, 3]) * TICK
    time_in_force = chance.choice([r.GTC] * 5 + [r.IOC, r.POST_ONLY, r.DAY, r.FOK, r.GTD])
    return Request(
        account=account, slot=slot, side=side, order_type=order_type, time_in_force=time_in_force,
        flags=chance.choice([0] * 8 + [1, 2, 2]), price=price + chance.choice([0] * 20 + [1, -200 * TICK]),
        size=size + chance.choice([0] * 30 + [1, -40, 60, 1, -40, 60, 2**60, 2**62]), stop=beyond,
        display=chance.choice([0] * 5 + [2, 4] if order_type in (r.LIMIT, r.STOP_LIMIT) else [0] * 15 + [2]),
        expiry=pair.now + chance.choice([0, 10**9, HOUR, -5]) if time_in_force in (r.GTD, r.GTC) else 0,
        number=chance.randrange(99), target=chance.randrange(3),
    )  # fmt: skip


def random_event(chance: Random, pair: DeskPair) -> tuple[Any, ...]:
    """One input."""
    account, slot = chance.randrange(ACCOUNTS), chance.randrange(2)
    roll = chance.random()
    if roll < 0.22:
        side = chance.randrange(2)
        return "level", side, chance.randint(*((94, 101), (99, 106))[side]) * TICK, chance.choice([0, 5, 10, 40])
    if roll < 0.32:
        return "trade", chance.choice([0, 1, None]), chance.randint(96, 104) * TICK, chance.randint(1, 40)
    if roll < 0.36:
        return "wait", chance.choice([1, 400_000_000, 10**9, HOUR, 7 * HOUR])
    if roll < 0.37:
        return "limit", account, slot, Limits(
            order_size=chance.choice([60] * 5 + [2**61]), position=chance.choice([20, 120] * 3 + [2**62]),
            open_orders=chance.choice([3, 12]),
            band=chance.choice([0, 20_000]), notional=chance.choice([10**8 + 1, *[10**14] * 5]),
        )  # fmt: skip
    if roll < 0.39:
        return "settings", account, chance.choice([0, 1, 2, 3, 4]), chance.choice([2, *[10**6] * 8]), roll < 0.371
    if roll < 0.40:
        return "cancel_all", chance.choice([-1, account]), chance.choice([-1, slot]), chance.choice([-1, 0, 1])
    if roll < 0.405:
        return "close_session", slot, chance.choice([-5, 10**9, HOUR])
    if roll < 0.41:
        return "all_off", chance.choice([0, 0, 1])
    if roll < 0.43:
        return ("restore",)
    return "ask", random_request(chance, pair)


def long_stream(seed: int, steps: int) -> Counter[str]:
    """A random stream, both desks compared after each input; how often each kind of record and reason came up."""
    chance, pair, met = Random(seed), DeskPair(), Counter[str]()
    for slot in range(2):
        for account in range(ACCOUNTS):
            pair.limit(account, slot, LIMITS)
    for step in range(steps):
        event = random_event(chance, pair)
        if step % 50 == 49:  # So that a switch that was turned off does not end the stream.
            event = ("all_off", 0)
        pair.do(*event)
        met.update(f"{record[1]} {record[2] if record[0] == 'order' else ''}".strip() for record in pair.slow.records)
        pair.compare()
    return met


@pytest.mark.parametrize("seed", range(2))
def test_the_orders_projection_follows_every_record(seed: int) -> None:
    """Replaced, shrunk and triggered orders too: what works there is what works in the desk."""
    chance, pair, orders = Random(seed), DeskPair(), OrdersProjection()
    orders.apply(HEADER, np.concatenate([instrument.definition(ts_recv=0) for instrument in INSTRUMENTS]))
    statuses: set[str] = set()
    for step in range(STEPS):
        pair.do(*(("all_off", 0) if step % 50 == 49 else random_event(chance, pair)))
        orders.apply(HEADER, pair.written)
        listed = {order.order_id: order for slot in range(2) for order in pair.slow.listed(slot)}
        rows = orders.rows
        working = rows[rows[:, STATUS] == WORKING]
        assert set(working[:, ID].tolist()) == set(listed)
        for order_id, price, left in working[:, [ID, PRICE, LEFT]].tolist():
            assert (price, left) == (listed[order_id].price, listed[order_id].left)
        statuses |= set(rows[:, STATUS].tolist())
        assert (rows[:, FILLED] + rows[:, LEFT] <= rows[:, SIZE]).all()
    assert statuses == set(range(len(STATUSES)))


def many_streams() -> Counter[str]:
    """What came up in SEEDS streams."""
    return sum((long_stream(seed, STEPS) for seed in range(100, 100 + SEEDS)), Counter[str]())


@pytest.mark.parametrize("seed", range(3))
def test_every_record_is_that_of_the_slow_desk(seed: int) -> None:
    met = long_stream(seed, STEPS)
    print(dict(met))
    wanted = {"accepted 0", "maker", "taker", "cancelled 0", "triggered 0", f"expired {r.SESSION_ENDED}"}
    assert set(met) >= wanted


def test_the_streams_meet_every_reason_that_they_can() -> None:
    met = many_streams()
    rejected = {int(name.split()[1]) for name in met if name.startswith("rejected")}
    rare = {r.UNKNOWN_ORDER, r.OWN_ORDER, r.TOO_MANY_MATCHES, r.NO_ROOM, r.LEDGER_FULL, r.UNKNOWN_ACCOUNT}
    assert rejected >= set(range(1, 22)) - rare - {r.UNKNOWN_ACCOUNT}
    assert {f"cancelled {code}" for code in (r.OWN_ORDER, r.NOT_REDUCING)} <= set(met)


@settings(deadline=None, max_examples=40)
@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_short_streams_that_shrink(chance: Random, steps: int) -> None:
    pair = DeskPair()
    for _ in range(steps):
        pair.do(*random_event(chance, pair))
        pair.compare()


# Broken desks that the comparison must catch.


def keeps_its_place(self: ReferenceDesk, order: Order, size: int) -> None:
    """An iceberg whose next piece stays in front."""
    order.left -= size
    order.shown = min(order.display or order.left, order.left)
    if not order.left:
        self.working.remove(order)


def let_it_trade(self: ReferenceDesk, order: Order, other: Order) -> bool:
    return True


def never(self: ReferenceDesk, *_: object) -> None:
    return None


BROKEN = {
    "an iceberg that keeps its place": ("_take", keeps_its_place),
    "no self-match prevention": ("_prevent", let_it_trade),
    "reduce-only orders that stay too large": ("_trim", never),
    "stops that never come alive": ("follow_up", never),
}


@pytest.mark.parametrize("name", BROKEN)
def test_control_a_broken_desk_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, broken = BROKEN[name]
    monkeypatch.setattr(ReferenceDesk, method, broken)
    with pytest.raises((AssertionError, ValueError)):
        many_streams()
