"""The slow, obvious ledger: the oracle that `ledger.py` is held against.

Every account keeps a list of the lots that it bought or sold, in Python's integers and fractions. Average cost is one
lot that everything joins; netting closes the other leg before it opens its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from tapehouse.desk.reference import half_away

BUY, SELL = 0, 1


@dataclass
class ReferenceLedger:
    """One account in one instrument."""

    hedging: bool
    fifo: bool
    multiplier: int
    money_exponent: int
    lots_max: int
    lots: dict[int, list[list[int]]] = field(default_factory=lambda: {BUY: [], SELL: []})  # [size, cost], oldest first
    cash: int = 0
    fees: int = 0
    realised: int = 0
    fills: int = 0
    volume: int = 0

    def worth(self, price: int, size: int) -> int:
        """price x size x multiplier in the currency's unit."""
        return half_away(Fraction(price * size * self.multiplier) * Fraction(10) ** self.money_exponent)

    def held(self, side: int) -> int:
        """How much a leg holds."""
        return sum(size for size, _ in self.lots[side])

    def cost(self, side: int) -> int:
        """What a leg cost; negative of a short one."""
        return sum(cost for _, cost in self.lots[side])

    def closable(self, side: int) -> int:
        """How much an order on a side could close."""
        return self.held(1 - side)

    def trade(self, side: int, price: int, size: int, fee: int, *, closing: bool) -> None:
        """Book a trade; `closing` says whether a hedging account closes its other leg with it."""
        sign = 1 if side == BUY else -1
        closed = min(size, self.closable(side)) if closing or not self.hedging else 0
        value, closed_value = self.worth(price, size), self.worth(price, closed)
        if closed == size:
            closed_value = value
        self.realised -= sign * closed_value + self._release(1 - side, closed)
        if size > closed:
            self._open(side, size - closed, sign * (value - closed_value))
        self.cash -= sign * value + fee
        self.fees += fee

    def fill(self, side: int, price: int, size: int, fee: int, *, closing: bool) -> None:
        """A trade that an order led to."""
        self.trade(side, price, size, fee, closing=closing)
        self.fills += 1
        self.volume += size

    def _release(self, side: int, size: int) -> int:
        released = 0
        while size:
            oldest = self.lots[side][0]
            part = min(size, oldest[0])
            share = oldest[1] if part == oldest[0] else half_away(Fraction(oldest[1] * part, oldest[0]))
            oldest[0] -= part
            oldest[1] -= share
            released += share
            size -= part
            if not oldest[0]:
                self.lots[side].pop(0)
        return released

    def _open(self, side: int, size: int, cost: int) -> None:
        lots = self.lots[side]
        if lots and (not self.fifo or len(lots) == self.lots_max):
            lots[-1][0] += size
            lots[-1][1] += cost
        else:
            lots.append([size, cost])
