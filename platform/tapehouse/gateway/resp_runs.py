"""Runs of plain GET and plain SET, from the rows of a socket read to the view and to frames in compiled code.

What a run holds beyond the ordinary (a value that is not in memory, a slot that has moved) is done key by key, by the
same `Kv` as everything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np

from tapehouse.core.errors import TapehouseError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.gateway.resp_commands import NUMBERS
from tapehouse.gateway.resp_layout import AT, BYTES, COMMAND, COUNT, FIRST, PLACE, POSITION, REQUESTS
from tapehouse.gateway.resp_parse import NAMES, Rows, parse
from tapehouse.gateway.resp_replies import OK, REFUSALS, bulk, error, error_reply, null
from tapehouse.kv.bulk import (
    KEY_AT,
    KEY_BYTES,
    KEY_SHARD,
    KEY_WORDS,
    MISSING,
    REPLY_AT,
    VALUE_AT,
    VALUE_BYTES,
    has_prefix,
    locate,
    prefix_table,
    route,
)
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import BODY_BYTES_MAX, ENTRY_BYTES, KEY_BYTES_MAX, Status, read_entries, revision_parts
from tapehouse.kv.flights import AppliedPack
from tapehouse.kv.levels import Eventual, Level, Linearizable, Session
from tapehouse.kv.many import Many, Pack
from tapehouse.kv.requests import RESERVED
from tapehouse.kv.submitted import MOVING
from tapehouse.kv.words import copy_bytes

GET, SET = NUMBERS["GET"], NUMBERS["SET"]
GET_WORDS, SET_WORDS = 2, 3
RUN_MAX = 256  # requests of one run, whose answers are in memory together
REPLY_BYTES_MAX = 1024 * 1024  # of replies that are made at once
REPLY_HEAD_BYTES = 16  # that a reply takes at most beside its value
_CR, _LF, _DOLLAR, _ZERO, _MINUS, _ONE, _UNDERSCORE = b"\r\n$0-1_"


@dataclass(slots=True)
class ReadRun:
    """Neighbouring GETs: where their keys lie; then, whether their shards were reached."""

    data: Any
    keys: Any
    count: int
    shards: list[int] = field(default_factory=list)
    problem: TapehouseError | None = None


@dataclass(slots=True)
class WriteRun:
    """Neighbouring SETs, as entries; `shards` is that of each of them in turn."""

    packs: list[Pack]
    shards: list[int]
    count: int


Run = ReadRun | WriteRun


@kernel()
def find_run(
    data: Array, requests: Array, arguments: Array, first: Int, end: Int, keys: Array, prefixes: Array, command: Int,
    words: Int,
) -> Any:  # fmt: skip
    """How many requests from `first` on have this command and so many words; their keys and values into `keys`.

    A run ends before a key that is too long or begins with one of `prefixes`, and where no frame would hold it.
    """
    count, size = 0, 0
    while first + count < end and count < RUN_MAX:
        request = first + count
        if requests[request, COMMAND] != command or requests[request, COUNT] != words:
            break
        key = requests[request, FIRST] + 1
        at, key_bytes = arguments[key, PLACE], arguments[key, BYTES]
        if key_bytes > KEY_BYTES_MAX or has_prefix(prefixes, data, at, key_bytes):
            break
        if words == SET_WORDS:
            size += ENTRY_BYTES + key_bytes + arguments[key + 1, BYTES]
            if size > BODY_BYTES_MAX:
                break
            keys[count, VALUE_AT] = arguments[key + 1, PLACE]
            keys[count, VALUE_BYTES] = arguments[key + 1, BYTES]
        keys[count, KEY_AT] = at
        keys[count, KEY_BYTES] = key_bytes
        count += 1
    return count


@kernel(inline=True)
def digits_of(number: Int) -> Any:
    """How many decimal digits a number from 0 on has."""
    digits = 1
    while number >= 10:
        number //= 10
        digits += 1
    return digits


@kernel()
def place_replies(keys: Array, first: Int, count: Int, null_bytes: Int, bytes_max: Int) -> Any:
    """Where each reply from `first` on will begin, as far as they fit into `bytes_max` and values are in memory.

    Returns:
        (how many, their bytes)
    """
    at, done = 0, 0
    for index in range(first, count):
        size = keys[index, VALUE_BYTES]
        if size < MISSING:
            break
        length = null_bytes if size == MISSING else size + digits_of(size) + 5
        if at + length > bytes_max:
            break
        keys[index, REPLY_AT] = at
        at += length
        done += 1
    return done, at


@kernel()
def write_replies(arena: Array, keys: Array, first: Int, end: Int, shard: Int, version: Int, out: Array) -> None:
    """Write the replies to this shard's keys at their places: bulk strings, or null."""
    for index in range(first, end):
        if keys[index, KEY_SHARD] != shard:
            continue
        at, size = keys[index, REPLY_AT], keys[index, VALUE_BYTES]
        if size == MISSING:
            if version == 2:
                out[at], out[at + 1], out[at + 2] = _DOLLAR, _MINUS, _ONE
                at += 3
            else:
                out[at] = _UNDERSCORE
                at += 1
        else:
            out[at] = _DOLLAR
            digits = digits_of(size)
            rest = size
            for place in range(digits):
                out[at + digits - place] = _ZERO + rest % 10
                rest //= 10
            out[at + digits + 1], out[at + digits + 2] = _CR, _LF
            at += digits + 3
            copy_bytes(out, at, arena, keys[index, VALUE_AT], size)
            at += size
        out[at], out[at + 1] = _CR, _LF


