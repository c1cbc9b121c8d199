"""Rows of measures and flows against what the oracle says of the same interval."""

from __future__ import annotations

import math
from typing import Any

from tapehouse.book import flow, wide
from tapehouse.book import measures as m
from tapehouse.core import UNDEFINED
from tests.support.analytics_oracle import Interval, Levels, measures_of, slope


def same(exact: int, expected: Any) -> bool:
    return exact == (UNDEFINED if expected is None else expected)


def close(real: float, expected: Any) -> bool:
    return math.isnan(real) if expected is None else math.isclose(real, expected, rel_tol=1e-9, abs_tol=1e-9)


def assert_measures(exact: Any, reals: Any, expected: dict[str, Any]) -> None:
    """What `measure` wrote is what the oracle says."""
    columns = {
        "bid": m.BID_PRICE,
        "bid_size": m.BID_SIZE,
        "ask": m.ASK_PRICE,
        "ask_size": m.ASK_SIZE,
        "spread": m.SPREAD,
        "bid_orders": m.BID_ORDERS,
        "ask_orders": m.ASK_ORDERS,
        "bid_depth": m.BID_DEPTH,
        "ask_depth": m.ASK_DEPTH,
        "bid_near": m.BID_NEAR,
        "ask_near": m.ASK_NEAR,
    }
    assert {name: int(exact[at]) for name, at in columns.items()} == {
        name: UNDEFINED if expected[name] is None else expected[name] for name in columns
    }
    assert same(int(exact[m.TWICE_MID]), None if expected["mid"] is None else 2 * expected["mid"])
    assert close(reals[m.MICROPRICE], expected["microprice"])
    assert close(reals[m.IMBALANCE], expected["imbalance"])
    assert close(reals[m.DEPTH_IMBALANCE], expected["depth_imbalance"])


def assert_row(
    exact: Any, reals: Any, interval: Interval, end: int, bids: Levels, asks: Levels, *, levels: int, bps: int
) -> None:
    """The row says what the oracle says."""
    assert (exact[flow.ROW_BEGIN], exact[flow.ROW_END]) == (interval.begin, end)
    assert_measures(exact[flow.ROW_MEASURES :], reals, measures_of(bids, asks, levels=levels, bps=bps))
    sums = exact[flow.ROW_SUMS :]
    assert sums[flow.RECORDS] == interval.records
    assert sums[flow.OFI] == interval.flow
    assert sums[flow.TRADES] == len(interval.trades)
    assert sums[flow.VOLUME] == sum(size for _, size, _ in interval.trades)
    assert sums[flow.BUY_VOLUME] == sum(size for _, size, sign in interval.trades if sign > 0)
    assert sums[flow.SELL_VOLUME] == sum(size for _, size, sign in interval.trades if sign < 0)
    notional = sum(price * size for price, size, _ in interval.trades)
    assert wide.whole(*sums[flow.NOTIONAL : flow.NOTIONAL + 2]) == notional
    assert sums[flow.MID_NS] == interval.mid_ns
    assert wide.whole(*sums[flow.MID_TIME : flow.MID_TIME + 2]) == 2 * interval.mid_time
    assert (sums[flow.TAKEN], sums[flow.RESTORED]) == (interval.taken, interval.restored)
    assert sums[flow.CONFIDENCE_WORST] == interval.confidence
    assert sums[flow.RETURNS] == len(interval.returns)
    assert close(reals[flow.ROW_VARIANCE], sum(each * each for each in interval.returns))
    assert sums[flow.POINTS] == len(interval.points)
    assert close(reals[flow.ROW_LAMBDA], slope(interval.points))
