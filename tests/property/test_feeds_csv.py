"""The byte parser says what Python's own parsing says, whatever the chunks are."""

from __future__ import annotations

import io
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError
from tapehouse.feeds.csv_rows import CsvRows, paired

numbers = st.integers(-(10**18) + 1, 10**18 - 1)
seconds = st.builds(
    lambda whole, fraction: f"{whole}.{fraction}" if fraction else str(whole),
    st.integers(0, 86_400),
    st.text("0123456789", max_size=14),
)


class Dribble(io.RawIOBase):
    """A stream that gives a few bytes at a time, as sockets and decompressors do."""

    def __init__(self, data: bytes, size: int) -> None:
        self._inner = io.BytesIO(data)
        self._size = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        got = self._inner.read(min(self._size, len(view)))
        view[: len(got)] = got
        return len(got)


def read_all(reader: CsvRows) -> list[list[int]]:
    rows: list[list[int]] = []
    while len(block := reader.read()):
        rows += block.tolist()
    return rows


@settings(max_examples=150, deadline=None)
@given(
    table=st.integers(1, 6).flatmap(
        lambda width: st.lists(st.lists(numbers, min_size=width, max_size=width), min_size=1, max_size=30)
    ),
    size=st.integers(1, 64),
    ending=st.sampled_from(["\n", "\r\n"]),
    ended=st.booleans(),
)
def test_rows_of_integers(table: list[list[int]], size: int, ending: str, ended: bool) -> None:
    text = ending.join(",".join(map(str, row)) for row in table) + (ending if ended else "")
    reader = CsvRows(Dribble(text.encode(), size), "file", columns=None, times=False)  # type: ignore[arg-type]
    assert reader.columns == len(table[0])
    assert read_all(reader) == table


@settings(max_examples=150, deadline=None)
@given(st.lists(seconds, min_size=1, max_size=30))
def test_times_are_exact_to_the_nanosecond(times: list[str]) -> None:
    data = "".join(f"{time},1\n" for time in times).encode()
    rows = read_all(CsvRows(io.BytesIO(data), "file", columns=2, times=True))
    assert [row[0] for row in rows] == [int(Decimal(time) * 10**9) for time in times]


@settings(max_examples=200, deadline=None)
@given(
    rows=st.integers(1, 20),
    place=st.integers(0, 10**6),
    letter=st.sampled_from(list(b'x-+ .,\n\t\x00e"')),
)
def test_a_foreign_letter_is_refused_or_leaves_a_table(rows: int, place: int, letter: int) -> None:
    """Put one byte anywhere: either the right line is refused, or what is left is a table that Python reads alike."""
    data = bytearray(b"".join(b"%d,22,-333\n" % (10 + row) for row in range(rows)))
    data[place % len(data)] = letter
    line = data[: place % len(data)].count(b"\n") + 1
    refused = ""
    try:
        got = read_all(CsvRows(io.BytesIO(bytes(data)), "file", columns=3, times=False))
    except DecodeError as error:
        refused = error.position
    if refused:
        assert refused in (f"line {line}", f"line {line + 1}")
        return
    assert got == [[int(field) for field in text.split(",")] for text in data.decode().splitlines()]


@settings(max_examples=50, deadline=None)
@given(first=st.integers(1, 9000), second=st.integers(1, 9000))
def test_files_that_go_together_line_by_line(first: int, second: int) -> None:
    readers = [CsvRows(io.BytesIO(b"7\n" * n), f"{n}.csv", columns=1, times=False) for n in (first, second)]
    seen = 0
    blamed = None
    try:
        for left, right in paired(*readers):
            assert len(left) == len(right)
            seen += len(left)
    except DecodeError as error:
        blamed = error.subject
    assert seen == min(first, second)
    assert blamed == (None if first == second else f"{min(first, second)}.csv")


def test_nothing_is_lost_over_many_chunks() -> None:
    table = np.arange(300_000, dtype=np.int64).reshape(-1, 3) * 7_919
    data = "\n".join(",".join(map(str, row)) for row in table.tolist()).encode()
    assert len(data) > 2 << 20
    assert read_all(CsvRows(io.BytesIO(data), "file", columns=3, times=False)) == table.tolist()


def test_an_endless_line_is_refused() -> None:
    with pytest.raises(DecodeError, match="longer than"):
        read_all(CsvRows(io.BytesIO(b"1,2\n" + b"1" * 3_000_000), "file", columns=2, times=False))
