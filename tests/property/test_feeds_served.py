"""Venues as a feed server plays them: snapshots are the book of their moment, and clients may send anything."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.feeds.capture import Happening, Message
from tapehouse.feeds.served_book import ServedBook
from tapehouse.feeds.served_venues import served_names, served_venue

Level = tuple[int, int]
PATHS = {
    "binance": "/stream",
    "bitget": "/v2/ws/public",
    "bybit": "/v5/public/spot",
    "coinbase": "/",
    "deribit": "/ws/api/v2",
    "kraken": "/v2",
    "okx": "/ws/v5/public",
}
levels = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 3)), max_size=4)


def rows(side: list[Level]) -> list[list[str]]:
    return [[f"{price}.50", f"{size}.0"] for price, size in side]


def kept(book: dict[int, int], side: list[Level]) -> None:
    """The obvious book: the last size of each price, without zeros."""
    for price, size in side:
        book[price] = size
        if not size:
            del book[price]


def told(side: list[list[str]]) -> dict[int, int]:
    return {int(Decimal(price)): int(Decimal(size)) for price, size in side}


def line(body: object) -> Message:
    return Message(ts_recv=0, kind=Happening.RECEIVED, body=json.dumps(body).encode())


@settings(deadline=None)
@given(st.lists(st.tuples(levels, levels), min_size=1, max_size=12))
def test_a_depth_snapshot_is_the_book_so_far(changes: list[tuple[list[Level], list[Level]]]) -> None:
    venue = served_venue("binance")
    query = {"symbol": "ABUSD", "limit": "100"}
    assert venue.rest("/api/v3/depth", query) == b""
    bids: dict[int, int] = {}
    asks: dict[int, int] = {}
    for number, (bid, ask) in enumerate(changes, 1):
        diff = {"e": "depthUpdate", "E": number, "s": "ABUSD", "U": number, "u": number, "b": rows(bid), "a": rows(ask)}
        venue.play(line({"stream": "abusd@depth@100ms", "data": diff}))
        kept(bids, bid)
        kept(asks, ask)
        if number == 1:  # the recorded snapshot is of before the first change
            venue.play(line({"lastUpdateId": 0, "bids": [], "asks": []}))
        answer = json.loads(venue.rest("/api/v3/depth", query) or b"")
        assert answer["lastUpdateId"] == number
        assert (told(answer["bids"]), told(answer["asks"])) == (bids, asks)
        assert [Decimal(row[0]) for row in answer["bids"]] == sorted(
            (Decimal(row[0]) for row in answer["bids"]), reverse=True
        )


@settings(deadline=None)
@given(st.sampled_from(["okx", "bitget"]), st.lists(st.tuples(levels, levels), min_size=1, max_size=12))
def test_who_subscribes_late_gets_the_book_so_far(
    venue_name: str, changes: list[tuple[list[Level], list[Level]]]
) -> None:
    venue = served_venue(venue_name)
    argument = {"channel": "books", "instId": "AB-USD"}
    bids: dict[int, int] = {}
    asks: dict[int, int] = {}
    book = ServedBook()
    for number, (bid, ask) in enumerate(changes):
        action = "update" if number else "snapshot"
        book.apply(rows(bid), rows(ask))
        part = {"bids": rows(bid), "asks": rows(ask), "ts": str(number), "checksum": book.checksum()}
        played = venue.play(line({"arg": argument, "action": action, "data": [part]}))
        assert played is not None
        assert played.first == (number == 0)
        kept(bids, bid)
        kept(asks, ask)
        client = venue.connect({"okx": "/ws/v5/public", "bitget": "/mix/v1/stream"}[venue_name], "")
        assert venue.message_for(client, played) is None
        answers = [
            json.loads(answer)
            for answer in venue.receive(client, json.dumps({"op": "subscribe", "args": [argument]}).encode())
        ]
        assert answers[0] == {"event": "subscribe", "arg": argument}
        assert answers[1]["action"] == "snapshot"
        snapshot = answers[1]["data"][0]
        assert (told(snapshot["bids"]), told(snapshot["asks"])) == (bids, asks)
        assert (snapshot["ts"], snapshot["checksum"]) == (str(number), book.checksum())
        assert venue.message_for(client, played) == played.body
        venue.receive(client, json.dumps({"op": "unsubscribe", "args": [argument]}).encode())
        assert venue.message_for(client, played) is None


@settings(deadline=None)
@given(
    st.sampled_from(sorted(served_names())),
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.recursive(
                st.none() | st.integers() | st.text(max_size=8),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(
                            [
                                "op",
                                "args",
                                "method",
                                "params",
                                "id",
                                "channel",
                                "instId",
                                "arg",
                                "data",
                                "stream",
                                "lastUpdateId",
                                "bids",
                            ]
                        ),
                        inner,
                        max_size=4,
                    )
                ),
                max_leaves=8,
            ).map(lambda value: json.dumps(value).encode()),
        ),
        max_size=8,
    ),
)
def test_anything_that_a_client_or_a_file_says_is_answered_or_refused(name: str, bodies: list[bytes]) -> None:
    venue = served_venue(name)
    client = venue.connect(PATHS[name], "")
    for body in bodies:
        for act in (
            lambda body=body: venue.receive(client, body),
            lambda body=body: venue.play(Message(ts_recv=0, kind=Happening.RECEIVED, body=body)),
        ):
            try:
                act()
            except (DecodeError, UsageError):
                continue


def test_what_cannot_be_served() -> None:
    with pytest.raises(UsageError, match="cannot be served"):
        served_venue("nowhere")
    for name in served_names():
        with pytest.raises(UsageError):
            served_venue(name).connect("/nowhere", "")
    client = served_venue("binance").connect("/stream", "streams=abusd@depth/abusd@trade")
    assert set(client.channels) == {"abusd@depth", "abusd@trade"}
