"""Cells as delta-coded columns: the body of a frame's `columns` codecs.

The n x 8 matrix of 64-bit words is stored column by column in the order of `_ORDER`, each value as a zigzag varint of
its difference to the value above it, a run of zero differences as 0 and its length. Three columns are first made small:
receive time becomes its distance to event time, and price and size of first cells are divided by their greatest common
divisor in the frame, but for undefined ones. docs/formats/frame.md has the byte-exact account.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import UNDEFINED

WORDS = 8
_PREFIX_BYTES = 16  # the two divisors, u64 little-endian
_VARINT_BYTES_MAX = 10
# Small fields first: whether a row is an extension decides how its price and size were stored.
_ORDER = np.array([6, 7, 0, 1, 2, 3, 4, 5], np.int64)
_TS_EVENT, _TS_RECV, _PRICE, _SIZE, _SMALL = 0, 1, 4, 5, 6

Words = npt.NDArray[np.int64]


def worst_bytes(n: int) -> int:
    """An upper bound of the encoded size of n cells."""
    return _PREFIX_BYTES + n * WORDS * _VARINT_BYTES_MAX


def encode(array: Words) -> bytes:
    """Cells as words, shape (n, 8), to a columns body."""
    out = np.empty(worst_bytes(len(array)), np.uint8)
    used = _encode(array, _ORDER, out)
    return out[:used].tobytes()


def decode(body: bytes, n: int) -> Words:
    """A columns body of n cells back to words, shape (n, 8).

    Raises:
        DecodeError: The body ends early, has bytes left over, or a run leaves its column.
    """
    array = np.empty((n, WORDS), np.int64)
    used = _decode(np.frombuffer(body, np.uint8), _ORDER, array)
    if used != len(body):
        raise DecodeError(f"a columns body of {n} cells is damaged", position=f"byte {abs(int(used))} of the body")
    return array


@kernel()
def _magnitude(value: Int) -> Int:
    return np.uint64(value) if value >= 0 else np.uint64(0) - np.uint64(value)


@kernel()
def _common_divisor(array: Array, column: Int) -> Int:
    """The greatest common divisor of a column over first cells where it is defined; at least 1."""
    divisor = np.uint64(0)
    for row in range(array.shape[0]):
        if (array[row, _SMALL] >> 56) & 255 == 0 or array[row, column] == UNDEFINED:
            continue
        value = _magnitude(array[row, column])
        while value != 0:
            divisor, value = value, divisor % value if divisor != 0 else np.uint64(0)
        if divisor == 1:
            break
    return divisor if divisor != 0 and divisor < np.uint64(1) << np.uint64(63) else np.uint64(1)


@kernel()
def _put_varint(out: Array, at: Int, value: Int) -> Int:
    while value >= np.uint64(128):
        out[at] = np.uint8(value & np.uint64(127)) | np.uint8(128)
        at += 1
        value >>= np.uint64(7)
    out[at] = np.uint8(value)
    return at + 1


@kernel()
def _stored(array: Array, row: Int, column: Int, price_divisor: Int, size_divisor: Int) -> Int:
    """The value of one cell word as it is stored, before differencing."""
    value = array[row, column]
    if column == _TS_RECV:
        return value - array[row, _TS_EVENT]
    if column == _PRICE and (array[row, _SMALL] >> 56) & 255 != 0 and value != UNDEFINED:
        return value // np.int64(price_divisor)
    if column == _SIZE and (array[row, _SMALL] >> 56) & 255 != 0 and value != UNDEFINED:
        return value // np.int64(size_divisor)
    return value


@kernel()
def _encode(array: Array, order: Array, out: Array) -> Int:
    n = array.shape[0]
    price_divisor = _common_divisor(array, _PRICE)
    size_divisor = _common_divisor(array, _SIZE)
    at = 0
    for shift in range(8):
        out[at + shift] = np.uint8((price_divisor >> np.uint64(8 * shift)) & np.uint64(255))
        out[at + 8 + shift] = np.uint8((size_divisor >> np.uint64(8 * shift)) & np.uint64(255))
    at = 16
    for position in range(order.shape[0]):
        column = order[position]
        previous = np.int64(0)
        run = np.uint64(0)
        for row in range(n):
            value = _stored(array, row, column, price_divisor, size_divisor)
            difference = value - previous
            previous = value
            if difference == 0:
                run += np.uint64(1)
                continue
            if run != 0:
                out[at] = 0
                at = _put_varint(out, at + 1, run)
                run = np.uint64(0)
            at = _put_varint(out, at, np.uint64((difference << 1) ^ (difference >> 63)))
        if run != 0:
            out[at] = 0
            at = _put_varint(out, at + 1, run)
    return at


@kernel()
def _decode(body: Array, order: Array, array: Array) -> Int:
    """Returns the bytes used, or minus the position of the damage."""
    n = array.shape[0]
    end = body.shape[0]
    if end < 16:
        return -1
    price_divisor = np.uint64(0)
    size_divisor = np.uint64(0)
    for shift in range(8):
        price_divisor |= np.uint64(body[shift]) << np.uint64(8 * shift)
        size_divisor |= np.uint64(body[8 + shift]) << np.uint64(8 * shift)
    price_factor = np.int64(price_divisor)
    size_factor = np.int64(size_divisor)
    at = 16
    for position in range(order.shape[0]):
        column = order[position]
        stored = np.int64(0)
        row = 0
        while row < n:
            if at >= end:
                return -at
            byte = body[at]
            at += 1
            run = np.uint64(1)
            if byte == 0:
                value = np.uint64(0)
                shift_bits = np.uint64(0)
                while True:
                    if at >= end or shift_bits > np.uint64(63):
                        return -at
                    byte = body[at]
                    at += 1
                    value |= np.uint64(byte & 127) << shift_bits
                    shift_bits += np.uint64(7)
                    if byte < 128:
                        break
                if value == np.uint64(0) or value > np.uint64(n - row):
                    return -at
                run = value
            else:
                value = np.uint64(byte & 127)
                shift_bits = np.uint64(7)
                while byte >= 128:
                    if at >= end or shift_bits > np.uint64(63):
                        return -at
                    byte = body[at]
                    at += 1
                    value |= np.uint64(byte & 127) << shift_bits
                    shift_bits += np.uint64(7)
                stored += np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1))
            for _ in range(run):
                value_out = stored
                if column == _TS_RECV:
                    value_out = stored + array[row, _TS_EVENT]
                elif column == _PRICE and (array[row, _SMALL] >> 56) & 255 != 0 and stored != UNDEFINED:
                    value_out = stored * price_factor
                elif column == _SIZE and (array[row, _SMALL] >> 56) & 255 != 0 and stored != UNDEFINED:
                    value_out = stored * size_factor
                array[row, column] = value_out
                row += 1
    return at
