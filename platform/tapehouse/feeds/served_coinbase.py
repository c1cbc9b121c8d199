"""Coinbase Exchange as a feed server plays it: channels by product, levels on the connection, orders by REST."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.feeds.capture import Happening, Message
from tapehouse.feeds.faults import corrupt_json
from tapehouse.feeds.served_book import ServedBook
from tapehouse.feeds.served_protocol import Client, Played, as_list, json_object, json_text

ORDERS_MAX = 1 << 20
_EARLY_MAX = 10_000  # messages of orders that were recorded before their book
_BOOK = re.compile(r"/products/([^/]+)/book$")
_KINDS = {
    "snapshot": "level2",
    "l2update": "level2",
    "match": "match",
    "ticker": "ticker",
    "heartbeat": "heartbeat",
    "received": "orders",
    "open": "orders",
    "done": "orders",
    "change": "orders",
}
_SUBSCRIBED = {
    "level2": ("level2",),
    "level2_batch": ("level2",),
    "matches": ("match",),
    "ticker": ("ticker",),
    "heartbeat": ("heartbeat",),
    "full": ("orders", "match"),
}


class _Orders:
    """One product's orders, as messages of `full` change them."""

    def __init__(self) -> None:
        self.sequence = 0  # 0: no book was played yet
        self._orders: dict[str, tuple[str, str, Decimal]] = {}  # side, price, size
        self._early: list[dict[str, Any]] = []

    def whole(self, told: dict[str, Any]) -> None:
        """The recorded answer of the REST API; messages recorded before it that go beyond it are applied to it."""
        if self.sequence:
            return  # what was played since is newer
        for side in ("buy", "sell"):
            for price, size, order in told["bids" if side == "buy" else "asks"]:
                self._orders[order] = (side, price, Decimal(size))
        self.sequence = int(told["sequence"])
        early, self._early = self._early, []
        for message in early:
            self.take(message)

    def take(self, told: dict[str, Any]) -> None:
        """One message."""
        if not self.sequence:
            if len(self._early) >= _EARLY_MAX:
                raise DecodeError(
                    f"{_EARLY_MAX} messages of orders, and no book of them", subject=str(told["product_id"])
                )
            self._early.append(told)
            return
        if int(told["sequence"]) <= self.sequence:
            return
        self.sequence = int(told["sequence"])
        kind = told["type"]
        order = told["maker_order_id" if kind == "match" else "order_id"]
        if kind == "open":
            if len(self._orders) >= ORDERS_MAX:
                raise DecodeError(f"more than {ORDERS_MAX} orders", subject=str(told.get("product_id")))
            self._orders[order] = (told["side"], told["price"], Decimal(told["remaining_size"]))
        elif kind == "done":
            self._orders.pop(order, None)
        elif order in self._orders and kind == "match":
            self._set(order, size=self._orders[order][2] - Decimal(told["size"]))
        elif order in self._orders and kind == "change" and told.get("new_size"):
            self._set(order, size=Decimal(told["new_size"]), price=told.get("new_price"))

    def _set(self, order: str, *, size: Decimal, price: str | None = None) -> None:
        side, known, _ = self._orders.pop(order)
        if size > 0:
            self._orders[order] = (side, price or known, size)

    def answer(self) -> bytes:
        """The book of level 3."""
        sides: dict[str, list[list[str]]] = {"buy": [], "sell": []}
        for order, (side, price, size) in self._orders.items():
            sides[side].append([price, f"{size:f}", order])
        return json_text({"bids": sides["buy"], "asks": sides["sell"], "sequence": self.sequence})


class ServedCoinbase:
    """The websocket feed and the book of level 3."""

    def __init__(self) -> None:
        self._levels: dict[str, ServedBook] = {}
        self._orders: dict[str, _Orders] = {}

    def connect(self, path: str, query: str) -> Client:
        """There is one URL."""
        if path not in ("", "/"):
            raise UsageError(f"no stream at {path}", hint="/")
        return Client()

    def play(self, message: Message) -> Played | None:
        """See `ServedVenue`."""
        try:
            if message.kind is Happening.ANSWERED:
                asked = _BOOK.search(message.url.partition("?")[0])
                if asked is not None:
                    self._of(asked[1]).whole(json_object(message.body))
                return None
            if message.kind is not Happening.RECEIVED:
                return None
            told = json_object(message.body)
            kind, product = _KINDS.get(str(told.get("type"))), told.get("product_id")
            if kind is None or not isinstance(product, str):
                return None
            if kind == "level2":
                self._change_levels(product, told)
            elif kind in ("orders", "match"):
                self._of(product).take(told)
        except (KeyError, TypeError, ValueError, AttributeError, InvalidOperation) as error:
            raise DecodeError(f"it is none of the venue's messages: {error!r}", subject=message.file) from error
        return Played(
            channel=f"{kind} {product}",
            body=message.body,
            numbered=kind in ("orders", "match"),
            first=told["type"] == "snapshot",
        )

    def message_for(self, client: Client, played: Played) -> bytes | None:
        """As it was recorded."""
        return played.body if played.channel in client.channels else None

    def receive(self, client: Client, body: bytes) -> list[bytes]:
        """The list of subscriptions, and the levels of those who did not have them."""
        message = json_object(body)
        method = message.get("type")
        if method not in ("subscribe", "unsubscribe"):
            return [json_text({"type": "error", "message": "Malformed JSON", "reason": f"type {method!r}"})]
        told, books = [], []
        for channel in as_list(message.get("channels")):
            wanted = channel if isinstance(channel, dict) else {"name": channel}
            name = str(wanted.get("name"))
            products = [str(item) for item in as_list(wanted.get("product_ids") or message.get("product_ids"))]
            if name not in _SUBSCRIBED:
                return [
                    json_text({"type": "error", "message": "Failed to subscribe", "reason": f"{name} is no channel"})
                ]
            told.append({"name": name, "product_ids": products})
            for key in (f"{kind} {product}" for kind in _SUBSCRIBED[name] for product in products):
                if method == "unsubscribe":
                    client.channels.pop(key, None)
                elif client.subscribe(key, name) and key.startswith("level2 "):
                    books.append(key.partition(" ")[2])
        return [json_text({"type": "subscriptions", "channels": told}), *self._snapshots(books)]

    def rest(self, path: str, query: dict[str, str]) -> bytes | None:
        """`/products/PRODUCT/book?level=3`."""
        asked = _BOOK.search(path)
        if asked is None or query.get("level") != "3":
            return None
        orders = self._orders.get(asked[1])
        return orders.answer() if orders is not None and orders.sequence else b""

    def corrupt(self, body: bytes) -> bytes | None:
        """No JSON any more: it bears no checksum."""
        return corrupt_json(body)

    def _change_levels(self, product: str, told: dict[str, Any]) -> None:
        book = self._levels.setdefault(product, ServedBook())
        if told["type"] == "snapshot":
            book.clear()
            book.apply(told["bids"], told["asks"])
            return
        changes = told["changes"]
        book.apply(*([row[1:] for row in changes if row[0] == side] for side in ("buy", "sell")))

    def _snapshots(self, products: list[str]) -> list[bytes]:
        found = []
        for product in products:
            book = self._levels.get(product)
            if book is not None and book.known:
                bids, asks = book.rows()
                found.append(json_text({"type": "snapshot", "product_id": product, "bids": bids, "asks": asks}))
        return found

    def _of(self, product: str) -> _Orders:
        return self._orders.setdefault(product, _Orders())
