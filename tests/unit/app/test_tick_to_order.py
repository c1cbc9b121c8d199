"""The tick-to-order benchmark's own accounting, against an engine that answers as it is told: on time, late, or not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tapehouse.app.bench import tick_to_order_loops as loops
from tapehouse.app.bench.histogram import BUCKETS, COUNT, LEAST, MOST, bucket_bounds
from tapehouse.app.bench.spans import spans_of, steal_ticks
from tapehouse.app.bench.tick_to_order_picture import Panel, binned, draw, edges
from tapehouse.app.bench.tick_to_order_run import HELLO, Measured, Plan, make_lap, make_plan
from tapehouse.core import InvariantError
from tapehouse.feeds import GeneratedDay
from tapehouse.market import Kind
from tapehouse.ring import Ring, RingConsumer, RingProducer
from tests.support.answering import HOLD_AT, HOLD_COUNTS, SKIP_AT, STOP, TOLD_WORDS, TWICE_AT, answering

COUNT_OF_TICKS = 2_000
PERIOD = 20_000.0  # counts: some 50,000 ticks a second
FAR = 1 << 50
DAY = GeneratedDay(seed=7, cells=6_000)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(DAY, np.concatenate(list(DAY.batches())), COUNT_OF_TICKS)


class Bench:
    """Rings inside this process, and a thread that plays the engine."""

    def __init__(self, directory: Path) -> None:
        self.names = ("feed", "orders", "decided", "stages", "journal")
        self.producers: dict[str, RingProducer] = {
            name: Ring.produce(name, cells=1 << 12, directory=directory) for name in self.names
        }
        self.consumers: dict[str, RingConsumer] = {name: Ring.consume(name, directory=directory) for name in self.names}

    def run(self, plan: Plan, warm: int = 0, limit: int = FAR, **told: int) -> Measured:
        measured = Measured(plan, warm=warm, logs=[np.zeros(loops.LOG_WORDS, np.int64) for _ in range(3)])
        addresses = {name: ring.address for name, ring in self.consumers.items()}
        measured.address(self.producers["feed"].address, addresses)
        measured.limits(gap=FAR, slow=FAR, lead=1_000_000, limit=limit)
        words = np.full(TOLD_WORDS, -1, np.int64)
        for place, value in ((SKIP_AT, "skip"), (TWICE_AT, "twice"), (HOLD_AT, "hold_at"), (HOLD_COUNTS, "hold")):
            words[place] = told.get(value, -1)
        first = len(plan.warm) + len(HELLO)
        arguments = (words, self.consumers["feed"].address, self.producers["orders"].address, first, plan.ordinals)
        thread = threading.Thread(target=answering, args=arguments)
        measured.compile()
        thread.start()
        measured.run(PERIOD)
        words[STOP] = 1
        thread.join()
        return measured

    def close(self) -> None:
        for ring in (*self.producers.values(), *self.consumers.values()):
            ring.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def test_every_answer_is_matched_with_its_tick(bench: Bench, plan: Plan) -> None:
    measured = bench.run(plan, warm=500)
    measured.verify()
    recorded = int((plan.ticks >= 500).sum())
    assert measured.histograms[loops.TICK_TO_ORDER, COUNT] == recorded
    assert 0 < recorded < len(plan.ticks)


def test_control_a_dropped_order_is_noticed(bench: Bench, plan: Plan) -> None:
    measured = bench.run(plan, skip=len(plan.ordinals) // 2)
    assert measured.state[loops.MISSING] == 1
    with pytest.raises(InvariantError, match="1 were passed over, 0 came"):
        measured.verify()


def test_control_a_dropped_last_order_is_noticed(bench: Bench, plan: Plan) -> None:
    measured = bench.run(plan, skip=len(plan.ordinals) - 1, limit=int(4 * COUNT_OF_TICKS * PERIOD))
    with pytest.raises(InvariantError, match=r"answers came, 0 were passed over"):
        measured.verify()


def test_control_an_order_that_comes_again_is_noticed(bench: Bench, plan: Plan) -> None:
    measured = bench.run(plan, twice=len(plan.ordinals) // 2)
    with pytest.raises(InvariantError, match="1 came that answer nothing"):
        measured.verify()


def test_control_a_pause_makes_all_ticks_late_that_were_due_in_it(bench: Bench, plan: Plan) -> None:
    """No omission is coordinated: a pause is not one slow tick, but as many as the schedule had in it."""
    pause = 400 * int(PERIOD)
    at = len(plan.ordinals) // 2
    measured = bench.run(plan, hold_at=at, hold=pause)
    measured.verify()
    begun = int(plan.ticks[at])
    late = [tick for tick in plan.ticks.tolist() if begun <= tick < begun + 300]
    histogram = measured.histograms[loops.TICK_TO_ORDER]
    assert histogram[MOST] >= pause
    from_bucket = int(np.searchsorted(np.cumsum(histogram[:BUCKETS]), histogram[COUNT] - len(late) + 1))
    assert bucket_bounds(from_bucket)[1] >= pause - 301 * PERIOD - pause // 64


def test_the_lap_clears_every_book_that_it_fills() -> None:
    cells = np.concatenate(list(DAY.batches()))
    lap, row = make_lap(DAY, cells)
    clears = lap[: len(np.unique(lap["instrument"]))]
    assert set(clears["instrument"].tolist()) == set(lap["instrument"].tolist())
    assert 0 < row < len(lap)
    assert lap["cells"][row] > 0
    assert set(lap["kind"].tolist()) <= {Kind.MBO, Kind.MBP, Kind.TRADE, Kind.QUOTE}


def test_a_plan_goes_round_the_lap(plan: Plan) -> None:
    cells = np.concatenate(list(DAY.batches()))
    longer = make_plan(DAY, cells, 3 * len(plan.lap))
    assert longer.cells > 2 * len(plan.lap)
    assert np.array_equal(longer.ordinals[: len(plan.ordinals)], plan.ordinals)
    assert (np.diff(longer.ordinals) > 0).all()
    assert (np.diff(longer.ticks) > 0).all()
    assert longer.state != plan.state


def test_a_spin_that_allows_no_gap_logs_each_look() -> None:
    log = np.zeros(loops.LOG_WORDS, np.int64)
    looks = loops.spin(200_000, -1, log)
    assert log[0] == looks
    assert log[1] >= 200_000
    spans = spans_of(log)
    assert (spans[1:, 0] == spans[:-1, 1]).all()


def test_steal_of_a_core(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  1 2 3 4 5 6 7 30\ncpu0 1 2 3 4 5 6 7 10\ncpu1 1 2 3 4 5 6 7 20\n")
    assert [steal_ticks(core, stat) for core in range(3)] == [10, 20, 0]
    assert steal_ticks(0, tmp_path / "none") == 0


def test_the_picture_is_drawn_and_shows_every_latency(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    histogram = np.zeros(BUCKETS + 8, np.int64)
    histogram[[10, 200, 3_000]] = [5, 7, 1]
    histogram[COUNT], histogram[LEAST], histogram[MOST] = 13, 10, 1 << 40
    assert binned(histogram, 1.0, edges()).sum() == 13
    gaps = (np.array([(0, 5_000)], np.int64), np.zeros((0, 2), np.int64))
    panels = [Panel(data="day", rate=rate, latencies=[histogram], gaps=[gaps], seconds=1.0) for rate in (1, 2, 3)]
    path = tmp_path / "below" / "picture.png"
    draw(panels, path, ns_per_count=1.0)
    assert path.read_bytes().startswith(b"\x89PNG")
