"""Money, sizes and times: integers inside, exact decimals and ISO 8601 at the edges."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, DecimalException, Inexact, localcontext
from operator import index
from typing import SupportsIndex

from tapehouse.core.errors import DataError, UsageError

UNDEFINED = 2**63 - 1  # DBN's "no value" for a price, a size or a time
NS_PER_SECOND = 1_000_000_000
PRICE_EXPONENT = -9  # the default unit of a price is 10^-9, as in DBN
POWERS_OF_TEN = tuple(10**exponent for exponent in range(19))
_FIXED_DIGITS_MAX = 19  # of a 64-bit integer
_ISO = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)(?:\.(\d{1,9}))?)?"
    r"(Z|[+-](?:[01]\d|2[0-3]):?[0-5]\d)?",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_fixed(value: Decimal | int | str, exponent: int) -> int:
    """A decimal as an integer number of 10^exponent.

    Raises:
        DataError: It is no number, has more digits than the unit can hold, or does not fit 64 bits.
    """
    try:
        with localcontext() as context:
            context.prec = 60
            context.traps[Inexact] = True
            number = Decimal(value)
            if not number.is_finite():
                raise DataError(f"{value!r} is no number")
            # Magnitudes first: the integer of 1E+999999 would be a million digits long.
            if number and number.adjusted() - exponent >= _FIXED_DIGITS_MAX:
                raise DataError(f"{value} in units of 10^{exponent} does not fit 64 bits")
            scaled = number.scaleb(-exponent)
            if scaled != scaled.to_integral_value():
                raise Inexact
            fixed = int(scaled)
    except Inexact:
        raise DataError(
            f"{value} is no whole number of 10^{exponent}", hint="round it to the instrument's unit"
        ) from None
    except (DecimalException, TypeError, ValueError):
        raise DataError(f"{value!r} is no number") from None
    if not -(2**63) < fixed < UNDEFINED:
        raise DataError(f"{value} in units of 10^{exponent} does not fit 64 bits")
    return fixed


def from_fixed(fixed: int, exponent: int) -> Decimal:
    """The exact decimal that `fixed` units of 10^exponent stand for, whatever the caller's decimal context."""
    return Decimal(f"{fixed}E{exponent}")


def parse_time_ns(value: str | int | datetime) -> int:
    """A time as UTC ns: ISO 8601 with a zone, integer ns, or an aware datetime (pandas' and polars' included).

    Raises:
        UsageError: It has no zone, is none of these, or is outside the years 1678 to 2262 that 64 bits hold.
    """
    time_ns = _time_ns(value)
    if not -(2**63) < time_ns < UNDEFINED:
        raise UsageError(f"{value!r} does not fit 64 bits of ns", hint="use a time between the years 1678 and 2262")
    return time_ns


def _time_ns(value: object) -> int:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise UsageError(f"{value} has no time zone", hint="use an aware datetime, such as UTC")
        nanosecond = getattr(value, "value", None)  # pandas.Timestamp counts ns itself
        if isinstance(nanosecond, int):
            return nanosecond
        return _since_epoch_ns(value)
    if isinstance(value, str):
        text = value.strip()
        return int(text) if re.fullmatch(r"-?\d{1,19}", text, re.ASCII) else _iso_ns(text)
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        return index(value)  # NumPy's integers as well as Python's
    raise UsageError(f"{value!r} is no time", hint="use ISO 8601, integer ns, or an aware datetime")


def _iso_ns(text: str) -> int:
    match = _ISO.fullmatch(text)
    if not match:
        raise UsageError(f"{text!r} is no time", hint="use ISO 8601, such as 2012-06-21T15:30:00Z, or integer ns")
    day, clock, fraction, zone = match.groups()
    if zone is None:
        raise UsageError(f"{text!r} has no time zone", hint="append Z for UTC")
    clock = clock or "00:00:00"
    clock = clock if clock.count(":") == 2 else clock + ":00"
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}+00:00")
    except ValueError as error:
        raise UsageError(f"{text!r} is no time: {error}") from None
    ahead_s = 0
    if zone != "Z":
        ahead_s = (int(zone[1:3]) * 3600 + int(zone[-2:]) * 60) * (1 if zone[0] == "+" else -1)
    return _since_epoch_ns(moment) - ahead_s * NS_PER_SECOND + int((fraction or "").ljust(9, "0"))


def _since_epoch_ns(moment: datetime) -> int:
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * NS_PER_SECOND + delta.microseconds * 1_000


def format_time_ns(time_ns: int) -> str:
    """UTC ns as ISO 8601 with nanoseconds."""
    seconds, nanoseconds = divmod(time_ns, NS_PER_SECOND)
    moment = _EPOCH + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
