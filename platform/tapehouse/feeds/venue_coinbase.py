"""Coinbase Exchange's websocket feed: the channels `level2`, `matches`, `ticker`, `heartbeat`, and `full`.

A product's book is one by price (`level2`, `level2_batch`) or, where `full` is subscribed to, one by order: orders
that rest come from the REST API's level 3 book, and each message of `full` has the next sequence number. The level2
channels number nothing, so there a hole in the numbers of trades is what tells of lost messages.

Source: Coinbase's public API documentation, "Exchange WebSocket channels" and "Get product book".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from tapehouse.core.errors import DecodeError
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.capture import Message
from tapehouse.feeds.capture_check import Best, LevelsByPrice, check_capture
from tapehouse.feeds.capture_feed import CaptureFeed, open_capture
from tapehouse.feeds.checking import Check
from tapehouse.feeds.coinbase_messages import (
    MESSAGE,
    ORDERS,
    PRODUCTS,
    ChannelName,
    FeedMessage,
    MarkMessage,
    Product,
)
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.session import Endpoint, Want, Wish
from tapehouse.feeds.venue_events import BookMessage, ListingMessage, QuoteMessage, TradeMessage, VenueMessage
from tapehouse.feeds.venue_numbers import Scale
from tapehouse.feeds.venue_orders import ORDERS_MAX, OrderMessage, OrdersBook, OrderTurn, Turn
from tapehouse.feeds.venue_session import INSTRUMENTS_MAX, BookSession
from tapehouse.feeds.venue_state import BookState, Link
from tapehouse.feeds.venue_times import utc_ns
from tapehouse.market import Cause, Cells, Confidence, Instrument
from tapehouse.market.wide_id import uuid_bytes

_FEED = Endpoint(websocket="wss://ws-feed.exchange.coinbase.com", rest="https://api.exchange.coinbase.com")
ENDPOINTS = {"level2": _FEED, "full": _FEED}
_CHANNELS = {"level2": ("level2_batch", "matches", "heartbeat"), "full": ("full", "heartbeat")}
_SYMBOLS_PER_MESSAGE = 100
_BID = {"buy": True, "sell": False}
_COUNTED = frozenset(("received", "open", "done", "change"))  # of the channel `full` alone


@dataclass(slots=True)
class _Reached:
    """What one product's numbers are."""

    trade: int = 0  # the last that came; 0: none yet
    told_trade: int = 0  # by the heartbeat before
    told_sequence: int = 0
    links: int = 0


