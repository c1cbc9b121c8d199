"""One HTTP connection from outside: what it holds and takes is counted on its way to the protocol that parses it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapehouse.gateway.http_server import HttpServer

TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 2\r\n"
    b"Connection: close\r\nContent-Length: 86\r\n\r\n"
    b'{"title":"Service Unavailable","status":503,"code":"busy","detail":"too many clients"}'
)


class Guard(asyncio.Protocol):
    """Hands everything on to `inner`, a protocol of aiohttp's.

    Attributes:
        received: Bytes that came and are not worked off.
        owed: Bytes of the answer that is being sent.
        body_bytes: Of the request under way, once its body was read.
    """

    def __init__(self, server: HttpServer, inner: asyncio.Protocol) -> None:
        self.inner = inner
        self.received = 0
        self.owed = 0
        self.body_bytes = 0
        self.is_active = False
        self._server = server
        self._transport: Any = None
        self._is_in = False
        self._left = 0  # that the client had not taken when it was last looked at
        self._moved = 0.0  # loop time at which it last took something
        self._gone: asyncio.Future[None] | None = None

    # What the socket tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._is_in = self._server.admit(self)
        if self._is_in:
            self.inner.connection_made(transport)
        else:
            self._transport.write(TOO_MANY)
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if not self._is_in:
            return
        self._server.traffic.bytes_in += len(data)
        self.received += len(data)
        self._server.holds(self, len(data))
        if not self._transport.is_closing():
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received() if self._is_in else None

    def pause_writing(self) -> None:
        if self._is_in:
            self.inner.pause_writing()
            self._look_after()

    def resume_writing(self) -> None:
        if self._is_in:
            self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_in:
            self._server.leave(self)
            self._is_in = False
            self.inner.connection_lost(exc)
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    # What the server tells.

    @property
    def held(self) -> int:
        """Bytes that are kept for this client."""
        return self.received + self.owed

    def begin(self, head_bytes: int) -> None:
        """A request's head was taken."""
        self.is_active = True
        self.body_bytes = 0
        self._work_off(head_bytes)

    def owe(self, size: int) -> None:
        """An answer of so many bytes is about to be sent."""
        if self._is_in:
            self.owed = size
            self._server.holds(self, size)

    def end(self) -> None:
        """The request under way has its answer, which its client may not have taken yet."""
        self.is_active = False
        if self._is_in:
            owed, self.owed = self.owed, 0
            self._server.holds(self, -owed)
        self._work_off(self.body_bytes)
        if self.is_stuck:
            self._look_after()

    def gone(self) -> asyncio.Future[None]:
        """A future that ends with the connection."""
        if self._gone is None:
            self._gone = asyncio.get_running_loop().create_future()
            if not self._is_in:
                self._gone.set_result(None)
        return self._gone

    @property
    def is_stuck(self) -> bool:
        """Whether the client has not taken what it was sent."""
        return self._is_in and self._transport.get_write_buffer_size() > 0

    def is_overdue(self, now: float, stalled_s: float) -> bool:
        """Whether it took nothing for too long.

        Args:
            now: Loop time.
        """
        left = self._transport.get_write_buffer_size()
        if left != self._left:
            self._left, self._moved = left, now
        return bool(left) and now - self._moved > stalled_s

    def cut(self, why: str) -> None:
        """Close at once, whatever is unanswered or unsent."""
        if self._is_in:
            self._server.traffic.cut[why] += 1
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _look_after(self) -> None:
        self._left, self._moved = self._transport.get_write_buffer_size(), asyncio.get_running_loop().time()
        self._server.watch(self)

    def _work_off(self, size: int) -> None:
        if self._is_in:
            size = min(size, self.received)
            self.received -= size
            self._server.holds(self, -size)
