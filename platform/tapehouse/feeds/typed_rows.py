"""CSV rows of typed columns into integers, a block at a time: exact decimals in a unit, and texts by number.

The grammar is strict: every line has the same number of columns, nothing is quoted. A number is one of `decimals` and
becomes an integer in its column's unit, or the line is refused. A text is interned: it becomes the number under which
`Texts` keeps it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.decimals import COMPLAINTS, NOT_EXACT, TOO_LARGE, parse_decimal

CHUNK_BYTES = 1 << 20
LINE_BYTES_MAX = 1 << 16
ROWS_PER_BLOCK = 8192
COLUMNS_MAX = 1024
TEXT_BYTES_MAX = 64
TEXTS_MAX = 1 << 14
TIME_MAX = 1 << 62  # ns; far below 64 bits, so that a zone's offset cannot wrap
_SLOTS = 1 << 15
_COMMA, _LINE_FEED, _RETURN, _ZERO, _NINE = 44, 10, 13, 48, 57
_PLUS, _MINUS, _POINT, _COLON = 43, 45, 46, 58
_WRONG_COLUMNS, _LONG_TEXT, _MANY_TEXTS = 11, 12, 13  # after the statuses of `decimals`
_ID_DIGITS_MAX = 18

Block = npt.NDArray[np.int64]


class Type(IntEnum):
    """What a column holds."""

    SKIP = 0
    NUMBER = 1
    NUMBER_OR_EMPTY = 2  # UNDEFINED where it is empty
    TEXT = 3
    ID = 4  # a number of at most 18 digits; 0 where it is anything else
    EPOCH = 6  # a time since 1970 as ns, of a unit of 10^(its exponent + 9) s: -9 for seconds, 0 for ns
    ISO = 5  # an ISO 8601 time as ns since 1970; without a zone as if it were UTC


@kernel()
def _intern(data: Array, at: Int, end: Int, texts: Array, lengths: Array, slots: Array, used: Array) -> Int:
    """The number of a text, a new one where it is new; or minus a status."""
    length = end - at
    if length > texts.shape[1]:
        return -_LONG_TEXT
    slot = np.int64(length)
    for place in range(at, end):
        slot = (slot * 31 + np.int64(data[place])) & 0xFFFF_FFFF
    slot = (slot ^ (slot >> 15)) & (len(slots) - 1)
    while slots[slot] >= 0:
        found = slots[slot]
        if lengths[found] == length:
            same = 1
            for place in range(length):
                if texts[found, place] != data[at + place]:
                    same = 0
                    break
            if same:
                return found
        slot = (slot + 1) & (len(slots) - 1)
    if used[0] == len(lengths):
        return -_MANY_TEXTS
    found = used[0]
    for place in range(length):
        texts[found, place] = data[at + place]
    lengths[found] = length
    slots[slot] = found
    used[0] += 1
    return found


@kernel()
def _two_digits(data: Array, at: Int) -> Int:
    """Two digits; -1 where they are none."""
    high, low = np.int64(data[at]) - _ZERO, np.int64(data[at + 1]) - _ZERO
    return high * 10 + low if 0 <= high <= 9 and 0 <= low <= 9 else -1


@kernel()
def _parse_iso(data: Array, at: Int, stop: Int, value: Array) -> Int:
    """`YYYY-MM-DD`, then `T` or a space, `HH:MM:SS`, a fraction of at most 9 digits, and Z or an offset; a status."""
    if stop - at < 19 or data[at + 4] != _MINUS or data[at + 7] != _MINUS:
        return 1
    if data[at + 13] != _COLON or data[at + 16] != _COLON or (data[at + 10] != 84 and data[at + 10] != 32):
        return 1
    century, year = _two_digits(data, at), _two_digits(data, at + 2)
    month, day = _two_digits(data, at + 5), _two_digits(data, at + 8)
    hour, minute, second = _two_digits(data, at + 11), _two_digits(data, at + 14), _two_digits(data, at + 17)
    if century < 0 or year < 0 or not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60):
        return 1
    year += century * 100
    leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
    longest = 31 if month in (1, 3, 5, 7, 8, 10, 12) else 30
    if month == 2:
        longest = 29 if leap else 28
    if not (1970 <= year < 2262 and 1 <= month <= 12 and 1 <= day <= longest):
        return 1
    shifted = year - 1 if month <= 2 else year  # years that begin in March, so that leap days end them
    place = (month + 9) % 12
    days = shifted * 365 + shifted // 4 - shifted // 100 + shifted // 400 + (153 * place + 2) // 5 + day - 719_469
    time = ((days * 24 + hour) * 60 + minute) * 60 + second
    at += 19
    fraction = np.int64(0)
    unit = np.int64(100_000_000)
    if at < stop and data[at] == _POINT:
        at += 1
        begin = at
        while at < stop and _ZERO <= data[at] <= _NINE and unit > 0:
            fraction += unit * (np.int64(data[at]) - _ZERO)
            unit //= 10
            at += 1
        if at == begin:
            return 1
    if at < stop and data[at] == 90:
        at += 1
    elif at < stop and (data[at] == _MINUS or data[at] == _PLUS):
        if stop - at != 6 or data[at + 3] != _COLON:
            return 1
        hours, minutes = _two_digits(data, at + 1), _two_digits(data, at + 4)
        if not (0 <= hours < 24 and 0 <= minutes < 60):
            return 1
        offset = (hours * 60 + minutes) * 60
        time += offset if data[at] == _MINUS else -offset
        at = stop
    value[0] = time * 1_000_000_000 + fraction
    return 0 if at == stop else 1


@kernel()
def _parse_epoch(data: Array, at: Int, stop: Int, exponent: Int, value: Array) -> Int:
    """Digits and a fraction, without a sign or an exponent; ns below TIME_MAX; a status."""
    scale = np.int64(1)
    for _ in range(-exponent):
        scale *= 10
    whole = np.int64(0)
    begin = at
    while at < stop and _ZERO <= data[at] <= _NINE:
        whole = whole * 10 + np.int64(data[at]) - _ZERO
        if whole >= TIME_MAX // scale:
            return 2
        at += 1
    if at == begin:
        return 1
    fraction = np.int64(0)
    if at < stop and data[at] == _POINT:
        at += 1
        begin = at
        unit = scale // 10
        while at < stop and _ZERO <= data[at] <= _NINE:
            digit = np.int64(data[at]) - _ZERO
            if unit == 0 and digit != 0:
                return 3
            fraction += unit * digit
            unit //= 10
            at += 1
        if at == begin:
            return 1
    value[0] = whole * scale + fraction
    return 0 if at == stop else 1


@kernel()
def _parse_field(data: Array, at: Int, stop: Int, exponent: Int, kind: Int, value: Array) -> Int:
    """Anything but a TEXT, which must end at `stop`; 0, or a status."""
    if kind == 2 and at == stop:
        value[0] = UNDEFINED
        value[1] = 0
        return 0
    if kind == 4:
        number = np.int64(0)
        good = 0 < stop - at <= _ID_DIGITS_MAX
        for place in range(at, stop):
            good = good and _ZERO <= data[place] <= _NINE
            if good:
                number = number * 10 + np.int64(data[place]) - _ZERO
        value[0] = number if good else 0
        return 0
    if kind == 5:
        return _parse_iso(data, at, stop, value)
    if kind == 6:
        return _parse_epoch(data, at, stop, exponent, value)
    end = parse_decimal(data, at, stop, exponent, value)
    if end < 0:
        return -end
    return 0 if end == stop else 1


@kernel()
def _parse_typed(
    data: Array,
    begin: Int,
    end: Int,
    final: Int,
    kinds: Array,
    exponents: Array,
    places: Array,
    out: Array,
    value: Array,
    result: Array,
    texts: Array,
    lengths: Array,
    slots: Array,
    used: Array,
) -> Int:
    """Whole lines of data[begin:end] into the rows of `out`, shape (rows, columns); a status.

    `places` keeps each column's most decimals. `result`: 0 rows parsed, 1 position after the last of them, 2 the column
    where it stopped. A last line without a line feed counts where `final`.
    """
    columns = len(kinds)
    result[0] = 0
    result[1] = begin
    at = begin
    while result[0] < out.shape[0] and at < end:
        line_end = at
        while line_end < end and data[line_end] != _LINE_FEED:
            line_end += 1
        if line_end == end and final == 0:
            break
        following = line_end + 1 if line_end < end else end
        if line_end > at and data[line_end - 1] == _RETURN:
            line_end -= 1
        for column in range(columns):
            result[2] = column
            if at > line_end:
                return _WRONG_COLUMNS
            stop = at
            while stop < line_end and data[stop] != _COMMA:
                stop += 1
            if (stop == line_end) != (column == columns - 1):
                return _WRONG_COLUMNS
            kind = kinds[column]
            if kind == 3:
                found = _intern(data, at, stop, texts, lengths, slots, used)
                if found < 0:
                    return -found
                out[result[0], column] = found
            elif kind != 0:
                value[1] = 0
                status = _parse_field(data, at, stop, exponents[column], kind, value)
                if value[1] > places[column]:
                    places[column] = value[1]
                if status != 0:
                    return status
                out[result[0], column] = value[0]
            at = stop + 1
        at = following
        result[0] += 1
        result[1] = at
    return 0


@dataclass(slots=True)
class Texts:
    """The texts that were met, by number; shared by the passes over a file, so that numbers keep their meaning."""

    table: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((TEXTS_MAX, TEXT_BYTES_MAX), np.uint8))
    lengths: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(TEXTS_MAX, np.int64))
    slots: npt.NDArray[np.int64] = field(default_factory=lambda: np.full(_SLOTS, -1, np.int64))
    used: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    def __len__(self) -> int:
        return int(self.used[0])

    def __getitem__(self, number: int) -> str:
        return self.table[number, : self.lengths[number]].tobytes().decode("utf-8", "replace")

    def number(self, text: str) -> int:
        """The number of a text, kept from now on."""
        data = np.frombuffer(text.encode(), np.uint8)
        found = int(_intern(data, 0, len(data), self.table, self.lengths, self.slots, self.used))
        if found < 0:
            raise DecodeError(f"{text[:20]!r} is too long, or there are too many texts")
        return found


class DoesNotFitError(DecodeError):
    """A number does not fit its column's unit; another unit may hold it. `column` is its place from 0."""

    column = 0
    status = 0


