"""Commands on orders: each becomes a row of `desk.requests`, on which the desk's one order core decides."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tapehouse.desk import BUY, POWERS, REASONS, SELL, UNKNOWN_ORDER
from tapehouse.desk import mass_cancel as cancel_all
from tapehouse.desk import next_order_id as order_id_next
from tapehouse.desk.clients import Outcome
from tapehouse.desk.commands import CancelOrder, MassCancel, ReplaceOrder, SubmitOrder
from tapehouse.desk.orders import decide
from tapehouse.desk.requests import (
    CANCEL,
    ORDER_TYPES,
    POST_ONLY_FLAG,
    REDUCE_ONLY_FLAG,
    REPLACE,
    REQUEST_ACCOUNT,
    REQUEST_COLUMNS,
    REQUEST_DISPLAY,
    REQUEST_EXPIRY,
    REQUEST_FLAGS,
    REQUEST_KIND,
    REQUEST_NUMBER,
    REQUEST_PRICE,
    REQUEST_SIDE,
    REQUEST_SIZE,
    REQUEST_SLOT,
    REQUEST_STOP,
    REQUEST_TARGET,
    REQUEST_TIME_IN_FORCE,
    REQUEST_TYPE,
    SUBMIT,
    TIMES_IN_FORCE,
)
from tapehouse.desk.state import INSTRUMENTS_MAX, ORDER_SIDE, ORDER_SLOT, OUT_ROWS, WORKING
from tapehouse.desk.working import find_working
from tapehouse.engine.loop import OUTPUT_MARGIN
from tapehouse.log.envelope import Envelope
from tapehouse.market import Instrument

if TYPE_CHECKING:
    from tapehouse.engine.commands import CommandDesk, Handler
    from tapehouse.engine.machine import Engine

SIDES = {"buy": BUY, "sell": SELL}
ANY = -1


def submit_order(desk: CommandDesk, command: SubmitOrder, envelope: Envelope) -> Outcome:
    """Send an order; what becomes of it are ORDER and FILL records."""
    engine = desk.engine
    slot = engine.slot_of(command.instrument)
    instrument = engine.instrument_at(slot)
    request = np.zeros(REQUEST_COLUMNS, np.int64)
    request[REQUEST_KIND], request[REQUEST_SLOT] = SUBMIT, slot
    request[REQUEST_SIDE] = SIDES[command.side]
    request[REQUEST_TYPE] = ORDER_TYPES.index(command.type)
    request[REQUEST_TIME_IN_FORCE] = TIMES_IN_FORCE.index(command.in_force)
    request[REQUEST_FLAGS] = command.post_only * POST_ONLY_FLAG | command.reduce_only * REDUCE_ONLY_FLAG
    request[REQUEST_PRICE] = _price(instrument, command.price)
    request[REQUEST_SIZE] = instrument.fixed_size(command.size)
    request[REQUEST_STOP] = _price(instrument, command.stop)
    request[REQUEST_DISPLAY] = _size(instrument, command.display)
    request[REQUEST_EXPIRY] = command.expires_at or 0
    request[REQUEST_NUMBER] = envelope.number
    request[REQUEST_ACCOUNT] = desk.account(command.account, envelope)
    order_id = next_order_id(engine)
    reason = _decide(engine, request)
    if reason:
        return {"outcome": "rejected", "reason": REASONS[reason], "order_id": order_id}
    return {"outcome": "accepted", "order_id": order_id}


def replace_order(desk: CommandDesk, command: ReplaceOrder, envelope: Envelope) -> Outcome:
    """Change a working order; the outcome names the one that stands for it."""
    engine = desk.engine
    place, account = _working(desk, command)
    if place is None or account is None:
        return _unknown(command.order_id)
    order = engine.desk.orders[place]
    instrument = engine.instrument_at(int(order[ORDER_SLOT]))
    request = np.zeros(REQUEST_COLUMNS, np.int64)
    request[REQUEST_KIND], request[REQUEST_SLOT] = REPLACE, order[ORDER_SLOT]
    request[REQUEST_SIDE] = order[ORDER_SIDE]
    request[REQUEST_PRICE] = _price(instrument, command.price)
    request[REQUEST_SIZE] = _size(instrument, command.size)
    request[REQUEST_STOP] = _price(instrument, command.stop)
    request[REQUEST_DISPLAY] = _size(instrument, command.display)
    request[REQUEST_TARGET], request[REQUEST_NUMBER] = command.order_id, envelope.number
    request[REQUEST_ACCOUNT] = account
    announced = next_order_id(engine)
    reason = _decide(engine, request)
    if reason:
        return {"outcome": "rejected", "reason": REASONS[reason], "order_id": command.order_id}
    stands = _working(desk, command)[0] is not None
    return {"outcome": "accepted", "order_id": command.order_id if stands else announced}


def cancel_order(desk: CommandDesk, command: CancelOrder, envelope: Envelope) -> Outcome:
    """Cancel one working order of an account."""
    place, account = _working(desk, command)
    if place is None or account is None:
        return _unknown(command.order_id)
    reason = _cancel(desk.engine, place, account, command.order_id, envelope.number)
    if reason:
        return {"outcome": "rejected", "reason": REASONS[reason], "order_id": command.order_id}
    return {"outcome": "accepted", "order_id": command.order_id}


def mass_cancel(desk: CommandDesk, command: MassCancel, envelope: Envelope) -> Outcome:
    """Cancel every working order that the command describes; none is fine too."""
    slots = None if command.instrument is None else [desk.engine.slot_of(command.instrument)]
    sides = (BUY, SELL) if command.side is None else (SIDES[command.side],)
    accounts = None
    if command.account is not None:
        number = desk.known_account(command.account)
        accounts = [] if number is None else [number]
    count = cancel_orders(desk.engine, accounts=accounts, slots=slots, sides=sides)
    return {"outcome": "accepted", "count": count}


def cancel_orders(
    engine: Engine,
    *,
    accounts: Iterable[int] | None = None,
    slots: Iterable[int] | None = None,
    sides: Iterable[int] = (BUY, SELL),
) -> int:
    """Cancel working orders by instrument, then side, price and age; returns how many there were.

    Args:
        accounts, slots: Whose orders, of which instruments; None for all.
    """
    wanted = None if accounts is None else set(accounts)
    if slots is None:
        routes = [engine.route(instrument) for instrument in sorted(engine.instruments)]
        slots = [slot for slot in routes if slot >= 0]
    working = int(engine.desk.counters[WORKING])
    for slot in slots:
        for side in sides:
            for account in sorted(wanted) if wanted is not None else [ANY]:
                while cancel_all(engine.desk, engine.out, account, slot, side):
                    engine.collect()
    return working - int(engine.desk.counters[WORKING])


def next_order_id(engine: Engine) -> int:
    """The id of an order that the next record announces."""
    return int(order_id_next(engine.desk.counters))


def _cancel(engine: Engine, place: int, account: int, order_id: int, number: int) -> int:
    order = engine.desk.orders[place]
    request = np.zeros(REQUEST_COLUMNS, np.int64)
    request[REQUEST_KIND], request[REQUEST_SLOT], request[REQUEST_SIDE] = CANCEL, order[ORDER_SLOT], order[ORDER_SIDE]
    request[REQUEST_ACCOUNT], request[REQUEST_TARGET], request[REQUEST_NUMBER] = account, order_id, number
    return _decide(engine, request)


def _decide(engine: Engine, request: npt.NDArray[np.int64]) -> int:
    """Have the order core decide, with room for all that it may write."""
    if engine.desk.counters[OUT_ROWS] > len(engine.out) - OUTPUT_MARGIN:
        engine.collect()
    return int(decide(engine.desk, engine.books, engine.ladder, engine.out, POWERS, request))


def _working(desk: CommandDesk, command: ReplaceOrder | CancelOrder) -> tuple[int | None, int | None]:
    """The row of the working order that a command means and the number of its account, None where there is none.

    Raises:
        DataError: The instrument that it names is unknown.
    """
    engine = desk.engine
    slot = None if command.instrument is None else engine.slot_of(command.instrument)
    account = desk.known_account(command.account)
    for at in range(INSTRUMENTS_MAX) if slot is None else [slot]:
        row = 0 if account is None else int(find_working(engine.desk, at, account, command.order_id)[2])
        if row:
            return row, account
    return None, None


def _unknown(order_id: int) -> Outcome:
    return {"outcome": "rejected", "reason": REASONS[UNKNOWN_ORDER], "order_id": order_id}


def _price(instrument: Instrument, price: Decimal | None) -> int:
    return 0 if price is None else instrument.fixed_price(price)


def _size(instrument: Instrument, size: Decimal | None) -> int:
    return 0 if size is None else instrument.fixed_size(size)


HANDLERS: dict[type, Handler] = {
    SubmitOrder: submit_order,
    ReplaceOrder: replace_order,
    CancelOrder: cancel_order,
    MassCancel: mass_cancel,
}
