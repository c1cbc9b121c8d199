"""Analytics and bars of a whole day's tape, through the client: against its trades and its tops."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from tapehouse.client import AsyncClient
from tapehouse.core.errors import MissingError, UsageError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.query.analytics import AnalyticsOptions
from tapehouse.query.bars import BarsOptions
from tapehouse.query.span import parse_span_ns
from tests.support.memory_platform import MemoryPlatform, make_platform


@pytest.fixture
async def platform() -> MemoryPlatform:
    """A recorded day."""
    return await make_platform()


@pytest.fixture
def client(platform: MemoryPlatform) -> AsyncClient:
    """A client of it."""
    return AsyncClient(platform)


async def test_the_intervals_add_up_to_the_day(client: AsyncClient) -> None:
    rows = await client.analytics(tape="day", every="100ms")
    trades = await client.trades(tape="day")
    for symbol in trades["symbol"].unique():
        mine, printed = (table.filter(pl.col("symbol") == symbol) for table in (rows, trades))
        assert mine["volume_fixed"].sum() == printed["size_fixed"].sum()
        assert mine["trades"].sum() == len(printed) > 0
        bought = printed.filter(pl.col("aggressor") == "buy")["size_fixed"].sum()
        assert mine["buy_volume_fixed"].sum() == bought
        spans = mine["end_ns"] - mine["begin_ns"]
        assert (spans[:-1] == NS_PER_SECOND // 10).all()
        assert mine["complete"].to_list() == [True] * (len(mine) - 1) + [spans[-1] == NS_PER_SECOND // 10]
        assert (mine["begin_ns"][1:] == mine["end_ns"][:-1]).all()


async def test_a_row_ends_with_the_top_that_stood_then(client: AsyncClient) -> None:
    rows = await client.analytics(tape="day", every="100ms")
    tops = await client.sql("SELECT * FROM bbo ORDER BY ordinal", tape="day")
    found = 0
    for row in rows.filter("complete").iter_rows(named=True):
        before = tops.filter((pl.col("symbol") == row["symbol"]) & (pl.col("ts_ns") < row["end_ns"]))
        if len(before):
            last = before.row(-1, named=True)
            names = ("bid_fixed", "bid_size_fixed", "ask_fixed", "ask_size_fixed")
            assert {name: row[name] for name in names} == {name: last[name] for name in names}
            found += 1
    assert found > 10


async def test_a_span_of_a_day_is_that_part_of_it(client: AsyncClient) -> None:
    whole = await client.analytics(tape="day", every="100ms")
    begin, end = whole["begin_ns"][4], whole["begin_ns"][-4]
    part = await client.analytics(tape="day", every="100ms", start=begin, end=end)
    inside = whole.filter((pl.col("begin_ns") >= begin) & (pl.col("end_ns") <= end))
    assert part.filter(pl.col("end_ns") <= end).equals(inside)
    symbol = whole["symbol"][0]
    only = await client.analytics(symbol, tape="day", every="100ms")
    own = whole.filter((pl.col("symbol") == symbol) & pl.col("complete"))
    assert only.filter("complete").equals(own)


@pytest.mark.parametrize(("by", "size"), [("time", "1s"), ("tick", "7"), ("volume", "50"), ("dollar", "20000")])
async def test_bars_hold_every_trade_once(client: AsyncClient, by: Any, size: str) -> None:
    bars, trades = await client.bars(tape="day", by=by, size=size), await client.trades(tape="day")
    for symbol in trades["symbol"].unique():
        mine, printed = (table.filter(pl.col("symbol") == symbol) for table in (bars, trades))
        assert mine["volume_fixed"].sum() == printed["size_fixed"].sum()
        assert mine["trades"].sum() == len(printed)
        assert (mine["open_fixed"][0], mine["close_fixed"][-1]) == (
            printed["price_fixed"][0],
            printed["price_fixed"][-1],
        )
        assert mine["complete"][:-1].all()
        at = 0
        for bar in mine.iter_rows(named=True):
            held = printed[at : at + bar["trades"]]
            at += bar["trades"]
            prices, sizes = held["price_fixed"].to_list(), held["size_fixed"].to_list()
            assert (bar["high_fixed"], bar["low_fixed"]) == (max(prices), min(prices))
            notional = sum(price * size for price, size in zip(prices, sizes, strict=True))
            assert abs(bar["vwap_fixed"] * sum(sizes) - notional) * 2 <= sum(sizes)
            if bar["complete"] and by == "dollar":
                assert bar["notional"] >= 20_000


async def test_what_is_not_there_is_told(client: AsyncClient) -> None:
    with pytest.raises(MissingError, match="no instrument 'NONE'"):
        await client.analytics("NONE", tape="day")
    with pytest.raises(MissingError, match="no instrument 'NONE'"):
        await client.bars("NONE", tape="day")


@pytest.mark.parametrize(
    "options",
    [
        {"every": "1"},
        {"every": "0s"},
        {"every": "3ns"},
        {"every": "1s", "sample": "300ms"},
        {"recovery": "soon"},
        {"levels": 0},
        {"bps": 10_001},
    ],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        AnalyticsOptions(**options).flow()


@pytest.mark.parametrize(
    ("by", "size"), [("time", "10"), ("tick", "-1"), ("volume", "nan"), ("dollar", "1e99"), ("x", "1")]
)
def test_bars_that_cannot_be(by: Any, size: str) -> None:
    with pytest.raises(UsageError):
        BarsOptions(by=by, size=size).check()


@pytest.mark.parametrize(("text", "span"), [("1s", 10**9), ("1.5m", 90 * 10**9), ("250ms", 250 * 10**6), ("7ns", 7)])
def test_spans(text: str, span: int) -> None:
    assert parse_span_ns(text) == span


@pytest.mark.parametrize("text", ["", "s", "1.5ns", "-1s", "1 s", "1y", "9999999d", "٣s"])
def test_spans_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError):
        parse_span_ns(text)
