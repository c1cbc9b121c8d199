"""The retransmission server's answers, without a socket: what was sent, in packets that fit, and nothing else."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import VirtualClock
from tapehouse.feeds.live.mold_server import PACKET_BYTES_MAX, MoldServer
from tapehouse.feeds.mold import COUNT_MAX, MoldRequest, build_request, read_packet

SESSION = b"SESSION001"


def played(messages: list[bytes]) -> MoldServer:
    """A server without lines that has sent everything."""
    server = MoldServer([], session=SESSION, clock=VirtualClock())
    asyncio.run(server.play(iter(enumerate(messages))))
    return server


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.one_of(st.binary(max_size=20), st.binary(min_size=600, max_size=1_500)), max_size=12),
    st.integers(0, 20),
    st.integers(1, COUNT_MAX),
)
def test_answers(messages: list[bytes], sequence: int, count: int) -> None:
    server = played(messages)
    assert server.played == len(messages)
    answer = server.answer(build_request(MoldRequest(SESSION, sequence, count)))
    if not 1 <= sequence <= len(messages):
        assert answer is None
        return
    assert answer is not None
    packet = read_packet(answer)
    begin = sequence - 1
    assert (packet.session, packet.sequence) == (SESSION, sequence)
    assert 1 <= len(packet.messages) <= count
    assert list(packet.messages) == messages[begin : begin + len(packet.messages)]
    assert len(answer) <= PACKET_BYTES_MAX or len(packet.messages) == 1
    left = messages[begin + len(packet.messages) : begin + count]
    assert not left or len(answer) + 2 + len(left[0]) > PACKET_BYTES_MAX, "as many as fit"
    assert server.answer(build_request(MoldRequest(b"SESSION002", sequence, count))) is None


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=40))
def test_what_is_no_request_is_not_answered(data: bytes) -> None:
    answer = played([b"one", b"two"]).answer(data)
    assert answer is None or data.startswith(SESSION)
