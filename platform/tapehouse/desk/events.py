"""The JSON events that a desk writes to EVENTS beside its orders and fills."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

from pydantic import Field

from tapehouse.desk.bodies import ACCOUNT_PATTERN, TAG_MAX, Account, Body, Symbol
from tapehouse.log.envelope import Registry


class CommandOutcome(Body):
    """What became of a command."""

    outcome: Literal["accepted", "rejected", "repeated", "expired", "parked"]
    reason: str = ""
    order_id: int = 0
    position: int = 0
    first: str = ""
    input: int = Field(default=0, ge=0, description="the command's sequence in CMDS")
    number: int = Field(default=0, ge=0, description="the command's number, of its client")
    tag: str = Field(default="", max_length=TAG_MAX)
    count: int = Field(default=0, ge=0, description="orders that were cancelled")
    instrument: int = Field(default=0, ge=0, description="the tape's number of an instrument that was registered")


class AccountOpened(Body):
    """An account was named for the first time; records call it by its number from now on."""

    account: str = Field(pattern=ACCOUNT_PATTERN)
    number: int = Field(ge=0)


class LimitsSet(Body):
    """Risk limits changed."""

    account: Account
    instrument: Symbol | None = None
    limits: dict[str, int | str] = Field(description="those that changed: lots, currency units, counts, millionths")


class KillSwitched(Body):
    """A kill switch was set or let go."""

    scope: Literal["account", "strategy", "all"]
    account: Account | None = None
    on: bool
    count: int = Field(default=0, description="orders that were cancelled")


class AccountConfigured(Body):
    """How an account's fills are booked from here on; a fee of None is the desk's."""

    account: Account
    mode: Literal["netting", "hedging"] = "netting"
    method: Literal["average", "fifo"] = "average"
    maker_fee_ppm: int | None = Field(default=None, ge=-1_000_000, le=1_000_000)
    taker_fee_ppm: int | None = Field(default=None, ge=-1_000_000, le=1_000_000)


class InstrumentRegistered(Body):
    """An instrument was registered; its definition stands before this."""

    instrument: int = Field(ge=1, description="the tape's number")
    symbol: str
    venue: str


class StrategyStarted(Body):
    """The strategy is called again."""

    strategy: str


class StrategyStopped(Body):
    """The strategy is called no more."""

    strategy: str
    count: int = Field(default=0, description="orders that were cancelled")


class StrategyConfigured(Body):
    """Parameters of the strategy changed."""

    strategy: str
    parameters: dict[str, int]


class CashBooked(Body):
    """Cash came to an account or left it, against the account `external`."""

    account: Account
    currency: str = Field(min_length=1, max_length=16)
    exponent: int = Field(ge=-18, le=18, description="the unit that it is kept in: 10^exponent of the currency")
    amount: Decimal = Field(description="a fee is what the account pays, interest and dividend what it gets")
    kind: Literal["deposit", "withdrawal", "fee", "interest", "dividend"]
    reason: str = Field(default="", max_length=200)


class PositionCorrected(Body):
    """A position was changed by `size` at a price, as by a trade with the street that no order led to."""

    account: Account
    instrument: Symbol
    size: Decimal
    price: Decimal = Field(ge=0)
    reason: str = Field(default="", max_length=200)


def outcome_from_v1(body: dict[str, Any]) -> dict[str, Any]:
    """Outcomes did not say which input and number they answer; 0 stands for that."""
    return body | {"input": 0, "number": 0}


EVENTS = Registry()
EVENTS.register("command.outcome", 2, CommandOutcome)
EVENTS.upcast("command.outcome", 1, outcome_from_v1)
EVENTS.register("account.opened", 1, AccountOpened)
EVENTS.register("limits.set", 1, LimitsSet)
EVENTS.register("kill.switched", 1, KillSwitched)
EVENTS.register("account.configured", 1, AccountConfigured)
EVENTS.register("instrument.registered", 1, InstrumentRegistered)
EVENTS.register("strategy.started", 1, StrategyStarted)
EVENTS.register("strategy.stopped", 1, StrategyStopped)
EVENTS.register("strategy.configured", 1, StrategyConfigured)
EVENTS.register("cash.booked", 1, CashBooked)
EVENTS.register("position.corrected", 1, PositionCorrected)
