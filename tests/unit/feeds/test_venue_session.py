"""What venues' sessions say of the worth of their books, what they wish for, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapehouse.core.errors import DecodeError, MissingError, UsageError
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds import open_feed, venue_session
from tapehouse.feeds.capture import FILES_MAX, read_capture, read_captures
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.session import Want
from tapehouse.feeds.venue_binance import BinanceSession
from tapehouse.feeds.venue_bitget import BitgetSession
from tapehouse.feeds.venue_bybit import BybitSession
from tapehouse.feeds.venue_deribit import DeribitSession
from tapehouse.feeds.venue_okx import OkxSession
from tapehouse.feeds.venue_session import CROSSED_NS, PENDING_MAX, RETRY_NS, STALE_NS
from tapehouse.feeds.venue_state import Link
from tapehouse.market import Cause, Confidence, Flag, Instrument, Kind
from tests.support.venues import SECOND, START, VENUES, Connection, Okx

SUSPECT, REBUILDING, GOOD = Confidence.SUSPECT, Confidence.REBUILDING, Confidence.GOOD


def settled(name: str, **options: Any) -> Connection:
    line = Connection(name, 3, **options)
    line.deliver(line.venue.message(), line.venue.message())
    assert line.right
    return line


def corrupt(body: bytes) -> bytes:
    told = json.loads(body)
    told["data"][0]["checksum"] ^= 1
    return json.dumps(told).encode()


@pytest.mark.parametrize("name", ["okx", "bitget"])
def test_a_wrong_checksum_has_the_book_told_anew(name: str) -> None:
    line = settled(name)
    line.deliver(corrupt(line.venue.message()))
    assert line.book.gaps == [(Cause.CHECKSUM, SUSPECT), (Cause.CHECKSUM, REBUILDING), (Cause.SNAPSHOT, GOOD)]
    line.deliver(line.venue.message())
    assert line.right
    assert (line.session.tally.checksum_mismatches, line.session.tally.gaps) == (1, 1)


def test_a_wrong_checksum_of_a_whole_book_is_asked_for_again_in_time() -> None:
    line = settled("okx")
    whole = type(line.venue).whole
    line.venue.whole = lambda: corrupt(whole(line.venue))  # type: ignore[method-assign]
    line.deliver(corrupt(line.venue.message()))
    assert line.session.tally.books == 2
    line.deliver(line.venue.message(), after=SECOND // 10)
    assert line.session.tally.books == 2, "not twice within a second"
    line.venue.whole = lambda: whole(line.venue)  # type: ignore[method-assign]
    line.pass_time(SECOND)
    assert line.book.worth is GOOD
    assert line.right
    assert line.book.spans == 1


def test_the_checksum_of_a_book_is_not_judged_where_the_venue_sends_none() -> None:
    line = Connection("okx")
    told = json.loads(line.venue.message())
    told["data"][0]["checksum"] = 0
    line.deliver(json.dumps(told).encode())
    assert line.book.gaps == []
    assert line.session.tally.checksums == 1, "of the whole book alone"


@pytest.mark.parametrize("name", VENUES)
def test_a_lost_connection_is_a_span_until_the_book_is_told_again(name: str) -> None:
    line = settled(name)
    line.session.disconnected(line.now)
    line.pump()
    assert line.book.gaps == [(Cause.DISCONNECTED, SUSPECT)]
    line.venue.message()
    line.now += 10 * SECOND
    line.session.connected(line.now)
    line.pump()
    line.deliver(line.venue.message(), line.venue.message())
    assert line.book.gaps[1:] == [(Cause.DISCONNECTED, REBUILDING), (Cause.SNAPSHOT, GOOD)]
    assert line.right


@pytest.mark.parametrize("name", VENUES)
def test_a_message_that_the_shell_left_out_has_the_book_told_anew(name: str) -> None:
    line = settled(name)
    line.venue.message()
    line.session.missed(Cause.MALFORMED, line.now)
    line.pump()
    line.deliver(line.venue.message())
    assert line.book.gaps == [(Cause.MALFORMED, SUSPECT), (Cause.MALFORMED, REBUILDING), (Cause.SNAPSHOT, GOOD)]
    assert line.right


def test_silence_is_stale_at_its_own_time_and_any_message_ends_it() -> None:
    line = settled("futures")
    heard = line.now
    line.pass_time(STALE_NS - 1)
    assert line.book.gaps == []
    line.now += SECOND
    line.session.elapsed(line.now)
    (cells,) = line.session.take()
    assert int(cells["ts_recv"][0]) == heard + STALE_NS
    line.book.take(cells)
    line.pass_time(STALE_NS)
    assert line.book.gaps == [(Cause.STALE, SUSPECT)], "once"
    line.deliver(line.venue.message())
    assert line.book.gaps[1:] == [(Cause.RESUMED, GOOD)]
    assert line.right


def test_a_crossed_book_is_borne_for_a_moment() -> None:
    line = settled("bybit")
    for side in (line.venue.bids, line.venue.asks):
        side.clear()
    data = {"s": "BTCUSDT", "b": [["500", "1"]], "a": [], "u": line.venue.last + 1}
    line.deliver(json.dumps({"topic": "orderbook.200.BTCUSDT", "type": "delta", "ts": 5, "data": data}).encode())
    assert line.book.gaps == []
    line.pass_time(CROSSED_NS)
    assert line.book.gaps == []
    line.pass_time(1)
    assert line.book.gaps == [(Cause.CROSSED, SUSPECT), (Cause.CROSSED, REBUILDING), (Cause.SNAPSHOT, GOOD)]


def test_a_book_does_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    line = settled("bybit")
    monkeypatch.setattr(venue_session, "BOOK_LEVELS_MAX", line.session._states["BTCUSDT"].book.levels)
    while not line.book.gaps:
        line.deliver(line.venue.message())
    assert line.book.gaps[:2] == [(Cause.UNKNOWN, SUSPECT), (Cause.UNKNOWN, REBUILDING)]


def test_a_session_that_looks_at_no_ids_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BybitSession, "link", lambda *_: Link.NEXT)
    line = settled("bybit")
    line.venue.message()
    line.deliver(line.venue.message())
    assert not line.right
    assert line.book.gaps == []


def test_a_named_change_must_be_possible() -> None:
    line = settled("deribit")
    told = json.loads(line.venue.message())
    told["params"]["data"]["bids"] = [["delete", 55.5, 0.0]]
    line.deliver(json.dumps(told).encode())
    assert line.book.gaps[0] == (Cause.CHECKSUM, SUSPECT)
    assert line.book.worth is GOOD


def test_a_whole_book_that_nobody_asked_for_is_a_reset() -> None:
    line = settled("bybit")
    line.venue.last = 0
    line.venue.move()
    line.deliver(line.venue.whole(), line.venue.message())
    assert line.book.gaps == [(Cause.RESET, SUSPECT), (Cause.RESET, REBUILDING), (Cause.SNAPSHOT, GOOD)]
    assert line.right


def test_a_gap_says_what_is_missing() -> None:
    line = settled("spot")
    last = line.venue.last
    line.venue.message()
    body = line.venue.message()
    line.session.receive(body, line.now)
    (gap,) = line.session.take()
    assert int(gap["sequence"][0]) == last
    assert int(gap["order_id"][0]) == line.venue.first
    assert int(gap["count"][0]) == line.venue.first - last - 1
    assert gap["flags"][0] & Flag.SYNTHETIC


def test_changes_wait_for_a_snapshot_but_not_without_bound() -> None:
    session = BinanceSession()
    data = {"e": "depthUpdate", "E": 1, "s": "X", "b": [["1.5", "1"]], "a": []}
    for number in range(1, PENDING_MAX + 10):
        session.receive(json.dumps(data | {"U": number, "u": number}).encode(), START)
    assert session.tally.left_out == 9
    session.answered("X", b'{"lastUpdateId":3,"bids":[],"asks":[]}', START)
    assert (session.tally.too_old, session.tally.books) == (1, 0)
    session.answered("X", b'{"lastUpdateId":20,"bids":[],"asks":[]}', START)
    assert (session.tally.chained, session.tally.gaps) == (PENDING_MAX + 9 - 20, 0)


def test_a_snapshot_that_never_came_is_wished_for_again() -> None:
    session = BinanceSession(("BTCUSDT",), market="usdm")
    session.connected(START)
    (subscribe,) = session.wishes()
    assert json.loads(subscribe.body)["params"] == ["btcusdt@depth@100ms", "btcusdt@bookTicker", "btcusdt@trade"]
    data = {"e": "depthUpdate", "E": 1, "s": "BTCUSDT", "U": 1, "u": 1, "pu": 0, "b": [], "a": []}
    session.receive(json.dumps(data).encode(), START)
    (wish,) = session.wishes()
    assert (wish.want, wish.request) == (Want.SNAPSHOT, "/fapi/v1/depth?symbol=BTCUSDT&limit=1000")
    session.elapsed(START + RETRY_NS - 1)
    assert session.wishes() == []
    session.elapsed(START + RETRY_NS)
    assert session.wishes() == [wish]


@pytest.mark.parametrize(("make", "ping"), [(OkxSession, b"ping"), (BitgetSession, b"ping"), (BybitSession, None)])
def test_a_quiet_connection_is_pinged(make: Any, ping: bytes | None) -> None:
    session = make(("BTC-USDT",))
    session.connected(START)
    session.wishes()
    session.elapsed(START + make.PING_NS - 1)
    assert session.wishes() == []
    session.elapsed(START + make.PING_NS)
    (wish,) = session.wishes()
    assert wish.body == (ping or b'{"op":"ping"}')
    session.receive(b"pong" if ping else b'{"success":true,"ret_msg":"pong","op":"ping"}', START + make.PING_NS)
    assert list(session.take()) == []


def test_deribit_is_answered_when_it_asks() -> None:
    session = DeribitSession(("BTC-PERPETUAL",))
    session.connected(START)
    assert [json.loads(wish.body)["method"] for wish in session.wishes()] == [
        "public/set_heartbeat",
        "public/get_instrument",
        "public/subscribe",
    ]
    session.receive(b'{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}', START)
    (wish,) = session.wishes()
    assert json.loads(wish.body)["method"] == "public/test"
    listing = b'{"instrument_name":"BTC-PERPETUAL","kind":"future","tick_size":0.5,"min_trade_amount":10.0}'
    session.receive(b'{"jsonrpc":"2.0","id":1,"result":' + listing + b"}", START)
    params = b'{"channel":"trades.BTC-PERPETUAL.100ms","data":[{"instrument_name":"BTC-PERPETUAL","timestamp":1,'
    params += b'"trade_seq":1,"price":60000.5,"amount":10.0,"direction":"sell"}]}'
    session.receive(b'{"jsonrpc":"2.0","method":"subscription","params":' + params + b"}", START)
    assert [(item.tick_size, item.lot_size) for item in session.instruments] == [(5 * 10**8, 10**10)]


@pytest.mark.parametrize(
    ("session", "body"),
    [
        (BinanceSession(), b'{"code":2,"msg":"Invalid request: unknown stream","id":1}'),
        (OkxSession(), b'{"event":"error","code":"60018","msg":"wrong channel"}'),
        (BitgetSession(), b'{"event":"error","code":30001,"msg":"no such instType"}'),
        (BybitSession(), b'{"success":false,"ret_msg":"handler not found","op":"subscribe"}'),
        (DeribitSession(), b'{"jsonrpc":"2.0","id":1,"error":{"code":11044,"message":"no such channel"}}'),
    ],
)
def test_a_refusal_is_passed_on(session: Any, body: bytes) -> None:
    with pytest.raises(DecodeError, match="the venue refuses"):
        session.receive(body, START)


def test_a_number_that_does_not_fit_names_the_fix_and_a_declaration_is_it() -> None:
    body = b'{"e":"depthUpdate","E":1,"s":"TINY","U":1,"u":1,"b":[["0.0000000001234","5"]],"a":[]}'
    with pytest.raises(DecodeError, match=r"TINY: price .* more decimals.*declare the instrument's exponents"):
        BinanceSession().receive(body, START)
    declared = Instrument(id=9, symbol="TINY", price_exponent=-13, size_exponent=0, tick_size=1)
    session = BinanceSession(instruments={"TINY": declared})
    session.receive(body, START)
    session.answered("TINY", b'{"lastUpdateId":0,"bids":[],"asks":[]}', START)
    cells = np.concatenate(list(session.take()))
    assert cells["price"].tolist()[1:] == [1234]
    assert session.instruments[0].price_exponent == -13


def test_quotes_have_an_instrument_of_their_own() -> None:
    line = settled("spot")
    ticker = {"u": 5, "s": "BTCUSDT", "b": "1.50", "B": "2", "a": "1.60", "A": "3"}
    line.session.receive(json.dumps({"stream": "btcusdt@bookTicker", "data": ticker}).encode(), line.now)
    (cells,) = line.session.take()
    assert [item.symbol for item in line.session.instruments] == ["BTCUSDT", "BTCUSDT@bookTicker"]
    assert cells["kind"].tolist() == [Kind.QUOTE] * 2
    assert cells["instrument"].tolist() == [2, 2]
    assert cells["cells"].tolist() == [2, 0]


def test_an_empty_side_is_undefined() -> None:
    session = OkxSession()
    ticker = {"askPx": "", "askSz": "", "bidPx": "9", "bidSz": "1", "ts": "5"}
    session.receive(json.dumps({"arg": {"channel": "tickers", "instId": "A-B"}, "data": [ticker]}).encode(), START)
    (cells,) = session.take()
    assert cells["price"].tolist() == [9 * 10**9, UNDEFINED]
    assert cells["size"].tolist() == [10**9, 0]


def test_a_snapshot_must_say_whose_it_is() -> None:
    session = BinanceSession(("A", "B"))
    with pytest.raises(DecodeError, match="does not say which of 2 symbols"):
        session.receive(b'{"lastUpdateId":1,"bids":[],"asks":[]}', START)


def test_a_capture_that_connects_again_shows_it(tmp_path: Path) -> None:
    venue = Okx(1)
    lines = ["wss://x <-> 10.5", f"10.6: {venue.whole().decode()}", f"10.7: {venue.message().decode()}"]
    lines += ["wss://x <-> 50.5", f"50.6: {venue.whole().decode()}"]
    path = tmp_path / "OKX.ws"
    path.write_text("\n".join(lines))
    cells = np.concatenate(list(open_feed("okx", [path]).batches()))
    gaps = cells[cells["kind"] == Kind.GAP]
    assert [(Cause(gap["action"]), Confidence(gap["depth"])) for gap in gaps] == [
        (Cause.STALE, SUSPECT),
        (Cause.DISCONNECTED, SUSPECT),
        (Cause.DISCONNECTED, REBUILDING),
        (Cause.SNAPSHOT, GOOD),
    ]
    assert gaps["ts_recv"].tolist()[:2] == [40_700_000_000, 50_500_000_000]


def test_declared_instruments_go_before_what_a_file_suggests(tmp_path: Path) -> None:
    toml = tmp_path / "instruments.toml"
    toml.write_text('[[instrument]]\nsymbol = "BTC-USDT"\ntick_size = "0.01"\nlot_size = "0.0001"\n')
    path = tmp_path / "OKX.ws"
    path.write_bytes(b"10.6: " + Okx(1).whole())
    feed = open_feed("okx", [path], SourceOptions(instruments=toml))
    (item,) = feed.instruments
    assert (item.tick_size, item.size_exponent, item.lot_size) == (10**7, -4, 1)
    cells = np.concatenate(list(feed.batches()))
    assert (cells["size"][1:] % 1_000 == 0).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"hello", "line 1: it is no capture"),
        (b'5 {"a":1}\nx', "line 2: the line does not begin with a time"),
        (b'wss://x <-> 5.1\nwss://x <= 5: {"a":1}', "line 2: the line is neither"),
        (b'5.5: {"a":1}\n5.5 {"a":1}', "line 2: no colon follows"),
        (b'{"ts":1}\n{"t":1}', "line 2: the line is no JSON object with a time"),
        (b"\x1f\x8b garbage", "line 1: the file cannot be unpacked further"),
    ],
)
def test_lines_that_are_none_are_named(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "capture"
    path.write_bytes(text)
    with pytest.raises(DecodeError, match=words):
        list(read_capture(path))


def test_files_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        list(read_captures([tmp_path / "none"]))
    for paths in ([], [tmp_path] * (FILES_MAX + 1)):
        with pytest.raises(UsageError):
            read_captures(paths)
