"""UDP datagrams out of packet captures: classic pcap, whole blocks at a time.

Both byte orders, times in micro- or nanoseconds, Ethernet with or without one 802.1Q tag, IPv4, UDP. Other frames, and
datagrams that the capture or IP has cut into pieces, are counted and left out. With `verify`, the checksums of IP and
UDP are computed, so a byte that was flipped inside a datagram is found whatever it means.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import NS_PER_SECOND

FILE_HEADER_BYTES = 24
RECORD_HEADER_BYTES = 16
FRAME_BYTES_MAX = 1 << 18  # tcpdump's own limit
_ETHERNET = 1
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_MAGICS = {  # struct's byte order, fractions of a second
    b"\xd4\xc3\xb2\xa1": ("<", 10**6),
    b"\xa1\xb2\xc3\xd4": (">", 10**6),
    b"\x4d\x3c\xb2\xa1": ("<", 10**9),
    b"\xa1\xb2\x3c\x4d": (">", 10**9),
}
# Columns of a datagram: when it was captured (UTC ns), its destination port, its payload, the position of its record.
TIME, PORT, BEGIN, END, PLACE, DATAGRAM_COLUMNS = range(6)
# Slots of the state: the next byte, whole packets, those left out and why, wrong checksums and the first one's packet.
_AT, PACKETS, OTHERS, CLIPPED, BAD_CHECKSUMS, FIRST_BAD, UNSUMMED, _SLOTS = range(8)
_MORE, _ROOM_USED, _BAD_RECORD = range(3)
_DATAGRAMS_PER_BLOCK = 1 << 14

Bytes = npt.NDArray[np.uint8]
Datagrams = npt.NDArray[np.int64]  # shape (n, DATAGRAM_COLUMNS)


@dataclass(frozen=True, slots=True)
class Datagram:
    """One UDP datagram: when it was captured (UTC ns), the port it went to, its payload."""

    time: int
    port: int
    payload: bytes


def is_pcap(first: bytes) -> bool:
    """Whether a file that begins with these bytes is a capture, of a kind that can be read or not."""
    return first[:4] in _MAGICS or first[:4] == _PCAPNG


@kernel(inline=True)
def _u16(data: Array, at: Int) -> Int:
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@kernel(inline=True)
def _u32(data: Array, at: Int, little: Int) -> Int:
    if little:
        return (
            np.int64(data[at])
            | (np.int64(data[at + 1]) << 8)
            | (np.int64(data[at + 2]) << 16)
            | (np.int64(data[at + 3]) << 24)
        )
    return (_u16(data, at) << 16) | _u16(data, at + 2)


@kernel()
def _folded(data: Array, begin: Int, end: Int, total: Int) -> Int:
    """The ones' complement sum of 16-bit words of data[begin:end] and `total`; 0xFFFF where a checksum holds."""
    at = begin
    while at + 1 < end:
        total += _u16(data, at)
        at += 2
    if at < end:
        total += np.int64(data[at]) << 8
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@kernel()
def _take_frame(data: Array, begin: Int, end: Int, verify: Int, out: Array, row: Int, state: Array) -> Int:
    """The datagram of one frame into a row of `out`; 1 where there is one."""
    at = begin + 12
    if at + 2 > end:
        state[OTHERS] += 1
        return 0
    ether = _u16(data, at)
    if ether == 0x8100 and at + 6 <= end:
        at += 4
        ether = _u16(data, at)
    ip = at + 2
    if ether != 0x0800 or ip + 20 > end or data[ip] >> 4 != 4:
        state[OTHERS] += 1
        return 0
    udp = ip + 4 * np.int64(data[ip] & 15)
    whole = ip + _u16(data, ip + 2)
    if data[ip + 9] != 17 or udp < ip + 20 or whole < udp + 8:
        state[OTHERS] += 1
        return 0
    if whole > end or _u16(data, ip + 6) & 0x3FFF != 0 or udp + _u16(data, udp + 4) > whole:
        state[CLIPPED] += 1
        return 0
    stop = udp + _u16(data, udp + 4)
    if stop < udp + 8:
        state[OTHERS] += 1
        return 0
    if verify:
        good = _folded(data, ip, udp, np.int64(0)) == 0xFFFF
        pseudo = _folded(data, ip + 12, ip + 20, np.int64(17) + stop - udp)
        said = _u16(data, udp + 6)
        if said == 0 or said == pseudo:
            state[UNSUMMED] += 1
        elif good:
            good = _folded(data, udp, stop, pseudo) == 0xFFFF
        if not good:
            if state[BAD_CHECKSUMS] == 0:
                state[FIRST_BAD] = state[PACKETS]
            state[BAD_CHECKSUMS] += 1
    out[row, PORT] = _u16(data, udp + 2)
    out[row, BEGIN] = udp + 8
    out[row, END] = stop
    return 1


