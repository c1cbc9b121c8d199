"""Tardis files, real and made: every kind, events, snapshots, damage, and any bytes at all."""

from __future__ import annotations

import gzip
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError, MissingError
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds import check_source, open_feed
from tapehouse.feeds.tardis import TardisFeed
from tapehouse.market import Action, Cells, Flag, Kind, Side

QUIET = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
REAL = {
    "tardis__binance-futures_book_snapshot_25_BTCUSDT.csv": ("book_snapshot", 10, 64),
    "tardis__binance-futures_book_snapshot_5_BTCUSDT.csv": ("book_snapshot", 10, 26),
    "tardis__bitmex_trades_XBTUSD.csv": ("trades", 10, 10),
    "tardis__deribit_incremental_book_L2_BTC-PERPETUAL.csv": ("incremental_book_L2", 15, 16),
    "tardis__huobi-dm-swap_quotes_BTC-USD.csv": ("quotes", 10, 20),
}
LEVELS = "exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount"
BOOKS = "exchange,symbol,timestamp,local_timestamp," + ",".join(
    f"{side}[{level}].{part}" for level in range(2) for side in ("asks", "bids") for part in ("price", "amount")
)
TRADES = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount"


def written(tmp_path: Path, *lines: str, name: str = "a.csv") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    return path


def cells_of(path: Path, **options: int) -> Cells:
    return np.concatenate(list(TardisFeed(path, **options).batches()))


@pytest.mark.parametrize("name", REAL)
def test_real_files(market_data: Path, name: str) -> None:
    path = market_data / "small_crypto_fx" / name
    kind, rows, cells = REAL[name]
    found = check_source("tardis", [path])
    assert (found.rows, found.mismatches, found.first_mismatch) == (rows, 0, None)
    assert TardisFeed(path).kind == kind
    assert found.truths["cells_read"] == cells == sum(len(batch) for batch in open_feed("tardis", [path]).batches())


def test_a_level_file_to_the_cell(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        LEVELS,
        "x,A,1000000,1000100,true,ask,10.5,2",
        "x,A,1000000,1000101,true,bid,10.25,0.001",
        "x,A,1000000,1000200,false,bid,10.25,0",
        "x,B,1000000,1000200,true,bid,3,7",
        "x,A,1000000,1000200,false,bid,10,4",
        "x,A,1000000,1000200,false,bid,9.75,4",
        "x,A,1000000,1000150,false,bid,9.75,5",
    )
    feed = TardisFeed(path)
    cells = np.concatenate(list(feed.batches()))
    one = feed.instruments[0]
    assert (one.symbol, one.venue, one.price_exponent, one.tick_size) == ("A", "x", -9, 250_000_000)
    last, snapshot = int(Flag.LAST), int(Flag.SNAPSHOT)
    assert [
        (c["instrument"], c["kind"], c["action"], c["side"], str(one.price(int(c["price"])).normalize()), c["flags"])
        for c in cells
        if c["action"] != Action.CLEAR
    ] == [
        (1, Kind.MBP, Action.ADD, Side.ASK, "10.5", snapshot | Flag.BY_PRICE),
        (1, Kind.MBP, Action.ADD, Side.BID, "10.25", snapshot | Flag.BY_PRICE | last),
        (1, Kind.MBP, Action.CANCEL, Side.BID, "10.25", Flag.BY_PRICE | last),
        (2, Kind.MBP, Action.ADD, Side.BID, "3", snapshot | Flag.BY_PRICE | last),
        (1, Kind.MBP, Action.MODIFY, Side.BID, "1E+1", Flag.BY_PRICE),
        (1, Kind.MBP, Action.MODIFY, Side.BID, "9.75", Flag.BY_PRICE | last),
        (1, Kind.MBP, Action.MODIFY, Side.BID, "9.75", Flag.BY_PRICE | last),
    ]
    clears = np.flatnonzero(cells["action"] == Action.CLEAR).tolist()
    assert clears == [0, 4]
    assert cells["ts_recv"].tolist()[-1] == 1_000_200_000
    assert feed.corrected_times == 1
    assert check_source("tardis", [path]).first_mismatch == "a.csv, line 8: local_timestamp goes backwards"


