"""Runs of values out of an arena as bulk strings, in one compiled call: what GET and MGET answer."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.kv.words import copy_bytes

VALUE_WORDS = 2
VALUE_AT, VALUE_BYTES = range(VALUE_WORDS)  # of a row; below 0 bytes: there is no value
BULK_HEAD_BYTES = 24  # at most, with both line ends
NULLS = {2: np.frombuffer(b"$-1\r\n", np.uint8), 3: np.frombuffer(b"_\r\n", np.uint8)}


@kernel(inline=True)
def write_length(out: Array, at: Int, size: Int) -> Any:
    """`$`, a length, CRLF; the place after it."""
    out[at] = 36
    width, rest = 1, size
    while rest >= 10:
        rest //= 10
        width += 1
    rest = size
    for place in range(at + width, at, -1):
        out[place] = 48 + rest % 10
        rest //= 10
    out[at + width + 1] = 13
    out[at + width + 2] = 10
    return at + width + 3


@kernel()
def write_values(
    arena: Array, values: Array, first: Int, last: Int, null: Array, out: Array, start: Int, state: Array
) -> None:
    """Write the values of rows first to last - 1 as bulk strings, as many as there is room for.

    Args:
        arena: uint8, where the values lie.
        values: (n, VALUE_WORDS) int64.
        null: What is written where there is no value.
        out: uint8, written from `start` on.
        state: (2,) int64; left with the row after the last one written, and the place after it in `out`.
    """
    at, row, room = start, first, len(out)
    while row < last:
        size = values[row, VALUE_BYTES]
        if size < 0:
            if at + len(null) > room:
                break
            copy_bytes(out, at, null, 0, len(null))
            at += len(null)
        else:
            if at + size + BULK_HEAD_BYTES > room:
                break
            at = write_length(out, at, size)
            copy_bytes(out, at, arena, values[row, VALUE_AT], size)
            out[at + size] = 13
            out[at + size + 1] = 10
            at += size + 2
        row += 1
    state[0], state[1] = row, at


class ValueWriter:
    """Writes runs of values into a buffer of its own.

    Args:
        room: Bytes of the buffer; it grows for a value that does not fit, up to what one value may have.
    """

    def __init__(self, room: int = 256 * 1024) -> None:
        self._out = np.zeros(max(room, BULK_HEAD_BYTES), np.uint8)
        self._state = np.zeros(2, np.int64)

    def write(self, arena: Any, values: Any, version: int) -> list[bytes]:
        """The values as bulk strings, in chunks of bytes.

        Args:
            arena: uint8.
            values: (n, VALUE_WORDS) int64; -1 bytes for none.
            version: Of RESP: 2 or 3.
        """
        chunks, row, null = [], 0, NULLS[version]
        while row < len(values):
            write_values(arena, values, row, len(values), null, self._out, 0, self._state)
            done, size = self._state.tolist()
            if done == row:
                self._out = np.zeros(int(values[row, VALUE_BYTES]) + BULK_HEAD_BYTES, np.uint8)
            else:
                chunks.append(self._out[:size].tobytes())
            row = done
        return chunks
