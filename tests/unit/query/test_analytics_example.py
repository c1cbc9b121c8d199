"""The example of docs/analytics.md says what comes out."""

from __future__ import annotations

import polars as pl
import pytest

from tapehouse.market import Action, Cells, Flag, Instrument, Kind, Side, empty_cells
from tapehouse.query.analytics import AnalyticsBuilder, AnalyticsOptions
from tapehouse.query.bars import BarsBuilder, BarsOptions

SECOND = 10**9
CENT = 10**7
SHARE = Instrument(id=1, symbol="EXMP")


def record(time: int, kind: Kind, action: Action, side: Side, price: int, size: int, order_id: int = 0) -> Cells:
    """One record; prices in cents."""
    cells = empty_cells(1)
    fields = {"ts_recv": time, "kind": kind, "action": action, "side": side, "price": price * CENT, "size": size}
    for name, value in {**fields, "order_id": order_id, "cells": 1, "instrument": 1, "flags": Flag.LAST}.items():
        cells[name] = value
    return cells


def day() -> list[Cells]:
    """The book of the example in the first second, its flow in the next."""
    bid, ask, add = Side.BID, Side.ASK, Action.ADD
    standing = [(bid, 10_000, 10), (bid, 10_000, 20), (bid, 9_998, 50), (ask, 10_002, 10), (ask, 10_010, 40)]
    cells = [record(SECOND // 2, Kind.MBO, add, *each, number) for number, each in enumerate(standing, 1)]
    cells.append(record(SECOND, Kind.MBO, add, bid, 10_000, 20, 6))
    cells.append(record(SECOND, Kind.MBO, Action.TRADE, bid, 10_002, 10))
    cells.append(record(SECOND, Kind.MBO, Action.CANCEL, ask, 10_002, 10, 4))
    cells.append(record(SECOND + 4 * SECOND // 10, Kind.MBO, add, ask, 10_002, 6, 7))
    cells.append(record(2 * SECOND, Kind.CLOCK, Action.NONE, Side.NONE, 0, 0))
    return cells


def test_the_measures_and_flows_of_the_example() -> None:
    builder = AnalyticsBuilder(AnalyticsOptions(every="1s", sample="250ms", recovery="500ms", levels=2, bps=5))
    builder.define([SHARE])
    for cells in day():
        builder.take(cells)
    builder.finish()
    before, after = builder.table().to_dicts()
    expected = {
        "spread": 0.02,
        "mid": 100.01,
        "microprice": 100.015,
        "imbalance": 0.5,
        "bid_orders": 2,
        "bid_size": 30,
        "bid_depth": 80,
        "ask_depth": 50,
        "depth_imbalance": 30 / 130,
        "bid_near": 80,
        "ask_near": 10,
    }
    assert {name: before[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    flows = {
        "order_flow_imbalance": 24,
        "trades": 1,
        "volume": 10,
        "buy_volume": 10,
        "sell_volume": 0,
        "vwap": 100.02,
        "twap": 100.026,
        "taken": 10,
        "resilience": 0.6,
        "returns": 4,
    }
    assert {name: after[name] for name in flows} == pytest.approx(flows, rel=1e-12)
    assert after["realised_volatility"] == pytest.approx(0.000566, rel=1e-3)
    assert after["kyle_lambda"] == pytest.approx(0.4 / 75, rel=1e-9)


@pytest.mark.parametrize(
    ("by", "size", "expected"),
    [
        ("tick", "2", [(10.0, 10.1, 10.0, 10.1, 7, True), (10.05, 10.05, 10.0, 10.0, 7, True)]),
        ("volume", "6", [(10.0, 10.1, 10.0, 10.1, 7, True), (10.05, 10.05, 10.0, 10.0, 7, True)]),
        ("dollar", "100", [(10.0, 10.1, 10.0, 10.05, 12, True), (10.0, 10.0, 10.0, 10.0, 2, False)]),
    ],
)
def test_the_bars_of_the_example(by: str, size: str, expected: list[tuple[object, ...]]) -> None:
    builder = BarsBuilder(BarsOptions(by=by, size=size))  # type: ignore[arg-type]
    builder.define([SHARE])
    for time, (price, traded) in enumerate([(1_000, 4), (1_010, 3), (1_005, 5), (1_000, 2)]):
        builder.take(record(time, Kind.TRADE, Action.TRADE, Side.NONE, price, traded))
    builder.finish()
    rows: pl.DataFrame = builder.table()
    assert rows.select("open", "high", "low", "close", "volume", "complete").rows() == expected
