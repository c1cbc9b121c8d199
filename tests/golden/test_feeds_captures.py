"""Real captures of five venues: their own truths hold, the cells are what plain JSON and decimals say, damage shows."""

from __future__ import annotations

import gzip
import json
import lzma
import re
import zipfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapehouse.book import apply as apply_cell
from tapehouse.book import define, make_books
from tapehouse.core.errors import DecodeError
from tapehouse.feeds import check_source, open_feed
from tapehouse.feeds.capture_feed import CaptureFeed
from tapehouse.feeds.venue_okx import OkxSession
from tapehouse.market import OPTION_EXTENSION, Action, Cells, Flag, Kind, Side, record_starts, words

SPOT = ("binance_hftbacktest/spot_btcusdt_20240808.gz",)
FUTURES = ("binance_hftbacktest/cm_btcusd_perp_20240808.gz",)
THIN = ("cryptofeed/BINANCE.http.0.0", "cryptofeed/BINANCE.ws.1.0")
OKX = ("cryptofeed/OKX.ws.1.0",)
BITGET = ("cryptofeed/BITGET.ws.2.0",)
DERIBIT = ("cryptofeed/DERIBIT.0", "cryptofeed/DERIBIT.ws.1.0")
BYBIT = ("small_crypto_fx/bybit__xrpusdt-ob500.data.zip",)
SOUND = {"mismatches": 0, "gaps": 0, "checksum_mismatches": 0, "suspect_at_end": 0}
TRUTHS: list[tuple[str, tuple[str, ...], dict[str, int]]] = [
    ("binance", SPOT, {"rows": 41_249, "compared": 3_449, "top_of_book": 3_449, "chained": 3_449, "trades": 9_757}),
    ("binance", FUTURES, {"rows": 48_270, "compared": 26_824, "chained": 26_824, "trades": 2_286, "old": 23}),
    ("binance", THIN, {"compared": 159, "books": 4, "chained": 172, "trades": 2, "last_id": 499_870_179}),
    ("okx", OKX, {"compared": 290, "checksums": 290, "books": 3, "chained": 287, "trades": 74, "quotes": 28}),
    ("bitget", BITGET, {"compared": 194, "checksums": 194, "books": 2, "chained": 192, "trades": 25}),
    ("deribit", DERIBIT, {"compared": 303, "chained": 36, "tickers": 89, "tickers_of_books": 89, "books": 10}),
    ("deribit", DERIBIT[1:], {"compared": 303, "chained": 36, "tickers": 89, "tickers_of_books": 89}),
    ("bybit", BYBIT, {"rows": 50, "compared": 49, "chained": 49, "first_id": 20_254_870, "last_id": 20_254_918}),
]


def paths_of(market_data: Path, names: tuple[str, ...]) -> list[Path]:
    return [market_data / name for name in names]


@pytest.mark.parametrize(("format", "names", "truth"), TRUTHS)
def test_a_venues_own_truth_holds(
    market_data: Path, format: str, names: tuple[str, ...], truth: dict[str, int]
) -> None:
    check = check_source(format, paths_of(market_data, names))
    found = {"rows": check.rows, "compared": check.compared, "mismatches": check.mismatches} | check.truths
    assert check.first_mismatch is None
    assert {name: found[name] for name in SOUND | truth} == SOUND | truth


# The oracle: the same files by `json`, books of decimals, and none of the product's code.

Book = tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]
Told = tuple[str, int, list[Any], list[Any], bool]  # symbol, id, bids, asks, whole


def objects_of(path: Path) -> Iterator[tuple[str, Any]]:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    elif path.suffix == ".zip":
        archive = zipfile.ZipFile(path)
        raw = archive.read(archive.namelist()[0])
    for line in raw.decode().splitlines():
        head, brace, rest = line.partition("{")
        if brace and "<-" not in head and "configuration" not in head:
            yield head, json.loads(brace + rest, parse_float=Decimal, parse_int=lambda text: text)