def test_missing_sides_of_quotes_and_books(tmp_path: Path) -> None:
    header = "exchange,symbol,timestamp,local_timestamp,ask_amount,ask_price,bid_price,bid_amount"
    quotes = written(tmp_path, header, "x,A,1000000,1000000,,,5,2", "x,A,1000000,1000001,1,6,5,2")
    cells = cells_of(quotes)
    assert cells["price"].tolist() == [5 * 10**9, UNDEFINED, 5 * 10**9, 6 * 10**9]
    assert cells["size"].tolist()[1] == 0
    assert check_source("tardis", [quotes]).mismatches == 0
    books = written(tmp_path, BOOKS, "x,A,1000000,1000000,6,1,5,1,7,1,,", "x,A,1000000,1000001,7,1,,,,,,", name="b.csv")
    found = check_source("tardis", [books])
    assert (found.mismatches, found.compared) == (0, 2)


PRICES = st.integers(1, 8)
SIDES = st.dictionaries(PRICES, st.integers(1, 3), max_size=2)


@QUIET
@given(
    rows=st.lists(st.tuples(st.sampled_from("AB"), SIDES, SIDES), min_size=1, max_size=30),
    batch_cells=st.integers(1, 40),
)
def test_any_books_are_what_the_check_says(
    tmp_path: Path, rows: list[tuple[str, dict[int, int], dict[int, int]]], batch_cells: int
) -> None:
    """The kernel of differences against dicts of decimals; asks are above all bids, so none is crossed."""
    lines = [BOOKS]
    for at, (symbol, bids, asks) in enumerate(rows):
        ask_levels = [f"{price + 10}.5,{size}" for price, size in sorted(asks.items())] + [","] * (2 - len(asks))
        bid_levels = [f"{price},{size}" for price, size in sorted(bids.items(), reverse=True)] + [","] * 2
        levels = ",".join(part for pair in zip(ask_levels, bid_levels, strict=False) for part in pair)
        lines.append(f"x,{symbol},{1_000_000 + at},{1_000_000 + at},{levels}")
    path = written(tmp_path, *lines)
    found = check_source("tardis", [path])
    assert (found.first_mismatch, found.compared) == (None, len(rows))
    assert (cells_of(path, batch_cells=batch_cells) == cells_of(path)).all()


@QUIET
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from("AB"),
            st.integers(0, 2),
            st.booleans(),
            st.sampled_from(["bid", "ask"]),
            st.decimals("0.001", 99, places=3),
            st.decimals(0, 9, places=2),
        ),
        min_size=1,
        max_size=40,
    ),
    batch_cells=st.integers(1, 20),
)
def test_any_levels_are_what_the_check_says(
    tmp_path: Path, rows: list[tuple[str, int, bool, str, Decimal, Decimal]], batch_cells: int
) -> None:
    local, lines = 1_000_000, [LEVELS]
    for symbol, step, snapshot, side, price, amount in rows:
        local += step
        lines.append(f"x,{symbol},1000000,{local},{str(snapshot).lower()},{side},{price},{amount}")
    path = written(tmp_path, *lines)
    assert check_source("tardis", [path]).first_mismatch is None
    cells = cells_of(path)
    assert (cells_of(path, batch_cells=batch_cells) == cells).all()
    keys = [(row[0], row[2], line.split(",")[3] * (not row[2])) for row, line in zip(rows, lines[1:], strict=True)]
    ends = [one != two for one, two in zip(keys, [*keys[1:], None], strict=True)]
    levels = cells[cells["kind"] == Kind.MBP]
    assert (levels["flags"] & int(Flag.LAST) != 0).tolist() == ends


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x,A,1000000,1000100,5,hold,10.5,2", "side"),
        ("x,A,-5,1000100,5,buy,10.5,2", "timestamp"),
        ("x,A,1000000,1000100,5,buy,10.5,-2", "amount"),
        ("x,A,1000000,1000100,5,buy,10.5", "columns"),
        ("x,A,1000000,1000100,5,buy,ten,2", "no number"),
        ("x,A,1000000,1000100,5,buy,1.0000000000000001,2", "decimals"),
    ],
)
def test_a_bad_line_is_named_and_what_came_before_stands(tmp_path: Path, line: str, why: str) -> None:
    good = "x,A,1000000,1000100,5,buy,10.5,2"
    feed = TardisFeed(written(tmp_path, TRADES, good, good, line, good))
    before: list[Cells] = []
    with pytest.raises(DecodeError, match=why) as caught:
        before.extend(feed.batches())
    assert caught.value.position == "line 4"
    assert len(np.concatenate(before)) == 2


