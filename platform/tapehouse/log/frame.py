"""The frame: many cells (or entries) in one message. See docs/formats/frame.md for the byte-exact account.

A 128-byte header, then the body. The checksum covers all of both, so no flipped byte passes. Pure: bytes in, cells
out; no I/O.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag

import numpy as np
import xxhash
import zstandard

from tapehouse.core.errors import DataError, DecodeError, InvariantError
from tapehouse.core.ids import LOG_ID_BYTES
from tapehouse.core.kernel import Array, kernel
from tapehouse.log import columns
from tapehouse.market.cell import CELL, CELL_BYTES, Cells, from_words, words

MAGIC = b"THFR"
VERSION = 1
HEADER_BYTES = 128
PLAIN_BYTES_MAX = 8 * 1024 * 1024  # what a decoder will ever allocate for one body
_HEADER = struct.Struct("<4sHBBIIIIQIIQQqqQQ16s16sQ")
_CHECKSUM_AT = HEADER_BYTES - 8
_ZSTD_LEVEL = 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: Fibonacci hashing of instrument ids
_WORD = 2**64 - 1


class Codec(IntEnum):
    """How a body is stored."""

    PLAIN = 0
    COLUMNS = 1
    COLUMNS_ZSTD = 2


class Body(IntEnum):
    """What a body holds."""

    CELLS = 1
    ENTRIES = 2


class FrameFlag(IntFlag):
    """What else a reader must know; bits that it does not know are to be ignored."""

    PARTIAL = 1  # the append that this frame is part of goes on: the input position is not reached yet


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """What a frame says of itself.

    `first_ordinal` is the number of its first cell in its log. `input_ordinal` and `output_index` are the writer's
    position in its own input, of which these cells are the outcome: in EVENTS the TAPE cells that the engine had
    consumed and the output records of the last of them, in TAPE the last sequence of CMDS that was admitted; elsewhere
    both are 0. The position is *reached* only by a frame without the flag PARTIAL.
    """

    log_id: bytes
    writer: int
    epoch: int
    first_ordinal: int
    body: Body = Body.CELLS
    codec: Codec = Codec.COLUMNS_ZSTD
    flags: int = 0
    count: int = 0
    stored_bytes: int = 0
    plain_bytes: int = 0
    output_index: int = 0
    input_ordinal: int = 0
    first_time: int = 0
    last_time: int = 0
    filter_low: int = 0
    filter_high: int = 0

    @property
    def next_ordinal(self) -> int:
        """The ordinal of the cell after the last."""
        return self.first_ordinal + self.count

    @property
    def is_partial(self) -> bool:
        """Whether the rest of the same append follows in the next frame."""
        return bool(self.flags & FrameFlag.PARTIAL)


def instrument_filter(instrument: int) -> tuple[int, int]:
    """The two bits (low and high 64) that stand for an instrument in the 128-bit Bloom filter of a frame."""
    mixed = (instrument * _GOLDEN) & _WORD
    bits = 1 << (mixed >> 57) | 1 << ((mixed >> 50) & 127)
    return bits & _WORD, bits >> 64


def may_hold(header: FrameHeader, instrument: int) -> bool:
    """False only where the frame certainly has no cell of that instrument."""
    low, high = instrument_filter(instrument)
    return header.filter_low & low == low and header.filter_high & high == high


@kernel()
def _summarise(array: Array, summary: Array) -> None:
    """One pass over cells as words: filter low and high, receive time of the first and of the last first cell."""
    summary[:] = 0
    known = np.int64(-1)
    none_yet = True
    for row in range(array.shape[0]):
        small = array[row, 6]
        if (small >> 56) & 255 != 0:
            summary[3] = array[row, 1]
            if none_yet:
                summary[2] = array[row, 1]
                none_yet = False
        instrument = small & 0xFFFFFFFF
        if instrument == known:
            continue
        known = instrument
        mixed = np.uint64(instrument) * np.uint64(_GOLDEN)
        for bit in (mixed >> np.uint64(57), (mixed >> np.uint64(50)) & np.uint64(127)):
            summary[np.int64(bit >> np.uint64(6))] |= np.int64(np.uint64(1) << (bit & np.uint64(63)))


def encode_frame(cells: Cells, header: FrameHeader) -> bytes:
    """Cells as one frame; the header's codec is used, its counts, times, filter and checksum are filled in.

    Raises:
        DataError: There are no cells, or more than a frame may hold.
    """
    plain_bytes = len(cells) * CELL_BYTES
    if not 0 < plain_bytes <= PLAIN_BYTES_MAX:
        raise DataError(f"a frame cannot hold {len(cells)} cells", hint=f"1 to {PLAIN_BYTES_MAX // CELL_BYTES}")
    array = words(cells)
    if header.codec is Codec.PLAIN:
        body = array.tobytes()
    else:
        body = columns.encode(array)
        if header.codec is Codec.COLUMNS_ZSTD:
            body = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
    summary = np.empty(4, np.int64)
    _summarise(array, summary)
    filled = replace(
        header,
        body=Body.CELLS,
        count=len(cells),
        stored_bytes=len(body),
        plain_bytes=plain_bytes,
        first_time=int(summary[2]),
        last_time=int(summary[3]),
        filter_low=int(summary[0]) & _WORD,
        filter_high=int(summary[1]) & _WORD,
    )
    return seal(filled, body)


def seal(header: FrameHeader, body: bytes) -> bytes:
    """A header (its counts already right) and its stored body as one message.

    Raises:
        InvariantError: A field does not fit its place.
    """
    if len(header.log_id) != LOG_ID_BYTES:
        raise InvariantError(f"a log id of {len(header.log_id)} bytes, not {LOG_ID_BYTES}")
    try:
        head = _pack(header)
    except struct.error as error:
        raise InvariantError(f"a frame header's field does not fit: {error}") from error
    hasher = xxhash.xxh3_64(head[:_CHECKSUM_AT])
    hasher.update(body)
    return head[:_CHECKSUM_AT] + hasher.intdigest().to_bytes(8, "little") + body


def _pack(header: FrameHeader) -> bytes:
    return _HEADER.pack(
        MAGIC,
        VERSION,
        header.body,
        header.codec,
        header.flags,
        header.count,
        header.stored_bytes,
        header.plain_bytes,
        header.writer,
        header.epoch,
        header.output_index,
        header.first_ordinal,
        header.input_ordinal,
        header.first_time,
        header.last_time,
        header.filter_low,
        header.filter_high,
        header.log_id,
        bytes(16),
        0,
    )


def read_header(frame: bytes) -> FrameHeader:
    """The header alone, its checksum verified over the whole frame.

    Raises:
        DecodeError: Too short, a wrong magic, an unknown version, body or codec, or a checksum that disagrees.
    """
    if len(frame) < HEADER_BYTES:
        raise DecodeError(f"a frame of {len(frame)} bytes is shorter than its header", position="byte 0")
    if frame[:4] != MAGIC:
        raise DecodeError(f"no frame: magic {bytes(frame[:4])!r} instead of {MAGIC!r}", position="byte 0")
    fields = _HEADER.unpack_from(frame)
    version, body, codec = fields[1], fields[2], fields[3]
    if version != VERSION:
        raise DecodeError(
            f"frame version {version} is unknown", position="byte 4", hint="a newer tapehouse wrote it: upgrade"
        )
    hasher = xxhash.xxh3_64(frame[:_CHECKSUM_AT])
    hasher.update(memoryview(frame)[HEADER_BYTES:])
    if hasher.intdigest() != fields[19]:
        raise DecodeError("a frame's checksum disagrees", position=f"byte {_CHECKSUM_AT}", hint="it is torn or damaged")
    if body not in Body.__members__.values() or codec not in Codec.__members__.values():
        raise DecodeError(f"frame body {body} or codec {codec} is unknown", position="byte 6")
    header = FrameHeader(
        body=Body(body),
        codec=Codec(codec),
        flags=fields[4],
        count=fields[5],
        stored_bytes=fields[6],
        plain_bytes=fields[7],
        writer=fields[8],
        epoch=fields[9],
        output_index=fields[10],
        first_ordinal=fields[11],
        input_ordinal=fields[12],
        first_time=fields[13],
        last_time=fields[14],
        filter_low=fields[15],
        filter_high=fields[16],
        log_id=fields[17],
    )
    if header.stored_bytes != len(frame) - HEADER_BYTES:
        raise DecodeError(f"a frame's body has {len(frame) - HEADER_BYTES} bytes, not {header.stored_bytes}")
    return header


def decode_frame(frame: bytes) -> tuple[FrameHeader, Cells]:
    """A frame's header and its cells (a fresh or read-only array of dtype CELL).

    Raises:
        DecodeError: The frame is torn, damaged, of an unknown version, or holds no cells.
    """
    header = read_header(frame)
    if header.body is not Body.CELLS:
        raise DecodeError(f"a frame of {header.body.name.lower()} where cells were expected")
    if header.plain_bytes != header.count * CELL_BYTES or not 0 < header.plain_bytes <= PLAIN_BYTES_MAX:
        raise DecodeError(f"a frame of {header.count} cells cannot have {header.plain_bytes} bytes")
    body = memoryview(frame)[HEADER_BYTES:]
    if header.codec is Codec.PLAIN:
        if header.stored_bytes != header.plain_bytes:
            raise DecodeError("a plain frame's stored size is not its plain size")
        return header, np.frombuffer(body, CELL)
    packed = _decompress(bytes(body), header.count) if header.codec is Codec.COLUMNS_ZSTD else bytes(body)
    return header, from_words(columns.decode(packed, header.count))


def _decompress(body: bytes, count: int) -> bytes:
    """A zstd body's columns; what it claims to hold is looked at before any of it is allocated."""
    limit = columns.worst_bytes(count)
    try:
        claimed = zstandard.frame_content_size(body)
        if claimed > limit:
            raise DecodeError(f"a body of {count} cells claims {claimed} bytes of columns")
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=limit, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DecodeError(f"a frame's body does not decompress: {error}") from error
