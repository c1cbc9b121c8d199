"""The load itself: connections that ask what the plan says, each answer timed and judged.

With a rate, a request has a moment at which it is due, whether answers came or not: its latency counts from then, so
that a gateway which stops for a second is charged for all that should have been asked meanwhile (coordinated omission).
"""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tapehouse.app.bench.histogram import new_histogram, record_values
from tapehouse.app.kv_load.check import End, ReadChecker
from tapehouse.app.kv_load.link import Doors, Link, first_words, greet, open_link
from tapehouse.app.kv_load.plan import Load
from tapehouse.app.kv_load.replies import ErrorReply, Reply, request
from tapehouse.app.kv_load.values import ValueMaker
from tapehouse.core.clock import Clock
from tapehouse.core.errors import BusUnavailableError, TransientError
from tapehouse.core.units import NS_PER_SECOND

FIRST_PIPELINE = 64  # of the writes that give each key its first value
ANSWER_S = 30.0  # after which a connection counts as lost
RECONNECT_S = 30.0  # for how long a lost connection is tried again
RECONNECT_PAUSE_S = 0.1
LOOK_S = 0.1  # between two looks at how far everybody is
FLUSH = 65_536  # latencies that are put into a histogram together
DELETE_TOGETHER = 256
NOTHING_WAS_DONE = frozenset({"BUSY", "TRYAGAIN", "READONLY", "CROSSSLOT"})  # docs/kv-commands.md


class Latencies:
    """Two histograms, ns: from when a request was due, and from when it was sent."""

    def __init__(self) -> None:
        self.due, self.sent = new_histogram(), new_histogram()
        self._due, self._sent = array("q"), array("q")

    def add(self, due: int, sent: int) -> None:
        """Count one answer by both."""
        self._due.append(due)
        self._sent.append(sent)
        if len(self._due) >= FLUSH:
            self.flush()

    def flush(self) -> None:
        """Bring all that was added into the histograms."""
        for words, values in ((self.due, self._due), (self.sent, self._sent)):
            if values:
                record_values(words, np.frombuffer(values, np.int64))
        self._due, self._sent = array("q"), array("q")


@dataclass(slots=True)
class Phase:
    """A part of the run: the first values, the warm-up, what is measured.

    Attributes:
        began, ended: Monotonic ns.
        done: Requests that ended, whether well or not.
        errors: Requests that failed, by the first word of the error; LOST: the connection ended before the answer.
    """

    pipeline: int
    interval_ns: float | None = None
    began: int = 0
    ended: int = 0
    done: int = 0
    reads: Latencies = field(default_factory=Latencies)
    writes: Latencies = field(default_factory=Latencies)
    errors: dict[str, int] = field(default_factory=dict)
    reconnects: int = 0

    def fail(self, why: str, count: int = 1) -> None:
        """Count requests that failed."""
        self.errors[why] = self.errors.get(why, 0) + count
        self.done += count


@dataclass(frozen=True, slots=True)
class _Asked:
    is_read: bool
    key: int
    mark: int  # of a read: what the checker wants back; of a write: its number
    due: int
    sent: int


