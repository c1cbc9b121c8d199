"""The slow, obvious desk: the oracle that the kernels are held against.

Plain objects, Python integers, lists that are sorted whenever somebody looks; it reads a recorded market through a
function that gives the displayed levels of a side, best first. Property tests feed both the same random markets and
requests. Records are tuples: of an order ("order", action, reason, order id, side, price, size, account, number, stop,
display, expiry, replaced), of a fill ("fill", liquidity, order id, side, price, size, fee, counter-order, account,
position, cash, match).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

from tapehouse.desk import requests as r
from tapehouse.desk.requests import BUY, GTC, IOC, POST_ONLY

LADDER = 8
MATCHES_MAX = 1_000
SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
MILLION = 1_000_000
PROTECTION_PPM = 100_000
AMOUNT_MAX = 2**58
POSITION_MAX, ORDER_MAX = 2**61, 2**60
NONE = 2**63 - 1  # no stop, in a record
NO_POLICY = 4
STREET = 63

Levels = Callable[[int], list[tuple[int, int]]]  # side -> [(price, size)], best first
Record = tuple[object, ...]


def half_away(value: Fraction) -> int:
    """The nearest integer, halves away from zero."""
    sign = -1 if value < 0 else 1
    return sign * int((abs(value) * 2 + 1) // 2)


def within(side: int, price: int, limit: int) -> bool:
    """Whether an order of a side would trade at a price with this limit."""
    return price <= limit if side == BUY else price >= limit


@dataclass
class Market:
    """An instrument: its terms, and where it is on paper the recorded book."""

    levels: Levels = lambda side: []
    money_exponent: int = 0
    tick: int = 1
    lot: int = 1
    multiplier: int = 1
    crossing: bool = False
    last_trade: int = 0
    session_close: int = 0
    unit: int = -9  # the exponent of its currency's unit
    traded: list[int] = field(default_factory=list)  # prices since the stops were looked at

    def worth(self, price: int, size: int) -> int:
        """price x size x multiplier in the currency's unit."""
        return half_away(Fraction(price * size * self.multiplier) * Fraction(10) ** self.money_exponent)


@dataclass
class Limits:
    """What an account may do in one instrument."""

    order_size: int = 10_000
    position: int = 100_000
    notional: int = 10**17
    open_orders: int = 64
    band: int = 0


@dataclass
class Account:
    """What holds for an account everywhere."""

    off: bool = False
    policy: int = NO_POLICY
    messages: int = 1 << 40
    window: list[int] = field(default_factory=list)


@dataclass
class Ledger:
    """One account in one instrument."""

    position: int = 0
    cash: int = 0
    fees: int = 0
    cost: int = 0
    realised: int = 0

    def book(self, side: int, size: int, value: int, fee: int, worth: Callable[[int], int]) -> None:
        """Book one fill at average cost; `worth` says what a part of it is worth."""
        sign = 1 if side == BUY else -1
        if self.position * sign >= 0:
            self.cost += sign * value
        else:
            held = abs(self.position)
            closed = min(size, held)
            released = self.cost if closed == held else half_away(Fraction(self.cost * closed, held))
            self.realised += -sign * worth(closed) - released
            self.cost += -released + sign * (value - worth(closed))
        self.position += sign * size
        self.cash -= sign * value + fee
        self.fees += fee

    @property
    def full(self) -> bool:
        """Whether its amounts are too large to cross with others."""
        return max(abs(self.cash), abs(self.cost), abs(self.realised), abs(self.fees)) > AMOUNT_MAX


@dataclass
class Order:
    """One order, while it works or is matched."""

    order_id: int
    account: int
    slot: int
    side: int
    price: int
    left: int
    kind: int = r.LIMIT
    time_in_force: int = GTC
    flags: int = 0
    stop: int = NONE
    display: int = 0
    expiry: int = 0
    number: int = 0
    shown: int = 0
    ahead: int = 0
    since: int = 0  # when it joined its queue
    waits: bool = False

    @property
    def reducing(self) -> bool:
        """Whether it may only reduce a position."""
        return bool(self.flags & r.REDUCE_ONLY_FLAG)