class CoinbaseSession(BookSession):
    """One connection.

    Args:
        market: `level2` for books by price, `full` for books by order; what a capture holds is read from it.
        options: As `BookSession`.

    Attributes:
        links: Sequence numbers and trade numbers that were held against the one before.
    """

    VENUE = "COINBASE"

    def __init__(self, symbols: tuple[str, ...] = (), *, market: str = "level2", **options: Any) -> None:
        super().__init__(symbols, **options)
        self._market = market
        self._full: set[str] = set(symbols) if market == "full" else set()
        self._level2: set[str] = set()
        self._reached: dict[str, _Reached] = {}

    @property
    def links(self) -> int:
        """See above."""
        return sum(reached.links for reached in self._reached.values())

    # Messages.

    def decode(self, body: bytes) -> list[VenueMessage]:
        """Books, orders, trades, tickers, heartbeats and products; the rest says nothing here."""
        message = MESSAGE.decode(body)
        kind, product = message.type, message.product
        if kind == "error":
            raise DecodeError(f"the venue refuses: {message.message} {message.reason}"[:200], subject=self.VENUE)
        if kind == "subscriptions":
            self._subscribed(message)
            return []
        if kind == "status":
            return [self._listing(item) for item in PRODUCTS.decode(message.products) if item.quote_increment]
        if not product:
            if not kind:
                raise DecodeError("it is none of the venue's messages", subject=self.VENUE)
            return []
        if kind in ("snapshot", "l2update"):
            return self._levels(message)
        if kind in ("match", "last_match"):
            return self._match(message)
        if kind in _COUNTED:
            return self._order(message)
        if kind == "ticker":
            return self._ticker(message)
        if kind == "heartbeat":
            return [self._mark(message, message.last_trade_id, heartbeat=True)]
        return []

    def decode_answer(self, symbol: str, body: bytes) -> list[VenueMessage]:
        """The book of level 3."""
        orders = ORDERS.decode(body)
        if not symbol:
            raise DecodeError(
                "a book does not say of which product it is", hint="record the URL that was asked with it"
            )
        if len(orders.bids) + len(orders.asks) > ORDERS_MAX:
            raise DecodeError(f"more than {ORDERS_MAX} orders in one book", subject=symbol)
        scale = self.scale(symbol)
        turns = [
            OrderTurn(
                turn=Turn.OPEN,
                order=uuid_bytes(order),
                bid=bid,
                price=scale.price(price),
                size=self._taken(scale, size),
            )
            for bid, side in ((True, orders.bids), (False, orders.asks))
            for price, size, order in side
        ]
        ts_event = utc_ns(orders.time)
        if symbol in self._level2:
            return []
        self._remember(self._full, symbol)
        return [self._orders(symbol, ts_event, orders.sequence, turns, whole=True)]

    def _subscribed(self, message: FeedMessage) -> None:
        for channel in message.channels:
            if isinstance(channel, ChannelName) and channel.name == "full":
                for product in channel.product_ids:
                    self._remember(self._full, product)

    def _remember(self, products: set[str], product: str) -> None:
        if len(products) >= INSTRUMENTS_MAX and product not in products:
            raise DecodeError(f"more than {INSTRUMENTS_MAX} instruments", subject=self.VENUE)
        products.add(product)

    def _listing(self, product: Product) -> ListingMessage:
        scale = Scale(product.id, -9, -9, strict=False)
        scale.price(product.quote_increment)
        if product.base_increment:
            scale.size(product.base_increment)
        price_exponent, size_exponent, tick = scale.exponents()
        listed = replace(
            self.guess(product.id), price_exponent=price_exponent, size_exponent=min(size_exponent, 0), tick_size=tick
        )
        return ListingMessage(instrument=replace(listed, currency=product.quote_currency))

    def _levels(self, message: FeedMessage) -> list[VenueMessage]:
        product, whole = message.product, message.type == "snapshot"
        scale = self.scale(product)
        bids, asks = message.bids, message.asks
        if not whole:
            sides = [_BID[side] if side in _BID else _neither(side, product) for side, _, _ in message.changes]
            bids, asks = (
                Raw(
                    msgspec.json.encode(
                        [row[1:] for row, bid in zip(message.changes, sides, strict=True) if bid is side]
                    )
                )
                for side in (True, False)
            )
        told = BookMessage(
            symbol=product,
            whole=whole,
            ts_event=utc_ns(message.time),
            bids=scale.levels(bids),
            asks=scale.levels(asks),
        )
        if product in self._full:
            return []  # the orders say more
        self._remember(self._level2, product)
        return [told]

    def _match(self, message: FeedMessage) -> list[VenueMessage]:
        """A trade; in a book by order also the resting order's turn."""
        product = message.product
        if message.type == "last_match":
            return [self._mark(message, message.trade_id, heartbeat=False)]
        scale = self.scale(product)
        price, size = scale.price(message.price or ""), self._taken(scale, message.size)
        bid = _BID[message.side] if message.side in _BID else _neither(message.side, product)
        ts_event = utc_ns(message.time)
        trade = TradeMessage(
            symbol=product, ts_event=ts_event, number=message.trade_id, price=price, size=size, bought=not bid
        )
        if product not in self._full:
            return [trade]
        turn = OrderTurn(turn=Turn.MATCH, order=uuid_bytes(message.maker_order_id), bid=bid, price=price, size=size)
        return [trade, self._orders(product, ts_event, message.sequence, [turn])]

    def _order(self, message: FeedMessage) -> list[VenueMessage]:
        product, kind = message.product, message.type
        order = uuid_bytes(message.order_id)
        bid = _BID[message.side] if message.side in _BID else _neither(message.side, product)
        ts_event = utc_ns(message.time)
        scale = self.scale(product)
        turns: list[OrderTurn] = []
        if kind == "open":
            price, size = scale.price(message.price or ""), self._taken(scale, message.remaining_size)
            turns.append(OrderTurn(turn=Turn.OPEN, order=order, bid=bid, price=price, size=size))
        elif kind == "done":
            left = scale.size(message.remaining_size) if message.remaining_size else -1
            turns.append(OrderTurn(turn=Turn.DONE, order=order, bid=bid, price=-1, size=left))
        elif kind == "change" and message.new_size:
            told = message.new_price or message.price
            turns.append(
                OrderTurn(
                    turn=Turn.CHANGE,
                    order=order,
                    bid=bid,
                    price=scale.price(told) if told else -1,
                    size=scale.size(message.new_size),
                    before=scale.size(message.old_size) if message.old_size else -1,
                )
            )
        if product in self._level2:
            return []
        self._remember(self._full, product)
        return [self._orders(product, ts_event, message.sequence, turns)]

    def _orders(
        self, product: str, ts_event: int, sequence: int, turns: list[OrderTurn], *, whole: bool = False
    ) -> OrderMessage:
        if sequence == 0:
            raise DecodeError("a message of orders has no sequence", subject=product)
        return OrderMessage(symbol=product, whole=whole, ts_event=ts_event, first=sequence, last=sequence, turns=turns)

    def _taken(self, scale: Scale, text: str | None) -> int:
        """A size that must be there and above 0."""
        size = scale.size(text or "")
        if size <= 0 and not self._surveying:
            raise DecodeError(f"a size of {text}", subject=scale.symbol)
        return size

    def _ticker(self, message: FeedMessage) -> list[VenueMessage]:
        if not (message.best_bid_size or message.best_ask_size):
            return []
        scale = self.scale(message.product)
        bid, ask = message.best_bid, message.best_ask
        return [
            QuoteMessage(
                symbol=message.product,
                channel="ticker",
                ts_event=utc_ns(message.time),
                sequence=message.sequence,
                bid=scale.price(bid) if bid else UNDEFINED,
                bid_size=scale.size(message.best_bid_size) if bid else 0,
                ask=scale.price(ask) if ask else UNDEFINED,
                ask_size=scale.size(message.best_ask_size) if ask else 0,
            )
        ]

    def _mark(self, message: FeedMessage, trade: int, *, heartbeat: bool) -> MarkMessage:
        return MarkMessage(
            symbol=message.product,
            ts_event=0,
            number=trade,
            price=0,
            size=0,
            bought=None,
            sequence=message.sequence,
            heartbeat=heartbeat,
        )

    # Numbers.

    def _take_one(self, message: VenueMessage) -> None:
        if isinstance(message, MarkMessage):
            self._judge(message)
        elif not isinstance(message, TradeMessage) or self._is_next(message):
            super()._take_one(message)

    def _is_next(self, trade: TradeMessage) -> bool:
        """Whether a trade is a new one; where trades before it are missing, so may be what changed the book."""
        reached = self._reached.setdefault(trade.symbol, _Reached())
        if 0 < trade.number <= reached.trade:
            self.tally.old += 1
            return False
        if reached.trade and trade.symbol not in self._full:
            reached.links += 1
            if trade.number > reached.trade + 1:
                self._lose(self.enter(trade), reached.trade, trade.number)
        reached.trade = trade.number
        return True

    def _judge(self, mark: MarkMessage) -> None:
        """What one heartbeat told must have come before the next one."""
        state = self.enter(mark)
        reached = self._reached.setdefault(mark.symbol, _Reached())
        if not mark.heartbeat:
            reached.trade = max(reached.trade, mark.number)
            return
        if mark.symbol in self._full:
            if state.synced and 0 < state.last < reached.told_sequence:
                self._lose(state, state.last, reached.told_sequence + 1)
        elif 0 < reached.trade < reached.told_trade:
            self._lose(state, reached.trade, reached.told_trade + 1)
            reached.trade = reached.told_trade
        reached.told_trade, reached.told_sequence = mark.number, mark.sequence

    def _lose(self, state: BookState, last: int, following: int) -> None:
        if state.has_book and not state.synced:
            return  # it is not trusted already
        state.synced = False
        self._suspect(state, Cause.SEQUENCE, last, following, following - last - 1)
        if state.has_book:
            self._wish_book(state.instrument.symbol, state)

    def _lose_all(self, cause: Cause) -> None:
        super()._lose_all(cause)
        for reached in self._reached.values():  # what was missed is said by the gap already
            reached.trade = reached.told_trade = reached.told_sequence = 0

    def _whole(self, state: BookState, message: BookMessage) -> None:
        if state.confidence is not Confidence.GOOD:
            reached = self._reached.setdefault(message.symbol, _Reached())
            reached.told_trade = reached.told_sequence = 0
        super()._whole(state, message)

    # Books.

    def _apply(self, state: BookState, message: BookMessage) -> bool:
        if not isinstance(message, OrderMessage):
            return super()._apply(state, message)
        if not isinstance(state.book, OrdersBook):
            state.book = OrdersBook()
        self._reached.setdefault(message.symbol, _Reached()).links += not message.whole
        cells: Cells
        cells, possible = state.book.apply(message, state.instrument.id, self._now)
        if len(cells):
            self._out.append(cells)
        return possible

    def buffered(self, state: BookState) -> bool:
        """Books by order are asked for."""
        return state.instrument.symbol in self._full

    def link(self, state: BookState, message: BookMessage) -> Link:
        """Messages of `full` are consecutive; those of level2 bear no number."""
        if not isinstance(message, OrderMessage):
            return Link.NEXT
        if message.last <= state.last:
            return Link.OLD
        return Link.NEXT if message.first == state.last + 1 else Link.BROKEN

    def missing(self, state: BookState, message: BookMessage) -> int:
        """Each message has one number."""
        return message.first - state.last - 1 if isinstance(message, OrderMessage) else 0

    # Wishes.

    def subscribe(self) -> list[Wish]:
        """All channels of all symbols, in messages of bounded length."""
        parts = [
            self.symbols[at : at + _SYMBOLS_PER_MESSAGE] for at in range(0, len(self.symbols), _SYMBOLS_PER_MESSAGE)
        ]
        return [_operation("subscribe", _CHANNELS[self._market], part) for part in parts]

    def ask_book(self, symbol: str) -> list[Wish]:
        """The orders by REST; or the levels by subscribing anew, as the venue then begins with a whole book."""
        if symbol in self._full:
            return [Wish(want=Want.SNAPSHOT, symbol=symbol, request=f"/products/{symbol}/book?level=3")]
        return [_operation(name, _CHANNELS["level2"][:1], (symbol,)) for name in ("unsubscribe", "subscribe")]

    def guess(self, symbol: str) -> Instrument:
        """`BTC-USD` is priced in what stands behind the hyphen."""
        return replace(super().guess(symbol), currency=symbol.partition("-")[2] or "USD")