@kernel()
def finish_run(
    data: Array, keys: Array, count: Int, owners: Array, rows: Array, directory: Array, arena: Array, state: Array,
    now: Int, null_bytes: Int, version: Int, out: Array,
) -> Any:  # fmt: skip
    """The replies to a run whose view may be read now, in a KV of one shard.

    Args:
        now: As `locate` takes it.

    Returns:
        (how many requests were answered, the bytes of their replies in `out`)
    """
    if route(data, keys, count, owners) != 0:
        return 0, 0
    locate(rows, directory, arena, state, data, keys, count, 0, now)
    done, size = place_replies(keys, 0, count, null_bytes, REPLY_BYTES_MAX)
    write_replies(arena, keys, 0, done, 0, version, out)
    return done, size


@kernel()
def answer_read(
    names: Array, data: Array, end: Int, requests: Array, arguments: Array, marks: Array, keys: Array, prefixes: Array,
    owners: Array, rows: Array, directory: Array, arena: Array, state: Array, now: Int, null_bytes: Int, version: Int,
    out: Array,
) -> Any:  # fmt: skip
    """All that becomes of the run with which a socket read begins, as `finish_run`; nothing of the read is changed.

    Args:
        marks: As `parse` takes its `state`.

    Returns:
        (how many requests were answered, the bytes of the read that they took, the bytes of their replies in `out`)
    """
    parse(names, data, 0, end, requests, arguments, marks, RUN_MAX, 1, 0)
    found = marks[REQUESTS]
    count = find_run(data, requests, arguments, 0, found, keys, prefixes, GET, GET_WORDS)
    done, size = finish_run(data, keys, count, owners, rows, directory, arena, state, now, null_bytes, version, out)
    used = marks[POSITION] if done == found else requests[done, AT]
    return done, used, size


