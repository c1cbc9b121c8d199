"""The lines of a Bitstamp order log: `<local ms> <event> <json>`, and the book that its order events build.

Orders' prices and amounts are strings of decimals; a trade's are floats printed with 17 digits, of which only 8
decimals are meant, so those are rounded. `datetime` is when an order was made, in every message about it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from tapehouse.core.errors import DataError, DecodeError
from tapehouse.core.units import to_fixed
from tapehouse.feeds.packed_files import PackedFile, lines_of

PRICE_EXPONENT, SIZE_EXPONENT = -9, -8
LEVELS = 20  # of each side in an order_book line, at most
ORDERS_MAX = 1 << 20  # live at a time; Bitstamp has some thousands
CREATED, CHANGED, DELETED, TRADE, BOOK = "order_created", "order_changed", "order_deleted", "trade", "order_book"
BID, ASK = 0, 1
_LINE = re.compile(rb"(\d{1,15}) (order_created|order_changed|order_deleted|trade|order_book) (\{.*\})", re.DOTALL)
_ID_MAX = 2**63 - 1
_TRADE_UNIT = Decimal("1e-8")
_NS_PER_MS = 1_000_000
_NUMBER_BYTES_MAX = 40
_NUMBERS_KEPT = 1 << 15  # a level is repeated in many order_book lines

Level = tuple[int, int]  # price, size


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One line. `side`, `created_s` are of orders, `bids` and `asks` of books, best first."""

    line: int
    ts_recv: int
    event: str
    id: int = 0
    side: int = 0
    price: int = 0
    size: int = 0
    created_s: int = 0
    bids: tuple[Level, ...] = ()
    asks: tuple[Level, ...] = ()


def messages_of(path: Path) -> Iterator[Message]:
    """Every line of a log.

    Raises:
        MissingError: There is no such file.
        DecodeError: A line is none of a log; all before it were yielded.
    """
    with PackedFile(path) as file:
        number = 0
        for number, line in lines_of(file, file.title):
            try:
                yield parse_line(line, number)
            except DataError as error:
                text = line[:60].decode("ascii", "replace")
                raise DecodeError(
                    f"{error.message}: {text!r}",
                    subject=file.title,
                    position=f"line {number}",
                    hint="a line is `<local ms> <event> <json>`",
                ) from error
        if number == 0:
            raise DecodeError("the file is empty", subject=file.title, hint="download it again")


def parse_line(line: bytes, number: int) -> Message:
    """One line; raises DataError that says what is wrong with it."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise DataError("no line of a Bitstamp order log")
    ts_recv, event = int(match[1]) * _NS_PER_MS, match[2].decode()
    try:
        body = json.loads(match[3], parse_float=Decimal)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise DataError("its JSON is broken") from error
    if event == BOOK:
        bids, asks = _levels(body, "bids"), _levels(body, "asks")
        return Message(line=number, ts_recv=ts_recv, event=event, bids=bids, asks=asks)
    own = _integer(body, "id")
    if event == TRADE:
        price, size = _rounded(body, "price", PRICE_EXPONENT), _rounded(body, "amount", SIZE_EXPONENT)
        return Message(line=number, ts_recv=ts_recv, event=event, id=own, price=price, size=size)
    side = body.get("order_type")
    if type(side) is not int or side not in (BID, ASK):
        raise DataError("its order_type is neither 0 nor 1")
    created = body.get("datetime")
    if not isinstance(created, str) or not created.isascii() or not created.isdigit() or len(created) > 12:
        raise DataError("its datetime is no number of seconds")
    return Message(
        line=number,
        ts_recv=ts_recv,
        event=event,
        id=own,
        side=side,
        price=_fixed(body.get("price"), PRICE_EXPONENT),
        size=_fixed(body.get("amount"), SIZE_EXPONENT),
        created_s=int(created),
    )


def _integer(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if type(value) is not int or not 0 < value <= _ID_MAX:
        raise DataError(f"its {name} is no id")
    return value


def _fixed(value: Any, exponent: int) -> int:
    if not isinstance(value, str) or len(value) > _NUMBER_BYTES_MAX:
        raise DataError("a price or an amount is no short string")
    return _fixed_text(value, exponent)


@lru_cache(maxsize=_NUMBERS_KEPT)
def _fixed_text(value: str, exponent: int) -> int:
    fixed = to_fixed(value, exponent)
    if fixed < 0 or (fixed == 0 and exponent == PRICE_EXPONENT):
        raise DataError("a price or an amount is negative, or a price is 0")
    return fixed


def _rounded(body: dict[str, Any], name: str, exponent: int) -> int:
    value = body.get(name)
    if type(value) is int:
        value = Decimal(value)
    if not isinstance(value, Decimal) or not value.is_finite() or not 0 < value < 10**10:
        raise DataError(f"its {name} is no number above 0")
    return to_fixed(value.quantize(_TRADE_UNIT, ROUND_HALF_EVEN), exponent)


def _levels(body: dict[str, Any], name: str) -> tuple[Level, ...]:
    found = body.get(name)
    if not isinstance(found, list) or len(found) > LEVELS:
        raise DataError(f"its {name} are no list of at most {LEVELS} levels")
    levels = []
    for item in found:
        if not isinstance(item, list) or len(item) != 2:
            raise DataError(f"one of its {name} is no [price, amount]")
        levels.append((_fixed(item[0], PRICE_EXPONENT), _fixed(item[1], SIZE_EXPONENT)))
    return tuple(levels)


class OrderBook:
    """Live orders by id, and levels by price kept sorted: side 0 bids, side 1 asks."""

    def __init__(self) -> None:
        self.orders: dict[int, tuple[int, int, int]] = {}  # id: side, price, size
        self._sizes: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self._prices: tuple[list[int], list[int]] = ([], [])

    def put(self, order: int, side: int, price: int, size: int) -> None:
        """Set an order, new or known; size 0 removes it."""
        old = self.orders.pop(order, None)
        if old is not None:
            self._change(old[0], old[1], -old[2])
        if size > 0:
            self.orders[order] = (side, price, size)
            self._change(side, price, size)

    def _change(self, side: int, price: int, delta: int) -> None:
        sizes, prices = self._sizes[side], self._prices[side]
        before = sizes.get(price, 0)
        if before + delta:
            sizes[price] = before + delta
            if not before:
                insort(prices, price)
        else:
            del sizes[price]
            del prices[bisect_left(prices, price)]

    def top(self, levels: int) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
        """The best bids and asks, best first."""
        bids, asks = self._prices[BID][: -levels - 1 : -1], self._prices[ASK][:levels]
        return (
            tuple((price, self._sizes[BID][price]) for price in bids),
            tuple((price, self._sizes[ASK][price]) for price in asks),
        )

    @property
    def crossed(self) -> bool:
        """Whether the best bid reaches the best ask."""
        bids, asks = self._prices
        return bool(bids and asks and bids[-1] >= asks[0])
