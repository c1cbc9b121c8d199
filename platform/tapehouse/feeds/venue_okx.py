"""OKX's public websocket API, version 5: the channels `books`, `trades` and `tickers`.

Source: OKX's public API documentation, version 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from tapehouse.feeds.capture_check import check_capture
from tapehouse.feeds.capture_feed import CaptureFeed, open_capture
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.session import Endpoint
from tapehouse.feeds.venue_books import ChannelSession, Envelope, quote
from tapehouse.feeds.venue_events import TradeMessage, VenueMessage
from tapehouse.feeds.venue_fields import MILLISECOND_NS, Id, Millis
from tapehouse.market import Instrument

ENDPOINTS = {"": Endpoint(websocket="wss://ws.okx.com:8443/ws/v5/public")}


class _Trade(msgspec.Struct, rename={"number": "tradeId"}):
    number: Id
    px: str
    sz: str
    side: str
    ts: Millis


class _Ticker(msgspec.Struct, rename={"ask": "askPx", "ask_size": "askSz", "bid": "bidPx", "bid_size": "bidSz"}):
    ask: str
    ask_size: str
    bid: str
    bid_size: str
    ts: Millis


_TRADES = msgspec.json.Decoder(list[_Trade], strict=False)
_TICKERS = msgspec.json.Decoder(list[_Ticker], strict=False)


class OkxSession(ChannelSession):
    """One connection."""

    VENUE = "OKX"
    PING_NS = 25_000_000_000  # the venue closes a connection that is quiet for 30 s
    BOOK_CHANNELS = frozenset(("books", "books-l2-tbt", "books50-l2-tbt"))

    def decode_data(self, envelope: Envelope, symbol: str) -> list[VenueMessage]:
        """Trades and tickers."""
        scale = self.scale(symbol)
        if envelope.arg.channel == "tickers":
            return [
                quote(scale, "tickers", item.ts, item.bid, item.bid_size, item.ask, item.ask_size)
                for item in _TICKERS.decode(envelope.data)
            ]
        if envelope.arg.channel != "trades":
            return []
        return [
            TradeMessage(
                symbol=symbol,
                ts_event=trade.ts * MILLISECOND_NS,
                number=trade.number,
                price=scale.price(trade.px),
                size=scale.size(trade.sz),
                bought={"buy": True, "sell": False}.get(trade.side),
            )
            for trade in _TRADES.decode(envelope.data)
        ]

    def arguments(self, symbol: str) -> list[dict[str, str]]:
        """Book and trades."""
        return [{"channel": channel, "instId": symbol} for channel in ("books", "trades")]

    def guess(self, symbol: str) -> Instrument:
        """`BTC-USDT` is a pair; with a third part it is a future, and of five parts an option."""
        parts = symbol.split("-")
        kind = {2: "crypto", 5: "option"}.get(len(parts), "future")
        return replace(super().guess(symbol), asset_class=kind, currency=parts[1] if len(parts) > 1 else "USD")


def open_files(paths: Sequence[Path], options: SourceOptions) -> CaptureFeed:
    """The feed over the files of one recording."""
    return open_capture(OkxSession, paths, options)


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """Every book's checksum."""
    return check_capture(OkxSession, paths, options, primary="checksums")
