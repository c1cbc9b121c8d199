"""Coinbase Exchange's messages as they are written: the feed's, products, and the book of orders by REST.

Source: Coinbase's public API documentation, "Exchange WebSocket channels" and "Get product book".
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from msgspec import Raw

from tapehouse.feeds.venue_events import TradeMessage
from tapehouse.feeds.venue_fields import Id


class ChannelName(msgspec.Struct):
    """One of the list of subscriptions."""

    name: str
    product_ids: list[str] = []


class FeedMessage(msgspec.Struct, rename={"product": "product_id"}):
    """Every message; a field that a type lacks is empty."""

    type: str
    product: str = ""
    time: str = ""
    sequence: Id = 0
    trade_id: Id = 0
    last_trade_id: Id = 0
    order_id: str = ""
    maker_order_id: str = ""
    side: str = ""
    price: str | None = None
    size: str | None = None
    remaining_size: str | None = None
    old_size: str | None = None
    new_size: str | None = None
    new_price: str | None = None
    best_bid: str = ""
    best_bid_size: str = ""
    best_ask: str = ""
    best_ask_size: str = ""
    message: str = ""
    reason: str = ""
    bids: Raw = Raw(b"[]")
    asks: Raw = Raw(b"[]")
    changes: list[tuple[str, str, str]] = []
    channels: list[ChannelName | str] = []
    products: Raw = Raw(b"[]")


class Product(msgspec.Struct):
    """One of the channel `status`."""

    id: str
    quote_currency: str = "USD"
    base_increment: str = ""
    quote_increment: str = ""


class OrdersAnswer(msgspec.Struct):
    """The book of level 3: price, size and id of each order."""

    sequence: Id
    bids: list[tuple[str, str, str]]
    asks: list[tuple[str, str, str]]
    time: str = ""


MESSAGE = msgspec.json.Decoder(FeedMessage, strict=False)
PRODUCTS = msgspec.json.Decoder(list[Product])
ORDERS = msgspec.json.Decoder(OrdersAnswer, strict=False)


@dataclass(slots=True, kw_only=True)
class MarkMessage(TradeMessage):
    """Which numbers a product has reached: a heartbeat's, or (`sequence` 0) the trade before the first one."""

    sequence: int
    heartbeat: bool
