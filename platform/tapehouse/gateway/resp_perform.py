"""What RESP connections ask, done with the KV: requests that were handed out become replies.

The requests of one connection take effect in their order: a read sees the writes before it, at every level. Neighbours
of one kind go together, so that they share frames and barriers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from tapehouse.core.clock import Clock
from tapehouse.core.errors import TapehouseError
from tapehouse.gateway.resp_commands import COMMANDS
from tapehouse.gateway.resp_replies import (
    OK,
    batch_reply,
    error,
    error_reply,
    integer,
    read_reply,
    value,
    verbatim,
    write_reply,
)
from tapehouse.gateway.resp_requests import Plain, Read, Rebalance, Write
from tapehouse.gateway.resp_scan import Cursors, Scan
from tapehouse.gateway.resp_session import Asked, Together
from tapehouse.gateway.resp_words import Refused
from tapehouse.kv.client import Kv
from tapehouse.kv.levels import Level, Session
from tapehouse.kv.reference import Stored

READ_KEYS_AT_ONCE = 256  # of one connection, whose values are in memory together
READ_BYTES_MAX = 32 * 1024 * 1024  # of the values of one request


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """What the connections of one gateway share.

    Attributes:
        info: The text of INFO.
        keys: How many keys there are.
        rebalance: Begins to spread the slots over so many shards.
    """

    kv: Kv
    clock: Clock
    cursors: Cursors
    info: Callable[[], str]
    keys: Callable[[], int]
    rebalance: Callable[[int], Awaitable[None]]

    async def perform(self, asked: Iterable[Asked], version: int) -> AsyncIterator[tuple[int, bytes]]:
        """Do what a connection asked, in its order; the number of each request, and its reply.

        Args:
            version: Of RESP.
        """
        for _, run in groupby(asked, key=lambda one: isinstance(one.request, Write | Together)):
            for together in _portions(list(run)):
                replies = await asyncio.gather(*(self._reply(one, version) for one in together))
                for one, reply in zip(together, replies, strict=True):
                    yield one.number, reply

    async def _reply(self, asked: Asked, version: int) -> bytes:
        try:
            return await self._do(asked, version)
        except Refused as refused:
            return error(refused.text)
        except TapehouseError as problem:
            return error_reply(problem)

    async def _do(self, asked: Asked, version: int) -> bytes:
        request, level = asked.request, asked.level
        session = level if isinstance(level, Session) else None
        if isinstance(request, Read):
            found = await self._read(request.keys, level)
            return read_reply(request, found, self.clock.time_ns(), version)
        if isinstance(request, Write):
            return await self._write(request, session, version)
        if isinstance(request, Together):
            outcome = await self.kv.batch([write.entries[0] for write in request.writes], session=session)
            return batch_reply(request.writes, outcome.outcomes, version)
        if isinstance(request, Scan):
            return await self._scan(request, level, version)
        if isinstance(request, Rebalance):
            await self.rebalance(request.shards)
            return OK
        assert isinstance(request, Plain)
        if COMMANDS[request.command - 1].name == "DBSIZE":
            return integer(self.keys())
        return verbatim(self.info(), version)

    async def _read(self, keys: list[bytes], level: Level) -> list[Stored | None]:
        found: list[Stored | None] = []
        size = 0
        for first in range(0, len(keys), READ_KEYS_AT_ONCE):
            portion = keys[first : first + READ_KEYS_AT_ONCE]
            rows = await asyncio.gather(*(self.kv.get(key, level) for key in portion))
            size += sum(len(row.value) for row in rows if row)
            if size > READ_BYTES_MAX:
                raise Refused(f"ERR the values have more than {READ_BYTES_MAX} bytes: ask for fewer keys at once")
            found += rows
        return found

    async def _write(self, write: Write, session: Session | None, version: int) -> bytes:
        """Several keys go to their shards at once; where one fails, the others are waited for all the same."""
        ends = await asyncio.gather(
            *(self.kv.write(entry, session=session) for entry in write.entries), return_exceptions=True
        )
        outcomes = []
        for end in ends:
            if isinstance(end, BaseException):
                raise end
            outcomes.append(end)
        return write_reply(write, outcomes, version)

    async def _scan(self, scan: Scan, level: Level, version: int) -> bytes:
        """One page; as Redis does, it may hold fewer keys than were asked for, or none, and still not be the last."""
        after = self.cursors.after(scan.cursor)
        if scan.kind not in (None, b"string"):
            return value([b"0", []], version)
        prefix = scan.pattern.prefix if scan.pattern else b""
        rows = await self.kv.scan(prefix, level, after=after, limit=scan.limit)
        keys = [key for key, _ in rows if scan.pattern is None or scan.pattern.matches(key)]
        cursor = self.cursors.give(rows[-1][0]) if len(rows) == scan.limit else 0
        return value([b"%d" % cursor, keys], version)


def _portions(run: list[Asked]) -> Iterator[list[Asked]]:
    """A run of requests in parts that read READ_KEYS_AT_ONCE keys each; what reads none goes with those before it."""
    first = keys = 0
    for place, one in enumerate(run):
        keys += len(one.request.keys) if isinstance(one.request, Read) else 0
        if keys > READ_KEYS_AT_ONCE and place > first:
            yield run[first:place]
            first, keys = place, len(one.request.keys) if isinstance(one.request, Read) else 0
    yield run[first:]
