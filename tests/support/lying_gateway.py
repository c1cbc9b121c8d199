"""A small RESP server that keeps values in a dictionary and, on demand, answers what no gateway may."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tapehouse.app.kv_load.replies import ReplyReader

Lie = Callable[[bytes, list[bytes]], bytes | None]  # of a key and all its values so far: what GET gives


class LyingGateway:
    """Answers AUTH, READLEVEL, INFO, SET, GET and DEL.

    Attributes:
        lie: What GET answers; the last value by default.
        refuse: Whether the n-th write is answered as not done, though it was.
        cut: After how many requests of all a connection is closed, once.
        stall: Waited for before the n-th request is answered.
    """

    def __init__(
        self,
        lie: Lie = lambda _, values: values[-1] if values else None,
        *,
        refuse: Callable[[int], bool] = lambda _: False,
        cut: int = 0,
        stall: dict[int, float] | None = None,
    ) -> None:
        self.lie, self.refuse, self.cut, self.stall = lie, refuse, cut, stall or {}
        self.values: dict[bytes, list[bytes]] = {}
        self.requests = self.writes = 0
        self.heard: list[bytes] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests = ReplyReader()  # An array of strings looks the same in both directions.
        try:
            while data := await reader.read(65_536):
                for words in requests.feed(data):
                    assert isinstance(words, list)
                    self.requests += 1
                    if self.requests == self.cut:
                        return
                    if self.requests in self.stall:
                        await asyncio.sleep(self.stall[self.requests])
                    writer.write(self._answer([word for word in words if isinstance(word, bytes)]))
        finally:
            writer.close()

    def _answer(self, words: list[bytes]) -> bytes:
        command, key = words[0], words[1] if len(words) > 1 else b""
        self.heard.append(command)
        if command == b"GET":
            value = self.lie(key, self.values.get(key, []))
            return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)
        if command == b"SET":
            self.writes += 1
            self.values.setdefault(key, []).append(words[2])
            return b"-BUSY not now\r\n" if self.refuse(self.writes) else b"+OK\r\n"
        if command == b"INFO":
            return b"$25\r\ntapehouse_version:0.0.0\r\n\r\n"
        if command == b"DEL":
            for each in words[1:]:
                self.values.pop(each, None)
            return b":%d\r\n" % (len(words) - 1)
        return b"+OK\r\n"

    @asynccontextmanager
    async def open(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """Serve; the port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
