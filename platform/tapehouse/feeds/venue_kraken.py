"""Kraken's public websocket API, version 2: the channels `book`, `trade`, `ticker` and `instrument`.

A book has no sequence numbers: its chain is the checksum of its best ten levels. It is told to a depth that was
subscribed to; what a message pushes beyond that depth is gone, though nobody says so.

Source: Kraken's public API documentation, "WebSocket v2", and its guide "Book checksum (WebSocket v2)".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
from msgspec import Raw

from tapehouse.core.errors import DecodeError
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.capture_check import check_capture
from tapehouse.feeds.capture_feed import CaptureFeed, open_capture
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.packing import head_word, tail_word
from tapehouse.feeds.session import Endpoint, Want, Wish
from tapehouse.feeds.venue_cells import joined
from tapehouse.feeds.venue_events import BookMessage, ListingMessage, QuoteMessage, TradeMessage, VenueMessage
from tapehouse.feeds.venue_fields import Checksum, Id, signed
from tapehouse.feeds.venue_ladder import VenueBook
from tapehouse.feeds.venue_numbers import Scale
from tapehouse.feeds.venue_session import INSTRUMENTS_MAX, BookSession
from tapehouse.feeds.venue_state import BookState, Link
from tapehouse.feeds.venue_times import utc_ns
from tapehouse.market import Action, Cells, Flag, Instrument, Kind, Side, from_words

ENDPOINTS = {"": Endpoint(websocket="wss://ws.kraken.com/v2")}
CHECKSUM_LEVELS = 10
DEPTHS = (10, 25, 100, 500, 1000)  # that can be subscribed to
_CHANNELS = ("book", "trade")
_PLACE_MAX = 255  # one byte of a cell
_SYMBOLS_PER_MESSAGE = 100


class _Acknowledged(msgspec.Struct):
    channel: str = ""
    symbol: str = ""
    depth: Id = 0


class _Message(msgspec.Struct):
    channel: str = ""
    type: str = ""
    data: Raw = Raw(b"")
    method: str = ""
    success: bool = True
    error: str = ""
    result: Any = None


class _Level(msgspec.Struct):
    price: Raw
    qty: Raw


class _Book(msgspec.Struct):
    symbol: str
    bids: list[_Level]
    asks: list[_Level]
    checksum: Checksum | None = None
    timestamp: str = ""


class _Trade(msgspec.Struct):
    symbol: str
    side: str
    price: Raw
    qty: Raw
    trade_id: Id
    timestamp: str = ""


class _Ticker(msgspec.Struct):
    symbol: str
    bid: Raw
    bid_qty: Raw
    ask: Raw
    ask_qty: Raw
    timestamp: str = ""


class _Pair(msgspec.Struct):
    symbol: str
    quote: str = ""
    price_increment: Raw = Raw(b"")
    qty_increment: Raw = Raw(b"")


class _Pairs(msgspec.Struct):
    pairs: list[_Pair] = []


_MESSAGE = msgspec.json.Decoder(_Message)
_BOOKS = msgspec.json.Decoder(list[_Book])
_TRADES = msgspec.json.Decoder(list[_Trade])
_TICKERS = msgspec.json.Decoder(list[_Ticker])
_PAIRS = msgspec.json.Decoder(_Pairs)


class KrakenBook(VenueBook):
    """A book with Kraken's checksum."""

    def checksum(self) -> int:
        """The signed CRC-32 of ten asks, then ten bids, best first: price and size without point and leading zeros.

        Source: Kraken's guide "Book checksum (WebSocket v2)".
        """
        parts: list[bytes] = []
        for side in (self.asks, self.bids):
            for key in side.keys[:CHECKSUM_LEVELS]:
                price, _, size = side.texts[key].partition(b":")
                parts += price.replace(b".", b"").lstrip(b"0"), size.replace(b".", b"").lstrip(b"0")
        value = crc32(b"".join(parts))
        return value - (1 << 32) if value >> 31 else value


