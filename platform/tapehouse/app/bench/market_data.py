"""Market data: the bytes of a feed, decoded, through the engine's loop, to the call of a strategy.

Files are decoded a block at a time, so a single record's latency is its share of the decoding plus its own way through
the loop: book, paper exchange, strategy, risk, decision. The whole path is measured end to end as a rate.
"""

from __future__ import annotations

from collections.abc import Iterator

from tapehouse.app.bench.engines import define, fold, fold_fenced, fresh_engine, maker
from tapehouse.app.bench.material import Material
from tapehouse.app.bench.measure import Goal, Measure, Peer, measure, not_measured
from tapehouse.app.bench.peer import answered
from tapehouse.app.bench.registry import Options
from tapehouse.app.bench.timer import middle, new_histogram
from tapehouse.core.check import check

GOALS = (Goal(at_least=5.0),)
LATENCY_GOALS = (Goal(figure="p99", at_most=2_000.0),)


def run(options: Options) -> Iterator[Measure]:
    """Three rows a data set."""
    for material in options.materials:
        if material.feed is None:
            yield not_measured("bytes to strategy call", "M records/s", material.missing, data=material.name)
            continue
        yield from _measured(options, material)


def _measured(options: Options, material: Material) -> Iterator[Measure]:
    feed, timer = material.there, options.timer
    cells = material.feed_cells
    records = int((cells["cells"] > 0).sum())
    source = "generated" if material.path is None else f"{material.path.suffix} file from the page cache"
    options.on_step(f"{material.name}: decode")
    decoding = [timer.ns_each(lambda: list(feed.batches()), records) for _ in range(1 + options.repeat)][1:]
    rates = [1e3 / each for each in decoding]
    peers = (_library(options, material),) if material.path is not None and ".dbn" in material.path.suffixes else ()
    note = f"{source} to cells, {records:,} records"
    yield measure("decoded", "M records/s", rates, data=material.name, peers=peers, note=note)

    options.on_step(f"{material.name}: bytes to strategy call")
    whole = [records / _whole_path(options, material) / 1e6 for _ in range(1 + options.repeat)][1:]
    note = f"{source}, decoded, engine with the maker, decisions and their digest; one thread"
    yield measure("bytes to strategy call", "M records/s", whole, data=material.name, goals=GOALS, note=note)

    options.on_step(f"{material.name}: single records")
    spreads, means = [], []
    for _ in range(1 + options.repeat):
        engine = fresh_engine(maker())
        first = define(engine, feed.instruments)
        histogram = new_histogram()
        done = fold_fenced(engine, cells, first, timer.overhead, histogram)
        check(done == len(cells), f"the loop stopped at cell {done} of {len(cells)}", subject=material.name)
        spreads.append(timer.spread(histogram))
        means.append(spreads[-1].mean)
    share = sorted(decoding)[len(decoding) // 2]
    note = "the engine's loop a record, between fences; the mean is theirs too"
    yield measure("a record: cell to decision", "ns", means[1:], data=material.name, note=note, **middle(spreads[1:]))
    late = {name: value + share for name, value in middle(spreads[1:]).items()}
    note = f"the same with a record's share of decoding its block, {share:.0f} ns, added to every figure"
    values = [mean + share for mean in means[1:]]
    yield measure(
        "a record: bytes to decision", "ns", values, data=material.name, goals=LATENCY_GOALS, note=note, **late
    )


def _whole_path(options: Options, material: Material) -> float:
    """Seconds from the file's first byte to the last decision."""
    feed = material.there
    engine = fresh_engine(maker())
    ordinal = define(engine, feed.instruments)

    def work() -> None:
        position = ordinal
        for cells in feed.batches():
            fold(engine, [cells], position)
            position += len(cells)

    return options.timer.seconds(work)


def _library(options: Options, material: Material) -> Peer:
    """Databento's own decoder, to objects of Python."""
    assert material.path is not None
    options.on_step(f"{material.name}: databento-dbn")
    answer = options.peers.ask("dbn_decoder", {}, path=str(material.path), repeat=options.repeat)
    return answered("databento-dbn", answer, "per_second", "its decoder, to Python objects", 1e-6)
