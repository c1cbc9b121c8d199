"""When working orders end: a heap of those that expire, the earliest and then the oldest first.

`due[1]` to `due[counters[DUE_COUNT]]` are rows of orders; ORDER_DUE of a row is its place there, so that an order that
goes before its time is taken out at once. How the heap lies depends on the path
and is no state; what comes out does not.
"""

from __future__ import annotations

from tapehouse.book.resting import order_id_in
from tapehouse.core.kernel import Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.records import order_id_of
from tapehouse.desk.state import DUE_COUNT, NEXT_DUE, ORDER_DUE, ORDER_EXPIRY

_UNDEFINED = UNDEFINED


@kernel(inline=True)
def comes_before(desk: State, row: Int, other: Int) -> Int:
    """Whether an order ends before another one."""
    expiry, others = desk.orders[row, ORDER_EXPIRY], desk.orders[other, ORDER_EXPIRY]
    if expiry != others:
        return expiry < others
    return order_id_of(order_id_in(desk.own, row)) < order_id_of(order_id_in(desk.own, other))


@kernel()
def put_in_place(desk: State, row: Int, at: Int) -> None:
    """Put an order where it belongs, from a free place `at` of the heap on, up or down."""
    due, orders = desk.due, desk.orders
    count = desk.counters[DUE_COUNT]
    while at > 1 and comes_before(desk, row, due[at >> 1]):
        due[at] = due[at >> 1]
        orders[due[at], ORDER_DUE] = at
        at >>= 1
    while 2 * at <= count:
        below = 2 * at
        if below < count and comes_before(desk, due[below + 1], due[below]):
            below += 1
        if not comes_before(desk, due[below], row):
            break
        due[at] = due[below]
        orders[due[at], ORDER_DUE] = at
        at = below
    due[at] = row
    orders[row, ORDER_DUE] = at
    desk.counters[NEXT_DUE] = orders[due[1], ORDER_EXPIRY]


@kernel()
def note_due(desk: State, row: Int) -> None:
    """An order with an expiry works from now on."""
    desk.counters[DUE_COUNT] += 1
    put_in_place(desk, row, desk.counters[DUE_COUNT])


@kernel()
def forget_due(desk: State, row: Int) -> None:
    """An order with an expiry works no longer; its row must still be in `own`."""
    at = desk.orders[row, ORDER_DUE]
    count = desk.counters[DUE_COUNT]
    last = desk.due[count]
    desk.counters[DUE_COUNT] = count - 1
    desk.orders[row, ORDER_DUE] = 0
    if count == 1:
        desk.counters[NEXT_DUE] = _UNDEFINED
    elif last != row:
        put_in_place(desk, last, at)
