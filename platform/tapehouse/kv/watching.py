"""Watching keys: each watcher reads the latest frames of the views at its own pace, and is told when it was too slow.

Nothing is queued for a watcher; one that never asks costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from tapehouse.core.errors import UsageError
from tapehouse.kv.entries import revision_parts
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
    places = {node.shard: _start(node, after) for node in watched}
    while True:
        for node in watched:
            sequence, index = places[node.shard]
            while sequence <= node.applied:
                for change in node.recent.changes(sequence):
                    if change.index >= index and change.key.startswith(prefix) and not change.key.startswith(RESERVED):
                        yield change
                sequence, index = places[node.shard] = sequence + 1, 0
        if all(places[node.shard][0] > node.applied for node in watched):
            grown = [node.grown() for node in watched]
            await asyncio.wait(grown, return_when=asyncio.FIRST_COMPLETED)
            for each in grown:
                if each.done():
                    each.result()


def _watched(nodes: Sequence[ShardNode], shards: ShardMap, prefix: bytes) -> Sequence[ShardNode]:
    """The shards that can hold keys with this prefix: one where it has a whole hash tag."""
    if hashed_part(prefix) != prefix:
        return [shards.node(slot_of(prefix))]
    return nodes


def _start(node: ShardNode, after: int | Session | None) -> Place:
    if isinstance(after, Session):
        token = after.token(node.shard)
        return (token.sequence + 1 if token else node.applied + 1), 0
    if after is not None:
        _, sequence, index = revision_parts(after)
        return (sequence, index + 1) if sequence else (1, 0)
    return node.applied + 1, 0
