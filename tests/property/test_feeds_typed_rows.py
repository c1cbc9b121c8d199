"""Typed CSV rows say what splitting and Python's decimals say, whatever the chunks are."""

from __future__ import annotations

import io
from contextlib import suppress
from datetime import datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError, parse_time_ns
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.typed_rows import DoesNotFitError, Texts, Type, TypedRows
from tests.property.test_feeds_csv import Dribble

EXPONENT = -6
NUMBERS = st.decimals(-(10**9), 10**9, places=6, allow_nan=False).map(str)
FIELDS = {
    Type.SKIP: st.text("abc -.", max_size=6),
    Type.NUMBER: NUMBERS,
    Type.NUMBER_OR_EMPTY: st.one_of(st.just(""), NUMBERS),
    Type.TEXT: st.text("abXY019-_é", max_size=20),
    Type.ID: st.one_of(st.integers(0, 10**18 - 1).map(str), st.text("0a-", max_size=25)),
}
TABLES = st.lists(st.sampled_from(list(FIELDS)), min_size=1, max_size=7).flatmap(
    lambda types: st.tuples(
        st.just(types),
        st.lists(st.tuples(*(FIELDS[each] for each in types)), min_size=1, max_size=25),
    )
)


def meaning(kind: Type, text: str, value: int, texts: Texts) -> bool:
    """Whether a value is what a text means."""
    if kind == Type.SKIP:
        return True
    if kind == Type.TEXT:
        return texts[value] == text
    if kind == Type.ID:
        return value == (int(text) if text.isdigit() and len(text) <= 18 else 0)
    if text == "":
        return value == UNDEFINED
    return Decimal(value).scaleb(EXPONENT) == Decimal(text)


@settings(deadline=None, max_examples=120)
@given(table=TABLES, size=st.integers(1, 64), ending=st.sampled_from(["\n", "\r\n"]), ended=st.booleans())
def test_rows_mean_what_their_texts_mean(
    table: tuple[list[Type], list[tuple[str, ...]]], size: int, ending: str, ended: bool
) -> None:
    types, lines = table
    if len(types) == 1:
        lines = [line for line in lines if line[0]] or [("1",)]
    if len(types) == 1 and types[0] in (Type.NUMBER, Type.NUMBER_OR_EMPTY):
        lines = [line for line in lines if line[0]]
    header = ",".join(f"c{at}" for at in range(len(types)))
    data = ending.join([header, *map(",".join, lines)]) + (ending if ended else "")
    rows = TypedRows(Dribble(data.encode(), size), "file", header=True)
    texts = Texts()
    rows.begin(types, [EXPONENT] * len(types), texts)
    got: list[list[int]] = []
    while len(block := rows.read()):
        got += block.tolist()
    assert len(got) == len(lines)
    for line, values in zip(lines, got, strict=True):
        assert all(meaning(*each, texts) for each in zip(types, line, values, strict=True))


@settings(deadline=None, max_examples=150)
@given(
    moment=st.datetimes(datetime(1970, 1, 1), datetime(2261, 12, 31)),
    zone=st.sampled_from(["", "Z", "+00:00", "-05:30", "+14:00"]),
    letter=st.sampled_from("T "),
    nanoseconds=st.integers(0, 999),
)
def test_times_are_what_the_calendar_says(moment: datetime, zone: str, letter: str, nanoseconds: int) -> None:
    text = f"{moment.strftime('%Y-%m-%d')}{letter}{moment.strftime('%H:%M:%S')}"
    text += f".{moment.microsecond * 1000 + nanoseconds:09}{zone}"
    rows = TypedRows(io.BytesIO(text.encode()), "file", header=False)  # type: ignore[arg-type]
    rows.begin([Type.ISO], [0], Texts())
    assert rows.read().tolist() == [[parse_time_ns(text if zone else f"{text}Z")]]


@settings(deadline=None, max_examples=100)
@given(nanoseconds=st.integers(0, 2**62), decimals=st.sampled_from([0, 3, 6, 9]))
def test_epochs_of_any_unit_are_exact(nanoseconds: int, decimals: int) -> None:
    text = f"{Decimal(nanoseconds).scaleb(-decimals):f}"
    rows = TypedRows(io.BytesIO(text.encode()), "file", header=False)  # type: ignore[arg-type]
    rows.begin([Type.EPOCH], [-decimals], Texts())
    if nanoseconds < 2**62 - 10**9:
        assert rows.read().tolist() == [[nanoseconds]]
    rows = TypedRows(io.BytesIO(f"{text}.0000000001".encode()), "file", header=False)  # type: ignore[arg-type]
    rows.begin([Type.EPOCH], [-decimals], Texts())
    with pytest.raises(DecodeError):
        rows.read()


@pytest.mark.parametrize(
    "text", ["2013-02-29 00:00:00", "2013-01-01", "2013-01-01 24:00:00", "2013-01-01T00:00:00.", "2013-01-01T00:00:00x"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    rows = TypedRows(io.BytesIO(text.encode()), "file", header=False)  # type: ignore[arg-type]
    rows.begin([Type.ISO], [0], Texts())
    with pytest.raises(DecodeError, match="ISO 8601"):
        rows.read()


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=200), types=st.lists(st.sampled_from(list(Type)), min_size=1, max_size=4))
def test_any_bytes_are_refused_or_read(data: bytes, types: list[Type]) -> None:
    with suppress(DecodeError):
        rows = TypedRows(io.BytesIO(data), "file", header=False)  # type: ignore[arg-type]
        rows.begin(types, [0] * len(types), Texts())
        while len(block := rows.read()):
            assert block.shape[1] == len(types)


def test_a_number_that_does_not_fit_names_its_column_and_line() -> None:
    rows = TypedRows(io.BytesIO(b"a,b\n1,2\n1,2.5\n"), "file", header=True)  # type: ignore[arg-type]
    rows.begin([Type.NUMBER, Type.NUMBER], [0, 0], Texts())
    assert rows.read().tolist() == [[1, 2]]
    with pytest.raises(DoesNotFitError, match="b: the number has more decimals") as caught:
        rows.read()
    assert (caught.value.column, caught.value.position) == (1, "line 3")


def test_many_texts_keep_their_numbers_and_end_at_a_bound() -> None:
    names = [f"name-{at}" for at in range(16_384)]
    data = "\n".join([*names, *names, "one too many"]).encode()
    rows = TypedRows(io.BytesIO(data), "file", header=False)  # type: ignore[arg-type]
    texts = Texts()
    rows.begin([Type.TEXT], [0], texts)
    got: list[int] = []
    while len(got) < 2 * len(names):
        got += rows.read()[:, 0].tolist()
    with pytest.raises(DecodeError, match="different texts"):
        rows.read()
    assert got == list(range(16_384)) * 2
    assert [texts[at] for at in range(len(texts))] == names
