"""Entries of one caller that are on their way: given to their shards' writers at once, in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from tapehouse.core.errors import InvariantError, TapehouseError
from tapehouse.kv import requests
from tapehouse.kv.entries import BODY_BYTES_MAX, ENTRIES_MAX, Entry, Status, encode_entry, revision_parts
from tapehouse.kv.flights import Applied
from tapehouse.kv.levels import Session
from tapehouse.kv.node import ShardNode
from tapehouse.kv.requests import BatchOutcome, Outcome
from tapehouse.kv.shard_map import ShardMap
from tapehouse.kv.slots import slot_of
from tapehouse.kv.view import Evicted, ViewAnswer

MOVING = (Status.NOT_OWNED, Status.FROZEN)  # nothing was applied: another shard has the slot, or will have it


@dataclass(slots=True)
class _Part:
    """Entries of one shard that fit a frame."""

    node: ShardNode
    places: list[int]  # among the caller's entries
    bodies: list[bytes]
    size: int = 0
    end: asyncio.Future[Applied] | TapehouseError | None = None


class Submitted:
    """What `Kv.submit` gives: ask `outcomes` once.

    Args:
        again: Writes an entry whose slot is not where it was thought to be.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        shards: ShardMap,
        *,
        again: Callable[[Entry], Awaitable[Outcome]],
        session: Session | None = None,
    ) -> None:
        self._entries = entries
        self._again = again
        self._session = session
        self._parts = list(_parts(entries, shards))
        for part in self._parts:
            try:
                part.end = part.node.submit(part.bodies)
            except TapehouseError as problem:
                part.end = problem

    async def outcomes(self) -> list[Outcome | TapehouseError]:
        """Of each entry what became of it, or why nobody knows or nothing was begun."""
        told: list[Outcome | TapehouseError | None] = [None] * len(self._entries)
        for part in self._parts:
            for place, outcome in zip(part.places, await self._ends(part), strict=True):
                told[place] = outcome
        for place, end in enumerate(told):
            if isinstance(end, Outcome) and end.status in MOVING:
                try:
                    end = told[place] = await self._again(self._entries[place])
                except TapehouseError as problem:
                    told[place] = problem
                    continue
            if isinstance(end, Outcome) and self._session is not None:
                self._session.note(end.token)
        return [_known(end) for end in told]

    async def _ends(self, part: _Part) -> Sequence[Outcome | TapehouseError]:
        try:
            if not isinstance(part.end, asyncio.Future):
                raise part.end or InvariantError("entries were not submitted")
            applied = await part.node.with_values(await part.end, part.bodies)
        except TapehouseError as problem:
            return [problem] * len(part.places)
        return [
            outcome_of(part.node, slot_of(self._entries[place].key), applied.sequence, answer)
            for place, answer in zip(part.places, applied.answers, strict=True)
        ]


class SubmittedBatch:
    """What `Kv.submit_batch` gives: ask `outcome` once.

    Args:
        entries: Of one slot, as `requests.batch` takes them.
        again: Writes them where their slot is not where it was thought to be.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        shards: ShardMap,
        *,
        again: Callable[[], Awaitable[BatchOutcome]],
        session: Session | None = None,
    ) -> None:
        together = requests.batch(entries)
        self._again = again
        self._session = session
        self._slot = slot_of(entries[0].key)
        self._node = shards.node(self._slot)
        self._bodies = [encode_entry(entry) for entry in together]
        self._end: asyncio.Future[Applied] | TapehouseError
        try:
            self._end = self._node.submit(self._bodies)
        except TapehouseError as problem:
            self._end = problem

    async def outcome(self) -> BatchOutcome:
        """What became of them; errors as of `Kv.batch`."""
        if isinstance(self._end, TapehouseError):
            raise self._end
        applied = await self._node.with_values(await self._end, self._bodies)
        if any(answer.status in MOVING for answer in applied.answers):
            outcome = await self._again()
        else:
            outcome = batch_outcome_of(self._node, self._slot, applied)
        if self._session is not None:
            self._session.note(outcome.token)
        return outcome


def _parts(entries: Sequence[Entry], shards: ShardMap) -> Iterator[_Part]:
    """Entries by shard, each in their order."""
    open_parts: dict[int, _Part] = {}
    for place, entry in enumerate(entries):
        node, body = shards.node(slot_of(entry.key)), encode_entry(entry)
        part = open_parts.get(node.shard)
        if part is None or len(part.bodies) == ENTRIES_MAX or part.size + len(body) > BODY_BYTES_MAX:
            if part is not None:
                yield part
            part = open_parts[node.shard] = _Part(node, [], [])
        part.places.append(place)
        part.bodies.append(body)
        part.size += len(body)
    yield from open_parts.values()


def outcome_of(node: ShardNode, slot: int, sequence: int, answer: ViewAnswer) -> Outcome:
    """What a caller is told of an entry that a shard's view has applied."""
    old = answer.old
    if isinstance(old, Evicted):
        raise InvariantError("an old value was not read")
    epoch = max(revision_parts(answer.revision)[0], node.view.known_epoch(slot))
    return Outcome(status=answer.status, revision=answer.revision, old=old, token=node.token_at(sequence, epoch))


def batch_outcome_of(node: ShardNode, slot: int, applied: Applied) -> BatchOutcome:
    """What a caller is told of a batch, whose first entry announces the others."""
    outcomes = tuple(outcome_of(node, slot, applied.sequence, answer) for answer in applied.answers[1:])
    return BatchOutcome(status=applied.answers[0].status, outcomes=outcomes, token=outcomes[0].token)


def _known(outcome: Outcome | TapehouseError | None) -> Outcome | TapehouseError:
    if outcome is None:
        raise InvariantError("an entry was not answered")
    return outcome
