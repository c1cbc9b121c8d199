"""A venue against the slow desk, over random streams of requests, record by record."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tapehouse.desk import reference
from tapehouse.desk import requests as r
from tapehouse.desk.reference import Order, ReferenceDesk, Request
from tapehouse.desk.requests import SELF_MATCH_POLICIES
from tapehouse.desk.venue import AccountLimits
from tapehouse.market import Instrument
from tests.support.venue_pair import VenuePair

TICK, LOT = 1_000, 3
ACCOUNTS = 4
TICKS, LOTS = (TICK, 1), (1, LOT)
INSTRUMENTS = [
    Instrument(id=7, symbol="X", tick_size=TICK, price_exponent=-5, currency_exponent=-4, multiplier=7),
    Instrument(
        id=9, symbol="Y", venue="XNAS", tick_size=1, lot_size=LOT, price_exponent=-1, size_exponent=-1,
        currency_exponent=-3,
    ),
]  # fmt: skip
REFERENCES = [100 * TICK, 100]
LIMITS = AccountLimits(order_size=40, position=90, notional=10**14, open_orders=5, band_ppm=60_000)
FEW = 10**9  # a notional of hardly anything
HOUR = 3_600 * 10**9
KINDS = (
    *[(r.LIMIT, r.GTC)] * 6, (r.LIMIT, r.IOC), (r.LIMIT, r.POST_ONLY), (r.LIMIT, r.FOK), (r.MARKET, r.IOC),
    (r.LIMIT, r.GTD), (r.LIMIT, r.DAY), (r.STOP, r.GTC), (r.STOP_LIMIT, r.GTC),
)  # fmt: skip
ACCOUNT, SLOT, SIDE = st.integers(0, ACCOUNTS - 1), st.integers(0, 1), st.integers(0, 1)
PRICE, SIZE = st.integers(92, 108), st.sampled_from([1, 2, 3, 5, 9, 30, 0, -3, 41, 121])


class Streams(RuleBasedStateMachine):
    """Any requests in any order, to a venue of two instruments and four accounts."""

    @initialize(policies=st.lists(st.sampled_from(SELF_MATCH_POLICIES), min_size=ACCOUNTS, max_size=ACCOUNTS))
    def open(self, policies: list[str]) -> None:
        wide = replace(LIMITS, position=200, open_orders=8)
        self.pair = VenuePair(INSTRUMENTS, REFERENCES, [replace(wide, self_match=policy) for policy in policies])
        self.time = 0
        self.number = 0

    def send(self, **columns: int) -> None:
        self.number += 1
        self.pair.do((Request(number=self.number, **columns), self.time))

    def some_order(self, choice: int) -> Order | None:
        working = self.pair.slow.working
        return working[choice % len(working)] if working else None

    @rule(
        kind=st.sampled_from(KINDS),
        account=ACCOUNT,
        slot=SLOT,
        side=SIDE,
        ticks=PRICE,
        size=SIZE,
        stop=st.integers(96, 104),
        flags=st.sampled_from([0, 0, 0, 1, 2]),
        display=st.sampled_from([0, 0, 0, 1, 2]),
    )
    def order(
        self, kind: tuple[int, int], account: int, slot: int, side: int, ticks: int, size: int, stop: int, flags: int,
        display: int,
    ) -> None:  # fmt: skip
        self.send(
            account=account, slot=slot, side=side, order_type=kind[0], time_in_force=kind[1], price=ticks * TICKS[slot],
            size=size * LOTS[slot], stop=stop * TICKS[slot], flags=flags, display=display * LOTS[slot],
            expiry=self.time + HOUR if kind[1] == r.GTD else 0,
        )  # fmt: skip

    @rule(account=ACCOUNT, slot=SLOT, side=SIDE, price=st.integers(-5, 60_000), size=st.integers(1, 9))
    def order_at_any_price(self, account: int, slot: int, side: int, price: int, size: int) -> None:
        self.send(account=account, slot=slot, side=side, price=price, size=size)

    @rule(replaces=st.booleans(), choice=st.integers(0, 99), ticks=PRICE, size=SIZE, same=st.booleans())
    def change(self, replaces: bool, choice: int, ticks: int, size: int, same: bool) -> None:
        order = self.some_order(choice)
        if order:
            self.send(
                kind=r.REPLACE if replaces else r.CANCEL, account=order.account, slot=order.slot, size=size,
                price=order.price if same else ticks * TICKS[order.slot], target=order.order_id,
            )  # fmt: skip

    @rule(kind=st.sampled_from([r.REPLACE, r.CANCEL, 3, -1]), account=ACCOUNT, slot=st.integers(-1, 64),
          named=st.integers(-4_097, 99_999))  # fmt: skip
    def change_something_else(self, kind: int, account: int, slot: int, named: int) -> None:
        self.send(kind=kind, account=account, slot=slot, price=100, size=5, target=named)
        order = self.some_order(named)
        if order:  # one that works, but of another account or instrument, or by a number beside its own
            self.send(kind=kind, account=account, slot=slot, price=100, size=5, target=order.order_id + (named & 1))

    @rule(account=ACCOUNT, policy=st.sampled_from(SELF_MATCH_POLICIES), position=st.sampled_from([0, 30, 90]),
          messages=st.sampled_from([3, 10**6]), notional=st.sampled_from([FEW, 10**14]))  # fmt: skip
    def limit(self, account: int, policy: str, position: int, messages: int, notional: int) -> None:
        changed = replace(LIMITS, self_match=policy, position=position, messages=messages, notional=notional)
        self.pair.limit(account, changed)

    @rule(account=ACCOUNT, on=st.booleans())
    def kill(self, account: int, on: bool) -> None:
        self.pair.kill(account, on)

    @rule(account=st.none() | ACCOUNT, slot=st.none() | SLOT, side=st.none() | SIDE)
    def cancel_all(self, account: int | None, slot: int | None, side: int | None) -> None:
        self.pair.cancel_all(account, slot, side)

    @rule(by=st.sampled_from([1, 400_000_000, 1_000_000_000, HOUR, -5]))
    def wait(self, by: int) -> None:
        self.time += by

    @invariant()
    def both_hold_the_same(self) -> None:
        self.pair.compare()


TestStreams = Streams.TestCase
TestStreams.settings = settings(deadline=None, max_examples=60, stateful_step_count=50)


def long_stream(seed: int, steps: int) -> Counter[int]:
    """Requests chosen by a seed, compared after each; returns how often each reason came up."""
    chance = Random(seed)
    pair = VenuePair(INSTRUMENTS, REFERENCES, [replace(LIMITS, self_match=policy) for policy in SELF_MATCH_POLICIES])
    reasons: Counter[int] = Counter()
    time = 0
    for number in range(steps):
        account, slot, side = chance.randrange(ACCOUNTS), chance.randrange(2), chance.randrange(2)
        order_type, time_in_force = chance.choice(KINDS)
        price = chance.randint(92, 108) * TICKS[slot] + (number % 40 == 3)  # off the tick, where that is more than 1
        request = Request(
            account=account, slot=slot, side=side, order_type=order_type, time_in_force=time_in_force, price=price,
            size=chance.choice([1, 3, 5, 9, 30, 41]) * LOTS[slot], stop=chance.randint(96, 104) * TICKS[slot],
            flags=chance.choice([0] * 12 + [2]), expiry=time + chance.choice([0, HOUR]), number=number,
        )  # fmt: skip
        if pair.slow.working and number % 4 == 0:
            order = chance.choice(pair.slow.working)
            request = Request(
                kind=chance.choice([r.CANCEL, r.REPLACE, r.REPLACE]), account=order.account, slot=order.slot,
                price=order.price + chance.choice([-1, 0, 0, 1]) * TICKS[order.slot], size=request.size, number=number,
                target=order.order_id if number % 20 else 77,
            )  # fmt: skip
        if number % 50 == 7:
            changed = replace(LIMITS, messages=chance.choice([2, *[10**6] * 5]),
                              notional=chance.choice([FEW, *[10**14] * 5]),
                              self_match=chance.choice(SELF_MATCH_POLICIES))  # fmt: skip
            pair.limit(account, changed)
        if number % 50 == 17:
            pair.kill(account, on=not chance.randrange(4))
        time += chance.choice([1, 1, 300_000_000])
        reasons.update(pair.do((request, time)))
        pair.compare()
    return reasons


def test_a_long_stream_meets_every_reason_of_a_rejection() -> None:
    reasons = long_stream(1, 3_000)
    print({r.REASONS[reason]: count for reason, count in reasons.items()})
    rare = {r.OWN_ORDER, r.TOO_MANY_MATCHES, r.NO_ROOM, r.LEDGER_FULL, r.BAD_REQUEST, r.BAD_DISPLAY, r.UNKNOWN_ACCOUNT}
    assert set(reasons) >= set(range(r.STALE_NUMBER)) - rare


# Broken desks that the comparison must catch.


def youngest_first(self: ReferenceDesk, slot: int, side: int) -> list[Order]:
    resting = [o for o in self.working if (o.slot, o.side, o.waits) == (slot, side, False)]
    return sorted(resting, key=lambda o: (-o.price if side == r.BUY else o.price, -o.since))


def let_it_trade(self: ReferenceDesk, order: Order, other: Order) -> bool:
    self._cross(order, other, min(order.left, other.shown))
    return True


def at_the_new_orders_price(self: ReferenceDesk, order: Order, other: Order, size: int) -> None:
    kept, other.price = other.price, order.price
    CROSS(self, order, other, size)
    other.price = kept


def without_what_works(self: ReferenceDesk, order: Order, old: Order | None) -> int:
    against = [o for o in self.working if (o.slot, o.side) == (order.slot, 1 - order.side)]
    working, self.working = self.working, against
    try:
        return CHECK(self, order, old)
    finally:
        self.working = working


CROSS, CHECK = ReferenceDesk._cross, ReferenceDesk._check
BROKEN = {
    "a queue that is served from its end": (ReferenceDesk, "queue", youngest_first),
    "no self-match prevention": (ReferenceDesk, "_prevent", let_it_trade),
    "the wrong price of a match": (ReferenceDesk, "_cross", at_the_new_orders_price),
    "limits that forget working orders": (ReferenceDesk, "_check", without_what_works),
    "a rate over two seconds": (reference, "SECOND_NS", 2_000_000_000),
}


@pytest.mark.parametrize("name", BROKEN)
def test_control_a_broken_venue_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, broken = BROKEN[name]
    monkeypatch.setattr(owner, attribute, broken)
    with pytest.raises(AssertionError):
        long_stream(1, 3_000)
