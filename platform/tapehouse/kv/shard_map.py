"""Which shard owns which slot, from the logs alone.

How many shards a KV began with is a key of the KV itself, in slot 0, set where it is absent: of several gateways that
open a new KV at once, one decides, and all learn what it was. Each shard's log then says which slots it owns; the
first entries that say so are the same whoever writes them, and twice they are as good as once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapehouse.core.check import check
from tapehouse.core.errors import UsageError
from tapehouse.kv.entries import Entry, EntryFlag, Op, Status, encode_entry, slots_value
from tapehouse.kv.node import ShardNode
from tapehouse.kv.reference import NOT_OURS
from tapehouse.kv.requests import RESERVED
from tapehouse.kv.slots import SLOTS, shard_of

SHARDS_MAX = 256
SHARDS_KEY = RESERVED + b"{la2}shards"  # its tag is in slot 0, which is shard 0's in every new KV
FIRST_EPOCH = 0


def first_slots(shard: int, shards: int) -> tuple[int, int]:
    """The first and the last slot that a shard begins its life with."""
    first = -(-shard * SLOTS // shards)
    last = -(-(shard + 1) * SLOTS // shards) - 1
    check(shard_of(first, shards) == shard_of(last, shards) == shard, f"slots of shard {shard} of {shards}")
    return first, last


async def settle_shards(first: ShardNode, wanted: int | None) -> int:
    """How many shards this KV began with; a new one is made with `wanted`.

    Raises:
        UsageError: It is new and no number was given, or it has another one.
    """
    if wanted is not None and not 0 < wanted <= SHARDS_MAX:
        raise UsageError(f"{wanted} shards", hint=f"1 to {SHARDS_MAX}")
    stored = await first.get(SHARDS_KEY)
    if stored is None:
        if wanted is None:
            raise UsageError("the KV is new", subject=first.log.name, hint="say how many shards it is to have")
        claim = Entry(op=Op.PUT, key=SHARDS_KEY, value=b"%d" % wanted, flags=EntryFlag.IF_ABSENT | EntryFlag.RETURN_OLD)
        applied = await first.submit([encode_entry(_own(0, 0)), encode_entry(claim)])
        answer = applied.answers[1]
        check(answer.status in (Status.APPLIED, Status.PRESENT), f"the claim was answered {answer.status.name}")
        count = wanted if not isinstance(answer.old, bytes) else int(answer.old)  # So short a value is never evicted.
    else:
        count = int(stored.value)
    if wanted is not None and count != wanted:
        raise UsageError(
            f"the KV was made with {count} shards, not {wanted}", subject=first.log.name,
            hint="leave the number out, or rebalance",
        )  # fmt: skip
    return count


async def own_first_slots(node: ShardNode, shards: int) -> None:
    """Have a shard own the slots that it begins with, where it never owned one, or slot 0 alone."""
    first, last = first_slots(node.shard, shards)
    if all(epoch == NOT_OURS for epoch in node.view.epochs[max(first, 1) : last + 1]):
        applied = await node.submit([encode_entry(_own(first, last))])
        check(applied.answers[0].status is Status.APPLIED, "slots were not given")


class ShardMap:
    """The owner of each slot as the views know it now."""

    def __init__(self, nodes: Sequence[ShardNode]) -> None:
        self._nodes = nodes
        self.owners = np.zeros(SLOTS, np.int64)  # the shard of each slot
        self.refresh()

    def refresh(self) -> None:
        """Look at the views again: of two that own a slot, the one of the later epoch is right."""
        epochs = [node.view.epochs for node in self._nodes]
        shards = range(len(epochs))
        self.owners[:] = [max(shards, key=lambda shard: epochs[shard][slot]) for slot in range(SLOTS)]

    def node(self, slot: int) -> ShardNode:
        """The shard to ask about a slot."""
        return self._nodes[self.owners.item(slot)]


def _own(first: int, last: int) -> Entry:
    return Entry(op=Op.OWN, value=slots_value(first, last, FIRST_EPOCH))
