"""Tables with mappings: each kind, CSV and Parquet alike, zones, mappings that are wrong, damage, any bytes at all."""

from __future__ import annotations

import re
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError, MissingError, UsageError, parse_time_ns
from tapehouse.feeds import SourceOptions, check_source, open_feed
from tapehouse.market import Action, Cells, Flag, Kind, Side
from tests.conftest import PROJECT

QUIET = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
DOCUMENT = (PROJECT / "docs" / "formats" / "table.md").read_text()
TRUEFX, DEPTH = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
HEAD = """
[time]
event = "t"
unit = "{unit}"
[instrument]
symbol = "s"
size_exponent = -3
"""
TRADES = 'kind = "trade"\n' + HEAD.format(unit="ms") + '[columns]\nprice = "p"\nsize = "q"\nside = "side"\n'
ORDERS = (
    'kind = "order"\n'
    + HEAD.format(unit="ns")
    + '[columns]\nprice = "p"\nsize = "q"\nside = "side"\norder_id = "id"\naction = "a"\nsequence = "n"\n'
    + '[actions]\nadd = ["new"]\ncancel = ["del"]\nmodify = ["chg"]\n'
)
TRADE_LINES = ["s,t,p,q,side", "A,1000,1.5,2,buy", "B,1001,2.25,0.001,sell", "A,1001,1.25,3,b"]


def options_of(tmp_path: Path, mapping: str, **others: str) -> SourceOptions:
    path = tmp_path / "mapping.toml"
    path.write_text(mapping)
    return SourceOptions(mapping=path, symbol=others.get("symbol"), venue=others.get("venue"))


def written(tmp_path: Path, lines: list[str], name: str = "a.csv") -> Path:
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    return path


def cells_of(path: Path, options: SourceOptions) -> Cells:
    return np.concatenate(list(open_feed("table", [path], options).batches()))


def test_the_documented_mappings_read_the_real_files(market_data: Path, tmp_path: Path) -> None:
    folder = market_data / "small_crypto_fx"
    fx = options_of(tmp_path, TRUEFX)
    found = check_source("table", [folder / "truefx__usdjpy-ticks.csv"], fx)
    assert (found.rows, found.mismatches, found.first_mismatch) == (1_000, 0, None)
    cells = cells_of(folder / "truefx__usdjpy-ticks.csv", fx)
    assert cells["ts_event"][0] == parse_time_ns("2013-01-01T22:00:00.295Z")
    assert cells["price"].tolist()[:2] == [86_655_000_000, 86_728_000_000]
    depth = options_of(tmp_path, DEPTH)
    for name, extra in (("snap", 1), ("update", 0)):
        path = folder / f"binance__btcusdt-depth-{name}.csv"
        found = check_source("table", [path], depth)
        assert (found.rows, found.mismatches, found.first_mismatch) == (100, 0, None)
        cells = cells_of(path, depth)
        assert len(cells) == 100 + extra
        ids = [line.split(",")[3] for line in path.read_text().splitlines()[1:]]
        ends = 1 if extra else 1 + sum(one != two for one, two in pairwise(ids))
        assert (cells["flags"] & int(Flag.LAST) != 0).sum() == ends


def test_trades_of_two_symbols(tmp_path: Path) -> None:
    options = options_of(tmp_path, TRADES, venue="X")
    path = written(tmp_path, TRADE_LINES)
    feed = open_feed("table", [path], options)
    cells = np.concatenate(list(feed.batches()))
    assert [(one.symbol, one.venue, one.tick_size, one.lot_size) for one in feed.instruments] == [
        ("A", "X", 250_000_000, 1000),
        ("B", "X", 2_250_000_000, 1),
    ]
    assert cells["side"].tolist() == [Side.BID, Side.ASK, Side.BID]
    assert cells["size"].tolist() == [2000, 1, 3000]
    assert cells["sequence"].tolist() == [2, 3, 4]
    assert cells["ts_event"].tolist() == [10**9, 1_001_000_000, 1_001_000_000]
    assert (cells["kind"] == Kind.TRADE).all()


