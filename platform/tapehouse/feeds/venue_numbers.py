"""The numbers of venues' messages: levels and single numbers out of JSON text into integers, exactly or not at all.

A level is `[price, size, ...]` or, where a venue names the change, `["new", price, size]`; numbers stand bare or in
quotes. The place of each number's text is kept, because checksums are of the text that the venue sent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import PRICE_EXPONENT
from tapehouse.feeds.decimals import COMPLAINTS, NO_NUMBER, NOT_EXACT, TOO_LARGE, parse_decimal

Rows = npt.NDArray[np.int64]  # shape (n, 7)

LEVELS_MAX = 32_000  # of one side of one message, so that a snapshot fits a batch
PRICE, SIZE, PRICE_BEGIN, PRICE_END, SIZE_BEGIN, SIZE_END, WORD = range(7)  # columns; WORD is its first letter or 0
DECIMALS, SIZE_DECIMALS, DIVISOR, LARGE = range(4)  # what was seen of numbers so far
HINT = "declare the instrument's exponents: --instruments FILE.toml"
_BAD_SHAPE, _TOO_MANY = 10, 11
_QUOTE, _COMMA, _OPEN, _CLOSE, _SPACE, _NINE, _LETTER_A = 34, 44, 91, 93, 32, 57, 97
_EXPONENT_MAX = 18


@kernel(inline=True)
def _skip_spaces(data: Array, at: Int) -> Int:
    while at < data.shape[0] and data[at] <= _SPACE:
        at += 1
    return at


@kernel()
def _greatest_divisor(a: Int, b: Int) -> Int:
    while b != 0:
        a, b = b, a % b
    return a


@kernel()
def _parse_number(data: Array, at: Int, exponent: Int, strict: Int, value: Array, place: Array) -> Int:
    """A number in or without quotes; the position behind it, or minus a status. `place` gets its text's ends."""
    quoted = at < data.shape[0] and data[at] == _QUOTE
    at += 1 if quoted else 0
    place[0] = at
    value[1] = 0
    end = parse_decimal(data, at, data.shape[0], exponent, value)
    if end < 0:
        if strict or end == -NO_NUMBER:
            return end
        value[0] = 0
        value[2] = 1 if end == -TOO_LARGE else value[2]
        while at < data.shape[0] and data[at] > _SPACE and data[at] != _QUOTE and data[at] != _COMMA:
            if data[at] == _CLOSE:
                break
            at += 1
        end = at
    place[1] = end
    if quoted:
        if end >= data.shape[0] or data[end] != _QUOTE:
            return -NO_NUMBER
        end += 1
    return _skip_spaces(data, end)


@kernel()
def _parse_levels(data: Array, price_exponent: Int, size_exponent: Int, strict: Int, rows: Array, seen: Array) -> Int:
    """Levels of a JSON array; how many, or minus a status. `rows[-1]` is scratch; `seen` has 4 slots and 3 of scratch.

    `seen[4]` becomes where reading stopped.
    """
    value = rows[rows.shape[0] - 1, :3]
    place = rows[rows.shape[0] - 1, 3:5]
    size = data.shape[0]
    count = 0
    at = _skip_spaces(data, 0)
    if at >= size or data[at] != _OPEN:
        return -_BAD_SHAPE
    at = _skip_spaces(data, at + 1)
    while at < size and data[at] != _CLOSE:
        seen[4] = at
        if count >= rows.shape[0] - 1:
            return -_TOO_MANY
        if data[at] != _OPEN:
            return -_BAD_SHAPE
        at = _skip_spaces(data, at + 1)
        rows[count, WORD] = 0
        if at + 1 < size and data[at] == _QUOTE and data[at + 1] >= _LETTER_A:
            rows[count, WORD] = data[at + 1]
            at += 1
            while at < size and data[at] != _QUOTE:
                at += 1
            at = _skip_spaces(data, at + 1)
            if at >= size or data[at] != _COMMA:
                return -_BAD_SHAPE
            at = _skip_spaces(data, at + 1)
        for column in range(2):
            value[2] = 0
            if column == 1:
                if at >= size or data[at] != _COMMA:
                    return -_BAD_SHAPE
                at = _skip_spaces(data, at + 1)
            seen[4] = at
            seen[5] = column
            at = _parse_number(data, at, size_exponent if column else price_exponent, strict, value, place)
            if at < 0:
                return at
            rows[count, column] = value[0]
            rows[count, PRICE_BEGIN + 2 * column] = place[0]
            rows[count, PRICE_END + 2 * column] = place[1]
            seen[column] = max(seen[column], value[1])
            if column == 0:
                seen[LARGE] |= value[2]
                seen[DIVISOR] = _greatest_divisor(abs(value[0]), seen[DIVISOR])
        while at < size and data[at] != _CLOSE:  # order counts and the like
            if data[at] == _OPEN:
                return -_BAD_SHAPE
            at += 1
        at = _skip_spaces(data, at + 1)
        count += 1
        if at < size and data[at] == _COMMA:
            at = _skip_spaces(data, at + 1)
            if at < size and data[at] == _CLOSE:
                return -_BAD_SHAPE
        elif at >= size or data[at] != _CLOSE:
            return -_BAD_SHAPE
    return count if at < size else -_BAD_SHAPE


