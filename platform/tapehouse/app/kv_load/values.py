"""What the load generator writes: bytes that say who wrote them, as which write, for which key, and are checksummed.

A value is a head of 32 bytes (`THL1`, connection u4, key u4, length u4, number u8, run u8, little-endian), filling that
follows from the number and cannot be compressed, and xxh3-64 over all of it. So a value that was cut, mixed with
another one, given to another key or kept from an earlier run is known as that.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import xxhash

from tapehouse.core.errors import DecodeError, UsageError

_HEAD = struct.Struct("<4sIIIQQ")
_SUM = struct.Struct("<Q")
MAGIC = b"THL1"
VALUE_BYTES_MIN = _HEAD.size + _SUM.size
_STEP = 16  # bytes between the fillings of two writes
_FILLINGS = 4_096  # that differ


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a value says of itself.

    Attributes:
        connection: That wrote it, from 0.
        key: Its key's number, from 0.
        number: Of the write in its run, from 0.
    """

    connection: int
    key: int
    number: int
    run: int


class ValueMaker:
    """Makes the values of one run, all of one length."""

    def __init__(self, *, run: int, value_bytes: int, filling: bytes) -> None:
        """Args:
            filling: Bytes to take filling from: `filling_bytes(value_bytes)` of them, best random ones.

        Raises:
            UsageError: A value must have at least VALUE_BYTES_MIN bytes.
        """
        if value_bytes < VALUE_BYTES_MIN:
            raise UsageError(
                f"values of {value_bytes} bytes", subject="--value-bytes", hint=f"at least {VALUE_BYTES_MIN}"
            )
        self._run, self._size = run, value_bytes
        self._filling = filling
        self._room = value_bytes - VALUE_BYTES_MIN

    def make(self, *, connection: int, key: int, number: int) -> bytes:
        """The value of one write."""
        at = number % _FILLINGS * _STEP
        body = _HEAD.pack(MAGIC, connection, key, self._size, number, self._run) + self._filling[at : at + self._room]
        return body + _SUM.pack(xxhash.xxh3_64_intdigest(body))


def filling_bytes(value_bytes: int) -> int:
    """How many bytes of filling values of this length are taken from."""
    return value_bytes + _FILLINGS * _STEP


def read_value(value: bytes) -> Written:
    """What a value says of itself.

    Raises:
        DecodeError: It is none that a load wrote, or not whole.
    """
    if len(value) < VALUE_BYTES_MIN or not value.startswith(MAGIC):
        raise DecodeError(f"{value[:16]!r} was not written by a load")
    _, connection, key, size, number, run = _HEAD.unpack_from(value)
    if size != len(value):
        raise DecodeError(f"{len(value)} bytes of a value of {size}")
    (told,) = _SUM.unpack_from(value, size - _SUM.size)
    if told != xxhash.xxh3_64_intdigest(memoryview(value)[: size - _SUM.size]):
        raise DecodeError("the value's checksum does not hold")
    return Written(connection=connection, key=key, number=number, run=run)