def _neither(side: str, product: str) -> bool:
    raise DecodeError(f"a side is neither buy nor sell: {side[:20]!r}", subject=product)


def _operation(name: str, channels: Sequence[str], symbols: Sequence[str]) -> Wish:
    body = msgspec.json.encode({"type": name, "product_ids": list(symbols), "channels": list(channels)})
    return Wish(want=Want.SEND, body=body)


class _Links:
    """Counts what the session compared: `check_capture` tells its gaps."""

    def __init__(self, feed: CaptureFeed, check: Check) -> None:
        self._feed, self._check = feed, check

    def see(self, message: Message, cells: Cells, books: dict[int, LevelsByPrice]) -> None:
        """Nothing to hold against one message."""

    def changed(self, message: Message, instrument: int, sequence: int, ts_event: int, best: Best) -> None:
        """Nothing to hold against one book."""

    def end(self) -> dict[str, int]:
        """The numbers that were held against the one before."""
        session = self._feed.session
        links = session.links if isinstance(session, CoinbaseSession) else 0
        self._check.compared += links
        return {"links": links}


def open_files(paths: Sequence[Path], options: SourceOptions) -> CaptureFeed:
    """The feed over the files of one recording; books of orders may lie in a file of their own."""
    return open_capture(CoinbaseSession, paths, options)


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """Every sequence number and trade number, and what each order had left when it ended."""
    return check_capture(CoinbaseSession, paths, options, primary="", observer=_Links)
