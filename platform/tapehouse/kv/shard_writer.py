"""One gateway's writer of one shard's log: what many callers ask for, as one frame after the other.

At most one append is in flight; the next frame takes what waited meanwhile. What became of an entry is learnt from the
log alone: `applied` is called with each frame of this gateway that the view has applied.

No entry is ever applied twice:
- A frame whose acknowledgement is lost is sent again as the same bytes, until the view has seen it. The machine skips
  the number that it knows.
- A life begins with a frame that holds a barrier alone and is sent once. Where its fate is unknown, the life is given
  up before anything was written in it. So there is one first frame of a life, and once the machine has forgotten the
  gateway (OUT_OF_TURN) no copy of a later frame, however late, can be in turn again. What those frames held was not
  applied and is sent in a new life.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tapehouse.core.check import check
from tapehouse.core.clock import Clock
from tapehouse.core.errors import (
    AmbiguousAppendError,
    BusUnavailableError,
    BusyError,
    DataError,
    InvariantError,
    TapehouseError,
)
from tapehouse.core.metrics import SECONDS_BOUNDS, SIZE_BOUNDS, Metrics
from tapehouse.core.tasks import cancel_all, hear
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv.entries import BODY_BYTES_MAX, ENTRIES_MAX, Entry, Op, Status, encode_entry, entry_frame
from tapehouse.kv.errors import OutcomeUnknownError
from tapehouse.kv.faults import Faults, delay
from tapehouse.kv.layout import OLD_BYTES, STATUS
from tapehouse.kv.view import ViewAnswer
from tapehouse.log.port import Log

Commit = Literal["each", "group"]

QUEUE_ENTRIES_MAX = 65_536  # that wait for their frame; more are refused
RIDERS_MAX = 65_536  # readers who wait for one frame
QUEUE_BYTES_MAX = 64 * 1024 * 1024
FRAMES_AHEAD_MAX = 8  # acknowledged by the log and not yet applied by the view
APPEND_ATTEMPTS_MAX = 10_000_000  # of one frame: a month and more; callers lose patience long before
RESUBMITS_MAX = 3  # lives that refuse an entry before its caller is told
RETRY_PAUSE_NS = NS_PER_SECOND // 4
PATIENCE_NS = 10 * NS_PER_SECOND  # of a caller; longer than a broker election
_LOOKS_PER_PATIENCE = 8
_BARRIER = encode_entry(Entry(op=Op.BARRIER))


@dataclass(frozen=True, slots=True)
class Applied:
    """Where in the log a caller's entries stand, and what became of each."""

    sequence: int
    answers: list[ViewAnswer]


@dataclass(frozen=True, slots=True)
class AppliedPack:
    """Where in the log a pack's entries stand, and what became of each: (n, 2) int64, status and revision."""

    sequence: int
    rows: Any


@dataclass(slots=True, eq=False)
class _Submission:
    """Entries of one caller: they stay together in one frame.

    Attributes:
        is_pack: It is answered with an `AppliedPack`, else with `Applied`.
    """

    bodies: Sequence[bytes]
    count: int
    size: int
    deadline: int
    done: asyncio.Future[Any]
    is_pack: bool = False
    refusals: int = 0


@dataclass(slots=True, eq=False)
class _Ride:
    """Readers who wait for the same frame, each with a future of its own that gives its sequence."""

    deadline: int
    waiting: list[asyncio.Future[int]] = field(default_factory=list)

    def join(self) -> asyncio.Future[int]:
        """One more reader.

        Raises:
            BusyError: RIDERS_MAX wait for this frame.
        """
        if len(self.waiting) >= RIDERS_MAX:
            raise BusyError(f"{RIDERS_MAX} readers wait for one frame", hint="ask again in a moment")
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting.append(done)
        return done


@dataclass(slots=True, eq=False)
class _Flight:
    """A frame that was taken and is not known to be applied."""

    number: int
    payload: bytes
    taken: int  # monotonic ns, before its first append
    submissions: list[_Submission]
    rides: list[_Ride]
    settled: asyncio.Future[None] = field(repr=False)


