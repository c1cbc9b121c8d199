"""The truth that LOBSTER files carry: row i of the book is row i-1 with message i applied. Nothing else is used here.

Every level that was visible in row i-1 must stand in row i as the message leaves it. Where a level vanishes, the last
level of the row is revealed: nobody can predict it, so it is counted, and compared from the next row on. Beside that
one-step rule: times never go backwards, levels are strictly ordered and never cross while trading, a visible execution
is at the best price, a hidden one strictly inside the spread. This shares the parser with the feed and nothing else.

What cannot be noticed: order ids; time digits that keep the order; the size of a hidden execution and its price inside
the spread; a type changed to another with the same effect on the book (2 and 3, or an execution at the best price); the
size and type of the first message; a revealed level that the very next message pushes out of view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.feeds.csv_rows import paired
from tapehouse.feeds.lobster_source import LobsterSource

_EMPTY = 9_999_999_999
_TIME, _TYPE, _SHARES, _PRICE, _DIRECTION = 0, 1, 3, 4, 5

# What may be wrong with a row.
_GOOD, _TIME_BACKWARDS, _BAD_MESSAGE, _UNORDERED, _CROSSED, _NOT_SHOWN, _LEVEL, _NOT_BEST, _NOT_INSIDE = range(9)
_WORDS = {
    _TIME_BACKWARDS: "the time goes backwards",
    _BAD_MESSAGE: "type, direction, size or price is none of LOBSTER's",
    _UNORDERED: "the levels are not strictly ordered, or a size is not positive",
    _CROSSED: "the best bid is not below the best ask",
    _NOT_SHOWN: "the message concerns a price that the book does not show",
    _NOT_BEST: "an execution that is not at the best price",
    _NOT_INSIDE: "a hidden execution that is not inside the spread",
}
# Slots of the state between blocks.
_SEEN, _LAST_TIME, _HALTED, _REVEALED, _MISMATCHES, _FIRST_ROW, _FIRST_CODE = range(7)
_FIRST_SIDE, _FIRST_LEVEL, _WANT_PRICE, _WANT_SIZE, _HAVE_PRICE, _HAVE_SIZE, _SLOTS = range(7, 14)


@dataclass(frozen=True, slots=True, kw_only=True)
class LobsterCheck:
    """What a check found.

    Args:
        rows: Lines in each file.
        compared: Rows held against the truth; the first one only against its own message.
        mismatches: Rows that are not what they must be.
        revealed: Levels that came into view and were not predictable.
        first_mismatch: Line and reason of the first mismatch; None where there is none.
    """

    rows: int
    compared: int
    mismatches: int
    revealed: int
    first_mismatch: str | None


@kernel()
def _message_status(messages: Array, at: Int) -> Int:
    kind = messages[at, _TYPE]
    shares = messages[at, _SHARES]
    price = messages[at, _PRICE]
    direction = messages[at, _DIRECTION]
    if kind < 1 or kind > 7 or (direction != 1 and direction != -1):
        return _BAD_MESSAGE
    if kind == 7:
        return _GOOD if shares == 0 and direction == -1 and -1 <= price <= 1 else _BAD_MESSAGE
    if shares <= 0 or (kind != 6 and (price <= 0 or price >= _EMPTY)):
        return _BAD_MESSAGE
    return _GOOD


@kernel()
def _row_status(book: Array, at: Int, halted: Int) -> Int:
    levels = book.shape[1] // 4
    for column in range(0, 4, 2):
        sign = 1 if column == 0 else -1
        for level in range(levels):
            price = book[at, 4 * level + column]
            size = book[at, 4 * level + column + 1]
            if price == sign * _EMPTY:
                if size != 0:
                    return _UNORDERED
            elif size <= 0 or price <= 0 or price >= _EMPTY:
                return _UNORDERED
            if level > 0:
                before = book[at, 4 * (level - 1) + column]
                both_empty = price == sign * _EMPTY and before == price
                if not both_empty and sign * (price - before) <= 0:
                    return _UNORDERED
    if halted == 0 and book[at, 2] >= book[at, 0]:
        return _CROSSED
    return _GOOD


@kernel()
def _predict(expected: Array, column: Int, kind: Int, price: Int, shares: Int, levels: Int) -> Int:
    """Apply an add or a reduction to one side of a row in place.

    Returns:
        How many of its levels, from the best, are predicted now; -1 where the price is not in view.
    """
    sign = 1 if column == 0 else -1
    at = 0
    while at < levels and sign * (price - expected[4 * at + column]) > 0:
        at += 1
    present = at < levels and expected[4 * at + column] == price
    if kind == 1:
        if present:
            expected[4 * at + column + 1] += shares
        elif at < levels:
            for level in range(levels - 1, at, -1):
                expected[4 * level + column] = expected[4 * (level - 1) + column]
                expected[4 * level + column + 1] = expected[4 * (level - 1) + column + 1]
            expected[4 * at + column] = price
            expected[4 * at + column + 1] = shares
        return levels
    if not present:
        return -1
    expected[4 * at + column + 1] -= shares
    if expected[4 * at + column + 1] != 0:
        return levels
    was_full = expected[4 * (levels - 1) + column] != sign * _EMPTY
    for level in range(at, levels - 1):
        expected[4 * level + column] = expected[4 * (level + 1) + column]
        expected[4 * level + column + 1] = expected[4 * (level + 1) + column + 1]
    expected[4 * (levels - 1) + column] = sign * _EMPTY
    expected[4 * (levels - 1) + column + 1] = 0
    return levels - 1 if was_full else levels


@kernel()
def _compare(expected: Array, book: Array, at: Int, column: Int, predicted: Int, state: Array, first: Int) -> Int:
    """Whether the predicted levels of one side stand in the row; describes the difference where it is the first."""
    for level in range(predicted):
        index = 4 * level + column
        if expected[index] != book[at, index] or expected[index + 1] != book[at, index + 1]:
            if first:
                state[_FIRST_SIDE] = column // 2
                state[_FIRST_LEVEL] = level + 1
                state[_WANT_PRICE] = expected[index]
                state[_WANT_SIZE] = expected[index + 1]
                state[_HAVE_PRICE] = book[at, index]
                state[_HAVE_SIZE] = book[at, index + 1]
            return _LEVEL
    return _GOOD


@kernel()
def _first_row_status(messages: Array, book: Array) -> Int:
    """The first row has no row before it: an added order must be part of a level in view."""
    if messages[0, _TYPE] != 1:
        return _GOOD
    column = 0 if messages[0, _DIRECTION] == -1 else 2
    for level in range(book.shape[1] // 4):
        if book[0, 4 * level + column] == messages[0, _PRICE]:
            return _GOOD if book[0, 4 * level + column + 1] >= messages[0, _SHARES] else _NOT_SHOWN
    return _NOT_SHOWN


@kernel()
def _step(messages: Array, book: Array, at: Int, expected: Array, state: Array) -> Int:
    """Hold row `at` against `expected`, the row before it; what is wrong with it."""
    kind = messages[at, _TYPE]
    price = messages[at, _PRICE]
    column = 0 if messages[at, _DIRECTION] == -1 else 2
    levels = book.shape[1] // 4
    if kind == 4 and expected[column] != price:
        return _NOT_BEST
    if kind == 5 and (price >= expected[0] or price <= expected[2]):
        return _NOT_INSIDE
    predicted = np.int64(levels)
    if kind <= 4:
        predicted = _predict(expected, column, kind, price, messages[at, _SHARES], levels)
        if predicted < 0:
            return _NOT_SHOWN
        last = 4 * (levels - 1) + column
        if predicted < levels and abs(book[at, last]) != _EMPTY:
            state[_REVEALED] += 1
    first = state[_MISMATCHES] == 0
    status = _compare(expected, book, at, column, predicted, state, first)
    if status == _GOOD:
        status = _compare(expected, book, at, 2 - column, levels, state, first)
    return status


@kernel()
def _check_rows(messages: Array, book: Array, expected: Array, state: Array) -> None:
    """Check a block of rows; `expected` holds the row before it and then the block's last."""
    for at in range(messages.shape[0]):
        if messages[at, _TYPE] == 7:
            state[_HALTED] = 0 if messages[at, _PRICE] == 1 else 1
        status = _message_status(messages, at)
        if status == _GOOD and messages[at, _TIME] < state[_LAST_TIME]:
            status = _TIME_BACKWARDS
        if status == _GOOD:
            status = _row_status(book, at, state[_HALTED])
        if status == _GOOD:
            if state[_SEEN] == 0:
                status = _first_row_status(messages, book)
            else:
                status = _step(messages, book, at, expected, state)
        state[_SEEN] += 1
        state[_LAST_TIME] = messages[at, _TIME]
        if status != _GOOD:
            if state[_MISMATCHES] == 0:
                state[_FIRST_ROW] = state[_SEEN]
                state[_FIRST_CODE] = status
            state[_MISMATCHES] += 1
        for column in range(book.shape[1]):
            expected[column] = book[at, column]


