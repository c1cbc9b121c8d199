"""Which shard owns which slot, from the logs alone.

How many shards a KV began with is a key of the KV itself, in slot 0, set where it is absent: of several gateways that
open a new KV at once, one decides, and all learn what it was. Each shard's log then says which slots it owns; the
first entries that say so are the same whoever writes them, and twice they are as good as once. Another key says how
many logs there are since slots were moved (`plan`); a log that came later begins without a slot.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapehouse.core.check import check
from tapehouse.core.errors import UsageError
from tapehouse.kv.entries import Entry, EntryFlag, Op, Status, encode_entry, slots_value
from tapehouse.kv.node import ShardNode
from tapehouse.kv.plan import PLAN_KEY, Plan
from tapehouse.kv.reference import NOT_OURS, Stored
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


def plan_of(first: ShardNode) -> Plan | None:
    """What the KV says of its shards, as far as this view has come; None where nothing was ever moved."""
    stored = first.view.peek(PLAN_KEY)
    return Plan.read(stored.value) if isinstance(stored, Stored) else None  # So short a value is never evicted.


async def settle_shards(first: ShardNode, wanted: int | None) -> tuple[int, int]:
    """How many shards this KV began with, and how many logs it has now; a new one is made with `wanted`.

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
        began = wanted if not isinstance(answer.old, bytes) else int(answer.old)  # So short a value is never evicted.
    else:
        began = int(stored.value)
    plan = plan_of(first) or Plan(began, began, 0)
    if wanted is not None and plan.shards != wanted:
        verb = "made with" if plan == Plan(began, began, 0) else "spread over"
        raise UsageError(
            f"the KV was {verb} {plan.shards} shards, not {wanted}", subject=first.log.name,
            hint=f"leave the number out, or: tapehouse kv rebalance --shards {wanted}",
        )  # fmt: skip
    return began, max(began, plan.logs)


async def own_first_slots(node: ShardNode, shards: int) -> None:
    """Have a shard own the slots that it begins with, where it never owned one, or slot 0 alone."""
    first, last = first_slots(node.shard, shards)
    if all(epoch == NOT_OURS for epoch in node.view.epochs[max(first, 1) : last + 1]):
        applied = await node.submit([encode_entry(_own(first, last))])
        check(applied.answers[0].status is Status.APPLIED, "slots were not given")


class ShardMap:
    """The owner of each slot as the views know it now.

    Args:
        nodes: In the order of their shards; one that is appended later is seen by the next `refresh`.
    """

    def __init__(self, nodes: Sequence[ShardNode]) -> None:
        self._nodes = nodes
        self.owners = np.zeros(SLOTS, np.int64)  # the shard of each slot
        self._homeless = 0
        self.refresh()

    def refresh(self) -> None:
        """Look at the views again: of two that own a slot, the one of the later epoch is right."""
        epochs = np.stack([node.view.owners() for node in self._nodes])
        self._homeless = int((epochs.max(axis=0) < 0).sum())
        self.owners[:] = epochs.argmax(axis=0)

    def node(self, slot: int) -> ShardNode:
        """The shard to ask about a slot."""
        return self._nodes[self.owners.item(slot)]

    @property
    def homeless(self) -> int:
        """How many slots nobody owned: given away by one shard, and not yet taken by another."""
        return self._homeless

    def count_keys(self) -> int:
        """How many keys there are where their slots are owned; expired ones count until they are swept."""
        self.refresh()
        return sum(
            int(node.view.keys_by_slot()[(self.owners == shard) & (node.view.owners() >= 0)].sum())
            for shard, node in enumerate(self._nodes)
        )


def _own(first: int, last: int) -> Entry:
    return Entry(op=Op.OWN, value=slots_value(first, last, FIRST_EPOCH))
