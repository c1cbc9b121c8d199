"""Packet captures and the bytes of files: what is a datagram, what is left out, and where a damaged one ends."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError, MissingError
from tapehouse.feeds.byte_blocks import byte_blocks
from tapehouse.feeds.pcap import Capture, Datagram
from tests.support.itch import capture, frame

T0 = 1_692_711_000 * 10**9 + 123_456_000


def read(content: bytes, *, verify: bool = False, step: int = 1 << 20) -> tuple[list[Datagram], Capture]:
    reader = Capture([content[at : at + step] for at in range(0, len(content), step)], "some", verify=verify)
    return list(reader.datagrams()), reader


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("nano", [False, True])
@pytest.mark.parametrize("step", [1, 17, 1 << 20])
def test_datagrams_of_every_kind_of_capture(order: str, nano: bool, step: int) -> None:
    frames = [(T0 + 1000 * at, frame(bytes([at]) * at, vlan=at % 2 == 1, port=7000 + at)) for at in range(20)]
    found, reader = read(capture(frames, order=order, nano=nano), verify=True, step=step)
    assert found == [Datagram(T0 + 1000 * at, 7000 + at, bytes([at]) * at) for at in range(20)]
    assert (reader.packets, reader.others, reader.clipped, reader.bad_checksums, reader.unsummed) == (20, 0, 0, 0, 0)


def test_what_is_no_whole_datagram_is_counted() -> None:
    good = frame(b"payload")
    tcp, six, fragment, later, short = (bytearray(good) for _ in range(5))
    tcp[23] = 6
    six[12:14] = b"\x86\xdd"
    fragment[20] |= 0x20  # more fragments follow
    later[21] = 1  # not the first
    short[39] = 7  # a UDP length below its header's
    frames = [(T0, bytes(data)) for data in (tcp, six, fragment, later, short, good[:30], good[:10], b"", good)]
    found, reader = read(capture([*frames, (T0, good[:-1])]))
    assert found == [Datagram(T0, 26_477, b"payload")]
    assert (reader.packets, reader.others, reader.clipped) == (10, 6, 3)


def test_bytes_behind_a_datagram_are_not_part_of_it() -> None:
    found, _ = read(capture([(T0, frame(b"ab") + bytes(16))]), verify=True)
    assert found == [Datagram(T0, 26_477, b"ab")]


def test_checksums() -> None:
    good = frame(b"some payload")
    for byte in range(14, len(good)):
        flipped = bytearray(good)
        flipped[byte] ^= 0x10
        _, reader = read(capture([(T0, good), (T0, bytes(flipped))]), verify=True)
        assert (reader.bad_checksums, reader.first_bad_checksum) == (1, 2) or reader.others + reader.clipped == 1
    _, reader = read(capture([(T0, frame(b"x", summed=False))]), verify=True)
    assert (reader.bad_checksums, reader.unsummed) == (0, 1)
    flipped = bytearray(good)
    flipped[-1] ^= 1
    _, reader = read(capture([(T0, bytes(flipped))]))
    assert reader.bad_checksums == 0  # not asked for


def test_a_cut_tail_is_told_after_what_came_before() -> None:
    content = capture([(T0, frame(b"first")), (T0, frame(b"second"))])
    second = len(capture([(T0, frame(b"first"))]))
    for length in range(second + 1, len(content)):
        reader = Capture([content[:length]], "some")
        found: list[Datagram] = []
        with pytest.raises(DecodeError, match="packet 2 is cut short") as caught:
            found.extend(reader.datagrams())
        assert [datagram.payload for datagram in found] == [b"first"]
        assert (caught.value.subject, caught.value.position) == ("some", f"byte {second}")
        have = length - second
        assert reader.truncated == ((have, 16) if have < 16 else (have - 16, len(frame(b"second"))))
    assert len(read(content[:second])[0]) == 1


@pytest.mark.parametrize("change", [(4, 10**9), (8, 1 << 18 | 1), (8, 999)])
def test_a_record_that_cannot_be(change: tuple[int, int]) -> None:
    at, value = change
    content = bytearray(capture([(T0, frame(b"first")), (T0, frame(b"second"))]))
    second = len(capture([(T0, frame(b"first"))]))
    content[second + at : second + at + 4] = struct.pack("<I", value)
    found: list[Datagram] = []
    with pytest.raises(DecodeError, match="packet 2 has a header that cannot be") as caught:
        found.extend(Capture([bytes(content)], "some").datagrams())
    assert (len(found), caught.value.position) == (1, f"byte {second}")


@pytest.mark.parametrize("content", [b"", b"\xd4\xc3\xb2\xa1", bytes(24), capture([])[:20] + b"\x71\0\0\0"])
def test_what_is_no_capture(content: bytes) -> None:
    with pytest.raises(DecodeError):
        Capture([content], "some")


@settings(deadline=None)
@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6))
def test_arbitrary_bytes_are_datagrams_or_an_error(rest: bytes, changes: list[tuple[int, int]]) -> None:
    content = bytearray(capture([(T0, frame(b"first")), (T0, frame(b"second", vlan=True))]) + rest)
    for at, value in changes:
        content[at % len(content)] = value
    found = 0

    def run() -> Iterator[int]:
        for datagram in Capture([bytes(content)], "some", verify=True).datagrams():
            yield len(datagram.payload)

    try:
        found = sum(run())
    except DecodeError as caught:
        assert_names(caught)
    assert found <= len(content)


def assert_names(error: DecodeError) -> None:
    assert error.subject == "some"


def test_bytes_of_gzip_files_come_in_blocks(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000
    path = tmp_path / "some.gz"
    path.write_bytes(gzip.compress(content[:500_000]) + gzip.compress(content[500_000:]) + bytes(100))
    blocks = list(byte_blocks(path, 100_000))
    assert b"".join(blocks) == content
    assert {len(block) for block in blocks[:-1]} == {100_000}
    path.write_bytes(content)
    assert b"".join(byte_blocks(path, 1000)) == content


def test_what_a_damaged_gzip_held_before_is_given_out(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000
    packed = gzip.compress(content, compresslevel=0)
    path = tmp_path / "some.gz"
    for damaged, text in [(packed[:-20], "cut off"), (packed[:-20] + b"12345678901234567890", "damaged")]:
        path.write_bytes(damaged)
        found: list[bytes] = []
        with pytest.raises(DecodeError, match=text) as caught:
            found.extend(byte_blocks(path, 1 << 16))
        assert "compressed byte" in caught.value.position
        assert content.startswith(b"".join(found))
        assert len(b"".join(found)) > 800_000
    with pytest.raises(MissingError):
        list(byte_blocks(tmp_path / "none"))
