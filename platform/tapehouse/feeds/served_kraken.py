"""Kraken as a feed server plays it: subscriptions by symbol, and books that begin with a snapshot on the connection.

A recording has one depth, whatever a client asks for: the recorded acknowledgement is played to it, and its own says no
depth before that.
"""

from __future__ import annotations

import json
from typing import Any

from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.feeds.capture import Happening, Message
from tapehouse.feeds.served_book import ServedBook
from tapehouse.feeds.served_protocol import Client, Played, as_list, json_object, json_text

PATH = "/v2"
_DEPTHS = (10, 25, 100, 500, 1000)
_CHANNELS = frozenset(("book", "trade", "ticker"))


class _Book:
    """One symbol's levels and newest checksum."""

    def __init__(self, depth: int = 0) -> None:
        self.levels = ServedBook()
        self.depth = depth  # 0: not known yet
        self.checksum = "0"

    def take(self, told: dict[str, Any], *, whole: bool) -> None:
        """One message's levels; what is pushed out of the depth is gone."""
        if whole:
            self.levels.clear()
        bids, asks = ([[level["price"], level["qty"]] for level in told.get(side, ())] for side in ("bids", "asks"))
        self.levels.apply(bids, asks)
        self.checksum = str(told.get("checksum", "0"))
        if not self.depth:
            longest = max(len(bids), len(asks))
            self.depth = longest if longest in _DEPTHS else _DEPTHS[-1]
        if max(map(len, self.levels.rows())) > self.depth:
            bids, asks = self.levels.rows(self.depth)
            self.levels.clear()
            self.levels.apply(bids, asks)


class ServedKraken:
    """Version 2 of the public websocket: `book`, `trade` and `ticker`."""

    def __init__(self) -> None:
        self._books: dict[str, _Book] = {}

    def connect(self, path: str, query: str) -> Client:
        """There is one URL."""
        if path != PATH:
            raise UsageError(f"no stream at {path}", hint=PATH)
        return Client()

    def play(self, message: Message) -> Played | None:
        """See `ServedVenue`; what says nothing of one symbol is for nobody."""
        if message.kind is not Happening.RECEIVED:
            return None
        told = json_object(message.body, str)
        if told.get("method") == "subscribe":
            return self._acknowledged(message.body, told.get("result"))
        channel, data = str(told.get("channel")), told.get("data")
        if channel not in _CHANNELS or not isinstance(data, list) or not data:
            return None
        try:
            symbol = str(data[0]["symbol"])
            if any(part["symbol"] != symbol for part in data):
                raise DecodeError("one message of several symbols", subject=message.file)
            if channel == "book":
                for part in data:
                    self._book(symbol).take(part, whole=told.get("type") == "snapshot")
        except (KeyError, TypeError, AttributeError) as error:
            raise DecodeError(f"a message of {channel} lacks {error}", subject=message.file) from error
        first = channel == "book" and told.get("type") == "snapshot"
        return Played(
            channel=f"{channel} {symbol}",
            body=message.body,
            numbered=channel == "book" and not first,
            first=first,
        )

    def message_for(self, client: Client, played: Played) -> bytes | None:
        """As it was recorded."""
        return played.body if played.channel in client.channels else None

    def receive(self, client: Client, body: bytes) -> list[bytes]:
        """Acknowledgements, and the books of those who did not have them."""
        message = json_object(body, str)
        method, parameters = message.get("method"), message.get("params")
        if method == "ping":
            return [json_text({"method": "pong"})]
        if method not in ("subscribe", "unsubscribe") or not isinstance(parameters, dict):
            return [json_text({"error": "Method not supported", "method": str(method), "success": False})]
        channel, answers = str(parameters.get("channel")), []
        for symbol in map(str, as_list(parameters.get("symbol"))):
            key = f"{channel} {symbol}"
            new = method == "subscribe" and client.subscribe(key, symbol)
            if method == "unsubscribe":
                client.channels.pop(key, None)
            book = self._books.get(symbol) if channel == "book" else None
            result: dict[str, Any] = {"channel": channel, "symbol": symbol}
            if book is not None and book.depth:
                result["depth"] = book.depth
            answers.append(json_text({"method": method, "result": result, "success": True}))
            if new and book is not None and book.levels.known and parameters.get("snapshot", True):
                answers.append(_snapshot(symbol, book))
        return answers

    def rest(self, path: str, query: dict[str, str]) -> bytes | None:
        """Its books do not come by REST."""
        return None

    def corrupt(self, body: bytes) -> bytes | None:
        """The last digit of the first level's size is another one."""
        begin = body.find(b'"qty":')
        end = next((at for at in range(begin + 6, len(body)) if body[at] in b",}"), 0) if begin >= 0 else 0
        if b'"checksum"' not in body or not 48 <= body[end - 1] <= 57:
            return None
        return body[: end - 1] + bytes((48 + (body[end - 1] - 47) % 10,)) + body[end:]

    def _acknowledged(self, body: bytes, result: object) -> Played | None:
        """The recorder's own subscription to a book: clients learn its depth from it."""
        if not isinstance(result, dict) or result.get("channel") != "book" or "depth" not in result:
            return None
        symbol, depth = str(result.get("symbol")), str(result["depth"])
        if depth not in map(str, _DEPTHS):
            return None
        self._book(symbol).depth = int(depth)
        return Played(channel=f"book {symbol}", body=body, numbered=False)

    def _book(self, symbol: str) -> _Book:
        return self._books.setdefault(symbol, _Book())


def _snapshot(symbol: str, book: _Book) -> bytes:
    """The book as it stands, its numbers as they were written."""
    sides = [",".join(f'{{"price":{row[0]},"qty":{row[1]}}}' for row in rows) for rows in book.levels.rows(book.depth)]
    data = f'{{"symbol":{json.dumps(symbol)},"bids":[{sides[0]}],"asks":[{sides[1]}],"checksum":{book.checksum}}}'
    return f'{{"channel":"book","type":"snapshot","data":[{data}]}}'.encode()