def check(paths: Sequence[Path | str]) -> LobsterCheck:
    """Hold a day's two files against each other, row by row.

    Raises:
        MissingError, UsageError: As `LobsterSource` does.
        DecodeError: A line cannot be read at all, or the files have different numbers of lines.
    """
    source = LobsterSource(paths)
    expected = np.zeros(4 * source.levels, np.int64)
    state = np.zeros(_SLOTS, np.int64)
    with source.open() as (message_rows, book_rows):
        for messages, book in paired(message_rows, book_rows):
            _check_rows(messages, book, expected, state)
    rows = int(state[_SEEN])
    return LobsterCheck(
        rows=rows,
        compared=rows,
        mismatches=int(state[_MISMATCHES]),
        revealed=int(state[_REVEALED]),
        first_mismatch=_describe(state.tolist()) if state[_MISMATCHES] else None,
    )


def _describe(state: list[int]) -> str:
    code = state[_FIRST_CODE]
    line = f"line {state[_FIRST_ROW]}"
    if code != _LEVEL:
        return f"{line}: {_WORDS[code]}"
    side = ("ask", "bid")[state[_FIRST_SIDE]]
    return (
        f"{line}: {side} level {state[_FIRST_LEVEL]} shows {state[_HAVE_SIZE]} at {state[_HAVE_PRICE]}, "
        f"the message leaves {state[_WANT_SIZE]} at {state[_WANT_PRICE]}"
    )
