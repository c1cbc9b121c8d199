"""When a market is open: sessions of a trading calendar as integers, UTC ns.

The calendars are those of the package `exchange_calendars` (the extra `calendars`), by its names: `XNYS`, `CMES`,
`24/7` and a hundred more. Always say the days that are meant: what the package assumes depends on today.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import MissingError, UsageError

DAYS_MAX = 366 * 60  # of one table of sessions
SEARCH_DAYS = 14  # before and after the days asked for, so that a session across midnight is seen
Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """The sessions of a calendar over some days.

    Args:
        calendar: Its name.
        days: ISO days that the sessions are named by, ascending.
        opens, closes: Shape (n,) int64, UTC ns: a session lasts from an open to before its close. A break at noon,
            where a market has one, counts as open.
    """

    calendar: str
    days: tuple[str, ...]
    opens: Times
    closes: Times

    def is_open(self, time_ns: int) -> bool:
        """Whether a session is on at a time within the days."""
        at = int(np.searchsorted(self.opens, time_ns, side="right")) - 1
        return at >= 0 and time_ns < int(self.closes[at])

    def session_at(self, time_ns: int) -> str | None:
        """The day of the session that is on at a time, or else comes next; None after the last one."""
        at = int(np.searchsorted(self.closes, time_ns, side="right"))
        return self.days[at] if at < len(self.days) else None

    def next_close(self, time_ns: int) -> int | None:
        """When the session that is on at a time, or else comes next, ends; None after the last one."""
        at = int(np.searchsorted(self.closes, time_ns, side="right"))
        return int(self.closes[at]) if at < len(self.closes) else None


@lru_cache(maxsize=64)
def sessions(calendar: str, first: date, last: date) -> Sessions:
    """The sessions named by the days from `first` through `last`.

    Raises:
        MissingError: The package is not installed.
        UsageError: There is no such calendar, or the days are too many or out of order.
    """
    if not timedelta(0) <= last - first < timedelta(days=DAYS_MAX):
        raise UsageError(f"{first} to {last} are no days to ask for", hint=f"1 to {DAYS_MAX} days, the earlier first")
    package = _package()
    begin, end = first - timedelta(days=SEARCH_DAYS), last + timedelta(days=SEARCH_DAYS)
    try:
        found = package.get_calendar(calendar, start=begin.isoformat(), end=end.isoformat())
    except package.errors.InvalidCalendarName as error:
        near = ", ".join(sorted(name for name in package.get_calendar_names() if name[:1] == calendar[:1])[:12])
        raise UsageError(f"there is no calendar {calendar!r}", hint=f"one of {near}, …" if near else "") from error
    except ValueError as error:
        raise UsageError(f"the calendar {calendar} does not know these days: {error}") from error
    schedule = found.schedule.loc[first.isoformat() : last.isoformat()]
    return Sessions(
        calendar=calendar,
        days=tuple(day.date().isoformat() for day in schedule.index),
        opens=_nanoseconds(schedule["open"]),
        closes=_nanoseconds(schedule["close"]),
    )


def check_calendar(calendar: str) -> str:
    """The name itself; raises UsageError where there is no such calendar, MissingError where nobody can tell."""
    sessions(calendar, date(2024, 1, 2), date(2024, 1, 2))
    return calendar


def _nanoseconds(column: Any) -> Times:
    times: Times = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[ns]").astype(np.int64)
    return times


def _package() -> Any:
    try:
        import exchange_calendars
        import exchange_calendars.errors
    except ImportError as error:
        raise MissingError("trading calendars are not installed", hint="pip install 'tapehouse[calendars]'") from error
    return exchange_calendars
