"""Which benchmarks there are, and how they are run: one module each, rows as they are measured, kept whatever happens.

A benchmark is a module with `HELP` (one line) and `run(options)`, which yields rows. It is imported only when it runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, cast

from tapehouse.app.bench.material import Material
from tapehouse.app.bench.measure import INTERRUPTED, Measure, Report
from tapehouse.app.bench.peer import Peers
from tapehouse.app.bench.surroundings import Moment, busyness, machine
from tapehouse.app.bench.timer import Timer
from tapehouse.core.errors import TapehouseError, UsageError

# Name -> one line. The order is the one in which all are run; the module has the name with `_` for `-`.
BENCHMARKS = {
    "ring": "the shared-memory ring: appended to by a loop, by Python, in bulk, by another process",
    "tape": "the durable tape: appended, read back, replayed; bytes a cell",
    "books": "order books: an update, best prices, ten levels; from kernels and from Python",
    "analytics": "books, flows and measures a record, beside books alone; bars",
    "book-snapshots": "depth snapshots of a book in memory: kept by a replay, their size, found by time",
    "orders": "order placement: risk, matching and the decision's record",
    "venue": "a venue of our own: risk, price-time matching, the records of both sides",
    "desk": "orders in frames through the whole desk: numbers, risk, matching, ledger, records and answers",
    "commands": "commands and frames of orders, sent until their outcome is durable, beside plain appends",
    "market-data": "bytes of a feed to the call of a strategy",
    "tick-to-order": "from a tick that is due to its order, between two processes, beside the machine's own gaps",
    "persistence": "cells made durable: in the journal, by the sidecar on the tape, by the sidecar in files",
    "replay": "replay from memory into a compiled market maker",
    "kv": "the replicated KV: reads at each level and durable writes, beside Redis, etcd and rqlite",
    "pricing": "option prices, Greeks, a volatility looked up, implied volatility",
    "maths": "deterministic exp, log, pow and normal CDF",
}
CELLS, CELLS_QUICK = 2_000_000, 12_000
REPEAT = 3
NODES = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a benchmark is told.

    Args:
        materials: What it measures on.
        repeat: Runs of each measurement.
        quick: Small numbers everywhere: whether all works, not how fast.
        nodes: Brokers of a durable log.
        output: Where pictures are written; None for nowhere.
        on_step: Told what is measured next.
    """

    timer: Timer
    materials: Sequence[Material]
    peers: Peers
    scratch: Path
    repeat: int = REPEAT
    quick: bool = False
    nodes: int = NODES
    output: Path | None = None
    on_step: Callable[[str], None] = field(default=lambda step: None, repr=False)

    def count(self, normal: int, quick: int) -> int:
        """How many operations: fewer where it is to be quick."""
        return quick if self.quick else normal


class Benchmark(Protocol):
    """A benchmark's module."""

    def run(self, options: Options) -> Iterator[Measure]:
        """Measure; every row as soon as it is there."""
        ...


def choose(names: Sequence[str]) -> list[str]:
    """The named benchmarks in their own order, all without a name.

    Raises:
        UsageError: There is none of a name.
    """
    for name in names:
        if name not in BENCHMARKS:
            raise UsageError(f"there is no benchmark {name!r}", hint=f"one of {', '.join(BENCHMARKS)}")
    return [name for name in BENCHMARKS if name in names or not names]


def load(name: str) -> Benchmark:
    """A benchmark's module."""
    return cast(Benchmark, importlib.import_module(f"tapehouse.app.bench.{name.replace('-', '_')}"))


def run(name: str, options: Options, *, command: str, on_row: Callable[[Measure], None] | None = None) -> Report:
    """Run one benchmark; its report holds what was measured, also where it was interrupted or failed."""
    benchmark = load(name)
    clock = options.timer.clock
    date = datetime.fromtimestamp(clock.time_ns() // 10**9, UTC).isoformat()
    before = Moment.now(clock)
    rows: list[Measure] = []
    failure = ""
    try:
        for row in benchmark.run(options):
            rows.append(row)
            if on_row is not None:
                on_row(row)
    except KeyboardInterrupt:
        failure = INTERRUPTED
    except TapehouseError as error:
        failure = str(error)
    described = machine() | {"timer": options.timer.describe(), "during": busyness(before, Moment.now(clock))}
    return Report(
        benchmark=name,
        command=command,
        date=date,
        machine=described,
        rows=tuple(rows),
        complete=not failure,
        failure=failure,
    )
