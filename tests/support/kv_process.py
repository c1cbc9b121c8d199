"""A gateway's KV in a process of its own, which may be killed, stopped and cut off; its callers record outside of it.

`KvProcess` starts one and asks it. The process runs the product's `Kv` over a broker's logs and answers lines of JSON
with what only a `Kv` knows, revisions and session tokens, so that histories of all levels can be checked. `--flawed`
gives it errors on purpose, for negative controls: it joins barriers in flight and forgets sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tapehouse.bus import Bus, JetStreamLog, StreamAdmin, connect, kv_spec
from tapehouse.bus.process import dies_with_parent
from tapehouse.core.clock import SystemClock
from tapehouse.core.errors import BusUnavailableError, BusyError
from tapehouse.core.ids import new_writer_id
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import Status
from tapehouse.kv.errors import NotServedHereError, OutcomeUnknownError
from tapehouse.kv.faults import Faults
from tapehouse.kv.levels import EVENTUAL, LINEARIZABLE, Level, Session
from tapehouse.kv.shard_writer import ShardWriter

PROJECT = Path(__file__).resolve().parents[2]
LINE_BYTES_MAX = 1 << 20
START_S = 240.0  # a first start compiles
ANSWER_S = 20.0  # longer than any patience within
STOP_S = 15.0
LATE_NS = NS_PER_SECOND // 50  # of the flawed process's view
RECONNECT_S = 3_600.0


class UnansweredError(Exception):
    """The process ended, or did not answer in time: what was asked may have been done."""


# Outside.


class KvProcess:
    """One such process and the connection to it.

    Args:
        urls: Of the brokers, or of proxies before them.
        base: Of the numbers of its shards' streams.
        is_flawed: It breaks the promises of its read levels.
    """

    def __init__(self, urls: Sequence[str], directory: Path, *, base: int, shards: int, patience_s: float = 3.0,
                 is_flawed: bool = False) -> None:  # fmt: skip
        self._words = ["--nats", ",".join(urls), "--base", str(base)]
        self._new = ["--shards", str(shards)]  # of a new KV; one that is there may have others by now
        self._words += ["--patience", str(patience_s), "--snapshots", str(directory)]
        self._words += ["--flawed"] if is_flawed else []
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._hearing: asyncio.Task[None] | None = None
        self.starts = 0

    @property
    def is_up(self) -> bool:
        """Whether it can be asked; one that was stopped counts as up."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it; it answers from then on."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.kv_process", *self._words,
            *(() if self.starts else self._new), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, cwd=PROJECT, limit=LINE_BYTES_MAX, preexec_fn=dies_with_parent(),
        )  # fmt: skip
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), START_S)
        assert line == b"ready\n", line
        self.starts += 1
        self._hearing = asyncio.create_task(self._hear(self._process))

    def signal(self, number: int) -> None:
        """Send it a signal; what it was asked stays unanswered where that ends it."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """Kill it as a crash does, and wait until it is gone."""
        assert self._process is not None
        assert self._hearing is not None
        self.signal(signal.SIGKILL)
        await self._process.wait()
        await self._hearing

    async def close(self) -> None:
        """End it; it may have ended before."""
        if self._process is None or self._hearing is None:
            return
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
                self.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), STOP_S)
            except TimeoutError:
                self.signal(signal.SIGKILL)
                await self._process.wait()
        await self._hearing

    async def ask(self, **request: Any) -> dict[str, Any]:
        """What it answers.

        Raises:
            UnansweredError: It ended meanwhile, or was silent for ANSWER_S.
        """
        if not self.is_up:
            raise UnansweredError("it is not up")
        assert self._process is not None
        assert self._process.stdin is not None
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._process.stdin.write(json.dumps({"id": number, **request}).encode() + b"\n")
            return await asyncio.wait_for(answer, ANSWER_S)
        except (OSError, TimeoutError) as error:
            raise UnansweredError(str(error)) from error
        finally:
            self._waiting.pop(number, None)

    async def _hear(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            told = json.loads(line)
            waiting = self._waiting.get(told["id"])
            if waiting is not None and not waiting.done():
                waiting.set_result(told)
        await process.wait()
        for each in self._waiting.values():
            if not each.done():
                each.set_exception(UnansweredError("it ended"))


# Inside.


class Answering:
    """Does what lines ask with one KV."""

    def __init__(self, kv: Kv, *, forgets_sessions: bool) -> None:
        self._kv = kv
        self._forgets = forgets_sessions
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, line: bytes) -> None:
        """Begin with a request; its answer is printed when it is there."""
        task = asyncio.create_task(self._answer(json.loads(line)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, asked: dict[str, Any]) -> None:
        try:
            told = await self._do(asked)
        except BusyError:
            told = {"status": "failed"}
        except (OutcomeUnknownError, BusUnavailableError, NotServedHereError) as problem:
            told = {"status": "unknown", "why": str(problem)}
        os.write(1, json.dumps({"id": asked["id"], **told}).encode() + b"\n")

    async def _do(self, asked: dict[str, Any]) -> dict[str, Any]:
        session = Session.parse(asked.get("token", ""))
        if asked["op"] == "scan":
            rows = await self._kv.scan(level=_level(asked["level"], session))
            return {"status": "ok", "rows": {key.decode(): (row.value.decode(), row.revision) for key, row in rows}}
        key = asked["key"].encode()
        if asked["op"] == "get":
            level = EVENTUAL if self._forgets and asked["level"] == "session" else _level(asked["level"], session)
            stored = await self._kv.get(key, level)
            value, revision = (stored.value.decode(), stored.revision) if stored else (None, 0)
            return {"status": "ok", "value": value, "revision": revision, "token": session.text}
        if asked["op"] == "put":
            outcome = await self._kv.put(key, asked["value"].encode(), session=session)
        elif asked["op"] == "put-if":
            outcome = await self._kv.put_if(key, asked["value"].encode(), asked["expected"], session=session)
        else:
            outcome = await self._kv.delete(key, session=session)
        if not outcome.is_applied:
            assert outcome.status in (Status.CHANGED, Status.ABSENT), outcome
        status = "ok" if outcome.is_applied else "refused"
        return {"status": status, "revision": outcome.revision, "token": session.text}


def _level(name: str, session: Session) -> Level:
    return {"linearizable": LINEARIZABLE, "session": session, "eventual": EVENTUAL}[name]


def _join_in_flight() -> None:
    """The error that the barrier's rule forbids: a reader joins a barrier that was sent before it came."""
    good = ShardWriter.barrier

    def bad(self: ShardWriter) -> asyncio.Future[int]:
        riding = [ride for flight in self._flights.values() for ride in flight.rides]
        return riding[0].join() if riding else good(self)

    ShardWriter.barrier = bad  # type: ignore[method-assign]


