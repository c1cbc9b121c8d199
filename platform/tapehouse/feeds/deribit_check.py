"""Deribit's tickers against its books and against Black's formula.

A ticker and the change of the book that caused it bear one time and come in any order, so a ticker is held against the
book behind the last change that is not later than it. Beside that, the forward and the volatility of each option's
ticker must give the delta that the venue states, to the rounding of its fifth decimal, and about its mark price.

Source: F. Black, "The pricing of commodity contracts" (1976); Deribit's are multiples of the underlying, undiscounted.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from tapehouse.core import detmath
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.capture import Message
from tapehouse.feeds.capture_check import HISTORY_MAX, Best, LevelsByPrice
from tapehouse.feeds.capture_feed import CaptureFeed
from tapehouse.feeds.checking import Check
from tapehouse.market import OPTION_EXTENSION, Cells, Instrument, Kind

DELTA_TOLERANCE = 2e-5  # the venue rounds delta to 1e-5 and the volatility to 1e-4
MARK_TOLERANCE = 5e-4  # deep in the money the venue's mark departs from its own volatility's price by half of this
_YEAR_NS = 365 * 86_400 * 1_000_000_000
_VOLATILITY_UNIT = 1e-9


class _Greeks(msgspec.Struct):
    delta: float


class _Data(msgspec.Struct):
    greeks: _Greeks | None = None


class _Parameters(msgspec.Struct):
    data: _Data


class _Ticker(msgspec.Struct):
    params: _Parameters


_TICKER = msgspec.json.Decoder(_Ticker)


class TickersOfDeribit:
    """See the module."""

    def __init__(self, feed: CaptureFeed, check: Check) -> None:
        self._check = check
        self._instruments = {item.id: item for item in feed.instruments}
        by_symbol = {item.symbol: item.id for item in feed.instruments}
        self._book_of = {item.id: by_symbol.get(item.symbol.partition("@")[0], 0) for item in feed.instruments}
        self._waiting: dict[int, deque[tuple[int, Best, str]]] = {}
        self._books: dict[int, LevelsByPrice] = {}
        self._best: dict[int, Best] = {}
        self._tickers = self._of_books = 0

    def see(self, message: Message, cells: Cells, books: dict[int, LevelsByPrice]) -> None:
        """Take tickers, and judge those that a change of the book leaves behind."""
        self._books = books
        if not len(cells):
            return
        kind, instrument, ts_event = (int(cells[name][0]) for name in ("kind", "instrument", "ts_event"))
        where = f"{message.file}, line {message.line}: {self._instruments[instrument].symbol}"
        if kind == Kind.MBP:
            self._judge(instrument, ts_event)
        elif kind in (Kind.QUOTE, Kind.OPTION_QUOTE):
            self._tickers += 1
            told = [0 if price == UNDEFINED else price for price in cells["price"][:2].tolist()]
            sizes = cells["size"][:2].tolist()
            waiting = self._waiting.setdefault(self._book_of[instrument], deque(maxlen=HISTORY_MAX))
            waiting.append((ts_event, (told[0], sizes[0], told[1], sizes[1]), where))
            if kind == Kind.OPTION_QUOTE:
                self._greeks(self._instruments[instrument], cells, message, where)

    def changed(self, message: Message, instrument: int, sequence: int, ts_event: int, best: Best) -> None:
        """Nothing: `see` comes before each change."""

    def end(self) -> dict[str, int]:
        """Judge what waits."""
        for instrument in list(self._waiting):
            self._judge(instrument, UNDEFINED)
        return {"tickers": self._tickers, "tickers_of_books": self._of_books}

    def _judge(self, instrument: int, before: int) -> None:
        waiting = self._waiting.get(instrument)
        book = self._books.get(instrument)
        while waiting and waiting[0][0] < before:
            _, told, where = waiting.popleft()
            if book is not None:
                self._of_books += 1
                self._check.compare(f"{where}: best", told, book.best())

    def _greeks(self, option: Instrument, cells: Cells, message: Message, where: str) -> None:
        told = cells[2:].view(OPTION_EXTENSION)[0]
        stated = _TICKER.decode(message.body).params.data.greeks
        values = [int(told[name]) for name in ("forward", "mark", "mark_volatility")]
        years = (option.expiry_ns - int(cells["ts_event"][0])) / _YEAR_NS
        if stated is None or UNDEFINED in values or years <= 0 or min(values) <= 0:
            return
        forward, mark, volatility = values
        delta, price = black(forward / option.strike, volatility * _VOLATILITY_UNIT * detmath.sqrt(years), option.right)
        self._within(f"{where}: delta", stated.delta, delta, DELTA_TOLERANCE)
        self._within(f"{where}: mark price", mark * 10.0**option.price_exponent, price, MARK_TOLERANCE)

    def _within(self, where: str, found: float, expected: float, tolerance: float) -> Any:
        self._check.compared += 1
        if not abs(found - expected) <= tolerance:
            self._check.mismatch(f"{where}: {found}, not {expected:.6f}")


def black(ratio: float, deviation: float, right: str) -> tuple[float, float]:
    """Delta, and the price as a multiple of the forward, of an undiscounted option.

    Args:
        ratio: Forward over strike.
        deviation: Volatility times sqrt(years), positive.
    """
    d1 = float(detmath.log(ratio)) / deviation + deviation / 2
    delta, weight = float(detmath.normal_cdf(d1)), float(detmath.normal_cdf(d1 - deviation))
    if right == "P":
        delta, weight = delta - 1, weight - 1
    return delta, delta - weight / ratio
