"""One run of the tick-to-order benchmark: what is sent, what must come back, two processes, and what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.app.bench import tick_to_order_loops as loops
from tapehouse.app.bench.engines import header
from tapehouse.app.bench.histogram import new_histogram
from tapehouse.app.bench.spans import Ints, Lost, Spans, overlapping, spans_of, steal_ticks, united, within
from tapehouse.app.bench.tick_to_order_process import (
    DECIDED,
    FEED,
    GAPS,
    JOURNAL,
    ORDERS,
    SMALL_CELLS,
    STAGES,
    prefault,
    warmed_engine,
)
from tapehouse.app.pinning import configured
from tapehouse.core.check import check
from tapehouse.core.errors import MissingError
from tapehouse.feeds.port import Feed
from tapehouse.market import Action, Cells, Flag, Kind, empty_cells, words
from tapehouse.ring import Ring, RingConsumer, default_directory

TICK_KINDS = (Kind.MBO, Kind.MBP, Kind.TRADE, Kind.QUOTE)
GAP_NS = 1_000
SLOW_NS = 5_000
DRAIN_NS = 20_000  # behind a gap a queue of ticks is worked off
SPIN_SECONDS = 1.0
LEAD_SECONDS = 0.02
WARM_SECONDS = 0.2  # at the beginning of a run, not recorded
PATIENCE_SECONDS = 60.0  # beyond the schedule's end
FOLD_CELLS = 1 << 16
HELLO_SECONDS = 300.0  # for the engine's process to compile its loop, where nobody did before
POLL_SECONDS = 0.002


def _hello() -> Cells:
    cell = empty_cells(1)
    cell["kind"], cell["cells"], cell["flags"] = Kind.STATUS, 1, Flag.SYNTHETIC
    return cell


HELLO = _hello()  # sent first: once it is in the journal the engine's loop is compiled and runs


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run sends, and which answers must come.

    Args:
        warm: The tape before the run: definitions and the first half of the day; behind them comes HELLO.
        lap: Records that are sent again and again, beginning at `row`; first of all they clear the books.
        ticks, ordinals: Of the inputs that must be answered.
        cells: How many cells are sent in all.
        state: The digest of the state that the engine must end in.
    """

    warm: Cells
    lap: Cells
    row: int
    count: int
    cells: int
    ticks: Ints
    ordinals: Ints
    state: str
    ids: int


