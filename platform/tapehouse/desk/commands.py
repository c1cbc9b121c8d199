"""The commands that anyone may send, and the events that answer them; pydantic at the edge, versioned in a registry."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tapehouse.log.envelope import Registry

ACCOUNT_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,31}$"


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SubmitOrder(_Body):
    """Send a limit order."""

    instrument: str = Field(min_length=1, max_length=64, description="the venue's symbol")
    side: Literal["buy", "sell"]
    price: Decimal = Field(gt=0, description="in currency, a whole number of ticks")
    size: Decimal = Field(gt=0)
    time_in_force: Literal["gtc", "ioc", "post_only"] = "gtc"
    account: str = Field(default="manual", pattern=ACCOUNT_PATTERN)


class CancelOrder(_Body):
    """Cancel one working order."""

    instrument: str = Field(min_length=1, max_length=64)
    order_id: int = Field(ge=0, le=2**63 - 1)
    account: str = Field(default="manual", pattern=ACCOUNT_PATTERN)


class SwitchKill(_Body):
    """Stop (or release) all new orders of an account and cancel its working ones."""

    account: str = Field(pattern=ACCOUNT_PATTERN)
    on: bool = True


class OpenAccount(_Body):
    """Give an account its number, so that orders in frames can name it; one that is open stays as it is."""

    account: str = Field(pattern=ACCOUNT_PATTERN)


class CommandOutcome(_Body):
    """What became of a command."""

    outcome: Literal["accepted", "rejected", "repeated", "expired"]
    reason: str = ""
    order_id: int = 0
    position: int = 0
    first: str = ""


class AccountOpened(_Body):
    """An account was named for the first time; records call it by its number from now on."""

    account: str = Field(pattern=ACCOUNT_PATTERN)
    number: int = Field(ge=0)


COMMANDS = Registry()
COMMANDS.register("order.submit", 1, SubmitOrder)
COMMANDS.register("order.cancel", 1, CancelOrder)
COMMANDS.register("account.kill", 1, SwitchKill)
COMMANDS.register("account.open", 1, OpenAccount)

EVENTS = Registry()
EVENTS.register("command.outcome", 1, CommandOutcome)
EVENTS.register("account.opened", 1, AccountOpened)
