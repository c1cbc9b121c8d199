"""Commands on orders: submit, replace, cancel one, cancel many; their earlier versions, and how those are read now.

A body of an earlier version is checked by the model of its time before it is upcast, so what was refused then, and the
words it was refused with, stay as they were.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

from pydantic import Field, model_validator

from tapehouse.desk.bodies import ACCOUNT_PATTERN, TAG_MAX, Account, Body, OrderId, Symbol, Text, Time, refuse
from tapehouse.log.envelope import Registry, validate

Fields = dict[str, Any]

_STOPS = ("stop", "stop_limit")
_LIMITED = ("limit", "stop_limit")
_AT_ONCE = ("ioc", "fok")


class SubmitOrder(Body):
    """Send an order."""

    instrument: Symbol = Field(description="the venue's symbol")
    side: Literal["buy", "sell"]
    type: Literal["limit", "market", "stop", "stop_limit"] = "limit"
    price: Decimal | None = Field(default=None, gt=0, description="of limit and stop_limit; a whole number of ticks")
    stop: Decimal | None = Field(default=None, gt=0, description="of stop and stop_limit: the trade that wakes it")
    size: Decimal = Field(gt=0)
    display: Decimal | None = Field(default=None, gt=0, description="of an iceberg: what is shown at a time")
    time_in_force: Literal["gtc", "day", "gtd", "ioc", "fok"] | None = Field(
        default=None, description="gtc unless said; of a market order ioc"
    )
    expires_at: Time | None = Field(default=None, description="of gtd: ISO 8601 or UTC ns")
    post_only: bool = False
    reduce_only: bool = False
    account: Account = "manual"
    tag: Text = Field(default="", max_length=TAG_MAX, description="your own words, in the outcome")

    @model_validator(mode="after")
    def _fits_together(self) -> SubmitOrder:
        limited, waits = self.type in _LIMITED, self.type in _STOPS
        if limited and self.price is None:
            refuse(f"a {self.type} order needs a price")
        if not limited and self.price is not None:
            refuse(f"a {self.type} order has no price")
        if waits and self.stop is None:
            refuse(f"a {self.type} order needs a stop")
        if not waits and self.stop is not None:
            refuse(f"a {self.type} order has no stop: send stop or stop_limit")
        if self.type == "market" and self.in_force not in _AT_ONCE:
            refuse(f"a market order never rests: time_in_force is ioc or fok, not {self.in_force}")
        if waits and self.in_force in _AT_ONCE:
            refuse(f"a {self.type} order waits: time_in_force is gtc, day or gtd, not {self.in_force}")
        if self.in_force == "gtd" and self.expires_at is None:
            refuse("a gtd order needs expires_at")
        if self.in_force != "gtd" and self.expires_at is not None:
            refuse("expires_at is of gtd orders alone")
        if self.post_only and (self.type != "limit" or self.in_force in _AT_ONCE):
            refuse("a post_only order is a limit order that may rest: no market, stop, ioc or fok")
        if self.display is not None:
            self._shown_in_part(self.display)
        return self

    def _shown_in_part(self, display: Decimal) -> None:
        if self.type not in _LIMITED or self.in_force in _AT_ONCE:
            refuse("display is of limit orders that may rest: no market, stop, ioc or fok")
        if display > self.size:
            refuse("display is larger than size")

    @property
    def in_force(self) -> str:
        """The time in force, said or usual."""
        return self.time_in_force or ("ioc" if self.type == "market" else "gtc")


class ReplaceOrder(Body):
    """Change a working order; what is not given stays. Only a smaller size keeps its place in the queue."""

    order_id: OrderId
    instrument: Symbol | None = Field(default=None, description="refuse the command where the order is of another")
    price: Decimal | None = Field(default=None, gt=0)
    size: Decimal | None = Field(default=None, gt=0, description="all that may still be filled")
    stop: Decimal | None = Field(default=None, gt=0)
    display: Decimal | None = Field(default=None, gt=0)
    account: Account = "manual"
    tag: Text = Field(default="", max_length=TAG_MAX)

    @model_validator(mode="after")
    def _changes_something(self) -> ReplaceOrder:
        if (self.price, self.size, self.stop, self.display) == (None, None, None, None):
            refuse("nothing to change: give price, size, stop or display")
        return self


class CancelOrder(Body):
    """Cancel one working order."""

    order_id: OrderId
    instrument: Symbol | None = Field(default=None, description="refuse the command where the order is of another")
    account: Account = "manual"


class MassCancel(Body):
    """Cancel all working orders, or those of an account, an instrument or a side."""

    account: Account | None = None
    instrument: Symbol | None = None
    side: Literal["buy", "sell"] | None = None


# What the first versions were.


class SubmitOrderV1(Body):
    """`order.submit`, version 1."""

    instrument: str = Field(min_length=1, max_length=64)
    side: Literal["buy", "sell"]
    price: Decimal = Field(gt=0)
    size: Decimal = Field(gt=0)
    time_in_force: Literal["gtc", "ioc", "post_only"] = "gtc"
    account: str = Field(default="manual", pattern=ACCOUNT_PATTERN)


class CancelOrderV1(Body):
    """`order.cancel`, version 1."""

    instrument: str = Field(min_length=1, max_length=64)
    order_id: int = Field(ge=0, le=2**63 - 1)
    account: str = Field(default="manual", pattern=ACCOUNT_PATTERN)


def submit_from_v1(body: Fields) -> Fields:
    """Post-only was a time in force; now it is a flag of an order that is good till cancelled."""
    validate(SubmitOrderV1, body, subject="order.submit")
    body["type"] = "limit"
    if body.setdefault("time_in_force", "gtc") == "post_only":
        body["time_in_force"], body["post_only"] = "gtc", True
    return body


def submit_from_v2(body: Fields) -> Fields:
    """Orders had no tag."""
    if "tag" in body:
        raise ValueError("tag is a field of version 3")
    body["tag"] = ""
    return body


def cancel_from_v1(body: Fields) -> Fields:
    """An instrument had to be named."""
    validate(CancelOrderV1, body, subject="order.cancel")
    return body


def register(registry: Registry) -> None:
    """Register the commands of this file with their upcasters."""
    registry.register("order.submit", 3, SubmitOrder)
    registry.upcast("order.submit", 1, submit_from_v1)
    registry.upcast("order.submit", 2, submit_from_v2)
    registry.register("order.replace", 1, ReplaceOrder)
    registry.register("order.cancel", 2, CancelOrder)
    registry.upcast("order.cancel", 1, cancel_from_v1)
    registry.register("order.mass_cancel", 1, MassCancel)