def test_orders(tmp_path: Path) -> None:
    lines = ["n,s,t,p,q,side,id,a", "1,A,5,10,2,bid,7,new", "1,A,5,10,1,bid,7,chg", "2,A,6,10,1,bid,7,del"]
    path = written(tmp_path, lines)
    options = options_of(tmp_path, ORDERS)
    cells = cells_of(path, options)
    assert cells["action"].tolist() == [Action.ADD, Action.MODIFY, Action.CANCEL]
    assert cells["order_id"].tolist() == [7, 7, 7]
    assert (cells["flags"] & int(Flag.LAST)).astype(bool).tolist() == [False, True, True]
    assert check_source("table", [path], options).mismatches == 0


@pytest.mark.parametrize(("clock", "zone", "utc"), [("07-01", "America/New_York", 4), ("01-02", "Europe/Paris", -1)])
def test_times_of_a_zone(tmp_path: Path, clock: str, zone: str, utc: int) -> None:
    mapping = TRADES.replace('unit = "ms"', f'unit = "iso"\nzone = "{zone}"')
    path = written(tmp_path, ["s,t,p,q,side", f"A,2013-{clock} 12:00:00,1,1,buy"])
    cells = cells_of(path, options_of(tmp_path, mapping))
    assert cells["ts_event"][0] == parse_time_ns(f"2013-{clock}T{12 + utc:02}:00:00Z")
    assert check_source("table", [path], options_of(tmp_path, mapping)).mismatches == 0


def test_times_that_go_back(tmp_path: Path) -> None:
    path = written(tmp_path, [*TRADE_LINES, "A,999,1.25,3,b", "A,1002,1.25,3,b"])
    feed = open_feed("table", [path], options_of(tmp_path, TRADES))
    before: list[Cells] = []
    with pytest.raises(DecodeError, match="backwards") as caught:
        before.extend(feed.batches())
    assert caught.value.position == "line 5"
    assert len(np.concatenate(before)) == 3
    allowed = options_of(tmp_path, "sorted = false\n" + TRADES)
    cells = cells_of(path, allowed)
    assert cells["ts_recv"].tolist()[2:] == [1_001_000_000, 1_001_000_000, 1_002_000_000]
    assert check_source("table", [path], allowed).mismatches == 0


@QUIET
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from("AB"),
            st.decimals("-99", 99, places=4),
            st.decimals(0, 99, places=3),
            st.sampled_from(["buy", "sell"]),
        ),
        min_size=1,
        max_size=30,
    ),
    floats=st.booleans(),
)
def test_parquet_is_read_as_its_text(
    tmp_path: Path, rows: list[tuple[str, Decimal, Decimal, str]], floats: bool
) -> None:
    """The same rows as CSV text and as Parquet decimals or floats give the same cells, and the check agrees."""
    options = options_of(tmp_path, TRADES)
    lines = [f"{symbol},{1000 + at},{price},{size},{side}" for at, (symbol, price, size, side) in enumerate(rows)]
    text = written(tmp_path, ["s,t,p,q,side", *lines])
    numbers = [pa.array([row[at] for row in rows], pa.decimal128(12, 4 if at == 1 else 3)) for at in (1, 2)]
    if floats:
        numbers = [pa.array([float(row[at]) for row in rows]) for at in (1, 2)]
    times = pa.array(range(1000, 1000 + len(rows)), pa.int64())
    symbols, sides = (pa.array([row[at] for row in rows]).dictionary_encode() for at in (0, 3))
    table = pa.table({"s": symbols, "t": times, "p": numbers[0], "q": numbers[1], "side": sides, "unused": times})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    packed, plain = cells_of(path, options), cells_of(text, options)
    packed["sequence"] += 1  # of rows, not of lines with a header
    assert (packed == plain).all()
    for each in (path, text):
        found = check_source("table", [each], options)
        assert (found.first_mismatch, found.compared) == (None, len(rows))


