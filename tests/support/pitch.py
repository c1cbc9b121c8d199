"""PITCH lines by hand, and a slow decoder of them to hold the kernels against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tapehouse.market import Action, Flag, Kind, Side

UNDEFINED = 2**63 - 1
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LAST = int(Flag.LAST)
Row = tuple[int, ...]


def base36(number: int) -> str:
    text = ""
    for _ in range(12):
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
    return text


def add(time: int, ref: int, side: str, shares: int, symbol: str, price: int, long: str = "") -> str:
    """A line of type A, or of type d where `long` says who."""
    kind, width = ("d", 8) if long else ("A", 6)
    return f"S{time:08}{kind}{base36(ref)}{side}{shares:06}{symbol:{width}}{price:010}Y{long}"


def execute(time: int, ref: int, shares: int, execution: int) -> str:
    return f"S{time:08}E{base36(ref)}{shares:06}{base36(execution)}"


def cancel(time: int, ref: int, shares: int) -> str:
    return f"S{time:08}X{base36(ref)}{shares:06}"


def trade(
    time: int, ref: int, side: str, shares: int, symbol: str, price: int, execution: int, long: bool = False
) -> str:
    kind, width = ("r", 8) if long else ("P", 6)
    return f"S{time:08}{kind}{base36(ref)}{side}{shares:06}{symbol:{width}}{price:010}{base36(execution)}"


def broken(time: int, execution: int) -> str:
    return f"S{time:08}B{base36(execution)}"


def clear(time: int, symbol: str) -> str:
    return f"S{time:08}s{symbol:8}"


@dataclass
class SlowDecoder:
    """One line after the other, each as tuples of numbers, as `tests.support.itch.COLUMNS`."""

    midnight: int
    sided: bool
    instruments: dict[str, int] = field(default_factory=dict)
    orders: dict[int, list[int]] = field(default_factory=dict)
    latest: int = 0
    unknown_orders: int = 0
    line: int = 0

    def decode(self, lines: Sequence[str]) -> list[Row]:
        return [row for line in lines for row in self.one(line)]

    def one(self, line: str) -> list[Row]:
        self.line += 1
        kind = line[9]
        if kind not in "AdEXPrBs":
            return []
        event = self.midnight + int(line[1:9]) * 10**6
        self.latest = max(self.latest, event)

        def row(
            what: Kind, action: int, side: int, ref: int, price: int, size: int, of: int, *, last: bool = True
        ) -> Row:
            return (event, self.latest, self.line, ref, price, size, of, what, action, side, LAST * last, 0)

        if kind in "AdPr":
            end = 37 if kind in "dr" else 35
            of = self.instruments.setdefault(line[29:end].rstrip(), len(self.instruments) + 1)
            ref, bid, shares = int(line[10:22], 36), line[22] == "B", int(line[23:29])
            price = int(line[end : end + 10]) * 100_000
            if kind in "Pr":
                side = (Side.ASK if bid else Side.BID) if self.sided else Side.NONE
                return [row(Kind.TRADE, Action.TRADE, side, 0, price, shares, of)]
            if ref in self.orders:
                return []
            side = Side.BID if bid else Side.ASK
            self.orders[ref] = [of, side, price, shares]
            return [row(Kind.MBO, Action.ADD, side, ref, price, shares, of)]
        if kind == "s":
            of = self.instruments.setdefault(line[10:18].rstrip(), len(self.instruments) + 1)
            self.orders = {ref: order for ref, order in self.orders.items() if order[0] != of}
            return [row(Kind.MBO, Action.CLEAR, Side.NONE, 0, UNDEFINED, 0, of)]
        if kind == "B":
            return []
        ref, taken = int(line[10:22], 36), int(line[22:28])
        if ref not in self.orders:
            self.unknown_orders += 1
            return []
        of, resting, price, left = self.orders[ref]
        rows = []
        if kind == "E":
            aggressor = Side.ASK if resting == Side.BID else Side.BID
            rows.append(row(Kind.MBO, Action.TRADE, aggressor, 0, price, taken, of, last=False))
            rows.append(row(Kind.MBO, Action.FILL, resting, ref, price, taken, of, last=False))
        rows.append(row(Kind.MBO, Action.CANCEL, resting, ref, price, min(taken, left), of))
        self.orders[ref][3] -= taken
        if self.orders[ref][3] <= 0:
            del self.orders[ref]
        return rows
