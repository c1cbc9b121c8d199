"""Bybit and Deribit as a feed server plays them: topics, and books that begin with a snapshot on the connection."""

from __future__ import annotations

import json
from typing import Any

from tapehouse.core.errors import UsageError
from tapehouse.feeds.capture import Happening, Message
from tapehouse.feeds.faults import corrupt_json
from tapehouse.feeds.served_book import ServedBook
from tapehouse.feeds.served_protocol import Client, Played, as_list, json_object, json_text, of_the_venue

_BYBIT_PATHS = ("/v5/public/spot", "/v5/public/linear", "/v5/public/inverse")
_DERIBIT_PATH = "/ws/api/v2"


class ServedBybit:
    """`{"op": "subscribe", "args": ["orderbook.200.BTCUSDT"]}`; whatever the depth, it gets the recorded one."""

    def __init__(self) -> None:
        self._books: dict[str, ServedBook] = {}
        self._last: dict[str, dict[str, Any]] = {}

    def connect(self, path: str, query: str) -> Client:
        if path not in _BYBIT_PATHS:
            raise UsageError(f"no stream at {path}", hint=", ".join(_BYBIT_PATHS))
        return Client()

    def play(self, message: Message) -> Played | None:
        if message.kind is not Happening.RECEIVED:
            return None
        told = json_object(message.body)
        if not isinstance(told.get("topic"), str) or "data" not in told:
            return None
        key = _topic_key(told["topic"])
        is_book, first = key.startswith("orderbook."), told.get("type") == "snapshot"
        if is_book:
            book = self._books.setdefault(key, ServedBook())
            if first:
                book.clear()
            with of_the_venue():
                book.apply(told["data"].get("b", ()), told["data"].get("a", ()))
            self._last[key] = told
        return Played(channel=key, body=message.body, numbered=is_book and not first, first=is_book and first)

    def message_for(self, client: Client, played: Played) -> bytes | None:
        return played.body if played.channel in client.channels else None

    def receive(self, client: Client, body: bytes) -> list[bytes]:
        message = json_object(body)
        operation = message.get("op")
        answers = [json_text({"success": True, "ret_msg": "", "op": operation, "req_id": message.get("req_id", "")})]
        if operation == "ping":
            return [json_text({"success": True, "ret_msg": "pong", "op": "ping"})]
        for topic in map(str, as_list(message.get("args"))):
            key = _topic_key(topic)
            if operation == "unsubscribe":
                client.channels.pop(key, None)
            elif operation == "subscribe" and client.subscribe(key, topic) and key in self._last:
                bids, asks = self._books[key].rows()
                last = self._last[key]
                data = {**last["data"], "b": bids, "a": asks}
                answers.append(json_text({**last, "type": "snapshot", "data": data}))
        return answers

    def rest(self, path: str, query: dict[str, str]) -> bytes | None:
        return None

    def corrupt(self, body: bytes) -> bytes | None:
        return corrupt_json(body)


class ServedDeribit:
    """JSON-RPC: `public/subscribe` to channels; whatever the interval, they come at the recorded one."""

    def __init__(self) -> None:
        self._books: dict[str, ServedBook] = {}
        self._last: dict[str, dict[str, Any]] = {}  # the data of the newest message of a book

    def connect(self, path: str, query: str) -> Client:
        if path != _DERIBIT_PATH:
            raise UsageError(f"no stream at {path}", hint=_DERIBIT_PATH)
        return Client()

    def play(self, message: Message) -> Played | None:
        if message.kind is not Happening.RECEIVED:
            return None
        told = json_object(message.body, number=_Number)
        parameters = told.get("params")
        if told.get("method") != "subscription" or not isinstance(parameters, dict):
            return None
        with of_the_venue():
            key, data = _channel_key(parameters["channel"]), parameters["data"]
            is_book = key.startswith("book.") and "change_id" in data
            first = is_book and "prev_change_id" not in data
            if is_book:
                book = self._books.setdefault(key, ServedBook())
                if first:
                    book.clear()
                book.apply(_levels(data["bids"]), _levels(data["asks"]))
                self._last[key] = data
        return Played(channel=key, body=message.body, numbered=is_book and not first, first=first)

    def message_for(self, client: Client, played: Played) -> bytes | None:
        return played.body if played.channel in client.channels else None

    def receive(self, client: Client, body: bytes) -> list[bytes]:
        message = json_object(body)
        method, parameters = message.get("method"), message.get("params")
        channels = as_list(parameters.get("channels")) if isinstance(parameters, dict) else []
        answers, result = [], "ok" if method != "public/get_instrument" else {}
        for channel in map(str, channels):
            key = _channel_key(channel)
            if method == "public/unsubscribe":
                client.channels.pop(key, None)
            elif method == "public/subscribe" and client.subscribe(key, channel) and key in self._last:
                answers.append(self._snapshot(key, channel))
        return [json_text({"jsonrpc": "2.0", "id": message.get("id"), "result": channels or result}), *answers]

    def rest(self, path: str, query: dict[str, str]) -> bytes | None:
        return None

    def corrupt(self, body: bytes) -> bytes | None:
        return corrupt_json(body)

    def _snapshot(self, key: str, channel: str) -> bytes:
        """The book as it stands, its numbers as the venue wrote them."""
        last = self._last[key]
        sides = []
        for rows in self._books[key].rows():
            sides.append("[" + ",".join(f'["new",{price},{size}]' for price, size in rows) + "]")
        known = {
            name: int(last[name]) if name != "instrument_name" else last[name]
            for name in ("timestamp", "instrument_name", "change_id")
            if name in last
        }
        data = json.dumps({"type": "snapshot", **known})[:-1] + f',"bids":{sides[0]},"asks":{sides[1]}}}'
        head = f'{{"jsonrpc":"2.0","method":"subscription","params":{{"channel":{json.dumps(channel)},"data":'
        return f"{head}{data}}}}}".encode()


class _Number(str):
    """A JSON number as it was written."""

    __slots__ = ()


def _levels(rows: Any) -> list[list[str]]:
    """`["new" | "change" | "delete", price, size]` as price and size."""
    return [[row[1], "0" if row[0] == "delete" else row[2]] for row in rows]


def _topic_key(topic: str) -> str:
    """`orderbook.BTCUSDT` of `orderbook.200.BTCUSDT`."""
    parts = topic.split(".")
    return f"{parts[0]}.{parts[-1]}"


def _channel_key(channel: str) -> str:
    """`book.BTC-PERPETUAL` of `book.BTC-PERPETUAL.raw`."""
    return ".".join(channel.split(".")[:2])