async def open_kv(bus: Bus, *, base: int, shards: int, patience_ns: int, faults: Faults | None = None,
                  snapshots: Path | None = None) -> Kv:  # fmt: skip
    """The KV of these streams, on a bus."""

    async def open_log(shard: int) -> JetStreamLog:
        return await StreamAdmin(bus).ensure(kv_spec(base + shard))

    return await Kv.open(
        open_log, new_life=new_writer_id, clock=SystemClock(), shards=shards, patience_ns=patience_ns, faults=faults,
        snapshots=snapshots,
    )  # fmt: skip


async def _serve(options: argparse.Namespace) -> None:
    faults = Faults()
    options.snapshots.mkdir(parents=True, exist_ok=True)
    async with await connect(options.nats, reconnect_s=RECONNECT_S) as bus, await open_kv(
        bus, base=options.base, shards=options.shards, patience_ns=int(options.patience * NS_PER_SECOND),
        faults=faults, snapshots=options.snapshots,
    ) as kv:  # fmt: skip
        if options.flawed:
            _join_in_flight()
            faults.view_delay_ns = LATE_NS
        answering = Answering(kv, forgets_sessions=options.flawed)
        reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        loop.add_signal_handler(signal.SIGTERM, reader.feed_eof)
        os.write(1, b"ready\n")
        while line := await reader.readline():
            answering.take(line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--nats", required=True)
    parser.add_argument("--base", type=int, required=True)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--patience", type=float, required=True)
    parser.add_argument("--flawed", action="store_true")
    parser.add_argument("--snapshots", type=Path, required=True)
    asyncio.run(_serve(parser.parse_args()))