class ShardWriter:
    """Collects, frames and appends; `start` it, and `close` it at last.

    Args:
        new_life: Makes an identity that no other life of any gateway has, not 0.
        commit: "group": a frame takes all that waits; "each": one caller's entries alone, to show what grouping gains.
        patience_ns: How long a caller waits before it is told that nobody knows, or that nothing was sent.
    """

    def __init__(
        self,
        log: Log,
        *,
        log_id: bytes,
        new_life: Callable[[], int],
        clock: Clock,
        commit: Commit = "group",
        patience_ns: int = PATIENCE_NS,
        faults: Faults | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._log = log
        self._log_id = log_id
        self._new_life = new_life
        self._clock = clock
        self._submissions_max = 1 if commit == "each" else ENTRIES_MAX
        self._patience_ns = patience_ns
        self._faults = faults or Faults()
        self.metrics = metrics or Metrics()
        self.fresh_at: int | None = None  # monotonic ns; see `applied`
        self._life = 0
        self._number = 0
        self._time = 0
        self._is_refused = False
        self._queue: deque[_Submission] = deque()
        self._queued_entries = 0
        self._queued_bytes = 0
        self._rides: list[_Ride] = []
        self._flights: dict[int, _Flight] = {}  # by number, in their order
        self._news = asyncio.Event()
        self._error: TapehouseError | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to write."""
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._lose_patience())]

    async def close(self) -> None:
        """Stop; who still waits is told so."""
        await cancel_all(self._tasks)
        self.fail(BusUnavailableError("the KV was closed; nothing was sent", subject=self._log.name))

    @property
    def is_busy(self) -> bool:
        """Whether a frame is on its way, or about to be."""
        return bool(self._flights or self._rides or self._queue)

    def submit(self, bodies: Sequence[bytes]) -> asyncio.Future[Applied]:
        """Have encoded entries of one caller written together; the future ends when the view has applied them.

        It raises OutcomeUnknownError where nobody knows what became of them within the patience, BusUnavailableError
        where nothing was sent within it, and BusyError where the log refused the gateway RESUBMITS_MAX times.

        Raises:
            BusyError: The queue is full; nothing was begun.
            DataError: No entries, or more than one frame holds.
        """
        return self._submit(bodies, len(bodies), is_pack=False)

    def submit_pack(self, body: bytes, count: int) -> asyncio.Future[AppliedPack]:
        """As `submit`, of so many entries in one piece, none of which asks for an old value."""
        return self._submit([body], count, is_pack=True)

    def _submit(self, bodies: Sequence[bytes], count: int, *, is_pack: bool) -> asyncio.Future[Any]:
        self._require()
        size = sum(map(len, bodies))
        if not 0 < count <= ENTRIES_MAX or size > BODY_BYTES_MAX:
            raise DataError(
                f"{count} entries of {size} bytes fit no frame",
                hint=f"1 to {ENTRIES_MAX} entries, at most {BODY_BYTES_MAX} bytes",
            )
        full = self._queued_entries + count > QUEUE_ENTRIES_MAX or self._queued_bytes + size > QUEUE_BYTES_MAX
        if full or (self._faults.refuses_write is not None and self._faults.refuses_write()):
            self.metrics.add("kv_writes_refused_total")
            reason = f"{self._queued_entries} entries wait to be written" if full else "a drill refuses this write"
            raise BusyError(f"{reason}; nothing was begun", subject=self._log.name, hint="ask again in a moment")
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        deadline = self._clock.monotonic_ns() + self._patience_ns
        self._enqueue(_Submission(bodies, count, size, deadline, done, is_pack))
        return done

    @property
    def takes_packs(self) -> bool:
        """Whether entries of several callers may share a frame."""
        return self._submissions_max > 1

    def barrier(self) -> asyncio.Future[int]:
        """Join the next frame, never one that was taken; its sequence, once the view has applied it.

        The future raises BusUnavailableError where no frame came through within the patience of who joined it first.

        Raises:
            BusyError: RIDERS_MAX wait for this frame.
        """
        self._require()
        if not self._rides:
            self._rides.append(_Ride(self._clock.monotonic_ns() + self._patience_ns))
            self._news.set()
        return self._rides[-1].join()

    @property
    def queued_entries(self) -> int:
        """How many entries wait for their frame."""
        return self._queued_entries

    def waits_for(self, life: int, number: int) -> bool:
        """Whether that frame is ours and unanswered: not one of a life that was given up, nor one that came twice."""
        return life == self._life and number in self._flights

    def applied(self, number: int, sequence: int, rows: Any, answers_of: Callable[[Any], list[ViewAnswer]]) -> None:
        """The view has applied a frame that it `waits_for`; who waits for it is answered.

        The view now holds all that was in the log when the frame was taken: `fresh_at` says when.

        Args:
            rows: What `View.apply` returned.
            answers_of: Makes answers of some of them.
        """
        flight = self._flights.pop(number)
        took = self._clock.monotonic_ns() - flight.taken
        self.metrics.observe("kv_frame_seconds", took / NS_PER_SECOND, SECONDS_BOUNDS)
        status = rows.item(0, STATUS)
        check(status != Status.REPEATED, f"frame {number} of {self._log.name} was applied before it was written")
        self.fresh_at = flight.taken if self.fresh_at is None else max(self.fresh_at, flight.taken)
        _settle(flight)
        for ride in flight.rides:
            for reader in ride.waiting:
                if not reader.done():
                    reader.set_result(sequence)
        if status == Status.OUT_OF_TURN:
            self._lose_turn(flight)
        else:
            _answer(flight.submissions, sequence, rows, answers_of)
        self._news.set()

    def fail(self, error: TapehouseError) -> None:
        """Give up: who waits in the queue gets this error, who waits for a frame that was sent that nobody knows."""
        self._error = self._error or error
        for flight in self._flights.values():
            _settle(flight)
            self._tell_unknown(flight.submissions, error)
        rides = [ride for flight in self._flights.values() for ride in flight.rides] + self._rides
        waiting: list[asyncio.Future[Any]] = [reader for ride in rides for reader in ride.waiting]
        waiting += [submission.done for submission in self._queue]
        for done in waiting:
            _tell(done, error)
        self._flights.clear()
        self._rides.clear()
        self._queue.clear()
        self._queued_entries = self._queued_bytes = 0

    # Writing.

    async def _write(self) -> None:
        try:
            while True:
                await self._begin_life()
                while not self._is_refused:
                    await self._await_work()
                    flight = None if self._is_refused else self._take()
                    if flight is not None:
                        await self._send(flight)
        except TapehouseError as error:
            self.fail(error)
        except Exception as error:
            self.fail(InvariantError(f"the writer failed: {error!r}", subject=self._log.name))
            raise

    async def _begin_life(self) -> None:
        """Append the first frame of a new life, once; where its fate is unknown, begin another life."""
        reason = ""
        for _ in range(APPEND_ATTEMPTS_MAX):
            self._life, self._number, self._is_refused = self._new_life(), 0, False
            self.metrics.add("kv_lives_total")
            rides, self._rides = self._rides, []
            flight = self._frame([_BARRIER], [], rides)
            try:
                await self._log.append(flight.payload, expected_last=None)
                return
            except (AmbiguousAppendError, BusUnavailableError) as error:
                reason = error.message
            if flight.settled.done():
                return  # It was seen in the log, where one copy of it stands.
            self._flights.clear()
            self._rides = rides + self._rides
            await delay(self._clock, RETRY_PAUSE_NS)
        raise self._gave_up(reason)

    async def _await_work(self) -> None:
        while not self._is_refused:
            if (self._queue or self._rides) and len(self._flights) < FRAMES_AHEAD_MAX:
                return
            self._news.clear()
            await self._news.wait()

    def _take(self) -> _Flight | None:
        """The next frame, of what waits; None where all who waited have left."""
        submissions: list[_Submission] = []
        bodies: list[bytes] = []
        count = size = 0
        while self._queue and len(submissions) < self._submissions_max:
            head = self._queue[0]
            is_wanted = not head.done.done()
            if is_wanted and (count + head.count > ENTRIES_MAX or size + head.size > BODY_BYTES_MAX):
                break
            self._dequeue()
            if is_wanted:
                submissions.append(head)
                bodies += head.bodies
                count += head.count
                size += head.size
        rides, self._rides = self._rides, []
        if not bodies and not rides:
            return None
        return self._frame(bodies or [_BARRIER], submissions, rides)

    def _frame(self, bodies: list[bytes], submissions: list[_Submission], rides: list[_Ride]) -> _Flight:
        count = sum(submission.count for submission in submissions) or 1  # a barrier
        self._number += 1
        self._time = max(self._time, self._clock.time_ns())
        flight = _Flight(
            number=self._number,
            payload=entry_frame(
                bodies, count=count, log_id=self._log_id, writer=self._life, number=self._number, time=self._time
            ),
            taken=self._clock.monotonic_ns(),
            submissions=submissions,
            rides=rides,
            settled=asyncio.get_running_loop().create_future(),
        )
        self._flights[flight.number] = flight
        self.metrics.add("kv_frames_total")
        self.metrics.add("kv_entries_total", count)
        self.metrics.observe("kv_frame_entries", count, SIZE_BOUNDS)
        self.metrics.observe("kv_frame_bytes", len(flight.payload), SIZE_BOUNDS)
        return flight

    async def _send(self, flight: _Flight) -> None:
        """Append a frame until it is acknowledged, or seen in the log, or known to be refused with its life."""
        await delay(self._clock, self._faults.write_delay_ns)
        reason = ""
        for _ in range(APPEND_ATTEMPTS_MAX):
            try:
                appending = asyncio.create_task(self._log.append(flight.payload, expected_last=None))
                if not await _either(appending, flight.settled):
                    return
                appending.result()
                return
            except (AmbiguousAppendError, BusUnavailableError) as error:
                reason = error.message
            self.metrics.add("kv_appends_again_total")
            if not await _either(asyncio.create_task(delay(self._clock, RETRY_PAUSE_NS)), flight.settled):
                return
        raise self._gave_up(reason)

    def _lose_turn(self, first: _Flight) -> None:
        """The log refuses this life from a frame on: what it and those after it hold is sent in a new one."""
        self.metrics.add("kv_lives_refused_total")
        self._is_refused = True
        dead = [first, *self._flights.values()]
        self._flights.clear()
        self._rides = [ride for flight in dead[1:] for ride in flight.rides] + self._rides
        again = [submission for flight in dead for submission in flight.submissions if not submission.done.done()]
        for flight in dead:
            _settle(flight)
        for submission in reversed(again):
            submission.refusals += 1
            if submission.refusals > RESUBMITS_MAX:
                _tell(
                    submission.done,
                    BusyError(
                        f"the log refused this gateway {RESUBMITS_MAX + 1} times; nothing was applied",
                        subject=self._log.name,
                        hint="too many gateways write it: stop some",
                    ),
                )
            else:
                self._enqueue(submission, is_first=True)

    def _enqueue(self, submission: _Submission, *, is_first: bool = False) -> None:
        if is_first:
            self._queue.appendleft(submission)
        else:
            self._queue.append(submission)
        self._queued_entries += submission.count
        self._queued_bytes += submission.size
        self._news.set()

    def _dequeue(self) -> None:
        head = self._queue.popleft()
        self._queued_entries -= head.count
        self._queued_bytes -= head.size

    # Patience.

    async def _lose_patience(self) -> None:
        while True:
            await delay(self._clock, max(self._patience_ns // _LOOKS_PER_PATIENCE, 1))
            now = self._clock.monotonic_ns()
            late = BusUnavailableError(
                f"no frame came through within {self._patience_ns / NS_PER_SECOND:g} s; nothing was sent",
                subject=self._log.name,
                hint="is a majority of the brokers up? see tapehouse status",
            )
            while self._queue and (self._queue[0].done.done() or self._queue[0].deadline <= now):
                _tell(self._queue[0].done, late)
                self._dequeue()
            for flight in self._flights.values():
                self._tell_unknown([each for each in flight.submissions if each.deadline <= now], late)
            for ride in [ride for flight in self._flights.values() for ride in flight.rides] + self._rides:
                if ride.deadline <= now:
                    for reader in ride.waiting:
                        _tell(reader, late)
            self._rides = [ride for ride in self._rides if ride.deadline > now]

    def _tell_unknown(self, submissions: list[_Submission], reason: TapehouseError) -> None:
        for submission in submissions:
            if not submission.done.done():
                self.metrics.add("kv_outcomes_unknown_total")
                error = OutcomeUnknownError(
                    "the write was sent and its outcome is unknown: it may or may not have been applied",
                    subject=self._log.name,
                    hint="read the key, then decide; a put-if with the revision that was known is safe to ask again",
                )
                error.__cause__ = reason
                _tell(submission.done, error)

    def _require(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)  # Else it would grow with each time.

    def _gave_up(self, reason: str) -> BusUnavailableError:
        return BusUnavailableError(
            f"no frame went through in {APPEND_ATTEMPTS_MAX} attempts, the last: {reason}", subject=self._log.name
        )


def _answer(
    submissions: list[_Submission], sequence: int, rows: Any, answers_of: Callable[[Any], list[ViewAnswer]]
) -> None:
    """Answer each caller with its part of a frame's rows."""
    has_packs = any(submission.is_pack for submission in submissions)
    answers = [] if has_packs else answers_of(rows)  # All at once is cheaper, where there are many callers.
    start = 0
    for submission in submissions:
        end = start + submission.count
        if not submission.done.done():
            if submission.is_pack:
                submission.done.set_result(AppliedPack(sequence, rows[start:end, :OLD_BYTES].copy()))
            else:
                told = answers_of(rows[start:end]) if has_packs else answers[start:end]
                submission.done.set_result(Applied(sequence, told))
        start = end


async def _either(work: asyncio.Task[Any], settled: asyncio.Future[None]) -> bool:
    """Wait for work, or for a frame to be settled: then the work is given up. Whether the work has ended."""
    work.add_done_callback(hear)  # Nobody may be left to ask how it ended.
    try:
        await asyncio.wait({work, settled}, return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        work.cancel()


def _settle(flight: _Flight) -> None:
    if not flight.settled.done():
        flight.settled.set_result(None)


def _tell(done: asyncio.Future[Any], error: TapehouseError) -> None:
    """End a future with an error, which need not be heard: who waited may have left."""
    if not done.done():
        done.set_exception(error)
        done.exception()