class Connection:
    """One connection of a load: it keeps its requests under way, through phases and lost links."""

    def __init__(
        self, which: int, load: Load, doors: Doors, values: ValueMaker, checker: ReadChecker, clock: Clock
    ) -> None:
        self._which, self._load, self._doors = which, load, doors
        self._values, self._checker, self._clock = values, checker, clock
        self._link: Link | None = None
        self._greetings = 0  # replies to what a connection says first, that have not come
        self._waiting: deque[_Asked] = deque()
        self._plan: Iterator[tuple[bool, int]] = iter(())
        self._next: tuple[bool, int] | None = None
        self._turn = 0  # of the schedule
        self._phase: Phase | None = None
        self._ended: asyncio.Future[None] | None = None
        self._stops = False
        self._timer: asyncio.TimerHandle | None = None
        self._again: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            BusUnavailableError, UsageError: As `open_link`.
        """
        words = [*first_words(self._doors), read_level(self._load)]
        self._greetings = len(words)
        link = await open_link(self._doors, self._which, self._answered, self._lost)
        link.send(b"".join(words))
        self._link = link

    def begin(self, phase: Phase, plan: Iterator[tuple[bool, int]]) -> asyncio.Future[None]:
        """Ask all of a plan; the future ends with the last answer."""
        self._phase, self._plan, self._turn = phase, plan, 0
        self._next = next(plan, None)
        self._ended = asyncio.get_running_loop().create_future()
        self._fill()
        return self._ended

    def stop(self) -> None:
        """Ask nothing more; what is under way is waited for."""
        self._stops = True
        self._fill()

    def look(self) -> None:
        """Give up a link on which nothing was answered for too long."""
        if self._link is None or not self._waiting:
            return
        if self._clock.monotonic_ns() - self._waiting[0].sent > ANSWER_S * NS_PER_SECOND:
            self._link.drop(f"no answer in {ANSWER_S:g} s")

    async def close(self) -> None:
        """Leave."""
        self._ended = None
        if self._timer is not None:
            self._timer.cancel()
        if self._again is not None:
            self._again.cancel()
            await asyncio.gather(self._again, return_exceptions=True)
        if self._link is not None:
            self._link.close()

    def _fill(self) -> None:
        """Send what is due, as far as the pipeline has room; end where all is answered."""
        phase, ended = self._phase, self._ended
        if phase is None or ended is None or ended.done() or self._link is None:
            return
        now = self._clock.monotonic_ns()
        out = []
        while self._next is not None and not self._stops and len(self._waiting) < phase.pipeline:
            due = now
            if phase.interval_ns is not None:
                due = phase.began + round((self._turn * self._load.connections + self._which) * phase.interval_ns)
                if due > now:
                    self._wake_at(due - now)
                    break
            out.append(self._ask(*self._next, due, now))
            self._turn += 1
            self._next = next(self._plan, None)
        if out:
            self._link.send(b"".join(out))
        elif not self._waiting and (self._next is None or self._stops):
            ended.set_result(None)

    def _ask(self, is_read: bool, key: int, due: int, now: int) -> bytes:
        name = self._load.key(key)
        if is_read:
            self._waiting.append(_Asked(True, key, self._checker.begin_read(key), due, now))
            return b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name)
        number = self._checker.begin_write(self._which, key)
        self._waiting.append(_Asked(False, key, number, due, now))
        return request(b"SET", name, self._values.make(connection=self._which, key=key, number=number))

    def _wake_at(self, after_ns: int) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(after_ns / NS_PER_SECOND, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._fill()

    def _answered(self, replies: list[Reply]) -> None:
        now, phase = self._clock.monotonic_ns(), self._phase
        if self._greetings:
            greetings, replies = replies[: self._greetings], replies[self._greetings :]
            self._greetings -= len(greetings)
            refused = next((reply for reply in greetings if isinstance(reply, ErrorReply)), None)
            if refused is not None and self._link is not None:
                self._link.drop(refused.text)
                return
        for reply in replies:
            if phase is None or not self._waiting:
                if self._link is not None:
                    self._link.drop("the gateway answered what was not asked")
                return
            self._take(self._waiting.popleft(), reply, now, phase)
        self._fill()

    def _take(self, asked: _Asked, reply: Reply, now: int, phase: Phase) -> None:
        if isinstance(reply, ErrorReply):
            phase.fail(reply.code)
            if not asked.is_read:
                end = End.REFUSED if reply.code in NOTHING_WAS_DONE else End.UNKNOWN
                self._checker.end_write(asked.mark, end)
            return
        if asked.is_read:
            value = reply if isinstance(reply, bytes) or reply is None else repr(reply).encode()
            self._checker.end_read(self._which, asked.key, value, asked.mark)
        else:
            self._checker.end_write(asked.mark, End.DONE if reply == b"OK" else End.UNKNOWN)
        phase.done += 1
        (phase.reads if asked.is_read else phase.writes).add(now - asked.due, now - asked.sent)

    def _lost(self, why: str) -> None:
        self._link = None
        waiting, self._waiting = self._waiting, deque()
        for asked in waiting:
            if not asked.is_read:
                self._checker.end_write(asked.mark, End.UNKNOWN)
        self._checker.forget(self._which)
        phase, ended = self._phase, self._ended
        if phase is None or ended is None or ended.done():
            return
        if waiting:
            phase.fail("LOST", len(waiting))
        if self._stops:
            ended.set_result(None)
        elif self._again is None or self._again.done():
            self._again = asyncio.get_running_loop().create_task(self._connect_again(phase, ended, why))

    async def _connect_again(self, phase: Phase, ended: asyncio.Future[None], why: str) -> None:
        """Try for RECONNECT_S; then the load is over."""
        deadline = self._clock.monotonic_ns() + RECONNECT_S * NS_PER_SECOND
        while not ended.done():
            await asyncio.sleep(RECONNECT_PAUSE_S)
            try:
                await greet(self._doors, self._which, [read_level(self._load)])  # A refusal is told, not tried again.
                await self.open()
            except TransientError as error:
                if self._clock.monotonic_ns() < deadline and not self._stops:
                    continue
                if not ended.done():
                    ended.set_exception(
                        BusUnavailableError(f"lost, and not there again: {error.message}", subject=error.subject)
                    )
            except Exception as error:
                if not ended.done():
                    ended.set_exception(error)
            else:
                phase.reconnects += 1
                self._fill()
            return


def read_level(load: Load) -> bytes:
    """The request for reads at a load's level."""
    return request(b"READLEVEL", load.level.encode())


async def run_phase(
    connections: list[Connection],
    phase: Phase,
    plans: list[Iterator[tuple[bool, int]]],
    *,
    clock: Clock,
    stop: asyncio.Event,
    progress: Callable[[int], None],
) -> None:
    """Have all connections ask their plans, until all is answered or `stop` is set.

    Raises:
        BusUnavailableError: A connection was lost and could not be made again.
    """
    phase.began = clock.monotonic_ns()
    ends = [connection.begin(phase, plan) for connection, plan in zip(connections, plans, strict=True)]
    everything = asyncio.gather(*ends)
    stopped = False
    try:
        while not everything.done():
            await asyncio.wait([everything], timeout=LOOK_S)
            progress(phase.done)
            for connection in connections:
                connection.look()
                if stop.is_set() and not stopped:
                    connection.stop()
            stopped = stop.is_set()
        everything.result()
    finally:
        phase.ended = clock.monotonic_ns()
        everything.cancel()
        await asyncio.gather(everything, return_exceptions=True)
        phase.reads.flush()
        phase.writes.flush()


async def delete_keys(load: Load, doors: Doors) -> None:
    """Remove what the load wrote."""
    for first in range(0, load.keys, DELETE_TOGETHER * 16):
        words = [
            request(b"DEL", *(load.key(key) for key in range(start, min(start + DELETE_TOGETHER, load.keys))))
            for start in range(first, min(first + DELETE_TOGETHER * 16, load.keys), DELETE_TOGETHER)
        ]
        await greet(doors, 0, words)


def first_phase() -> Phase:
    """That of the first values."""
    return Phase(pipeline=FIRST_PIPELINE)
