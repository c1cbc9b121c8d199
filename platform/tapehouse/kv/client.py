"""The KV in process: every shard's node behind one API. The gateways of RESP and HTTP, and tests, use this alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tapehouse.core.clock import Clock
from tapehouse.core.errors import DataError, TapehouseError, TransientError, UsageError
from tapehouse.core.metrics import Metrics
from tapehouse.core.tasks import cancel_all
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv import requests
from tapehouse.kv.derived import Derived, refuse_derived
from tapehouse.kv.entries import Answer, Entry, Status, encode_entry
from tapehouse.kv.errors import NotServedHereError
from tapehouse.kv.faults import Faults, delay
from tapehouse.kv.flights import Applied
from tapehouse.kv.history import Version, read_history
from tapehouse.kv.levels import EVENTUAL, Level, Linearizable, Session
from tapehouse.kv.measures import ShardMeasures
from tapehouse.kv.node import ShardNode
from tapehouse.kv.plan import CLAIM_KEY, PLAN_KEY
from tapehouse.kv.recent import Change, sum_of
from tapehouse.kv.reference import Stored
from tapehouse.kv.requests import RESERVED, BatchOutcome, Outcome
from tapehouse.kv.shard_map import SHARDS_KEY, ShardMap, own_first_slots, plan_of, settle_shards
from tapehouse.kv.shard_writer import PATIENCE_NS, Commit
from tapehouse.kv.slots import slot_of
from tapehouse.kv.submitted import MOVING, Submitted, SubmittedBatch, batch_outcome_of, outcome_of
from tapehouse.kv.view import BUDGET_BYTES, Evicted, View
from tapehouse.kv.watching import watch_nodes
from tapehouse.log.port import Log

ROUTE_ATTEMPTS_MAX = 40  # of a write or read whose slot is on its way to another shard
ROUTE_PAUSE_NS = NS_PER_SECOND // 20
HEAR_PAUSE_NS = NS_PER_SECOND // 10  # between two looks for logs that were added
SCAN_LIMIT = 1_000
SCAN_LIMIT_MAX = 100_000


class Kv:
    """A KV over its shards' logs; made by `open`, used as an async context or closed at last.

    Writes return an `Outcome`: a condition that did not hold is told there, never raised.

    Raises, in every call:
        BusyError: Too much waits already; nothing was begun.
        BusUnavailableError: The broker was away for longer than a caller's patience; a write was not sent.
        OutcomeUnknownError: A write was sent and nobody knows whether it was applied.
        DerivedKeyError: The key is below a derived prefix, and only reading it is possible.
        NotServedHereError: The key's slot is on its way to another shard for longer than ROUTE_ATTEMPTS_MAX looks.
        DecodeError, GapError: A log cannot be applied; the sequence is named. All calls fail from then on.
    """

    def __init__(
        self,
        nodes: list[ShardNode],
        shards: ShardMap,
        *,
        clock: Clock,
        stack: AsyncExitStack,
        open_node: Callable[[int, AsyncExitStack], Awaitable[ShardNode]],
        derived: Derived | None = None,
    ) -> None:
        self.nodes = nodes
        self.derived_prefixes = tuple(derived.prefixes) if derived is not None else ()
        self._derived = derived
        self.shards = shards
        self._clock = clock
        self._stack = stack
        self._open_node = open_node
        self._opening = asyncio.Lock()

    @classmethod
    async def open(
        cls,
        open_log: Callable[[int], Awaitable[Log]],
        *,
        new_life: Callable[[], int],
        clock: Clock,
        shards: int | None = None,
        budget_bytes: int = BUDGET_BYTES,
        snapshots: Path | None = None,
        commit: Commit = "group",
        patience_ns: int = PATIENCE_NS,
        faults: Faults | None = None,
        metrics: Metrics | None = None,
        derived: Derived | None = None,
    ) -> Kv:
        """Open the logs, come to their end, and make a new KV's slots known.

        Args:
            open_log: A shard's log by its number.
            new_life: Makes an identity that no other life of any gateway has, not 0.
            shards: How many a new KV is to have; None for one that is there.
            budget_bytes: Of memory for each shard's view; beyond it values are evicted and read from the log again.
            snapshots: A directory of this gateway's own where each view is kept, so that the next `open` need not
                fold the logs from their start; one that is damaged is put aside (`node.keeper.refused` says why).
            derived: Answers for the keys below its prefixes, which nobody can write.

        Raises:
            UsageError: The KV has another number of shards, or it is new and none was given; or the budget is small.
            BudgetError: A shard's keys are too many for the budget.
        """

        async def open_node(shard: int, stack: AsyncExitStack) -> ShardNode:
            log, seed = await open_log(shard), new_life()
            node = ShardNode(
                shard, log, lambda: View(budget_bytes=budget_bytes, seed=seed),
                snapshot=snapshots / f"{log.name}.view" if snapshots else None, new_life=new_life,
                clock=clock, commit=commit, patience_ns=patience_ns, faults=faults, metrics=metrics,
            )  # fmt: skip
            stack.push_async_callback(node.close)
            await node.open()
            return node

        async with AsyncExitStack() as stack:
            first = await open_node(0, stack)
            began, logs = await settle_shards(first, shards)
            nodes = [first, *[await open_node(shard, stack) for shard in range(1, logs)]]
            for node in nodes[:began]:
                await own_first_slots(node, began)
            kv = cls(nodes, ShardMap(nodes), clock=clock, stack=stack.pop_all(), open_node=open_node, derived=derived)
            kv.start()
            return kv
        raise AssertionError("unreachable")

    def start(self) -> None:
        """Hear of logs that are added while the KV is open."""
        hearing = asyncio.create_task(self._hear())
        self.call_at_close(lambda: cancel_all([hearing]))

    def call_at_close(self, end: Callable[[], Awaitable[None]]) -> None:
        """Have something ended before the logs are left."""
        self._stack.push_async_callback(end)

    async def close(self) -> None:
        """Leave the logs; who still waits is told so."""
        await self._stack.aclose()

    async def __aenter__(self) -> Kv:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Writing.

    async def put(
        self,
        key: bytes,
        value: bytes,
        *,
        ttl_s: float | None = None,
        if_absent: bool = False,
        if_present: bool = False,
        keep_ttl: bool = False,
        return_old: bool = False,
        session: Session | None = None,
    ) -> Outcome:
        """Set a key, for so many seconds or for ever.

        Args:
            session: Takes note of this write.
        """
        entry = requests.put(
            key, value, expiry=self._expiry(ttl_s), if_absent=if_absent, if_present=if_present, keep_expiry=keep_ttl,
            return_old=return_old,
        )  # fmt: skip
        return await self.write(entry, session=session)

    async def put_if(
        self, key: bytes, value: bytes, revision: int, *, ttl_s: float | None = None, session: Session | None = None
    ) -> Outcome:
        """Set a key where it has this revision; 0: where there is none. Else CHANGED, with the revision it has."""
        return await self.write(
            requests.put(key, value, expiry=self._expiry(ttl_s), revision=revision), session=session
        )

    async def delete(
        self, key: bytes, *, revision: int | None = None, return_old: bool = False, session: Session | None = None
    ) -> Outcome:
        """Remove a key; ABSENT where there was none."""
        return await self.write(requests.delete(key, revision=revision, return_old=return_old), session=session)

    async def add(self, key: bytes, amount: int = 1, *, session: Session | None = None) -> int:
        """Add to the decimal integer that a key holds, 0 where there is none; the sum.

        Raises:
            DataError: It holds something else, or the sum does not fit 64 bits.
        """
        entry = requests.add(key, amount)
        outcome = await self.write(entry, session=session)
        if not outcome.is_applied:
            is_number = outcome.status is Status.OVERFLOW
            raise DataError(
                "the sum does not fit 64 bits" if is_number else "the value is no decimal integer of 64 bits",
                subject=repr(key),
            )
        return sum_of(entry, Answer(status=outcome.status, old=outcome.old))

    async def expire(self, key: bytes, ttl_s: float | None, *, session: Session | None = None) -> Outcome:
        """Have a key expire after so many seconds, or never (None); ABSENT where there is none."""
        return await self.write(requests.expire(key, self._expiry(ttl_s)), session=session)

    async def write(self, entry: Entry, *, session: Session | None = None) -> Outcome:
        """Write one entry of `kv.requests`."""
        slot = slot_of(entry.key)
        node, applied = await self._written(slot, [entry])
        outcome = outcome_of(node, slot, applied.sequence, applied.answers[0])
        if session is not None:
            session.note(outcome.token)
        return outcome

    def submit(self, entries: Sequence[Entry], *, session: Session | None = None) -> Submitted:
        """Give entries of `kv.requests` to their shards' writers now, in their order; `outcomes` waits for them.

        Of one key they take effect in their order. They are not atomic together.

        Raises:
            DerivedKeyError: One of them is below a derived prefix; nothing was begun, and nothing else is raised here.
        """
        self._check_writable(entries)
        return Submitted(entries, self.shards, again=self.write, session=session)

    async def batch(self, entries: Sequence[Entry], *, session: Session | None = None) -> BatchOutcome:
        """Write entries of `kv.requests` whose keys share a slot: all of them or none.

        Raises:
            CrossSlotError: Their keys belong to several slots.
        """
        slot = slot_of(entries[0].key) if entries else 0
        node, applied = await self._written(slot, requests.batch(entries))
        outcome = batch_outcome_of(node, slot, applied)
        if session is not None:
            session.note(outcome.token)
        return outcome

    def submit_batch(self, entries: Sequence[Entry], *, session: Session | None = None) -> SubmittedBatch:
        """As `submit`, of entries that are written together or not at all; `outcome` waits for them.

        Raises:
            CrossSlotError: Their keys belong to several slots.
            UsageError: There are none, too many, or a key comes twice.
        """
        self._check_writable(entries)
        return SubmittedBatch(entries, self.shards, again=lambda: self.batch(entries), session=session)

    # Reading.

    async def get(self, key: bytes, level: Level = EVENTUAL) -> Stored | None:
        """What a key holds; None where there is none, or it has expired."""
        if self._derived is not None and self._is_derived(key):
            return await self._derived.get(key, level)
        slot = slot_of(key)
        node = await self._reached(slot, level)
        if isinstance(level, Session):
            level.note(node.token(slot))
        return await node.get(key, self.reader_time(level))

    async def get_each(self, keys: Sequence[bytes], level: Level = EVENTUAL) -> list[Stored | TapehouseError | None]:
        """As `get` of each key; those of one shard wait together, and an error is that of its key alone."""
        own = [key for key in keys if not self._is_derived(key)]
        nodes = {node.shard: node for node in (self.shards.node(slot_of(key)) for key in own)}
        ready: dict[int, TapehouseError | None] = dict.fromkeys(nodes)
        await asyncio.gather(*(self._reach(node, level, ready) for node in nodes.values()))
        now = self.reader_time(level)
        found: list[Stored | TapehouseError | None] = []
        slow: list[int] = []
        for place, key in enumerate(keys):
            slot = slot_of(key)
            node = self.shards.node(slot)
            held = None
            is_elsewhere = node.shard not in ready or not node.view.owns(slot) or not self.is_current(slot, level)
            if is_elsewhere or self._is_derived(key):
                slow.append(place)
            elif problem := ready[node.shard]:
                found.append(problem)
                continue
            else:
                held = node.view.get(key, now)
                if isinstance(level, Session):
                    level.note(node.token(slot))
            if isinstance(held, Evicted):
                slow.append(place)
                held = None
            found.append(held)
        read = await asyncio.gather(*(self.get(keys[place], level) for place in slow), return_exceptions=True)
        for place, row in zip(slow, read, strict=True):
            if isinstance(row, BaseException) and not isinstance(row, TapehouseError):
                raise row
            found[place] = row
        return found

    async def _reach(self, node: ShardNode, level: Level, ready: dict[int, TapehouseError | None]) -> None:
        try:
            await node.reach(level)
        except TapehouseError as problem:
            ready[node.shard] = problem

    async def scan(
        self, prefix: bytes = b"", level: Level = EVENTUAL, *, after: bytes | None = None, limit: int = SCAN_LIMIT
    ) -> list[tuple[bytes, Stored]]:
        """Keys that begin with `prefix`, those above `after` alone, in the order of their bytes.

        Of one shard they are as of one moment; of several shards each at its own. Derived keys are found where `prefix`
        begins with a derived prefix, and nowhere else.

        Args:
            limit: The most that are returned; go on after the last key.
        """
        if not 0 < limit <= SCAN_LIMIT_MAX:
            raise UsageError(f"a scan of {limit} keys", hint=f"1 to {SCAN_LIMIT_MAX}")
        if self._derived is not None and self._is_derived(prefix):
            return await self._derived.scan(prefix, level, after=after, limit=limit)
        nodes = await self._all_reached(level)
        now = self.reader_time(level)
        parts = [(node, self._scan_node(node, prefix, after, limit, now)) for node in nodes]
        if isinstance(level, Session):
            for node in nodes:
                level.note(node.token())
        found: list[tuple[bytes, Stored]] = []
        for node, rows in parts:
            found += await node.stored(rows)
        return sorted(found, key=lambda row: row[0])[:limit]

    def watch(self, prefix: bytes, after: int | Session | None = None) -> AsyncIterator[Change]:
        """Changes of keys that begin with `prefix`, as they are applied; of one shard in order, for ever.

        Expiries change nothing and are not told: a change says when its key will expire. Where slots move, changes from
        before and after may come in the other order: a key's revisions grow.

        Args:
            after: A revision: changes after it, where the prefix lies in one shard (it has a whole hash tag, or there
                is one shard). A session: all that it has not seen. None: from now on.

        Raises, from the iterator:
            UsageError: A revision, and a prefix that lies in several shards.
            WatchLaggedError: What comes next is not kept any more, or the watcher fell behind it; or the keys moved to
                another shard since.
        """
        refuse_derived(self._derived, prefix, "be watched")
        return watch_nodes(self.nodes, self.shards, prefix, after)

    async def history(self, key: bytes, *, limit: int = 100) -> list[Version]:
        """The last versions of a key, oldest first, as far as this view has come; read from the log, and slow.

        A key whose slot moved begins with what it held then: older versions are in the log that it came from.
        """
        requests.check_key(key)
        refuse_derived(self._derived, key, "tell its history here")
        node = self.shards.node(slot_of(key))
        through = node.applied
        return await read_history(node.log, await node.log.extent(), key, through=through, limit=limit)

    def count_keys(self) -> int:
        """How many keys there are, the KV's own left out; as in Redis, expired ones count until they are swept."""
        ours = sum(self.nodes[0].view.peek(key) is not None for key in (SHARDS_KEY, PLAN_KEY, CLAIM_KEY))
        return self.shards.count_keys() - ours

    async def measure(self) -> list[ShardMeasures]:
        """What each shard holds and did; how far it is behind is asked of the broker, None where that is away."""
        return [node.measure(await self._last(node)) for node in self.nodes]

    # Within.

    def _is_derived(self, key: bytes) -> bool:
        return key.startswith(self.derived_prefixes)

    def _check_writable(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if self._is_derived(entry.key):
                refuse_derived(self._derived, entry.key, "be written")

    async def _last(self, node: ShardNode) -> int | None:
        try:
            return (await node.log.extent()).last
        except TransientError:
            return None

    def _expiry(self, ttl_s: float | None) -> int:
        return requests.expiry_after(ttl_s, self._clock.time_ns())

    def reader_time(self, level: Level) -> int | None:
        """A linearizable read goes by the log's time alone: two readers' clocks could disagree on what has expired."""
        return None if isinstance(level, Linearizable) else self._clock.time_ns()

    def _scan_node(
        self, node: ShardNode, prefix: bytes, after: bytes | None, limit: int, now: int | None
    ) -> list[tuple[bytes, Stored | Evicted]]:
        """A node's living keys of slots that it owns, of one moment; in pages, as some may be left out."""
        found: list[tuple[bytes, Stored | Evicted]] = []
        while len(found) < limit:
            page = node.view.scan(prefix, after=after, limit=limit, now=now)
            found += [
                (key, row)
                for key, row in page
                if not key.startswith(RESERVED) and self.shards.node(slot_of(key)) is node
            ]
            if len(page) < limit:
                break
            after = page[-1][0]
        return found[:limit]

    async def _written(self, slot: int, entries: list[Entry]) -> tuple[ShardNode, Applied]:
        """Write entries of one slot where it is owned; what was refused for that reason alone is asked again there."""
        self._check_writable(entries)
        bodies = [encode_entry(entry) for entry in entries]
        for _ in range(ROUTE_ATTEMPTS_MAX):
            node = self.shards.node(slot)
            applied = await node.write(bodies)
            if not any(answer.status in MOVING for answer in applied.answers):
                return node, applied
            await self._look_again(slot, node)
        raise self._not_served(slot)

    async def _reached(self, slot: int, level: Level) -> ShardNode:
        """The node that owns a slot, once its view may be read at a level."""
        for _ in range(ROUTE_ATTEMPTS_MAX):
            node = self.shards.node(slot)
            await node.reach(level)
            is_seen = not isinstance(level, Session) or await self._see_moves(node, slot, level)
            if is_seen and node.view.owns(slot) and self.shards.node(slot) is node:
                return node
            await self._look_again(slot, node)
        raise self._not_served(slot)

    def is_current(self, slot: int, level: Level) -> bool:
        """Whether a slot is where a session, if it is one, last knew it: see `_see_moves`."""
        if not isinstance(level, Session):
            return True
        node = self.shards.node(slot)
        epoch = node.view.epoch(slot)
        return not any(token.epoch > epoch and token.shard != node.shard for token in level.tokens)

    async def _see_moves(self, node: ShardNode, slot: int, session: Session) -> bool:
        """Where the session has seen a later epoch of another shard, that one may own the slot by now: see it too.

        Returns:
            False where a shard that it has seen is not known here yet.
        """
        epoch = node.view.epoch(slot)
        later = [token for token in session.tokens if token.epoch > epoch and token.shard != node.shard]
        for token in later:
            if token.shard >= len(self.nodes):
                await self.open_added()
            if token.shard >= len(self.nodes):
                return False
            await self.nodes[token.shard].reach(session)
        if later:
            self.shards.refresh()
        return True

    async def _all_reached(self, level: Level) -> tuple[ShardNode, ...]:
        """All nodes, once their views may be read at a level and every slot has an owner among them."""
        for _ in range(ROUTE_ATTEMPTS_MAX):
            nodes = tuple(self.nodes)
            await asyncio.gather(*(node.reach(level) for node in nodes))
            self.shards.refresh()
            seen = max((token.shard for token in level.tokens), default=0) if isinstance(level, Session) else 0
            if not self.shards.homeless and len(self.nodes) == len(nodes) > seen:
                return nodes
            await self.open_added()
            await delay(self._clock, ROUTE_PAUSE_NS)
        raise NotServedHereError(
            f"{self.shards.homeless} slots are on their way between shards", hint="ask again; is a rebalance under way?"
        )

    async def _look_again(self, slot: int, asked: ShardNode) -> None:
        """Wait a little, unless the views say already that another shard than the one that was asked has the slot."""
        self.shards.refresh()
        if self.shards.node(slot) is asked or not self.shards.node(slot).view.owns(slot):
            await self.open_added()
            await delay(self._clock, ROUTE_PAUSE_NS)
            self.shards.refresh()

    async def open_added(self) -> None:
        """Open the logs that were added since, as far as the view of shard 0 knows of them."""
        async with self._opening:
            plan = plan_of(self.nodes[0])
            while plan is not None and len(self.nodes) < plan.logs:
                async with AsyncExitStack() as stack:
                    node = await self._open_node(len(self.nodes), stack)
                    opened = stack.pop_all()
                self._stack.push_async_callback(opened.aclose)
                self.nodes.append(node)
                self.shards.refresh()
                await self.nodes[0].barrier()  # Who watches all shards waits for a frame in one that it knows.

    async def _hear(self) -> None:
        """Open logs as they are added; where shard 0 has halted every call says so."""
        while True:
            try:
                grown = self.nodes[0].grown()
                await self.open_added()
                await asyncio.shield(grown)
            except TransientError:
                self.nodes[0].metrics.add("kv_logs_not_opened_total")
            await delay(self._clock, HEAR_PAUSE_NS)

    def _not_served(self, slot: int) -> NotServedHereError:
        return NotServedHereError(
            f"slot {slot} is on its way to another shard", hint="ask again; is a rebalance under way?"
        )
