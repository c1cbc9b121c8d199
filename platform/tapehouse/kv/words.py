"""Keys as bytes in kernels: words at any alignment, comparing, copying, the hash of a key and its slot.

The loads and copies are intrinsics, of a few machine instructions; nothing here checks a place.
"""

from __future__ import annotations

import binascii
from typing import Any

import numba.core.cgutils
import numba.extending
import numpy as np
from llvmlite import ir
from numba import types

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.kv.layout import HASH_MASK, SEED
from tapehouse.kv.slots import SLOTS

intrinsic: Any = numba.extending.intrinsic  # these two have no types
cgutils: Any = numba.core.cgutils
_WORD = ir.IntType(64)
_ADD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio
_MULTIPLY = np.uint64(0xFF51AFD7ED558CCD)  # the constants of MurmurHash3's finaliser
_FINISH = np.uint64(0xC4CEB9FE1A85EC53)
_HALF, _SHIFT = np.uint64(32), np.uint64(29)
# Of a byte and so many zero bytes behind it: so a word's eight bytes are looked up at once ("slicing by 8").
_CRC = np.array(
    [[binascii.crc_hqx(bytes([byte]) + bytes(zeros), 0) for byte in range(256)] for zeros in range(8)], np.uint16
)
_BRACES, _ONES, _TOPS = np.uint64(0x7B7B7B7B7B7B7B7B), np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


@intrinsic
def word_at(typing_context: Any, data: Any, at: Any) -> Any:
    """The 8 bytes from `at` on as an int64, little-endian."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load(builder.bitcast(place, _WORD.as_pointer()), align=1)

    return types.int64(data, types.int64), emit


@intrinsic
def set_word(typing_context: Any, data: Any, at: Any, word: Any) -> Any:
    """Write an int64 into the 8 bytes from `at` on, little-endian."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], builder.bitcast(place, _WORD.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(data, types.int64, types.int64), emit


@intrinsic
def copy_bytes(typing_context: Any, to: Any, to_at: Any, source: Any, source_at: Any, size: Any) -> Any:
    """Copy so many bytes; the two places must not overlap."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        places = [_pointer(context, builder, signature.args[one], *arguments[one : one + 2]) for one in (0, 2)]
        cgutils.raw_memcpy(builder, places[0], places[1], arguments[4], 1)
        return context.get_dummy_value()

    return types.void(to, types.int64, source, types.int64, types.int64), emit


@intrinsic
def prefetch_at(typing_context: Any, data: Any, at: Any) -> Any:
    """Tell the CPU that the bytes from `at` on will be read soon; it changes nothing else."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _pointer(context, builder, signature.args[0], *arguments)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(fetch, [place, number(0), number(3), number(1)])  # To be read, kept in all caches, of data.
        return context.get_dummy_value()

    return types.void(data, types.int64), emit


@kernel(inline=True)
def same_bytes(left: Array, left_at: Int, right: Array, right_at: Int, size: Int) -> Any:
    """Whether two runs of bytes are equal."""
    at = 0
    while size - at >= 8:
        if word_at(left, left_at + at) != word_at(right, right_at + at):
            return False
        at += 8
    while at < size:
        if left[left_at + at] != right[right_at + at]:
            return False
        at += 1
    return True


@kernel()
def is_above(left: Array, left_at: Int, left_size: Int, right: Array, right_size: Int) -> Any:
    """Whether the left run of bytes comes after the right one, as Python orders bytes."""
    for at in range(min(left_size, right_size)):
        if left[left_at + at] != right[at]:
            return left[left_at + at] > right[at]
    return left_size > right_size


@kernel(inline=True)
def mix_bytes(mixed: Int, data: Array, at: Int, size: Int) -> Any:
    """A uint64 with so many bytes mixed in; the same in every view."""
    mixed ^= np.uint64(size) * _ADD
    end = at + size
    while end - at >= 8:
        mixed = (mixed ^ np.uint64(word_at(data, at))) * _MULTIPLY
        mixed ^= mixed >> _HALF
        at += 8
    if at < end:
        rest = np.uint64(0)
        while at < end:
            end -= 1
            rest = rest << np.uint64(8) | np.uint64(data[end])
        mixed = (mixed ^ rest) * _MULTIPLY
        mixed ^= mixed >> _HALF
    return mixed


@kernel()
def hash_of(state: Array, data: Array, at: Int, size: Int) -> Any:
    """A key's hash under this view's seed: 63 bits, the lowest always set, so that it is never 0.

    Source: multiply and shift per word, the finaliser of MurmurHash3.
    """
    mixed = mix_bytes(np.uint64(state[SEED]), data, at, size)
    mixed = (mixed ^ mixed >> _SHIFT) * _FINISH
    mixed ^= mixed >> _HALF
    return (np.int64(mixed >> np.uint64(1)) & state[HASH_MASK]) | 1


@kernel()
def digest_word(mixed: Int, word: Int) -> Any:
    """A uint64 with one word mixed in."""
    mixed = (mixed ^ np.uint64(word)) * _FINISH
    return mixed ^ mixed >> _HALF


@kernel(inline=True)
def _tag_of(data: Array, at: Int, end: Int) -> Any:
    """What of a key is hashed, as `slots.hashed_part`: where it begins and ends."""
    opened = at
    while end - opened >= 8:
        differs = np.uint64(word_at(data, opened)) ^ _BRACES
        if (differs - _ONES) & ~differs & _TOPS:  # One of the eight may be a brace.
            break
        opened += 8
    while opened < end and data[opened] != 123:  # {
        opened += 1
    closed = opened + 1
    while closed < end and data[closed] != 125:  # }
        closed += 1
    if closed < end and closed > opened + 1:
        return opened + 1, closed
    return at, end


@kernel()
def slot_at(data: Array, at: Int, size: Int) -> Any:
    """The slot of a key, as `slots.slot_of`."""
    place, end = _tag_of(data, at, at + size)
    crc: Int = 0
    while end - place >= 8:
        word = word_at(data, place)
        crc = np.int64(
            _CRC[7, word & 255 ^ crc >> 8]
            ^ _CRC[6, word >> 8 & 255 ^ crc & 255]
            ^ _CRC[5, word >> 16 & 255]
            ^ _CRC[4, word >> 24 & 255]
            ^ _CRC[3, word >> 32 & 255]
            ^ _CRC[2, word >> 40 & 255]
            ^ _CRC[1, word >> 48 & 255]
            ^ _CRC[0, word >> 56 & 255]
        )
        place += 8
    while place < end:
        crc = (crc << 8 & 0xFFFF) ^ np.int64(_CRC[0, crc >> 8 ^ np.int64(data[place])])
        place += 1
    return crc % SLOTS
