"""What became of every order, against an obvious fold in plain Python and against the desk itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.desk.orders_projection import OrdersProjection
from tapehouse.desk.state import INSTRUMENTS_MAX, working_orders
from tapehouse.log import FrameHeader
from tapehouse.market import FILL_EXTENSION, ORDER_EXTENSION, Action, Cells, Kind, extend
from tests.support.desk_day import LOG_ID, STOCK, record, shared_day

HEADER = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0)


def order(action: Action, order_id: int, size: int, *, reason: int = 0, account: int = 0) -> Cells:
    """An ORDER record of the desk."""
    cells = np.concatenate([record(Kind.ORDER, 1, 1000)] * 2)
    cells["cells"], cells["action"], cells["side"], cells["depth"] = 2, action, ord("B"), reason
    cells["order_id"][0], cells["price"][0], cells["size"][0] = order_id, 10**9, size
    extend(cells)
    cells[1:].view(ORDER_EXTENSION)["client"] = account
    cells[1:].view(ORDER_EXTENSION)["number"] = 0
    return cells


def fill(order_id: int, size: int) -> Cells:
    """A FILL record of the desk."""
    cells = np.concatenate([record(Kind.FILL, 1, 1000)] * 2)
    cells["cells"], cells["action"], cells["side"] = 2, Action.FILL, ord("B")
    cells["order_id"][0], cells["price"][0], cells["size"][0] = order_id, 10**9, size
    extend(cells)
    cells[1:].view(FILL_EXTENSION)["client"] = 0
    return cells


def fold(*records: Cells, done_max: int = 100) -> OrdersProjection:
    """A projection of one instrument and these records."""
    orders = OrdersProjection(done_max=done_max)
    orders.apply(HEADER, np.concatenate([STOCK.definition(ts_recv=0), *records]))
    return orders


def plainly(cells: Cells) -> dict[int, dict[str, Any]]:
    """The oracle: one dictionary an order."""
    orders: dict[int, dict[str, Any]] = {}
    status = {Action.CANCELLED: "cancelled", Action.REJECTED: "rejected", Action.EXPIRED: "expired"}
    for cell in cells[(cells["cells"] > 0) & np.isin(cells["kind"], [Kind.ORDER, Kind.FILL])]:
        order_id, action, size = int(cell["order_id"]), int(cell["action"]), int(cell["size"])
        if cell["kind"] == Kind.FILL:
            entry = orders[order_id]
            entry["left"] -= size
            entry["filled"] += size
            entry["fills"] += 1
            entry["status"] = "filled" if entry["left"] == 0 else "working"
        elif action in (Action.ACCEPTED, Action.REJECTED):
            status_now = status.get(Action(action), "working")
            orders[order_id] = {"size": size, "left": size, "filled": 0, "fills": 0, "status": status_now}
        else:
            orders[order_id]["status"] = status[Action(action)]
            orders[order_id]["left"] = size
        orders[order_id]["as_of"] = int(cell["sequence"])
    return orders


def test_a_whole_day_equals_the_obvious_fold() -> None:
    day = shared_day()
    orders = OrdersProjection()
    orders.apply(HEADER, day.outputs)
    expected = plainly(day.outputs)
    got = dict(orders.items())
    assert sorted(got) == sorted(f"orders/{order_id}" for order_id in expected)
    scale = {instrument.symbol: 10**-instrument.size_exponent for instrument in day.engine.instruments.values()}
    for order_id, entry in expected.items():
        value = got[f"orders/{order_id}"]
        sizes = {name: round(float(value[name]) * scale[value["instrument"]]) for name in ("size", "left", "filled")}
        assert {**sizes, **{name: value[name] for name in ("fills", "status", "as_of")}} == entry
        assert orders.get(f"orders/{order_id}") == value
    statuses = {value["status"] for value in got.values()}
    assert statuses == {"working", "filled", "cancelled", "rejected"}


def test_the_working_orders_are_those_of_the_desk() -> None:
    day = shared_day()
    orders = OrdersProjection()
    orders.apply(HEADER, day.outputs)
    desk = day.engine.desk
    held = {}
    for slot in range(INSTRUMENTS_MAX):
        for order in working_orders(desk, slot):
            held[f"orders/{order.order_id}"] = order.left
    working = {key: value for key, value in orders.items() if value["status"] == "working"}
    assert set(working) == set(held)
    assert working


def test_the_accounts_and_reasons_are_named() -> None:
    day = shared_day()
    orders = OrdersProjection()
    orders.apply(HEADER, day.outputs)
    values = [value for _, value in orders.items()]
    assert {value["account"] for value in values} == {"strategy", "alice", "bob"}
    assert {value["reason"] for value in values} >= {"", "price is not a positive whole number of ticks"}


def test_done_orders_are_forgotten_oldest_first_and_working_ones_never() -> None:
    records = [order(Action.ACCEPTED, 1, 5)]
    for order_id in range(2, 12):
        records += [order(Action.ACCEPTED, order_id, 5), fill(order_id, 5)]
    orders = fold(*records, done_max=3)
    assert [key for key, _ in orders.items()] == ["orders/1", "orders/9", "orders/10", "orders/11"]
    assert orders.get("orders/8") is None
    orders.apply(HEADER, order(Action.CANCELLED, 1, 5))  # older than every done one that is kept
    assert [key for key, _ in orders.items()] == ["orders/9", "orders/10", "orders/11"]


def test_a_table_that_is_full_grows() -> None:
    records = [order(Action.ACCEPTED, order_id, 5) for order_id in range(1, 10_001)]
    orders = fold(*records)
    assert len(orders.items()) == 10_000
    assert orders.get("orders/10000") is not None


@pytest.mark.parametrize(
    "key", ["orders/7", "orders/", "orders/x", "orders/-1", "orders/01", "order/1", f"orders/{10**19}"]
)
def test_a_key_of_no_order_has_no_value(key: str) -> None:
    assert fold(order(Action.ACCEPTED, 1, 5)).get(key) is None


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([fill(1, 5)], "not working"),
        ([order(Action.CANCELLED, 1, 5)], "not working"),
        ([order(Action.ACCEPTED, 1, 5), order(Action.ACCEPTED, 1, 5)], "not above"),
        ([order(Action.ACCEPTED, 1, 5), fill(1, 6)], "more was filled"),
        ([order(Action.ACCEPTED, 1, 5), fill(1, 5), fill(1, 1)], "not working"),
        ([order(Action.ACCEPTED, 1, 5, account=77)], "impossible account"),
        ([order(Action.MODIFY, 1, 5)], "not working"),
        ([order(Action.ACCEPTED, 1, 5), order(Action.MODIFY, 1, 5)], "account or action"),
    ],
)
def test_what_cannot_be_halts_with_its_place(records: list[Cells], problem: str) -> None:
    with pytest.raises(DecodeError, match=rf"EVENTS, cell \d+, order 1: .*{problem}"):
        fold(*records)


def test_an_undefined_instrument_and_an_unknown_kind_halt() -> None:
    with pytest.raises(DecodeError, match="before its definition"):
        OrdersProjection().apply(HEADER, order(Action.ACCEPTED, 1, 5))
    strange = record(Kind.CLOCK, 0, 5)
    strange["kind"] = 99
    with pytest.raises(DecodeError, match="kind 99 is unknown"):
        fold(strange)
    strange["kind"] = 200
    fold(strange)


def test_a_damaged_snapshot_is_refused_and_changes_nothing() -> None:
    orders = fold(order(Action.ACCEPTED, 1, 5), order(Action.ACCEPTED, 2, 5))
    snapshot = orders.snapshot()
    before = orders.digest()
    for damaged in (snapshot[:-1], snapshot[:10], b"", snapshot.replace(b"AAPL", b"\xff\xfe\xfd\xfc")):
        with pytest.raises(IntegrityError):
            orders.restore(damaged)
    assert orders.digest() == before
