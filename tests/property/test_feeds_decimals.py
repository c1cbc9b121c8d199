"""Decimal text into fixed-point integers, against Python's decimals."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapehouse.feeds.decimals import NO_NUMBER, NOT_EXACT, TOO_LARGE, parse_decimal

SPARE = b",7]"  # what follows a number in a file


def parsed(text: bytes, exponent: int, *, after: bytes = SPARE) -> tuple[int, int, int]:
    """Where the number ended, its value and its decimals."""
    data = np.frombuffer(text + after, np.uint8)
    value = np.zeros(2, np.int64)
    end = int(parse_decimal(data, 0, len(data), exponent, value))
    return end, int(value[0]), int(value[1])


def decimals(number: Decimal) -> int:
    """How many decimals a number needs; negative where it is a multiple of ten, 0 for zero."""
    exponent = number.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return -exponent if number else 0


NUMBERS = st.from_regex(rb"[+-]?([0-9]{1,22}(\.[0-9]{0,22})?|\.[0-9]{1,22})([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@settings(deadline=None)  # The kernel may have to be compiled first.
@given(text=NUMBERS, exponent=st.integers(-18, 18))
@example(text=b"0.10", exponent=-1)
@example(text=b"-0.0", exponent=-9)
@example(text=b"100", exponent=2)
@example(text=b"1e-7", exponent=-7)
@example(text=b"999999999999999999", exponent=0)
@example(text=b"000000000000000000000000001", exponent=0)
def test_what_is_read_is_exact_or_refused(text: bytes, exponent: int) -> None:
    number = Decimal(text.decode())
    scaled = number.scaleb(-exponent)
    end, value, places = parsed(text, exponent)
    digits = len(number.normalize().as_tuple().digits)
    if end > 0:
        assert end == len(text)
        assert value == scaled
        assert places == decimals(number)
    elif end == -NOT_EXACT:
        assert scaled != scaled.to_integral_value() or digits > 18
    else:
        assert end == -TOO_LARGE
        assert abs(scaled) >= 10**18 or digits > 18
    if digits <= 18 and abs(scaled) < 10**18 and scaled == scaled.to_integral_value():
        assert end > 0, "what fits is read"


@settings(deadline=None)
@given(text=st.binary(max_size=40), exponent=st.integers(-18, 18))
def test_no_text_leads_outside(text: bytes, exponent: int) -> None:
    end, _, _ = parsed(text, exponent, after=b"")
    assert -3 <= end <= len(text)
    assert end != 0


@pytest.mark.parametrize("text", [b"", b"-", b"+", b".", b"e5", b"1e", b"1e+", b"abc", b'"1"', b"--1"])
def test_what_is_no_number_is_none(text: bytes) -> None:
    assert parsed(text, -9, after=b"")[0] == -NO_NUMBER


def test_a_number_ends_where_it_ends() -> None:
    assert parsed(b"1.2.3", -9)[:2] == (3, 1_200_000_000)
    assert parsed(b"5-3", 0)[:2] == (1, 5)
