"""Numbered messages served as MoldUDP64 over UDP, to one or more lines, with a retransmission server beside them.

Every line gets every packet, through faults of its own. What was sent is kept, in bounded number, and sent again to
whoever asks; where nothing is sent, heartbeats tell what the next number is. The end of the session is told until the
server is closed.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, cast

from tapehouse.core.clock import Clock
from tapehouse.core.errors import DecodeError, MissingError
from tapehouse.feeds.faults import FaultPlan, Faults, Happened, corrupt_datagram
from tapehouse.feeds.live.addresses import Address
from tapehouse.feeds.mold import HEADER_BYTES, build_end_of_session, build_packet, read_request

PACKET_BYTES_MAX = 1_400
RETAINED_MAX = 1_000_000  # messages that can be asked for again
HEARTBEAT_NS = 250_000_000
BURST_PACKETS = 16  # at full speed, before receivers have a turn
BURST_PAUSE_NS = 1_000_000
MULTICAST_HOPS = 1


class MoldServer:
    """One session.

    Args:
        lines: Where each line's packets go: unicast, or multicast groups.
        speed: A factor of the pace of the messages' own times; None for as fast as may be.
        plan: Faults; line n has those of seed + n.
        interface: Address of the network interface for multicast.
    """

    def __init__(
        self,
        lines: Sequence[Address],
        *,
        session: bytes,
        clock: Clock,
        speed: float | None = None,
        plan: FaultPlan | None = None,
        interface: str = "",
    ) -> None:
        plan = plan or FaultPlan()
        self.played = 0
        self.retransmitted = 0  # messages
        self._lines, self._session, self._clock, self._speed = tuple(lines), session, clock, speed
        self._interface = interface
        self._faults = [
            Faults(FaultPlan(seed=plan.seed + at, rates=plan.rates, at=plan.at), corrupt_datagram)
            for at in range(len(lines))
        ]
        self._kept: deque[bytes] = deque(maxlen=RETAINED_MAX)
        self._sender: asyncio.DatagramTransport | None = None
        self._answerer: asyncio.DatagramTransport | None = None
        self._ended = False
        self._packets = 0

    @property
    def faults(self) -> list[tuple[int, Happened]]:
        """What was done to which line, by the number of the packet from 0."""
        return [(line, item) for line, faults in enumerate(self._faults) for item in faults.happened]

    async def start(self, host: str = "127.0.0.1", retransmission_port: int = 0) -> int:
        """Open the sockets; the port of the retransmission server.

        Raises:
            MissingError: One cannot be had.
        """
        loop = asyncio.get_running_loop()
        try:
            self._sender, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(host, 0))
            self._answerer, _ = await loop.create_datagram_endpoint(
                lambda: _Answers(self), local_addr=(host, retransmission_port)
            )
        except OSError as error:
            self.close()
            raise MissingError(f"cannot listen: {error}", subject=f"{host}:{retransmission_port}") from error
        opened: Any = self._sender.get_extra_info("socket")
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, MULTICAST_HOPS)
        if self._interface:
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(self._interface))
        return int(self._answerer.get_extra_info("sockname")[1])

    def close(self) -> None:
        """Close the sockets."""
        for transport in (self._sender, self._answerer):
            if transport is not None:
                transport.close()

    async def play(self, messages: Iterator[tuple[int, bytes]]) -> None:
        """Send all messages, as (time in ns, message), in packets of what is due at a time; then end the session.

        Raises:
            DecodeError: The source is bad.
        """
        packet: list[bytes] = []
        size = HEADER_BYTES
        base: tuple[int, int] | None = None
        for time, message in messages:
            now = self._clock.monotonic_ns()
            base = base or (time, now)
            due = now if self._speed is None else base[1] + int((time - base[0]) / self._speed)
            if packet and (size + 2 + len(message) > PACKET_BYTES_MAX or due > now):
                await self._send(packet)
                packet, size = [], HEADER_BYTES
            while due > (now := self._clock.monotonic_ns()):
                await self._clock.sleep_until(min(due, now + HEARTBEAT_NS))
                if due > self._clock.monotonic_ns():
                    self._heartbeat()
            packet.append(message)
            size += 2 + len(message)
        if packet:
            await self._send(packet)
        for line, faults in enumerate(self._faults):
            self._put(line, faults.ended().messages)
        self._ended = True
        self._heartbeat()

    async def idle(self) -> None:
        """Tell again and again that the session has ended, until cancelled."""
        while True:
            await self._clock.sleep_until(self._clock.monotonic_ns() + HEARTBEAT_NS)
            self._heartbeat()

    def answer(self, data: bytes) -> bytes | None:
        """The packet that a request is answered with, of as many messages as fit; None where there are none."""
        try:
            request = read_request(data)
        except DecodeError:
            return None
        oldest = self.played + 1 - len(self._kept)
        if request.session != self._session or not oldest <= request.sequence <= self.played:
            return None
        found: list[bytes] = []
        size = HEADER_BYTES
        at = request.sequence - oldest
        while at < len(self._kept) and len(found) < request.count:
            size += 2 + len(self._kept[at])
            if found and size > PACKET_BYTES_MAX:
                break
            found.append(self._kept[at])
            at += 1
        self.retransmitted += len(found)
        return build_packet(self._session, request.sequence, found)

    async def _send(self, packet: list[bytes]) -> None:
        datagram = build_packet(self._session, self.played + 1, packet)
        self._kept.extend(packet)
        self.played += len(packet)
        for line, faults in enumerate(self._faults):
            self._put(line, faults.passed(self._packets, datagram).messages)
        self._packets += 1
        if self._packets % BURST_PACKETS == 0:
            await self._clock.sleep_until(self._clock.monotonic_ns() + BURST_PAUSE_NS)

    def _heartbeat(self) -> None:
        build = build_end_of_session if self._ended else build_packet
        for line in range(len(self._lines)):
            self._put(line, (build(self._session, self.played + 1),))

    def _put(self, line: int, datagrams: Sequence[bytes]) -> None:
        if self._sender is not None:
            for datagram in datagrams:
                self._sender.sendto(datagram, self._lines[line])


class _Answers(asyncio.DatagramProtocol):
    """The retransmission server's socket."""

    def __init__(self, server: MoldServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is none of asyncio's classes

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        answer = self._server.answer(data)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)