class TypedRows:
    """The rows of one CSV stream.

    Args:
        stream: Bytes, from the beginning.
        title: What errors call the file.
        header: Whether the first line is one.
        word: What positions in errors count.

    Attributes:
        header: The names of the columns; empty without a header.
        places: The most decimals that each column has shown.
        rows_read: Rows so far, the header excluded.
    """

    def __init__(self, stream: io.RawIOBase, title: str, *, header: bool, word: str = "line") -> None:
        self.title = title
        self.rows_read = 0
        self.header: tuple[str, ...] = ()
        self._stream = stream
        self._data = np.empty(CHUNK_BYTES + LINE_BYTES_MAX, np.uint8)
        self._view = memoryview(self._data.data).cast("B")
        self._begin = self._end = 0
        self._final = False
        self._failure: DecodeError | None = None
        self._damage: DecodeError | None = None
        self._value, self._result = np.zeros(2, np.int64), np.zeros(3, np.int64)
        self._word = word
        self._lines_before = int(header and word == "line")
        self._refill()
        if self._end == 0:
            if self._damage is not None:
                raise self._damage
            raise DecodeError("the file is empty", subject=title, hint="download or export it again")
        if header:
            self._take_header()

    def _take_header(self) -> None:
        line, _, _ = self._data[: self._end].tobytes().partition(b"\n")
        if len(line) > LINE_BYTES_MAX:
            raise DecodeError("its first line is too long for a header", subject=self.title, position="line 1")
        self._begin = min(len(line) + 1, self._end)
        self.header = tuple(line.rstrip(b"\r").decode("utf-8", "replace").split(","))

    def begin(self, types: Sequence[Type], exponents: Sequence[int], texts: Texts) -> None:
        """Say what the columns hold, before the first `read`.

        Args:
            exponents: Numbers of a column count units of 10^exponent; -18 to 18.
            texts: Where texts are kept.
        """
        if len(types) > COLUMNS_MAX:
            raise DecodeError(f"{len(types)} columns; {COLUMNS_MAX} are possible", subject=self.title)
        self._kinds, self._exponents = np.array(types, np.int64), np.array(exponents, np.int64)
        self._texts = texts
        self.places = np.zeros(len(types), np.int64)

    def read(self) -> Block:
        """The next rows, shape (n, columns), n at most ROWS_PER_BLOCK; none at the end.

        Raises:
            DecodeError: The next line is no row; all before it were returned.
            DoesNotFitError: A number of it does not fit its column's unit.
        """
        if self._failure is not None:
            raise self._failure
        out = np.zeros((ROWS_PER_BLOCK, len(self._kinds)), np.int64)
        filled = 0
        while filled < ROWS_PER_BLOCK and self._failure is None:
            status = self._parse(out[filled:])
            filled += int(self._result[0])
            self.rows_read += int(self._result[0])
            self._begin = int(self._result[1])
            if status:
                self._failure = self._explain(status)
            elif filled == ROWS_PER_BLOCK or self._final:
                break
            else:
                try:
                    self._refill()
                except DecodeError as error:
                    self._failure = error
        if filled == 0 and self._failure is not None:
            raise self._failure
        return out[:filled]

    def _parse(self, out: Block) -> int:
        texts = self._texts
        return int(
            _parse_typed(
                self._data,
                self._begin,
                self._end,
                self._final,
                self._kinds,
                self._exponents,
                self.places,
                out,
                self._value,
                self._result,
                texts.table,
                texts.lengths,
                texts.slots,
                texts.used,
            )
        )

    def _refill(self) -> None:
        """Move the unfinished line to the front and read behind it."""
        if self._damage is not None:
            raise DecodeError(
                self._damage.message, subject=self.title, position=self.position(1), hint=self._damage.hint
            ) from self._damage
        left = self._end - self._begin
        if left >= LINE_BYTES_MAX:
            raise DecodeError(
                f"a line is longer than {LINE_BYTES_MAX} bytes", subject=self.title, position=self.position(1)
            )
        self._data[:left] = self._data[self._begin : self._end].copy()
        self._begin, self._end = 0, left
        while self._end < CHUNK_BYTES and not self._final:
            try:
                got = self._stream.readinto(self._view[self._end : CHUNK_BYTES + left]) or 0
            except DecodeError as error:
                self._damage = error  # What came before it is parsed first.
                break
            self._final = got == 0
            self._end += got

    def position(self, ahead: int = 0) -> str:
        """`line n`, or whatever the word is, of the row that was read last, or of one ahead of it."""
        return f"{self._word} {self._lines_before + self.rows_read + ahead}"

    def _explain(self, status: int) -> DecodeError:
        line, _, _ = self._data[self._begin : self._end].tobytes().partition(b"\n")
        text = line[:80].decode("utf-8", "replace").rstrip("\r")
        column = int(self._result[2])
        name = self.header[column] if column < len(self.header) else f"column {column + 1}"
        if status == _WRONG_COLUMNS:
            message = f"{line.count(b',') + 1} columns where {len(self._kinds)} belong"
        elif status == _LONG_TEXT:
            message = f"{name} is longer than {TEXT_BYTES_MAX} bytes"
        elif status == _MANY_TEXTS:
            message = f"{name}: more than {TEXTS_MAX} different texts"
        else:
            is_time = self._kinds[column] == Type.ISO
            message = f"{name}: {'it is no ISO 8601 time' if is_time else COMPLAINTS[status]}"
        cut_off = self._final and self._begin + len(line) == self._end
        hint = "the last line is cut off: download or export the file again" if cut_off else ""
        where = self.position(1)
        if status in (NOT_EXACT, TOO_LARGE):
            failure = DoesNotFitError(f"{message}: {text!r}", subject=self.title, position=where, hint=hint)
            failure.column, failure.status = column, status
            return failure
        return DecodeError(f"{message}: {text!r}", subject=self.title, position=where, hint=hint)
