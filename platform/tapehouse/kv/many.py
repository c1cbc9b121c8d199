"""Calls for many keys at once, in compiled code: for gateways that have them in a buffer, and for callers in process.

Nothing here asks again where a slot has moved: what came of each key says so, and `Kv` takes it from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tapehouse.core.errors import DataError
from tapehouse.kv import bulk
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import ENTRY_BYTES, KEY_BYTES_MAX
from tapehouse.kv.levels import EVENTUAL, Level, Session
from tapehouse.kv.requests import RESERVED

SLOW_AT_ONCE = 256  # keys of one call that are read one by one
_RESERVED = bulk.prefix_table([RESERVED])


@dataclass(slots=True)
class Pack:
    """Puts without a condition, of one shard, as they will stand in a frame."""

    shard: int
    body: bytes
    count: int


class Packed(NamedTuple):
    """Many strings of bytes in one piece, as Arrow's large binary columns are.

    Attributes:
        data: uint8.
        offsets: (n + 1,) int64; the i-th is data[offsets[i] : offsets[i + 1]].
    """

    data: Any
    offsets: Any

    @classmethod
    def of(cls, items: Sequence[bytes]) -> Packed:
        """Pack some."""
        offsets = np.zeros(len(items) + 1, np.int64)
        np.cumsum([len(item) for item in items], out=offsets[1:])
        return cls(np.frombuffer(b"".join(items), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def item(self, place: int) -> bytes:
        """One of them."""
        data: bytes = self.data[self.offsets[place] : self.offsets[place + 1]].tobytes()
        return data


class Found(NamedTuple):
    """What many keys hold.

    Attributes:
        values: Empty where there is no such key.
        revisions: (n,) int64; 0 where there is no such key.
    """

    values: Packed
    revisions: Any


class Many:
    """Calls of one `Kv` whose keys are rows of `bulk`."""

    def __init__(self, kv: Kv) -> None:
        self.kv = kv
        self._derived = bulk.prefix_table(kv.derived_prefixes)

    def route(self, data: Any, keys: Any, count: int) -> list[int]:
        """Say of each key which shard it belongs to; the shards."""
        only = bulk.route(data, keys, count, self.kv.shards.owners)
        return [only] if only >= 0 else np.unique(keys[:count, bulk.KEY_SHARD]).tolist()

    def is_at(self, shards: list[int], level: Level) -> bool:
        """Whether these shards may be read at a level without waiting; raises as `ShardNode.is_at`."""
        return all(self.kv.nodes[shard].is_at(level) for shard in shards)

    async def reach(self, shards: list[int], level: Level) -> None:
        """Wait until they may; raises as `ShardNode.reach`."""
        if len(shards) == 1:
            await self.kv.nodes[shards[0]].reach(level)
        else:
            await asyncio.gather(*(self.kv.nodes[shard].reach(level) for shard in shards))

    def locate(self, data: Any, keys: Any, count: int, shards: list[int], level: Level) -> None:
        """Where the values are now of keys that were routed, at a level that was reached; a session takes note."""
        now = self.kv.reader_time(level)
        for shard in shards:
            node = self.kv.nodes[shard]
            node.view.locate(data, keys, count, shard, now)
            if isinstance(level, Session):
                for slot in np.unique(keys[:count, bulk.KEY_SLOT][keys[:count, bulk.KEY_SHARD] == shard]).tolist():
                    if not self.kv.is_current(slot, level):
                        keys[:count, bulk.VALUE_BYTES][keys[:count, bulk.KEY_SLOT] == slot] = bulk.MOVED
                        continue
                    level.note(node.token(slot))

    def packs(self, data: Any, keys: Any, count: int, shards: list[int]) -> list[Pack]:
        """Keys and values that were routed, as puts for each shard."""
        room = int(keys[:count, bulk.KEY_BYTES].sum() + keys[:count, bulk.VALUE_BYTES].sum()) + count * ENTRY_BYTES
        body = np.empty(room, np.uint8)
        made = []
        for shard in shards:
            entries, size = bulk.encode_puts(data, keys, count, shard, body)
            made.append(Pack(shard, body[:size].tobytes(), entries))
        return made

    async def get(self, keys: Packed, level: Level = EVENTUAL) -> Found:
        """What many keys hold; of one shard as of one moment, but for values that are not in memory.

        Raises:
            DataError: A key is too long, or the KV's own.
            What `Kv.get` raises.
        """
        count = len(keys)
        table = np.zeros((count, bulk.KEY_WORDS), np.int64)
        table[:, bulk.KEY_AT] = keys.offsets[:-1]
        sizes = np.diff(keys.offsets)
        table[:, bulk.KEY_BYTES] = sizes
        if count and (sizes.max() > KEY_BYTES_MAX or sizes.min() < 0):
            raise DataError(f"a key of {sizes.max()} bytes", hint=f"at most {KEY_BYTES_MAX}")
        if bulk.first_with_prefix(_RESERVED, keys.data, table, count) < count:
            raise DataError(f"keys that begin with {RESERVED!r} are the KV's own")
        if bulk.first_with_prefix(self._derived, keys.data, table, count) < count:
            return await self._get_slowly(keys, table, list(range(count)), level)
        shards = self.route(keys.data, table, count)
        if not self.is_at(shards, level):
            await self.reach(shards, level)
        self.locate(keys.data, table, count, shards, level)
        read = table[:, bulk.VALUE_BYTES]
        slow = np.flatnonzero(read < bulk.MISSING).tolist()
        if slow:
            return await self._get_slowly(keys, table, slow, level)
        offsets = np.zeros(count + 1, np.int64)
        np.cumsum(np.maximum(read, 0), out=offsets[1:])
        table[:, bulk.REPLY_AT] = offsets[:-1]
        data = np.empty(int(offsets[-1]), np.uint8)
        for shard in shards:
            bulk.gather(self.kv.nodes[shard].view.arrays[2], table, count, shard, data)
        return Found(Packed(data, offsets), table[:, bulk.KEY_REVISION].copy())

    async def _get_slowly(self, keys: Packed, table: Any, slow: list[int], level: Level) -> Found:
        """Where some values must be read from the log, or their slots have moved."""
        values: list[bytes] = [b""] * len(keys)
        revisions = table[:, bulk.KEY_REVISION].copy()
        for place in np.flatnonzero(table[:, bulk.VALUE_BYTES] > 0).tolist():
            at, size = table[place, bulk.VALUE_AT], table[place, bulk.VALUE_BYTES]
            values[place] = self.kv.nodes[table[place, bulk.KEY_SHARD]].view.arrays[2][at : at + size].tobytes()
        for first in range(0, len(slow), SLOW_AT_ONCE):
            part = slow[first : first + SLOW_AT_ONCE]
            found = await asyncio.gather(*(self.kv.get(keys.item(place), level) for place in part))
            for place, row in zip(part, found, strict=True):
                values[place] = row.value if row else b""
                revisions[place] = row.revision if row else 0
        return Found(Packed.of(values), revisions)