def told_by_binance(paths: list[Path]) -> Iterator[Told]:
    wholes: dict[str, Any] = {}
    for path in paths:
        for head, item in objects_of(path):
            if "lastUpdateId" in item:
                symbol = re.search(r"symbol=(\w+)", head)
                wholes[symbol[1] if symbol else item.get("symbol", "BTCUSDT")] = item
    last: dict[str, int] = {}
    for symbol, item in wholes.items():
        last[symbol] = int(item["lastUpdateId"])
        yield symbol, last[symbol], item["bids"], item["asks"], True
    for path in paths:
        for _, item in objects_of(path):
            data = item.get("data", {})
            if data.get("e") == "depthUpdate" and int(data["u"]) > last[data["s"]]:
                yield data["s"], int(data["u"]), data["b"], data["a"], False


def told_by_channels(paths: list[Path]) -> Iterator[Told]:
    for _, item in objects_of(paths[0]):
        if item.get("arg", {}).get("channel") == "books" and "data" in item:
            for book in item["data"]:
                yield item["arg"]["instId"], 0, book["bids"], book["asks"], item["action"] == "snapshot"


def told_by_deribit(paths: list[Path]) -> Iterator[Told]:
    for _, item in objects_of(paths[-1]):
        data = item.get("params", {}).get("data", {})
        if "change_id" in data:
            sides = [[level[1:] for level in data[name]] for name in ("bids", "asks")]
            yield data["instrument_name"], int(data["change_id"]), sides[0], sides[1], data["type"] == "snapshot"


def told_by_bybit(paths: list[Path]) -> Iterator[Told]:
    for _, item in objects_of(paths[0]):
        data = item["data"]
        yield data["s"], int(data["u"]), data["b"], data["a"], item["type"] == "snapshot"


def apply(book: Book, told: Told) -> None:
    for side, levels in zip(book, told[2:4], strict=True):
        if told[4]:
            side.clear()
        for price, size, *_ in levels:
            if Decimal(size):
                side[Decimal(price)] = Decimal(size)
            else:
                side.pop(Decimal(price), None)


ORACLES: list[tuple[str, tuple[str, ...], Callable[[list[Path]], Iterator[Told]]]] = [
    ("binance", SPOT, told_by_binance),
    ("binance", THIN, told_by_binance),
    ("okx", OKX, told_by_channels),
    ("bitget", BITGET, told_by_channels),
    ("deribit", DERIBIT, told_by_deribit),
    ("bybit", BYBIT, told_by_bybit),
]


@pytest.mark.parametrize(("format", "names", "oracle"), ORACLES)
def test_books_are_what_json_and_decimals_say(
    market_data: Path, format: str, names: tuple[str, ...], oracle: Callable[[list[Path]], Iterator[Told]]
) -> None:
    paths = paths_of(market_data, names)
    feed = open_feed(format, paths)
    instruments = {item.id: item for item in feed.instruments}
    expected: dict[str, list[Told]] = {}
    for told in oracle(paths):
        if told[2] or told[3] or told[4]:
            expected.setdefault(told[0], []).append(told)
    ours: dict[str, Book] = {symbol: ({}, {}) for symbol in expected}
    theirs: dict[str, Book] = {symbol: ({}, {}) for symbol in expected}
    shown = dict.fromkeys(expected, 0)
    for cells in feed.batches():
        levels = cells[cells["kind"] == Kind.MBP]
        columns = ("instrument", "action", "side", "price", "size", "flags", "sequence")
        for number, action, side, price, size, flags, sequence in zip(
            *(levels[name].tolist() for name in columns), strict=True
        ):
            item = instruments[number]
            book = ours[item.symbol]
            if action == Action.CLEAR:
                for each in book:
                    each.clear()
            elif size:
                book[side != Side.BID][item.price(price)] = item.size(size)
            else:
                book[side != Side.BID].pop(item.price(price), None)
            assert price % item.tick_size == 0 or action == Action.CLEAR
            if flags & Flag.LAST:
                told = expected[item.symbol][shown[item.symbol]]
                shown[item.symbol] += 1
                apply(theirs[item.symbol], told)
                assert sequence == told[1]
                # What no message named stays equal, so whole books need no comparison each time.
                for mine, true, named in zip(book, theirs[item.symbol], told[2:4], strict=True):
                    assert len(mine) == len(true)
                    assert all(mine.get(Decimal(level[0])) == true.get(Decimal(level[0])) for level in named)
    assert shown == {symbol: len(told) for symbol, told in expected.items()}
    assert ours == theirs


