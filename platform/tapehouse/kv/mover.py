"""Moving slots between shards while they are used: one mover at a time, and anyone can go on after it.

What is to be done follows from who owns what (`plan`), and each step is judged by the machines (`moves`). So a mover
that is killed at any moment leaves a state from which another goes on: what was frozen thaws by itself, what was copied
is copied again, and what was given away is taken over before anything else. The claim keeps two movers from working
against each other; that nothing is lost does not hang on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tapehouse.core.clock import Clock
from tapehouse.core.errors import ConflictError, InvariantError, TransientError, UsageError
from tapehouse.core.tasks import cancel_all
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv import moves
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import INDEX_BITS, Entry, EntryFlag, Op, Status, encode_entry, slots_value
from tapehouse.kv.errors import OutcomeUnknownError
from tapehouse.kv.faults import delay
from tapehouse.kv.moving import copied_digest
from tapehouse.kv.node import ShardNode
from tapehouse.kv.plan import CLAIM_KEY, PLAN_KEY, Move, Plan, plan_moves
from tapehouse.kv.reference import Stored, given
from tapehouse.kv.shard_map import SHARDS_MAX, plan_of
from tapehouse.kv.slots import SLOTS, slot_of
from tapehouse.kv.view import Evicted, ViewAnswer

RANGE_SLOTS = 1_024  # that are frozen together, at most,
RANGE_ROWS = 4_096  # with so many rows
RANGE_BYTES = 4 * 1024 * 1024  # and so many bytes; a slot that has more goes alone
COPY_BYTES = 256 * 1024  # of rows in one submission, so that writers of the target do not wait long
COPY_ROWS = 1_024
FORGET_ROWS = 1_024
FREEZE_NS = 5 * NS_PER_SECOND  # after which a mover that went away no longer holds writers up
CLAIM_NS = 5 * NS_PER_SECOND  # a claim that was not renewed for so long is anyone's
CLAIM_LOOKS, CLAIM_RENEWALS = 10, 5  # within that time: of who waits for it, and by its holder
TROUBLES_MAX = 20  # in a row, of one run of slots, before the mover gives up
TROUBLE_PAUSE_NS = NS_PER_SECOND // 4
NAME_BYTES_MAX = 32


class _TakenOverError(ConflictError):
    """A step was not applied: something changed under the mover, which looks at it anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a rebalance has come.

    Attributes:
        slots, moved: To be moved since it was first asked for, and how many of them were.
        rows, bytes: That this mover has copied.
        is_done: Whether nothing is left to be done.
    """

    shards: int
    slots: int
    moved: int
    rows: int = 0
    bytes: int = 0
    is_done: bool = False


class Mover:
    """Spreads a KV's slots over shards; `run` it once.

    Args:
        life: That no other mover has.
        name: Whom others are told that move slots.
        tell: Hears of every run of slots that was moved.
        should_stop: Asked before each; the state is then one from which anyone can go on.
    """

    def __init__(
        self,
        kv: Kv,
        *,
        clock: Clock,
        life: int,
        name: str = "",
        tell: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._kv = kv
        self._clock = clock
        self._name = b"%016x " % life + name.encode()[:NAME_BYTES_MAX]
        self._tell = tell
        self._should_stop = should_stop
        self._claimed = 0  # revision of our claim
        self._lost = False
        self._progress = Progress(shards=0, slots=0, moved=0)

    async def run(self, shards: int) -> Progress:
        """Spread all slots over shards 0 to `shards` - 1; logs that are missing are added first.

        Raises:
            UsageError: There cannot be so many shards.
            ConflictError: Another mover is at work, or took over.
            TransientError: A log stayed away; run it again to go on.
        """
        if not 0 < shards <= SHARDS_MAX:
            raise UsageError(f"{shards} shards", hint=f"1 to {SHARDS_MAX}")
        await self._claim()
        renewing = asyncio.create_task(self._keep_claim())
        try:
            await self._begin(shards)
            while self._progress.moved < self._progress.slots and not self._should_stop():
                await self._pass(shards)
            if not self._should_stop():
                await self._clean()
                self._progress = replace(self._progress, is_done=True)
                self._tell(self._progress)
            return self._progress
        finally:
            await cancel_all([renewing])
            await self._leave()

    # One mover at a time.

    async def _claim(self) -> None:
        """Wait until nobody holds the claim, or who does has not renewed it for CLAIM_NS; then take it.

        Raises:
            ConflictError: It is renewed: another mover is at work.
        """
        first, seen = self._kv.nodes[0], 0
        for look in range(CLAIM_LOOKS + 1):
            await first.barrier()
            held = first.view.peek(CLAIM_KEY)
            if held is not None and seen not in (0, held.revision):
                break
            if held is None or look == CLAIM_LOOKS:
                answer = await self._write_claim(held.revision if held else 0)
                if answer.status is Status.APPLIED:
                    self._claimed = answer.revision
                    return
                break
            seen = held.revision
            await delay(self._clock, CLAIM_NS // CLAIM_LOOKS)
        raise ConflictError(
            f"{holder(first) or 'somebody'} moves slots already", subject=first.log.name,
            hint="watch it: tapehouse kv shards",
        )  # fmt: skip

    async def _write_claim(self, revision: int) -> ViewAnswer:
        claim = Entry(op=Op.PUT, key=CLAIM_KEY, value=self._name, flags=EntryFlag.IF_REVISION, revision=revision)
        return (await self._kv.nodes[0].submit([encode_entry(claim)])).answers[0]

    async def _keep_claim(self) -> None:
        while not self._lost:
            await delay(self._clock, CLAIM_NS // CLAIM_RENEWALS)
            try:
                answer = await self._write_claim(self._claimed)
            except (TransientError, OutcomeUnknownError):
                held = self._kv.nodes[0].view.peek(CLAIM_KEY)  # It may have been applied all the same.
                if isinstance(held, Stored) and held.value == self._name:
                    self._claimed = held.revision
                continue
            self._lost = answer.status is not Status.APPLIED
            self._claimed = self._claimed if self._lost else answer.revision

    async def _leave(self) -> None:
        """Give the claim back, where it can be: else it is anyone's after CLAIM_NS."""
        gone = Entry(op=Op.DELETE, key=CLAIM_KEY, flags=EntryFlag.IF_REVISION, revision=self._claimed)
        try:
            await self._kv.nodes[0].submit([encode_entry(gone)])
        except (TransientError, OutcomeUnknownError):
            self._lost = True

    def _require_claim(self) -> None:
        if self._lost:
            raise ConflictError(
                f"{holder(self._kv.nodes[0]) or 'another mover'} took over: this mover was not heard of for too long",
                hint="watch it: tapehouse kv shards",
            )

    # What there is to do.

    async def _begin(self, shards: int) -> None:
        """Note down what is wanted, where it is not yet, and have all logs open."""
        first = self._kv.nodes[0]
        await self._barriers()
        known = plan_of(first)
        left = sum(move.last + 1 - move.first for move in self._moves(shards))
        total = known.slots if known and known.shards == shards and known.slots >= left > 0 else left
        plan = Plan(max(len(self._kv.nodes), shards, known.logs if known else 0), shards, total)
        if plan != known:
            await self._apply(first, [Entry(op=Op.PUT, key=PLAN_KEY, value=plan.stored)])
        await self._kv.open_added()
        await self._barriers()
        self._progress = Progress(shards=shards, slots=total, moved=total - left)
        self._tell(self._progress)

    async def _barriers(self) -> None:
        await asyncio.gather(*(node.barrier() for node in self._kv.nodes))

    def _moves(self, shards: int) -> list[Move]:
        """What is left to be moved, as this process's views know it."""
        holders, is_given = who_holds(self._kv.nodes)
        return plan_moves(holders, is_given, shards)

    async def _pass(self, shards: int) -> None:
        """Move all that is left, run by run; what is in the way of one ends the pass."""
        self._require_claim()
        found = self._moves(shards)
        troubles = 0
        for run in _runs(found, self._kv.nodes):
            if self._should_stop():
                return
            while True:
                self._require_claim()
                try:
                    await self._move(run)
                    break
                except _TakenOverError:
                    troubles += 1
                    if troubles >= TROUBLES_MAX:
                        raise
                except (TransientError, OutcomeUnknownError):
                    troubles += 1
                    if troubles >= TROUBLES_MAX:
                        raise
                    await delay(self._clock, TROUBLE_PAUSE_NS)
                await self._barriers_or_trouble()
                current = self._current(run)
                if current is None:
                    break
                run = current
            troubles = 0
            left = sum(move.last + 1 - move.first for move in self._moves(shards))
            self._progress = replace(self._progress, moved=self._progress.slots - left)
            self._tell(self._progress)

    async def _barriers_or_trouble(self) -> None:
        try:
            await self._barriers()
        except TransientError:
            await delay(self._clock, TROUBLE_PAUSE_NS)

    def _current(self, run: Move) -> Move | None:
        """A run as it is after a step that failed: perhaps nobody's by now, perhaps where it should be."""
        holders, is_given = who_holds(self._kv.nodes)
        slots = range(run.first, run.last + 1)
        if all(not is_given[slot] and holders[slot] == run.target for slot in slots):
            return None
        if len({(holders[slot], is_given[slot]) for slot in slots}) != 1:
            raise _TakenOverError(f"slots {run.first} to {run.last} are no longer moved together")
        return replace(run, source=holders[run.first], is_given=is_given[run.first])

    # One run of slots: see `moves`.

    async def _move(self, run: Move) -> None:
        source, target = self._kv.nodes[run.source], self._kv.nodes[run.target]
        if run.is_given:
            await self._fence(run, target)
        place = run.first, run.last, self._next_epoch(run)
        if source is target:  # It gave them away and nobody took them: its rows are as they were.
            await self._apply(target, [Entry(op=Op.OWN, value=slots_value(*place))])
            return
        await self._apply(target, [moves.receive(*place)])
        await self._forget(target, target.view.keys_of(run.first, run.last))
        since = 0 if run.is_given else await self._freeze(source, place)
        renewed = self._clock.monotonic_ns()
        count = digest = copied = 0
        async for bodies in self._copies(source, run):
            body = b"".join(bodies)
            await self._apply_bodies(target, bodies)
            count, copied = count + len(bodies), copied + len(body)
            digest += copied_digest(body)
            if not run.is_given and self._clock.monotonic_ns() - renewed > FREEZE_NS // 4:
                renewed = self._clock.monotonic_ns()
                if await self._freeze(source, place) != since:
                    raise _TakenOverError("the slots thawed while they were copied", subject=source.log.name)
        if not run.is_given:
            await self._apply(source, [moves.give(*place)])
        own = moves.own_copied(*place, count=count, digest=digest & (1 << 64) - 1, time=source.view.now)
        await self._apply(target, [own])
        self._progress = replace(self._progress, rows=self._progress.rows + count, bytes=self._progress.bytes + copied)
        await self._forget(source, source.view.keys_of(run.first, run.last))

    def _next_epoch(self, run: Move) -> int:
        """Later than all in which any shard owned these slots, or was to."""
        epochs = np.stack([node.view.owners()[run.first : run.last + 1] for node in self._kv.nodes])
        tried = [
            move.epoch
            for node in self._kv.nodes
            for move in (node.view.frozen, node.view.coming)
            if move is not None and move.first <= run.last and run.first <= move.last
        ]
        return 1 + max(int(np.maximum(epochs, given(epochs)).max()), *tried, 0)

    async def _fence(self, run: Move, target: ShardNode) -> None:
        """Have no shard but the target own slots that were given away: what a dead mover sent may come late."""
        for node in self._kv.nodes:
            coming = node.view.coming
            if node is not target and coming and coming.first <= run.last and run.first <= coming.last:
                await self._apply(node, [moves.receive(coming.first, coming.last, coming.epoch)])

    async def _freeze(self, source: ShardNode, place: tuple[int, int, int]) -> int:
        """Freeze a run, or put the end of that off; since when it is frozen."""
        until = max(source.view.now, self._clock.time_ns()) + FREEZE_NS
        return (await self._apply(source, [moves.freeze(*place, until)]))[0] >> INDEX_BITS

    async def _copies(self, source: ShardNode, run: Move) -> AsyncIterator[list[bytes]]:
        """The rows of a run as entries, in portions; values that are not in memory are read from the log."""
        keys = source.view.keys_of(run.first, run.last)
        while keys:
            rows: list[tuple[bytes, Stored | Evicted]] = []
            size = 0
            while keys and len(rows) < COPY_ROWS and size < COPY_BYTES:
                key = keys.pop()
                held = source.view.peek(key)
                if held is None:
                    continue  # It has expired.
                rows.append((key, held))
                size += len(key) + (len(held.value) if isinstance(held, Stored) else held.bytes)
            if rows:
                yield [
                    encode_entry(moves.copy(key, row.value, expiry=row.expiry, revision=row.revision))
                    for key, row in await source.stored(rows)
                ]

    async def _forget(self, node: ShardNode, keys: list[bytes]) -> None:
        """Drop rows of slots that a shard does not own."""
        for at in range(0, len(keys), FORGET_ROWS):
            part = keys[at : at + FORGET_ROWS]
            await self._apply(node, [moves.forget(key, node.view.epoch(slot_of(key))) for key in part])

    async def _clean(self) -> None:
        """Drop what movers that were killed have left: rows of slots that another shard owns in a later epoch."""
        await self._barriers()
        holders, is_given = who_holds(self._kv.nodes)
        if any(is_given):
            raise InvariantError(f"{sum(is_given)} slots are nobody's after a rebalance")
        for node in self._kv.nodes:
            coming = node.view.coming
            if coming is not None and not node.view.owns(coming.first):
                await self._apply(node, [moves.receive(coming.first, coming.last, coming.epoch)])
            foreign = np.array([holders[slot] != node.shard for slot in range(SLOTS)]) & (node.view.keys_by_slot() > 0)
            slots = np.flatnonzero(foreign)
            if len(slots):
                keys = node.view.keys_of(int(slots[0]), int(slots[-1]))
                await self._forget(node, [key for key in keys if foreign[slot_of(key)]])

    async def _apply(self, node: ShardNode, entries: list[Entry]) -> list[int]:
        return await self._apply_bodies(node, [encode_entry(entry) for entry in entries])

    async def _apply_bodies(self, node: ShardNode, bodies: list[bytes]) -> list[int]:
        """The revisions that entries were answered with.

        Raises:
            _TakenOverError: One of them was not applied.
        """
        applied = await node.submit(bodies)
        for answer in applied.answers:
            if answer.status is not Status.APPLIED:
                raise _TakenOverError(
                    f"a step was answered {answer.status.name}: something else moved these slots",
                    subject=node.log.name, position=f"sequence {applied.sequence}", hint="run it again to go on",
                )  # fmt: skip
        return [answer.revision for answer in applied.answers]


