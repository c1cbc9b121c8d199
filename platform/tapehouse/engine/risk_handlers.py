"""Commands on risk: limits, and the kill switch."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from tapehouse.core.errors import DataError
from tapehouse.core.units import to_fixed
from tapehouse.desk.clients import Outcome
from tapehouse.desk.commands import KillAccount, SetLimits, SwitchKill
from tapehouse.desk.requests import SELF_MATCH_POLICIES
from tapehouse.desk.state import (
    LIMIT_BAND,
    LIMIT_EXPONENT,
    LIMIT_MESSAGES,
    LIMIT_NOTIONAL,
    LIMIT_OPEN_ORDERS,
    LIMIT_ORDER_SIZE,
    LIMIT_POSITION,
    SELF_MATCH,
    SWITCHED_OFF,
    WORKING_MAX,
)
from tapehouse.engine.loop import STRATEGY_ACCOUNT
from tapehouse.engine.order_handlers import cancel_orders
from tapehouse.log.envelope import Body, Envelope

if TYPE_CHECKING:
    from tapehouse.engine.commands import CommandDesk, Handler

# Who set a kill switch: bits of SWITCHED_OFF, so that one that lets go leaves the other's alone.
KILLED_ACCOUNT, KILLED_ALL = 1, 2
_COLUMNS = {
    "order_size": LIMIT_ORDER_SIZE,
    "position": LIMIT_POSITION,
    "notional": LIMIT_NOTIONAL,
    "open_orders": LIMIT_OPEN_ORDERS,
    "price_band_ppm": LIMIT_BAND,
}
_OF_THE_ACCOUNT = {"messages_per_second": LIMIT_MESSAGES, "self_match": SELF_MATCH}  # in all instruments at once


def set_limits(desk: CommandDesk, command: SetLimits, envelope: Envelope) -> Outcome:
    """Set the limits that are given, all of them or none."""
    engine = desk.engine
    slots = slice(None) if command.instrument is None else engine.slot_of(command.instrument)
    values: dict[str, int] = {}
    for name, value in command.given.items():
        if name in _OF_THE_ACCOUNT and command.instrument is not None:
            raise DataError("this limit is of an account in all instruments", subject=name)
        values[name] = _value(name, value)
    if values.get("open_orders", 0) > WORKING_MAX:
        raise DataError(f"one instrument holds {WORKING_MAX} working orders at most", subject="open_orders")
    account = desk.account(command.account, envelope)
    for name, value in values.items():
        if name in _OF_THE_ACCOUNT:
            engine.desk.conduct[account, _OF_THE_ACCOUNT[name]] = value
        else:
            engine.desk.limits[account, slots, _COLUMNS[name]] = value
    desk.tell("limits.set", envelope, {"account": command.account, "limits": values})
    return {"outcome": "accepted"}


def _value(name: str, value: int | Decimal | str) -> int:
    """What the desk keeps of a limit."""
    if name == "notional":
        return to_fixed(Decimal(value), LIMIT_EXPONENT)
    return SELF_MATCH_POLICIES.index(str(value)) if name == "self_match" else int(value)


def switch_kill(desk: CommandDesk, command: SwitchKill, envelope: Envelope) -> Outcome:
    """Set or let go a kill switch; whoever it stops has no working orders afterwards."""
    conduct = desk.engine.desk.conduct
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
        conduct[rows, SWITCHED_OFF] |= flag
        count = cancel_orders(desk.engine, accounts=accounts)
    else:
        conduct[rows, SWITCHED_OFF] &= ~flag
    body: Body = {"scope": command.scope, "on": command.on, "count": count}
    if command.account is not None:
        body["account"] = command.account
    desk.tell("kill.switched", envelope, body)
    return {"outcome": "accepted", "count": count}


def kill_account(desk: CommandDesk, command: KillAccount, envelope: Envelope) -> Outcome:
    """The first kill switch: of one account, without an event of its own."""
    account = desk.account(command.account, envelope)
    conduct = desk.engine.desk.conduct
    if command.on:
        conduct[account, SWITCHED_OFF] |= KILLED_ACCOUNT
        cancel_orders(desk.engine, accounts=[account])
    else:
        conduct[account, SWITCHED_OFF] &= ~KILLED_ACCOUNT
    return {"outcome": "accepted"}


HANDLERS: dict[type, Handler] = {SetLimits: set_limits, SwitchKill: switch_kill, KillAccount: kill_account}