def test_parquet_times_and_damage(tmp_path: Path) -> None:
    mapping = TRADES.replace('unit = "ms"', 'unit = "iso"')
    times = pa.array([1_000_000, 2_000_001], pa.timestamp("us", tz="UTC"))
    table = pa.table({"s": ["A", "A"], "t": times, "p": [1.5, 2.5], "q": [1, 2], "side": ["buy", "sell"]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    options = options_of(tmp_path, mapping)
    assert cells_of(path, options)["ts_event"].tolist() == [10**9, 2_000_001_000]
    assert check_source("table", [path], options).mismatches == 0
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DecodeError, match="Parquet"):
        open_feed("table", [path], options)


@pytest.mark.parametrize(
    ("mapping", "key"),
    [
        ("kind = 5", "kind"),
        (TRADES.replace("price", "prize"), "columns.prize"),
        (TRADES.replace('price = "p"\n', ""), "columns.price"),
        (TRADES + 'bid = "p"\n', "columns.bid"),
        (TRADES + '[sides]\nbid = ["b", "b"]\n', "sides"),
        (TRADES.replace('unit = "ms"', 'unit = "ms"\nzone = "Mars/Base"'), "time.zone"),
        (TRADES.replace("-3", "-30"), "instrument.size_exponent"),
        ("kind = ", ""),
    ],
)
def test_a_wrong_mapping_names_its_key(tmp_path: Path, mapping: str, key: str) -> None:
    with pytest.raises(DecodeError) as caught:
        open_feed("table", [written(tmp_path, TRADE_LINES)], options_of(tmp_path, mapping))
    assert caught.value.subject == "mapping.toml"
    assert caught.value.position == (f"key {key}" if key else "")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("A,1002,x,2,buy", "no number"),
        ("A,1002,1,2,hold", "side"),
        ("A,1002,1,-2,buy", "negative"),
        ("A,1002,1,0.0001,buy", "decimals"),
        ("A,1002,1,2", "columns"),
        ("A,yesterday,1,2,buy", "no number"),
        ("A,0,1,2,buy", "years"),
    ],
)
def test_a_bad_row_is_named_and_what_came_before_stands(tmp_path: Path, line: str, why: str) -> None:
    path = written(tmp_path, [*TRADE_LINES, line, TRADE_LINES[-1]])
    feed = open_feed("table", [path], options_of(tmp_path, TRADES))
    before: list[Cells] = []
    with pytest.raises(DecodeError, match=why) as caught:
        before.extend(feed.batches())
    assert caught.value.position == "line 5"
    assert len(np.concatenate(before)) == 3
    with pytest.raises(DecodeError, match="line 5"):
        check_source("table", [path], options_of(tmp_path, TRADES))


def test_what_does_not_do(tmp_path: Path) -> None:
    path = written(tmp_path, TRADE_LINES)
    with pytest.raises(UsageError, match="mapping"):
        open_feed("table", [path])
    with pytest.raises(MissingError):
        open_feed("table", [tmp_path / "none.csv"], options_of(tmp_path, TRADES))
    with pytest.raises(MissingError):
        open_feed("table", [path], SourceOptions(mapping=tmp_path / "none.toml"))
    with pytest.raises(DecodeError, match="not one column"):
        open_feed("table", [path], options_of(tmp_path, TRADES.replace('"p"', '"price"')))


@QUIET
@given(data=st.binary(max_size=200), place=st.integers(0, 10**6), byte=st.integers(0, 255), mutate=st.booleans())
def test_any_bytes_are_refused_or_read(tmp_path: Path, data: bytes, place: int, byte: int, mutate: bool) -> None:
    content = bytearray("\n".join(TRADE_LINES).encode() + b"\n")
    if mutate:
        content[place % len(content)] = byte
    else:
        content += data
    path = tmp_path / "a.csv"
    path.write_bytes(bytes(content))
    only_decode_errors(path, options_of(tmp_path, TRADES))


@QUIET
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_mutated_parquet_is_refused_or_read(tmp_path: Path, place: int, byte: int) -> None:
    table = pa.table({"s": ["A", "B"], "t": [1000, 1001], "p": [1.5, 2.5], "q": [1, 2], "side": ["buy", "sell"]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    data = bytearray(path.read_bytes())
    data[place % len(data)] = byte
    path.write_bytes(bytes(data))
    only_decode_errors(path, options_of(tmp_path, TRADES))


def only_decode_errors(path: Path, options: SourceOptions) -> None:
    with suppress(DecodeError):
        for batch in open_feed("table", [path], options).batches():
            assert len(batch)
        check_source("table", [path], options)
