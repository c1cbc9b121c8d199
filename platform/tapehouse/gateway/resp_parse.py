"""RESP requests out of a socket read: everything that one buffer holds, in one compiled call.

Arrays of bulk strings and plain lines, mixed and pipelined; nothing is copied. Half a request stays for the next read.
Whether and where there is an error depends on the bytes alone, not on how they were cut into reads.

A plain line is split at spaces and tabs. An argument that begins with a quote goes to the closing one, which ends it:
"..." with the escapes \\n \\r \\t \\a \\b \\xHH and any other byte for itself, '...' with \\' alone. A quote within an
argument is a byte like any other, so that a line can carry plain JSON. Source: the Redis protocol specification.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.gateway.resp_commands import COMMANDS
from tapehouse.gateway.resp_layout import (
    ARGUMENT_ROWS,
    ARGUMENT_WORDS,
    ARGUMENTS,
    ARGUMENTS_MAX,
    AT,
    BAD_COUNT,
    BAD_LENGTH,
    BULK_BYTES_MAX,
    BYTES,
    COMMAND,
    COUNT,
    DIGITS_MAX,
    DONE,
    ERROR_AT,
    ERROR_BYTE,
    FIRST,
    FULL,
    HEADER_BYTES_MAX,
    IS_LINE,
    LINE_BYTES_MAX,
    LONG_COUNT,
    LONG_LENGTH,
    LONG_LINE,
    MANY_WORDS,
    NAME_BYTES_MAX,
    NEEDED,
    NO_BULK,
    NO_END,
    NO_LINE_END,
    PLACE,
    POSITION,
    PROTOCOL_ERRORS,
    QUOTES,
    REQUEST_BYTES_MAX,
    REQUEST_ROWS,
    REQUEST_WORDS,
    REQUESTS,
    STATE_WORDS,
    STRANGER_ARGUMENTS_MAX,
    STRANGER_BULK_BYTES_MAX,
    STRANGER_COUNT,
    STRANGER_LENGTH,
    TOO_LARGE,
)

TAB, LF, CR, SPACE, DOUBLE_QUOTE, DOLLAR, QUOTE, STAR, MINUS, BACKSLASH = b"\t\n\r \"$'*-\\"
ZERO, NINE, UPPER_A, UPPER_Z, LOWER_X = b"09AZx"
NAME_SLOTS = 256  # of the table of names, a power of two
LOOKUP_WORDS = 4  # of a slot: the name's first 8 bytes, its next 8, its length, the command's number
CUT = -1  # of a header: its end is not there yet
_MULTIPLY = 0x9E3779B1


def lookup_table(names: list[str]) -> Any:
    """An open-addressing table from names, in lower case, to their numbers from 1 on; (NAME_SLOTS, LOOKUP_WORDS)."""
    assert len(names) * 2 <= NAME_SLOTS
    table = np.zeros((NAME_SLOTS, LOOKUP_WORDS), np.int64)
    for number, name in enumerate(names, start=1):
        raw = name.lower().encode()
        assert 0 < len(raw) <= NAME_BYTES_MAX
        low, high = (int.from_bytes(raw[at : at + 8], "little", signed=True) for at in (0, 8))
        slot = _slot(low, high, len(raw))
        while table[slot, 2]:
            slot = (slot + 1) % NAME_SLOTS
        table[slot] = low, high, len(raw), number
    return table


def _slot(low: int, high: int, size: int) -> int:
    mixed = (low ^ low >> 24 ^ high ^ size) & 0xFFFF_FFFF
    return (mixed * _MULTIPLY >> 20) & (NAME_SLOTS - 1)


NAMES = lookup_table([command.name for command in COMMANDS])


@kernel()
def command_of(names: Array, data: Array, at: Int, size: Int) -> Any:
    """The number of the command with this name, in whatever case; 0 where there is none."""
    if size > NAME_BYTES_MAX or size == 0:
        return 0
    low, high = 0, 0
    for place in range(size):
        byte: Int = np.int64(data[at + place])
        if UPPER_A <= byte <= UPPER_Z:
            byte += 32
        if place < 8:
            low |= byte << (8 * place)
        else:
            high |= byte << (8 * place - 64)
    mixed = (low ^ low >> 24 ^ high ^ size) & 0xFFFF_FFFF
    slot = (mixed * _MULTIPLY >> 20) & (NAME_SLOTS - 1)
    while names[slot, 2] != 0:
        if names[slot, 0] == low and names[slot, 1] == high and names[slot, 2] == size:
            return names[slot, 3]
        slot = (slot + 1) & (NAME_SLOTS - 1)
    return 0


@kernel(inline=True)
def _header(data: Array, at: Int, end: Int, bad: Int, long: Int) -> Any:
    """A decimal that CRLF ends, as Redis reads one: no plus, no zero before other digits.

    Returns:
        (status, number, the place after its end); the place is CUT where it ends beyond `end`.
    """
    place, number, digits, sign = at, 0, 0, 1
    is_good = True
    while place < end and data[place] != CR:
        if place - at == HEADER_BYTES_MAX:
            return long, 0, place
        byte: Int = np.int64(data[place])
        if place == at and byte == MINUS:
            sign = -1
        elif ZERO <= byte <= NINE and digits < DIGITS_MAX:
            is_good = is_good and not (digits == 1 and number == 0)
            number = number * 10 + byte - ZERO
            digits += 1
        else:
            is_good = False
        place += 1
    if place + 1 >= end:
        return DONE, 0, CUT
    if data[place + 1] != LF:
        return NO_LINE_END, 0, place + 1
    if not is_good or digits == 0 or (sign < 0 and number == 0):
        return bad, 0, at
    return DONE, sign * number, place + 2


@kernel()
def _array(data: Array, at: Int, end: Int, arguments: Array, first: Int, state: Array, is_known: Int) -> Any:
    """Split the array that begins at `at`.

    Returns:
        (status, number of arguments, the place after it); the place is CUT where it is not all there, with NEEDED set,
        and FULL where there are too few rows for it.
    """
    state[ERROR_AT] = at
    status, count, place = _header(data, at + 1, end, BAD_COUNT, LONG_COUNT)
    if status != DONE or place == CUT:
        return status, 0, place
    if count > ARGUMENTS_MAX:
        return BAD_COUNT, 0, at
    if not is_known and count > STRANGER_ARGUMENTS_MAX:
        return STRANGER_COUNT, 0, at
    if count <= 0:
        return DONE, 0, place
    if first + count > ARGUMENT_ROWS:
        return FULL, 0, at
    for row in range(first, first + count):
        state[ERROR_AT] = place
        if place >= end:
            return DONE, 0, CUT
        if data[place] != DOLLAR:
            state[ERROR_BYTE] = data[place]
            return NO_BULK, 0, place
        begin = place
        status, size, place = _header(data, begin + 1, end, BAD_LENGTH, LONG_LENGTH)
        if status != DONE or place == CUT:
            return status, 0, place
        if size < 0 or size > BULK_BYTES_MAX:
            return BAD_LENGTH, 0, begin
        if not is_known and size > STRANGER_BULK_BYTES_MAX:
            return STRANGER_LENGTH, 0, begin
        if place + size + 2 - at > REQUEST_BYTES_MAX:
            return TOO_LARGE, 0, begin
        state[ERROR_AT] = place + size
        if place + size < end and data[place + size] != CR:
            return NO_END, 0, place
        if place + size + 1 < end and data[place + size + 1] != LF:
            return NO_END, 0, place
        if place + size + 2 > end:
            state[NEEDED] = place + size + 2 - at
            return DONE, 0, CUT
        arguments[row, PLACE] = place
        arguments[row, BYTES] = size
        place += size + 2
    return DONE, count, place


@kernel()
def _line(data: Array, at: Int, end: Int, arguments: Array, first: Int, state: Array) -> Any:
    """Split the plain line that begins at `at`; quoted arguments stay as they stand. Returns as `_array` does."""
    state[ERROR_AT] = at
    stop = at
    while stop < end and data[stop] != LF:
        if stop - at == LINE_BYTES_MAX + 1:
            return LONG_LINE, 0, stop
        stop += 1
    if stop == end:
        return DONE, 0, CUT
    after = stop + 1
    if stop > at and data[stop - 1] == CR:
        stop -= 1
    if stop - at > LINE_BYTES_MAX:
        return LONG_LINE, 0, stop
    count, place = 0, at
    while True:
        while place < stop and (data[place] == SPACE or data[place] == TAB):
            place += 1
        if place == stop:
            return DONE, count, after
        if count == ARGUMENTS_MAX:
            return MANY_WORDS, 0, place
        if first + count == ARGUMENT_ROWS:
            return FULL, 0, place
        begin, quote = place, data[place]
        if quote == DOUBLE_QUOTE or quote == QUOTE:
            place += 1
            while place < stop and data[place] != quote:
                if data[place] == BACKSLASH and (
                    quote == DOUBLE_QUOTE or (place + 1 < stop and data[place + 1] == QUOTE)
                ):
                    place += 1
                place += 1
            place += 1
            if place > stop or (place < stop and data[place] != SPACE and data[place] != TAB):
                state[ERROR_AT] = begin
                return QUOTES, 0, begin
        else:
            while place < stop and data[place] != SPACE and data[place] != TAB:
                place += 1
        arguments[first + count, PLACE] = begin
        arguments[first + count, BYTES] = place - begin
        count += 1


@kernel(inline=True)
def _digit(byte: Int) -> Any:
    """What a hexadecimal digit stands for; -1 for any other byte."""
    if ZERO <= byte <= NINE:
        return byte - ZERO
    lower = byte | 32
    if 97 <= lower <= 102:
        return lower - 87
    return -1


@kernel()
def _unquote(data: Array, arguments: Array, row: Int) -> None:
    """Take the quotes off an argument and write what its escapes stand for over it."""
    begin = arguments[row, PLACE]
    quote, stop = data[begin], begin + arguments[row, BYTES] - 1
    place, to = begin + 1, begin + 1
    while place < stop:
        byte: Int = np.int64(data[place])
        if byte == BACKSLASH and quote == DOUBLE_QUOTE:
            place += 1
            byte = np.int64(data[place])
            if byte == LOWER_X and place + 2 < stop and _digit(data[place + 1]) >= 0 and _digit(data[place + 2]) >= 0:
                byte = _digit(np.int64(data[place + 1])) * 16 + _digit(np.int64(data[place + 2]))
                place += 2
            elif byte == 110:
                byte = 10
            elif byte == 114:
                byte = 13
            elif byte == 116:
                byte = 9
            elif byte == 98:
                byte = 8
            elif byte == 97:
                byte = 7
        elif byte == BACKSLASH and data[place + 1] == QUOTE and place + 1 < stop:
            place += 1
            byte = QUOTE
        data[to] = byte
        to += 1
        place += 1
    arguments[row, PLACE] = begin + 1
    arguments[row, BYTES] = to - begin - 1


@kernel()
def parse(
    names: Array, data: Array, start: Int, end: Int, requests: Array, arguments: Array, state: Array,
    requests_max: Int, is_known: Int, takes_lines: Int,
) -> Any:  # fmt: skip
    """Find the requests that data[start:end] holds, in their order; empty ones (a bare line end, `*0`) are passed over.

    Args:
        data: uint8; quoted arguments of plain lines are unquoted where they stand.
        requests, arguments: The rows to fill, from the first on.
        requests_max: How many requests to find at most.
        is_known: Whether the client may send what only clients that said who they are may send.
        takes_lines: Whether plain lines are requests; where not, the first one ends the search (FULL), and nothing of
            `data` is changed.

    Returns:
        DONE: what follows POSITION is half a request; FULL: there is more, call again from POSITION; or an error: what
        was found before it holds.
    """
    found, used, place = 0, 0, start
    status = DONE
    state[NEEDED] = 1
    while place < end:
        if found == requests_max:
            status = FULL
            break
        state[NEEDED] = end - place + 1
        is_line = data[place] != STAR
        if is_line and not takes_lines:
            status = FULL
            break
        if is_line:
            status, count, after = _line(data, place, end, arguments, used, state)
        else:
            status, count, after = _array(data, place, end, arguments, used, state, is_known)
        if status != DONE or after == CUT:
            break
        if count > 0:
            if is_line:
                for row in range(used, used + count):
                    quote = data[arguments[row, PLACE]]
                    if quote == DOUBLE_QUOTE or quote == QUOTE:
                        _unquote(data, arguments, row)
            requests[found, COMMAND] = command_of(names, data, arguments[used, PLACE], arguments[used, BYTES])
            requests[found, COUNT] = count
            requests[found, FIRST] = used
            requests[found, AT] = place
            requests[found, IS_LINE] = is_line
            found += 1
            used += count
        place = after
        state[NEEDED] = 1
    state[REQUESTS], state[ARGUMENTS], state[POSITION] = found, used, place
    return status


class Rows:
    """The rows that `parse` fills; one of them serves all connections of a thread, one call after another.

    Attributes:
        requests: (REQUEST_ROWS, REQUEST_WORDS) int64, of which the first `state[REQUESTS]` were found.
        arguments: (ARGUMENT_ROWS, ARGUMENT_WORDS) int64.
        state: STATE_WORDS int64.
    """

    def __init__(self) -> None:
        self.requests = np.zeros((REQUEST_ROWS, REQUEST_WORDS), np.int64)
        self.arguments = np.zeros((ARGUMENT_ROWS, ARGUMENT_WORDS), np.int64)
        self.state = np.zeros(STATE_WORDS, np.int64)

    def parse(self, data: Any, start: int, end: int, *, requests_max: int = REQUEST_ROWS, is_known: bool = True) -> int:
        """Find the requests in data[start:end]; a status of `resp_layout`.

        Args:
            data: Writable uint8.
        """
        limit = min(requests_max, REQUEST_ROWS)
        status: int = parse(NAMES, data, start, end, self.requests, self.arguments, self.state, limit, is_known, True)
        return status

    def words(self, data: memoryview, request: int) -> list[bytes]:
        """The arguments of a request that was found, its name the first."""
        _, count, first, _, _ = self.requests[request].tolist()
        return [bytes(data[at : at + size]) for at, size in self.arguments[first : first + count].tolist()]

    def error(self, status: int) -> str:
        """What to tell a client whose bytes are no requests."""
        text = PROTOCOL_ERRORS[status]
        if status == NO_BULK:
            byte = self.state.item(ERROR_BYTE)
            text %= chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"
        return f"ERR Protocol error: {text}"
