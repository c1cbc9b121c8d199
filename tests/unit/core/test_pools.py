"""What pools say of themselves: a watch over made-up loads, and the engine's own over a generated and a real day."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tapehouse.book import apply_cells, define, make_books, order_pool
from tapehouse.core import Metrics
from tapehouse.core.pools import Pool, PoolWatch
from tapehouse.desk.state import WORKING
from tapehouse.engine import Engine
from tapehouse.engine.pools import pools_of
from tapehouse.market import Action, Cells, Kind, Side, empty_cells, words
from tapehouse.strategies import maker

SLOTS = np.zeros(1, np.int64)
TICK = 10


def pool(used: int, held: int, refused: int = 0) -> Pool:
    return Pool(name="some_rows", used=used, held=held, capacity=100, row_bytes=32, refused=refused)


def test_efficiency_is_used_over_held_of_the_whole_load() -> None:
    watch = PoolWatch()
    assert watch.rows() == []
    assert watch.efficiency("some_rows") == 1.0
    for used, held in ((0, 0), (10, 10), (30, 40), (20, 50)):
        watch.observe([pool(used, held)])
    assert watch.efficiency("some_rows") == 0.6
    watch.observe([pool(40, 50, refused=3)])
    (row,) = watch.rows()
    assert row == {
        "pool": "some_rows", "used": 40, "used_max": 40, "held": 50, "capacity": 100, "held_bytes": 1600, "refused": 3,
        "efficiency": 0.6667,
    }  # fmt: skip
    metrics = Metrics()
    watch.write(metrics)
    assert metrics.table() == {
        "some_rows_efficiency": pytest.approx(100 / 150),
        "some_rows_held": 50,
        "some_rows_refused_total": 3,
        "some_rows_used": 40,
        "some_rows_used_max": 40,
    }


def orders(first: int, count: int, action: Action) -> Cells:
    """Adds or cancels of so many orders, ids from `first` on, each of size 1."""
    cells = empty_cells(count)
    cells["kind"], cells["cells"], cells["action"], cells["side"] = Kind.MBO, 1, action, Side.BID
    cells["order_id"] = np.arange(first, first + count)
    cells["price"], cells["size"] = 1000 * TICK, 1
    return cells


def test_the_rows_of_books_are_taken_again_before_fresh_ones() -> None:
    books = make_books(1, orders=100)
    define(books, 0, TICK)
    states = []
    for first, count, action in (
        (1, 60, Action.ADD), (1, 40, Action.CANCEL), (101, 40, Action.ADD), (201, 50, Action.ADD),
    ):  # fmt: skip
        apply_cells(books, SLOTS, words(orders(first, count, action)))
        now = order_pool(books)
        states.append((now.used, now.held, now.refused))
    assert states == [(60, 60, 0), (20, 60, 0), (60, 60, 0), (100, 100, 10)]
    assert (order_pool(books).capacity, order_pool(books).row_bytes) == (100, 32)


def test_a_fresh_engine_holds_nothing() -> None:
    pools = {found.name: found for found in pools_of(Engine(maker()))}
    assert set(pools) == {"book_orders", "desk_orders", "chain_options"}
    assert all((found.used, found.held, found.refused) == (0, 0, 0) for found in pools.values())


async def test_a_decided_day_fills_the_desks_pools() -> None:
    from tapehouse.app.live import record
    from tapehouse.core import SystemClock
    from tapehouse.replay import Session
    from tests.support.bench import NOW, VirtualClock, new_logs
    from tests.support.golden_day import generated

    logs = new_logs()
    await record(generated(), logs, strategy=maker(), clock=VirtualClock(NOW))
    engine, watch = Engine(maker()), PoolWatch()
    await Session(
        "pools", logs.tape, engine, clock=SystemClock(), on_progress=lambda _: watch.observe(pools_of(engine))
    ).run()
    rows = {str(row["pool"]): row for row in watch.rows()}
    working = int(engine.desk.counters[WORKING])
    assert rows["desk_orders"]["used"] == working
    assert 0 < int(rows["desk_orders"]["used_max"]) <= int(rows["desk_orders"]["held"])
    assert int(rows["book_orders"]["used_max"]) <= int(rows["book_orders"]["held"])
    assert rows["chain_options"]["used"] == rows["chain_options"]["held"]
    assert all(row["refused"] == 0 for row in rows.values())


def test_a_real_day_uses_what_it_holds(market_data: Path) -> None:
    """E-mini S&P 500, order by order: the book only breathes a little, so hardly a row lies idle."""
    from tests.golden.test_book_esh4 import TICK as ESH4_TICK
    from tests.golden.test_book_esh4 import read_day

    day = read_day(market_data / "databento" / "nautilus" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst")
    books = make_books(1)
    define(books, 0, ESH4_TICK)
    watch = PoolWatch()
    for at in range(0, len(day), 1000):
        apply_cells(books, SLOTS, words(day[at : at + 1000]))
        watch.observe([order_pool(books)])
    assert watch.efficiency("book_orders") >= 0.95
    assert watch.rows()[0]["refused"] == 0
    # The control: a pool that took a fresh row for every add would hold all of them.
    adds = int(np.count_nonzero(day["action"] == ord("A")))
    assert order_pool(books).used / adds < 0.5