def test_unordered_levels_are_named(tmp_path: Path) -> None:
    good, bad = "x,A,1000000,1000000,6,1,5,1,7,1,4,1", "x,A,1000000,1000000,6,1,5,1,6,1,4,1"
    feed = TardisFeed(written(tmp_path, BOOKS, good, bad))
    before: list[Cells] = []
    with pytest.raises(DecodeError, match="in order") as caught:
        before.extend(feed.batches())
    assert caught.value.position == "line 3"
    assert len(np.concatenate(before)) == 5


def test_units_widen_for_tiny_prices_and_huge_amounts(tmp_path: Path) -> None:
    path = written(tmp_path, TRADES, "x,A,1,1,5,buy,0.0000000012,987654321987")
    feed = TardisFeed(path)
    one = feed.instruments[0]
    cell = np.concatenate(list(feed.batches()))[0]
    assert (one.price_exponent, one.size_exponent) == (-12, -6)
    assert one.price(int(cell["price"])) == Decimal("0.0000000012")
    assert check_source("tardis", [path]).mismatches == 0


def test_files_that_do_not_do(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        TardisFeed(tmp_path / "none.csv")
    with pytest.raises(DecodeError, match="derivative_ticker has no cells"):
        TardisFeed(
            written(tmp_path, "exchange,symbol,timestamp,local_timestamp,funding_rate,mark_price", "x,A,1,1,0,1")
        )
    with pytest.raises(DecodeError, match="no header"):
        TardisFeed(written(tmp_path, "a,b", "1,2"))
    with pytest.raises(DecodeError, match="levels are not complete"):
        TardisFeed(written(tmp_path, "exchange,symbol,timestamp,local_timestamp,asks[0].price", "x,A,1,1,1"))


@pytest.mark.parametrize("name", REAL)
def test_control_one_flipped_byte_that_the_file_contradicts(market_data: Path, tmp_path: Path, name: str) -> None:
    """Of what a file can contradict: a local time that goes back, a delimiter, a name of a side or a kind."""
    data = (market_data / "small_crypto_fx" / name).read_bytes()
    lines = data.splitlines(keepends=True)
    middle = bytearray(lines[6])
    middle[middle.replace(b",", b" ", 3).index(b",") - 14] ^= 1  # a digit of seconds in local_timestamp
    path = tmp_path / name
    path.write_bytes(b"".join([*lines[:6], bytes(middle), *lines[7:]]))
    assert check_source("tardis", [path]).mismatches > 0
    comma = bytearray(lines[6])
    comma[comma.index(b",")] ^= 1
    path.write_bytes(b"".join([*lines[:6], bytes(comma), *lines[7:]]))
    with pytest.raises(DecodeError, match="line 7"):
        check_source("tardis", [path])


@QUIET
@given(data=st.binary(max_size=300), header=st.sampled_from([LEVELS, BOOKS, TRADES, ""]))
def test_any_bytes_are_refused_or_read(tmp_path: Path, data: bytes, header: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(header.encode() + b"\n" + data)
    only_decode_errors(path)


@QUIET
@given(name=st.sampled_from(sorted(REAL)), packed=st.booleans(), place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_mutated_files_are_refused_or_read(
    market_data: Path, tmp_path: Path, name: str, packed: bool, place: int, byte: int
) -> None:
    plain = (market_data / "small_crypto_fx" / name).read_bytes()
    data = bytearray(gzip.compress(plain, mtime=0) if packed else plain)
    data[place % len(data)] = byte
    path = tmp_path / "a.csv"
    path.write_bytes(bytes(data))
    only_decode_errors(path)


def only_decode_errors(path: Path) -> None:
    with suppress(DecodeError):
        for batch in TardisFeed(path).batches():
            assert len(batch)
        check_source("tardis", [path])
