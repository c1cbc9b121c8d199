"""A strategy that asks to be woken is called at the first input from that time on, once, by every way of folding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import StrategyError
from tapehouse.core.kernel import Array, Int
from tapehouse.engine import CompiledStrategy, View
from tapehouse.engine.strategy import (
    INTENT_KIND,
    INTENT_PRICE,
    INTENT_SIDE,
    INTENT_SIZE,
    SUBMIT,
    VIEW_NOW,
    WAKE,
    Submit,
    Wake,
    strategy_kernel,
)
from tapehouse.market import Cells, Kind
from tests.support.bench import NOW, SHARE, TICK, EngineBench, actions_in, cell, events_in, fold, level

PERIOD = 10_000_000  # ns
BENCH_STEP = 1_000_000  # between two records of a bench


@strategy_kernel
def _ticks(view: Array, numbers: Array, parameters: Array, memory: Array, intents: Array) -> Int:
    """Sends an order and asks to be woken again after the first parameter; the second is how often in all."""
    intents[0, INTENT_KIND] = SUBMIT
    intents[0, INTENT_SIDE] = 0
    intents[0, INTENT_PRICE] = 10_000_000
    intents[0, INTENT_SIZE] = 1
    memory[0] += 1
    if memory[0] >= parameters[1]:
        return 1
    intents[1, INTENT_KIND] = WAKE
    intents[1, INTENT_PRICE] = view[VIEW_NOW] + parameters[0]
    return 2


def compiled(period: int = PERIOD, times: int = 60) -> CompiledStrategy:
    return CompiledStrategy(name="ticker", on_market=_ticks, parameters={"period": period, "times": times})


class Ticker:
    """The same in Python."""

    name = "ticker"

    def __init__(self, period: int = PERIOD, times: int = 60) -> None:
        self._period, self._times, self._called = period, times, 0

    def on_market(self, view: View) -> list[Any]:
        self._called += 1
        order = Submit(side=0, price=TICK, size=1)
        return [order, Wake(at=view.now + self._period)] if self._called < self._times else [order]

    def state(self) -> bytes:
        return self._called.to_bytes(8, "little")

    def restore(self, state: bytes) -> None:
        self._called = int.from_bytes(state, "little")


def clock() -> Cells:
    return cell(Kind.CLOCK, 0)


def orders_at(outputs: Cells) -> list[int]:
    """The times at which orders were sent."""
    return [int(made["ts_recv"]) for made in outputs if made["kind"] == Kind.ORDER and made["cells"]]


@pytest.mark.parametrize("make", [compiled, Ticker])
def test_it_wakes_in_a_quiet_market(make: Any) -> None:
    bench = EngineBench(make(times=3))
    first = bench.feed(level("buy", 99, 20))
    assert actions_in(first) == "a"
    start = bench.now
    times = [orders_at(bench.feed(clock())) for _ in range(40)]
    woken = [(at + 1) * BENCH_STEP for at, sent in enumerate(times) if sent]
    assert woken == [PERIOD, 2 * PERIOD]  # at the time itself, and no more than asked
    assert [sent for sent in times if sent] == [[start + PERIOD], [start + 2 * PERIOD]]


@pytest.mark.parametrize("make", [compiled, Ticker])
def test_a_wake_comes_before_the_input_that_brings_its_time(make: Any) -> None:
    """The orders of a wake stand before what the input leads to; a command's outcome stays its last record."""
    bench = EngineBench(make(period=1, times=2))
    bench.feed(level("buy", 99, 20))
    bench.send("order.submit", instrument="ALFA", side="buy", price="0.5", size="5")
    first = bench.outputs[bench.outputs["cells"] > 0]
    assert [Kind(kind).name for kind in first["kind"]] == ["ORDER", "EVENT", "ORDER", "EVENT"]
    assert first["count"].tolist() == [0, 1, 2, 3]
    assert len(set(first["sequence"].tolist())) == 1
    assert events_in(bench.outputs)[-1]["type"] == "command.outcome"