@dataclass(frozen=True)
class Request:
    """What is asked of the desk."""

    kind: int = r.SUBMIT
    account: int = 0
    slot: int = 0
    side: int = BUY
    order_type: int = r.LIMIT
    time_in_force: int = GTC
    flags: int = 0
    price: int = 0
    size: int = 0
    stop: int = 0
    display: int = 0
    expiry: int = 0
    target: int = 0
    number: int = 0


class ReferenceDesk:
    """A desk that is slow and right."""

    def __init__(self, markets: list[Market], *, maker_fee_ppm: int, taker_fee_ppm: int) -> None:
        self.markets = markets
        self.fees = {"maker": maker_fee_ppm, "taker": taker_fee_ppm}
        self.ledgers: dict[tuple[int, int], Ledger] = {}
        self.limits: dict[tuple[int, int], Limits] = {}
        self.accounts: dict[int, Account] = {}
        self.working: list[Order] = []
        self.records: list[Record] = []
        self.all_off = False
        self.now, self.ordinal, self.index, self.base, self.matches, self.queued = 0, 0, 0, 0, 0, 0

    # What is known.

    def ledger(self, account: int, slot: int) -> Ledger:
        """An account's amounts in an instrument."""
        return self.ledgers.setdefault((account, slot), Ledger())

    def limit(self, account: int, slot: int) -> Limits:
        """An account's limits in an instrument."""
        return self.limits.setdefault((account, slot), Limits())

    def account(self, account: int) -> Account:
        """An account's settings."""
        return self.accounts.setdefault(account, Account())

    def queue(self, slot: int, side: int) -> list[Order]:
        """What rests on a side, first to trade first."""
        resting = [o for o in self.working if (o.slot, o.side, o.waits) == (slot, side, False)]
        return sorted(resting, key=lambda o: (-o.price if side == BUY else o.price, o.since))

    def stops(self, slot: int, side: int) -> list[Order]:
        """The stops of a side that wait, first to be reached first."""
        waiting = [o for o in self.working if (o.slot, o.side, o.waits) == (slot, side, True)]
        return sorted(waiting, key=lambda o: (o.stop if side == BUY else -o.stop, o.since))

    def listed(self, slot: int) -> list[Order]:
        """Everything that works in an instrument: bids, asks, buy stops, sell stops."""
        return [*self.queue(slot, 0), *self.queue(slot, 1), *self.stops(slot, 0), *self.stops(slot, 1)]

    def shown(self, slot: int, side: int, price: int) -> int:
        """What the recorded book displays at a price."""
        return dict(self.markets[slot].levels(side)).get(price, 0)

    def best(self, slot: int, side: int) -> int | None:
        """The best price that an order would meet on a side."""
        if self.markets[slot].crossing:
            return self.queue(slot, side)[0].price if self.queue(slot, side) else None
        levels = self.markets[slot].levels(side)
        return levels[0][0] if levels else None

    def closable(self, account: int, slot: int, side: int) -> int:
        """How much an order of a side can close."""
        position = self.ledger(account, slot).position
        return max(0, -position if side == BUY else position)

    def open_size(self, account: int, slot: int, side: int, *, reducing: bool = False) -> int:
        """What works of an account on a side; `reducing`: of that, what is reduce-only."""
        mine = [o for o in self.working if (o.account, o.slot, o.side) == (account, slot, side)]
        return sum(o.left for o in mine if o.reducing or not reducing)

    # Inputs.

    def begin(self, ordinal: int, now: int) -> None:
        """An input of the tape: what is due before it."""
        self.ordinal, self.index, self.base = ordinal, 0, 0
        self.now = max(self.now, now)
        while True:
            due = sorted((o.expiry, o.order_id, o) for o in self.working if 0 < o.expiry <= self.now)
            if not due:
                break
            self.end(due[0][2], "expired", r.SESSION_ENDED)
        self.base = self.index

    def decide(self, request: Request) -> int:
        """Decide on a request; returns the reason of its rejection."""
        reason = self._decide(request)
        if 0 <= request.slot < len(self.markets):
            self.follow_up(request.slot)
        return reason

    def _decide(self, q: Request) -> int:
        if not 0 <= q.slot < len(self.markets):
            return r.BAD_REQUEST
        if not 0 <= q.account < 63:
            return r.UNKNOWN_ACCOUNT
        in_time = self._count_message(self.account(q.account))
        checked = r.OK if in_time else r.TOO_MANY_MESSAGES
        if q.kind == r.SUBMIT:
            known = q.order_type in range(4) and q.time_in_force in range(6) and q.side in (0, 1)
            return self._place(self._order(q), None, checked) if known else r.BAD_REQUEST
        if q.kind not in (r.CANCEL, r.REPLACE):
            return r.BAD_REQUEST
        found = [o for o in self.working if (o.order_id, o.account, o.slot) == (q.target, q.account, q.slot)]
        if not found:
            return r.UNKNOWN_ORDER
        if q.kind == r.CANCEL:
            self.end(found[0], "cancelled", r.OK)
            return r.OK
        return self._replace(q, found[0], checked)

    def _count_message(self, account: Account) -> bool:
        if not account.window or self.now - account.window[0] >= SECOND_NS:
            account.window = [self.now]
        else:
            account.window.append(self.now)
        return len(account.window) <= account.messages

    def _order(self, q: Request) -> Order:
        post_only = q.time_in_force == POST_ONLY
        return Order(
            order_id=0,
            account=q.account,
            slot=q.slot,
            side=q.side,
            price=q.price,
            left=q.size,
            kind=q.order_type,
            time_in_force=GTC if post_only else q.time_in_force,
            flags=q.flags | (r.POST_ONLY_FLAG if post_only else 0),
            stop=q.stop if q.order_type in (r.STOP, r.STOP_LIMIT) else NONE,
            display=q.display,
            expiry=q.expiry,
            number=q.number,
        )

    def _replace(self, q: Request, old: Order, checked: int) -> int:
        q = replace(q, price=q.price or old.price, size=q.size or old.left)
        stop, display = q.stop or old.stop, q.display or old.display
        same = (q.price == old.price or old.kind == r.STOP) and stop == old.stop and display == old.display
        if same and 0 < q.size <= old.left and q.size % self.markets[q.slot].lot == 0:
            self.shrink(old, q.size, r.OK)
            return r.OK
        kept = q.display or (display if display < q.size else 0)
        new = replace(old, price=q.price, left=q.size, stop=stop, display=kept, number=q.number)
        if not old.waits and old.kind in (r.STOP, r.STOP_LIMIT):
            new.kind, new.stop = r.LIMIT, NONE
        new.waits = False
        return self._place(new, old, checked)

    def mass_cancel(self, account: int | None, slot: int | None, side: int | None) -> None:
        """Cancel what works, by instrument, resting before waiting, by side, price and age."""
        for at in range(len(self.markets)):
            for order in self.listed(at):
                if account in (None, order.account) and slot in (None, at) and side in (None, order.side):
                    self.end(order, "cancelled", r.OK)

    # An order's way.

    def _place(self, order: Order, old: Order | None, checked: int) -> int:
        reason = checked or self._check(order, old)
        order.order_id = self.ordinal << 12 | self.index - self.base
        self.say("rejected" if reason else "accepted", order, reason, replaced=old.order_id if old else 0)
        if reason:
            return reason
        if old:
            self.working.remove(old)
        if order.kind in (r.STOP, r.STOP_LIMIT):
            self._join(order, waits=True)
        else:
            self._work(order)
        return r.OK

    def _check(self, order: Order, old: Order | None) -> int:
        """The first thing that is wrong with an order."""
        market, best = self.markets[order.slot], self.best(order.slot, 1 - order.side)
        limits, ledger = self.limit(order.account, order.slot), self.ledger(order.account, order.slot)
        reason = self._check_terms(order, best)
        if reason:
            return reason
        waits = order.kind in (r.STOP, r.STOP_LIMIT)
        reference = order.stop if waits else self._reference(order.slot)
        price = self._protection(order, reference) if order.kind == r.STOP else order.price
        released = old.left if old else 0
        at_most = price
        if market.crossing and order.side != BUY and best is not None:
            at_most = max(price, best)
        worth = market.worth(at_most, order.left)
        side_position = ledger.position if order.side == BUY else -ledger.position
        open_orders = sum((o.account, o.slot) == (order.account, order.slot) for o in self.working) - (old is not None)
        beyond = price - reference if order.side == BUY else reference - price
        most_beyond = half_away(Fraction(reference * limits.band, MILLION))
        working = self.open_size(order.account, order.slot, order.side) - released
        reducing = self.open_size(order.account, order.slot, order.side, reducing=True) - released
        most = min(limits.order_size * market.lot, ORDER_MAX)
        most_held = min(limits.position * market.lot, POSITION_MAX)
        wrong = (
            (self.account(order.account).off or self.all_off, r.KILLED),
            (not 0 < order.left <= most or order.left % market.lot, r.BAD_SIZE),
            (price <= 0 or price % market.tick, r.BAD_PRICE),
            (limits.band and reference and beyond > most_beyond, r.OUT_OF_BAND),
            (worth * Fraction(10) ** market.unit > limits.notional * Fraction(10) ** -9, r.TOO_LARGE),
            (not order.reducing and side_position + working + order.left > most_held, r.POSITION_LIMIT),
            (open_orders >= limits.open_orders, r.OPEN_LIMIT),
            (market.crossing and (ledger.full or worth > AMOUNT_MAX), r.LEDGER_FULL),
            (order.reducing and order.left > self.closable(order.account, order.slot, order.side) - reducing,
             r.NOT_REDUCING),
        )  # fmt: skip
        for holds, code in wrong:
            if holds:
                return code
        return r.OK if waits else self._check_market(order)

    def _check_terms(self, order: Order, best: int | None) -> int:
        market = self.markets[order.slot]
        if order.kind in (r.MARKET, r.STOP):
            order.price = order.stop if order.kind == r.STOP else 0
            if order.flags & r.POST_ONLY_FLAG:
                return r.BAD_REQUEST
        if order.kind == r.MARKET:
            if best is None:
                return r.NO_MARKET
            order.price = self._protection(order, self._reference(order.slot) or best)
            if not within(order.side, best, order.price):
                return r.NO_MARKET
        if order.kind in (r.STOP, r.STOP_LIMIT):
            reached = market.last_trade and within(order.side, order.stop, market.last_trade)
            if order.stop <= 0 or order.stop % market.tick or reached:
                return r.BAD_STOP
        if order.display:
            pieces = order.display > 0 and order.display % market.lot == 0 and order.display < order.left
            rests = order.kind in (r.LIMIT, r.STOP_LIMIT) and order.time_in_force not in (IOC, r.FOK)
            if not pieces or not rests:
                return r.BAD_DISPLAY
        if order.time_in_force == r.DAY and not order.expiry:
            later = market.session_close > self.now
            order.expiry = market.session_close if later else (self.now // DAY_NS + 1) * DAY_NS
        if order.time_in_force not in (r.DAY, r.GTD):
            order.expiry = 0
        elif order.expiry <= self.now:
            return r.BAD_EXPIRY
        return r.OK

    def _reference(self, slot: int) -> int:
        if self.markets[slot].last_trade > 0:
            return self.markets[slot].last_trade
        bid, ask = self.best(slot, 0), self.best(slot, 1)
        return (bid + ask) // 2 if bid and ask else 0

    def _protection(self, order: Order, reference: int) -> int:
        market = self.markets[order.slot]
        ppm = self.limit(order.account, order.slot).band or PROTECTION_PPM
        reach = half_away(Fraction(reference * ppm, MILLION))
        if order.side == BUY:
            return (reference + reach) // market.tick * market.tick
        return max(market.tick, -(-(reference - reach) // market.tick) * market.tick)

    def _check_market(self, order: Order) -> int:
        best = self.best(order.slot, 1 - order.side)
        if order.flags & r.POST_ONLY_FLAG and best is not None and within(order.side, best, order.price):
            return r.WOULD_CROSS
        if order.time_in_force == r.FOK and not self._fillable(order):
            return r.NOT_FILLABLE
        return r.OK

    def _fillable(self, order: Order) -> bool:
        if not self.markets[order.slot].crossing:
            levels = self.markets[order.slot].levels(1 - order.side)[:LADDER]
            return sum(size for price, size in levels if within(order.side, price, order.price)) >= order.left
        needed = order.left
        against = [o for o in self.queue(order.slot, 1 - order.side) if within(order.side, o.price, order.price)]
        for price in dict.fromkeys(o.price for o in against):
            here = [o for o in against if o.price == price]
            for other in here:
                if other.account == order.account or self.ledger(other.account, order.slot).full:
                    return False
                needed -= 0 if other.reducing else other.shown
                if needed <= 0:
                    return True
            needed -= sum(o.left - o.shown for o in here if not o.reducing)
            if needed <= 0:
                return True
        return False

    def _work(self, order: Order) -> None:
        """An order meets the market; what is left rests or is cancelled."""
        crossing = self.markets[order.slot].crossing
        ended = self._match(order) if crossing else self._meet_own(order)
        if not crossing and not ended:
            for price, shown in self.markets[order.slot].levels(1 - order.side)[:LADDER]:
                if order.left and within(order.side, price, order.price):
                    self.fill_paper(order, price, min(shown, order.left), "taker")
        if not order.left:
            return
        rests = order.kind in (r.LIMIT, r.STOP_LIMIT) and order.time_in_force not in (IOC, r.FOK)
        if rests and not ended:
            self._join(order, waits=False)
        else:
            self.say("cancelled", order, ended)

    def _join(self, order: Order, *, waits: bool) -> None:
        self.queued += 1
        order.since, order.waits = self.queued, waits
        order.shown = min(order.display or order.left, order.left) if not waits else order.left
        if not waits and not self.markets[order.slot].crossing:
            order.ahead = self.shown(order.slot, order.side, order.price)
        else:
            order.ahead = 0
        self.working.append(order)

    def _match(self, order: Order) -> int:
        for _ in range(MATCHES_MAX):
            queue = self.queue(order.slot, 1 - order.side)
            if not order.left or not queue or not within(order.side, queue[0].price, order.price):
                return r.OK
            other = queue[0]
            if other.account == order.account:
                if not self._prevent(order, other):
                    return r.OWN_ORDER
            elif self.ledger(other.account, order.slot).full:
                self.end(other, "cancelled", r.LEDGER_FULL)
            elif self._fit(other):
                self._cross(order, other, min(order.left, other.shown))
        queue = self.queue(order.slot, 1 - order.side)
        more = order.left and queue and within(order.side, queue[0].price, order.price)
        return r.TOO_MANY_MATCHES if more else r.OK

    def _meet_own(self, order: Order) -> int:
        if self.account(order.account).policy == NO_POLICY:
            return r.OK
        for other in self.queue(order.slot, 1 - order.side):
            own = other.account == order.account and within(order.side, other.price, order.price)
            if own and not self._prevent(order, other):
                return r.OWN_ORDER
        return r.OK

    def _prevent(self, order: Order, other: Order) -> bool:
        """Keep an order from one of its own account; False where it may not go on."""
        policy = self.account(order.account).policy
        if policy in (r.CANCEL_OLDEST, r.CANCEL_BOTH):
            self.end(other, "cancelled", r.OWN_ORDER)
            return policy == r.CANCEL_OLDEST
        if policy != r.DECREMENT:
            return False
        both = min(order.left, other.left)
        if both == other.left:
            self.end(other, "cancelled", r.OWN_ORDER)
        else:
            self.shrink(other, other.left - both, r.OWN_ORDER)
        if both == order.left:
            return False
        order.left -= both
        self.say("accepted", order, r.OWN_ORDER, replaced=order.order_id)
        return True

    # Fills.

    def fee(self, account: int, liquidity: str, value: int) -> int:
        """What an account pays for a fill of that value."""
        return half_away(Fraction(value * self.fees[liquidity], MILLION))

    def book(self, order: Order, price: int, size: int, value: int, fee: int) -> Ledger:
        """Book a fill of an order; returns what its account has then."""
        ledger, market = self.ledger(order.account, order.slot), self.markets[order.slot]
        ledger.book(order.side, size, value, fee, lambda part: market.worth(price, part))
        return ledger

    def book_street(self, slot: int, side: int, size: int, value: int) -> None:
        """Book the other side of a paper fill; `side` is that of the account's."""
        sign = 1 if side == BUY else -1
        street = self.ledger(STREET, slot)
        street.position -= sign * size
        street.cash += sign * value
        street.cost = -street.cash  # nothing of the street's is realised

    def _cross(self, order: Order, other: Order, size: int) -> None:
        """Both accounts trade at the resting order's price."""
        market = self.markets[order.slot]
        value = market.worth(other.price, size)
        self.matches += 1
        market.last_trade = other.price
        if self.stops(order.slot, 0) or self.stops(order.slot, 1):
            market.traded.append(other.price)
        told = []
        for one, counter, liquidity in ((other, order, "maker"), (order, other, "taker")):
            fee = self.fee(one.account, liquidity, value)
            ledger = self.book(one, other.price, size, value, fee)
            told.append(
                ("fill", liquidity, one.order_id, one.side, other.price, size, fee, counter.order_id, one.account,
                 ledger.position, ledger.cash, self.matches)
            )  # fmt: skip
        self.tell(*told)
        order.left -= size
        self._take(other, size)

    def fill_paper(self, order: Order, price: int, size: int, liquidity: str) -> None:
        """An account trades with the street."""
        market = self.markets[order.slot]
        value = market.worth(price, size)
        fee = self.fee(order.account, liquidity, value)
        ledger = self.book(order, price, size, value, fee)
        self.book_street(order.slot, order.side, size, value)
        self.matches += 1
        self.tell(
            ("fill", liquidity, order.order_id, order.side, price, size, fee, 0, order.account, ledger.position,
             ledger.cash, self.matches)
        )  # fmt: skip
        if liquidity == "maker":
            self._take(order, size)
        else:
            order.left -= size

    def _take(self, order: Order, size: int) -> None:
        """So much of what is shown of a resting order is filled."""
        order.left -= size
        order.shown -= size
        if not order.left:
            self.working.remove(order)
        elif not order.shown:
            self.working.remove(order)
            self._join(order, waits=False)

    def _fit(self, order: Order) -> bool:
        """A reduce-only order that is about to trade is no larger than what it closes; False where it is gone."""
        room = self.closable(order.account, order.slot, order.side)
        if order.reducing and not room:
            self.end(order, "cancelled", r.NOT_REDUCING)
            return False
        if order.reducing and order.left > room:
            self.shrink(order, room, r.NOT_REDUCING)
        return True

    def shrink(self, order: Order, size: int, reason: int) -> None:
        """Leave so much of an order where it is; hidden size goes first."""
        order.left = size
        order.shown = min(order.shown, size)
        self.say("accepted", order, reason, replaced=order.order_id)

    def end(self, order: Order, action: str, reason: int) -> None:
        """An order works no longer."""
        self.say(action, order, reason)
        self.working.remove(order)

    def follow_up(self, slot: int) -> None:
        """Cut reduce-only orders, and let the stops that were reached come alive, until there is nothing more."""
        market = self.markets[slot]
        while True:
            self._trim(slot)
            buys = [o for o in self.stops(slot, BUY) if market.traded and o.stop <= max(market.traded)]
            sells = [o for o in self.stops(slot, 1) if market.traded and o.stop >= min(market.traded)]
            if not buys and not sells:
                break
            self._come_alive((buys or sells)[0])
        market.traded.clear()

    def _trim(self, slot: int) -> None:
        for account in sorted({o.account for o in self.working if o.slot == slot and o.reducing}):
            for side in range(2):
                room = self.closable(account, slot, side)
                for order in [*self.queue(slot, side), *self.stops(slot, side)]:
                    if order.account != account or not order.reducing:
                        continue
                    if not room:
                        self.end(order, "cancelled", r.NOT_REDUCING)
                    elif order.left > room:
                        self.shrink(order, room, r.NOT_REDUCING)
                        room = 0
                    else:
                        room -= order.left

    def _come_alive(self, order: Order) -> None:
        self.working.remove(order)
        if order.kind == r.STOP:
            order.price = self._protection(order, self.markets[order.slot].last_trade)
        self.say("triggered", order, r.OK)
        best = self.best(order.slot, 1 - order.side)
        reason = self._check_market(order)
        if not reason and order.kind == r.STOP and (best is None or not within(order.side, best, order.price)):
            reason = r.NO_MARKET
        if reason:
            self.say("cancelled", order, reason)
        else:
            self._work(order)

    # The recorded market.

    def trade(self, slot: int, price: int, size: int, aggressor: int | None) -> None:
        """A trade printed; `aggressor` is its side, None where unknown."""
        market = self.markets[slot]
        market.last_trade = price
        left = size
        for side in (0, 1):
            if side == aggressor:
                continue
            while left > 0 and self.queue(slot, side):
                order = self.queue(slot, side)[0]
                if order.price == price or not within(side, price, order.price):
                    break
                left -= self._rest_fill(order, left)
            here = [o for o in self.queue(slot, side) if o.price == price] if aggressor is not None else []
            while here and left > 0:
                order = here.pop(0)
                reach, joined = left - order.ahead, order.since
                order.ahead = max(0, order.ahead - left)
                if reach > 0:
                    left -= self._rest_fill(order, reach)
                    if order.since != joined:
                        here.append(order)
        if self.stops(slot, 0) or self.stops(slot, 1):
            market.traded.append(price)

    def liquidity(self, slot: int, side: int, price: int, size: int) -> None:
        """New size was displayed on a side."""
        left = size
        while left > 0 and self.queue(slot, 1 - side):
            order = self.queue(slot, 1 - side)[0]
            if not within(order.side, price, order.price):
                break
            left -= self._rest_fill(order, left)

    def shorten(self, slot: int) -> None:
        """No queue ahead is longer than its level."""
        for order in self.working:
            if order.slot == slot and not order.waits:
                order.ahead = min(order.ahead, self.shown(slot, order.side, order.price))

    def _rest_fill(self, order: Order, reach: int) -> int:
        if not self._fit(order):
            return 0
        size = min(order.shown, reach)
        self.fill_paper(order, order.price, size, "maker")
        return size

    # Records.

    def say(self, action: str, order: Order, reason: int, *, replaced: int = 0) -> None:
        """Write an ORDER record."""
        self.tell(
            ("order", action, reason, order.order_id, order.side, order.price, order.left, order.account, order.number,
             order.stop, order.display or order.left, order.expiry, replaced)
        )  # fmt: skip

    def tell(self, *records: Record) -> None:
        """Write records."""
        self.records += records
        self.index += len(records)
