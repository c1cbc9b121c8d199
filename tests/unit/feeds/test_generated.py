"""The generated day: always the same bytes, and a market that could have been."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from blake3 import blake3

from tapehouse.core import UNDEFINED, UsageError, parse_time_ns
from tapehouse.feeds import GeneratedDay
from tapehouse.feeds.order_pool import ORDERS_MAX
from tapehouse.market import Action, Cells, Flag, Kind, Side, record_starts

# The bytes of the shares come from integers alone; those of the options also from deterministic arithmetic on doubles.
SHARES_DIGEST = "196cebd078012b966a41224952f8de05477d2b4753aeaead48e05f5bf0624d92"
DAY_DIGEST = "aaec63e08282e310ba59994d8c8c931263ebf5420817fb90dee729322bb1e2c4"
CELLS = 20_000


def whole(day: GeneratedDay) -> Cells:
    return np.concatenate(list(day.batches()))


@pytest.fixture(scope="module")
def cells() -> Cells:
    return whole(GeneratedDay(seed=11, cells=60_000, options=False))


def test_the_bytes_are_pinned() -> None:
    assert blake3(whole(GeneratedDay(cells=CELLS, options=False)).tobytes()).hexdigest() == SHARES_DIGEST
    assert blake3(whole(GeneratedDay(cells=CELLS)).tobytes()).hexdigest() == DAY_DIGEST


def test_another_seed_is_another_day() -> None:
    assert whole(GeneratedDay(8, CELLS))[:1000].tobytes() != whole(GeneratedDay(7, CELLS))[:1000].tobytes()


@pytest.mark.parametrize("batch_cells", [1, 97, 5_000])
def test_any_batch_size_gives_the_same_cells(batch_cells: int) -> None:
    expected = whole(GeneratedDay(cells=CELLS))
    batches = list(GeneratedDay(cells=CELLS, batch_cells=batch_cells).batches())
    assert np.concatenate(batches).tobytes() == expected.tobytes()
    assert len(batches) > 3
    for batch in batches:
        record_starts(batch)  # whole records


def test_size_and_hours(cells: Cells) -> None:
    assert abs(len(cells) - 60_000) <= 32
    assert parse_time_ns("2026-01-05T13:30:00Z") < cells["ts_recv"][0]
    assert parse_time_ns("2026-01-05T20:00:00Z") <= cells["ts_recv"][-1] < parse_time_ns("2026-01-05T20:00:01Z")
    with_options = whole(GeneratedDay(cells=60_000))
    assert abs(len(with_options) - 60_000) < 3_000
    assert GeneratedDay(cells=60_000).cells_estimate == 60_000


def test_time_grows_from_event_to_event(cells: Cells) -> None:
    lasts = np.flatnonzero(cells["flags"] & int(Flag.LAST))
    starts = np.concatenate(([0], lasts[:-1] + 1))
    assert lasts[-1] == len(cells) - 1
    assert (cells["ts_recv"][starts] == cells["ts_recv"][lasts]).all()  # an event is one moment
    assert (np.diff(cells["ts_recv"][lasts]) > 0).all()
    assert (np.diff(cells["ts_event"]) >= 0).all()
    assert (cells["ts_event"] <= cells["ts_recv"]).all()
    assert (np.diff(cells["sequence"].astype(np.int64)) == 1).all()


def test_every_order_lives_before_it_is_touched_and_no_book_crosses_after_the_open(cells: Cells) -> None:
    orders: dict[int, list[int]] = {}
    books: dict[tuple[int, int], Counter[int]] = {
        (n, side): Counter() for n in (1, 2, 3) for side in (Side.BID, Side.ASK)
    }
    open_now: set[int] = set()
    columns = ("instrument", "kind", "action", "side", "order_id", "price", "size", "flags", "count")
    for number, kind, action, side, order_id, price, size, flags, count in zip(
        *(cells[name].tolist() for name in columns), strict=True
    ):
        if kind == Kind.STATUS:
            open_now = open_now | {number} if count == 7 else open_now - {number}
        elif action == Action.ADD:
            assert order_id not in orders
            orders[order_id] = [number, side, price, size]
            books[number, side][price] += size
        elif action == Action.MODIFY:
            home = orders[order_id]
            assert home[:2] == [number, side]
            books[number, side][home[2]] -= home[3]
            orders[order_id] = [number, side, price, size]
            books[number, side][price] += size
        elif action == Action.CANCEL:
            home = orders[order_id]
            assert home[:3] == [number, side, price]
            assert 0 < size <= home[3]
            home[3] -= size
            books[number, side][price] -= size
            if home[3] == 0:
                del orders[order_id]
        elif action == Action.FILL:
            home = orders[order_id]
            assert home[:2] == [number, side]
            assert size <= home[3]
        else:
            assert action == Action.TRADE
            assert order_id == 0
        if number in open_now and flags & Flag.LAST and kind == Kind.MBO:
            bids, asks = (+books[number, letter] for letter in (Side.BID, Side.ASK))
            assert max(bids) < min(asks)
            assert len(bids) >= 2
            assert len(asks) >= 2
    assert len(orders) < 3 * ORDERS_MAX
    assert all(+book for book in books.values())  # a market remains to be looked at


def test_the_day_has_its_phases(cells: Cells) -> None:
    status = cells[cells["kind"] == Kind.STATUS]
    assert status["count"].tolist() == [1, 1, 1, 7, 7, 7, 12, 12, 12]
    opening = status["ts_recv"][5]
    before = cells[cells["ts_recv"] < opening]
    auction = before[before["action"] == Action.TRADE]
    assert len(auction) > 0
    assert (auction["side"] == Side.NONE).all()
    after = cells[cells["ts_recv"] > opening]
    mix = Counter(after["action"].tolist())
    assert all(mix[action] > len(after) // 50 for action in b"ACMTF")
    hours = (after["ts_recv"] - parse_time_ns("2026-01-05T13:30:00Z")) // (300 * 10**9)
    per_five_minutes = Counter(hours.tolist())
    assert per_five_minutes[36] > 10 * per_five_minutes[20]  # the burst at 16:30
    assert per_five_minutes[0] > 2 * per_five_minutes[20]
    assert per_five_minutes[77] > 3 * per_five_minutes[20]


def test_the_three_cells_of_an_execution(cells: Cells) -> None:
    steady = cells[cells["ts_recv"] > cells["ts_recv"][cells["kind"] == Kind.STATUS][5]]
    trades = np.flatnonzero(steady["action"] == Action.TRADE)
    assert (steady["action"][trades + 1] == Action.FILL).all()
    assert (steady["action"][trades + 2] == Action.CANCEL).all()
    for name in ("price", "size", "ts_recv"):
        assert (steady[name][trades] == steady[name][trades + 1]).all()
        assert (steady[name][trades] == steady[name][trades + 2]).all()
    assert (steady["side"][trades] != steady["side"][trades + 1]).all()
    assert (steady["order_id"][trades + 1] == steady["order_id"][trades + 2]).all()


def test_prices_stand_on_ticks_and_move(cells: Cells) -> None:
    for instrument in GeneratedDay(options=False).instruments:
        mine = cells[(cells["instrument"] == instrument.id) & (cells["price"] != UNDEFINED)]
        assert (mine["price"] % instrument.tick_size == 0).all()
        assert (mine["size"] % instrument.lot_size == 0).all()
        traded = mine["price"][mine["action"] == Action.TRADE]
        assert len(np.unique(traded)) > 10
        assert 0.9 < traded.min() / traded.max() < 1


def test_how_many_instruments() -> None:
    day = GeneratedDay(cells=5_000, instruments=5, options=False)
    assert [item.symbol for item in day.instruments] == ["ALFA", "BRAVO", "CHARLIE", "ALFA2", "BRAVO2"]
    assert set(whole(day)["instrument"].tolist()) == {1, 2, 3, 4, 5}
    assert day.name == "generated-7"
    for wrong in ({"cells": 999}, {"instruments": 0}, {"instruments": 65}):
        with pytest.raises(UsageError):
            GeneratedDay(**wrong)  # type: ignore[arg-type]
