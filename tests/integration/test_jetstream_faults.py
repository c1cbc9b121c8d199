"""Leaders killed and moved while a writer appends and a reader follows: nothing lost, nothing twice, order kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tapehouse.bus import Bus, Cluster, JetStreamLog, StreamAdmin, connect, tape_spec
from tapehouse.core import AmbiguousAppendError, BusUnavailableError, ConflictError
from tests.support.clusters import free_config, unique

WAIT_S = 90
ATTEMPTS_MAX = 60
PAUSE_S = 0.25


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of three that may be harmed."""
    directory: Path = tmp_path_factory.mktemp("trio")
    with Cluster(free_config(directory, nodes=3)) as cluster:
        yield cluster


@pytest.fixture
async def buses(trio: Cluster) -> AsyncIterator[tuple[Bus, Bus]]:
    async with await connect(trio.urls) as writing, await connect(trio.urls) as reading:
        yield writing, reading


class Writer:
    """A single writer that resolves every doubt by reading the last message."""

    def __init__(self, log: JetStreamLog) -> None:
        self._log = log
        self.last = 0
        self.doubts = 0

    async def run(self, count: int) -> None:
        while self.last < count:
            await self._append(b"payload %d" % (self.last + 1))

    async def _append(self, payload: bytes) -> None:
        for _ in range(ATTEMPTS_MAX):
            try:
                self.last = await self._log.append(payload, expected_last=self.last)
                return
            except (AmbiguousAppendError, ConflictError):
                self.doubts += 1
                try:
                    found = await self._log.last()
                except BusUnavailableError:
                    found = None
                if found is not None and found.sequence == self.last + 1:
                    assert found.payload == payload
                    self.last = found.sequence
                    return
                assert found is None or found.sequence == self.last
            except BusUnavailableError:
                self.doubts += 1
            await asyncio.sleep(PAUSE_S)
        pytest.fail(f"no append went through in {ATTEMPTS_MAX} attempts")


async def campaign(
    buses: tuple[Bus, Bus], count: int, harm: Callable[[StreamAdmin, JetStreamLog], Awaitable[None]]
) -> Writer:
    """Append `count` messages while a reader follows, do harm in the middle, and hold both against each other."""
    writing, reading = buses
    admin = StreamAdmin(writing)
    log = await admin.ensure(tape_spec(unique("f")))
    writer = Writer(log)
    seen: list[tuple[int, bytes]] = []

    async def follow() -> None:
        async for message in (await JetStreamLog.open(reading, log.name)).read(1, through=count, follow=True):
            seen.append((message.sequence, message.payload))

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        group.create_task(follow())
        appending = group.create_task(writer.run(count))
        while writer.last < count // 4:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await harm(admin, log)
        await appending
    expected = [(sequence, b"payload %d" % sequence) for sequence in range(1, count + 1)]
    assert seen == expected
    assert [(message.sequence, message.payload) async for message in log.read(1)] == expected
    return writer


async def test_the_leader_is_killed(trio: Cluster, buses: tuple[Bus, Bus]) -> None:
    killed = []

    async def kill_leader(admin: StreamAdmin, log: JetStreamLog) -> None:
        leader = await admin.leader(log.name)
        killed.append([node.name for node in trio.state.nodes].index(leader))
        await asyncio.to_thread(trio.kill_node, killed[0])

    writer = await campaign(buses, 400, kill_leader)
    assert writer.doubts >= 1
    await asyncio.to_thread(trio.restart_node, killed[0])
    assert trio.status().healthy


async def test_the_leader_steps_down_again_and_again(trio: Cluster, buses: tuple[Bus, Bus]) -> None:
    async def step_down(admin: StreamAdmin, log: JetStreamLog) -> None:
        for _ in range(5):
            await admin.step_down(log.name)
            await asyncio.sleep(0.2)

    await campaign(buses, 1500, step_down)
