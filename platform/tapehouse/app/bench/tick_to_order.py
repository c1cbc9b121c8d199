"""Tick to order between two processes, each spinning on a core of its own: from a tick that is due to its order.

The feed sends recorded ticks on a fixed schedule; the engine runs the loop of `ahead` mode with a strategy that answers
each move of a book's top with an order; the order comes back to the feed's process. A latency begins when its tick was
due, so whatever delays the feed itself counts too. What comes back is held against a replay: every answer, and the
state that the engine ends in. Beside the latencies stand the gaps of the same two loops in the same run, for a pause of
the machine is most of what is above the median.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tapehouse.app.bench import tick_to_order_loops as loops
from tapehouse.app.bench.histogram import COUNT, Spread, percentile
from tapehouse.app.bench.material import Material
from tapehouse.app.bench.measure import Goal, Measure, measure, not_measured
from tapehouse.app.bench.registry import Options
from tapehouse.app.bench.spans import Lost
from tapehouse.app.bench.tick_to_order_run import SPIN_SECONDS, WARM_SECONDS, Plan, Result, cores, make_plan, run_once
from tapehouse.app.bench.timer import middle

RATES = (10_000, 100_000, 500_000)
SECONDS, SECONDS_QUICK = 5.0, 0.2
MEDIAN_GOALS = (Goal(figure="p50", at_most=1_000.0),)
NINETY_GOALS = (Goal(at_most=1_500.0),)
PICTURE = "tick-to-order.png"


@dataclass(kw_only=True)
class Series:
    """All runs of one data set at one rate."""

    data: str
    rate: int
    plan: Plan
    results: list[Result] = field(default_factory=list)


def run(options: Options) -> Iterator[Measure]:
    """The rows of each data set and rate, and a picture of them all."""
    series: list[Series] = []
    for material in options.materials:
        if material.feed is None:
            yield not_measured("tick to order", "ns", material.missing, data=material.name)
            continue
        for rate in RATES:
            made = _runs(options, material, rate)
            series.append(made)
            yield from _rows(options, made)
    if options.output is not None:
        yield _picture(options, series)


def _runs(options: Options, material: Material, rate: int) -> Series:
    seconds = SECONDS_QUICK if options.quick else SECONDS
    warm = int(rate * WARM_SECONDS)
    options.on_step(f"{material.name}: {rate:,} ticks/s, what must be answered")
    plan = make_plan(material.there, material.feed_cells, warm + int(rate * seconds))
    made = Series(data=material.name, rate=rate, plan=plan)
    for number in range(options.repeat):
        options.on_step(f"{material.name}: {rate:,} ticks/s, run {number + 1} of {options.repeat}")
        result = run_once(
            plan, rate=rate, warm=warm, ns_per_count=options.timer.ns_per_count, scratch=options.scratch,
            spin_seconds=min(SPIN_SECONDS, seconds),
        )  # fmt: skip
        made.results.append(result)
    return made


def _rows(options: Options, series: Series) -> Iterator[Measure]:
    scale, results = options.timer.ns_per_count, series.results
    at = f"at {series.rate:,} ticks/s"

    def spreads(which: int) -> list[Spread]:
        return [Spread.of(result.histograms[which], scale) for result in results]

    whole = spreads(loops.TICK_TO_ORDER)
    ninety = [percentile(result.histograms[loops.TICK_TO_ORDER], 0.9) * scale for result in results]
    most = max(spread.most for spread in whole) / 1e3
    cells = series.plan.cells / series.plan.count
    note = (
        f"{series.plan.count:,} ticks of {cells:.2f} cells, {results[0].answered:,} of them answered; from due to "
        f"received; the most {most:,.0f} us; every answer and the final state as in a replay"
    )
    medians = [spread.p50 for spread in whole]
    data = series.data
    yield measure(f"tick to order {at}", "ns", medians, data=data, goals=MEDIAN_GOALS, note=note, **middle(whole))
    yield measure(f"tick to order {at}: p90", "ns", ninety, data=data, goals=NINETY_GOALS, note="of the same runs")
    one_way = spreads(loops.ONE_WAY)
    note = "from the feed's append to the engine's taking it, by the engine's stage timings"
    yield measure(f"one way {at}", "ns", [spread.p50 for spread in one_way], data=data, note=note, **middle(one_way))
    if any(not result.histograms[loops.PATH][COUNT] for result in results):
        options.on_step(f"{data} {at}: the engine was behind all the time, so no order's path can be told")
        yield _lost(series, at)
        return
    path = spreads(loops.PATH)
    parts = [
        f"{name} {np.median([spread.p50 for spread in spreads(which)]):.0f}"
        for name, which in (("journal append", loops.JOURNALED), ("decide", loops.DECIDED_IN), ("send", loops.SENT_IN))
    ]
    note = f"inside the engine's loop, ticks that were answered; p50 of the parts: {', '.join(parts)} ns"
    yield measure(
        f"order path {at}: journal append, decide, send", "ns", [spread.p50 for spread in path], data=data, note=note,
        **middle(path),
    )  # fmt: skip
    yield _lost(series, at)


def _lost(series: Series, at: str) -> Measure:
    """Time that somebody else had of the two cores while the loops ran."""
    results = series.results
    slow = sum(result.slow for result in results)
    explained = np.average([r.explained for r in results], weights=[r.slow for r in results]) if slow else 1.0
    feed, engine = cores()
    note = (
        f"gaps above 1 us of the same loops; {_of(feed, 'feed', [r.feed for r in results])}; "
        f"{_of(engine, 'engine', [r.engine for r in results])}; steal {sum(r.steal[0] for r in results)} and "
        f"{sum(r.steal[1] for r in results)} clock ticks; {slow:,} ticks above 5 us, {explained:.1%} of them in or "
        f"behind a gap ({np.median([r.by_chance for r in results]):.1%} by chance); cores that only spun before lost "
        f"{_median([r.spun[0].share for r in results]):.2%} and {_median([r.spun[1].share for r in results]):.2%}"
    )
    shares = [50.0 * (result.feed.share + result.engine.share) for result in results]
    return measure(f"lost to the machine {at}", "% of time", shares, data=series.data, note=note)


def _of(core: int, role: str, lost: Sequence[Lost]) -> str:
    most = max(one.most_us for one in lost)
    return f"core {core} ({role}) {_median([one.share for one in lost]):.2%}, the longest {most:,.0f} us"


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _picture(options: Options, series: Sequence[Series]) -> Measure:
    """Draw everything, where that can be done."""
    from tapehouse.app.bench.tick_to_order_picture import Panel, draw, drawable

    assert options.output is not None
    path = options.output / PICTURE
    name, unit = "picture", "series"
    if not drawable():
        return measure(name, unit, [0.0], note="not drawn: matplotlib is not installed (pip install 'tapehouse[demo]')")
    panels = [
        Panel(
            data=one.data,
            rate=one.rate,
            latencies=[result.histograms[loops.TICK_TO_ORDER] for result in one.results],
            gaps=[result.gaps for result in one.results],
            seconds=sum(result.duration for result in one.results) * options.timer.ns_per_count / 1e9,
        )
        for one in series
    ]
    draw(panels, path, ns_per_count=options.timer.ns_per_count)
    return measure(name, unit, [float(len(panels))], note=f"{PICTURE}, beside the report")
