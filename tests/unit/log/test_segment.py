"""Segments: a second reader agrees, the golden file stays readable, and every damage is found."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path

import pytest
from blake3 import blake3

from tapehouse.core.errors import DataError, DecodeError, GapError, IntegrityError, MissingError
from tapehouse.log.canonical import HEADERS_MAX, decode_message, encode_message
from tapehouse.log.log_digest import GENESIS, LogDigest, digest_messages
from tapehouse.log.port import Branch, Extent, Message
from tapehouse.log.segment import (
    SegmentEncoder,
    SegmentHeader,
    decode_segment,
    encode_segment,
    pack,
    segment_digest,
    unpack,
)
from tapehouse.log.segment_cut import SEGMENT_MESSAGES, CutSegment, SegmentCutter
from tapehouse.log.segment_file import (
    SegmentFileWriter,
    read_segment_file,
    recover_segment,
    recover_segment_file,
)
from tests.support.second_reader import read_segment

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "formats"
LOG_ID = bytes(range(16))
HEADER = SegmentHeader(name="CMDS_demo", log_id=LOG_ID, first=7, head_before=bytes(range(32)))
MESSAGES = [
    Message(sequence=7, subject="cmd.v1.demo.order.submit", payload=b'{"size": 5}', headers={"b": "2", "a": "1"}),
    Message(sequence=8, subject="cmd.v1.demo.order.cancel", payload=b""),
    Message(sequence=9, subject="cmd.v1.dëmo", payload=bytes(range(256)), headers={"trace": "ünïcode"}),
]


def test_the_second_reader_reads_what_the_writer_wrote() -> None:
    read = read_segment(encode_segment(MESSAGES, HEADER))
    assert read["name"] == "CMDS_demo"
    assert read["log_id"] == LOG_ID.hex()
    assert read["messages"] == [
        [m.sequence, m.subject, [list(item) for item in sorted(m.headers.items())], m.payload.hex()] for m in MESSAGES
    ]


def test_the_golden_file_stays_readable() -> None:
    plain = (GOLDEN / "segment-v1.bin").read_bytes()
    expected = json.loads((GOLDEN / "segment-v1.json").read_text())
    assert segment_digest(plain).hex() == expected.pop("blake3")
    assert read_segment(plain) == expected
    segment = decode_segment(plain)
    assert list(segment.messages) == MESSAGES
    assert segment.head_after.hex() == expected["head_after"]
    assert encode_segment(segment.messages, segment.header) == plain


# ------------------------------------------------------------------ canonical form and digest


def test_equal_messages_have_equal_bytes_whatever_the_order_of_their_headers() -> None:
    one = Message(sequence=1, subject="s", payload=b"p", headers={"x": "1", "y": "2"})
    other = Message(sequence=1, subject="s", payload=b"p", headers={"y": "2", "x": "1"})
    assert encode_message(one) == encode_message(other)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        encode_message(MESSAGES[0])[:-1],
        encode_message(MESSAGES[0]) + b"\0",
        struct.pack("<QI", 1, 0) + struct.pack("<I", 2) + (struct.pack("<I", 1) + b"b" + struct.pack("<I", 0)) * 2,
        struct.pack("<QI", 1, 1) + b"\xff" + struct.pack("<II", 0, 0),
        struct.pack("<QI", 1, 0) + struct.pack("<I", HEADERS_MAX + 1),
    ],
    ids=["empty", "short", "long", "doubled header", "not utf-8", "too many headers"],
)
def test_what_is_not_canonical_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_message(body)


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(DataError, match="Unicode"):
        encode_message(Message(sequence=1, subject="\ud800", payload=b""))


def test_the_log_digest_is_a_plain_chain() -> None:
    expected = blake3(blake3(GENESIS + encode_message(MESSAGES[0])).digest() + encode_message(MESSAGES[1])).digest()
    assert digest_messages(MESSAGES[:2], next_sequence=7) == expected


def test_the_log_digest_refuses_a_hole() -> None:
    digest = LogDigest(next_sequence=7)
    with pytest.raises(GapError, match="message 7 is missing"):
        digest.update(MESSAGES[1])


# ------------------------------------------------------------------ damage


def test_every_flipped_byte_is_found() -> None:
    plain = encode_segment(MESSAGES, HEADER)
    for at in range(len(plain)):
        for mask in (0x01, 0x80, 0xFF):
            damaged = bytearray(plain)
            damaged[at] ^= mask
            with pytest.raises(DecodeError):
                decode_segment(bytes(damaged))


def test_every_flipped_byte_of_the_stored_form_is_found() -> None:
    plain = encode_segment(MESSAGES, HEADER)
    stored = pack(plain)
    assert unpack(stored) == plain
    for at in range(len(stored)):
        damaged = bytearray(stored)
        damaged[at] ^= 0xFF
        with pytest.raises(DecodeError):
            unpack(bytes(damaged))


def test_truncation_at_every_length_is_an_error_or_a_prefix() -> None:
    plain = encode_segment(MESSAGES, HEADER)
    lengths = set()
    for length in range(len(plain)):
        with pytest.raises(DecodeError):
            decode_segment(plain[:length])
        try:
            recovered = recover_segment(plain[:length])
        except DecodeError:
            assert length < 72 + len(HEADER.name)
            continue
        assert list(recovered.messages) == MESSAGES[: len(recovered.messages)]
        assert recovered.whole_bytes + recovered.cut_bytes == length
        assert not recovered.finished
        lengths.add(len(recovered.messages))
    assert lengths == {0, 1, 2, 3}


def test_recovery_of_a_flipped_byte_never_invents_or_drops_safe_messages() -> None:
    plain = encode_segment(MESSAGES, HEADER)
    for at in range(len(plain)):
        damaged = bytearray(plain)
        damaged[at] ^= 0xFF
        try:
            recovered = recover_segment(bytes(damaged))
        except (DecodeError, IntegrityError):
            continue
        assert list(recovered.messages) == MESSAGES[: len(recovered.messages)]
        assert len(recovered.messages) >= 2, "only the last message or the footer may be taken for a torn end"


def test_bytes_after_the_footer_are_refused() -> None:
    with pytest.raises(DecodeError, match="footer"):
        decode_segment(encode_segment(MESSAGES, HEADER) + b"\0")


def test_a_stored_form_that_would_not_fit_is_never_unpacked() -> None:
    with pytest.raises(DecodeError, match="at most"):
        unpack(pack(bytes(100_000)), bytes_max=99_999)
    with pytest.raises(DecodeError, match="decompress"):
        unpack(b"no zstd at all")


def test_a_segment_needs_messages_in_order() -> None:
    with pytest.raises(DataError, match="without messages"):
        encode_segment([], HEADER)
    with pytest.raises(GapError):
        encode_segment(MESSAGES[1:], HEADER)


def test_a_newer_version_says_so() -> None:
    plain = bytearray(encode_segment(MESSAGES, HEADER))
    plain[4] = 2
    with pytest.raises(DecodeError, match="version 2 is unknown"):
        decode_segment(bytes(plain))


# ------------------------------------------------------------------ where a log is cut


def cut(first: int, last: int, *, extent: Extent, payload: bytes = b"x", head: bytes = GENESIS) -> list[CutSegment]:
    cutter = SegmentCutter("L", extent, first=first, head_before=head)
    segments: list[CutSegment] = []
    for sequence in range(first, last + 1):
        segments += cutter.add(Message(sequence=sequence, subject="s", payload=payload))
    return segments + cutter.flush()


def test_cuts_are_at_absolute_multiples_and_ends_of_branches() -> None:
    branches = (Branch(log_id=b"a" * 16, through=5000), Branch(log_id=b"b" * 16))
    extent = Extent(first=1, last=9000, branches=branches)
    segments = cut(1, 9000, extent=extent)
    assert [(s.header.first, s.last) for s in segments] == [(1, 4096), (4097, 5000), (5001, 8192), (8193, 9000)]
    assert [s.header.log_id[:1] for s in segments] == [b"a", b"a", b"b", b"b"]
    for before, after in itertools.pairwise(segments):
        assert after.header.head_before == before.head_after
    assert decode_segment(segments[1].plain).head_after == segments[1].head_after


def test_a_later_start_gives_the_same_segments() -> None:
    extent = Extent(first=1, last=9000, branches=(Branch(log_id=LOG_ID),))
    whole = cut(1, 9000, extent=extent)
    later = cut(4097, 9000, extent=extent, head=whole[0].head_after)
    assert [s.digest for s in later] == [s.digest for s in whole[1:]]


def test_large_messages_cut_a_segment_before_it_is_too_large() -> None:
    extent = Extent(first=1, last=7, branches=(Branch(log_id=LOG_ID),))
    segments = cut(1, 7, extent=extent, payload=bytes(20 * 1024 * 1024))
    assert [(s.header.first, s.last) for s in segments] == [(1, 3), (4, 6), (7, 7)]
    assert all(len(s.plain) <= 64 * 1024 * 1024 for s in segments)
    assert SEGMENT_MESSAGES == 4096


def test_a_cutter_refuses_a_hole() -> None:
    cutter = SegmentCutter("L", Extent(first=1, last=9, branches=(Branch(log_id=LOG_ID),)), first=1)
    with pytest.raises(GapError, match="message 1 is missing"):
        cutter.add(Message(sequence=2, subject="s", payload=b""))


# ------------------------------------------------------------------ files


def test_a_finished_file_is_the_plaintext(tmp_path: Path) -> None:
    path = tmp_path / "one.seg"
    with SegmentFileWriter.create(path, HEADER) as writer:
        for message in MESSAGES:
            writer.append(message)
        writer.finish()
    assert path.read_bytes() == encode_segment(MESSAGES, HEADER)
    assert list(read_segment_file(path).messages) == MESSAGES
    assert recover_segment_file(path).finished
    with pytest.raises(DataError, match="finished"):
        SegmentFileWriter.resume(path)
    with pytest.raises(DataError, match="already"):
        SegmentFileWriter.create(path, HEADER)


def test_a_torn_file_goes_on_after_its_last_whole_message(tmp_path: Path) -> None:
    path = tmp_path / "torn.seg"
    with SegmentFileWriter.create(path, HEADER) as writer:
        writer.append(MESSAGES[0])
        writer.append(MESSAGES[1])
        writer.sync()
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 3)
    with pytest.raises(DecodeError, match="torn"):
        read_segment_file(path)
    writer, recovered = SegmentFileWriter.resume(path)
    assert list(recovered.messages) == MESSAGES[:1]
    assert recovered.cut_bytes > 0
    with writer:
        for message in MESSAGES[1:]:
            writer.append(message)
        writer.finish()
    assert path.read_bytes() == encode_segment(MESSAGES, HEADER)


def test_damage_inside_a_file_is_not_taken_for_a_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "damaged.seg"
    encoder = SegmentEncoder(HEADER)
    data = bytearray(encoder.header + b"".join(encoder.add(message) for message in MESSAGES))
    data[len(encoder.header) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="message 7 is damaged"):
        SegmentFileWriter.resume(path)
    assert path.read_bytes() == data, "nothing was cut"


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        read_segment_file(tmp_path / "none.seg")