@pytest.mark.parametrize(
    ("format", "names"), [("okx", OKX), ("bitget", BITGET), ("deribit", DERIBIT), ("bybit", BYBIT)]
)
def test_the_products_books_take_every_cell(market_data: Path, format: str, names: tuple[str, ...]) -> None:
    feed = open_feed(format, paths_of(market_data, names))
    books = make_books(len(feed.instruments), orders=16, levels=1 << 12)
    for item in feed.instruments:
        define(books, item.id - 1, item.tick_size)
    for cells in feed.batches():
        array = words(cells)
        for at in np.flatnonzero(cells["cells"]).tolist():
            assert apply_cell(books, int(cells["instrument"][at]) - 1, array, at) == 0


def test_tickers_of_options_are_what_the_venue_says(market_data: Path) -> None:
    feed = open_feed("deribit", paths_of(market_data, DERIBIT))
    instruments = {item.symbol: item for item in feed.instruments}
    by_id = {item.id: item for item in feed.instruments}
    cells = np.concatenate(list(feed.batches()))
    starts = np.flatnonzero((cells["kind"] == Kind.OPTION_QUOTE) & (cells["cells"] == 3))
    tickers = [
        item["params"]["data"]
        for _, item in objects_of(market_data / DERIBIT[1])
        if item.get("params", {}).get("channel", "").startswith("ticker")
    ]
    assert len(starts) == len(tickers) == 89
    for at, data in zip(starts.tolist(), tickers, strict=True):
        item = instruments[data["instrument_name"]]
        record = cells[at : at + 3]
        told = record[2:].view(OPTION_EXTENSION)[0]
        names = data["instrument_name"].split("-")
        assert (record["instrument"] == item.id).all()
        assert (item.asset_class, item.price(item.strike), item.right) == ("option", Decimal(names[2]), names[3])
        assert by_id[item.underlying].symbol == f"{names[0]}-{names[1]}"
        assert by_id[item.underlying].expiry_ns == item.expiry_ns
        assert int(record["ts_event"][0]) == int(data["timestamp"]) * 1_000_000
        for cell, side in zip(record[:2], ("bid", "ask"), strict=True):
            price = Decimal(data[f"best_{side}_price"])
            if price:
                assert item.price(int(cell["price"])) == price
            assert item.size(int(cell["size"])) == Decimal(data[f"best_{side}_amount"])
            if Decimal(data[f"{side}_iv"]):
                assert Decimal(int(told[f"{side}_volatility"])).scaleb(-7) == Decimal(data[f"{side}_iv"])
        assert item.price(int(told["forward"])) == Decimal(data["underlying_price"])
        assert item.price(int(told["mark"])) == Decimal(data["mark_price"])
        assert item.size(int(told["open_interest"])) == Decimal(data["open_interest"])


def test_trades_are_what_the_venue_says(market_data: Path) -> None:
    feed = open_feed("okx", paths_of(market_data, OKX))
    instruments = {item.id: item for item in feed.instruments}
    cells = np.concatenate(list(feed.batches()))
    found = [
        (
            instruments[int(cell["instrument"])].symbol,
            str(cell["order_id"]),
            instruments[int(cell["instrument"])].price(int(cell["price"])),
            instruments[int(cell["instrument"])].size(int(cell["size"])),
            "buy" if cell["side"] == Side.BID else "sell",
            int(cell["ts_event"]) // 1_000_000,
        )
        for cell in cells[cells["kind"] == Kind.TRADE]
    ]
    assert found == [
        (each["instId"], each["tradeId"], Decimal(each["px"]), Decimal(each["sz"]), each["side"], int(each["ts"]))
        for _, item in objects_of(market_data / OKX[0])
        if item.get("arg", {}).get("channel") == "trades"
        for each in item.get("data", [])
    ]