class KvRuns:
    """Finds runs in what was read, answers those that can be answered at once, and does the others."""

    def __init__(self, kv: Kv) -> None:
        self._kv = kv
        self._many = Many(kv)
        self._prefixes = prefix_table([RESERVED, *kv.derived_prefixes])
        self._keys = np.zeros((RUN_MAX, KEY_WORDS), np.int64)
        self._out = np.empty(REPLY_BYTES_MAX, np.uint8)
        self._tasks: set[asyncio.Task[bytes]] = set()  # of runs that were started without one, and need one

    def read_at_once(self, data: Any, size: int, rows: Rows, level: Level, version: int) -> tuple[int, int, bytes]:
        """Answer the GETs with which a socket read begins, where that is the whole of what is to be done.

        Args:
            data: uint8, of which the first `size` were read; nothing is written.

        Returns:
            (how many requests, the bytes that they took, their replies)
        """
        nodes = self._kv.nodes
        if len(nodes) != 1 or not isinstance(level, Eventual) or not self._is_at([0], level):
            return 0, 0, b""
        done, used, bytes_out = answer_read(
            NAMES, data, size, rows.requests, rows.arguments, rows.state, self._keys, self._prefixes,
            self._kv.shards.owners, *nodes[0].view.arrays, self._kv.reader_time(level) or 0, len(null(version)),
            version, self._out,
        )  # fmt: skip
        return done, used, self._out[:bytes_out].tobytes()

    def take(
        self, data: Any, rows: Rows, first: int, command: int, level: Level, version: int, *, is_next: bool
    ) -> tuple[int, bytes | Run]:
        """Take a run of requests from row `first` on.

        Args:
            data: uint8, read-only, which must not change while a run that is returned is under way.
            command: Of the first of them.
            is_next: Whether nothing that was asked before waits for an answer.

        Returns:
            How many requests, 0 for none; their replies, or what `begin` or `reach` and `read` do.
        """
        end, keys = rows.state.item(REQUESTS), self._keys
        if command == SET:
            count = find_run(data, rows.requests, rows.arguments, first, end, keys, self._prefixes, SET, SET_WORDS)
            return self._take_writes(data, keys, count) if count else (0, b"")
        count = find_run(data, rows.requests, rows.arguments, first, end, keys, self._prefixes, GET, GET_WORDS)
        if not count:
            return 0, b""
        if is_next and not isinstance(level, Linearizable):
            shards = self._many.route(data, keys, count)
            if self._is_at(shards, level):
                self._many.locate(data, keys, count, shards, level)
                replies = next(self._replies(keys, count, shards, version), None)
                if replies:
                    return replies
        return count, self._read_run(data, count)

    def _read_run(self, data: Any, count: int) -> ReadRun:
        return ReadRun(data, self._keys[:count].copy(), count)

    def _is_at(self, shards: list[int], level: Level) -> bool:
        try:
            return self._many.is_at(shards, level)
        except TapehouseError:
            return False  # `perform` meets it again, and says so.

    def _take_writes(self, data: Any, keys: Any, count: int) -> tuple[int, bytes | Run]:
        shards = self._many.route(data, keys, count)
        if not all(self._kv.nodes[shard].takes_packs for shard in shards):
            return 0, b""
        each = [shards[0]] * count if len(shards) == 1 else keys[:count, KEY_SHARD].tolist()
        return count, WriteRun(self._many.packs(data, keys, count, shards), each, count)

    def _replies(self, keys: Any, count: int, shards: list[int], version: int) -> Iterator[tuple[int, bytes]]:
        """Replies to keys that were located, in pieces: of how many, and their bytes. It ends at a value elsewhere."""
        first = 0
        null_bytes = len(null(version))
        while first < count:
            done, size = place_replies(keys, first, count, null_bytes, REPLY_BYTES_MAX)
            if not done:
                return
            for shard in shards:
                write_replies(
                    self._kv.nodes[shard].view.arrays[2], keys, first, first + done, shard, version, self._out
                )
            yield done, self._out[:size].tobytes()
            first += done

    def start(self, run: Run, level: Level, version: int, done: Callable[[bytes | BaseException], None]) -> bool:
        """Begin a run for whoever has nothing else under way, without a task, where that can be done.

        Args:
            done: Called once, later, with the replies or a fault of ours.

        Returns:
            False where nothing was begun, and it takes `begin`, or `reach` and `read`.
        """
        try:
            if isinstance(run, WriteRun):
                if len(run.packs) != 1 or isinstance(level, Session):
                    return False
                (pack,) = run.packs
                written = self._kv.nodes[pack.shard].submit_pack(pack.body, pack.count)
                written.add_done_callback(partial(self._written, run, level, done))
            else:
                if len(self._kv.nodes) != 1 or not isinstance(level, Linearizable):
                    return False
                self._kv.nodes[0].join().add_done_callback(partial(self._reached, run, level, version, done))
        except TapehouseError as problem:
            asyncio.get_running_loop().call_soon(done, error_reply(problem) * run.count)
        return True

    def _written(
        self, run: WriteRun, level: Level, done: Callable[[bytes | BaseException], None],
        written: asyncio.Future[AppliedPack],
    ) -> None:  # fmt: skip
        if written.cancelled() or written.exception() is not None or written.result().rows[:, 0].any():
            self._finish(self._end(run, [written], level), done)
        else:
            done(OK * run.count)

    def _reached(
        self, run: ReadRun, level: Level, version: int, done: Callable[[bytes | BaseException], None],
        reached: asyncio.Future[int],
    ) -> None:  # fmt: skip
        problem = None if reached.cancelled() else reached.exception()
        if isinstance(problem, TapehouseError):
            done(error_reply(problem) * run.count)
            return
        count = size = 0
        if problem is None and not reached.cancelled() and len(self._kv.nodes) == 1:
            count, size = finish_run(
                run.data, run.keys, run.count, self._kv.shards.owners, *self._kv.nodes[0].view.arrays, 0,
                len(null(version)), version, self._out,
            )  # fmt: skip
        if count == run.count:
            done(self._out[:size].tobytes())
        else:  # Some values must be read from the log, or slots have moved: all of it again, with patience.
            self._finish(self._read_all(run, level, version), done)

    async def _read_all(self, run: ReadRun, level: Level, version: int) -> bytes:
        await self.reach([run], level)
        return await self.read(run, level, version)

    def _finish(self, replies: Coroutine[Any, Any, bytes], done: Callable[[bytes | BaseException], None]) -> None:
        """Have a run done that takes a task after all."""

        def tell(task: asyncio.Task[bytes]) -> None:
            self._tasks.discard(task)
            problem = asyncio.CancelledError() if task.cancelled() else task.exception()
            done(problem if problem is not None else task.result())

        task = asyncio.get_running_loop().create_task(replies)
        self._tasks.add(task)
        task.add_done_callback(tell)

    async def reach(self, runs: Sequence[ReadRun], level: Level) -> None:
        """Wait until the keys of some runs may be read at a level; where that fails, each of them says so."""
        shards: set[int] = set()
        for run in runs:
            run.shards = self._many.route(run.data, run.keys, run.count)
            shards.update(run.shards)
        try:
            await self._many.reach(sorted(shards), level)
        except TapehouseError as problem:
            for run in runs:
                run.problem = problem

    async def read(self, run: ReadRun, level: Level, version: int) -> bytes:
        """The replies to a run of GETs whose keys were reached."""
        if run.problem is not None:
            return error_reply(run.problem) * run.count
        self._many.locate(run.data, run.keys, run.count, run.shards, level)
        done, pieces = 0, []
        for taken, replies in self._replies(run.keys, run.count, run.shards, version):
            done += taken
            pieces.append(replies)
        for at, size in run.keys[done:, : KEY_BYTES + 1].tolist():
            pieces.append(await self._read_one(run.data[at : at + size].tobytes(), level, version))
        return b"".join(pieces)

    async def _read_one(self, key: bytes, level: Level, version: int) -> bytes:
        try:
            row = await self._kv.get(key, level)
        except TapehouseError as problem:
            return error_reply(problem)
        return null(version) if row is None else bulk(row.value)

    def begin(self, run: WriteRun, level: Level) -> Callable[[], Awaitable[bytes]]:
        """Give a run of SETs to its shards' writers, each shard's part for a frame of its own; what gives the replies.

        A part that fails leaves the others as they are.
        """
        waiting: list[asyncio.Future[AppliedPack] | TapehouseError] = []
        for pack in run.packs:
            try:
                waiting.append(self._kv.nodes[pack.shard].submit_pack(pack.body, pack.count))
            except TapehouseError as problem:
                waiting.append(problem)
        return partial(self._end, run, waiting, level)

    async def _end(
        self, run: WriteRun, waiting: Sequence[asyncio.Future[AppliedPack] | TapehouseError], level: Level
    ) -> bytes:
        told: dict[int, Iterator[bytes]] = {}
        for pack, end in zip(run.packs, waiting, strict=True):
            try:
                if isinstance(end, TapehouseError):
                    raise end
                applied = await end
            except TapehouseError as problem:
                told[pack.shard] = repeat(error_reply(problem), pack.count)
                continue
            self._note(pack, applied, level)
            statuses = applied.rows[:, 0]
            if statuses.any():
                told[pack.shard] = iter(await self._write_again(pack, statuses.tolist(), level))
            elif len(run.packs) == 1:
                return OK * run.count
            else:
                told[pack.shard] = repeat(OK, pack.count)
        return b"".join([next(told[shard]) for shard in run.shards])

    def _note(self, pack: Pack, applied: AppliedPack, level: Level) -> None:
        if isinstance(level, Session):
            epoch = revision_parts(int(applied.rows[:, 1].max()))[0]
            level.note(self._kv.nodes[pack.shard].token_at(applied.sequence, epoch))

    async def _write_again(self, pack: Pack, statuses: list[int], level: Level) -> list[bytes]:
        """The replies to a part of which some was not applied; what was meant for another shard is written there."""
        session = level if isinstance(level, Session) else None
        replies = []
        for entry, status in zip(read_entries(pack.body, pack.count), statuses, strict=True):
            if status in MOVING:
                try:
                    outcome = await self._kv.write(entry, session=session)
                    status = outcome.status
                except TapehouseError as problem:
                    replies.append(error_reply(problem))
                    continue
            replies.append(OK if status == Status.APPLIED else error(REFUSALS[Status(status)]))
        return replies
