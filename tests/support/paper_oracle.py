"""A slow paper exchange of limit orders alone, one instrument of it: part of the oracle of whole desks.

It knows less than `tapehouse.desk.reference` and shares nothing with it but the rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

from tapehouse.desk.reference import half_away

BUY, SELL = 0, 1
GTC, IOC, POST_ONLY = 0, 1, 2
LADDER = 8

Levels = Callable[[int], list[tuple[int, int]]]  # side -> [(price, size)], best first


@dataclass
class WorkingOrder:
    """One resting order."""

    order_id: int
    side: int
    price: int
    left: int
    ahead: int


@dataclass
class PaperMarket:
    """One account in one instrument; what rests is kept by side, price and age."""

    levels: Levels
    money_exponent: int
    maker_fee_ppm: int
    taker_fee_ppm: int
    multiplier: int = 1
    working: list[WorkingOrder] = field(default_factory=list)
    position: int = 0
    cash: int = 0
    fees: int = 0
    cost: int = 0
    realised: int = 0
    fills: list[tuple[int, int, int]] = field(default_factory=list)  # order id, price, size

    def notional(self, price: int, size: int) -> int:
        """price x size x multiplier in the currency's unit."""
        return half_away(Fraction(price * size * self.multiplier) * Fraction(10) ** self.money_exponent)

    def best(self, side: int) -> int | None:
        """The best displayed price of a side."""
        levels = self.levels(side)
        return levels[0][0] if levels else None

    def shown(self, side: int, price: int) -> int:
        """The displayed size at a price."""
        return dict(self.levels(side)).get(price, 0)

    def fill(self, order_id: int, side: int, price: int, size: int, fee_ppm: int) -> None:
        """Book one fill at average cost."""
        value = self.notional(price, size)
        fee = half_away(Fraction(value * fee_ppm, 1_000_000))
        sign = 1 if side == BUY else -1
        if self.position * sign >= 0:
            self.cost += sign * value
        else:
            closed = min(size, abs(self.position))
            closed_value = self.notional(price, closed)
            whole = closed == abs(self.position)
            released = self.cost if whole else half_away(Fraction(self.cost * closed, abs(self.position)))
            self.realised += -sign * closed_value - released
            self.cost += -released + sign * (value - closed_value)
        self.position += sign * size
        self.cash -= sign * value + fee
        self.fees += fee
        self.fills.append((order_id, price, size))

    def submit(self, order_id: int, side: int, price: int, size: int, time_in_force: int) -> bool:
        """Decide on an order whose static limits hold; False where a post-only order would trade."""
        against = [
            (level, shown)
            for level, shown in self.levels(1 - side)
            if (level <= price if side == BUY else level >= price)
        ]
        if time_in_force == POST_ONLY and against:
            return False
        left = size
        for level, shown in against[:LADDER]:
            take = min(shown, left)
            if take:
                self.fill(order_id, side, level, take, self.taker_fee_ppm)
            left -= take
        if left and time_in_force != IOC:
            self.working.append(WorkingOrder(order_id, side, price, left, self.shown(side, price)))
            self.working.sort(key=lambda o: (o.side, -o.price if o.side == BUY else o.price, o.order_id))
        return True

    def cancel_side(self, side: int) -> None:
        """Cancel everything that rests on one side."""
        self.working = [order for order in self.working if order.side != side]

    def trade(self, price: int, size: int, aggressor: int | None) -> None:
        """A trade printed; `aggressor` is its side, None where unknown."""
        left = size
        for order in list(self.working):
            if left <= 0 or order.side == aggressor:
                continue
            beyond = price < order.price if order.side == BUY else price > order.price
            reach = 0
            if beyond:
                reach = left
            elif price == order.price and aggressor is not None:
                reach = left - order.ahead
                order.ahead = max(0, order.ahead - left)
            if reach > 0:
                left -= self._rest_fill(order, min(order.left, reach))

    def liquidity(self, side: int, price: int, size: int) -> None:
        """New size was displayed on a side."""
        left = size
        for order in list(self.working):
            crossed = order.side != side and (price <= order.price if side == SELL else price >= order.price)
            if left > 0 and crossed:
                left -= self._rest_fill(order, min(order.left, left))

    def shrink(self) -> None:
        """No queue ahead is longer than its level."""
        for order in self.working:
            order.ahead = min(order.ahead, self.shown(order.side, order.price))

    def _rest_fill(self, order: WorkingOrder, size: int) -> int:
        self.fill(order.order_id, order.side, order.price, size, self.maker_fee_ppm)
        order.left -= size
        if order.left == 0:
            self.working.remove(order)
        return size