@pytest.mark.parametrize("batch_cells", [1, 7, 1_000])
def test_any_batch_size_gives_the_same_cells(market_data: Path, batch_cells: int) -> None:
    paths = paths_of(market_data, OKX)
    whole = np.concatenate(list(CaptureFeed(OkxSession, paths).batches()))
    feed = CaptureFeed(OkxSession, paths, batch_cells=batch_cells)
    batches = list(feed.batches())
    assert (np.concatenate(batches) == whole).all()
    assert all(record_starts(batch) is not None for batch in batches)
    assert max(map(len, batches)) <= max(batch_cells, 3)
    assert (np.diff(whole["ts_recv"]) >= 0).all()
    assert (np.concatenate(list(feed.batches())) == whole).all(), "a second pass"


def test_packed_files_are_the_plain_ones(market_data: Path, tmp_path: Path) -> None:
    plain = market_data / BITGET[0]
    packed = tmp_path / "BITGET.xz"
    packed.write_bytes(lzma.compress(plain.read_bytes(), preset=0))
    assert (cells_of("bitget", packed) == cells_of("bitget", plain)).all()


def cells_of(format: str, *paths: Path) -> Cells:
    return np.concatenate(list(open_feed(format, paths).batches()))


def noticed(format: str, paths: list[Path]) -> str:
    """How a check notices that something is wrong."""
    try:
        check = check_source(format, paths)
    except DecodeError as error:
        return str(error)
    assert check.mismatches > 0
    return check.first_mismatch or ""


# A digit of a price in the middle of each plain file: text in front of it, and which of the finds.
DIGITS = {
    "okx": (OKX, rb'"update","data":\[\{"asks":\[\["\d+\.', 40, "checksum"),
    "bitget": (
        BITGET,
        rb'"update","arg":\{"instType":"mc","channel":"books"[^\[]*\[\{"asks":\[\["\d+\.',
        90,
        "checksum",
    ),
    "binance": (THIN, rb'@bookTicker.*"b":"0\.0*[1-9]', 42, "best of"),
    "deribit": (DERIBIT, rb'"best_bid_price":0\.00\d*', 30, "best"),
    "deribit book": (DERIBIT, rb'\["delete",0\.00\d*', 5, "checksum"),
    "deribit forward": (DERIBIT, rb'"underlying_price":\d', 44, "delta"),
}


@pytest.mark.parametrize("name", DIGITS)
def test_one_digit_of_a_price_is_noticed(market_data: Path, tmp_path: Path, name: str) -> None:
    names, pattern, which, words = DIGITS[name]
    paths = paths_of(market_data, names)
    data = bytearray(paths[-1].read_bytes())
    at = [match.end() for match in re.finditer(pattern, data)][which]
    at += not chr(data[at]).isdigit() and -1
    assert chr(data[at]).isdigit()
    data[at] = ord("7") if data[at] != ord("7") else ord("3")
    changed = tmp_path / paths[-1].name
    changed.write_bytes(data)
    assert words in noticed(name.split()[0], [*paths[:-1], changed])


@pytest.mark.parametrize(("format", "names"), [("binance", FUTURES), ("binance", SPOT), ("bybit", BYBIT)])
def test_one_byte_of_a_packed_file_is_noticed(
    market_data: Path, tmp_path: Path, format: str, names: tuple[str, ...]
) -> None:
    source = market_data / names[0]
    data = bytearray(source.read_bytes())
    data[len(data) // 20] ^= 1  # early, so that the test is short
    changed = tmp_path / source.name
    changed.write_bytes(data)
    assert changed.name in noticed(format, [changed])


def test_what_came_before_damage_is_told(market_data: Path, tmp_path: Path) -> None:
    lines = (market_data / OKX[0]).read_bytes().splitlines(keepends=True)
    lines[200] = lines[200].replace(b'"ts":"', b'"ts":"x')
    path = tmp_path / "OKX.ws.1.0"
    path.write_bytes(b"".join(lines))
    before = tmp_path / "before"
    before.write_bytes(b"".join(lines[:200]))
    batches = []
    feed = open_feed("okx", [path])
    with pytest.raises(DecodeError, match=r"OKX.ws.1.0, line 201: OKX: it is none of the venue's messages"):
        batches.extend(feed.batches())
    want = cells_of("okx", before)
    assert (np.concatenate(batches)["price"] == want["price"]).all()
