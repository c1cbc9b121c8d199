"""The slow, obvious venue: the oracle that the matching kernels are held against.

Plain objects, Python's integers, lists that are sorted whenever somebody looks. Records are tuples: of an order
("order", action, reason, order id, side, price, size, account, number, replaced), of one side of a match
("fill", liquidity, order id, side, price, size, fee, counter-order, account, position, cash, match).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

from tapehouse.desk.reference import half_away
from tapehouse.desk.requests import BUY, SELL

SECOND_NS = 1_000_000_000
MATCHES_MAX = 1_000
AMOUNT_MAX = 2**58
Record = tuple[object, ...]


@dataclass
class Terms:
    """An instrument's terms; prices in its units, the band in prices."""

    tick: int
    lot: int
    multiplier: int
    money_exponent: int
    last_trade: int
    band: int


@dataclass
class Limits:
    """What an account may do, in lots, money, orders and messages."""

    order_size: int
    position: int
    notional: int
    open_orders: int
    messages: int
    self_match: str
    killed: bool = False
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
        """Whether its amounts are too large to go on."""
        return max(abs(self.cash), abs(self.cost), abs(self.realised), abs(self.fees)) > AMOUNT_MAX


@dataclass
class Order:
    """One order; while it rests, or while it is matched."""

    order_id: int
    account: int
    slot: int
    side: int
    price: int
    left: int
    number: int

    @property
    def priority(self) -> tuple[int, int]:
        """Sorts the orders of one side: best price first, then the oldest."""
        return (-self.price if self.side == BUY else self.price, self.order_id)


