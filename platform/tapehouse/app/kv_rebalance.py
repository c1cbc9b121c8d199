"""Rebalancing the replicated KV: on the command line, and by a gateway that was asked to."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.app.bootstrap import open_platform
from tapehouse.bus import JetStreamLog, kv_spec
from tapehouse.core.clock import Clock, SystemClock
from tapehouse.core.errors import ConflictError, MissingError
from tapehouse.core.ids import new_writer_id
from tapehouse.core.tasks import hear
from tapehouse.kv.client import Kv
from tapehouse.kv.mover import Mover, Progress, holder, who_holds
from tapehouse.kv.plan import plan_moves
from tapehouse.kv.shard_map import plan_of

STOP_S = 2.0  # for a gateway that ends to finish the run of slots that it moves


@asynccontextmanager
async def open_existing_kv(nats: str | None, home: Path | None) -> AsyncIterator[Kv]:
    """The KV that is on a broker.

    Raises:
        MissingError: There is none.
    """
    async with open_platform(nats, home=home) as platform:
        streams = {stream.name: stream.messages for stream in await platform.admin.list()}
        if not streams.get(kv_spec(0).name):
            raise MissingError(
                "there is no replicated KV yet", subject=kv_spec(0).name, hint="make one: tapehouse kv serve"
            )

        async def open_log(shard: int) -> JetStreamLog:
            return await platform.admin.ensure(kv_spec(shard))

        async with await Kv.open(open_log, new_life=new_writer_id, clock=SystemClock()) as kv:
            yield kv


async def rebalance_kv(
    shards: int,
    *,
    nats: str | None,
    home: Path | None,
    tell: Callable[[Progress], None],
    should_stop: Callable[[], bool],
) -> Progress:
    """Spread the KV over so many shards; see `Mover.run`."""
    async with open_existing_kv(nats, home) as kv:
        return await _mover(kv, SystemClock(), tell, should_stop).run(shards)


def _mover(kv: Kv, clock: Clock, tell: Callable[[Progress], None], should_stop: Callable[[], bool]) -> Mover:
    name = f"{socket.gethostname()[:20]} pid {os.getpid()}"
    return Mover(kv, clock=clock, life=new_writer_id(), name=name, tell=tell, should_stop=should_stop)


class Rebalancing:
    """What a gateway does when a client sends REBALANCE: it moves the slots itself, beside its other work."""

    def __init__(self, kv: Kv, clock: Clock) -> None:
        self._kv = kv
        self._clock = clock
        self._task: asyncio.Task[Progress] | None = None
        self._is_closing = False
        self.progress: Progress | None = None

    async def begin(self, shards: int) -> None:
        """Begin to spread the slots over so many shards; it goes on when this returns.

        Raises:
            UsageError: There cannot be so many.
            ConflictError: Slots are being moved already.
        """
        if self._task is not None and not self._task.done():
            raise ConflictError("this gateway moves slots already", hint="see tapehouse kv shards")
        began: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell(progress: Progress) -> None:
            self.progress = progress
            if not began.done():
                began.set_result(None)

        if self._task is None:
            self._kv.call_at_close(self._stop)
        mover = _mover(self._kv, self._clock, tell, lambda: self._is_closing)
        self._task = asyncio.create_task(mover.run(shards))
        self._task.add_done_callback(hear)
        both: set[asyncio.Future[Any]] = {self._task, began}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()

    async def _stop(self) -> None:
        self._is_closing = True
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=STOP_S)
            self._task.cancel()
            await asyncio.wait({self._task})


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardShare:
    """What one shard has.

    Attributes:
        runs: First and last slot of each run that it owns.
        frozen: The run that it holds still, on its way to another shard.
    """

    shard: int
    slots: int
    keys: int
    runs: list[tuple[int, int]]
    frozen: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How a KV's slots are shared out.

    Attributes:
        shards: That are to own slots.
        slots: That have to move yet until they all have equally many.
        homeless: Slots that nobody owns at this moment.
        mover: Who moves slots now; empty where nobody does.
    """

    shards: int
    slots: int
    homeless: int
    mover: str
    shares: list[ShardShare]


def sharing_of(kv: Kv) -> Sharing:
    """How the slots are shared out, as this process's views know it."""
    kv.shards.refresh()
    holders, is_given = who_holds(kv.nodes)
    plan = plan_of(kv.nodes[0])
    wanted = plan.shards if plan is not None else len(kv.nodes)
    shares = []
    for node in kv.nodes:
        mine = (np.array(holders) == node.shard) & ~np.array(is_given)
        edges = np.flatnonzero(np.diff(np.concatenate(([0], mine.astype(np.int8), [0])))).tolist()
        frozen = node.view.frozen if node.view.frozen and node.view.now < node.view.frozen.until else None
        shares.append(
            ShardShare(
                shard=node.shard, slots=int(mine.sum()), keys=int(node.view.keys_by_slot()[mine].sum()),
                runs=[(first, end - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)],
                frozen=(frozen.first, frozen.last) if frozen else None,
            )
        )  # fmt: skip
    left = sum(move.last + 1 - move.first for move in plan_moves(holders, is_given, wanted)) if plan else 0
    return Sharing(shards=wanted, slots=left, homeless=sum(is_given), mover=holder(kv.nodes[0]), shares=shares)
