"""Ticks made line by line: sides of exchanges, merging, names, damage, and any bytes at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError, MissingError, UsageError, parse_time_ns
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds import SourceOptions, check_source, open_feed
from tapehouse.feeds.taq import TaqFeed
from tapehouse.market import Cells, Flag, Kind

QUIET = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
OPTIONS = SourceOptions(day=date(2013, 10, 8), symbol="IBM")
MIDNIGHT = parse_time_ns("2013-10-08T04:00:00Z")
TRADE_LINES = ["34200000,1818900,300,N,20,0", "34200005,1818800,100,K,0,1"]
QUOTE_LINES = [
    "34199000,1818800,200,0,0,N,1,0",
    "34200000,0,0,1819000,100,N,1,0",
    "34200000,0,0,1819100,300,K,1,0",
    "34200005,1818700,0,0,0,N,1,0",
]


def written(tmp_path: Path, lines: list[str], name: str = "a.csv") -> Path:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def cells_of(paths: list[Path], **options: int) -> Cells:
    return np.concatenate(list(TaqFeed(paths, OPTIONS, **options).batches()))


def test_each_exchange_has_its_own_sides(tmp_path: Path) -> None:
    feed = TaqFeed([written(tmp_path, QUOTE_LINES)], OPTIONS)
    cells = np.concatenate(list(feed.batches()))
    assert [(one.symbol, one.venue) for one in feed.instruments] == [("IBM", "EDGX"), ("IBM", "XNYS")]
    quotes = list(zip(cells["instrument"][::2], cells["price"][::2], cells["price"][1::2], strict=True))
    none = UNDEFINED
    assert quotes == [
        (2, 181_880_000_000, none),
        (2, 181_880_000_000, 181_900_000_000),
        (1, none, 181_910_000_000),
        (2, none, 181_900_000_000),
    ]
    assert cells["ts_event"][0] == MIDNIGHT + 34_199_000_000_000
    assert cells["count"].tolist() == [1] * 8


def test_trades_and_quotes_by_time(tmp_path: Path) -> None:
    paths = [written(tmp_path, TRADE_LINES, "t.csv"), written(tmp_path, QUOTE_LINES, "q.csv")]
    cells = cells_of(paths)
    firsts = cells[cells["cells"] > 0]
    quote, trade = int(Kind.QUOTE), int(Kind.TRADE)
    assert firsts["kind"].tolist() == [quote, quote, quote, trade, quote, trade]
    assert firsts["count"].tolist()[3] == 0x20
    assert firsts["flags"].tolist()[-1] == Flag.LAST | Flag.MAYBE_BAD_BOOK
    assert check_source("taq", paths, OPTIONS).mismatches == 0
    for batch_cells in (1, 3):
        assert (cells_of(paths, batch_cells=batch_cells) == cells).all()


def test_the_names_say_day_and_symbol(tmp_path: Path) -> None:
    lean = written(tmp_path, TRADE_LINES, "equity/tick/ibm/20131008_trade.csv")
    assert TaqFeed([lean]).name == "taq-ibm-2013-10-08"
    inside = written(tmp_path, TRADE_LINES, "20131008_ibm_Trade_Tick.csv")
    assert TaqFeed([inside]).name == "taq-ibm-2013-10-08"
    with pytest.raises(UsageError, match="day"):
        TaqFeed([written(tmp_path, TRADE_LINES)])
    with pytest.raises(DecodeError, match="minute bars"):
        TaqFeed([written(tmp_path, TRADE_LINES, "20131008_ibm_minute_trade.csv")])


def test_bars_beside_are_held_against_the_trades(tmp_path: Path) -> None:
    path = written(tmp_path, TRADE_LINES, "tick/ibm/20131008_trade.csv")
    written(tmp_path, ["34200000,1818900,1818900,1818800,1818800,400"], "minute/ibm/20131008_trade.csv")
    good = check_source("taq", [path])
    assert (good.mismatches, good.truths["minute_volume"]) == (0, "1/1")
    for bar in ("34200000,1818900,1818900,1818800,1818800,401", "34200000,1818900,1819000,1818800,1818800,400"):
        written(tmp_path, [bar], "minute/ibm/20131008_trade.csv")
        assert check_source("taq", [path]).mismatches == 1
    written(tmp_path, ["34200000,x"], "minute/ibm/20131008_trade.csv")
    with pytest.raises(DecodeError, match="no bar"):
        check_source("taq", [path])


def test_a_time_that_goes_backwards_is_held_and_told(tmp_path: Path) -> None:
    path = written(tmp_path, [*reversed(TRADE_LINES)])
    feed = TaqFeed([path], OPTIONS)
    cells = np.concatenate(list(feed.batches()))
    assert (np.diff(cells["ts_recv"]) == 0).all()
    assert feed.corrected_times == 1
    assert "backwards" in str(check_source("taq", [path], OPTIONS).first_mismatch)


@pytest.mark.parametrize(
    "line",
    ["34200006,1,1,N,0", "34200006,x,1,N,0,0", "34200006,1,1,N,zz,0", "90000000,1,1,N,0,0", "34200006,0,1,N,0,0"],
)
def test_a_bad_line_is_named_and_what_came_before_stands(tmp_path: Path, line: str) -> None:
    trades = written(tmp_path, [*TRADE_LINES, line, "34200009,1,1,N,0,0"], "t.csv")
    quotes = written(tmp_path, [*QUOTE_LINES, "34200008,1818700,5,0,0,N,1,0"], "q.csv")
    feed = TaqFeed([trades, quotes], OPTIONS)
    before: list[Cells] = []
    with pytest.raises(DecodeError) as caught:
        before.extend(feed.batches())
    assert (caught.value.subject, caught.value.position) == ("t.csv", "line 3")
    expected = cells_of([written(tmp_path, TRADE_LINES, "t.csv"), written(tmp_path, QUOTE_LINES, "q.csv")])
    assert (np.concatenate(before) == expected).all()


def test_files_that_do_not_do(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        open_feed("taq", [tmp_path / "none.zip"], OPTIONS)
    with pytest.raises(UsageError, match="trades and the quotes"):
        TaqFeed([written(tmp_path, TRADE_LINES), written(tmp_path, TRADE_LINES, "b.csv")], OPTIONS)
    with pytest.raises(UsageError, match="0 files"):
        TaqFeed([], OPTIONS)
    with pytest.raises(DecodeError, match="columns"):
        TaqFeed([written(tmp_path, ["1,2"])], OPTIONS)


TIMES = st.lists(st.integers(0, 9), min_size=1, max_size=25).map(sorted)
SIZES = st.integers(0, 3)


def quote_lines(draw_times: list[int], numbers: Iterator[tuple[int, int, int, int, str]]) -> list[str]:
    return [f"{at},{a},{b},{c},{d},{letter},1,0" for at, (a, b, c, d, letter) in zip(draw_times, numbers, strict=False)]


@QUIET
@given(
    quote_times=TIMES,
    trade_times=TIMES,
    numbers=st.lists(st.tuples(SIZES, SIZES, SIZES, SIZES, st.sampled_from("NK")), min_size=25, max_size=25),
    batch_cells=st.integers(1, 30),
)
def test_any_ticks_are_what_the_check_says(
    tmp_path: Path,
    quote_times: list[int],
    trade_times: list[int],
    numbers: list[tuple[int, int, int, int, str]],
    batch_cells: int,
) -> None:
    """The kernels of both kinds against dicts of decimals, and the merge against sorting."""
    quotes = written(tmp_path, quote_lines(quote_times, iter(numbers)), "q.csv")
    trades = written(tmp_path, [f"{at},{5 + at},{1 + at},Q,20000020,0" for at in trade_times], "t.csv")
    found = check_source("taq", [trades, quotes], OPTIONS)
    assert (found.first_mismatch, found.rows) == (None, len(quote_times) + len(trade_times))
    cells = cells_of([trades, quotes])
    assert (cells_of([trades, quotes], batch_cells=batch_cells) == cells).all()
    firsts = cells[cells["cells"] > 0]
    told = list(zip(firsts["ts_recv"].tolist(), (firsts["kind"] == Kind.TRADE).tolist(), strict=True))
    assert told == sorted(told)


@QUIET
@given(data=st.binary(max_size=200), good=st.sampled_from([TRADE_LINES, QUOTE_LINES, []]))
def test_any_bytes_are_refused_or_read(tmp_path: Path, data: bytes, good: list[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("".join(line + "\n" for line in good).encode() + data)
    only_decode_errors(path)


@QUIET
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), quotes=st.booleans())
def test_mutated_files_are_refused_or_read(tmp_path: Path, place: int, byte: int, quotes: bool) -> None:
    data = bytearray("".join(line + "\n" for line in (QUOTE_LINES if quotes else TRADE_LINES)).encode())
    data[place % len(data)] = byte
    path = tmp_path / "a.csv"
    path.write_bytes(bytes(data))
    only_decode_errors(path)


def only_decode_errors(path: Path) -> None:
    with suppress(DecodeError):
        for batch in TaqFeed([path], OPTIONS).batches():
            assert len(batch)
        check_source("taq", [path], OPTIONS)
