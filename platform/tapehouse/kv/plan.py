"""Which slots move where, so that so many shards have equally many; and how far that has come, as the KV keeps it.

A plan follows from who owns what now and from the wanted number alone: whoever works it out after a part of it was done
finds the rest of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tapehouse.core.errors import DataError
from tapehouse.kv.requests import RESERVED
from tapehouse.kv.slots import SLOTS

PLAN_KEY = RESERVED + b"{la2}plan"  # their tag is in slot 0, which never leaves shard 0
CLAIM_KEY = RESERVED + b"{la2}mover"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the KV says of its shards.

    Attributes:
        logs: How many there are to read; never less than there were.
        shards: How many are to own slots: 0 up to this.
        slots: How many had to move when this was asked for.
    """

    logs: int
    shards: int
    slots: int

    @property
    def stored(self) -> bytes:
        """As a value of the KV; so short that no view evicts it."""
        return b"%d %d %d" % (self.logs, self.shards, self.slots)

    @classmethod
    def read(cls, stored: bytes) -> Plan:
        """What `stored` gave.

        Raises:
            DataError: It is no plan.
        """
        try:
            logs, shards, slots = map(int, stored.split())
        except ValueError as error:
            raise DataError(f"no plan of shards: {stored[:64]!r}", subject=repr(PLAN_KEY)) from error
        return cls(logs, shards, slots)


@dataclass(frozen=True, slots=True)
class Move:
    """A run of slots that is to go from one shard to another.

    Attributes:
        is_given: Nobody owns them: the source gave them away, and has their rows still.
    """

    first: int
    last: int
    source: int
    target: int
    is_given: bool


def plan_moves(holders: Sequence[int], given: Sequence[bool], shards: int) -> list[Move]:
    """As few slots as can be, so that shards 0 to `shards` - 1 own equally many, or one more; slot 0 stays.

    Args:
        holders: Of each slot: the shard that owns it, or that gave it away last.
        given: Of each slot: whether nobody owns it.
    """
    kept: list[list[int]] = [[] for _ in range(shards)]
    for slot in range(SLOTS):
        if not given[slot] and holders[slot] < shards:
            kept[holders[slot]].append(slot)
    fullest = sorted(range(shards), key=lambda shard: (-len(kept[shard]), shard))
    room = dict.fromkeys(range(shards), SLOTS // shards)
    for shard in fullest[: SLOTS % shards]:
        room[shard] += 1
    stays = {slot for shard in range(shards) for slot in kept[shard][: room[shard]]}
    for shard in range(shards):
        room[shard] -= min(len(kept[shard]), room[shard])
    places = iter([shard for shard in range(shards) for _ in range(room[shard])])
    moves: list[Move] = []
    for slot in (slot for slot in range(SLOTS) if slot not in stays):
        last, target = moves[-1] if moves else None, next(places)
        whole = (holders[slot], target, given[slot])
        if last and last.last == slot - 1 and (last.source, last.target, last.is_given) == whole:
            moves[-1] = Move(last.first, slot, *whole)
        else:
            moves.append(Move(slot, slot, *whole))
    return sorted(moves, key=lambda move: not move.is_given)  # What nobody owns comes first.
