"""Venues as a feed server plays them: what a client may send, who gets which message, and snapshots at any moment.

No socket and no clock: `play` takes the next message of a recording, `Client` is what one connection has asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.feeds.capture import Happening, Message
from tapehouse.feeds.faults import corrupt_json, corrupt_level
from tapehouse.feeds.served_book import ServedBook
from tapehouse.feeds.served_coinbase import ServedCoinbase
from tapehouse.feeds.served_kraken import ServedKraken
from tapehouse.feeds.served_protocol import (
    Client,
    Played,
    ServedVenue,
    as_list,
    json_object,
    json_text,
    of_the_venue,
)
from tapehouse.feeds.served_topics import ServedBybit, ServedDeribit

REST_LEVELS_MAX = 5_000
_EARLY_MAX = 10_000  # changes of a book that were recorded before its snapshot


class ServedBinance:
    """Spot, USD-M and COIN-M: streams by URL or SUBSCRIBE, depth snapshots by REST."""

    def __init__(self) -> None:
        self._books: dict[str, _BinanceBook] = {}

    def connect(self, path: str, query: str) -> Client:
        """`/stream?streams=A/B`, `/stream`, `/ws/A/B` or `/ws`."""
        client = Client()
        if path == "/stream":
            names = next((part[8:] for part in query.split("&") if part.startswith("streams=")), "")
        elif path == "/ws" or path.startswith("/ws/"):
            client.combined, names = False, path[4:]
        else:
            raise UsageError(f"no stream at {path}", hint="/stream?streams=... or /ws/...")
        for name in filter(None, names.split("/")):
            client.subscribe(_stream_key(name), name)
        return client

    def play(self, message: Message) -> Played | None:
        if message.kind not in (Happening.RECEIVED, Happening.ANSWERED):
            return None
        url, body = message.url, message.body
        told = json_object(body)
        if "lastUpdateId" in told:
            symbol = _query_of(url).get("symbol") or told.get("symbol") or self._only_symbol()
            with of_the_venue():
                self._book(str(symbol).upper()).snapshot(told)
            return None
        if "stream" not in told or not isinstance(told.get("data"), dict):
            return None
        data, name = told["data"], str(told["stream"])
        if data.get("e") == "depthUpdate":
            with of_the_venue():
                self._book(str(data.get("s")).upper()).change(data)
        return Played(channel=_stream_key(name), body=body, numbered=data.get("e") == "depthUpdate")

    def message_for(self, client: Client, played: Played) -> bytes | None:
        name = client.channels.get(played.channel)
        if name is None:
            return None
        begin = played.body.find(b'"data":') + 7
        data = played.body[begin : played.body.rfind(b"}")]
        return b'{"stream":%s,"data":%s}' % (json.dumps(name).encode(), data) if client.combined else data

    def receive(self, client: Client, body: bytes) -> list[bytes]:
        message = json_object(body)
        names = [str(name) for name in as_list(message.get("params"))]
        if message.get("method") == "SUBSCRIBE":
            for name in names:
                client.subscribe(_stream_key(name), name)
        elif message.get("method") == "UNSUBSCRIBE":
            for name in names:
                client.channels.pop(_stream_key(name), None)
        else:
            return [json_text({"error": {"code": 2, "msg": "unknown method"}, "id": message.get("id")})]
        return [json_text({"result": None, "id": message.get("id")})]

    def rest(self, path: str, query: dict[str, str]) -> bytes | None:
        if path not in ("/api/v3/depth", "/fapi/v1/depth", "/dapi/v1/depth"):
            return None
        book = self._books.get(query.get("symbol", "").upper())
        limit = query.get("limit", "500")
        if book is None or not book.levels.known:
            return b""
        levels = min(int(limit), REST_LEVELS_MAX) if limit.isdecimal() and len(limit) < 9 else 500
        bids, asks = book.levels.rows(levels)
        answer: dict[str, Any] = {"lastUpdateId": book.last}
        if path != "/api/v3/depth":
            answer |= {"E": book.event_ms, "T": book.transaction_ms}
        if path == "/dapi/v1/depth":
            answer["symbol"], answer["pair"] = query["symbol"].upper(), query["symbol"].upper().split("_")[0]
        return json_text(answer | {"bids": bids, "asks": asks})

    def corrupt(self, body: bytes) -> bytes | None:
        return corrupt_json(body)

    def _book(self, symbol: str) -> _BinanceBook:
        return self._books.setdefault(symbol, _BinanceBook())

    def _only_symbol(self) -> str:
        """Of a spot snapshot, which does not say it."""
        waiting = [symbol for symbol, book in self._books.items() if not book.levels.known]
        if len(waiting) != 1:
            raise DecodeError(
                f"a depth snapshot without a symbol, and {len(waiting)} books that lack one",
                hint="serve a recording of one symbol, or one whose snapshots are named",
            )
        return waiting[0]


class _BinanceBook:
    """One symbol's levels and numbers."""

    def __init__(self) -> None:
        self.levels = ServedBook()
        self.last = self.event_ms = self.transaction_ms = 0
        self._early: list[dict[str, Any]] = []

    def snapshot(self, message: dict[str, Any]) -> None:
        """The recorded answer of the REST API; changes recorded before it that go beyond it are applied to it."""
        self.levels.clear()
        self.levels.apply(message.get("bids", ()), message.get("asks", ()))
        self.last = int(message["lastUpdateId"])
        early, self._early = self._early, []
        for change in early:
            self.change(change)

    def change(self, data: dict[str, Any]) -> None:
        """One `depthUpdate`."""
        if not self.levels.known:
            if len(self._early) >= _EARLY_MAX:
                raise DecodeError(f"{_EARLY_MAX} changes of a book, and no snapshot of it", subject=str(data.get("s")))
            self._early.append(data)
        elif int(data["u"]) > self.last:
            self.levels.apply(data.get("b", ()), data.get("a", ()))
            self.last, self.event_ms = int(data["u"]), int(data["E"])
            self.transaction_ms = int(data.get("T", data["E"]))