class KrakenSession(BookSession):
    """One connection.

    Args:
        depth: How deep a book is subscribed to, one of DEPTHS; what counts is what the venue acknowledges.
        options: As `BookSession`.
    """

    VENUE = "KRAKEN"
    PING = b'{"method":"ping"}'

    def __init__(self, symbols: tuple[str, ...] = (), *, depth: int = 100, **options: Any) -> None:
        super().__init__(symbols, **options)
        if depth not in DEPTHS:
            raise ValueError(f"a depth of {depth}; it is one of {DEPTHS}")
        self._depth = depth
        self._depths: dict[str, int] = {}  # as acknowledged, or as a whole book suggests

    def decode(self, body: bytes) -> list[VenueMessage]:
        """Books, trades, tickers and instruments; heartbeats, states and answers say nothing here."""
        message = _MESSAGE.decode(body)
        if message.error or not message.success:
            raise DecodeError(f"the venue refuses: {message.error[:200]}", subject=self.VENUE)
        if message.method:
            self._acknowledge(message)
            return []
        if message.channel == "book":
            if message.type not in ("snapshot", "update"):
                raise DecodeError(f"a book is neither snapshot nor update: {message.type!r}", subject=self.VENUE)
            return [self._book(book, message.type == "snapshot") for book in _BOOKS.decode(message.data)]
        if message.channel == "trade":
            trades = _TRADES.decode(message.data)
            return [self._trade(trade) for trade in trades] if message.type != "snapshot" else []
        if message.channel == "ticker":
            return [self._ticker(ticker) for ticker in _TICKERS.decode(message.data)]
        if message.channel == "instrument":
            return [self._listing(pair) for pair in _PAIRS.decode(message.data).pairs if bytes(pair.price_increment)]
        if not message.channel:
            raise DecodeError("it is none of the venue's messages", subject=self.VENUE)
        return []

    def _acknowledge(self, message: _Message) -> None:
        """Learn how deep a book is told."""
        if message.method != "subscribe" or not isinstance(message.result, dict):
            return
        told = msgspec.convert(message.result, _Acknowledged)
        known = told.symbol in self._depths or len(self._depths) < INSTRUMENTS_MAX
        if told.channel == "book" and told.symbol and told.depth in DEPTHS and known:
            self._depths[told.symbol] = told.depth

    def _book(self, book: _Book, whole: bool) -> BookMessage:
        scale = self.scale(book.symbol)
        bids, asks = _texts(book.bids), _texts(book.asks)
        return BookMessage(
            symbol=book.symbol,
            whole=whole,
            ts_event=utc_ns(book.timestamp),
            bids=scale.levels(bids),
            asks=scale.levels(asks),
            checksum=signed(book.checksum),
            bid_text=bids,
            ask_text=asks,
        )

    def _trade(self, trade: _Trade) -> TradeMessage:
        scale = self.scale(trade.symbol)
        return TradeMessage(
            symbol=trade.symbol,
            ts_event=utc_ns(trade.timestamp),
            number=trade.trade_id,
            price=scale.price(trade.price),
            size=scale.size(trade.qty),
            bought={"buy": True, "sell": False}.get(trade.side),
        )

    def _ticker(self, ticker: _Ticker) -> QuoteMessage:
        scale = self.scale(ticker.symbol)
        bid, ask = _number(ticker.bid), _number(ticker.ask)
        return QuoteMessage(
            symbol=ticker.symbol,
            channel="ticker",
            ts_event=utc_ns(ticker.timestamp),
            sequence=0,
            bid=scale.price(bid) if bid else UNDEFINED,
            bid_size=scale.size(ticker.bid_qty) if bid else 0,
            ask=scale.price(ask) if ask else UNDEFINED,
            ask_size=scale.size(ticker.ask_qty) if ask else 0,
        )

    def _listing(self, pair: _Pair) -> ListingMessage:
        """An instrument by its increments."""
        scale = Scale(pair.symbol, -9, -9, strict=False)
        scale.price(pair.price_increment)
        if bytes(pair.qty_increment):
            scale.size(pair.qty_increment)
        price_exponent, size_exponent, tick = scale.exponents()
        listed = replace(
            self.guess(pair.symbol), price_exponent=price_exponent, size_exponent=min(size_exponent, 0), tick_size=tick
        )
        return ListingMessage(instrument=replace(listed, currency=pair.quote or listed.currency))

    def enter_symbol(self, name: str) -> BookState:
        """As every session, with a book that has this venue's checksum."""
        known = name in self._states
        state = super().enter_symbol(name)
        if not known:
            state.book = KrakenBook()
        return state

    def _apply(self, state: BookState, message: BookMessage) -> bool:
        """Change the book and cut it to its depth."""
        waiting = len(self._out)
        possible = super()._apply(state, message)
        depth = self._depths.get(message.symbol)
        if depth is None:  # No acknowledgement was recorded: a whole book of just one of the depths was cut there.
            longest = max(len(state.book.bids.keys), len(state.book.asks.keys))
            depth = self._depths[message.symbol] = longest if longest in DEPTHS else DEPTHS[-1]
        cut = self._cut(state, message, depth)
        if len(cut):
            told = self._out[waiting:]
            del self._out[waiting:]
            for cells in told:
                cells["flags"] &= 0xFF ^ int(Flag.LAST)
            self._out.append(joined([*told, cut]))
        return possible

    def _cut(self, state: BookState, message: BookMessage, depth: int) -> Cells:
        """Take away the levels beyond a depth, each with a SYNTHETIC cell: nobody will tell when they go."""
        gone: list[tuple[int, int, int]] = []  # side, price, depth
        for side, ladder, sign in ((Side.BID, state.book.bids, -1), (Side.ASK, state.book.asks, 1)):
            while len(ladder.keys) > depth:
                key = ladder.keys.pop()
                del ladder.sizes[key]
                ladder.texts.pop(key, None)
                gone.append((int(side), sign * key, min(len(ladder.keys), _PLACE_MAX)))
        out = np.zeros((len(gone), 8), np.int64)
        out[:, 0], out[:, 1] = message.ts_event or self._now, self._now
        out[:, 6] = head_word(state.instrument.id, 0, int(Kind.MBP), 1)
        for at, (number, price, place) in enumerate(gone):
            last = int(Flag.LAST) if at == len(gone) - 1 else 0
            out[at, 4] = price
            out[at, 7] = tail_word(int(Action.CANCEL), number, int(Flag.SYNTHETIC) | last, place)
        return from_words(out)

    def link(self, state: BookState, message: BookMessage) -> Link:
        """Nothing numbers them: the checksum behind each says whether it was the next one."""
        return Link.NEXT

    def subscribe(self) -> list[Wish]:
        """Book and trades of all symbols, in messages of bounded length."""
        parts = [
            self.symbols[at : at + _SYMBOLS_PER_MESSAGE] for at in range(0, len(self.symbols), _SYMBOLS_PER_MESSAGE)
        ]
        return [self._operation("subscribe", channel, part) for channel in _CHANNELS for part in parts]

    def ask_book(self, symbol: str) -> list[Wish]:
        """Subscribe to the book anew: the venue then begins with a whole one."""
        return [self._operation(method, "book", (symbol,)) for method in ("unsubscribe", "subscribe")]

    def _operation(self, method: str, channel: str, symbols: Sequence[str]) -> Wish:
        parameters: dict[str, Any] = {"channel": channel, "symbol": list(symbols)}
        if channel == "book":
            parameters["depth"] = self._depth
        if method == "subscribe":
            parameters["snapshot"] = channel == "book"
        return Wish(want=Want.SEND, body=msgspec.json.encode({"method": method, "params": parameters}))

    def guess(self, symbol: str) -> Instrument:
        """`BTC/USD` is priced in what stands behind the stroke."""
        return replace(super().guess(symbol), currency=symbol.partition("/")[2] or "USD")


def _texts(levels: list[_Level]) -> bytes:
    """Levels as one array of `[price,size]`, with the venue's own texts of the numbers."""
    return b"[%b]" % b",".join([b"[%b,%b]" % (bytes(level.price), bytes(level.qty)) for level in levels])


def _number(text: Raw) -> bytes:
    """The text of a number; empty where it is null."""
    found = bytes(text).strip()
    return b"" if found == b"null" else found


def open_files(paths: Sequence[Path], options: SourceOptions) -> CaptureFeed:
    """The feed over the files of one recording."""
    return open_capture(KrakenSession, paths, options)


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """Every book's checksum."""
    return check_capture(KrakenSession, paths, options, primary="checksums")
