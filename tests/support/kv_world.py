"""Gateways of a KV on logs in memory: a clock that stands still, and ways to the log that lose, delay and stay away."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from tapehouse.core.errors import AmbiguousAppendError, BusUnavailableError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import open_entry_frame, read_entries
from tapehouse.kv.reference import ReferenceView
from tapehouse.log import MemoryLog, Message
from tapehouse.log.port import Log
from tapehouse.log.wrapped import WrappedLog

FAULTS = ("fine", "lost", "unheard", "late", "refused")
TURNS = 60  # of the event loop, until nobody has anything left to do
ROUNDS_MAX = 2_000
BUDGET_BYTES = 64 << 20
START_NS = 1_700_000_000 * NS_PER_SECOND


class StillClock:
    """A clock that moves when `advance` is called, and never else."""

    def __init__(self) -> None:
        self.now = START_NS
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def time_ns(self) -> int:
        return self.now

    def monotonic_ns(self) -> int:
        return self.now

    async def sleep_until(self, monotonic_ns: int) -> None:
        if monotonic_ns > self.now:
            awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._sleepers.append((monotonic_ns, awake))
            await awake

    def advance(self, seconds: float) -> None:
        """Move on, and wake who slept until then."""
        self.now += round(seconds * NS_PER_SECOND)
        awake = [future for deadline, future in self._sleepers if deadline <= self.now]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self.now]
        for future in awake:
            if not future.done():
                future.set_result(None)


class Link(WrappedLog):
    """One gateway's way to a log that others write too; see `log.port.Log`.

    `faults` says what becomes of the next appends: `lost` and `unheard` give no acknowledgement, without and with the
    message stored; `late` gives none, and the message comes with `arrive`; `refused` stores nothing and says so;
    `stuck` waits for `unstick`, then stores. `hold` keeps what was stored from the reader until it is let go.
    """

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.log = log
        self.faults: deque[str] = deque()
        self.appended: list[bytes] = []
        self._late: list[bytes] = []
        self._stuck: asyncio.Future[None] | None = None
        self._through: int | None = None  # what the reader may see; None for all
        self._let_go = asyncio.Event()
        self._breaks = False

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        self.appended.append(payload)
        await asyncio.sleep(0)
        fault = self.faults.popleft() if self.faults else "fine"
        if fault == "refused":
            raise BusUnavailableError("no broker answers")
        if fault == "late":
            self._late.append(payload)
        if fault in ("late", "lost"):
            raise AmbiguousAppendError("no acknowledgement came")
        if fault == "stuck":
            self._stuck = asyncio.get_running_loop().create_future()
            await self._stuck
        sequence = await super().append(payload, expected_last=expected_last, subject=subject, headers=headers)
        if fault == "unheard":
            raise AmbiguousAppendError("no acknowledgement came")
        return sequence

    def unstick(self) -> None:
        """Let an append go on that is stuck."""
        if self._stuck is not None and not self._stuck.done():
            self._stuck.set_result(None)

    @property
    def is_stuck(self) -> bool:
        """Whether an append waits for `unstick`."""
        return self._stuck is not None and not self._stuck.done()

    async def arrive(self) -> None:
        """Store what was late."""
        late, self._late = self._late, []
        for payload in late:
            await self.log.append(payload, expected_last=None)

    async def hold(self, *, more: int = 0) -> None:
        """Show the reader so many more messages than are there now, and nothing after."""
        self._through = (await self.log.extent()).last + more

    def let_go(self, through: int | None = None) -> None:
        """Show the reader all, or what is there through a sequence."""
        self._through = through
        self._let_go.set()

    def break_reader(self) -> None:
        """Have the reader fail at the next message."""
        self._breaks = True

    async def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        async for message in super().read(first, through=through, follow=follow):
            while follow and self._through is not None and message.sequence > self._through:
                self._let_go.clear()
                await self._let_go.wait()
            if self._breaks:
                self._breaks = False
                raise BusUnavailableError("the reader lost its connection")
            yield message


_lives = itertools.count(1)


def new_life() -> int:
    """A life that no other gateway of this process has."""
    return next(_lives)


async def open_kv(*logs: Log, clock: StillClock, shards: int | None = None, **options: Any) -> Kv:
    """A KV over these logs, with a clock that stands still."""

    async def open_log(shard: int) -> Log:
        return logs[shard]

    options = {"budget_bytes": BUDGET_BYTES} | options
    return await Kv.open(
        open_log, new_life=new_life, clock=clock, shards=len(logs) if shards is None else shards, **options
    )


async def settle(turns: int = TURNS) -> None:
    """Let everybody do what can be done while the clock stands still."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(clock: StillClock, tasks: list[asyncio.Task[Any]], step: Callable[[], Any] | None = None) -> None:
    """Move the clock until all tasks have ended."""
    for _ in range(ROUNDS_MAX):
        await settle(12)
        if all(task.done() for task in tasks):
            return
        clock.advance(0.25)
        if step is not None:
            step()
    raise AssertionError(f"{sum(not task.done() for task in tasks)} of {len(tasks)} tasks never ended")


async def fold_whole(log: MemoryLog) -> ReferenceView:
    """The machine after all messages of a log."""
    view = ReferenceView()
    async for message in log.read(1):
        header, body = open_entry_frame(message.payload)
        view.apply(
            read_entries(bytes(body), header.count), writer=header.writer, number=header.first_ordinal,
            time=header.first_time, sequence=message.sequence,
        )  # fmt: skip
    return view


async def fold(log: MemoryLog) -> tuple[list[ReferenceView], dict[int, list[Any]]]:
    """The machine after each message of a log (0: before the first), and entries with their answers by sequence."""
    view = ReferenceView()
    views: list[ReferenceView] = [ReferenceView()]
    told: dict[int, list[Any]] = {}
    async for message in log.read(1):
        header, body = open_entry_frame(message.payload)
        entries = read_entries(bytes(body), header.count)
        answers = view.apply(
            entries,
            writer=header.writer,
            number=header.first_ordinal,
            time=header.first_time,
            sequence=message.sequence,
        )
        told[message.sequence] = list(zip(entries, answers, strict=True))
        kept = ReferenceView()
        kept.rows, kept.now, kept.sequence = dict(view.rows), view.now, view.sequence
        views.append(kept)
    return views, told