class ServedArguments:
    """OKX and Bitget: `{"op": "subscribe", "args": [...]}`, and books that begin with a snapshot on the connection.

    Args:
        paths: Of the venue's public websocket, in all versions of its API.
        books: Channels that carry books.
    """

    def __init__(self, paths: tuple[str, ...], books: frozenset[str]) -> None:
        self._paths, self._channels = paths, books
        self._books: dict[str, ServedBook] = {}
        self._last: dict[str, dict[str, Any]] = {}  # by channel: the newest message of a book

    def connect(self, path: str, query: str) -> Client:
        if path not in self._paths:
            raise UsageError(f"no stream at {path}", hint=self._paths[0])
        return Client()

    def play(self, message: Message) -> Played | None:
        if message.kind is not Happening.RECEIVED or not message.body.startswith(b"{"):
            return None  # also the answer to a ping
        told = json_object(message.body)
        argument = told.get("arg")
        if "event" in told or not isinstance(argument, dict) or "data" not in told:
            return None
        key = _argument_key(argument)
        is_book = argument.get("channel") in self._channels
        if is_book:
            book = self._books.setdefault(key, ServedBook())
            if told.get("action") == "snapshot":
                book.clear()
            with of_the_venue():
                for part in told["data"]:
                    book.apply(part.get("bids", ()), part.get("asks", ()))
                self._last[key] = {**told, "data": [{**told["data"][-1]}]} if told["data"] else self._last[key]
        first = is_book and told.get("action") == "snapshot"
        return Played(channel=key, body=message.body, numbered=is_book and not first, first=first)

    def message_for(self, client: Client, played: Played) -> bytes | None:
        return played.body if played.channel in client.channels else None

    def receive(self, client: Client, body: bytes) -> list[bytes]:
        if body == b"ping":
            return [b"pong"]
        message = json_object(body)
        answers = []
        for argument in as_list(message.get("args")):
            if not isinstance(argument, dict):
                continue
            key = _argument_key(argument)
            if message.get("op") == "subscribe":
                new = client.subscribe(key, argument)
                answers.append(json_text({"event": "subscribe", "arg": argument}))
                if new and key in self._last:
                    answers.append(self._snapshot(key, argument))
            elif message.get("op") == "unsubscribe":
                client.channels.pop(key, None)
                answers.append(json_text({"event": "unsubscribe", "arg": argument}))
        return answers or [json_text({"event": "error", "code": "60012", "msg": "Invalid request"})]

    def rest(self, path: str, query: dict[str, str]) -> bytes | None:
        return None

    def corrupt(self, body: bytes) -> bytes | None:
        return corrupt_level(body)

    def _snapshot(self, key: str, argument: dict[str, Any]) -> bytes:
        """The book as it stands, with the newest message's numbers and the checksum of just that."""
        book, last = self._books[key], self._last[key]
        bids, asks = book.rows()
        part = {**last["data"][-1], "bids": bids, "asks": asks, "checksum": book.checksum()}
        return json_text({**last, "action": "snapshot", "arg": last.get("arg", argument), "data": [part]})


_VENUES: dict[str, Callable[[], ServedVenue]] = {
    "binance": ServedBinance,
    "bybit": ServedBybit,
    "deribit": ServedDeribit,
    "okx": lambda: ServedArguments(("/ws/v5/public",), frozenset({"books", "books50-l2-tbt", "books-l2-tbt"})),
    "bitget": lambda: ServedArguments(("/v2/ws/public", "/mix/v1/stream", "/spot/v1/stream"), frozenset({"books"})),
    "kraken": ServedKraken,
    "coinbase": ServedCoinbase,
}


def served_names() -> Iterator[str]:
    """Venues that can be served."""
    return iter(_VENUES)


def served_venue(name: str) -> ServedVenue:
    """A venue of which nothing was played yet; raises UsageError where it cannot be served."""
    if name not in _VENUES:
        raise UsageError(f"{name} cannot be served", hint=f"one of {', '.join(_VENUES)}")
    return _VENUES[name]()


def _stream_key(name: str) -> str:
    """`btcusdt@depth` of `btcusdt@depth@100ms`: one recording has one pace."""
    return "@".join(name.split("@")[:2]).lower()


def _argument_key(argument: dict[str, Any]) -> str:
    return f"{argument.get('channel')} {argument.get('instId')}"


def _query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))
