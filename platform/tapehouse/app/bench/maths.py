"""Deterministic mathematics beside the machine's own: what equal bits on every CPU cost, in a compiled loop."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from tapehouse.app.bench import maths_loops as loops
from tapehouse.app.bench.material import SEED
from tapehouse.app.bench.measure import Measure, measure, peer_of
from tapehouse.app.bench.registry import Options

NUMBERS = 1_000_000
RANGES = {"exp": (-20.0, 20.0), "log": (1e-6, 1e6), "pow": (0.01, 100.0), "normal CDF": (-8.0, 8.0)}


def run(options: Options) -> Iterator[Measure]:
    """A row for each function."""
    count = options.count(NUMBERS, 1_000)
    chance = np.random.default_rng(SEED)
    out = np.zeros(count)
    for name, (low, high) in RANGES.items():
        options.on_step(name)
        numbers = chance.uniform(low, high, count)
        ours, theirs = loops.LOOPS[name]
        spent: list[list[float]] = []
        for loop in (ours, theirs):
            loop(numbers, out)
            spent.append([options.timer.ns_each(partial(loop, numbers, out), count) for _ in range(options.repeat)])
        note = "the exponent is 1.7" if name == "pow" else ""
        note = f"{count:,} numbers from {low:g} to {high:g} in a loop" + (f"; {note}" if note else "")
        yield measure(name, "ns", spent[0], peers=(peer_of("libm", spent[1], "compiled alike"),), note=note)
