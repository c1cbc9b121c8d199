"""Rows of integers out of CSV bytes, a block at a time: no row becomes a Python object, no file is held whole.

The grammar is strict: every line has the same number of columns, each an optional minus and 1 to 18 digits. The first
column may be a time in decimal seconds, which becomes integer nanoseconds; digits beyond the ninth are dropped.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError
from tapehouse.core.kernel import Array, Int, kernel

CHUNK_BYTES = 1 << 20
LINE_BYTES_MAX = 1 << 16
ROWS_PER_BLOCK = 4096
DIGITS_MAX = 18  # the most that surely fit 63 bits

_DONE, _WRONG_COLUMNS, _NO_NUMBER, _TOO_LONG = 0, 1, 2, 3
_COMMA, _LINE_FEED, _RETURN, _MINUS, _POINT, _ZERO, _NINE = 44, 10, 13, 45, 46, 48, 57

Rows = npt.NDArray[np.int64]


@kernel()
def _parse_number(data: Array, at: Int, end: Int, value: Array) -> Int:
    """An integer into `value[0]`; the position after it, or a negative status."""
    negative = at < end and data[at] == _MINUS
    if negative:
        at += 1
    begin = at
    number = np.int64(0)
    while at < end and _ZERO <= data[at] <= _NINE:
        number = number * 10 + np.int64(data[at] - _ZERO)
        at += 1
        if at - begin > DIGITS_MAX:
            return -_TOO_LONG
    if at == begin:
        return -_NO_NUMBER
    value[0] = -number if negative else number
    return at


@kernel()
def _parse_seconds(data: Array, at: Int, end: Int, value: Array) -> Int:
    """Decimal seconds into nanoseconds in `value[0]`; the position after them, or a negative status."""
    if at < end and data[at] == _MINUS:
        return -_NO_NUMBER
    at = _parse_number(data, at, end, value)
    if at < 0:
        return at
    if value[0] > 1_000_000_000:
        return -_TOO_LONG
    nanoseconds = value[0] * np.int64(1_000_000_000)
    if at < end and data[at] == _POINT:
        at += 1
        begin = at
        unit = np.int64(100_000_000)
        while at < end and _ZERO <= data[at] <= _NINE:
            nanoseconds += unit * np.int64(data[at] - _ZERO)
            unit //= 10
            at += 1
        if at == begin:
            return -_NO_NUMBER
    value[0] = nanoseconds
    return at


@kernel()
def _parse_rows(
    data: Array, begin: Int, end: Int, final: Int, times: Int, out: Array, value: Array, result: Array
) -> Int:
    """Whole lines of data[begin:end] into the rows of `out`, shape (rows, columns).

    `result`: 0 rows parsed, 1 position after the last of them, 2 the column where it stopped; `value` is scratch.
    A last line without a line feed counts where `final`. Returns a status.
    """
    columns = out.shape[1]
    result[0] = 0
    result[1] = begin
    at = begin
    while result[0] < out.shape[0] and at < end:
        stop = at
        while stop < end and data[stop] != _LINE_FEED:
            stop += 1
        if stop == end and final == 0:
            break
        following = stop + 1 if stop < end else end
        if stop > at and data[stop - 1] == _RETURN:
            stop -= 1
        for column in range(columns):
            result[2] = column
            if times and column == 0:
                at = _parse_seconds(data, at, stop, value)
            else:
                at = _parse_number(data, at, stop, value)
            if at < 0:
                return -at
            if at < stop and data[at] != _COMMA:
                return _NO_NUMBER
            if (at == stop) != (column == columns - 1):
                return _WRONG_COLUMNS
            out[result[0], column] = value[0]
            at += 1
        at = following
        result[0] += 1
        result[1] = at
    return _DONE


class CsvRows:
    """The rows of one CSV stream.

    Args:
        stream: Bytes, from the beginning.
        name: What errors call the file.
        columns: How many there must be; None to take it from the first line.
        times: Whether the first column is decimal seconds.
    """

    def __init__(self, stream: IO[bytes], name: str, *, columns: int | None, times: bool) -> None:
        self.name = name
        self.rows_read = 0
        self._stream = stream
        self._times = times
        self._data = np.empty(CHUNK_BYTES + LINE_BYTES_MAX, np.uint8)
        self._view = memoryview(self._data.data).cast("B")
        self._begin = 0
        self._end = 0
        self._final = False
        self._failure: DecodeError | None = None
        self._value = np.zeros(1, np.int64)
        self._result = np.zeros(3, np.int64)
        self._refill()
        if self._end == 0:
            raise DecodeError("the file is empty", subject=name, hint="download or export it again")
        self.columns = columns if columns is not None else self._columns_of_first_line()

    def read(self) -> Rows:
        """The next rows, shape (n, columns), n at most ROWS_PER_BLOCK and less only before the end or an error.

        Raises:
            DecodeError: The next line is no row; all before it were returned.
        """
        if self._failure is not None:
            raise self._failure
        out = np.empty((ROWS_PER_BLOCK, self.columns), np.int64)
        filled = 0
        while filled < ROWS_PER_BLOCK:
            status = _parse_rows(
                self._data,
                self._begin,
                self._end,
                self._final,
                self._times,
                out[filled:],
                self._value,
                self._result,
            )
            filled += int(self._result[0])
            self.rows_read += int(self._result[0])
            self._begin = int(self._result[1])
            if status != _DONE:
                self._failure = self._explain(status)
                break
            if filled == ROWS_PER_BLOCK or self._final:
                break
            try:
                self._refill()
            except DecodeError as error:
                self._failure = error
                break
        if filled == 0 and self._failure is not None:
            raise self._failure
        return out[:filled]

    def _refill(self) -> None:
        """Move the unfinished line to the front and read behind it."""
        left = self._end - self._begin
        if left >= LINE_BYTES_MAX:
            raise DecodeError(
                f"a line is longer than {LINE_BYTES_MAX} bytes", subject=self.name, position=self._next_line()
            )
        self._data[:left] = self._data[self._begin : self._end].copy()
        self._begin, self._end = 0, left
        while self._end < CHUNK_BYTES and not self._final:
            try:
                got = self._stream.readinto(self._view[self._end : CHUNK_BYTES + left])  # type: ignore[attr-defined]
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
                raise DecodeError(
                    f"the file cannot be read further: {error}", subject=self.name, position=self._next_line()
                ) from error
            self._final = not got
            self._end += got or 0

    def _columns_of_first_line(self) -> int:
        line = self._data[: self._end].tobytes().split(b"\n", 1)[0]
        return line.count(b",") + 1

    def _next_line(self) -> str:
        return f"line {self.rows_read + 1}"

    def _explain(self, status: int) -> DecodeError:
        line = self._data[self._begin : self._end].tobytes().split(b"\n", 1)[0]
        text = line[:80].decode("ascii", "replace").rstrip("\r")
        column = int(self._result[2]) + 1
        if status == _WRONG_COLUMNS:
            message = f"{line.count(b',') + 1} columns where {self.columns} belong: {text!r}"
        elif status == _TOO_LONG:
            message = f"column {column} has too many digits: {text!r}"
        elif line.count(b",") + 1 != self.columns:
            message = f"{line.count(b',') + 1 if line else 0} columns where {self.columns} belong: {text!r}"
        else:
            message = f"column {column} is no number: {text!r}"
        cut_off = self._final and self._begin + len(line) == self._end
        hint = "the last line is cut off: download or export the file again" if cut_off else ""
        return DecodeError(message, subject=self.name, position=self._next_line(), hint=hint)


def paired(first: CsvRows, second: CsvRows) -> Iterator[tuple[Rows, Rows]]:
    """Blocks of rows of two files that go line by line together.

    Raises:
        DecodeError: A line of either is bad, or one of the two ends before the other.
    """
    while True:
        blocks: list[Any] = []
        failures: list[DecodeError] = []
        for reader in (first, second):
            try:
                blocks.append(reader.read())
            except DecodeError as error:
                blocks.append(np.empty((0, reader.columns), np.int64))
                failures.append(error)
        common = min(len(blocks[0]), len(blocks[1]))
        if common:
            yield blocks[0][:common], blocks[1][:common]
        if failures:
            raise failures[0]
        if len(blocks[0]) != len(blocks[1]):
            short, long = (first, second) if len(blocks[0]) < len(blocks[1]) else (second, first)
            short.read()  # raises where it stopped at a bad line; else it has simply ended
            raise DecodeError(
                f"it ends after {short.rows_read} lines, {long.name} goes on",
                subject=short.name,
                position=f"line {short.rows_read + 1}",
                hint="both files must have one line for each message",
            )
        if common == 0:
            return
