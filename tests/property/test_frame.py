"""Frames: a second reader agrees, decode of encode is identity, and no damage passes.

`read_frame` below is written from docs/formats/frame.md alone, in plain Python: it shares no line with the product.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import replace
from math import gcd

import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapehouse.core import UNDEFINED, DataError, DecodeError, InvariantError
from tapehouse.log import Codec, FrameFlag, FrameHeader, columns, decode_frame, encode_frame, may_hold, read_header
from tapehouse.log.frame import HEADER_BYTES, PLAIN_BYTES_MAX, Body, seal
from tapehouse.market import CELL_BYTES, Cells, empty_cells, extend, words
from tests.support.cells import LOG_ID, batches, market_cells, wild_cells

WORD = 2**64
HEADER = FrameHeader(log_id=LOG_ID, writer=7, epoch=3, first_ordinal=11, input_ordinal=5, output_index=2, flags=1)
CODECS = list(Codec)


# The second reader.

FIELDS = [
    *("magic", "version", "body", "codec", "flags", "count", "stored", "plain", "writer", "epoch", "output_index"),
    *("first_ordinal", "input_ordinal", "first_time", "last_time", "filter_low", "filter_high", "log_id"),
    *("reserved", "checksum"),
]


def signed(value: int) -> int:
    value %= WORD
    return value - WORD if value >= WORD // 2 else value


def varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        byte = body[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a varint of more than 10 bytes")


def read_columns(body: bytes, count: int) -> list[list[int]]:
    divisors = dict(zip((4, 5), struct.unpack_from("<QQ", body), strict=True))
    at = 16
    rows = [[0] * 8 for _ in range(count)]
    for word in (6, 7, 0, 1, 2, 3, 4, 5):
        stored, row = 0, 0
        while row < count:
            z, at = varint(body, at)
            run = 1
            if z == 0:
                run, at = varint(body, at)
                assert 0 < run <= count - row
            stored = signed(stored + ((z >> 1) ^ -(z & 1)))
            for cell in rows[row : row + run]:
                begins = (cell[6] % WORD) >> 56 != 0
                value = stored
                if word == 1:
                    value = signed(stored + cell[0])
                elif word in divisors and begins and stored != 2**63 - 1:
                    value = signed(stored * divisors[word])
                cell[word] = value
            row += run
    assert at == len(body), "the columns fill the body exactly"
    return rows


def read_frame(frame: bytes) -> tuple[dict[str, object], list[list[int]]]:
    header = dict(zip(FIELDS, struct.unpack_from("<4sHBBIIIIQIIQQqqQQ16s16sQ", frame), strict=True))
    assert header["magic"] == b"THFR"
    assert (header["version"], header["body"]) == (1, 1)
    body = frame[128:]
    assert xxhash.xxh3_64_intdigest(frame[:120] + body) == header["checksum"]
    assert len(body) == header["stored"]
    count = header["count"]
    assert header["plain"] == 64 * count
    if header["codec"] == 0:
        flat = struct.unpack(f"<{8 * count}q", body)
        return header, [list(flat[at : at + 8]) for at in range(0, len(flat), 8)]
    if header["codec"] == 2:
        body = zstandard.ZstdDecompressor().decompress(body, max_output_size=16 + 80 * count)
    return header, read_columns(body, count)


@given(cells=batches(), codec=st.sampled_from(CODECS), epoch=st.integers(0, 2**32 - 1), ordinal=st.integers(0, 2**60))
@settings(deadline=None, max_examples=120)
def test_a_second_reader_agrees(cells: Cells, codec: Codec, epoch: int, ordinal: int) -> None:
    frame = encode_frame(cells, replace(HEADER, codec=codec, epoch=epoch, first_ordinal=ordinal))
    header, rows = read_frame(frame)
    assert rows == words(cells).tolist()
    begins = cells["cells"] > 0
    assert header["first_time"] == cells["ts_recv"][begins][0]
    assert header["last_time"] == cells["ts_recv"][begins][-1]
    assert (header["epoch"], header["first_ordinal"], header["codec"]) == (epoch, ordinal, codec)
    assert (header["writer"], header["input_ordinal"], header["output_index"]) == (7, 5, 2)
    assert (header["flags"], header["log_id"], header["reserved"]) == (1, LOG_ID, bytes(16))
    bits = 0
    for instrument in set(cells["instrument"].tolist()):
        mixed = instrument * 11400714819323198485 % WORD
        bits |= 1 << (mixed >> 57) | 1 << ((mixed >> 50) & 127)
    assert header["filter_low"] + (header["filter_high"] << 64) == bits


@given(cells=batches())
@settings(deadline=None, max_examples=40)
def test_the_divisors_are_the_greatest(cells: Cells) -> None:
    body = columns.encode(words(cells))
    for word, name in enumerate(("price", "size")):
        values = [abs(value) for value in cells[name][cells["cells"] > 0].tolist() if value != UNDEFINED]
        expected = gcd(*values) if values else 0
        assert struct.unpack_from("<Q", body, 8 * word)[0] == (1 if expected in (0, 2**63) else expected)


# Identity.


@given(cells=batches(400), codec=st.sampled_from(CODECS))
@settings(deadline=None, max_examples=150)
def test_decode_of_encode_is_identity(cells: Cells, codec: Codec) -> None:
    header, back = decode_frame(encode_frame(cells, replace(HEADER, codec=codec)))
    assert back.tobytes() == cells.tobytes()
    assert header.count == len(cells)
    assert header.next_ordinal == 11 + len(cells)
    assert header.is_partial


def adversarial() -> dict[str, Cells]:
    """Batches that a delta, a divisor or a run would trip over."""
    one = market_cells(1, 1)
    low, high = -(2**63), 2**63 - 1
    swing = market_cells(2, 64)
    for name in ("ts_event", "ts_recv", "price", "size"):
        swing[name] = [low if row % 2 else high for row in range(64)]
    undefined = market_cells(3, 50)
    undefined["price"][::7] = UNDEFINED
    all_undefined = market_cells(4, 5)
    all_undefined["price"] = all_undefined["size"] = UNDEFINED
    lowest = market_cells(5, 3)
    lowest["price"] = low
    negative = market_cells(6, 40)
    negative["price"] = -negative["price"] - 7_000_000_000
    nothing = market_cells(7, 30)
    nothing["price"] = nothing["size"] = 0
    long_record = market_cells(8, 255)
    long_record["cells"][0] = 255
    extend(long_record)
    no_first = empty_cells(9)  # no record at all: the writer refuses it, the codec still keeps it
    largest = market_cells(9, 32_768)
    return {
        "one cell": one,
        "swings between the extremes": swing,
        "undefined among prices": undefined,
        "all undefined": all_undefined,
        "lowest int64": lowest,
        "negative prices": negative,
        "zeros": nothing,
        "a record of 255 cells": long_record,
        "extensions alone": no_first,
        "32,768 cells": largest,
        "32,768 wild cells": wild_cells(10, 32_768),
        "65,000 equal cells": np.repeat(one, 65_000),
    }


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", adversarial())
def test_adversarial_batches_come_back(name: str, codec: Codec) -> None:
    cells = adversarial()[name]
    _, back = decode_frame(encode_frame(cells, replace(HEADER, codec=codec)))
    assert back.tobytes() == cells.tobytes()


def test_a_strided_view_is_encoded_as_its_cells() -> None:
    cells = market_cells(11, 20)[::2]
    assert decode_frame(encode_frame(cells, HEADER))[1].tobytes() == cells.tobytes()


def test_one_undefined_price_does_not_cost_the_divisor() -> None:
    cells = market_cells(12, 1000)
    plain = len(columns.encode(words(cells)))
    cells["price"][500] = UNDEFINED
    assert len(columns.encode(words(cells))) < plain + 40


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 300))
@settings(deadline=None, max_examples=50)
def test_columns_stay_within_their_bound(seed: int, n: int) -> None:
    assert len(columns.encode(words(wild_cells(seed, n)))) <= columns.worst_bytes(n)


@given(instruments=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30), other=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_filter_never_denies_what_is_there(instruments: list[int], other: int) -> None:
    cells = market_cells(0, len(instruments))
    cells["instrument"] = instruments
    header = read_header(encode_frame(cells, HEADER))
    assert all(may_hold(header, instrument) for instrument in instruments)
    lonely = read_header(encode_frame(cells[:1], HEADER))
    assert lonely.filter_low.bit_count() + lonely.filter_high.bit_count() <= 2
    assert isinstance(may_hold(lonely, other), bool)


def test_the_filter_denies_most_of_what_is_not_there() -> None:
    cells = market_cells(0, 3)
    cells["instrument"] = 5
    header = read_header(encode_frame(cells, HEADER))
    assert sum(may_hold(header, instrument) for instrument in range(1, 1000)) < 20


# Damage.


def small_frames() -> list[bytes]:
    cells = market_cells(13, 4)
    cells["cells"][1] = 2
    extend(cells[1:3])
    return [encode_frame(cells, replace(HEADER, codec=codec)) for codec in CODECS]


@pytest.mark.parametrize("frame", small_frames(), ids=[codec.name for codec in CODECS])
def test_every_change_of_every_byte_is_found(frame: bytes) -> None:
    for at in range(len(frame)):
        damaged = bytearray(frame)
        for change in range(1, 256):
            damaged[at] = frame[at] ^ change
            with pytest.raises(DecodeError):
                decode_frame(bytes(damaged))


@pytest.mark.parametrize("frame", small_frames(), ids=[codec.name for codec in CODECS])
def test_every_truncation_and_every_addition_is_found(frame: bytes) -> None:
    for length in range(len(frame)):
        with pytest.raises(DecodeError):
            decode_frame(frame[:length])
    for more in (b"\0", b"x", frame):
        with pytest.raises(DecodeError):
            decode_frame(frame + more)


def test_control_an_unchanged_frame_passes() -> None:
    for frame in small_frames():
        decode_frame(frame)


def resealed(frame: bytes, at: int, replacement: bytes) -> bytes:
    """A frame changed at one place, its checksum made right again."""
    changed = frame[:at] + replacement + frame[at + len(replacement) :]
    checksum = xxhash.xxh3_64_intdigest(changed[:120] + changed[128:])
    return changed[:120] + checksum.to_bytes(8, "little") + changed[128:]


@pytest.mark.parametrize(
    ("at", "replacement", "message"),
    [
        (0, b"THFX", "magic"),
        (4, b"\2\0", "version 2 is unknown"),
        (6, b"\0", "unknown"),
        (6, b"\2", "entries where cells"),
        (6, b"\3", "unknown"),
        (7, b"\3", "unknown"),
        (12, b"\0\0\0\0", "cannot have"),
        (12, b"\5\0\0\0", "cannot have"),
        (16, b"\1\0\0\0", "not 1"),
        (20, b"\0\0\0\0", "cannot have"),
        (20, struct.pack("<I", PLAIN_BYTES_MAX + 64), "cannot have"),
    ],
)
def test_a_header_that_lies_is_refused_although_its_checksum_agrees(at: int, replacement: bytes, message: str) -> None:
    for frame in small_frames():
        with pytest.raises(DecodeError, match=message):
            decode_frame(resealed(frame, at, replacement))


def test_reserved_bytes_and_unknown_flags_are_ignored() -> None:
    for frame in small_frames():
        changed = resealed(resealed(frame, 104, b"\xff" * 16), 8, struct.pack("<I", 0x8000_0000))
        header, cells = decode_frame(changed)
        assert len(cells) == 4
        assert not header.is_partial


def test_more_cells_than_the_bound_are_refused_even_if_they_agree() -> None:
    count = PLAIN_BYTES_MAX // CELL_BYTES + 1
    header = replace(HEADER, codec=Codec.COLUMNS, count=count, plain_bytes=count * CELL_BYTES, stored_bytes=1)
    with pytest.raises(DecodeError, match="cannot have"):
        decode_frame(seal(header, b"x"))


def test_a_zstd_body_that_claims_too_much_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(50_000_000))
    header = replace(HEADER, count=1, plain_bytes=64, stored_bytes=len(bomb))
    with pytest.raises(DecodeError, match="claims 50000000 bytes"):
        decode_frame(seal(header, bomb))
    silent = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    bomb = silent.compress(bytes(50_000_000)) + silent.flush()
    with pytest.raises(DecodeError, match="decompress"):
        decode_frame(seal(replace(header, stored_bytes=len(bomb)), bomb))


def test_a_zstd_body_without_content_size_is_read() -> None:
    cells = market_cells(14, 10)
    silent = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    body = silent.compress(columns.encode(words(cells))) + silent.flush()
    header = replace(HEADER, count=10, plain_bytes=640, stored_bytes=len(body))
    assert decode_frame(seal(header, body))[1].tobytes() == cells.tobytes()


@pytest.mark.parametrize("body", [b"", b"\0", b"no zstd at all", b"\x28\xb5\x2f\xfd", bytes(200)])
@pytest.mark.parametrize("codec", [Codec.COLUMNS, Codec.COLUMNS_ZSTD])
def test_a_body_of_rubbish_is_refused(body: bytes, codec: Codec) -> None:
    header = replace(HEADER, codec=codec, count=3, plain_bytes=192, stored_bytes=len(body))
    with pytest.raises(DecodeError):
        decode_frame(seal(header, body))


# Columns without a checksum: whatever the bytes, an array or DecodeError, and nothing outside is read or written.


def decode_within_walls(body: bytes, n: int, filling: int) -> tuple[int, bytes]:
    """Decode in place between walls of one byte value; returns the kernel's answer and the array's bytes."""
    wall = 4096
    source = np.full(len(body) + 2 * wall, filling, np.uint8)
    source[wall : wall + len(body)] = np.frombuffer(body, np.uint8)
    room = np.full((n + 2 * wall, 8), filling, np.int64)
    used = columns._decode(source[wall : wall + len(body)], columns._ORDER, room[wall : wall + n])
    assert (room[:wall] == filling).all()
    assert (room[wall + n :] == filling).all()
    return int(used), room[wall : wall + n].tobytes() if used > 0 else b""


def mutate(body: bytes, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    damaged = bytearray(body)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, len(damaged)))
        choice = rng.integers(0, 4)
        if choice == 0:
            damaged[at] = int(rng.integers(0, 256))
        elif choice == 1:
            del damaged[at : at + int(rng.integers(1, 9))]
        elif choice == 2:
            damaged[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8))
        else:
            damaged[at : at + 10] = b"\xff" * 9 + b"\x7f"
        damaged = damaged or bytearray(1)
    return bytes(damaged)


@given(cells=batches(60), seed=st.integers(0, 2**32 - 1), shift=st.integers(-3, 3))
@settings(deadline=None, max_examples=400)
def test_mutated_columns_never_leave_their_bounds(cells: Cells, seed: int, shift: int) -> None:
    body = mutate(columns.encode(words(cells)), seed)
    n = max(1, len(cells) + shift)
    assert decode_within_walls(body, n, 0) == decode_within_walls(body, n, 0x5A), "it read beyond its body"
    with contextlib.suppress(DecodeError):
        assert columns.decode(body, n).shape == (n, 8)


@given(body=st.binary(max_size=200), n=st.integers(0, 50))
@example(body=b"", n=0)
@example(body=bytes(16), n=0)
@example(body=b"\1" * 16 + b"\0" * 40, n=3)
@example(body=b"\1" * 16 + b"\xff" * 100, n=3)
@example(body=b"\1" * 16 + b"\0" + b"\xff" * 9 + b"\x01", n=3)
@settings(deadline=None, max_examples=400)
def test_random_columns_never_leave_their_bounds(body: bytes, n: int) -> None:
    assert decode_within_walls(body, n, 0) == decode_within_walls(body, n, 0x5A), "it read beyond its body"
    with contextlib.suppress(DecodeError):
        assert columns.decode(body, n).shape == (n, 8)


# What may not be written.


def test_an_empty_frame_and_one_that_is_too_large_are_refused() -> None:
    with pytest.raises(DataError, match="0 cells"):
        encode_frame(empty_cells(0), HEADER)
    with pytest.raises(DataError, match="131073 cells"):
        encode_frame(empty_cells(PLAIN_BYTES_MAX // CELL_BYTES + 1), HEADER)


@pytest.mark.parametrize("change", [{"log_id": b"short"}, {"log_id": bytes(17)}, {"epoch": 2**32}, {"writer": -1}])
def test_a_header_field_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvariantError):
        encode_frame(market_cells(0, 1), replace(HEADER, **change))


def test_the_numbers_are_pinned() -> None:
    assert (HEADER_BYTES, PLAIN_BYTES_MAX) == (128, 8_388_608)
    assert {codec.name: codec.value for codec in Codec} == {"PLAIN": 0, "COLUMNS": 1, "COLUMNS_ZSTD": 2}
    assert {body.name: body.value for body in Body} == {"CELLS": 1, "ENTRIES": 2}
    assert {flag.name: flag.value for flag in FrameFlag} == {"PARTIAL": 1}