class ReferenceVenue:
    """A venue that is slow and right."""

    def __init__(
        self, terms: list[Terms], limits: list[Limits], *, maker_fee_ppm: int, taker_fee_ppm: int, capacity: int
    ) -> None:
        self.terms = terms
        self.limits = limits
        self.fees = {"maker": maker_fee_ppm, "taker": taker_fee_ppm}
        self.capacity = capacity
        self.ledgers = [[Ledger() for _ in terms] for _ in limits]
        self.resting: list[Order] = []
        self.records: list[Record] = []
        self.ordinal = 0
        self.matches = 0
        self.now = 0

    def worth(self, slot: int, price: int, size: int) -> int:
        """price x size x multiplier in the currency's unit."""
        terms = self.terms[slot]
        return half_away(Fraction(price * size * terms.multiplier) * Fraction(10) ** terms.money_exponent)

    def queue(self, slot: int, side: int) -> list[Order]:
        """What rests on one side, first to trade first."""
        return sorted((o for o in self.resting if (o.slot, o.side) == (slot, side)), key=lambda order: order.priority)

    def open_size(self, account: int, slot: int, side: int) -> int:
        """What an account has working on one side."""
        return sum(order.left for order in self.queue(slot, side) if order.account == account)

    def say(self, action: str, order: Order, reason: str = "", *, size: int | None = None, replaced: int = 0) -> None:
        """Write an ORDER record."""
        left = order.left if size is None else size
        self.records.append(
            ("order", action, reason, order.order_id, order.side, order.price, left, order.account, order.number,
             replaced)
        )  # fmt: skip

    def request(
        self, kind: str, account: int, slot: int, side: int, price: int, size: int, target: int, number: int, time: int
    ) -> str:
        """Decide on one request; returns the reason of its rejection, or nothing."""
        self.ordinal += 1
        self.now = max(self.now, time)
        limits, terms = self.limits[account], self.terms[slot]
        in_time = self._in_time(limits)
        order = Order(self.ordinal << 12, account, slot, side, price, size, number)
        old = None
        if kind in ("cancel", "replace"):
            found = [o for o in self.resting if (o.order_id, o.account, o.slot) == (target, account, slot)]
            if not found:
                self.say("rejected", order, "unknown", replaced=target)
                return "unknown"
            old = found[0]
            order.side = old.side
            if kind == "cancel":
                self._cancel(old, "")
                return ""
            if price == old.price and 0 < size <= old.left and size % terms.lot == 0:
                old.left = size
                self.say("accepted", old, replaced=target)
                return ""
        if kind == "market":
            order.price = terms.last_trade + terms.band
            if side == SELL:
                order.price = max(terms.last_trade - terms.band, terms.tick)
        reason = self._refusal(kind, order, old) if in_time else "messages"
        self.say("accepted" if not reason else "rejected", order, reason, replaced=target if old else 0)
        if not reason:
            if old:
                self.resting.remove(old)
            self._match(kind, order)
        return reason

    def _in_time(self, limits: Limits) -> bool:
        if not limits.window or self.now - limits.window[0] >= SECOND_NS:
            limits.window = [self.now]
        else:
            limits.window.append(self.now)
        return len(limits.window) <= limits.messages

    def _meets(self, order: Order) -> list[Order]:
        """What rests at prices that an order would trade at."""
        other = self.queue(order.slot, SELL if order.side == BUY else BUY)
        return [o for o in other if (o.price <= order.price if order.side == BUY else o.price >= order.price)]

    def _refusal(self, kind: str, order: Order, old: Order | None) -> str:
        limits, terms = self.limits[order.account], self.terms[order.slot]
        ledger = self.ledgers[order.account][order.slot]
        mine = [o for o in self.resting if (o.account, o.slot) == (order.account, order.slot) and o is not old]
        working = sum(o.left for o in mine if o.side == order.side)
        meets = self._meets(order)
        sign = 1 if order.side == BUY else -1
        at_most = max([order.price] + [o.price for o in meets if order.side == SELL])
        if limits.killed:
            return "killed"
        if order.left <= 0 or order.left > limits.order_size * terms.lot or order.left % terms.lot:
            return "size"
        if order.price <= 0 or order.price == 2**63 - 1 or order.price % terms.tick:
            return "price"
        if sign * (order.price - terms.last_trade) > terms.band:
            return "band"
        if self.worth(order.slot, at_most, order.left) > limits.notional:
            return "notional"
        if sign * ledger.position + working + order.left > limits.position * terms.lot:
            return "position"
        if len(mine) >= limits.open_orders:
            return "open"
        if ledger.full:
            return "ledger"
        if kind == "post_only" and meets:
            return "cross"
        if kind == "fok" and not self._fills_whole(order, meets):
            return "fok"
        return ""

    def _fills_whole(self, order: Order, meets: list[Order]) -> bool:
        needed = order.left
        for other in meets[:MATCHES_MAX]:
            if other.account == order.account or self.ledgers[other.account][other.slot].full:
                return False
            needed -= other.left
            if needed <= 0:
                return True
        return False

    def _cancel(self, order: Order, reason: str) -> None:
        self.resting.remove(order)
        self.say("cancelled", order, reason)

    def _match(self, kind: str, order: Order) -> None:
        """Let an accepted order meet what rests, then rest or end."""
        ended = ""
        for met, other in enumerate(self._meets(order)):
            if not order.left:
                break
            if met == MATCHES_MAX:
                ended = "matches"
                break
            if other.account == order.account:
                if not self._prevent(order, other):
                    ended = "own"
                    break
            elif self.ledgers[other.account][other.slot].full:
                self._cancel(other, "ledger")
            else:
                self._trade(order, other, min(order.left, other.left))
        if not order.left:
            return
        if ended or kind in ("ioc", "fok", "market"):
            self.say("cancelled", order, ended)
        elif len(self.resting) >= self.capacity:
            self.say("cancelled", order, "room")
        else:
            self.resting.append(order)

    def _prevent(self, order: Order, own: Order) -> bool:
        """Keep an account from trading with itself; whether its new order goes on."""
        policy = self.limits[order.account].self_match
        if policy == "cancel_newest":
            return False
        if policy in ("cancel_oldest", "cancel_both"):
            self._cancel(own, "own")
            return policy == "cancel_oldest"
        both = min(order.left, own.left)
        if own.left == both:
            self._cancel(own, "own")
        else:
            own.left -= both
            self.say("accepted", own, "own", replaced=own.order_id)
        if order.left == both:
            return False
        order.left -= both
        self.say("accepted", order, "own", replaced=order.order_id)
        return True

    def _trade(self, order: Order, resting: Order, size: int) -> None:
        """One match at the resting order's price."""
        self.matches += 1
        price, slot = resting.price, order.slot
        self.terms[slot].last_trade = price
        for role, mine, counter in (("maker", resting, order), ("taker", order, resting)):
            value = self.worth(slot, price, size)
            fee = half_away(Fraction(value * self.fees[role], 1_000_000))
            ledger = self.ledgers[mine.account][slot]
            ledger.book(mine.side, size, value, fee, lambda part: self.worth(slot, price, part))
            self.records.append(
                ("fill", role, mine.order_id, mine.side, price, size, fee, counter.order_id, mine.account,
                 ledger.position, ledger.cash, self.matches)
            )  # fmt: skip
            mine.left -= size
        if not resting.left:
            self.resting.remove(resting)

    def cancel_account(self, account: int) -> None:
        """Cancel all that rests of an account, by instrument, side, price and age."""
        self.ordinal += 1
        for slot in range(len(self.terms)):
            for side in (BUY, SELL):
                for order in self.queue(slot, side):
                    if order.account == account:
                        self._cancel(order, "")
