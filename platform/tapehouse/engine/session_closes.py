"""When instruments' sessions close: the sequencer asks their calendars and tells the tape by a new revision.

So DAY orders end by what stands on the tape, and an engine needs no calendar: a replay ends them at the same cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tapehouse.core.errors import MissingError, UsageError
from tapehouse.core.units import NS_PER_SECOND, UNDEFINED
from tapehouse.market import Instrument
from tapehouse.market.calendar import sessions

DAYS_AHEAD = 31  # looked through for the next close; a market that is shut for longer is asked again after them


class SessionCloses:
    """Which instruments are due for a new revision. Cheap to ask: most times one comparison."""

    def __init__(self) -> None:
        self._next = 0  # nothing is due before this time
        self._seen = 0  # of that many instruments
        self._unknown: set[str] = set()  # calendars that nobody here knows

    def due(self, now: int, instruments: Mapping[int, Instrument]) -> bool:
        """Whether `revisions` may find something; at 0 no time has come yet."""
        return now > 0 and (now >= self._next or len(instruments) != self._seen)

    def forget(self) -> None:
        """An instrument's calendar may have changed: look at all of them again."""
        self._next = 0

    @property
    def unknown(self) -> int:
        """Calendars that nobody here knows: DAY orders in them end only when they are cancelled."""
        return len(self._unknown)

    def revisions(self, now: int, instruments: Mapping[int, Instrument]) -> list[Instrument]:
        """New revisions of instruments whose session is over, with the close of the one that is on at `now` or next.

        An instrument without a calendar, or of one that nobody here knows, never has any.
        """
        made = []
        self._next, self._seen = UNDEFINED, len(instruments)
        for instrument in instruments.values():
            if not instrument.calendar or instrument.calendar in self._unknown:
                continue
            close = instrument.session_close_ns
            if close <= now:
                close = self._next_close(instrument.calendar, now) or 0
                if close:
                    made.append(replace(instrument, session_close_ns=close, revision=instrument.revision + 1))
            retry = now + DAYS_AHEAD * 86_400 * NS_PER_SECOND
            self._next = min(self._next, close or retry)
        return made

    def _next_close(self, calendar: str, now: int) -> int | None:
        """The end of the session that is on or comes next; None where there is none within DAYS_AHEAD."""
        today = datetime.fromtimestamp(now // NS_PER_SECOND, UTC).date()
        try:
            # From the day before: a session may have begun then, and be named by it.
            found = sessions(calendar, today - timedelta(days=1), today + timedelta(days=DAYS_AHEAD))
        except (MissingError, UsageError):  # Counted in `unknown`, for the host's metrics.
            self._unknown.add(calendar)
            return None
        return found.next_close(now)


__all__ = ["SessionCloses"]