class Scale:
    """The units of one instrument's numbers, or (`strict` false) what they will have to be.

    Attributes:
        seen: Decimals of prices and sizes, the greatest common divisor of prices, whether a price was too large.
    """

    _rows: Rows = np.zeros((LEVELS_MAX + 1, 7), np.int64)  # scratch of all of them: a session is one thread's

    def __init__(self, symbol: str, price_exponent: int, size_exponent: int, *, strict: bool = True) -> None:
        self.symbol = symbol
        self.price_exponent = price_exponent
        self.size_exponent = size_exponent
        self.strict = strict
        self.seen = np.zeros(7, np.int64)
        self._value = np.zeros(3, np.int64)
        self._place = np.zeros(2, np.int64)

    def levels(self, text: Any) -> Rows:
        """The levels of a JSON array, shape (n, 7): see the columns above.

        Raises:
            DecodeError: It is no array of levels, or a number does not fit the instrument's unit.
        """
        data = np.frombuffer(text, np.uint8)
        count = _parse_levels(data, self.price_exponent, self.size_exponent, self.strict, self._rows, self.seen)
        if count < 0:
            raise self._complain(-count, bytes(data[int(self.seen[4]) :][:60]), bool(self.seen[5]))
        return self._rows[:count].copy()

    def price(self, text: Any) -> int:
        """One price; raises DecodeError as `levels` does."""
        value = self.number(text, self.price_exponent)
        self.seen[DECIMALS] = max(self.seen[DECIMALS], self._value[1])
        self.seen[LARGE] |= self._value[2]
        self.seen[DIVISOR] = np.gcd(abs(value), self.seen[DIVISOR])
        return value

    def loose_price(self, text: Any) -> int:
        """As `price`, of what need not be on the instrument's tick, such as a mark price."""
        value = self.number(text, self.price_exponent)
        self.seen[DECIMALS] = max(self.seen[DECIMALS], self._value[1])
        self.seen[LARGE] |= self._value[2]
        return value

    def size(self, text: Any) -> int:
        """One size, likewise."""
        value = self.number(text, self.size_exponent)
        self.seen[SIZE_DECIMALS] = max(self.seen[SIZE_DECIMALS], self._value[1])
        return value

    def number(self, text: Any, exponent: int) -> int:
        """A JSON number, bare, in quotes or already out of them, in units of 10^exponent."""
        data = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)
        self._value[2] = 0
        end = int(_parse_number(data, 0, exponent, self.strict, self._value, self._place))
        if end < 0 or end != len(data):
            raise self._complain(-end if end < 0 else NO_NUMBER, bytes(data[:60]), exponent == self.size_exponent)
        return int(self._value[0])

    def exponents(self) -> tuple[int, int, int]:
        """Of what was seen: exponent of prices, of sizes, and the tick in price units.

        Raises:
            DecodeError: More decimals than 64 bits have room for.
        """
        decimals, size_decimals, divisor, large = self.seen[:4].tolist()
        if max(decimals, size_decimals) > _EXPONENT_MAX:
            raise DecodeError(
                f"numbers of {max(decimals, size_decimals)} decimals do not fit", subject=self.symbol, hint=HINT
            )
        if decimals > -PRICE_EXPONENT or large:
            return -decimals, -size_decimals, 1
        return PRICE_EXPONENT, -size_decimals, max(divisor, 1)

    def _complain(self, status: int, text: bytes, of_size: bool) -> DecodeError:
        shown = text.decode("utf-8", "replace")
        if status == _BAD_SHAPE:
            return DecodeError(f"no list of levels: {shown!r}", subject=self.symbol)
        if status == _TOO_MANY:
            return DecodeError(f"more than {LEVELS_MAX} levels in one message", subject=self.symbol)
        exponent = self.size_exponent if of_size else self.price_exponent
        what = f"{'size' if of_size else 'price'} {shown!r}, counted in 10^{exponent}: {COMPLAINTS[status]}"
        return DecodeError(what, subject=self.symbol, hint=HINT if status in (NOT_EXACT, TOO_LARGE) else "")
