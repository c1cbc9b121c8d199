"""Binance's public websocket API, spot and both kinds of futures: diffs that hang on a snapshot by REST.

Spot diffs chain by their first and last update id, those of futures by the last id of the diff before (`pu`), because
their ids are shared by all symbols. Diffs that came before the snapshot wait for it.

Source: Binance's public API documentation, "How to manage a local order book correctly", for spot and for futures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from tapehouse.core.errors import DecodeError
from tapehouse.feeds.capture_check import TopOfBook, check_capture
from tapehouse.feeds.capture_feed import CaptureFeed, open_capture
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.session import Endpoint, Want, Wish
from tapehouse.feeds.venue_events import BookMessage, QuoteMessage, TradeMessage, VenueMessage
from tapehouse.feeds.venue_fields import MILLISECOND_NS, Id, Millis, quoted_asset
from tapehouse.feeds.venue_session import BookSession
from tapehouse.feeds.venue_state import BookState, Link
from tapehouse.market import Instrument

ENDPOINTS = {
    "spot": Endpoint(websocket="wss://stream.binance.com:9443/stream", rest="https://api.binance.com"),
    "usdm": Endpoint(websocket="wss://fstream.binance.com/stream", rest="https://fapi.binance.com"),
    "coinm": Endpoint(websocket="wss://dstream.binance.com/stream", rest="https://dapi.binance.com"),
}
_DEPTH_PATHS = {
    "spot": "/api/v3/depth?symbol={}&limit=5000",
    "usdm": "/fapi/v1/depth?symbol={}&limit=1000",
    "coinm": "/dapi/v1/depth?symbol={}&limit=1000",
}
_STREAMS = ("depth@100ms", "bookTicker", "trade")
_STREAMS_PER_MESSAGE = 150


class _Combined(msgspec.Struct):
    stream: str = ""
    data: Raw = Raw(b"")


class _Kind(msgspec.Struct, rename={"bid_size": "B", "last_update": "lastUpdateId", "message": "msg"}):
    e: str = ""
    u: int | None = None
    bid_size: Raw = Raw(b"")
    last_update: int | None = None
    id: Any = None
    error: Any = None
    message: str = ""


class _Depth(msgspec.Struct, rename={"first": "U", "last": "u", "event_ms": "E", "trade_ms": "T"}):
    s: str
    first: Id
    last: Id
    b: Raw
    a: Raw
    pu: Id | None = None
    ps: str = ""
    event_ms: Millis = 0
    trade_ms: Millis = 0


class _Snapshot(msgspec.Struct, rename={"last": "lastUpdateId", "event_ms": "E", "trade_ms": "T"}):
    last: Id
    bids: Raw
    asks: Raw
    symbol: str = ""
    event_ms: Millis = 0
    trade_ms: Millis = 0


class _Ticker(msgspec.Struct, rename={"bid_size": "B", "ask_size": "A", "event_ms": "E", "trade_ms": "T"}):
    s: str
    u: Id
    b: str
    bid_size: str
    a: str
    ask_size: str
    event_ms: Millis = 0
    trade_ms: Millis = 0


class _Trade(msgspec.Struct, rename={"number": "t", "trade_ms": "T"}):
    s: str
    number: Id
    p: str
    q: str
    m: bool
    trade_ms: Millis = 0


class _AggregateTrade(msgspec.Struct, rename={"number": "a", "trade_ms": "T"}):
    s: str
    number: Id
    p: str
    q: str
    m: bool
    trade_ms: Millis = 0


_COMBINED = msgspec.json.Decoder(_Combined)
_KIND = msgspec.json.Decoder(_Kind)
_DEPTH = msgspec.json.Decoder(_Depth)
_SNAPSHOT = msgspec.json.Decoder(_Snapshot)
_TICKER = msgspec.json.Decoder(_Ticker)
_TRADE = msgspec.json.Decoder(_Trade)
_AGGREGATE = msgspec.json.Decoder(_AggregateTrade)


class BinanceSession(BookSession):
    """One connection.

    Args:
        market: `spot`, `usdm` or `coinm`; decides which paths are asked for snapshots, nothing about decoding.
        options: As `BookSession`.
    """

    VENUE = "BINANCE"
    BUFFERED = True

    def __init__(self, symbols: tuple[str, ...] = (), *, market: str = "spot", **options: Any) -> None:
        super().__init__(symbols, **options)
        self._depth_path = _DEPTH_PATHS[market]
        self._futures: set[str] = set()
        self._told: dict[str, None] = dict.fromkeys(symbols)  # symbols that a snapshot without a name may be of

    def decode(self, body: bytes) -> list[VenueMessage]:
        """Diffs, snapshots, book tickers and trades; other streams say nothing here."""
        combined = _COMBINED.decode(body)
        data: Any = combined.data or body
        kind = _KIND.decode(data)
        if kind.e == "depthUpdate":
            return [self._depth(_DEPTH.decode(data))]
        if kind.e == "bookTicker" or (not kind.e and kind.u is not None and bytes(kind.bid_size)):
            return [self._ticker(_TICKER.decode(data))]
        if kind.e in ("trade", "aggTrade"):
            return self._trade((_TRADE if kind.e == "trade" else _AGGREGATE).decode(data))
        if kind.last_update is not None and not combined.stream:
            return [self._snapshot(_SNAPSHOT.decode(data), "")]
        if kind.error is not None or kind.message:
            raise DecodeError(f"the venue refuses: {kind.message or kind.error}", subject=self.VENUE)
        if not kind.e and kind.id is None and not combined.stream:
            raise DecodeError("it is none of the venue's messages", subject=self.VENUE)
        return []

    def decode_answer(self, symbol: str, body: bytes) -> list[VenueMessage]:
        """A snapshot."""
        return [self._snapshot(_SNAPSHOT.decode(body), symbol)]

    def _depth(self, depth: _Depth) -> BookMessage:
        scale = self.scale(depth.s)
        self._told[depth.s] = None
        if depth.pu is not None or depth.ps:
            self._futures.add(depth.s)
        return BookMessage(
            symbol=depth.s,
            whole=False,
            ts_event=(depth.trade_ms or depth.event_ms) * MILLISECOND_NS,
            bids=scale.levels(depth.b),
            asks=scale.levels(depth.a),
            first=depth.first,
            last=depth.last,
            previous=depth.pu,
        )

    def _snapshot(self, snapshot: _Snapshot, symbol: str) -> BookMessage:
        symbol = symbol or snapshot.symbol
        if not symbol and len(self._told) == 1:
            symbol = next(iter(self._told))
        if not symbol:
            raise DecodeError(
                f"a snapshot does not say which of {len(self._told)} symbols it is of",
                subject=self.VENUE,
                hint="record the URL that was asked with it",
            )
        scale = self.scale(symbol)
        return BookMessage(
            symbol=symbol,
            whole=True,
            ts_event=(snapshot.trade_ms or snapshot.event_ms) * MILLISECOND_NS,
            bids=scale.levels(snapshot.bids),
            asks=scale.levels(snapshot.asks),
            first=snapshot.last,
            last=snapshot.last,
        )

    def _ticker(self, ticker: _Ticker) -> QuoteMessage:
        scale = self.scale(ticker.s)
        return QuoteMessage(
            symbol=ticker.s,
            channel="bookTicker",
            ts_event=(ticker.trade_ms or ticker.event_ms) * MILLISECOND_NS,
            sequence=ticker.u,
            bid=scale.price(ticker.b),
            bid_size=scale.size(ticker.bid_size),
            ask=scale.price(ticker.a),
            ask_size=scale.size(ticker.ask_size),
        )

    def _trade(self, trade: _Trade | _AggregateTrade) -> list[VenueMessage]:
        scale = self.scale(trade.s)
        price, size = scale.price(trade.p), scale.size(trade.q)
        if price == 0 and size == 0 and not self._surveying:
            return []  # futures report settlements of the insurance fund so
        return [
            TradeMessage(
                symbol=trade.s,
                ts_event=trade.trade_ms * MILLISECOND_NS,
                number=trade.number,
                price=price,
                size=size,
                bought=not trade.m,
            )
        ]

    def link(self, state: BookState, message: BookMessage) -> Link:
        """Spot by U = u + 1, futures by pu; the first diff must reach over the snapshot's id."""
        if message.previous is None:
            if message.last <= state.last:
                return Link.OLD
            fits = message.first == state.last + 1 if state.bridged else message.first <= state.last + 1
        elif state.bridged:
            fits = message.previous == state.last
            if not fits and message.last <= state.last:
                return Link.OLD
        else:
            if message.last < state.last:
                return Link.OLD
            fits = message.first <= state.last or message.previous == state.last
        return Link.NEXT if fits else Link.BROKEN

    def missing(self, state: BookState, message: BookMessage) -> int:
        """Spot ids are the symbol's own; those of futures tell nothing."""
        return message.first - state.last - 1 if message.previous is None else 0

    def subscribe(self) -> list[Wish]:
        """Depth, book ticker and trades of every symbol."""
        streams = [f"{symbol.lower()}@{stream}" for symbol in self.symbols for stream in _STREAMS]
        wishes = []
        for number, begin in enumerate(range(0, len(streams), _STREAMS_PER_MESSAGE), 1):
            part = streams[begin : begin + _STREAMS_PER_MESSAGE]
            body = msgspec.json.encode({"method": "SUBSCRIBE", "params": part, "id": number})
            wishes.append(Wish(want=Want.SEND, body=body))
        return wishes

    def ask_book(self, symbol: str) -> list[Wish]:
        """The snapshot by REST."""
        return [Wish(want=Want.SNAPSHOT, symbol=symbol, request=self._depth_path.format(symbol))]

    def guess(self, symbol: str) -> Instrument:
        """A spot pair, or a future where its messages were those of one."""
        future = symbol in self._futures or "_" in symbol
        return replace(
            super().guess(symbol), asset_class="future" if future else "crypto", currency=quoted_asset(symbol)
        )


def open_files(paths: Sequence[Path], options: SourceOptions) -> CaptureFeed:
    """The feed over the files of one recording; snapshots by REST may lie in a file of their own."""
    return open_capture(BinanceSession, paths, options)


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """After every applied diff, the best bid and ask against the last book ticker that is not newer than it."""
    return check_capture(BinanceSession, paths, options, primary="", observer=TopOfBook)
