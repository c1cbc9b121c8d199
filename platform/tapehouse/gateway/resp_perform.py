"""What RESP connections ask, done with the KV: requests that were handed out become replies.

The requests of one connection take effect in their order: a read sees the writes before it, at every level. Neighbours
of one kind go together, so that they share frames and barriers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import groupby, islice

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
from tapehouse.gateway.resp_runs import KvRuns, ReadRun, WriteRun
from tapehouse.gateway.resp_scan import Cursors, Scan
from tapehouse.gateway.resp_session import Asked, Together
from tapehouse.gateway.resp_words import Refused
from tapehouse.kv.client import Kv
from tapehouse.kv.levels import Level, Session
from tapehouse.kv.reference import Stored
from tapehouse.kv.submitted import Submitted, SubmittedBatch

READ_KEYS_AT_ONCE = 256  # of one connection, whose values are in memory together
READ_BYTES_MAX = 32 * 1024 * 1024  # of the values of one request


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """What the connections of one gateway share.

    Attributes:
        info: The text of INFO.
        keys: How many keys there are.
        rebalance: Begins to spread the slots over so many shards.
        runs: Does runs of GET and SET.
    """

    kv: Kv
    clock: Clock
    cursors: Cursors
    info: Callable[[], str]
    keys: Callable[[], int]
    rebalance: Callable[[int], Awaitable[None]]
    runs: KvRuns

    async def perform(self, asked: Iterable[Asked]) -> AsyncIterator[tuple[int, bytes]]:
        """Do what a connection asked, in its order; the number of each request, and its reply."""
        for (kind, _), run in groupby(asked, key=_kind):
            if kind is _Kind.WRITE:  # All are submitted before the first is waited for.
                for number, ending in [(one.number, self._begin(one)) for one in run]:
                    yield number, await _told(ending())
            elif kind is _Kind.READ:
                for together in _portions(list(run)):
                    async for number, reply in self._read_all(together):
                        yield number, reply
            elif kind is _Kind.READ_RUN:
                runs = [(one, one.request) for one in run if isinstance(one.request, ReadRun)]
                await self.runs.reach([request for _, request in runs], runs[0][0].level)
                for one, request in runs:
                    yield one.number, await self.runs.read(request, one.level, one.version)
            else:
                for one in run:
                    yield one.number, await _told(self._do(one))

    def _begin(self, asked: Asked) -> Callable[[], Awaitable[bytes]]:
        """Submit a write; what gives its reply."""
        try:
            return self._submit(asked)
        except TapehouseError as problem:
            return partial(_refused, problem)

    def _submit(self, asked: Asked) -> Callable[[], Awaitable[bytes]]:
        request = asked.request
        session = asked.level if isinstance(asked.level, Session) else None
        if isinstance(request, WriteRun):
            return self.runs.begin(request, asked.level)
        if isinstance(request, Together):
            entries = [write.entries[0] for write in request.writes]
            return partial(self._tell_batch, request, self.kv.submit_batch(entries, session=session), asked.version)
        assert isinstance(request, Write)
        return partial(self._tell_write, request, self.kv.submit(request.entries, session=session), asked.version)

    async def _tell_write(self, write: Write, submitted: Submitted, version: int) -> bytes:
        """Where some keys fail, the others are waited for all the same."""
        outcomes = []
        for outcome in await submitted.outcomes():
            if isinstance(outcome, TapehouseError):
                raise outcome
            outcomes.append(outcome)
        return write_reply(write, outcomes, version)

    async def _tell_batch(self, together: Together, submitted: SubmittedBatch, version: int) -> bytes:
        outcome = await submitted.outcome()
        return batch_reply(together.writes, outcome.outcomes, version)

    async def _read_all(self, together: list[Asked]) -> AsyncIterator[tuple[int, bytes]]:
        """Reads at one level, whose keys are waited for together."""
        keys = [key for one in together if isinstance(one.request, Read) for key in one.request.keys]
        found = iter(await self.kv.get_each(keys, together[0].level))
        for one in together:
            assert isinstance(one.request, Read)
            rows: list[Stored | None] = []
            problem: TapehouseError | None = None
            for row in islice(found, len(one.request.keys)):
                if isinstance(row, TapehouseError):
                    problem = problem or row
                else:
                    rows.append(row)
            if problem:
                yield one.number, error_reply(problem)
            else:
                yield one.number, read_reply(one.request, rows, self.clock.time_ns(), one.version)

    async def _do(self, asked: Asked) -> bytes:
        request = asked.request
        if isinstance(request, Read):
            return await self._read(request, asked.level, asked.version)
        if isinstance(request, Scan):
            return await self._scan(request, asked.level, asked.version)
        if isinstance(request, Rebalance):
            await self.rebalance(request.shards)
            return OK
        assert isinstance(request, Plain)
        if COMMANDS[request.command - 1].name == "DBSIZE":
            return integer(self.keys())
        return verbatim(self.info(), asked.version)

    async def _read(self, read: Read, level: Level, version: int) -> bytes:
        """A read of so many keys that it is done in portions."""
        found: list[Stored | None] = []
        size = 0
        for first in range(0, len(read.keys), READ_KEYS_AT_ONCE):
            for row in await self.kv.get_each(read.keys[first : first + READ_KEYS_AT_ONCE], level):
                if isinstance(row, TapehouseError):
                    raise row
                size += len(row.value) if row else 0
                found.append(row)
            if size > READ_BYTES_MAX:
                raise Refused(f"ERR the values have more than {READ_BYTES_MAX} bytes: ask for fewer keys at once")
        return read_reply(read, found, self.clock.time_ns(), version)

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


class _Kind(Enum):
    """What neighbours do together."""

    WRITE = 1
    READ = 2
    READ_RUN = 3
    ELSE = 4


def _kind(asked: Asked) -> tuple[_Kind, int]:
    """The kind of a request, and of a read its level: equal ones are done together."""
    request = asked.request
    if isinstance(request, Write | WriteRun | Together):
        return _Kind.WRITE, 0
    if isinstance(request, ReadRun):
        return _Kind.READ_RUN, id(asked.level)
    if isinstance(request, Read) and len(request.keys) <= READ_KEYS_AT_ONCE:
        return _Kind.READ, id(asked.level)
    return _Kind.ELSE, 0


def _portions(run: list[Asked]) -> Iterator[list[Asked]]:
    """Reads in parts that have READ_KEYS_AT_ONCE keys each."""
    first = keys = 0
    for place, one in enumerate(run):
        assert isinstance(one.request, Read)
        keys += len(one.request.keys)
        if keys > READ_KEYS_AT_ONCE and place > first:
            yield run[first:place]
            first, keys = place, len(one.request.keys)
    yield run[first:]


async def _refused(problem: TapehouseError) -> bytes:
    """The end of what could not even be begun."""
    raise problem


async def _told(reply: Awaitable[bytes]) -> bytes:
    """A reply, or the error that came instead of it."""
    try:
        return await reply
    except Refused as refused:
        return error(refused.text)
    except TapehouseError as problem:
        return error_reply(problem)
