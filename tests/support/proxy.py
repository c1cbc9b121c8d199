"""A TCP proxy in user space that loses what it is told to lose: network faults without a privileged kernel."""

from __future__ import annotations

import asyncio
import contextlib

CHUNK_BYTES = 65_536
CONNECTIONS_MAX = 256


class TcpProxy:
    """Forwards connections to one target; `lose_answers` and `lose_requests` discard what flows one way."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.lose_answers = False
        self.lose_requests = False
        self.lost_bytes = 0

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where the proxy listens."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """The proxy as a NATS URL."""
        return f"nats://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection now."""
        for writer in self._writers:
            writer.transport.abort()

    def heal(self) -> None:
        """Lose nothing more; connections that lost bytes are broken, since their streams are."""
        self.lose_answers = self.lose_requests = False
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert len(self._writers) < CONNECTIONS_MAX
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        self._writers |= pair
        known: set[str] = set()
        there = asyncio.create_task(self._pump(reader, far_writer, known, requests=True))
        back = asyncio.create_task(self._pump(far_reader, writer, known, requests=False))
        self._tasks |= {there, back}
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        for side in pair:
            side.transport.abort()
        await asyncio.gather(there, back, return_exceptions=True)
        self._tasks -= {there, back}
        self._writers -= pair

    def loses(self, chunk: bytes, known: set[str], *, requests: bool) -> bool:
        """Whether this is discarded.

        Args:
            known: What was learnt of the connection so far; empty at first.
        """
        return self.lose_requests if requests else self.lose_answers

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, known: set[str], *, requests: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                if self.loses(chunk, known, requests=requests):
                    self.lost_bytes += len(chunk)
                    continue
                writer.write(chunk)
                await writer.drain()
