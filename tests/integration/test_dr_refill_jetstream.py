"""Refilling a real replicated stream while its leader keeps changing: every message there, once, in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from tapehouse.bus import Bus, Cluster, StreamAdmin, connect, tape_spec
from tapehouse.core.clock import VirtualClock
from tapehouse.core.errors import BusUnavailableError, TapehouseError
from tapehouse.dr import MemoryStore, Refill, Repository, backup, scrub
from tapehouse.log import MemoryLog, Message

from tests.support.clusters import unique

MESSAGES = 4000
STEP_DOWNS = 6


def run_of(subject: str) -> list[Message]:
    source = random.Random(20)
    return [
        Message(
            sequence=number,
            subject=subject,
            payload=source.randbytes(source.randrange(1, 4000)),
            headers={"n": str(number)} if number % 3 else {},
        )
        for number in range(1, MESSAGES + 1)
    ]


async def stream(messages: list[Message]) -> AsyncIterator[Message]:
    for message in messages:
        yield message


async def keep_changing_the_leader(bus: Bus, name: str, refill: Refill) -> int:
    """Ask the leader to step down after each further part of the messages; return how often it did."""
    changes = 0
    for part in range(1, STEP_DOWNS + 1):
        while refill.last < part * MESSAGES // (STEP_DOWNS + 1):
            await asyncio.sleep(0.002)
        try:
            await bus.api(f"STREAM.LEADER.STEPDOWN.{name}", {})
            changes += 1
        except TapehouseError as error:
            assert isinstance(error, BusUnavailableError), error
    return changes


@pytest.mark.parametrize("under_way", [1, 64])
async def test_a_refill_survives_changes_of_the_leader(cluster3: Cluster, under_way: int) -> None:
    async with await connect(cluster3.urls) as bus:
        spec = tape_spec(unique())
        log = await StreamAdmin(bus).ensure(spec)
        messages = run_of(spec.subjects[0])
        refill = Refill(log, last=0, under_way=under_way)
        harm = asyncio.create_task(keep_changing_the_leader(bus, log.name, refill))
        assert await refill.run(stream(messages)) == MESSAGES
        assert await harm >= 1, "the control: the leader did change"
        assert [message async for message in log.read(1)] == messages


async def test_a_real_log_is_held_against_its_backup(cluster3: Cluster) -> None:
    """The log digest of a JetStream log is that of the same messages anywhere else."""
    async with await connect(cluster3.urls) as bus:
        spec = tape_spec(unique())
        log = await StreamAdmin(bus).ensure(spec)
        messages = run_of(spec.subjects[0])[:300]
        await Refill(log, last=0).run(stream(messages))
        copy = MemoryLog(log.name, branches=(await log.extent()).branches)
        await Refill(copy, last=0).run(stream(messages))
        store = MemoryStore()
        report = await backup([log], store, {}, VirtualClock())
        repository = await Repository.open(store)
        entry = report.manifest.logs[0]
        head = await scrub(repository, entry, copy, first=1, through=300)
        assert head.hex() == entry.head_after
        assert (await backup([copy], store, {}, VirtualClock())).written is False
