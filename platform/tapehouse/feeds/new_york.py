"""Days of the US exchanges: midnight in New York, from which their times count."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tapehouse.core.errors import MissingError
from tapehouse.core.units import NS_PER_SECOND

UNKNOWN_DAY = date(1970, 1, 1)  # for a check, where nobody says the day


def midnight_ns(day: date) -> int:
    """Midnight of that day in New York, UTC ns; raises MissingError where the time zone is not known."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=_zone())
    return round(midnight.timestamp()) * NS_PER_SECOND


def day_of(ts: int) -> date:
    """The day in New York of a time in UTC ns, 0 to 2^63 - 1."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=ts // NS_PER_SECOND)).astimezone(_zone()).date()


def _zone() -> ZoneInfo:
    try:
        return ZoneInfo("America/New_York")
    except ZoneInfoNotFoundError as error:
        raise MissingError("the time zone America/New_York is not known here", hint="install tzdata") from error
