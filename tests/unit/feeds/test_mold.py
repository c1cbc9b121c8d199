"""MoldUDP64 packets: what is built is read, and what is no packet is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError, UsageError
from tapehouse.feeds.mold import (
    COUNT_MAX,
    MoldPacket,
    MoldRequest,
    build_end_of_session,
    build_packet,
    build_request,
    read_packet,
    read_request,
)

SESSION = b"000002016A"


def test_the_layout() -> None:
    data = build_packet(SESSION, 258, [b"S", b"", b"AB"])
    assert data == SESSION + bytes([0, 0, 0, 0, 0, 0, 1, 2, 0, 3]) + b"\x00\x01S" + b"\x00\x00" + b"\x00\x02AB"
    assert read_packet(data) == MoldPacket(SESSION, 258, (b"S", b"", b"AB"), False, data[20:])
    assert read_packet(data).next_sequence == 261


def test_heartbeat_and_end_of_session() -> None:
    heartbeat = read_packet(build_packet(SESSION, 9))
    assert (heartbeat.messages, heartbeat.ended, heartbeat.next_sequence) == ((), False, 9)
    end = read_packet(build_end_of_session(SESSION, 9))
    assert (end.messages, end.ended, end.next_sequence) == ((), True, 9)


def test_a_request() -> None:
    request = MoldRequest(SESSION, 7, 300)
    assert build_request(request) == SESSION + bytes([0, 0, 0, 0, 0, 0, 0, 7, 1, 44])
    assert read_request(build_request(request)) == request


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no MoldUDP64 packet"),
        (build_packet(SESSION, 1, [b"S"])[:19], "no MoldUDP64 packet"),
        (build_packet(SESSION, 1, [b"S", b"AB"])[:-1], "inside message 2 of 2"),
        (build_packet(SESSION, 1, [b"S", b"AB"])[:-3], "inside message 2 of 2"),
        (build_packet(SESSION, 1, [b"S"]) + b"x", "1 bytes behind the last of 1"),
        (build_end_of_session(SESSION, 1) + b"x", "1 bytes behind the last of 0"),
        (build_packet(SESSION, 2**64 - 1, [b"S"]), "beyond the last number"),
    ],
)
def test_what_is_no_packet(data: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text):
        read_packet(data)


@pytest.mark.parametrize("data", [b"", build_packet(SESSION, 1), build_end_of_session(SESSION, 1), bytes(21)])
def test_what_is_no_request(data: bytes) -> None:
    with pytest.raises(DecodeError):
        read_request(data)


def test_what_cannot_be_built() -> None:
    with pytest.raises(UsageError, match="10 bytes, not 3"):
        build_packet(b"abc", 1)
    with pytest.raises(UsageError, match="sequence"):
        build_packet(SESSION, -1)
    with pytest.raises(UsageError, match="65536 bytes"):
        build_packet(SESSION, 1, [bytes(65_536)])
    with pytest.raises(UsageError, match="65535 messages"):
        build_packet(SESSION, 1, [b""] * (COUNT_MAX + 1))
    with pytest.raises(UsageError, match="cannot be asked"):
        build_request(MoldRequest(SESSION, 1, 0))


@settings(deadline=None)
@given(
    st.binary(min_size=10, max_size=10),
    st.integers(0, 2**63),
    st.lists(st.binary(max_size=60), max_size=20),
)
def test_read_is_the_inverse_of_build(session: bytes, sequence: int, messages: list[bytes]) -> None:
    packet = read_packet(build_packet(session, sequence, messages))
    assert (packet.session, packet.sequence, list(packet.messages)) == (session, sequence, messages)
    assert packet.framed == b"".join(len(message).to_bytes(2, "big") + message for message in messages)


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (read_packet, read_request):
        with contextlib.suppress(DecodeError):
            read(data)