def warm(node: ShardNode) -> None:
    """Compile what a mover runs: a gateway that is asked to move slots has others to serve."""
    copied_digest(b"")
    node.view.bytes_by_slot()
    node.view.keys_of(0, SLOTS - 1)


def who_holds(nodes: list[ShardNode]) -> tuple[list[int], list[bool]]:
    """Of each slot: the shard that owns it, or that gave it away last; and whether nobody owns it."""
    epochs = np.stack([node.view.owners() for node in nodes])
    is_given = epochs.max(axis=0) < 0
    known = np.where(epochs < 0, given(epochs), epochs)  # Where it never was: given(-1), which is below all others.
    holders = np.where(is_given, known.argmax(axis=0), epochs.argmax(axis=0))
    return holders.tolist(), is_given.tolist()


def _runs(found: list[Move], nodes: list[ShardNode]) -> Iterator[Move]:
    """Moves cut into runs that are frozen together."""
    sizes = {shard: nodes[shard].view.bytes_by_slot().tolist() for shard in {move.source for move in found}}
    rows = {shard: nodes[shard].view.keys_by_slot().tolist() for shard in sizes}
    for move in found:
        first = move.first
        while first <= move.last:
            last, many, size = first, rows[move.source][first], sizes[move.source][first]
            while last < move.last and last + 1 - first < RANGE_SLOTS:
                many, size = many + rows[move.source][last + 1], size + sizes[move.source][last + 1]
                if many > RANGE_ROWS or size > RANGE_BYTES:
                    break
                last += 1
            yield replace(move, first=first, last=last)
            first = last + 1


def holder(first: ShardNode) -> str:
    """The name of who moves slots; empty where nobody does."""
    held = first.view.peek(CLAIM_KEY)
    return held.value.partition(b" ")[2].decode(errors="replace") if isinstance(held, Stored) else ""
