"""Commands on risk: limits, and the kill switch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapehouse.core.errors import DataError
from tapehouse.core.units import to_fixed
from tapehouse.desk.clients import Outcome
from tapehouse.desk.commands import KillAccount, SetLimits, SwitchKill
from tapehouse.desk.state import (
    LIMIT_KILLED,
    LIMIT_NOTIONAL,
    LIMIT_OPEN_ORDERS,
    LIMIT_ORDER_SIZE,
    LIMIT_POSITION,
    WORKING_MAX,
)
from tapehouse.engine.loop import STRATEGY_ACCOUNT
from tapehouse.engine.order_handlers import cancel_orders
from tapehouse.log.envelope import Body, Envelope

if TYPE_CHECKING:
    from tapehouse.engine.commands import CommandDesk, Handler

# Who set a kill switch: bits of LIMIT_KILLED, so that one that lets go leaves the other's alone.
KILLED_ACCOUNT, KILLED_ALL = 1, 2
MONEY_EXPONENT = -9  # a notional limit counts units of 10^-9 of whatever currency an instrument has
_COLUMNS = {
    "order_size": LIMIT_ORDER_SIZE,
    "position": LIMIT_POSITION,
    "notional": LIMIT_NOTIONAL,
    "open_orders": LIMIT_OPEN_ORDERS,
}


def set_limits(desk: CommandDesk, command: SetLimits, envelope: Envelope) -> Outcome:
    """Set the limits that are given, all of them or none."""
    engine = desk.engine
    if command.instrument is not None:
        raise DataError("limits are of an account in all instruments", subject="instrument")
    values: dict[str, int] = {}
    for name, value in command.given.items():
        if name not in _COLUMNS:
            raise DataError("the desk does not keep this limit", subject=name)
        values[name] = to_fixed(value, MONEY_EXPONENT) if name == "notional" else int(value)
    if values.get("open_orders", 0) > WORKING_MAX:
        raise DataError(f"one instrument holds {WORKING_MAX} working orders at most", subject="open_orders")
    account = desk.account(command.account, envelope)
    for name, value in values.items():
        engine.desk.limits[account, _COLUMNS[name]] = value
    desk.tell("limits.set", envelope, {"account": command.account, "limits": values})
    return {"outcome": "accepted"}


def switch_kill(desk: CommandDesk, command: SwitchKill, envelope: Envelope) -> Outcome:
    """Set or let go a kill switch; whoever it stops has no working orders afterwards."""
    limits = desk.engine.desk.limits
    accounts: list[int] | None
    if command.scope == "all":
        accounts, flag = None, KILLED_ALL
        rows = slice(None)  # accounts too that nobody has opened yet
    else:
        number = STRATEGY_ACCOUNT if command.account is None else desk.account(command.account, envelope)
        accounts, flag = [number], KILLED_ACCOUNT
        rows = slice(number, number + 1)
    count = 0
    if command.on:
        limits[rows, LIMIT_KILLED] |= flag
        count = cancel_orders(desk.engine, accounts=accounts, number=envelope.number)
    else:
        limits[rows, LIMIT_KILLED] &= ~flag
    body: Body = {"scope": command.scope, "on": command.on, "count": count}
    if command.account is not None:
        body["account"] = command.account
    desk.tell("kill.switched", envelope, body)
    return {"outcome": "accepted", "count": count}


def kill_account(desk: CommandDesk, command: KillAccount, envelope: Envelope) -> Outcome:
    """The first kill switch: of one account, without an event of its own."""
    account = desk.account(command.account, envelope)
    limits = desk.engine.desk.limits
    if command.on:
        limits[account, LIMIT_KILLED] |= KILLED_ACCOUNT
        cancel_orders(desk.engine, accounts=[account], number=envelope.number)
    else:
        limits[account, LIMIT_KILLED] &= ~KILLED_ACCOUNT
    return {"outcome": "accepted"}


HANDLERS: dict[type, Handler] = {SetLimits: set_limits, SwitchKill: switch_kill, KillAccount: kill_account}
