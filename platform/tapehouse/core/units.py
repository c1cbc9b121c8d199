"""Money, sizes and times: integers inside, exact decimals and ISO 8601 at the edges."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation, localcontext

from tapehouse.core.errors import DataError, UsageError

UNDEFINED = 2**63 - 1  # DBN's "no value" for a price, a size or a time
NS_PER_SECOND = 1_000_000_000
PRICE_EXPONENT = -9  # the default unit of a price is 10^-9, as in DBN
POWERS_OF_TEN = tuple(10**exponent for exponent in range(19))
_ISO = re.compile(r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)(?:\.(\d{1,9}))?)?(Z|[+-]\d{2}:?\d{2})?$")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_fixed(value: Decimal | int | str, exponent: int) -> int:
    """A decimal as an integer number of 10^exponent.

    Raises:
        DataError: It is no number, has more digits than the unit can hold, or does not fit 64 bits.
    """
    try:
        with localcontext() as context:
            context.prec = 60
            scaled = Decimal(value).scaleb(-exponent)
            if not scaled.is_finite() or scaled != scaled.to_integral_value():
                raise DataError(
                    f"{value} is no whole number of 10^{exponent}", hint="round it to the instrument's unit"
                )
            fixed = int(scaled)
    except InvalidOperation:
        raise DataError(f"{value!r} is no number") from None
    if not -(2**63) < fixed < UNDEFINED:
        raise DataError(f"{value} in units of 10^{exponent} does not fit 64 bits")
    return fixed


def from_fixed(fixed: int, exponent: int) -> Decimal:
    """The exact decimal that `fixed` units of 10^exponent stand for."""
    return Decimal(fixed).scaleb(exponent)


def parse_time_ns(value: str | int | datetime) -> int:
    """A time as UTC ns: ISO 8601 with a zone, integer ns, or an aware datetime (pandas' and polars' included).

    Raises:
        UsageError: It has no zone, or is none of these.
    """
    if isinstance(value, bool):
        raise UsageError(f"{value!r} is no time")
    if isinstance(value, int):
        return value
    nanosecond = getattr(value, "value", None)  # pandas.Timestamp counts ns itself
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise UsageError(f"{value} has no time zone", hint="use an aware datetime, such as UTC")
        if isinstance(nanosecond, int):
            return nanosecond
        delta = value - _EPOCH
        return (delta.days * 86_400 + delta.seconds) * NS_PER_SECOND + delta.microseconds * 1_000
    text = value.strip()
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    match = _ISO.match(text)
    if not match:
        raise UsageError(f"{value!r} is no time", hint="use ISO 8601, such as 2012-06-21T15:30:00Z, or integer ns")
    day, clock, fraction, zone = match.groups()
    if zone is None:
        raise UsageError(f"{value!r} has no time zone", hint="append Z for UTC")
    clock = clock or "00:00:00"
    clock = clock if clock.count(":") == 2 else clock + ":00"
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}+00:00")
    except ValueError as error:
        raise UsageError(f"{value!r} is no time: {error}") from None
    if zone != "Z":
        hours, minutes = int(zone[1:3]), int(zone[-2:])
        moment -= timedelta(hours=hours, minutes=minutes) * (1 if zone[0] == "+" else -1)
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * NS_PER_SECOND + int((fraction or "").ljust(9, "0"))


def format_time_ns(time_ns: int) -> str:
    """UTC ns as ISO 8601 with nanoseconds."""
    seconds, nanoseconds = divmod(time_ns, NS_PER_SECOND)
    moment = _EPOCH + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
