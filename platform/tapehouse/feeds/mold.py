"""MoldUDP64: numbered messages in UDP packets, and the request for those that were lost. Bytes in, values out, no I/O.

A packet is a session of 10 bytes, the number of its first message (u64), how many there are (u16), then each message
behind its length (u16), all big endian. A packet of count 0 is a heartbeat: its number is the next message's. Count
0xFFFF ends the session, likewise. A request is the same header and nothing more.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tapehouse.core.errors import DecodeError, UsageError

SESSION_BYTES = 10
HEADER_BYTES = 20
END_OF_SESSION = 0xFFFF  # as a count
COUNT_MAX = END_OF_SESSION - 1
MESSAGE_BYTES_MAX = 0xFFFF
SEQUENCE_MAX = 2**64 - 1
_HEADER = struct.Struct(">10sQH")
_LENGTH = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class MoldPacket:
    """One packet.

    Args:
        session: 10 bytes, as they came.
        sequence: The number of the first message; where there is none, of the next one to come.
        messages: Without their lengths.
        ended: The session is over: nothing from `sequence` on will ever come.
        framed: The same messages with their lengths, as they lay in the packet.
    """

    session: bytes
    sequence: int
    messages: tuple[bytes, ...] = ()
    ended: bool = False
    framed: bytes = b""

    @property
    def next_sequence(self) -> int:
        """The number of the first message after this packet."""
        return self.sequence + len(self.messages)


@dataclass(frozen=True, slots=True)
class MoldRequest:
    """What a receiver sends to have messages again; the answer is an ordinary packet, of as many as fit."""

    session: bytes
    sequence: int
    count: int


def read_header(data: bytes) -> tuple[bytes, int, int]:
    """Session, sequence and count of a packet or a request.

    Raises:
        DecodeError: It is shorter than a header.
    """
    if len(data) < HEADER_BYTES:
        raise DecodeError(f"{len(data)} bytes are no MoldUDP64 packet, which has {HEADER_BYTES} at least")
    session, sequence, count = _HEADER.unpack_from(data)
    return session, sequence, count


def read_packet(data: bytes) -> MoldPacket:
    """One datagram, whole.

    Raises:
        DecodeError: It is shorter or longer than its header and its lengths say; `position` is a byte of the datagram.
    """
    session, sequence, count = read_header(data)
    ended = count == END_OF_SESSION
    messages = []
    at = HEADER_BYTES
    for index in range(0 if ended else count):
        end = at + 2
        if end <= len(data):
            end += _LENGTH.unpack_from(data, at)[0]
        if at + 2 > len(data) or end > len(data):
            raise DecodeError(f"the packet ends inside message {index + 1} of {count}", position=f"byte {at}")
        messages.append(bytes(data[at + 2 : end]))
        at = end
    if at != len(data):
        raise DecodeError(f"{len(data) - at} bytes behind the last of {len(messages)} messages", position=f"byte {at}")
    if sequence + len(messages) > SEQUENCE_MAX:
        raise DecodeError(f"{len(messages)} messages from {sequence} on go beyond the last number")
    return MoldPacket(session, sequence, tuple(messages), ended, bytes(data[HEADER_BYTES:]))


def build_packet(session: bytes, sequence: int, messages: Sequence[bytes] = ()) -> bytes:
    """One datagram; a heartbeat where there are no messages. What fits a network's packets is the caller's to know.

    Raises:
        UsageError: The session is not of 10 bytes, a message is too long, or there are too many.
    """
    if len(messages) > COUNT_MAX:
        raise UsageError(f"{len(messages)} messages; a MoldUDP64 packet holds {COUNT_MAX} at most")
    parts = [_header(session, sequence, len(messages))]
    for message in messages:
        if len(message) > MESSAGE_BYTES_MAX:
            raise UsageError(f"a message of {len(message)} bytes; MoldUDP64 carries {MESSAGE_BYTES_MAX} at most")
        parts += (_LENGTH.pack(len(message)), bytes(message))
    return b"".join(parts)


def build_end_of_session(session: bytes, sequence: int) -> bytes:
    """The datagram that says that no message from `sequence` on will come."""
    return _header(session, sequence, END_OF_SESSION)


def build_request(request: MoldRequest) -> bytes:
    """The datagram that asks for messages again; raises UsageError as `build_packet` does."""
    if not 1 <= request.count <= COUNT_MAX:
        raise UsageError(f"{request.count} messages cannot be asked for", hint=f"ask for 1 to {COUNT_MAX}")
    return _header(request.session, request.sequence, request.count)


def read_request(data: bytes) -> MoldRequest:
    """A receiver's request, whole.

    Raises:
        DecodeError: It is no header, or asks for no messages.
    """
    session, sequence, count = read_header(data)
    if len(data) != HEADER_BYTES:
        raise DecodeError(f"a MoldUDP64 request has {HEADER_BYTES} bytes, not {len(data)}")
    if not 1 <= count <= COUNT_MAX:
        raise DecodeError(f"a MoldUDP64 request for {count} messages")
    return MoldRequest(session, sequence, count)


def _header(session: bytes, sequence: int, count: int) -> bytes:
    if len(session) != SESSION_BYTES:
        raise UsageError(f"a MoldUDP64 session has {SESSION_BYTES} bytes, not {len(session)}")
    if not 0 <= sequence <= SEQUENCE_MAX:
        raise UsageError(f"{sequence} is no MoldUDP64 sequence")
    return _HEADER.pack(session, sequence, count)
