"""Commands that steer a desk: limits, kill switch, accounts, instruments, the strategy, bookings, a ping."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tapehouse.desk.bodies import INT64_MAX, Account, Body, Symbol, Text, refuse
from tapehouse.desk.requests import SELF_MATCH_POLICIES
from tapehouse.log.envelope import Registry
from tapehouse.market.instrument_file import DeclaredInstrument

LOTS_MAX = 1 << 30
PPM_MAX = 1_000_000
PARAMETERS_MAX = 64
REASON_MAX = 200

Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
Lots = Annotated[int, Field(ge=0, le=LOTS_MAX)]
Fee = Annotated[int, Field(ge=-PPM_MAX, le=PPM_MAX)]
Amount = Annotated[Decimal, Field(allow_inf_nan=False)]
Parameter = Annotated[int, Field(strict=True, ge=-(2**63), le=INT64_MAX)]
assert SELF_MATCH_POLICIES == ("cancel_newest", "cancel_oldest", "cancel_both", "decrement")


class SetLimits(Body):
    """Set risk limits of an account, or of an account in one instrument; what is not given stays."""

    account: Account
    instrument: Symbol | None = Field(default=None, description="this one alone, beside the account's own limits")
    order_size: Lots | None = Field(default=None, description="of one order, in lots")
    position: Lots | None = Field(default=None, description="in one instrument, either way, in lots")
    notional: Decimal | None = Field(default=None, ge=0, description="of one order, in currency")
    open_orders: Count | None = None
    messages_per_second: Count | None = None
    price_band_ppm: Count | None = Field(default=None, description="around the last trade, in millionths of it")
    self_match: Literal["cancel_newest", "cancel_oldest", "cancel_both", "decrement"] | None = None

    @model_validator(mode="after")
    def _sets_something(self) -> SetLimits:
        if not self.given:
            refuse("no limit is given")
        return self

    @property
    def given(self) -> dict[str, int | Decimal | str]:
        """The limits that are set, by name."""
        fields = self.model_dump(exclude={"account", "instrument"})
        return {name: value for name, value in fields.items() if value is not None}


class SwitchKill(Body):
    """Stop new orders and cancel the working ones, of an account, the strategy or all; `on` false lets go again."""

    scope: Literal["account", "strategy", "all"]
    account: Account | None = Field(default=None, description="of scope account")
    on: bool = True

    @model_validator(mode="after")
    def _names_whom(self) -> SwitchKill:
        if (self.scope == "account") != (self.account is not None):
            refuse("scope account needs an account, the other scopes have none")
        return self


class KillAccount(Body):
    """Stop (or release) all new orders of an account and cancel its working ones; `kill.switch` does more."""

    account: Account
    on: bool = True


class OpenAccount(Body):
    """Give an account its number, so that orders in frames can name it; one that is open stays as it is."""

    account: Account


class ConfigureAccount(Body):
    """How positions of an account are kept, and what it pays; what is not given stays."""

    account: Account
    mode: Literal["netting", "hedging"] | None = None
    method: Literal["average", "fifo"] | None = None
    maker_fee_ppm: Fee | None = Field(default=None, description="millionths of the notional; negative: it is paid")
    taker_fee_ppm: Fee | None = None

    @model_validator(mode="after")
    def _sets_something(self) -> ConfigureAccount:
        if not self.model_dump(exclude={"account"}, exclude_none=True):
            refuse("nothing to configure: give mode, method, maker_fee_ppm or taker_fee_ppm")
        return self


class RegisterInstrument(DeclaredInstrument):
    """Define an instrument on the tape; on venue "internal" accounts trade with each other."""


class StartStrategy(Body):
    """Have the desk's strategy called again."""

    strategy: Text | None = Field(default=None, max_length=64, description="refuse the command where another runs")


class StopStrategy(Body):
    """Have the desk's strategy called no more until it is started."""

    strategy: Text | None = Field(default=None, max_length=64, description="refuse the command where another runs")
    cancel_orders: bool = Field(default=True, description="cancel its working orders")


class ConfigureStrategy(Body):
    """Change parameters of the desk's strategy while it runs."""

    parameters: dict[Annotated[str, Field(min_length=1, max_length=64)], Parameter] = Field(
        min_length=1, max_length=PARAMETERS_MAX, description="integers by name"
    )
    strategy: Text | None = Field(default=None, max_length=64, description="refuse the command where another runs")


class BookCash(Body):
    """Book cash to an account or out of it, against the account `external`."""

    account: Account
    currency: str = Field(pattern=r"^[A-Za-z0-9]{1,16}$")
    amount: Amount = Field(description="a fee is what the account pays, interest and dividend what it gets")
    kind: Literal["deposit", "withdrawal", "fee", "interest", "dividend"] = "deposit"
    reason: Text = Field(default="", max_length=REASON_MAX)

    @model_validator(mode="after")
    def _books_something(self) -> BookCash:
        if self.amount == 0 or (self.amount < 0 and self.kind in ("deposit", "withdrawal")):
            refuse(f"a {self.kind} of {self.amount}")
        return self


class CorrectPosition(Body):
    """Change an account's position by a size at a price, as by a trade with the street that no order led to."""

    account: Account
    instrument: Symbol
    size: Amount = Field(description="to be added; negative: to be taken away")
    price: Amount = Field(ge=0, description="0 where nothing was paid")
    reason: Text = Field(default="", max_length=REASON_MAX)

    @model_validator(mode="after")
    def _corrects_something(self) -> CorrectPosition:
        if self.size == 0:
            refuse("a size of nothing")
        return self


class Ping(Body):
    """Change nothing; the outcome says how far the desk is."""


def register(registry: Registry) -> None:
    """Register the commands of this file."""
    registry.register("risk.set_limits", 1, SetLimits)
    registry.register("kill.switch", 1, SwitchKill)
    registry.register("account.kill", 1, KillAccount)
    registry.register("account.open", 1, OpenAccount)
    registry.register("account.configure", 1, ConfigureAccount)
    registry.register("instrument.register", 1, RegisterInstrument)
    registry.register("strategy.start", 1, StartStrategy)
    registry.register("strategy.stop", 1, StopStrategy)
    registry.register("strategy.configure", 1, ConfigureStrategy)
    registry.register("cash.book", 1, BookCash)
    registry.register("position.correct", 1, CorrectPosition)
    registry.register("desk.ping", 1, Ping)
