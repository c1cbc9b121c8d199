"""What is due before an input: orders end by its time, under its ordinal, in as many calls as the outputs need."""

from __future__ import annotations

import numpy as np

from tapehouse.desk import decide, working_count
from tapehouse.desk import requests as r
from tapehouse.desk.money import POWERS
from tapehouse.desk.state import INDEX, OUT_ROWS
from tapehouse.engine.loop import OUTPUT_MARGIN
from tapehouse.market import Kind
from tests.support.bench import TICK, EngineBench, actions_in, level

ORDERS = 300


def with_orders(expiry: int) -> EngineBench:
    """A bench with orders that end at a time, placed behind the engine's back."""
    bench = EngineBench()
    bench.feed(level("buy", 99, 20), level("sell", 101, 20))
    desk, request = bench.engine.desk, np.zeros(r.REQUEST_COLUMNS, np.int64)
    desk.limits[:, :, 3] = 2 * ORDERS
    request[[r.REQUEST_TIME_IN_FORCE, r.REQUEST_EXPIRY, r.REQUEST_SIZE]] = r.GTD, expiry, 5
    for number in range(ORDERS):
        request[[r.REQUEST_PRICE, r.REQUEST_NUMBER]] = (90 + number % 5) * TICK, number
        assert decide(desk, bench.engine.books, bench.engine.ladder, bench.engine.out, POWERS, request) == r.OK
    desk.counters[[OUT_ROWS, INDEX]] = 0
    return bench


def test_orders_end_before_the_record_whose_time_it_is() -> None:
    bench = with_orders(expiry=EngineBench().now + 5_000_000)
    early = bench.feed(level("sell", 102, 20))
    assert actions_in(early) == ""
    through = level("sell", 90, 500)
    late = bench.feed(*[level("sell", 102, 19 - n) for n in range(3)], through)
    assert actions_in(late) == "x" * ORDERS
    assert not (late["kind"] == Kind.FILL).any()
    assert len(set(late["sequence"][late["cells"] > 0].tolist())) == 1
    assert late["count"][late["cells"] > 0].tolist() == list(range(ORDERS))
    assert working_count(bench.engine.desk, 0) == 0


def test_outputs_that_are_full_change_nothing() -> None:
    expiry = EngineBench().now + 4_500_000
    benches = [with_orders(expiry), with_orders(expiry)]
    benches[1].engine._out = np.zeros((OUTPUT_MARGIN + 8, 8), np.int64)
    outputs = [bench.feed(*[level("sell", 101, 30 + n) for n in range(5)]) for bench in benches]
    assert actions_in(outputs[0]) == "x" * ORDERS
    assert np.array_equal(outputs[0], outputs[1])
    assert benches[0].engine.digest() == benches[1].engine.digest()
