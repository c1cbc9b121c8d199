"""Watching keys: each watcher reads the latest frames of the views at its own pace, and is told when it was too slow.

Nothing is queued for a watcher; one that never asks costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from tapehouse.core.errors import UsageError
from tapehouse.kv.entries import revision_parts
from tapehouse.kv.errors import WatchLaggedError
from tapehouse.kv.levels import Session
from tapehouse.kv.node import ShardNode
from tapehouse.kv.recent import Change
from tapehouse.kv.requests import RESERVED
from tapehouse.kv.shard_map import ShardMap
from tapehouse.kv.slots import hashed_part, slot_of

Place = tuple[int, int]  # sequence and index of the next entry to look at


async def watch_nodes(
    nodes: Sequence[ShardNode], shards: ShardMap, prefix: bytes, after: int | Session | None
) -> AsyncIterator[Change]:
    """Changes of keys by prefix; see `Kv.watch`."""
    watched = _watched(nodes, shards, prefix)
    if isinstance(after, int) and len(watched) > 1:
        raise UsageError(
            "a revision is of one shard, and the prefix lies in several", subject=repr(prefix),
            hint="watch after a session, or give the keys one hash tag",
        )  # fmt: skip
    slot = _slot(prefix)
    places = {node.shard: _start(node, slot, after) for node in watched}
    while True:
        for node in watched:
            sequence, index = places.setdefault(node.shard, (1, 0))  # A log that was added is watched from its start.
            while sequence <= node.applied:
                for change in node.recent.changes(sequence):
                    if change.index >= index and change.key.startswith(prefix) and not change.key.startswith(RESERVED):
                        yield change
                sequence, index = places[node.shard] = sequence + 1, 0
            if slot is not None and not node.view.owns(slot):
                raise _moved(node)
        if all(node.shard in places and places[node.shard][0] > node.applied for node in watched):
            grown = [node.grown() for node in watched]
            await asyncio.wait(grown, return_when=asyncio.FIRST_COMPLETED)
            for each in grown:
                if each.done():
                    each.result()


def _watched(nodes: Sequence[ShardNode], shards: ShardMap, prefix: bytes) -> Sequence[ShardNode]:
    """The shards that can hold keys with this prefix: one where it has a whole hash tag."""
    slot = _slot(prefix)
    return nodes if slot is None else [shards.node(slot)]


def _slot(prefix: bytes) -> int | None:
    """The slot of all keys with this prefix, where it has a whole hash tag."""
    return slot_of(prefix) if hashed_part(prefix) != prefix else None


def _moved(node: ShardNode) -> WatchLaggedError:
    return WatchLaggedError(
        "keys moved to or from this shard since what was seen last", subject=f"shard {node.shard}",
        hint="scan the prefix with a session and watch from there",
    )  # fmt: skip


def _start(node: ShardNode, slot: int | None, after: int | Session | None) -> Place:
    """Where to begin; a sequence of one shard is never taken for another's.

    Raises:
        WatchLaggedError: The keys moved here since.
    """
    if isinstance(after, Session):
        token = after.token(node.shard)
        if token is None and after.tokens and node.view.epoch_max:
            raise _moved(node)
        return (token.sequence + 1 if token else node.applied + 1), 0
    if after is not None:
        epoch, sequence, index = revision_parts(after)
        if epoch != (node.view.epoch_max if slot is None else node.view.known_epoch(slot)):
            raise _moved(node)
        return (sequence, index + 1) if sequence else (1, 0)
    return node.applied + 1, 0
