"""The slow, obvious measures and flows: whole levels, fractions, every sample visited one by one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

from tapehouse.book.reference import ReferenceBooks
from tapehouse.core import UNDEFINED
from tapehouse.market import Action, Cells, Flag, Kind, Side

Levels = list[tuple[int, int, int]]  # price, size, orders; best first


def measures_of(bids: Levels, asks: Levels, *, levels: int, bps: int) -> dict[str, Any]:
    """Every measure of a book, None where a side that it needs is empty."""
    found: dict[str, Any] = {
        "bid": bids[0][0] if bids else None,
        "ask": asks[0][0] if asks else None,
        "bid_size": bids[0][1] if bids else 0,
        "ask_size": asks[0][1] if asks else 0,
        "bid_orders": bids[0][2] if bids else 0,
        "ask_orders": asks[0][2] if asks else 0,
        "bid_depth": sum(size for _, size, _ in bids[:levels]),
        "ask_depth": sum(size for _, size, _ in asks[:levels]),
        "spread": None,
        "mid": None,
        "microprice": None,
        "bid_near": 0,
        "ask_near": 0,
    }
    found["imbalance"] = _imbalance(found["bid_size"], found["ask_size"])
    found["depth_imbalance"] = _imbalance(found["bid_depth"], found["ask_depth"])
    if bids and asks:
        (bid, bid_size, _), (ask, ask_size, _) = bids[0], asks[0]
        mid = Fraction(bid + ask, 2)
        found["spread"], found["mid"] = ask - bid, mid
        found["microprice"] = Fraction(bid * ask_size + ask * bid_size, bid_size + ask_size)
        reach = abs(mid) * bps / 10_000
        found["bid_near"] = sum(size for price, size, _ in bids if price >= mid - reach)
        found["ask_near"] = sum(size for price, size, _ in asks if price <= mid + reach)
    return found


def _imbalance(bid: int, ask: int) -> Fraction | None:
    return Fraction(bid - ask, bid + ask) if bid + ask else None


def slope(points: Iterable[tuple[Fraction, Fraction]]) -> Fraction | None:
    """The least-squares slope, None where all x are equal."""
    points = list(points)
    n = len(points)
    if not n:
        return None
    mean_x, mean_y = sum(x for x, _ in points) / Fraction(n), sum(y for _, y in points) / Fraction(n)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else None


def signed(letter: int, price: int, mid: Fraction | None, before: list[int]) -> int:
    """1 of a buyer, -1 of a seller, 0 where nothing tells; `before` are the prices of the trades before."""
    if letter in (Side.BID, Side.ASK):
        return 1 if letter == Side.BID else -1
    if mid is not None and price != mid:
        return 1 if price > mid else -1
    prices = [*before, price]
    for earlier, later in reversed(list(pairwise(prices))):
        if earlier != later:
            return 1 if later > earlier else -1
    return 0


@dataclass
class Interval:
    """What happened in one."""

    begin: int
    confidence: int = 0
    records: int = 0
    flow: int = 0
    trades: list[tuple[int, int, int]] = field(default_factory=list)  # price, size, sign
    mid_time: Fraction = Fraction(0)  # the mid x ns
    mid_ns: int = 0
    returns: list[float] = field(default_factory=list)
    points: list[tuple[Fraction, Fraction]] = field(default_factory=list)
    taken: int = 0
    restored: int = 0


class FlowOracle:
    """One instrument."""

    def __init__(self, books: ReferenceBooks, slot: int, *, every: int, sample: int, recovery: int) -> None:
        self.books, self.slot = books, slot
        self.every, self.sample, self.recovery = every, sample, recovery
        self.at: int | None = None  # all moments before it are done
        self.interval = Interval(0)
        self.ended: list[tuple[Interval, int, Levels, Levels]] = []
        self.top: tuple[int | None, int, int | None, int] = (None, 0, None, 0)
        self.retold, self.by_book, self.source = True, False, 0
        self.mid: Fraction | None = None
        self.last_mid: Fraction | None = None  # of a sample that had one
        self.sample_mid: Fraction | None = None
        self.sample_volume = 0
        self.prices: list[int] = []
        self.waiting: list[tuple[int, int, int, int, int]] = []

    def advance(self, now: int) -> None:
        """Visit every moment up to and at `now`; the interval that holds it has begun."""
        if self.at is None:
            self.at = now
            self.interval = Interval(now // self.every * self.every, self.books.confidence[self.slot])
            return
        while self.at < now:
            moments = [(self.at // step + 1) * step for step in (self.sample, self.every)]
            moment = min(now, *moments, *(wait[0] for wait in self.waiting))
            if self.mid is not None:
                self.interval.mid_time += self.mid * (moment - self.at)
                self.interval.mid_ns += moment - self.at
            self.at = moment
            self._moment(moment)

    def _moment(self, now: int) -> None:
        for wait in [wait for wait in self.waiting if wait[0] == now]:
            _, side, price, before, taken = wait
            sizes = {price: size for price, size, _ in self.books.levels(self.slot, side)}
            self.interval.taken += taken
            self.interval.restored += min(max(sizes.get(price, 0) - (before - taken), 0), taken)
            self.waiting.remove(wait)
        if now % self.sample == 0:
            if self.mid is not None:
                if self.last_mid is not None and self.last_mid > 0 and self.mid > 0:
                    self.interval.returns.append(math.log(self.mid / self.last_mid))
                if self.sample_mid is not None:
                    self.interval.points.append((Fraction(self.sample_volume), self.mid - self.sample_mid))
                self.last_mid = self.mid
            self.sample_mid, self.sample_volume = self.mid, 0
        if now % self.every == 0:
            self.end(now)

    def end(self, now: int) -> None:
        """Keep the interval, and begin the next."""
        sides = [self.books.levels(self.slot, side) for side in range(2)]
        self.ended.append((self.interval, now, sides[0], sides[1]))
        self.interval = Interval(now, self.books.confidence[self.slot])

    def take(self, cells: Cells, row: int, now: int) -> None:
        """One record, after `advance`."""
        cell = cells[row]
        kind, action, flags = int(cell["kind"]), int(cell["action"]), int(cell["flags"])
        self.source = int(cell["source"])
        self.interval.records += 1
        if kind == Kind.TRADE or (kind in (Kind.MBO, Kind.MBP) and action == Action.TRADE):
            self._trade(int(cell["side"]), int(cell["price"]), int(cell["size"]), now)
        elif kind in (Kind.MBO, Kind.MBP) or (kind == Kind.QUOTE and not self.by_book):
            if kind != Kind.QUOTE and not self.by_book:
                self.by_book = self.retold = True
                book = self.books.books[self.slot]
                assert book is not None
                book.clear()
            if action == Action.CLEAR or flags & Flag.SNAPSHOT:
                self.retold = True
            self.books.apply(self.slot, cells, row)
        if flags & Flag.LAST:
            self._look()

    def _trade(self, letter: int, price: int, size: int, now: int) -> None:
        if abs(price) > 2**61 or not 0 < size < UNDEFINED:
            return
        sign = signed(letter, price, self.mid, self.prices)
        self.prices.append(price)
        self.interval.trades.append((price, size, sign))
        self.sample_volume += sign * size
        side = 1 if sign == 1 else 0
        before = {at: there for at, there, _ in self.books.levels(self.slot, side)}.get(price, 0)
        if sign and before:
            self.waiting.append((now + self.recovery, side, price, before, min(size, before)))

    def _look(self) -> None:
        bids, asks = (self.books.levels(self.slot, side) for side in range(2))
        bid, bid_size = bids[0][:2] if bids else (None, 0)
        ask, ask_size = asks[0][:2] if asks else (None, 0)
        before = self.top
        self.top = (bid, bid_size, ask, ask_size)
        if not self.retold and self.top != before:
            worst = -math.inf
            bid_then, bid_now = (worst if price is None else price for price in (before[0], bid))
            ask_then, ask_now = (-worst if price is None else price for price in (before[2], ask))
            self.interval.flow += bid_size * (bid_now >= bid_then) - before[1] * (bid_now <= bid_then)
            self.interval.flow += before[3] * (ask_now >= ask_then) - ask_size * (ask_now <= ask_then)
        self.retold = False
        self.mid = Fraction(bid + ask, 2) if bid is not None and ask is not None and bid <= ask else None


def fold(
    books: ReferenceBooks, cells: Cells, slots: list[int], *, every: int, sample: int, recovery: int
) -> list[FlowOracle]:
    """Fold a whole stream, and end it at its last moment; one oracle to a slot.

    Args:
        slots: The slot of each instrument id.
    """
    oracles = [
        FlowOracle(books, slot, every=every, sample=sample, recovery=recovery) for slot in range(len(books.books))
    ]
    now = -(2**62)
    for row, cell in enumerate(cells):
        if cell["cells"] == 0:
            continue
        now = max(now, int(cell["ts_recv"]))
        if cell["kind"] == Kind.GAP:
            confidence = int(cell["depth"])
            for oracle in oracles:
                said = int(cell["source"]) == 0 or oracle.source in (0, int(cell["source"]))
                if slots[int(cell["instrument"])] == oracle.slot if cell["instrument"] else said:
                    if oracle.at is not None:
                        oracle.advance(now)
                    books.set_confidence(oracle.slot, confidence)
                    oracle.interval.confidence = max(oracle.interval.confidence, confidence)
        elif cell["kind"] in (Kind.MBO, Kind.MBP, Kind.QUOTE, Kind.TRADE):
            oracle = oracles[slots[int(cell["instrument"])]]
            oracle.advance(now)
            oracle.take(cells, row, now)
    for oracle in oracles:
        if oracle.at is not None:
            oracle.advance(now)
            if now > oracle.interval.begin or oracle.interval.records:
                oracle.end(now)
    return oracles


def bars_of(trades: list[tuple[int, int, int, int]], by: str, size: int) -> list[dict[str, Any]]:
    """Bars of (time, price, size, sign), the last one cut short."""
    groups: list[list[tuple[int, int, int, int]]] = []
    full = True
    for trade in trades:
        if full or (by == "time" and trade[0] // size != groups[-1][0][0] // size):
            groups.append([])
        groups[-1].append(trade)
        group = groups[-1]
        full = {
            "time": False,
            "tick": len(group) >= size,
            "volume": sum(volume for _, _, volume, _ in group) >= size,
            "dollar": sum(price * volume for _, price, volume, _ in group) >= size,
        }[by]
    return [
        {
            "begin": group[0][0] // size * size if by == "time" else group[0][0],
            "end": group[0][0] // size * size + size if by == "time" else group[-1][0],
            "open": group[0][1],
            "high": max(price for _, price, _, _ in group),
            "low": min(price for _, price, _, _ in group),
            "close": group[-1][1],
            "volume": sum(volume for _, _, volume, _ in group),
            "trades": len(group),
            "buy": sum(volume for _, _, volume, sign in group if sign > 0),
            "sell": sum(volume for _, _, volume, sign in group if sign < 0),
            "notional": sum(price * volume for _, price, volume, _ in group),
        }
        for group in groups
    ]
