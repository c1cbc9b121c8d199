"""Deribit's public websocket API (JSON-RPC): books, tickers and trades of options and futures.

Tickers of options become option quotes, with the forward and the volatilities that the venue computes; an option's
underlying is the future of its expiry, which is entered before it. Numbers are bare in Deribit's JSON and are read
from their text.

Source: Deribit's public API documentation, version 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import gcd
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from tapehouse.core.errors import DecodeError
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.capture_check import check_capture
from tapehouse.feeds.capture_feed import CaptureFeed, open_capture
from tapehouse.feeds.checking import Check
from tapehouse.feeds.deribit_check import TickersOfDeribit
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.session import Endpoint, Want, Wish
from tapehouse.feeds.venue_events import (
    BookMessage,
    ListingMessage,
    OptionMessage,
    QuoteMessage,
    ReplyMessage,
    TradeMessage,
    VenueMessage,
)
from tapehouse.feeds.venue_fields import MILLISECOND_NS, Id, Millis
from tapehouse.feeds.venue_numbers import Scale
from tapehouse.feeds.venue_session import BookSession
from tapehouse.feeds.venue_state import BookState, Link
from tapehouse.market import Instrument

ENDPOINTS = {"": Endpoint(websocket="wss://www.deribit.com/ws/api/v2", rest="https://www.deribit.com/api/v2")}
_OPTION = re.compile(r"(?P<base>[A-Z_]+)-(?P<expiry>\d{1,2}[A-Z]{3}\d{2})-(?P<strike>\d+(?:d\d+)?)-(?P<right>[CP])")
_DATED = re.compile(r"[A-Z_]+-(?P<expiry>\d{1,2}[A-Z]{3}\d{2})")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_EXPIRY_HOUR = 8  # UTC
_PERPETUAL_FROM_MS = 32_503_680_000_000  # the year 3000, which perpetuals have as their expiry
_PERCENT = -7  # an exponent: percent in units of 10^-9
_CHANNELS = ("book.{}.100ms", "ticker.{}.100ms", "trades.{}.100ms")
_HEARTBEAT_S = 30
_CHANNELS_PER_MESSAGE = 100
_ABSENT = Raw(b"null")


class _Parameters(msgspec.Struct):
    channel: str = ""
    data: Raw = Raw(b"")
    type: str = ""


class _Message(msgspec.Struct):
    jsonrpc: str
    method: str = ""
    params: _Parameters | None = None
    result: Raw = _ABSENT
    error: Any = None


class _Book(msgspec.Struct, rename={"name": "instrument_name", "previous": "prev_change_id"}):
    name: str
    timestamp: Millis
    change_id: Id
    bids: Raw
    asks: Raw
    type: str = ""
    previous: Id | None = None


class _Ticker(msgspec.Struct, rename={"name": "instrument_name"}):
    name: str
    timestamp: Millis
    best_bid_price: Raw = _ABSENT
    best_bid_amount: Raw = _ABSENT
    best_ask_price: Raw = _ABSENT
    best_ask_amount: Raw = _ABSENT
    underlying_price: Raw = _ABSENT
    mark_price: Raw = _ABSENT
    bid_iv: Raw = _ABSENT
    ask_iv: Raw = _ABSENT
    mark_iv: Raw = _ABSENT
    open_interest: Raw = _ABSENT


class _Trade(msgspec.Struct, rename={"name": "instrument_name"}):
    name: str
    timestamp: Millis
    trade_seq: Id
    price: Raw
    amount: Raw
    direction: str = ""


class _Step(msgspec.Struct):
    tick_size: Raw


class _Listing(msgspec.Struct, rename={"name": "instrument_name"}):
    name: str = ""
    kind: str = ""
    tick_size: Raw = _ABSENT
    tick_size_steps: list[_Step] = []
    min_trade_amount: Raw = _ABSENT
    quote_currency: str = ""
    strike: Raw = _ABSENT
    option_type: str = ""
    expiration_timestamp: Id = 0


_MESSAGE = msgspec.json.Decoder(_Message)
_BOOK = msgspec.json.Decoder(_Book)
_TICKER = msgspec.json.Decoder(_Ticker)
_TRADES = msgspec.json.Decoder(list[_Trade])
_ONE_LISTING = msgspec.json.Decoder(_Listing)
_LISTINGS = msgspec.json.Decoder(list[_Listing])


class DeribitSession(BookSession):
    """One connection."""

    VENUE = "DERIBIT"

    def decode(self, body: bytes) -> list[VenueMessage]:
        """Books, tickers and trades; what the venue lists; and its question whether we are there."""
        message = _MESSAGE.decode(body)
        if message.error is not None:
            raise DecodeError(f"the venue refuses: {message.error}", subject=self.VENUE)
        parameters = message.params
        if message.method == "heartbeat":
            asked = parameters is not None and parameters.type == "test_request"
            return [ReplyMessage(body=_request("public/test", {}))] if asked else []
        if message.method != "subscription" or parameters is None:
            return self._listings(message.result)
        topic = parameters.channel.partition(".")[0]
        if topic == "book":
            return self._book(_BOOK.decode(parameters.data))
        if topic == "ticker":
            return [self._ticker(_TICKER.decode(parameters.data))]
        if topic == "trades":
            return [self._trade(trade) for trade in _TRADES.decode(parameters.data)]
        return []

    def decode_answer(self, symbol: str, body: bytes) -> list[VenueMessage]:
        """Lists of instruments."""
        return self._listings(_MESSAGE.decode(body).result)

    def _book(self, book: _Book) -> list[VenueMessage]:
        if not book.type:
            return []  # a grouped book: its levels are no whole ones
        if book.type not in ("snapshot", "change"):
            raise DecodeError(f"a book is neither snapshot nor change: {book.type!r}", subject=book.name)
        scale = self.scale(book.name)
        whole = book.type == "snapshot"
        if not whole and book.previous is None:
            raise DecodeError("a change of a book does not say what it follows", subject=book.name)
        return [
            BookMessage(
                symbol=book.name,
                whole=whole,
                ts_event=book.timestamp * MILLISECOND_NS,
                bids=scale.levels(book.bids),
                asks=scale.levels(book.asks),
                first=book.change_id,
                last=book.change_id,
                previous=book.previous,
                named=not whole,
            )
        ]

    def _ticker(self, ticker: _Ticker) -> QuoteMessage | OptionMessage:
        scale = self.scale(ticker.name)
        bid, bid_size = _side(scale, ticker.best_bid_price, ticker.best_bid_amount)
        ask, ask_size = _side(scale, ticker.best_ask_price, ticker.best_ask_amount)
        ts_event = ticker.timestamp * MILLISECOND_NS
        if _OPTION.fullmatch(ticker.name) is None:
            return QuoteMessage(
                symbol=ticker.name,
                channel="ticker",
                ts_event=ts_event,
                sequence=0,
                bid=bid,
                bid_size=bid_size,
                ask=ask,
                ask_size=ask_size,
            )
        return OptionMessage(
            symbol=ticker.name,
            ts_event=ts_event,
            bid=bid,
            bid_size=bid_size,
            ask=ask,
            ask_size=ask_size,
            forward=_loose(scale, ticker.underlying_price),
            mark=_loose(scale, ticker.mark_price),
            bid_volatility=_volatility(scale, ticker.bid_iv),
            ask_volatility=_volatility(scale, ticker.ask_iv),
            mark_volatility=_volatility(scale, ticker.mark_iv),
            open_interest=0 if _is_absent(ticker.open_interest) else scale.size(ticker.open_interest),
        )

    def _trade(self, trade: _Trade) -> TradeMessage:
        scale = self.scale(trade.name)
        return TradeMessage(
            symbol=trade.name,
            ts_event=trade.timestamp * MILLISECOND_NS,
            number=trade.trade_seq,
            price=scale.price(trade.price),
            size=scale.size(trade.amount),
            bought={"buy": True, "sell": False}.get(trade.direction),
        )

    def _listings(self, result: Raw) -> list[VenueMessage]:
        text = bytes(result)
        if text.startswith(b"[{"):
            listings = _LISTINGS.decode(result)
        else:
            listings = [_ONE_LISTING.decode(result)] if text.startswith(b"{") else []
        return [ListingMessage(instrument=self._listed(item)) for item in listings if item.name]

    def _listed(self, item: _Listing) -> Instrument:
        """An instrument in the venue's own terms."""
        known = self.guess(item.name)
        scale = Scale(item.name, known.price_exponent, known.size_exponent)
        ticks = [item.tick_size, *(step.tick_size for step in item.tick_size_steps)]
        tick = gcd(*(scale.price(text) for text in ticks if not _is_absent(text)))
        lot = 1 if _is_absent(item.min_trade_amount) else scale.size(item.min_trade_amount)
        perpetual = item.expiration_timestamp >= _PERPETUAL_FROM_MS
        return replace(
            known,
            tick_size=max(tick, 1),
            lot_size=max(lot, 1),
            currency=item.quote_currency or known.currency,
            strike=known.strike if _is_absent(item.strike) else scale.price(item.strike),
            expiry_ns=0 if perpetual else item.expiration_timestamp * MILLISECOND_NS or known.expiry_ns,
        )

    def link(self, state: BookState, message: BookMessage) -> Link:
        """By the change that a message says it follows."""
        if message.previous == state.last:
            return Link.NEXT
        return Link.OLD if message.last <= state.last else Link.BROKEN

    def subscribe(self) -> list[Wish]:
        """Heartbeats, the terms of every symbol, then its book, ticker and trades."""
        wishes = [_send("public/set_heartbeat", {"interval": _HEARTBEAT_S})]
        wishes += [_send("public/get_instrument", {"instrument_name": symbol}) for symbol in self.symbols]
        channels = [channel.format(symbol) for symbol in self.symbols for channel in _CHANNELS]
        for at in range(0, len(channels), _CHANNELS_PER_MESSAGE):
            wishes.append(_send("public/subscribe", {"channels": channels[at : at + _CHANNELS_PER_MESSAGE]}))
        return wishes

    def ask_book(self, symbol: str) -> list[Wish]:
        """Subscribe to the book anew: the venue then begins with a whole one."""
        channels = {"channels": [_CHANNELS[0].format(symbol)]}
        return [_send("public/unsubscribe", channels), _send("public/subscribe", channels)]

    def guess(self, symbol: str) -> Instrument:
        """What the name says: `BTC-24SEP21-8000-P`, `BTC-24SEP21`, `BTC-PERPETUAL`."""
        base = symbol.partition("-")[0]
        known = replace(super().guess(symbol), asset_class="future", currency=base.partition("_")[2] or "USD")
        option = _OPTION.fullmatch(symbol)
        dated = option or _DATED.fullmatch(symbol)
        if dated is None:
            return known
        known = replace(known, expiry_ns=_expiry_ns(dated["expiry"]))
        if option is None:
            return known
        strike = Scale(symbol, known.price_exponent, 0).price(option["strike"].replace("d", "."))
        return replace(
            known,
            asset_class="option",
            currency=base.partition("_")[2] or base,
            strike=strike,
            right=option["right"],
        )

    def enter_symbol(self, name: str) -> BookState:
        """An option behind the future that it derives from."""
        option = _OPTION.fullmatch(name)
        if option is None or name in self._states:
            return super().enter_symbol(name)
        underlying = super().enter_symbol(f"{option['base']}-{option['expiry']}").instrument.id
        state = super().enter_symbol(name)
        state.instrument = replace(state.instrument, underlying=underlying)
        return state


