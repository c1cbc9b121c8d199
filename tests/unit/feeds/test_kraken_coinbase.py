"""Kraken's and Coinbase's captures: the published checksum, recordings that hold, and damage that shows."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pytest

from tapehouse.book import apply as apply_cell
from tapehouse.book import define, levels, make_books
from tapehouse.core.errors import DecodeError
from tapehouse.feeds import SourceOptions, check_source, open_feed
from tapehouse.feeds.capture_feed import CaptureFeed, asked_symbol
from tapehouse.feeds.venue_coinbase import CoinbaseSession
from tapehouse.feeds.venue_kraken import KrakenSession
from tapehouse.feeds.venue_times import utc_ns
from tapehouse.market import Action, Flag, Kind, words
from tests.support.order_venues import (
    SECOND,
    START,
    Consumer,
    Full,
    Kraken,
    Level2,
    write_full,
    write_kraken,
    write_level2,
)

# The worked example of Kraken's guide "Book checksum (WebSocket v2)": ten levels a side, and what it says they give.
ASKS = (
    "45285.2 0.00100000, 45286.4 1.54571953, 45286.6 1.54571109, 45289.6 1.54560911, 45290.2 0.15890660, "
    "45291.8 1.54553491, 45294.7 0.04454749, 45296.1 0.35380000, 45297.5 0.09945542, 45299.5 0.18772827"
)
BIDS = (
    "45283.5 0.10000000, 45283.4 1.54582015, 45282.1 0.10000000, 45281.0 0.10000000, 45280.3 1.54592586, "
    "45279.0 0.07990000, 45277.6 0.03310103, 45277.5 0.30000000, 45277.3 1.54602737, 45276.6 0.15445238"
)
PUBLISHED = 3_310_070_434


def example(checksum: int = PUBLISHED, *, quoted: bool = False) -> bytes:
    sides = []
    for text in (BIDS, ASKS):
        pairs = [row.split() for row in text.split(", ")]
        mark = '"' if quoted else ""
        sides.append(",".join(f'{{"price":{mark}{p}{mark},"qty":{mark}{q}{mark}}}' for p, q in pairs))
    book = f'{{"symbol":"BTC/USD","bids":[{sides[0]}],"asks":[{sides[1]}],"checksum":{checksum}}}'
    return f'{{"channel":"book","type":"snapshot","data":[{book}]}}'.encode()


@pytest.mark.parametrize("quoted", [False, True])
def test_the_published_checksum(quoted: bool) -> None:
    session = KrakenSession(("BTC/USD",), depth=10)
    session.receive(example(quoted=quoted), START)
    assert (session.tally.checksums, session.tally.checksum_mismatches) == (1, 0)
    session = KrakenSession(("BTC/USD",), depth=10)
    session.receive(example(PUBLISHED + 1, quoted=quoted), START)
    assert (session.tally.checksums, session.tally.checksum_mismatches) == (1, 1)


def test_kraken_s_other_channels() -> None:
    session = KrakenSession()
    session.receive(
        b'{"channel":"instrument","type":"snapshot","data":{"assets":[],"pairs":[{"symbol":"BTC/EUR","base":"BTC",'
        b'"quote":"EUR","price_increment":0.1,"qty_increment":0.00000001,"price_precision":1}]}}',
        START,
    )
    session.receive(
        b'{"channel":"ticker","type":"update","data":[{"symbol":"BTC/EUR","bid":10.1,"bid_qty":2.5,"ask":10.2,'
        b'"ask_qty":3.00000000,"last":10.1}]}',
        START,
    )
    session.receive(b'{"channel":"heartbeat"}', START)
    session.receive(b'{"method":"pong","time_in":"2023-09-24T14:10:23.799685Z"}', START)
    session.receive(Kraken(3).trade_message(), START)
    quote, trade = session.take()
    assert (quote["kind"][0], quote["price"].tolist(), quote["size"].tolist()) == (
        Kind.QUOTE,
        [10_100_000_000, 10_200_000_000],
        [250_000_000, 300_000_000],
    )
    assert (trade["kind"][0], trade["order_id"][0], trade["side"][0]) == (Kind.TRADE, 1, ord("A"))
    first = session.instruments[0]
    assert (first.symbol, first.currency, first.tick_size, first.size_exponent) == (
        "BTC/EUR@ticker",
        "EUR",
        100_000_000,
        -8,
    )
    with pytest.raises(DecodeError, match="the venue refuses: Currency pair not supported"):
        session.receive(b'{"method":"subscribe","success":false,"error":"Currency pair not supported A/B"}', START)


def consumed(feed: CaptureFeed) -> Consumer:
    """Sizes and prices in the units of the simulator, whatever the feed found out."""
    consumer = Consumer(feed.instruments[0].price_exponent, feed.instruments[0].size_exponent)
    for cells in feed.batches():
        consumer.take(cells)
    return consumer


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_kraken_capture_holds_and_a_changed_byte_does_not(tmp_path: Path, acknowledged: bool) -> None:
    path = tmp_path / "kraken.capture"
    venue = write_kraken(path, acknowledged=acknowledged)
    check = check_source("kraken", [path])
    assert (check.rows, check.compared, check.mismatches) == (42 + acknowledged, 41, 0)
    assert check.truths["trades"] == 1
    assert venue.right(consumed(CaptureFeed(KrakenSession, [path])))
    raw = bytearray(path.read_bytes())
    at = raw.index(b'"qty":', len(raw) // 2) + 6
    raw[at] = ord("1") + (raw[at] - ord("0") + 1) % 9  # the first digit of a size
    path.write_bytes(raw)
    check = check_source("kraken", [path])
    assert check.mismatches == 1
    assert "checksum" in str(check.first_mismatch)
    raw[at] = ord("x")
    path.write_bytes(raw)
    with pytest.raises(DecodeError, match=r"kraken\.capture, line"):
        check_source("kraken", [path])


def test_a_kraken_level_that_leaves_the_view_is_cancelled_by_us(tmp_path: Path) -> None:
    path = tmp_path / "kraken.capture"
    write_kraken(path)
    cuts = 0
    for cells in CaptureFeed(KrakenSession, [path], batch_cells=7).batches():
        cut = cells[(cells["flags"] & Flag.SYNTHETIC != 0) & (cells["action"] == Action.CANCEL)]
        assert (cut["size"] == 0).all()
        cuts += len(cut)
    assert cuts > 0


def test_a_coinbase_capture_of_orders_holds_and_a_changed_byte_does_not(tmp_path: Path) -> None:
    path = tmp_path / "full.capture"
    venue = write_full(path)
    check = check_source("coinbase", [path])
    assert (check.mismatches, check.first_mismatch) == (0, None)
    assert check.compared == check.truths["chained"] == check.truths["links"]
    assert check.compared > 100
    feed = CaptureFeed(CoinbaseSession, [path])
    assert venue.right(consumed(feed))
    raw = path.read_bytes()
    passes = {
        b"".join(cells.tobytes() for cells in CaptureFeed(CoinbaseSession, [path], batch_cells=size).batches())
        for size in (1, 50, 9999)
    }
    assert len(passes) == 1
    lines = raw.splitlines(keepends=True)
    middle = next(at for at in range(len(lines) // 2, len(lines)) if b'"open"' in lines[at])
    path.write_bytes(b"".join(lines[:middle] + lines[middle + 1 :]))
    check = check_source("coinbase", [path])
    assert check.mismatches == 1
    assert "sequence, 1 missing" in str(check.first_mismatch)
    canceled = next(at for at in range(len(lines) // 2, len(lines)) if b'"canceled"' in lines[at])
    at = raw.index(b'"remaining_size": "', raw.index(lines[canceled])) + 19
    path.write_bytes(raw[:at] + b"7" + raw[at + 1 :])  # what an order has left when it ends is held against the book
    assert check_source("coinbase", [path]).mismatches == 1
    path.write_bytes(raw[:at] + b"x" + raw[at + 1 :])
    with pytest.raises(DecodeError, match=r"full\.capture, line"):
        check_source("coinbase", [path])


def test_a_coinbase_capture_of_levels_holds_and_a_lost_trade_does_not(tmp_path: Path) -> None:
    path = tmp_path / "level2.capture"
    venue = write_level2(path)
    check = check_source("coinbase", [path])
    assert (check.compared, check.mismatches, check.truths["trades"]) == (39, 0, 40)
    assert venue.right(consumed(CaptureFeed(CoinbaseSession, [path])))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:50] + lines[51:]))
    assert b'"match"' in lines[50]
    check = check_source("coinbase", [path])
    assert check.mismatches == 1
    assert "sequence, 1 missing" in str(check.first_mismatch)


def test_where_orders_are_told_levels_are_left_out() -> None:
    session = CoinbaseSession()
    session.receive(b'{"type":"subscriptions","channels":[{"name":"full","product_ids":["BTC-USD"]}]}', START)
    session.receive(Level2(1).whole(), START)
    assert list(session.take()) == []
    order = str(uuid.UUID(int=5))
    answer = {"sequence": 7, "bids": [["100.0", "1.5", order]], "asks": []}
    session.answered("BTC-USD", json.dumps(answer).encode(), START)
    (cells,) = session.take()
    assert cells["kind"].tolist()[0] == Kind.MBO
    assert (cells["kind"] == Kind.WIDE_ID).any()
    assert cells["flags"][-1] & Flag.LAST


def test_an_order_book_that_is_too_old_is_asked_for_again() -> None:
    session, venue = CoinbaseSession(("BTC-USD",), market="full"), Full(5)
    old = venue.whole()
    venue.messages()
    session.connected(START)
    session.receive(venue.messages()[0], START)
    session.wishes()
    session.answered("BTC-USD", old, START + 2 * SECOND)
    (wish,) = session.wishes()
    assert wish.request == "/products/BTC-USD/book?level=3"
    assert session.tally.too_old == 1
    session.answered("BTC-USD", venue.whole(), START + 4 * SECOND)
    assert session.tally.books == 1


@pytest.mark.parametrize(
    ("url", "symbol"),
    [
        ("https://api.exchange.coinbase.com/products/ETH-EUR/book?level=3", "ETH-EUR"),
        ("https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=5", "BTCUSDT"),
        ("https://x/products/ETH-EUR/ticker", ""),
        ("http://[", ""),
    ],
)
def test_whose_book_was_asked_for(url: str, symbol: str) -> None:
    assert asked_symbol(url) == symbol


def test_times() -> None:
    assert utc_ns("1970-01-01T00:00:01Z") == 10**9
    assert utc_ns("2023-10-06T17:35:55.440295Z") == 1_696_613_755_440_295_000
    assert utc_ns("2023-10-06T17:35:55.4402951239Z") == 1_696_613_755_440_295_123
    assert utc_ns("") == 0
    for bad in ("2023-13-06T17:35:55Z", "2023-10-06", "1969-12-31T23:59:59Z", "2262-01-01T00:00:00Z", "x" * 99):
        with pytest.raises(DecodeError, match="is no time in UTC"):
            utc_ns(bad)


def test_both_open_as_formats(tmp_path: Path) -> None:
    path = tmp_path / "kraken.capture"
    write_kraken(path)
    (instrument,) = open_feed("kraken", [path], SourceOptions()).instruments
    assert (instrument.venue, instrument.currency, instrument.tick_size) == ("KRAKEN", "USD", 100_000_000)
    assert instrument.size_exponent == -8


@pytest.mark.parametrize("name", ["kraken", "coinbase"])
def test_the_platform_s_own_book_takes_the_cells(tmp_path: Path, name: str) -> None:
    """Levels, and how many orders each has, are the made-up venue's."""
    path = tmp_path / "made.capture"
    venue: Kraken | Full = write_kraken(path) if name == "kraken" else write_full(path)
    feed = open_feed(name, [path])
    (instrument,) = feed.instruments
    books = make_books(1, orders=1024, levels=4096)
    define(books, 0, instrument.tick_size)
    for cells in feed.batches():
        array = words(cells)
        for at in np.flatnonzero(cells["cells"]).tolist():
            assert apply_cell(books, 0, array, at) == 0
    if isinstance(venue, Kraken):
        expected = [{price: (size, 0) for price, size in side.items()} for side in venue.view()]
    else:
        expected = [{}, {}]
        for bid, price, size in venue.orders.values():
            held, orders = expected[not bid].get(price, (0, 0))
            expected[not bid][price] = (held + size, orders + 1)
    for side in range(2):
        found = levels(books, 0, side)
        assert {int(instrument.price(p) * 10): (int(instrument.size(q) * 10**8), n) for p, q, n in found} == expected[
            side
        ]
