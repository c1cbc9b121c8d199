"""Bitget's public websocket API, versions 1 and 2: the channels `books`, `trade` and (version 2) `ticker`.

Source: Bitget's public API documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from tapehouse.core.errors import DecodeError
from tapehouse.feeds.capture_check import check_capture
from tapehouse.feeds.capture_feed import CaptureFeed, open_capture
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.session import Endpoint
from tapehouse.feeds.venue_books import ChannelSession, Envelope, quote
from tapehouse.feeds.venue_events import TradeMessage, VenueMessage
from tapehouse.feeds.venue_fields import MILLISECOND_NS, Millis, quoted_asset
from tapehouse.market import Instrument

ENDPOINTS = {"": Endpoint(websocket="wss://ws.bitget.com/v2/ws/public")}
_NUMBER_MAX = 2**63 - 1


class _Trade(msgspec.Struct, rename={"number": "tradeId"}):
    ts: Millis
    price: str
    size: str
    side: str
    number: str = ""


class _Ticker(msgspec.Struct, rename={"ask": "askPr", "ask_size": "askSz", "bid": "bidPr", "bid_size": "bidSz"}):
    ask: str = ""
    ask_size: str = ""
    bid: str = ""
    bid_size: str = ""
    ts: Millis = 0


_TRADES = msgspec.json.Decoder(list[_Trade | tuple[Millis, str, str, str]], strict=False)
_TICKERS = msgspec.json.Decoder(list[_Ticker], strict=False)


class BitgetSession(ChannelSession):
    """One connection.

    Args:
        market: Bitget's `instType` of the symbols: SPOT, USDT-FUTURES, COIN-FUTURES or USDC-FUTURES.
        options: As `BookSession`.
    """

    VENUE = "BITGET"
    PING_NS = 25_000_000_000
    BOOK_CHANNELS = frozenset(("books",))

    def __init__(self, symbols: tuple[str, ...] = (), *, market: str = "SPOT", **options: Any) -> None:
        super().__init__(symbols, **options)
        self._market = market

    def decode_data(self, envelope: Envelope, symbol: str) -> list[VenueMessage]:
        """Trades as they happen, and tickers that have sizes; trades from before the connection are left out."""
        scale = self.scale(symbol)
        if envelope.arg.channel == "ticker":
            return [
                quote(scale, "ticker", item.ts, item.bid, item.bid_size, item.ask, item.ask_size)
                for item in _TICKERS.decode(envelope.data)
                if item.bid_size or item.ask_size
            ]
        if envelope.arg.channel != "trade" or envelope.action == "snapshot":
            return []
        found: list[VenueMessage] = []
        for item in _TRADES.decode(envelope.data):
            trade = item if isinstance(item, _Trade) else _Trade(*item)
            number = int(trade.number) if trade.number.isdecimal() and len(trade.number) < 20 else 0
            if number > _NUMBER_MAX:
                raise DecodeError("a trade's number is too large", subject=symbol)
            found.append(
                TradeMessage(
                    symbol=symbol,
                    ts_event=trade.ts * MILLISECOND_NS,
                    number=number,
                    price=scale.price(trade.price),
                    size=scale.size(trade.size),
                    bought={"buy": True, "sell": False}.get(trade.side),
                )
            )
        return found

    def arguments(self, symbol: str) -> list[dict[str, str]]:
        """Book and trades."""
        return [{"instType": self._market, "channel": channel, "instId": symbol} for channel in ("books", "trade")]

    def guess(self, symbol: str) -> Instrument:
        """A pair or future, priced in what its spelling ends in."""
        return replace(super().guess(symbol), currency=quoted_asset(symbol))


def open_files(paths: Sequence[Path], options: SourceOptions) -> CaptureFeed:
    """The feed over the files of one recording."""
    return open_capture(BitgetSession, paths, options)


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """Every book's checksum."""
    return check_capture(BitgetSession, paths, options, primary="checksums")