@kernel()
def _take_records(data: Array, little: Int, fractions: Int, verify: Int, out: Array, rows: Array, state: Array) -> Int:
    """The records of a block from state[_AT] on: datagrams into `out`, their number into rows[0]. A status."""
    rows[0] = 0
    while True:
        at = state[_AT]
        if at + 16 > data.shape[0]:
            return _MORE
        seconds = _u32(data, at, little)
        fraction = _u32(data, at + 4, little)
        captured = _u32(data, at + 8, little)
        if fraction >= fractions or captured > FRAME_BYTES_MAX or captured > _u32(data, at + 12, little):
            return _BAD_RECORD
        begin = at + 16
        if begin + captured > data.shape[0]:
            return _MORE
        if rows[0] == out.shape[0]:
            return _ROOM_USED
        state[PACKETS] += 1
        row = rows[0]
        if _take_frame(data, begin, begin + captured, verify, out, row, state):
            out[row, TIME] = seconds * NS_PER_SECOND + fraction * (NS_PER_SECOND // fractions)
            out[row, PLACE] = at
            rows[0] += 1
        state[_AT] = begin + captured


class Capture:
    """One capture.

    Args:
        chunks: Its bytes from the beginning, in pieces of any size.
        name: What errors call it.
        verify: Whether to compute checksums.

    Attributes:
        truncated: Where the last packet is cut short: how many of its bytes are there, and how many there must be.

    Raises:
        DecodeError: It is no classic pcap of Ethernet frames.
    """

    def __init__(self, chunks: Iterable[bytes], name: str, *, verify: bool = False) -> None:
        self._chunks = iter(chunks)
        self._name = name
        self._verify = int(verify)
        self._state = np.zeros(_SLOTS, np.int64)
        self.truncated: tuple[int, int] | None = None
        self._first = b""
        while len(self._first) < FILE_HEADER_BYTES and (more := next(self._chunks, b"")):
            self._first += more
        magic = self._first[:4]
        if magic == _PCAPNG:
            raise DecodeError("it is a pcapng capture", subject=name, hint="convert it: editcap -F pcap IN OUT")
        if magic not in _MAGICS or len(self._first) < FILE_HEADER_BYTES:
            raise DecodeError("it is no pcap capture", subject=name, position="byte 0")
        order, self._fractions = _MAGICS[magic]
        self._order = order
        major, link = struct.unpack_from(order + "4xH14xI", self._first)
        if major != 2 or link & 0xFFFF != _ETHERNET:
            raise DecodeError(
                f"version {major}, link type {link & 0xFFFF}; only version 2 with Ethernet (1) is read", subject=name
            )

    @property
    def packets(self) -> int:
        """Whole packets so far, of every kind."""
        return int(self._state[PACKETS])

    @property
    def others(self) -> int:
        """Packets so far that were no UDP over IPv4 over Ethernet."""
        return int(self._state[OTHERS])

    @property
    def clipped(self) -> int:
        """Datagrams so far that were not all there."""
        return int(self._state[CLIPPED])

    @property
    def bad_checksums(self) -> int:
        """Datagrams so far whose checksum of IP or UDP is wrong; always 0 without `verify`."""
        return int(self._state[BAD_CHECKSUMS])

    @property
    def unsummed(self) -> int:
        """Datagrams so far without a sum over their payload: none was sent, or the sender's network card was to put it.

        A capture on the sending machine shows what the card was given: the sum of the addresses alone.
        """
        return int(self._state[UNSUMMED])

    @property
    def first_bad_checksum(self) -> int:
        """The number of the first such packet, from 1."""
        return int(self._state[FIRST_BAD])

    def blocks(self) -> Iterator[tuple[Bytes, Datagrams, int]]:
        """Blocks of the capture, their datagrams, and each block's position; only once.

        Raises:
            DecodeError: The last packet is cut short, or a record cannot be; what came before was yielded. Also what
                the source of the bytes raises.
        """
        data = self._first[FILE_HEADER_BYTES:]
        base = FILE_HEADER_BYTES
        little = int(self._order == "<")
        rows = np.zeros(1, np.int64)
        failure: DecodeError | None = None
        ended = False
        while True:
            block = np.frombuffer(data, np.uint8)
            self._state[_AT] = 0
            status = _ROOM_USED
            while status == _ROOM_USED:
                out = np.empty((_DATAGRAMS_PER_BLOCK, DATAGRAM_COLUMNS), np.int64)
                status = _take_records(block, little, self._fractions, self._verify, out, rows, self._state)
                if rows[0]:
                    yield block, out[: rows[0]], base
            done = int(self._state[_AT])
            base += done
            data = data[done:]
            if status == _BAD_RECORD:
                raise DecodeError(
                    f"packet {self.packets + 1} has a header that cannot be",
                    subject=self._name,
                    position=f"byte {base}",
                )
            if ended:
                break
            try:
                more = next(self._chunks, None)
            except DecodeError as error:
                failure, more = error, None
            if more is None:
                ended = True
            else:
                data += more
        if failure is not None:
            raise failure
        if data:
            raise self._cut_off(data, base)

    def datagrams(self) -> Iterator[Datagram]:
        """One datagram after the other; raises as `blocks`."""
        for block, found, _base in self.blocks():
            for time, port, begin, end, _place in found.tolist():
                yield Datagram(time, port, block[begin:end].tobytes())

    def _cut_off(self, rest: bytes, base: int) -> DecodeError:
        have, want = len(rest), RECORD_HEADER_BYTES
        if have >= RECORD_HEADER_BYTES:
            have -= RECORD_HEADER_BYTES
            (want,) = struct.unpack_from(self._order + "8xI", rest)
        self.truncated = (have, want)
        return DecodeError(
            f"packet {self.packets + 1} is cut short: {have} of {want} bytes",
            subject=self._name,
            position=f"byte {base}",
            hint="all packets before it were read",
        )
