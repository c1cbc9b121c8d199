"""Replay at full speed into the compiled market maker: from memory, as cells and as frames, and beside hftbacktest.

The peer runs a maker of the same rules on the same levels and trades. Its fill model is another, so both counts of
fills are shown: the comparison is of speed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import numpy as np

from tapehouse.app.bench.books import Flow, derive
from tapehouse.app.bench.engines import batches, define, fold, fresh_engine, maker
from tapehouse.app.bench.material import Material
from tapehouse.app.bench.measure import Goal, Measure, measure, not_measured
from tapehouse.app.bench.peer import answered
from tapehouse.app.bench.registry import Options
from tapehouse.core.check import check
from tapehouse.desk.state import FILL_COUNT
from tapehouse.engine import Engine
from tapehouse.market import Cells, from_words
from tapehouse.replay import Session

GOALS = (Goal(at_least=5.0),)
PEER_GOALS = (Goal(figure="ratio", at_least=2.0),)
INTERVAL_MS = 250  # between two quotes of the maker


def run(options: Options) -> Iterator[Measure]:
    """Three rows a data set."""
    for material in options.materials:
        if material.feed is None:
            yield not_measured("replay from memory", "M cells/s", material.missing, data=material.name)
            continue
        yield _cells(options, material)
        yield _frames(options, material)
        yield _beside(options, material.name, derive(material))


def _cells(options: Options, material: Material) -> Measure:
    """Cells that are decoded already."""
    cells = material.tape_cells
    parts = list(batches(cells))
    rates, decided = [], 0
    for attempt in range(1 + options.repeat):
        options.on_step(f"{material.name}: replay of cells")
        engine = fresh_engine(maker())
        spent = options.timer.seconds(partial(fold, engine, parts))
        decided = engine.outputs
        if attempt:  # The first run pays for kernels.
            rates.append(len(cells) / spent / 1e6)
    note = f"{len(cells):,} cells as recorded, {decided:,} cells decided; books touched before"
    return measure("replay of cells", "M cells/s", rates, data=material.name, goals=GOALS, note=note)


def _frames(options: Options, material: Material) -> Measure:
    """Frames as the durable log holds them."""
    rates = []
    for attempt in range(1 + options.repeat):
        options.on_step(f"{material.name}: replay of frames")
        session = Session(material.name, material.tape, Engine(maker()), clock=options.timer.clock)
        report = asyncio.run(session.run())
        if attempt:
            rates.append(report.cells_per_second / 1e6)
    note = "the same from frames in memory: checked, decoded, folded, digests at the end; a new engine each"
    return measure("replay of frames", "M cells/s", rates, data=material.name, note=note)


def _beside(options: Options, name: str, flow: Flow) -> Measure:
    """One instrument's levels and trades: what the peer can take too."""
    cells = from_words(flow.by_price_with_trades.copy())
    cells["instrument"] = flow.instrument.id
    parts: list[Cells] = list(batches(cells))
    size = int(np.median(cells["size"][cells["size"] > 0]))
    rates, fills = [], 0
    for attempt in range(1 + options.repeat):
        options.on_step(f"{name}: levels and trades into the maker")
        engine = fresh_engine(maker(size))
        ordinal = define(engine, [flow.instrument])
        spent = options.timer.seconds(partial(fold, engine, parts, ordinal))
        fills = int(engine.desk.counters[FILL_COUNT])
        check(engine.cells == ordinal + len(cells), "cells were left out", subject=name)
        if attempt:
            rates.append(len(cells) / spent / 1e6)
    options.on_step(f"{name}: hftbacktest's maker")
    told = {"tick": flow.tick, "size": size, "interval_ms": INTERVAL_MS, "repeat": options.repeat}
    answer = options.peers.ask("hftbacktest_maker", {"records": flow.by_price_with_trades}, **told)
    said = "" if answer is None else f"{answer['fills']:,} fills, woken every {INTERVAL_MS} ms"
    peer = answered("hftbacktest ROIVectorMarketDepth", answer, "per_second", said, 1e-6)
    return measure(
        "levels and trades into the maker",
        "M records/s",
        rates,
        data=name,
        goals=PEER_GOALS,
        peers=(peer,),
        note=f"{len(cells):,} records of one instrument, {fills:,} fills",
    )
