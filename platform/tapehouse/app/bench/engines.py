"""Engines, and inputs for them, as several benchmarks need them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tapehouse.app.bench.engine_loop import fold_timed
from tapehouse.app.strategies import load_strategy
from tapehouse.desk import POWERS
from tapehouse.engine import CompiledStrategy, Engine, Strategy
from tapehouse.log import FrameHeader
from tapehouse.market import Cells, Instrument, whole_records, words

LOG_ID = bytes(16)
BATCH_CELLS = 8_192


def maker(size: int | None = None) -> Strategy:
    """The sample market maker, which every measurement runs.

    Args:
        size: Of its orders, in the instrument's units; None for its own.
    """
    return load_strategy("maker", None if size is None else f'{{"size": {size}, "position_max": {10 * size}}}')


def fresh_engine(strategy: Strategy) -> Engine:
    """An engine with every page of its books touched: a page's first touch costs microseconds, once a day."""
    engine = Engine(strategy)
    for array in engine.books:
        array += array.dtype.type(0)
    return engine


def header(first_ordinal: int) -> FrameHeader:
    """What an engine must know of a batch."""
    return FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=first_ordinal)


def define(engine: Engine, instruments: Sequence[Instrument]) -> int:
    """Define instruments as a tape would; returns the next ordinal."""
    cells = np.concatenate([instrument.definition(ts_recv=0) for instrument in instruments])
    engine.apply(header(0), cells)
    engine.take_outputs()
    return len(cells)


def batches(cells: Cells, size: int = BATCH_CELLS) -> Iterator[Cells]:
    """Whole records, at most `size` cells at a time."""
    start = 0
    while start < len(cells):
        end = start + whole_records(cells[start:], size)
        yield cells[start:end]
        start = end


def fold(engine: Engine, parts: Sequence[Cells], first_ordinal: int = 0) -> int:
    """Fold batches, taking the outputs after each; returns the cells decided."""
    decided, ordinal = 0, first_ordinal
    for part in parts:
        engine.apply(header(ordinal), part)
        ordinal += len(part)
        decided += len(engine.take_outputs())
    return decided


def fold_fenced(engine: Engine, cells: Cells, first_ordinal: int, overhead: int, histogram: npt.NDArray[Any]) -> int:
    """Fold market records one by one through an engine's own arrays; its outputs are dropped, so its digests end here.

    Returns:
        How many cells were folded: fewer than there are where the loop met one that is not its own.
    """
    strategy = engine.strategy
    assert isinstance(strategy, CompiledStrategy)
    market = (engine.desk, engine.books, engine.chain, engine._routes, engine._scratch)
    decides = (strategy.on_market, engine.control.parameters, engine._memory, engine.out, POWERS)
    return int(fold_timed(words(cells), first_ordinal, *market, *decides, overhead, histogram))
