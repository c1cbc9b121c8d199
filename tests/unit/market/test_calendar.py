"""Sessions of real calendars, as nanoseconds."""

from __future__ import annotations

import builtins
from datetime import date, timedelta
from typing import Any

import pytest

from tapehouse.core import MissingError, UsageError
from tapehouse.core.units import parse_time_ns
from tapehouse.market import calendar
from tapehouse.market.calendar import check_calendar, sessions


def ns(text: str) -> int:
    return parse_time_ns(text)


def test_a_day_in_new_york() -> None:
    week = sessions("XNYS", date(2012, 7, 2), date(2012, 7, 6))
    assert week.days == ("2012-07-02", "2012-07-03", "2012-07-05", "2012-07-06"), "not on Independence Day"
    assert week.closes[1] == ns("2012-07-03T17:00:00Z"), "an early close"
    assert not week.is_open(ns("2012-07-02T13:29:59Z"))
    assert week.is_open(ns("2012-07-02T13:30:00Z"))
    assert not week.is_open(ns("2012-07-02T20:00:00Z"))
    assert week.session_at(ns("2012-07-04T15:00:00Z")) == "2012-07-05"
    assert week.next_close(ns("2012-07-04T15:00:00Z")) == ns("2012-07-05T20:00:00Z")
    assert week.session_at(ns("2012-07-07T00:00:00Z")) is None
    assert week.next_close(ns("2012-07-07T00:00:00Z")) is None
    assert not week.is_open(ns("2012-06-01T15:00:00Z"))


def test_a_session_across_midnight() -> None:
    days = sessions("CMES", date(2023, 12, 27), date(2023, 12, 27))
    assert days.days == ("2023-12-27",)
    assert days.opens[0] == ns("2023-12-26T23:00:00Z")


def test_a_market_that_never_closes() -> None:
    always = sessions("24/7", date(2024, 8, 3), date(2024, 8, 4))
    assert len(always.days) == 2
    assert always.is_open(ns("2024-08-04T23:59:59.999999999Z"))


def test_wrong_names_and_days() -> None:
    with pytest.raises(UsageError, match="no calendar 'XNYZ'") as caught:
        check_calendar("XNYZ")
    assert "XNYS" in str(caught.value.hint) or "XAMS" in str(caught.value.hint)
    assert check_calendar("XNYS") == "XNYS"
    with pytest.raises(UsageError, match="no days to ask for"):
        sessions("XNYS", date(2024, 1, 2), date(2024, 1, 1))
    with pytest.raises(UsageError, match="no days to ask for"):
        sessions("XNYS", date(1900, 1, 1), date(1900, 1, 1) + timedelta(days=calendar.DAYS_MAX))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("exchange_calendars"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingError) as caught:
        sessions("XNYS", date(2012, 7, 9), date(2012, 7, 9))
    assert "tapehouse[calendars]" in str(caught.value.hint)
