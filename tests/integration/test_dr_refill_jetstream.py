"""Refilling a real replicated stream while its leader keeps changing: every message there, once, in order."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from tapehouse.bus import Bus, Cluster, StreamAdmin, connect, tape_spec
from tapehouse.core.clock import VirtualClock
from tapehouse.core.errors import BusUnavailableError
from tapehouse.dr import MemoryStore, Refill, Repository, backup, scrub
from tapehouse.log import MemoryLog, Message
from tests.support.clusters import unique

MESSAGES = 2500
STEP_DOWNS = 4


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


class Harmed:
    """A run of messages in the course of which the leader is asked to step down again and again."""

    def __init__(self, bus: Bus, name: str, messages: list[Message]) -> None:
        self._bus = bus
        self._name = name
        self._messages = messages
        self.changes = 0

    async def stream(self) -> AsyncIterator[Message]:
        for message in self._messages:
            if message.sequence % (MESSAGES // (STEP_DOWNS + 1)) == 0:
                with contextlib.suppress(BusUnavailableError):  # An election is under way already.
                    await self._bus.api(f"STREAM.LEADER.STEPDOWN.{self._name}", {})
                    self.changes += 1
            yield message


@pytest.mark.parametrize("under_way", [1, 64])
async def test_a_refill_survives_changes_of_the_leader(cluster3: Cluster, under_way: int) -> None:
    async with await connect(cluster3.urls) as bus:
        spec = tape_spec(unique())
        log = await StreamAdmin(bus).ensure(spec)
        messages = run_of(spec.subjects[0])
        harmed = Harmed(bus, log.name, messages)
        assert await Refill(log, last=0, under_way=under_way).run(harmed.stream()) == MESSAGES
        assert harmed.changes >= 1, "the control: the leader did change"
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
