"""A book of dicts with a sorted list of prices, one instrument, in plain Python: what most people write first.

Called with one argument of JSON: `records` (a .npy of shape (n, 8), as tapehouse's cells), `by_order`, `repeat`.
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

try:
    import numpy as np
    from sortedcontainers import SortedDict
except ImportError:
    sys.exit(3)

ADD, CANCEL, MODIFY, CLEAR = map(ord, "ACMR")


def by_order(rows: Any) -> Any:
    sides = (SortedDict(), SortedDict())
    orders: dict[int, list[Any]] = {}
    for order_id, price, size, action, side in rows:
        if action == CLEAR:
            for held in (*sides, orders):
                held.clear()
            continue
        if action not in (ADD, CANCEL, MODIFY):
            continue
        known = orders.get(order_id)
        if action == CANCEL:
            if known is None:
                continue
            levels, at, left = known
            taken = min(size, left)
            known[2] -= taken
            if not known[2]:
                del orders[order_id]
        else:
            if known is not None:
                levels, at, left = known
                levels[at] -= left
                if not levels[at]:
                    del levels[at]
            levels, at, taken = sides[side != ord("B")], price, -size
            if size:
                orders[order_id] = [levels, price, size]
            else:
                orders.pop(order_id, None)
                continue
        remains = levels.get(at, 0) - taken
        if remains:
            levels[at] = remains
        else:
            del levels[at]
    return sides


def by_price(rows: Any) -> Any:
    sides = (SortedDict(), SortedDict())
    for _, price, size, action, side in rows:
        if action == CLEAR:
            for held in sides:
                held.clear()
            continue
        levels = sides[side != ord("B")]
        if size:
            levels[price] = size
        else:
            levels.pop(price, None)
    return sides


def main() -> None:
    told = json.loads(sys.argv[1])
    words = np.load(told["records"])
    tail = words[:, 7]
    columns = (words[:, 3], words[:, 4], words[:, 5], tail & 255, (tail >> 8) & 255)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    work = by_order if told["by_order"] else by_price
    spent = []
    for _ in range(told["repeat"]):
        start = time.perf_counter_ns()
        sides = work(rows)
        spent.append((time.perf_counter_ns() - start) / len(rows))
    print(json.dumps({"version": version("sortedcontainers"), "ns": spent, "levels": [len(side) for side in sides]}))


main()
