"""A market maker of the sample's rules in hftbacktest, on one instrument's levels and trades.

Called with one argument of JSON: `records` (a .npy of shape (n, 8): tapehouse's cells by price, and trades), `tick`,
`size`, `interval_ms`, `repeat`. It is woken every interval and not at every event, which favours it.
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

try:
    import hftbacktest as hft
    import numpy as np
    from numba import njit
except ImportError:
    sys.exit(3)

POSITION_SIZES = 10
SPREAD_TICKS = 1.0
LATENCY_NS = 0


def events(words: Any, tick: int) -> Any:
    """Depth and trade events for exchange and local side, as a backtest with orders needs them."""
    tail = words[:, 7]
    action = tail & 255
    clear = action == ord("R")
    made = np.zeros(len(words), hft.types.event_dtype)
    buys = ((tail >> 8) & 255) == ord("B")
    side = np.where(buys, hft.BUY_EVENT, np.where(((tail >> 8) & 255) == ord("A"), hft.SELL_EVENT, 0)).astype("u8")
    kind = np.where(action == ord("T"), hft.TRADE_EVENT, hft.DEPTH_EVENT).astype("u8")
    kind = np.where(clear, hft.DEPTH_CLEAR_EVENT, kind).astype("u8")
    made["ev"] = kind | hft.LOCAL_EVENT | hft.EXCH_EVENT | np.where(clear, 0, side).astype("u8")
    times = np.maximum.accumulate(words[:, 1])
    made["exch_ts"], made["local_ts"] = times, times
    made["px"], made["qty"] = words[:, 4] / tick, words[:, 5]
    return made


@njit
def make_market(backtest: Any, interval_ns: int, size: float, position_max: float) -> Any:
    number, own_bid, own_ask, bid_id, ask_id = 0, 0.0, 0.0, 0, 0
    while backtest.elapse(interval_ns) == 0:
        backtest.clear_inactive_orders(0)
        depth = backtest.depth(0)
        bid, ask = depth.best_bid, depth.best_ask
        if not bid < ask:
            continue
        position = backtest.position(0)
        middle = 0.5 * (bid + ask)
        lean = position / size
        new_bid = min(np.floor(middle - SPREAD_TICKS - lean), ask - 1.0)
        new_ask = max(np.ceil(middle + SPREAD_TICKS - lean), bid + 1.0)
        orders = backtest.orders(0)
        bid_lives, ask_lives = bid_id in orders, ask_id in orders
        if not bid_lives or new_bid != own_bid:
            if bid_lives:
                backtest.cancel(0, bid_id, False)
            if position < position_max and new_bid > 0:
                number += 1
                bid_id, own_bid = number, new_bid
                backtest.submit_buy_order(0, bid_id, new_bid, size, hft.GTX, hft.LIMIT, False)
        if not ask_lives or new_ask != own_ask:
            if ask_lives:
                backtest.cancel(0, ask_id, False)
            if position > -position_max:
                number += 1
                ask_id, own_ask = number, new_ask
                backtest.submit_sell_order(0, ask_id, new_ask, size, hft.GTX, hft.LIMIT, False)
    return number, backtest.state_values(0).num_trades


def main() -> None:
    told = json.loads(sys.argv[1])
    data = events(np.load(told["records"]), told["tick"])
    prices = data["px"][data["ev"] & hft.DEPTH_CLEAR_EVENT != hft.DEPTH_CLEAR_EVENT]
    interval_ns, size = told["interval_ms"] * 1_000_000, float(told["size"])
    rates, orders, fills = [], 0, 0
    for run in range(1 + told["repeat"]):
        asset = (
            hft.BacktestAsset()
            .data([data])
            .linear_asset(1.0)
            .constant_order_latency(LATENCY_NS, LATENCY_NS)
            .risk_adverse_queue_model()
            .no_partial_fill_exchange()
            .trading_value_fee_model(0.0, 0.0)
            .tick_size(1.0)
            .lot_size(1.0)
            .roi_lb(float(prices.min()) - 1)
            .roi_ub(float(prices.max()) + 1)
            .last_trades_capacity(0)
        )
        backtest = hft.ROIVectorMarketDepthBacktest([asset])
        start = time.perf_counter()
        orders, fills = make_market(backtest, interval_ns, size, POSITION_SIZES * size)
        if run:  # the first one compiles
            rates.append(len(data) / (time.perf_counter() - start))
        backtest.close()
    told = {"version": version("hftbacktest"), "per_second": rates, "orders": int(orders), "fills": int(fills)}
    print(json.dumps(told))


main()
