"""Commands on the strategy, on instruments, and the ping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapehouse.core.errors import DataError
from tapehouse.desk.clients import Outcome
from tapehouse.desk.commands import ConfigureStrategy, Ping, RegisterInstrument, StartStrategy, StopStrategy
from tapehouse.engine.loop import STRATEGY_ACCOUNT
from tapehouse.engine.order_handlers import cancel_orders
from tapehouse.engine.registration import registered
from tapehouse.log.envelope import Envelope

if TYPE_CHECKING:
    from tapehouse.engine.commands import CommandDesk, Handler


def start_strategy(desk: CommandDesk, command: StartStrategy, envelope: Envelope) -> Outcome:
    """Have the strategy called again: at the next input, for every instrument that it has been shown."""
    control = desk.engine.control
    control.require(command.strategy)
    if not control.is_running:
        control.is_running = True
        desk.engine.wake_all()
        desk.tell("strategy.started", envelope, {"strategy": control.name})
    return {"outcome": "accepted"}


def stop_strategy(desk: CommandDesk, command: StopStrategy, envelope: Envelope) -> Outcome:
    """Have the strategy called no more; its working orders go, unless they are to stay."""
    control = desk.engine.control
    control.require(command.strategy)
    count = 0
    if command.cancel_orders:
        count = cancel_orders(desk.engine, accounts=[STRATEGY_ACCOUNT])
    if control.is_running:
        control.is_running = False
        desk.tell("strategy.stopped", envelope, {"strategy": control.name, "count": count})
    return {"outcome": "accepted", "count": count}


def configure_strategy(desk: CommandDesk, command: ConfigureStrategy, envelope: Envelope) -> Outcome:
    """Change parameters of the strategy: all that the command names, or none."""
    control = desk.engine.control
    control.require(command.strategy)
    control.configure(command.parameters)
    desk.tell("strategy.configured", envelope, {"strategy": control.name, "parameters": command.parameters})
    return {"outcome": "accepted"}


def register_instrument(desk: CommandDesk, command: RegisterInstrument, envelope: Envelope) -> Outcome:
    """Accept an instrument whose definition stands before the command, or was there with the same terms."""
    engine = desk.engine
    instrument = registered(command, engine.instruments)
    if instrument.id not in engine.instruments:
        raise DataError(
            "no definition stands before this command", subject=command.symbol, hint="send it again, to a newer host"
        )
    body = {"instrument": instrument.id, "symbol": instrument.symbol, "venue": instrument.venue}
    desk.tell("instrument.registered", envelope, body)
    return {"outcome": "accepted", "instrument": instrument.id}


def ping(desk: CommandDesk, command: Ping, envelope: Envelope) -> Outcome:
    """Change nothing."""
    return {"outcome": "accepted"}


HANDLERS: dict[type, Handler] = {
    StartStrategy: start_strategy,
    StopStrategy: stop_strategy,
    ConfigureStrategy: configure_strategy,
    RegisterInstrument: register_instrument,
    Ping: ping,
}