def make_lap(feed: Feed, cells: Cells) -> tuple[Cells, int]:
    """A day's ticks behind records that clear every book, and the row of the middle."""
    heads = np.flatnonzero(cells["cells"])
    lengths = cells["cells"][heads]
    wanted = np.repeat(np.isin(cells["kind"][heads], TICK_KINDS), lengths)
    day = cells[wanted]
    clears = empty_cells(len(feed.instruments))
    clears["kind"], clears["cells"], clears["action"] = Kind.MBO, 1, Action.CLEAR
    clears["flags"], clears["instrument"] = Flag.SYNTHETIC, [instrument.id for instrument in feed.instruments]
    clears = clears[np.isin(clears["instrument"], day["instrument"])]
    lap = np.concatenate([clears, day])
    starts = np.flatnonzero(lap["cells"])
    return lap, int(starts[len(starts) // 2])


def make_plan(feed: Feed, cells: Cells, count: int) -> Plan:
    """Fold what a run will send, and note which inputs the strategy answers."""
    lap, row = make_lap(feed, cells)
    definitions = np.concatenate([instrument.definition(ts_recv=0) for instrument in feed.instruments])
    warm = np.concatenate([definitions, lap[:row]])
    engine = warmed_engine(warm)
    engine.apply(header(len(warm)), HELLO)
    ordinal = first = len(warm) + len(HELLO)
    heads: list[Ints] = []
    answers: list[Ints] = []
    left = count
    for part in _parts(lap, row):
        starts = np.flatnonzero(part["cells"])[:left]
        end = int(starts[-1]) + int(part["cells"][starts[-1]])
        engine.apply(header(ordinal), part[:end])
        outputs = engine.take_outputs()
        orders = outputs[(outputs["kind"] == Kind.ORDER) & (outputs["cells"] > 0)]
        answers.append(np.unique(orders["sequence"].astype(np.int64)))
        heads.append(ordinal + starts)
        ordinal += end
        left -= len(starts)
        if not left:
            break
    ordinals = np.concatenate(answers)
    return Plan(
        warm=warm,
        lap=lap,
        row=row,
        count=count,
        cells=ordinal - first,
        ticks=np.searchsorted(np.concatenate(heads), ordinals),
        ordinals=ordinals,
        state=engine.digests().state.hex(),
        ids=max(instrument.id for instrument in feed.instruments) + 1,
    )


def _parts(lap: Cells, row: int) -> Iterator[Cells]:
    """The lap's cells from a row on, round and round, whole records at a time."""
    starts = np.flatnonzero(lap["cells"])
    while True:
        chosen = starts[starts >= row]
        cuts = [*chosen[::FOLD_CELLS].tolist(), len(lap)]
        for begin, end in pairwise(cuts):
            yield lap[begin:end]
        row = 0


def cores() -> tuple[int, int]:
    """The feed's core and the engine's: those that TAPEHOUSE_CPUS names, else the last two that we may use."""
    chosen = configured()
    usable = sorted(os.sched_getaffinity(0))
    feed = min(chosen["feed"]) if "feed" in chosen else usable[max(len(usable) - 2, 0)]
    return feed, min(chosen["engine"]) if "engine" in chosen else usable[-1]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run measured; counts of the cycle counter."""

    histograms: Ints  # shape (HISTOGRAMS, WORDS)
    duration: int
    blocked: int
    feed: Lost
    engine: Lost
    spun: tuple[Lost, Lost]
    gaps: tuple[Spans, Spans]  # of the feed's core and of the engine's
    slow: int
    explained: float  # the share of slow ticks that overlap a gap
    by_chance: float  # the share of time that is that near to a gap
    steal: tuple[int, int]  # clock ticks
    answered: int


def run_once(plan: Plan, *, rate: int, warm: int, ns_per_count: float, scratch: Path, spin_seconds: float) -> Result:
    """Feed a plan at a rate, the first `warm` ticks unrecorded.

    Raises:
        InvariantError: An answer is missing, or a wrong one came, or the engine ended in another state.
        MissingError: The engine's process failed.
    """
    per_second = 1e9 / ns_per_count
    gap = int(GAP_NS / ns_per_count)
    mine, other = cores()
    place = default_directory()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = os.sched_getaffinity(0)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place, prefix="bench-")))
        warm_file, spun_file = scratch / "tick-to-order-warm.npy", scratch / "tick-to-order-spun.npy"
        np.save(warm_file, plan.warm)
        feed = stack.enter_context(Ring.produce(FEED, cells=SMALL_CELLS, directory=directory))
        spin_counts = int(spin_seconds * per_second)
        told = {
            "core": other, "directory": str(directory), "warm": str(warm_file), "spun": str(spun_file), "ids": plan.ids,
            "gap": gap, "spin": spin_counts,
        }  # fmt: skip
        child = stack.enter_context(_process(told))
        child.expect("attached")
        consumers = {
            name: stack.enter_context(Ring.consume(name, directory=directory))
            for name in (ORDERS, DECIDED, STAGES, GAPS, JOURNAL)
        }
        for ring in (feed, *consumers.values()):
            prefault(ring.address, ring.cells)
        logs = [np.zeros(loops.LOG_WORDS, np.int64) for _ in range(4)]
        measured = Measured(plan, warm=warm, logs=logs[:3])
        measured.address(feed.address, {name: ring.address for name, ring in consumers.items()})
        measured.limits(
            gap=gap, slow=int(SLOW_NS / ns_per_count), lead=int(LEAD_SECONDS * per_second),
            limit=int((plan.count / rate + PATIENCE_SECONDS) * per_second),
        )  # fmt: skip
        stack.callback(os.sched_setaffinity, 0, before)
        os.sched_setaffinity(0, {mine})
        loops.spin(1, 1 << 40, np.zeros(loops.LOG_WORDS, np.int64))
        measured.compile()
        child.say("spin")
        loops.spin(spin_counts, gap, logs[3])
        child.expect("ready")
        feed.append(HELLO)
        _wait_for(lambda: consumers[JOURNAL].head == len(HELLO))
        stolen = (steal_ticks(mine), steal_ticks(other))
        measured.run(per_second / rate)
        stolen = (steal_ticks(mine) - stolen[0], steal_ticks(other) - stolen[1])
        child.say("stop")
        ended = json.loads(child.line())
        idle = gaps_in(consumers[GAPS])
        child.say("leave")
    return measured.result(
        ended,
        idle=idle,
        steal=stolen,
        spun=tuple(Lost.of(spans, spin_counts, ns_per_count) for spans in (spans_of(logs[3]), np.load(spun_file))),
        ns_per_count=ns_per_count,
    )


def _wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(int(HELLO_SECONDS / POLL_SECONDS)):
        if condition():
            return
        time.sleep(POLL_SECONDS)
    raise MissingError("it took nothing from its feed", subject="the engine's process of the benchmark")


class Measured:
    """The arrays of one run of the feed's loop."""

    def __init__(self, plan: Plan, *, warm: int, logs: list[Ints]) -> None:
        self.plan = plan
        self.state = np.zeros(loops.STATE_WORDS, np.int64)
        self.state[loops.ROW], self.state[loops.TICKS], self.state[loops.WARM] = plan.row, plan.count, warm
        self.state[loops.FIRST_ORDINAL] = len(plan.warm) + len(HELLO)
        self.histograms = np.stack([new_histogram() for _ in range(loops.HISTOGRAMS)])
        self.sent, self.sent_at, self.answered = np.full((3, loops.REMEMBERED), -1, np.int64)
        self.gaps, self.engine_gaps, self.slow = logs
        self.words = words(plan.lap)
        for array in (self.sent, self.sent_at, self.answered, self.gaps, self.engine_gaps, self.slow, self.words):
            array += 0  # Every page is this process's own before the clock starts.

    def address(self, feed: int, rings: dict[str, int]) -> None:
        """Say where the rings are."""
        state = self.state
        state[loops.FEED], state[loops.ORDERS], state[loops.DECIDED] = feed, rings[ORDERS], rings[DECIDED]
        state[loops.STAGES], state[loops.JOURNAL] = rings[STAGES], rings[JOURNAL]

    def limits(self, *, gap: int, slow: int, lead: int, limit: int) -> None:
        """Say what counts as a gap and as slow, when the first tick is due, and how long to wait; in counts."""
        state = self.state
        state[loops.GAP], state[loops.SLOW], state[loops.LEAD], state[loops.LIMIT] = gap, slow, lead, limit

    def _arrays(self) -> tuple[Ints, ...]:
        return (
            self.histograms, self.sent, self.sent_at, self.answered, self.gaps, self.engine_gaps, self.slow
        )  # fmt: skip

    def compile(self) -> None:
        """Load the loop's machine code, with nothing to send and nothing to wait for."""
        state = self.state.copy()
        state[loops.TICKS] = 0
        nothing = np.zeros(0, np.int64)
        loops.feed_and_receive(state, 1.0, self.words, nothing, nothing, *self._arrays())

    def run(self, period: float) -> None:
        """Send everything, a tick each `period` counts."""
        plan = self.plan
        loops.feed_and_receive(self.state, period, self.words, plan.ticks, plan.ordinals, *self._arrays())

    def verify(self) -> None:
        """See that every answer came, once, in order, and none that is not one.

        Raises:
            InvariantError: It is not so.
        """
        sent, answered, missing, wrong = self.state[[loops.SENT, loops.ANSWERED, loops.MISSING, loops.WRONG]].tolist()
        wanted = len(self.plan.ordinals)
        check(
            (sent, answered, missing, wrong) == (self.plan.count, wanted, 0, 0),
            f"{sent:,} of {self.plan.count:,} ticks sent, {answered:,} of {wanted:,} answers came, {missing:,} were "
            f"passed over, {wrong:,} came that answer nothing",
            subject="tick to order",
        )

    def result(
        self, ended: dict[str, Any], *, idle: Spans, steal: tuple[int, int], spun: Any, ns_per_count: float
    ) -> Result:
        """Everything, checked."""
        self.verify()
        check(
            (ended["folded"], ended["state"]) == (len(HELLO) + self.plan.cells, self.plan.state),
            f"the engine folded {ended['folded']:,} of {self.plan.cells:,} cells, or into another state than a replay",
            subject="tick to order",
        )
        state = self.state
        begun, over = int(state[loops.STARTED]), int(state[loops.ENDED])
        ours = _during(united(spans_of(self.gaps)), begun, over)
        theirs = _during(united(spans_of(self.engine_gaps), idle), begun, over)
        both = united(ours, theirs)
        after = int(DRAIN_NS / ns_per_count)
        stretched = united(both + np.array([0, after])) if len(both) else both
        return Result(
            histograms=self.histograms,
            duration=over - begun,
            blocked=int(state[loops.BLOCKED]),
            feed=Lost.of(ours, over - begun, ns_per_count),
            engine=Lost.of(theirs, over - begun, ns_per_count),
            spun=spun,
            gaps=(ours, theirs),
            slow=int(self.slow[0]),
            explained=overlapping(spans_of(self.slow), both, after=after),
            by_chance=within(stretched, begun, over) / max(over - begun, 1),
            steal=steal,
            answered=int(state[loops.ANSWERED]),
        )


def _during(spans: Spans, start: int, end: int) -> Spans:
    return spans[(spans[:, 1] > start) & (spans[:, 0] < end)]


def gaps_in(ring: RingConsumer) -> Spans:
    """The gaps that the engine's loop met while nothing was to do."""
    cells = ring.readable()
    spans = words(cells[cells["kind"] == Kind.RAW])[:, :2].copy()
    ring.release(len(cells))
    return spans


class _Child:
    """The engine's process, spoken to in lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def line(self) -> str:
        """The next line; raises MissingError where there is none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise MissingError("it ended before its time", subject="the engine's process of the benchmark")
        return line

    def expect(self, word: str) -> None:
        """Wait for a word."""
        line = self.line()
        check(line == word, f"it said {line!r} instead of {word!r}", subject="the engine's process of the benchmark")

    def say(self, word: str) -> None:
        """Tell it to go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()


@contextmanager
def _process(told: dict[str, Any]) -> Iterator[_Child]:
    """The engine's process; it ends with this context, whatever happened."""
    command = [sys.executable, "-m", "tapehouse.app.bench.tick_to_order_process", json.dumps(told)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _Child(process)
            process.wait(PATIENCE_SECONDS)
        finally:
            process.kill()
