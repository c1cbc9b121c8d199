"""Random whole records for property tests: from tame market data to values at every edge of their types."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tapehouse.core import UNDEFINED
from tapehouse.market import CELL, Cells, empty_cells, extend

LOG_ID = bytes(range(16))
EDGES = np.array(
    [0, 1, -1, 2**63 - 1, -(2**63), -(2**63) + 1, 2**62, -(2**62), UNDEFINED - 1, 10**9, -(10**9), 127, 128, 2**32],
    np.int64,
)


def market_cells(seed: int, n: int) -> Cells:
    """`n` one-cell records that look like a market: growing times, prices on a grid, a few instruments."""
    rng = np.random.default_rng(seed)
    cells = empty_cells(n)
    cells["ts_event"] = 1_340_285_400_000_000_000 + np.cumsum(rng.integers(0, 1_000_000, n))
    cells["ts_recv"] = cells["ts_event"] + rng.integers(1_000, 50_000, n)
    cells["sequence"] = np.arange(n) + 1
    cells["order_id"] = rng.integers(10**6, 10**6 + 10**4, n)
    cells["price"] = rng.integers(-50, 200, n) * 250_000_000
    cells["size"] = rng.integers(1, 20, n) * 100
    cells["instrument"] = rng.integers(1, 4, n)
    cells["kind"], cells["cells"], cells["action"], cells["side"] = 1, 1, ord("A"), ord("B")
    return cells


def wild_cells(seed: int, n: int) -> Cells:
    """Exactly `n` cells of whole records whose bytes are anything, with many values at the edges of int64."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(-(2**63), 2**63, (n, 8), np.int64, endpoint=False)
    edge = rng.random((n, 8)) < rng.random()
    raw[edge] = rng.choice(EDGES, int(edge.sum()))
    same = rng.random(n) < rng.random()
    for row in range(1, n):
        if same[row]:
            raw[row] = raw[row - 1]
    cells = raw.reshape(-1).view(CELL).copy()
    at = 0
    while at < n:
        length = min(int(rng.choice([1, 1, 1, 2, 3, 255])), n - at)
        record = cells[at : at + length]
        record["cells"][0] = length
        extend(record)
        at += length
    return cells


def batches(n_max: int = 120) -> st.SearchStrategy[Cells]:
    """Hypothesis: whole records, tame or wild."""
    return st.builds(
        lambda make, seed, n: make(seed, n),
        st.sampled_from([market_cells, wild_cells]),
        st.integers(0, 2**32 - 1),
        st.integers(1, n_max),
    )
