"""The venue's kernels against the slow venue, over random streams of requests."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tapehouse.desk import matching_reference
from tapehouse.desk.matching_reference import Order, ReferenceVenue
from tapehouse.desk.requests import SELF_MATCH_POLICIES
from tapehouse.desk.venue import AccountLimits, Listing
from tapehouse.market import Instrument
from tests.support.venue_pair import REASONS, VenuePair

TICK, LOT = 1_000, 3
ACCOUNTS = 4
CAPACITY = 24
LISTINGS = [
    Listing(
        instrument=Instrument(id=7, symbol="X", tick_size=TICK, price_exponent=-5, currency_exponent=-4, multiplier=7),
        reference=100 * TICK,
        band_ticks=8,
    ),
    Listing(
        instrument=Instrument(
            id=9, symbol="Y", tick_size=1, lot_size=LOT, price_exponent=-1, size_exponent=-1, currency_exponent=-3
        ),
        reference=100,
        band_ticks=1_000,
    ),
]
LIMITS = AccountLimits(order_size=40, position=90, notional=10**9, open_orders=5)
CHANGES = st.sampled_from(["cancel", "replace"])
ACCOUNT, SLOT, SIDE = st.integers(0, ACCOUNTS - 1), st.integers(0, 1), st.integers(0, 1)
PRICE, SIZE = st.integers(92, 108), st.sampled_from([1, 2, 3, 5, 9, 30, 0, -3, 41, 121])
KIND = st.sampled_from(["limit"] * 5 + ["ioc", "post_only", "fok", "market"])


class Streams(RuleBasedStateMachine):
    """Any requests in any order, to a venue of two instruments and four accounts."""

    @initialize(policies=st.lists(st.sampled_from(SELF_MATCH_POLICIES), min_size=ACCOUNTS, max_size=ACCOUNTS))
    def open(self, policies: list[str]) -> None:
        limits = [
            AccountLimits(order_size=40, position=200, notional=10**9, open_orders=8, self_match=p) for p in policies
        ]
        self.pair = VenuePair(LISTINGS, limits, capacity=CAPACITY)
        self.time = 0
        self.number = 0

    def send(self, kind: str, account: int, slot: int, side: int, ticks: int, size: int, target: int) -> None:
        self.number += 1
        price = ticks * (TICK, 1)[slot]
        lots = size * (1, LOT)[slot]
        self.pair.do((kind, account, slot, side, price, lots, target, self.number, self.time))

    def some_order(self, choice: int) -> Order | None:
        resting = self.pair.slow.resting
        return resting[choice % len(resting)] if resting else None

    @rule(kind=KIND, account=ACCOUNT, slot=SLOT, side=SIDE, ticks=PRICE, size=SIZE)
    def order(self, kind: str, account: int, slot: int, side: int, ticks: int, size: int) -> None:
        self.send(kind, account, slot, side, ticks, size, 0)

    @rule(account=ACCOUNT, slot=SLOT, side=SIDE, price=st.integers(-5, 60_000), size=st.integers(1, 9))
    def order_at_any_price(self, account: int, slot: int, side: int, price: int, size: int) -> None:
        self.number += 1
        self.pair.do(("limit", account, slot, side, price, size, 0, self.number, self.time))

    @rule(
        kind=CHANGES,
        choice=st.integers(0, 99),
        ticks=PRICE,
        size=SIZE,
        same=st.booleans(),
    )
    def change(self, kind: str, choice: int, ticks: int, size: int, same: bool) -> None:
        order = self.some_order(choice)
        if order:
            if same:
                ticks = order.price // (TICK, 1)[order.slot]
            self.send(kind, order.account, order.slot, 0, ticks, size, order.order_id)

    @rule(kind=CHANGES, account=ACCOUNT, slot=SLOT, named=st.integers(-4_097, 99_999))
    def change_something_else(self, kind: str, account: int, slot: int, named: int) -> None:
        self.send(kind, account, slot, 1, 100, 5, named)
        order = self.some_order(named)
        if order:  # one that rests, but of another account or instrument, or by a number beside its own
            self.send(kind, account, slot, 0, 100, 5, order.order_id + (named & 1))

    @rule(account=ACCOUNT, policy=st.sampled_from(SELF_MATCH_POLICIES), position=st.sampled_from([0, 30, 90]),
          messages=st.sampled_from([3, 10**6]), notional=st.sampled_from([10**4, 10**9]))  # fmt: skip
    def limit(self, account: int, policy: str, position: int, messages: int, notional: int) -> None:
        changed = replace(LIMITS, self_match=policy, position=position, messages=messages, notional=notional)
        self.pair.limit(account, changed)

    @rule(account=ACCOUNT, on=st.booleans())
    def kill(self, account: int, on: bool) -> None:
        self.pair.kill(account, on)

    @rule(by=st.sampled_from([1, 400_000_000, 1_000_000_000, -5]))
    def wait(self, by: int) -> None:
        self.time += by

    @invariant()
    def both_hold_the_same(self) -> None:
        self.pair.compare()


SETTINGS = settings(deadline=None, max_examples=120, stateful_step_count=60)
TestStreams = Streams.TestCase
TestStreams.settings = SETTINGS


def long_stream(seed: int, steps: int) -> Counter[str]:
    """Requests chosen by a seed, compared after each; returns how often each reason came up."""
    chance = Random(seed)
    pair = VenuePair(
        LISTINGS, [replace(LIMITS, self_match=policy) for policy in SELF_MATCH_POLICIES], capacity=CAPACITY
    )
    reasons: Counter[str] = Counter()
    time = 0
    for number in range(steps):
        account, slot, side = chance.randrange(ACCOUNTS), chance.randrange(2), chance.randrange(2)
        kind = chance.choice(["limit"] * 6 + ["ioc", "post_only", "fok", "market", "cancel", "replace", "replace"])
        price, size, target = chance.randint(92, 108) * (TICK, 1)[slot], chance.choice([1, 3, 5, 9, 30, 41]), 0
        price += number % 40 == 3  # off the tick, where a tick is more than 1
        if kind in ("cancel", "replace") and pair.slow.resting and number % 20:
            order = chance.choice(pair.slow.resting)
            account, slot, target = order.account, order.slot, order.order_id
            price = order.price + chance.choice([-1, 0, 0, 1]) * (TICK, 1)[slot]
        if number % 50 == 7:
            messages, notional = chance.choice([2, *[10**6] * 5]), chance.choice([10**4, *[10**9] * 5])
            pair.limit(
                account,
                replace(LIMITS, messages=messages, notional=notional, self_match=chance.choice(SELF_MATCH_POLICIES)),
            )
        if number % 50 == 17:
            pair.kill(account, on=not chance.randrange(4))
        time += chance.choice([1, 1, 300_000_000])
        reasons.update(pair.do((kind, account, slot, side, price, size * (1, LOT)[slot], target, number, time)))
        pair.compare()
    return reasons


def test_a_long_stream_meets_every_reason_of_a_rejection() -> None:
    reasons = long_stream(1, 4_000)
    print(dict(reasons))
    assert set(reasons) >= set(REASONS) - {"own", "matches", "room", "ledger", "request"}


# Broken venues that the comparison must catch.


def youngest_first(self: Order) -> tuple[int, int]:
    return (-self.price if self.side == 0 else self.price, -self.order_id)


def let_it_trade(self: ReferenceVenue, order: Order, own: Order) -> bool:
    self._trade(order, own, min(order.left, own.left))
    return True


def at_the_new_orders_price(self: ReferenceVenue, order: Order, resting: Order, size: int) -> None:
    kept, resting.price = resting.price, order.price
    TRADE(self, order, resting, size)
    resting.price = kept


def without_what_works(self: ReferenceVenue, kind: str, order: Order, old: Order | None) -> str:
    working, self.resting = self.resting, self._meets(order)
    try:
        return REFUSAL(self, kind, order, old)
    finally:
        self.resting = working


TRADE, REFUSAL = ReferenceVenue._trade, ReferenceVenue._refusal
BROKEN = {
    "a queue that is served from its end": (Order, "priority", property(youngest_first)),
    "no self-match prevention": (ReferenceVenue, "_prevent", let_it_trade),
    "the wrong price of a match": (ReferenceVenue, "_trade", at_the_new_orders_price),
    "limits that forget working orders": (ReferenceVenue, "_refusal", without_what_works),
    "a rate over two seconds": (matching_reference, "SECOND_NS", 2_000_000_000),
}


@pytest.mark.parametrize("name", BROKEN)
def test_control_a_broken_venue_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, broken = BROKEN[name]
    monkeypatch.setattr(owner, attribute, broken)
    with pytest.raises(AssertionError):
        long_stream(1, 4_000)
