"""The desk without brokers: orders of frames through the whole engine loop, one by one and in batches.

Each order is looked up among its client's numbers, passes risk, is matched, booked in the ledger, and told in records
with its answer. The plain desk must have decided alike on the first orders before anything is timed, and every timed
run must come to the same positions, cash and fills. Beside it: the plain desk itself, and the same orders as JSON
commands through the same machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tapehouse.app.bench.books import derive
from tapehouse.app.bench.desk_commands import as_commands
from tapehouse.app.bench.desk_loops import fold_parts
from tapehouse.app.bench.desk_oracle import ask_all, require_agreement
from tapehouse.app.bench.desk_stream import Stream, crossing_stream, money, paper_stream
from tapehouse.app.bench.engines import header
from tapehouse.app.bench.histogram import Spread
from tapehouse.app.bench.measure import Goal, Measure, Peer, measure, not_measured, peer_of
from tapehouse.app.bench.registry import Options
from tapehouse.app.bench.timer import Histogram, middle, new_histogram
from tapehouse.core.check import check
from tapehouse.desk import POWERS
from tapehouse.desk.order_frames import ORDERS_PER_FRAME_MAX
from tapehouse.engine import CompiledStrategy, Engine
from tapehouse.market import words

ORDERS = 400 * ORDERS_PER_FRAME_MAX
ORACLE_ORDERS = 1_000  # of the plain desk, which sorts all that rests for each
COMMAND_FRAMES = 4  # as JSON commands
EMPTY_CALLS = 100_000
LATENCY_GOALS = (Goal(figure="p99", at_most=1_000.0),)
RATE_GOALS = (Goal(at_least=5.0),)
RATE_UNIT = "M orders/s"


def run(options: Options) -> Iterator[Measure]:
    """Three rows where accounts trade with each other, three a data set on paper."""
    options.on_step("orders of accounts that trade with each other")
    count = options.count(ORDERS, 2 * ORDERS_PER_FRAME_MAX)
    yield from _stream(options, crossing_stream(count), "desk, crossing", "")
    for material in options.materials:
        if material.feed is None:
            yield not_measured("desk, on paper: an order", "ns", material.missing, data=material.name)
            continue
        options.on_step(f"{material.name}: orders on paper")
        yield from _stream(options, paper_stream(derive(material), count), "desk, on paper", material.name)


def _stream(options: Options, stream: Stream, name: str, data: str) -> Iterator[Measure]:
    """One by one, in the loop, through the machine."""
    options.on_step(f"{stream.name}: the plain desk")
    plain = _plain(options, stream)
    options.on_step(f"{stream.name}: JSON commands")
    commands = _commands(options, stream)
    what = (
        f"{stream.orders:,} requests, {stream.fills:,} fills ({stream.fills / stream.orders:.2f} an order), "
        f"{stream.rejected:,} rejected, {stream.resting:,} resting at the end"
    )
    options.on_step(f"{stream.name}: one by one")
    spreads = [options.timer.spread(_folded(options, stream, one_by_one=True)[0]) for _ in range(1 + options.repeat)]
    empty = _empty_calls(options, stream)
    yield measure(
        f"{name}: an order", "ns", [spread.mean for spread in spreads[1:]], data=data, goals=LATENCY_GOALS,
        peers=(plain, commands), **middle(spreads[1:]),
        note=f"{what}; number, risk, match, ledger, records and answer of each between fences; the mean is theirs too; "
        f"a call of the loop that decides nothing, a part of each: p50 {empty.p50:.0f}, p99 {empty.p99:.0f} ns",
    )  # fmt: skip
    options.on_step(f"{stream.name}: in batches")
    spent = [_folded(options, stream, one_by_one=False)[1] for _ in range(1 + options.repeat)]
    rates = [stream.orders * 1e3 / (counts * options.timer.ns_per_count) for counts in spent[1:]]
    note = f"{what}; the loop alone, {ORDERS_PER_FRAME_MAX:,} orders at a time"
    yield measure(f"{name}: orders in the loop", RATE_UNIT, rates, data=data, goals=RATE_GOALS, note=note)
    options.on_step(f"{stream.name}: through the machine")
    rates = [stream.orders * 1e3 / _through_machine(options, stream) for _ in range(1 + options.repeat)]
    note = f"{what}; decisions copied and chained into the digest, sums of all accounts verified after each frame"
    yield measure(f"{name}: frames through the machine", RATE_UNIT, rates[1:], data=data, note=note)


def _loop_arguments(engine: Engine) -> tuple[Any, ...]:
    strategy = engine.strategy
    assert isinstance(strategy, CompiledStrategy)
    market = (engine.desk, engine.books, engine.chain, engine._routes, engine._scratch)
    return (*market, strategy.on_market, engine.control.parameters, engine._memory, engine.out, POWERS)


def _folded(options: Options, stream: Stream, *, one_by_one: bool) -> tuple[Histogram, int]:
    """Everything through the loop; what orders took, each or a frame at a time, in counts."""
    engine = stream.engine()
    cells = np.concatenate([part.cells for part in stream.parts])
    ends, counted, end = [], [], 0
    for part in stream.parts:
        start, end = end, end + len(part.cells)
        alone = one_by_one and part.is_orders
        ends.append(np.arange(start + 2, end + 1, 2) if alone else np.array([end]))
        counted.append(np.full(len(ends[-1]), int(part.is_orders)))
    histogram = new_histogram()
    row, spent = fold_parts(
        words(cells), np.concatenate(ends), np.concatenate(counted), len(stream.opening), *_loop_arguments(engine),
        options.timer.overhead, histogram,
    )  # fmt: skip
    check(row == len(cells), f"the loop stopped at cell {row} of {len(cells)}", subject=stream.name)
    stream.require_end(engine)
    return histogram, int(spent)


def _empty_calls(options: Options, stream: Stream) -> Spread:
    """What calling the loop costs between the same fences where there is no order: it is not subtracted."""
    engine, nothing, histogram = stream.engine(), np.zeros(EMPTY_CALLS, np.int64), new_histogram()
    fold_parts(
        words(stream.parts[0].cells), nothing, nothing + 1, len(stream.opening), *_loop_arguments(engine),
        options.timer.overhead, histogram,
    )  # fmt: skip
    return options.timer.spread(histogram)


def _through_machine(options: Options, stream: Stream) -> int:
    """ns that the machine takes for all orders, a frame at a time."""
    engine, ordinal, clock = stream.engine(), len(stream.opening), options.timer.clock
    total = 0
    for part in stream.parts:
        start = clock.monotonic_ns()
        engine.apply(header(ordinal), part.cells)
        engine.take_outputs()
        total += clock.monotonic_ns() - start if part.is_orders else 0
        ordinal += len(part.cells)
    stream.require_end(engine)
    return total


def _plain(options: Options, stream: Stream) -> Peer:
    """The plain desk on the first orders, held against the kernels once and then timed."""
    values = []
    for _ in range(options.repeat):
        desk, asked = require_agreement(stream, options.count(ORACLE_ORDERS, 200))
        values.append(options.timer.ns_each(partial(ask_all, desk, asked), len(asked)))
    return peer_of("plain Python", values, f"the oracle of the tests, the first {len(asked):,} requests")


def _commands(options: Options, stream: Stream) -> Peer:
    """The first orders as JSON commands through the same machine, which must book the same."""
    told = as_commands(stream, options.count(COMMAND_FRAMES, 1))
    wanted = stream.engine()
    ordinal, clock = len(stream.opening), options.timer.clock
    for part in told.parts_in_frames:
        wanted.apply(header(ordinal), part.cells)
        ordinal += len(part.cells)
    values = []
    for _ in range(options.repeat):
        engine, ordinal, total = stream.engine(), len(stream.opening), 0
        for part in told.parts:
            start = clock.monotonic_ns()
            engine.apply(header(ordinal), part.cells)
            engine.take_outputs()
            total += clock.monotonic_ns() - start if part.is_orders else 0
            ordinal += len(part.cells)
        check(np.array_equal(money(engine), money(wanted)), "commands are decided otherwise", subject=stream.name)
        values.append(total / told.count)
    return peer_of("JSON commands", values, f"the first {told.count:,} requests, read and checked by the same machine")
