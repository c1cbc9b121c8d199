"""MoldUDP64 received live: one or two lines and the retransmission server, into whatever takes messages in order."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from tapehouse.core.clock import Clock
from tapehouse.core.errors import DecodeError, MissingError
from tapehouse.feeds.arbitration import Event
from tapehouse.feeds.live.addresses import Address
from tapehouse.feeds.mold_receiver import MoldReceiver

QUEUE_MAX = 16_384  # datagrams; what finds no room is lost, and asked for again
SOCKET_BYTES = 8 << 20
TICK_NS = 10_000_000
DRAIN_MAX = 256  # datagrams between two times that what came out is handed on
ANSWER = -1  # as a line: from the retransmission server
Handed = Callable[[list[Event]], Awaitable[None]]


class MoldRecorder:
    """Receives one feed until its session ends or it is told to stop.

    Args:
        lines: Where each line's packets come: an address of this machine, or a multicast group.
        retransmission: Whom to ask for what is missing; None: nobody.
        interface: Address of the network interface on which groups are joined.
    """

    def __init__(
        self,
        lines: Sequence[Address],
        retransmission: Address | None,
        *,
        clock: Clock,
        interface: str = "0.0.0.0",
    ) -> None:
        self.receiver = MoldReceiver(len(lines), retransmission=retransmission is not None)
        self.overruns = 0  # datagrams that found no room
        self._lines, self._retransmission, self._clock, self._interface = lines, retransmission, clock, interface
        self._queue: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(QUEUE_MAX)
        self._asker: asyncio.DatagramTransport | None = None

    async def run(self, handed: Handed, stop: asyncio.Event, *, on_ready: Callable[[], None] | None = None) -> None:
        """Receive; `handed` gets what came out, in order, and may wait.

        Raises:
            MissingError: An address cannot be had.
        """
        loop = asyncio.get_running_loop()
        transports: list[asyncio.BaseTransport] = []
        stopped = asyncio.create_task(stop.wait())
        try:
            for at, address in enumerate(self._lines):
                opened = await loop.create_datagram_endpoint(self._protocol(at), sock=self._socket(address))
                transports.append(opened[0])
            if self._retransmission is not None:
                self._asker, _ = await loop.create_datagram_endpoint(
                    self._protocol(ANSWER), remote_addr=self._retransmission
                )
                transports.append(self._asker)
            if on_ready:
                on_ready()
            while not stop.is_set() and not self.receiver.ended:
                await self._turn(stopped)
                await handed(self.receiver.take())
        finally:
            stopped.cancel()
            for transport in transports:
                transport.close()

    async def _turn(self, stopped: asyncio.Task[bool]) -> None:
        """Wait for a datagram or a tick; take in what is there, ask for what is missing."""
        if self._queue.empty():
            coming = asyncio.ensure_future(self._queue.get())
            tick = asyncio.ensure_future(self._clock.sleep_until(self._clock.monotonic_ns() + TICK_NS))
            await asyncio.wait({coming, tick, stopped}, return_when=asyncio.FIRST_COMPLETED)
            tick.cancel()
            if coming.done():
                self._take_in(*coming.result())
            else:
                coming.cancel()
        for _ in range(DRAIN_MAX):
            if self._queue.empty():
                break
            self._take_in(*self._queue.get_nowait())
        self.receiver.elapsed(self._clock.monotonic_ns())
        for request in self.receiver.take_requests():
            if self._asker is not None:
                self._asker.sendto(request)

    def _take_in(self, line: int, datagram: bytes) -> None:
        now = self._clock.monotonic_ns()
        with suppress(DecodeError):  # counted there; what it held is missing now, and told as such
            if line == ANSWER:
                self.receiver.receive_answer(datagram, now)
            else:
                self.receiver.receive(line, datagram, now)

    def _protocol(self, line: int) -> Callable[[], _Inbox]:
        return lambda: _Inbox(self, line)

    def _socket(self, address: Address) -> socket.socket:
        """A bound socket, member of its group where the address is one."""
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.setblocking(False)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
            if ipaddress.ip_address(socket.gethostbyname(address[0])).is_multicast:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                group = socket.inet_aton(address[0]) + socket.inet_aton(self._interface)
                opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            opened.bind(address)
        except OSError as error:
            opened.close()
            raise MissingError(
                f"cannot receive there: {error}", subject=f"{address[0]}:{address[1]}", hint="check --mold"
            ) from error
        return opened

    def put(self, line: int, datagram: bytes) -> None:
        """One datagram came."""
        try:
            self._queue.put_nowait((line, datagram))
        except asyncio.QueueFull:
            self.overruns += 1


class _Inbox(asyncio.DatagramProtocol):
    """One socket's datagrams into the recorder's queue."""

    def __init__(self, recorder: MoldRecorder, line: int) -> None:
        self._recorder, self._line = recorder, line

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._recorder.put(self._line, data)

    def error_received(self, exc: Exception) -> None:
        """A request that nobody received: it is sent again by its own time."""
