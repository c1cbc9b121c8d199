"""One shard as one gateway has it: a view that follows the log, and a writer whose callers are answered by that view.

The log alone decides: an answer is what the view says when it applies the frame. A reader that fails is opened again
after the last frame applied; bytes that are no frame halt the node, by the sequence at which they stand.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.core.clock import Clock
from tapehouse.core.errors import (
    BusUnavailableError,
    BusyError,
    DecodeError,
    GapError,
    InvariantError,
    TapehouseError,
    TransientError,
)
from tapehouse.core.metrics import Metrics
from tapehouse.core.tasks import cancel_all
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv import layout
from tapehouse.kv.entries import Status, open_entry_frame, read_entries
from tapehouse.kv.errors import OldValueError, OtherBranchError, StaleError
from tapehouse.kv.faults import Faults, delay
from tapehouse.kv.flights import Applied, AppliedPack
from tapehouse.kv.keeping import SnapshotKeeper
from tapehouse.kv.levels import Eventual, Level, Session, Token
from tapehouse.kv.measures import ShardMeasures
from tapehouse.kv.patience import within
from tapehouse.kv.recent import Recent
from tapehouse.kv.reference import INTEGER_DIGITS_MAX, Stored
from tapehouse.kv.refetch import LogValues
from tapehouse.kv.shard_writer import PATIENCE_NS, Commit, ShardWriter
from tapehouse.kv.view import BudgetError, Evicted, View
from tapehouse.log.port import Extent, Log, Message

WAITERS_MAX = 65_536  # readers who wait for a sequence
READ_PAUSE_NS = NS_PER_SECOND // 4  # before a reader that failed is opened again
SWEEP_ROWS = 256  # that are looked at for expired keys with each frame
IDLE_NS = NS_PER_SECOND  # without a frame, after which the view is tidied, and again each time that it passes
IDLE_ROWS = 65_536  # that are looked at then
VALUES_AT_ONCE = 256  # evicted values of one scan that are in memory as whole frames
NO_ANSWERS = np.empty((0, 2), np.int64)
FRESH_EARLY = 2  # a view that is older than this part of what is allowed is refreshed before anyone must wait


class ShardNode:
    """A view of one shard and a writer beside it; `open` it, and `close` it at last.

    Args:
        make_view: A new view of the shard.
        snapshot: The file of the view's local snapshot; None where none is kept.
        new_life, clock, commit, patience_ns, faults: As the writer takes them.
    """

    def __init__(
        self,
        shard: int,
        log: Log,
        make_view: Callable[[], View],
        *,
        snapshot: Path | None = None,
        new_life: Callable[[], int],
        clock: Clock,
        commit: Commit = "group",
        patience_ns: int = PATIENCE_NS,
        faults: Faults | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.shard = shard
        self.log = log
        self.view = make_view()
        self.applied = 0  # the last sequence that was taken
        self.metrics = metrics or Metrics()
        self.recent = Recent(shard, sequence=0)
        self._faults = faults or Faults()
        self.keeper = SnapshotKeeper(
            snapshot, metrics=self.metrics, before=lambda: delay(clock, self._faults.snapshot_delay_ns)
        )
        self._make_view = make_view
        self._values: LogValues | None = None
        self._counts = dict.fromkeys(("frames", "entries", "repeated_frames", "refused_frames"), 0)
        self._new_life = new_life
        self._clock = clock
        self._commit: Commit = commit
        self._patience_ns = patience_ns
        self._extent: Extent | None = None
        self._writer: ShardWriter | None = None
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap: sequence, which, who
        self._waiters = 0
        self._grown: asyncio.Future[None] | None = None
        self._error: TapehouseError | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Follow the log, and wait until the view has applied all that it held; then readers and writers may come.

        Raises:
            BusUnavailableError: The broker does not answer.
            DecodeError, GapError: The log cannot be read; the sequence is named.
        """
        self._extent = await self.log.extent()
        self._values = LogValues(self.log, log_id_at=self._extent.log_id_at, metrics=self.metrics)
        self.view = await self.keeper.restore(self._extent, self._make_view) or self.view
        self.applied = self.view.sequence
        self.recent = Recent(self.shard, sequence=self.applied)
        self._writer = ShardWriter(
            self.log, log_id=self._extent.log_id, new_life=self._new_life, clock=self._clock, commit=self._commit,
            patience_ns=self._patience_ns, faults=self._faults, metrics=self.metrics,
        )  # fmt: skip
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._tidy())]
        await self.wait_for(self._extent.last)  # However long that takes: a barrier has but the patience of a caller.
        joined = self._writer.barrier()
        self._writer.start()  # Its first frame is that barrier.
        await joined

    async def close(self) -> None:
        """Stop; who still waits is told so. The view's snapshot is written, where one is kept."""
        await cancel_all(self._tasks)
        is_sound = self._error is None
        self._halt(BusUnavailableError("the KV was closed", subject=self.log.name))
        if self._values is not None:
            await self._values.close()
        if self._writer is not None:
            await self._writer.close()
        await self.keeper.finished()
        if is_sound and self._extent is not None:
            await self.keeper.write(self.view, self._extent.log_id)

    # Writing.

    def submit(self, bodies: Sequence[bytes]) -> asyncio.Future[Applied]:
        """As `ShardWriter.submit`: an old value may be `Evicted`; `write` has it read."""
        self._require()
        return self._wrote.submit(bodies)

    def submit_pack(self, body: bytes, count: int) -> asyncio.Future[AppliedPack]:
        """As `ShardWriter.submit_pack`."""
        self._require()
        return self._wrote.submit_pack(body, count)

    @property
    def takes_packs(self) -> bool:
        """As `ShardWriter.takes_packs`."""
        return self._wrote.takes_packs

    async def write(self, bodies: Sequence[bytes]) -> Applied:
        """Encoded entries of one caller, written together; all old values that they ask for are bytes.

        Raises:
            OldValueError: They have their outcome, and an old value cannot be read.
            As `ShardWriter.submit`.
        """
        return await self.with_values(await self.submit(bodies), bodies)

    async def with_values(self, applied: Applied, bodies: Sequence[bytes]) -> Applied:
        """What `submit` gave, with the old values that are not in memory read from the log; errors as of `write`."""
        for place, answer in enumerate(applied.answers):
            if isinstance(answer.old, Evicted):
                key = read_entries(bodies[place], 1)[0].key
                try:
                    old = await self._value(key, answer.old)
                except TapehouseError as error:
                    raise OldValueError(
                        f"the entry was {answer.status.name.lower()}; its old value is not in memory, and the log did "
                        f"not give it: {error.message}", subject=repr(key), position=f"sequence {applied.sequence}",
                    ) from error  # fmt: skip
                applied.answers[place] = answer._replace(old=old)
        return applied

    # Reading.

    async def barrier(self) -> int:
        """Wait until the view has applied all that anyone was answered before this call; where it stands then."""
        return await self.join()

    def join(self) -> asyncio.Future[int]:
        """As `barrier`, without waiting."""
        self._require()
        return self._wrote.barrier()

    def is_at(self, level: Level) -> bool:
        """Whether the view may be read at a level now, without waiting.

        A view that will soon be too old for it is refreshed ahead of need.

        Raises:
            OtherBranchError: The session was on a branch of the log that was given up.
        """
        self._require()
        if isinstance(level, Eventual):
            return level.max_staleness_ns is None or self._is_fresh(level.max_staleness_ns)
        if isinstance(level, Session):
            token = level.token(self.shard)
            if token is None:
                return True
            self._require_branch(token)
            return token.sequence <= self.applied
        return False

    async def reach(self, level: Level) -> None:
        """Wait until the view may be read at a level.

        Raises:
            BusUnavailableError, StaleError: Not within the patience.
            OtherBranchError: The session was on a branch of the log that was given up.
        """
        if self.is_at(level):
            return
        if isinstance(level, Eventual):
            await self._freshen()
        elif isinstance(level, Session):
            token = level.token(self.shard)
            assert token is not None
            await self._catch_up(token.sequence)
        else:
            await self.barrier()

    async def get(self, key: bytes, now: int | None = None) -> Stored | None:
        """What a key holds now; None where it is absent or has expired.

        Args:
            now: A reader's own time where that is later than the log's.

        Raises:
            BusyError, BusUnavailableError, GapError, IntegrityError: Its value is not in memory, and the log does not
                give it.
        """
        held = self.view.get(key, now)
        return await self._stored(key, held) if isinstance(held, Evicted) else held

    async def stored(self, found: list[tuple[bytes, Stored | Evicted]]) -> list[tuple[bytes, Stored]]:
        """What `view.scan` found, with the values that are not in memory read from the log; errors as of `get`."""
        rows: list[tuple[bytes, Stored]] = [(key, held) for key, held in found if not isinstance(held, Evicted)]
        if len(rows) == len(found):
            return rows
        evicted = [(key, held) for key, held in found if isinstance(held, Evicted)]
        evicted.sort(key=lambda row: row[1].location)
        for first in range(0, len(evicted), VALUES_AT_ONCE):
            part = evicted[first : first + VALUES_AT_ONCE]
            values = await asyncio.gather(*(self._stored(key, held) for key, held in part))
            rows += zip((key for key, _ in part), values, strict=True)
        return sorted(rows, key=lambda row: row[0])

    async def _stored(self, key: bytes, held: Evicted) -> Stored:
        return Stored(await self._value(key, held), held.revision, held.expiry)

    async def _value(self, key: bytes, held: Evicted) -> bytes:
        """An evicted value, and the view has it again where its key still holds it."""
        if self._values is None:
            raise InvariantError("the shard was not opened", subject=self.log.name)
        reading = asyncio.ensure_future(self._values.value(held, key))
        value = await within(
            self._clock, self._patience_ns, reading,
            lambda: BusUnavailableError(
                "a value that is not in memory was not read from the log in time", subject=self.log.name,
                position=f"sequence {held.sequence}", hint="is the broker there? see tapehouse status",
            ),
        )  # fmt: skip
        if self.view.has_room(len(key) + len(value)):
            try:
                self.view.restore_value(key, held, value)
            except BudgetError:
                self.metrics.add("kv_values_not_put_back_total")  # The reader has it all the same.
        return value

    def token(self, slot: int | None = None) -> Token:
        """Where the view stands, for whoever has read of this slot."""
        epoch = self.view.epoch_max if slot is None else self.view.known_epoch(slot)
        return Token(log_id=self._living.log_id, shard=self.shard, epoch=epoch, sequence=self.applied)

    def token_at(self, sequence: int, epoch: int) -> Token:
        """The token of a write."""
        return Token(log_id=self._living.log_id, shard=self.shard, epoch=epoch, sequence=sequence)

    @property
    def failure(self) -> TapehouseError | None:
        """Why the view applies nothing any more; None while it does."""
        return self._error

    @property
    def staleness_ns(self) -> int | None:
        """How long ago the view is known to have held all that was in the log; None where nothing is known.

        It is known from this gateway's own frames: once the view has applied one, it holds all that the log held when
        that frame was made. Nobody is asked.
        """
        fresh_at = self._wrote.fresh_at
        return None if fresh_at is None else self._clock.monotonic_ns() - fresh_at

    def wait_for(self, sequence: int) -> asyncio.Future[None]:
        """A future that ends when the view has applied this sequence; cancel it to stop waiting.

        Raises:
            BusyError: WAITERS_MAX wait already.
        """
        self._require()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if sequence <= self.applied:
            done.set_result(None)
            return done
        if len(self._waiting) >= WAITERS_MAX:
            self._waiting = [waiter for waiter in self._waiting if not waiter[2].done()]
            heapq.heapify(self._waiting)
            if len(self._waiting) >= WAITERS_MAX:
                raise BusyError(f"{WAITERS_MAX} readers wait for this view", subject=self.log.name)
        self._waiters += 1
        heapq.heappush(self._waiting, (sequence, self._waiters, done))
        return done

    def grown(self) -> asyncio.Future[None]:
        """A future, shared by all who ask, that ends when the view has applied one more frame; shield it."""
        self._require()
        if self._grown is None:
            self._grown = asyncio.get_running_loop().create_future()
        return self._grown

    @property
    def _wrote(self) -> ShardWriter:
        if self._writer is None:
            raise InvariantError("the shard was not opened", subject=self.log.name)
        return self._writer

    @property
    def _living(self) -> Extent:
        if self._extent is None:
            raise InvariantError("the shard was not opened", subject=self.log.name)
        return self._extent

    def _is_fresh(self, max_staleness_ns: int) -> bool:
        """Whether the view is no older than that; where it will soon be, a barrier is sent ahead of need."""
        age = self.staleness_ns
        if age is None or age > max_staleness_ns:
            return False
        if age > max_staleness_ns // FRESH_EARLY and not self._wrote.is_busy:
            self._wrote.barrier()
        return True

    async def _freshen(self) -> None:
        """Wait for a barrier, as the view is older than its reader allows."""
        age = self.staleness_ns
        try:
            await self.barrier()
        except TransientError as error:
            known = f"{age / NS_PER_SECOND:.3g} s ago" if age is not None else "never"
            raise StaleError(
                f"the view was last known to be at the log's end {known}", subject=self.log.name,
                hint="is the broker there? a read without max_staleness is answered all the same",
            ) from error  # fmt: skip

    async def _catch_up(self, sequence: int) -> None:
        waiting = self.wait_for(sequence)
        if waiting.done():
            return
        await within(
            self._clock, self._patience_ns, waiting,
            lambda: BusUnavailableError(
                f"the view stands at sequence {self.applied}, the session has seen {sequence}",
                subject=self.log.name,
                hint="the view is behind, or the token is another log's: try again, or another gateway",
            ),
        )  # fmt: skip

    def _require_branch(self, token: Token) -> None:
        branches = {branch.log_id: branch.through for branch in self._living.branches}
        through = branches.get(token.log_id, 0)
        if token.log_id not in branches or (through is not None and token.sequence > through):
            raise OtherBranchError(
                "the session has seen what this branch of the log does not hold", subject=self.log.name,
                position=f"sequence {token.sequence}", hint="the log was restored since: begin a new session",
            )  # fmt: skip

    # Following.

    async def _follow(self) -> None:
        try:
            while True:
                try:
                    async for message in self.log.read(self.applied + 1, follow=True):
                        await delay(self._clock, self._faults.view_delay_ns)
                        if not self.view.has_room(len(message.payload)):
                            self.metrics.add("kv_snapshots_waited_for_total")
                            await self.keeper.finished()
                        self._take(message)
                        if self.keeper.passed(len(message.payload)):
                            await self.keeper.begin(self.view, self._living.log_id)
                    raise BusUnavailableError("the log's reader ended", subject=self.log.name)
                except TransientError:
                    self.metrics.add("kv_readers_reopened_total")
                    await delay(self._clock, READ_PAUSE_NS)
        except TapehouseError as error:
            self.metrics.add("kv_views_halted_total")
            self._halt(error)
        except Exception as error:
            self._halt(InvariantError(f"the view failed: {error!r}", subject=self.log.name))
            raise

    async def _tidy(self) -> None:
        """While nothing is written, go on with what is otherwise done beside frames."""
        while True:
            before = self.applied
            await delay(self._clock, IDLE_NS)
            if self.applied == before and self._error is None:
                self.view.tidy(IDLE_ROWS)

    def _take(self, message: Message) -> None:
        """Apply one message; who waits for it is told."""
        sequence = message.sequence
        if sequence != self.applied + 1:
            raise GapError(f"sequence {sequence} came after {self.applied}", subject=self.log.name)
        try:
            header, body = open_entry_frame(message.payload)
            if header.log_id == self._living.log_id_at(sequence):
                rows = self.view.apply(
                    body, header.count, writer=header.writer, number=header.first_ordinal, time=header.first_time,
                    sequence=sequence,
                )  # fmt: skip
            else:  # A gateway that has not noticed that the log was restored.
                self.metrics.add("kv_frames_of_other_branches_total")
                rows = None
        except (DecodeError, BudgetError) as error:
            error.subject = self.log.name
            if not error.position.startswith("sequence"):
                error.position = f"sequence {sequence}{', ' if error.position else ''}{error.position}"
            error.hint = error.hint or "the log holds what no gateway writes: nothing after it is applied"
            raise
        self.applied = sequence
        self._count(rows)
        if rows is None:
            self.recent.add(sequence, b"", NO_ANSWERS, {})
        else:
            self.recent.add(sequence, body, rows[:, : layout.OLD_BYTES].copy(), self._short_olds(rows))
            if self._wrote.waits_for(header.writer, header.first_ordinal):
                self._wrote.applied(header.first_ordinal, sequence, rows, self.view.answers)
            self.view.sweep(SWEEP_ROWS)
        while self._waiting and self._waiting[0][0] <= sequence:
            _wake(heapq.heappop(self._waiting)[2])
        if self._grown is not None:
            grown, self._grown = self._grown, None
            _wake(grown)

    def _count(self, rows: Any) -> None:
        counts, status = self._counts, Status.OUT_OF_TURN if rows is None else rows.item(0, layout.STATUS)
        counts["frames"] += 1
        counts["repeated_frames"] += status == Status.REPEATED
        counts["refused_frames"] += status == Status.OUT_OF_TURN
        if status not in (Status.REPEATED, Status.OUT_OF_TURN):
            counts["entries"] += len(rows)

    def _short_olds(self, rows: Any) -> dict[int, bytes]:
        """Old values that may be a sum's, by their entries' places; they hold while the rows do."""
        sizes = rows[:, layout.OLD_BYTES]
        if sizes.max() < 0:
            return {}
        places = np.flatnonzero((sizes >= 0) & (sizes <= INTEGER_DIGITS_MAX)).tolist()
        olds = self.view.answers(rows[places])
        return {place: answer.old for place, answer in zip(places, olds, strict=True) if isinstance(answer.old, bytes)}

    def measure(self, last: int | None = None) -> ShardMeasures:
        """What the shard holds and did.

        Args:
            last: The log's last sequence, where it is known.
        """
        held = self.view.metrics()
        return ShardMeasures(
            shard=self.shard, keys=held.keys, evicted_keys=held.evicted_keys,
            bytes=held.table_bytes + held.arena_bytes, budget_bytes=held.budget_bytes, hits=held.hits,
            misses=held.misses, absent=held.absent, evictions=held.evictions,
            read_again=self._values.frames_read if self._values else 0, **self._counts,
            queued_entries=self._writer.queued_entries if self._writer else 0, applied=self.applied,
            behind=None if last is None else max(last - self.applied, 0),
            behind_ns=self.staleness_ns if self._writer else None, snapshot_sequence=self.keeper.sequence,
        )  # fmt: skip

    def _halt(self, error: TapehouseError) -> None:
        self._error = self._error or error
        if self._writer is not None:
            self._writer.fail(error)
        waiting = [who for _, _, who in self._waiting]
        if self._grown is not None:
            waiting.append(self._grown)
        for who in waiting:
            if not who.done():
                who.set_exception(error)
                who.exception()  # Who waited may have left.
        self._waiting.clear()
        self._grown = None

    def _require(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)  # Else it would grow with each time.


def _wake(who: asyncio.Future[None]) -> None:
    if not who.done():
        who.set_result(None)
