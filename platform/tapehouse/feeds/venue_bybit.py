"""Bybit's public websocket API, version 5, and its archives of it: the topics `orderbook` and `publicTrade`.

Source: Bybit's public API documentation, version 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
from msgspec import Raw

from tapehouse.core.errors import DecodeError
from tapehouse.feeds.capture_check import check_capture
from tapehouse.feeds.capture_feed import CaptureFeed, open_capture
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.session import Endpoint, Want, Wish
from tapehouse.feeds.venue_events import BookMessage, TradeMessage, VenueMessage
from tapehouse.feeds.venue_fields import MILLISECOND_NS, Id, Millis, quoted_asset
from tapehouse.feeds.venue_session import BookSession
from tapehouse.feeds.venue_state import BookState, Link
from tapehouse.market import Instrument

ENDPOINTS = {
    "spot": Endpoint(websocket="wss://stream.bybit.com/v5/public/spot"),
    "linear": Endpoint(websocket="wss://stream.bybit.com/v5/public/linear"),
    "inverse": Endpoint(websocket="wss://stream.bybit.com/v5/public/inverse"),
}
_DEPTH = 200  # the deepest that all markets have
_ARGUMENTS_PER_MESSAGE = 10  # the venue's limit for spot


class _Message(msgspec.Struct, rename={"answer": "ret_msg"}):
    topic: str = ""
    type: str = ""
    ts: Millis = 0
    cts: Millis = 0
    data: Raw = Raw(b"")
    op: str = ""
    success: bool = True
    answer: str = ""


class _Book(msgspec.Struct):
    s: str
    b: Raw
    a: Raw
    u: Id


class _Trade(msgspec.Struct, rename={"time_ms": "T", "side": "S", "sequence": "seq"}):
    s: str
    time_ms: Millis
    side: str
    v: str
    p: str
    sequence: Id = 0


_MESSAGE = msgspec.json.Decoder(_Message)
_BOOK = msgspec.json.Decoder(_Book)
_TRADES = msgspec.json.Decoder(list[_Trade])


class BybitSession(BookSession):
    """One connection."""

    VENUE = "BYBIT"
    PING = b'{"op":"ping"}'

    def decode(self, body: bytes) -> list[VenueMessage]:
        """Books and trades; other topics and answers say nothing here."""
        message = _MESSAGE.decode(body)
        topic = message.topic.partition(".")[0]
        if topic == "orderbook":
            return [self._book(message)]
        if topic == "publicTrade":
            return [self._trade(trade) for trade in _TRADES.decode(message.data)]
        if not message.success:
            raise DecodeError(f"the venue refuses: {message.answer}", subject=self.VENUE)
        if not topic and not message.op:
            raise DecodeError("it is none of the venue's messages", subject=self.VENUE)
        return []

    def _book(self, message: _Message) -> BookMessage:
        book = _BOOK.decode(message.data)
        if message.type not in ("snapshot", "delta"):
            raise DecodeError(f"a book is neither snapshot nor delta: {message.type!r}", subject=book.s)
        scale = self.scale(book.s)
        return BookMessage(
            symbol=book.s,
            whole=message.type == "snapshot",
            ts_event=(message.cts or message.ts) * MILLISECOND_NS,
            bids=scale.levels(book.b),
            asks=scale.levels(book.a),
            first=book.u,
            last=book.u,
        )

    def _trade(self, trade: _Trade) -> TradeMessage:
        scale = self.scale(trade.s)
        return TradeMessage(
            symbol=trade.s,
            ts_event=trade.time_ms * MILLISECOND_NS,
            number=trade.sequence,
            price=scale.price(trade.p),
            size=scale.size(trade.v),
            bought={"Buy": True, "Sell": False}.get(trade.side),
        )

    def link(self, state: BookState, message: BookMessage) -> Link:
        """Ids are consecutive."""
        if message.last <= state.last:
            return Link.OLD
        return Link.NEXT if message.first == state.last + 1 else Link.BROKEN

    def missing(self, state: BookState, message: BookMessage) -> int:
        """Each message has one id."""
        return message.first - state.last - 1

    def subscribe(self) -> list[Wish]:
        """Book and trades of every symbol."""
        topics = [topic for symbol in self.symbols for topic in (_book_topic(symbol), f"publicTrade.{symbol}")]
        parts = (topics[at : at + _ARGUMENTS_PER_MESSAGE] for at in range(0, len(topics), _ARGUMENTS_PER_MESSAGE))
        return [_operation("subscribe", part) for part in parts]

    def ask_book(self, symbol: str) -> list[Wish]:
        """Subscribe to the book anew: the venue then begins with a whole one."""
        return [_operation(name, [_book_topic(symbol)]) for name in ("unsubscribe", "subscribe")]

    def guess(self, symbol: str) -> Instrument:
        """A pair or future, priced in what its spelling ends in."""
        return replace(super().guess(symbol), currency=quoted_asset(symbol))


def _book_topic(symbol: str) -> str:
    return f"orderbook.{_DEPTH}.{symbol}"


def _operation(name: str, topics: list[str]) -> Wish:
    return Wish(want=Want.SEND, body=msgspec.json.encode({"op": name, "args": topics}))


def open_files(paths: Sequence[Path], options: SourceOptions) -> CaptureFeed:
    """The feed over the files of one recording, or of an archive's days."""
    return open_capture(BybitSession, paths, options)


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """Every change's id against the one before it."""
    return check_capture(BybitSession, paths, options, primary="chained")
