"""Fixed-point numbers and times: exact, or refused with words."""

from __future__ import annotations

import decimal
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import UNDEFINED, DataError, UsageError, format_time_ns, from_fixed, parse_time_ns, to_fixed
from tapehouse.core.units import POWERS_OF_TEN

FIXED = st.integers(-(2**63) + 1, UNDEFINED - 1)


@given(fixed=FIXED, exponent=st.integers(-18, 9))
@settings(deadline=None)
def test_fixed_comes_back_and_is_exact(fixed: int, exponent: int) -> None:
    value = from_fixed(fixed, exponent)
    assert Fraction(value) == Fraction(fixed) * Fraction(10) ** exponent
    assert to_fixed(value, exponent) == fixed
    assert to_fixed(f"{value:f}", exponent) == fixed


@given(fixed=FIXED, exponent=st.integers(-18, 9))
@settings(deadline=None)
def test_the_callers_decimal_context_changes_nothing(fixed: int, exponent: int) -> None:
    with decimal.localcontext() as context:
        context.prec = 3
        value = from_fixed(fixed, exponent)
        assert to_fixed(value, exponent) == fixed
    assert value == from_fixed(fixed, exponent)


@given(text=st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=-(10**6), max_value=10**6))
@settings(deadline=None)
def test_what_the_unit_cannot_hold_is_refused_never_rounded(text: Decimal) -> None:
    scaled = Fraction(text) * 10**9
    if scaled.denominator == 1:
        assert to_fixed(text, -9) == scaled
    else:
        with pytest.raises(DataError, match="no whole number of 10\\^-9"):
            to_fixed(text, -9)


@pytest.mark.parametrize(
    ("value", "exponent", "fixed"),
    [
        ("585.33", -2, 58533),
        ("-0.000000001", -9, -1),
        ("1e3", 0, 1000),
        ("1500", 3, None),
        ("15000", 3, 15),
        (7, -9, 7_000_000_000),
        ("9223372036854775806", 0, 2**63 - 2),
        ("-9223372036854775807", 0, -(2**63) + 1),
        ("0E+999999", 0, 0),
        ("0." + "0" * 400, -9, 0),
        ("1." + "0" * 400, -9, 10**9),
    ],
)
def test_known_values(value: str | int, exponent: int, fixed: int | None) -> None:
    if fixed is None:
        with pytest.raises(DataError):
            to_fixed(value, exponent)
    else:
        assert to_fixed(value, exponent) == fixed


@pytest.mark.parametrize("value", ["9223372036854775807", "-9223372036854775808", "1E+999999", "-1E+300000", 10**40])
def test_what_does_not_fit_64_bits_is_refused_at_once(value: str | int) -> None:
    with pytest.raises(DataError, match="does not fit 64 bits"):
        to_fixed(value, 0)


@pytest.mark.parametrize("value", ["1." + "0" * 65 + "1", "1E-999999", "0.5"])
def test_digits_beyond_any_precision_are_not_lost_silently(value: str) -> None:
    with pytest.raises(DataError, match="no whole number"):
        to_fixed(value, 0)


@pytest.mark.parametrize("value", ["", "abc", "1,5", "NaN", "sNaN", "Infinity", "-Infinity", None, (1, 2), "--1"])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="no number"):
        to_fixed(value, -9)  # type: ignore[arg-type]


def test_powers_are_exact() -> None:
    assert tuple(int(f"1{'0' * zeros}") for zeros in range(19)) == POWERS_OF_TEN


NOON = 1_340_280_000_123_456_789  # 2012-06-21T12:00:00.123456789Z


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2012-06-21T12:00:00.123456789Z", NOON),
        ("2012-06-21 12:00:00.123456789Z", NOON),
        (" 2012-06-21T08:00:00.123456789-04:00 ", NOON),
        ("2012-06-21T17:30:00.123456789+0530", NOON),
        ("2012-06-21T12:00:00.123456789+00:00", NOON),
        ("2012-06-21T12:00:00Z", NOON - 123_456_789),
        ("2012-06-21T12:00Z", NOON - 123_456_789),
        ("2012-06-21T12:00:00.5Z", NOON + 376_543_211),
        ("2012-06-21Z", NOON - NOON % 86_400_000_000_000),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("1970-01-01T00:00:00Z", 0),
        (str(NOON), NOON),
        ("-5", -5),
        (NOON, NOON),
        (0, 0),
        (np.int64(NOON), NOON),
        (datetime(2012, 6, 21, 12, 0, 0, 123_456, UTC), NOON - 789),
        (datetime(2012, 6, 21, 8, 0, 0, 123_456, timezone(timedelta(hours=-4))), NOON - 789),
        (pl.Series(["2012-06-21T12:00:00Z"]).str.to_datetime(time_zone="UTC")[0], NOON - 123_456_789),
    ],
)
def test_times(value: object, expected: int) -> None:
    assert parse_time_ns(value) == expected  # type: ignore[arg-type]


class Timestamp(datetime):
    """As pandas has it: a datetime that counts ns itself."""

    value = NOON


def test_a_timestamp_that_counts_nanoseconds_keeps_them() -> None:
    assert parse_time_ns(Timestamp(2012, 6, 21, 12, 0, 0, 123_456, UTC)) == NOON
    with pytest.raises(UsageError, match="no time zone"):
        parse_time_ns(Timestamp(2012, 6, 21, 12))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2012-06-21T12:00:00", "append Z for UTC"),
        ("2012-06-21", "append Z for UTC"),
        (datetime(2012, 6, 21), "no time zone"),
        ("2012-13-01T00:00:00Z", "no time"),
        ("2012-02-30T00:00:00Z", "no time"),
        ("2012-06-21T12:61:00Z", "no time"),
        ("2012-06-21T12:00:00+24:00", "no time"),
        ("2012-06-21T12:00:00+05:60", "no time"),
        ("2012-06-21T12:00:00.1234567891Z", "no time"),
        ("yesterday", "no time"),
        ("", "no time"),
        (True, "no time"),
        (None, "no time"),
        (1.5, "no time"),
        (np.datetime64("2012-06-21"), "no time"),
        ("0001-01-01T00:00:00+14:00", "between the years"),
        ("9999-12-31T23:59:59Z", "between the years"),
        (2**63 - 1, "between the years"),
        (-(2**63), "between the years"),
        ("9" * 19, "between the years"),
        ("9" * 5000, "no time"),
        ("٢٠١٢-٠٦-٢١T12:00:00Z", "no time"),
    ],
)
def test_what_is_no_time_is_refused_with_words(value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_time_ns(value)  # type: ignore[arg-type]


@given(time_ns=FIXED)
@settings(deadline=None)
def test_times_come_back(time_ns: int) -> None:
    text = format_time_ns(time_ns)
    assert parse_time_ns(text) == time_ns
    assert parse_time_ns(str(time_ns)) == time_ns
    assert (text < format_time_ns(time_ns + 1)) is True