@pytest.mark.parametrize("make", [compiled, Ticker])
def test_a_wake_in_the_past_waits_for_the_next_moment(make: Any) -> None:
    bench = EngineBench(make(period=-5, times=3))
    bench.feed(level("buy", 99, 20))
    assert [len(orders_at(bench.feed(clock()))) for _ in range(4)] == [1, 1, 0, 0]


def test_a_later_wake_replaces_one_and_none_takes_it_back() -> None:
    class Fickle(Ticker):
        def on_market(self, view: View) -> list[Any]:
            self._called += 1
            if self._called == 1:
                return [Wake(at=view.now + 2 * BENCH_STEP), Wake(at=view.now + 5 * BENCH_STEP)]
            return [Submit(side=0, price=TICK, size=1), Wake(at=view.now + 1), Wake(at=None)]

    bench = EngineBench(Fickle())
    bench.feed(level("buy", 99, 20))
    assert [len(orders_at(bench.feed(clock()))) for _ in range(8)] == [0, 0, 0, 0, 1, 0, 0, 0]


def test_a_stopped_strategy_wakes_when_it_is_started() -> None:
    bench = EngineBench(compiled())
    bench.feed(level("buy", 99, 20))
    bench.tell("strategy.stop")
    assert sum(len(orders_at(bench.feed(clock()))) for _ in range(30)) == 0
    bench.tell("strategy.start")
    assert len(orders_at(bench.feed(clock()))) == 1


@pytest.mark.parametrize("bad", [Wake(at=2**63), Wake(at="soon"), Wake(at=1.5)])  # type: ignore[arg-type]
def test_a_time_that_is_none_is_the_strategys_fault(bad: Wake) -> None:
    class Wrong(Ticker):
        def on_market(self, view: View) -> list[Any]:
            return [bad]

    with pytest.raises(StrategyError, match="the time of a wake"):
        EngineBench(Wrong()).feed(level("buy", 99, 20))


def expected(moments: list[int], period: int, times: int) -> list[int]:
    """When orders are sent, by the plainest reading: the first record calls it, then time alone does."""
    sent, due = [moments[0]], moments[0] + max(period, 1)
    for moment in moments[1:]:
        if len(sent) < times and moment >= due:
            sent.append(moment)
            due = moment + max(period, 1)
    return sent


@settings(max_examples=12, deadline=None)
@given(
    gaps=st.lists(st.integers(0, 30_000_000), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 40), max_size=5),
    restart=st.integers(0, 40),
    period=st.integers(0, 25_000_000),
)
def test_every_way_of_folding_wakes_at_the_same_inputs(
    gaps: list[int], cuts: list[int], restart: int, period: int
) -> None:
    parts = [SHARE.definition(ts_recv=NOW), level("buy", 99, 20), *[clock() for _ in gaps]]
    now, moments = NOW, []
    for part, gap in zip(parts[1:], [1, *gaps], strict=True):
        now += gap
        part["ts_recv"] = part["ts_event"] = now
        moments.append(now)
    cells = np.concatenate(parts)
    places = sorted({len(parts[0]) + cut for cut in cuts if len(parts[0]) + cut < len(cells)})
    outcomes = []
    for make in (compiled, Ticker):
        whole, pieces = EngineBench(make(period), share=None).engine, EngineBench(make(period), share=None).engine
        outcomes += [fold(whole, cells, []), fold(pieces, cells, places)]
        assert whole.snapshot() == pieces.snapshot()
        half = min(len(parts[0]) + restart, len(cells))
        before = EngineBench(make(period), share=None).engine
        begun = fold(before, cells[:half], [])
        after = EngineBench(make(period), share=None).engine
        after.restore(before.snapshot())
        outcomes.append(np.concatenate([begun, fold(after, cells, [], start=half)]))
        assert after.snapshot() == whole.snapshot()
    assert all(np.array_equal(outcomes[0], other) for other in outcomes[1:])
    assert orders_at(outcomes[0]) == expected(moments, period, 60)