def _is_absent(text: Raw) -> bool:
    return bytes(text) == b"null"


def _side(scale: Scale, price: Raw, size: Raw) -> tuple[int, int]:
    """A best level; the venue sends 0 where there is none."""
    if _is_absent(price) or _is_absent(size):
        return UNDEFINED, 0
    value, amount = scale.price(price), scale.size(size)
    return (value, amount) if value and amount else (UNDEFINED, 0)


def _loose(scale: Scale, text: Raw) -> int:
    return UNDEFINED if _is_absent(text) else scale.loose_price(text)


def _volatility(scale: Scale, text: Raw) -> int:
    """Percent in 1e-9; the venue sends 0 where no volatility gives the price."""
    return UNDEFINED if _is_absent(text) else scale.number(text, _PERCENT) or UNDEFINED


def _expiry_ns(text: str) -> int:
    """08:00 UTC of a day such as 24SEP21; 0 where it is none."""
    month = text[-5:-2]
    if month not in _MONTHS:
        return 0
    try:
        moment = datetime(2000 + int(text[-2:]), _MONTHS.index(month) + 1, int(text[:-5]), _EXPIRY_HOUR, tzinfo=UTC)
    except ValueError:
        return 0
    return int(moment.timestamp()) * 1_000_000_000


def _request(method: str, parameters: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters})


def _send(method: str, parameters: dict[str, Any]) -> Wish:
    return Wish(want=Want.SEND, body=_request(method, parameters))


def open_files(paths: Sequence[Path], options: SourceOptions) -> CaptureFeed:
    """The feed over the files of one recording; lists of instruments may lie in a file of their own."""
    return open_capture(DeribitSession, paths, options)


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """Every change against the one that it names; tickers against the books and against Black's formula."""
    return check_capture(DeribitSession, paths, options, primary="chained", observer=TickersOfDeribit)
