"""hftbacktest's market depth, fed through its backtester: its Python API offers no update of a depth by itself.

Called with one argument of JSON: `records` (a .npy of shape (n, 8): tapehouse's cells by price, one instrument),
`depth` (the class), `tick`, `repeat`. The best prices at the end, in ticks, are part of the answer.
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

STEP_NS = 1_000_000_000
LATENCY_NS = 0


def events(words: Any, tick: int) -> Any:
    """Depth events of the local side alone, so that each record is applied to one book and not to two."""
    tail = words[:, 7]
    clear = (tail & 255) == ord("R")
    made = np.zeros(len(words), hft.types.event_dtype)
    side = np.where(((tail >> 8) & 255) == ord("B"), hft.BUY_EVENT, hft.SELL_EVENT).astype("u8")
    kind = np.where(clear, hft.DEPTH_CLEAR_EVENT, hft.DEPTH_EVENT).astype("u8")
    made["ev"] = kind | hft.LOCAL_EVENT | np.where(clear, 0, side).astype("u8")
    times = np.maximum.accumulate(words[:, 1])
    made["exch_ts"], made["local_ts"] = times, times
    made["px"], made["qty"] = words[:, 4] / tick, words[:, 5]
    return made


@njit
def to_the_end(backtest: Any) -> Any:
    steps = 0
    while backtest.elapse(STEP_NS) == 0:
        steps += 1
    depth = backtest.depth(0)
    return steps, depth.best_bid, depth.best_ask


def main() -> None:
    told = json.loads(sys.argv[1])
    data = events(np.load(told["records"]), told["tick"])
    prices = data["px"][data["ev"] & hft.DEPTH_CLEAR_EVENT != hft.DEPTH_CLEAR_EVENT]
    bests: list[float] = []
    make = getattr(hft, f"{told['depth']}Backtest")
    rates = []
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
        backtest = make([asset])
        start = time.perf_counter()
        _, *bests = to_the_end(backtest)
        if run:  # the first one compiles
            rates.append(len(data) / (time.perf_counter() - start))
        backtest.close()
    print(json.dumps({"version": version("hftbacktest"), "per_second": rates, "bests": bests}))


main()
