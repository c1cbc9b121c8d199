"""Analytics: a record folded into book, flows and measures, beside the same records folded into books alone.

The records are those of each data set's busiest instrument, by order, trades among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from tapehouse.app.bench.analytics_loops import measure_each
from tapehouse.app.bench.books import SLOTS, Flow, derive
from tapehouse.app.bench.measure import Measure, measure, not_measured, peer_of
from tapehouse.app.bench.registry import Options
from tapehouse.book import Books, apply_cells, bars, flow, measures
from tapehouse.core.check import check
from tapehouse.core.units import NS_PER_SECOND

EVERY = NS_PER_SECOND
SAMPLES = 10  # of an interval
LEVELS, BPS = 5, 10
ROWS = 200_000  # of one second: more than a day of trading has


def run(options: Options) -> Iterator[Measure]:
    """All rows, a data set at a time."""
    for material in options.materials:
        if material.feed is None:
            yield not_measured("books and flows", "ns", material.missing, data=material.name)
            continue
        options.on_step(f"{material.name}: the busiest instrument")
        yield from _folded(options, derive(material))


def _folded(options: Options, records: Flow) -> Iterator[Measure]:
    """Each fold beside books alone, the runs of both in turn."""
    n = len(records.by_order)
    out = flow.make_rows(ROWS)
    exact, ratios = np.zeros(measures.MEASURES, np.int64), np.zeros(measures.RATIOS)
    bar_rows = np.zeros((n + 2, bars.BAR_COLUMNS), np.int64)
    found: dict[str, int] = {}

    def flows(books: Books, every: int) -> None:
        state = flow.make_flow(1, every=every, sample=every // SAMPLES, recovery=every, levels=LEVELS, bps=BPS)
        reached, rows, why = flow.fold_flow(books, SLOTS, state, records.by_order, 0, out, 0)
        check(reached == n and why == flow.DONE, f"the fold stopped at {reached}", subject=records.name)
        found["rows"] = int(rows)

    def each(books: Books) -> None:
        measure_each(books, records.by_order, LEVELS, BPS, exact, ratios)

    def trades(books: Books) -> None:
        state = bars.make_bars(1)
        bars.define_bars(state, 0, bars.By.TIME, 60 * NS_PER_SECOND)
        found["bars"] = int(bars.fold_bars(SLOTS, state, records.by_order, 0, 0, bar_rows, 0)[2])

    subjects: list[tuple[str, Callable[[Books], None], str]] = [
        ("books and flows, a row a minute", partial(flows, every=60 * EVERY), "{n:,} records into {rows:,} rows"),
        ("books and flows, a row a second", partial(flows, every=EVERY), "{n:,} records into {rows:,} rows"),
        ("books and measures after every record", each, "{n:,} records; 5 levels, 10 basis points"),
        ("bars of a minute", trades, "{n:,} records into {bars:,} bars, no book"),
    ]
    for name, work, note in subjects:
        options.on_step(f"{records.name}: {name}")
        work(records.books())  # compiled before the clock starts
        means, alone = [], []
        for _ in range(options.repeat):
            alone.append(options.timer.ns_each(partial(apply_cells, records.books(), SLOTS, records.by_order), n))
            means.append(options.timer.ns_each(partial(work, records.books()), n))
        peer = peer_of("books alone", alone, "the same records, runs in turn")
        yield measure(name, "ns", means, data=records.name, peers=(peer,), note=note.format(n=n, **found))
