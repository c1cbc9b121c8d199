"""The registry of commands that anyone may send; beside it, under one name, the events that answer them."""

from __future__ import annotations

from tapehouse.desk import control_commands, order_commands
from tapehouse.desk.bodies import ACCOUNT_PATTERN
from tapehouse.desk.control_commands import (
    BookCash,
    ConfigureAccount,
    ConfigureStrategy,
    CorrectPosition,
    KillAccount,
    OpenAccount,
    Ping,
    RegisterInstrument,
    SetLimits,
    StartStrategy,
    StopStrategy,
    SwitchKill,
)
from tapehouse.desk.events import EVENTS, AccountOpened, CommandOutcome
from tapehouse.desk.order_commands import CancelOrder, MassCancel, ReplaceOrder, SubmitOrder
from tapehouse.desk.parking_commands import register_parking
from tapehouse.log.envelope import Registry

COMMANDS = Registry()
order_commands.register(COMMANDS)
control_commands.register(COMMANDS)
register_parking(COMMANDS, EVENTS)

__all__ = [
    "ACCOUNT_PATTERN",
    "COMMANDS",
    "EVENTS",
    "AccountOpened",
    "BookCash",
    "CancelOrder",
    "CommandOutcome",
    "ConfigureAccount",
    "ConfigureStrategy",
    "CorrectPosition",
    "KillAccount",
    "MassCancel",
    "OpenAccount",
    "Ping",
    "RegisterInstrument",
    "ReplaceOrder",
    "SetLimits",
    "StartStrategy",
    "StopStrategy",
    "SubmitOrder",
    "SwitchKill",
]
