"""A day is recorded while its brokers are harmed: nothing lost, nothing twice, order kept, the same decisions."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.bus import Cluster
from tests.support.clusters import free_config
from tests.support.faulty_day import (
    BATCH_CELLS,
    FaultyDay,
    Recorded,
    as_taped,
    assert_whole,
    difference,
    record_in_memory,
    record_on,
    settled,
)
from tests.support.proxy import TcpProxy

CELLS = 160_000
STALL_CELLS = 30_000
STALL_S = 3.0  # longer than an append waits for its acknowledgement
TAPE = "faults"


async def leader_of(platform: Platform) -> str:
    """The server that leads the tape, once there is one."""
    return await settled(lambda: platform.admin.leader(f"TAPE_{TAPE}"), "nobody leads the tape")


@pytest.fixture(scope="module")
def faultless() -> Recorded:
    """The day as it is recorded where nothing can go wrong."""
    return asyncio.run(record_in_memory(CELLS))


@pytest.mark.timeout(180)
async def test_the_leader_steps_down_and_is_killed(tmp_path: Path, faultless: Recorded) -> None:
    leaders: list[str] = []
    dead: list[int] = []
    with Cluster(free_config(tmp_path / "cluster", nodes=3)) as cluster:
        names = [node.name for node in cluster.state.nodes]
        async with open_platform(",".join(cluster.urls), home=tmp_path) as platform:

            async def step_down(struck: Callable[[], None]) -> None:
                leaders.append(await leader_of(platform))
                struck()
                await platform.admin.step_down(f"TAPE_{TAPE}")

            async def kill(struck: Callable[[], None]) -> None:
                leaders.append(await leader_of(platform))
                dead.append(names.index(leaders[-1]))
                struck()
                await asyncio.to_thread(cluster.kill_node, dead[0], signal.SIGKILL)

            async def restart(struck: Callable[[], None]) -> None:
                struck()
                await asyncio.to_thread(cluster.restart_node, dead[0], wait=False)

            day = FaultyDay(CELLS, {CELLS // 4: step_down, CELLS * 6 // 10: kill, CELLS * 9 // 10: restart})
            found = await record_on(platform, TAPE, day)
            assert found.met == [CELLS // 4, CELLS * 6 // 10, CELLS * 9 // 10]
            assert leaders[0] != leaders[1], "another server led after the step-down"
            assert await leader_of(platform) != leaders[1], "and another one after the kill"
            assert_whole(day, found, faultless)

            await asyncio.to_thread(cluster.wait_ready)

            async def caught_up() -> bool:
                status = await platform.admin.status(f"TAPE_{TAPE}")
                return status.replicas == 3 and not status.lagging

            assert await settled(caught_up, "the server that was killed does not catch up")


async def test_answers_are_lost_for_longer_than_an_append_waits(cluster1: Cluster, tmp_path: Path) -> None:
    """Acknowledgements vanish, then the connection: what was stored is recognised, and not stored again."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(TcpProxy("127.0.0.1", cluster1.state.nodes[0].client_port))
        platform = await stack.enter_async_context(open_platform(proxy.url, home=tmp_path))

        async def stall(struck: Callable[[], None]) -> None:
            proxy.lose_answers = True
            struck()
            await asyncio.sleep(STALL_S)
            proxy.heal()

        day = FaultyDay(STALL_CELLS, {STALL_CELLS // 2: stall})
        found = await record_on(platform, "stalled", day)
        assert proxy.lost_bytes > 0
        assert_whole(day, found, await record_in_memory(STALL_CELLS))


@pytest.mark.parametrize("wrong", ["lost", "twice", "swapped", "changed"])
def test_the_check_catches_one_frame(faultless: Recorded, wrong: str) -> None:
    """The control: cells of one frame lost, stored twice or out of order, or one digit of one cell changed."""
    day = FaultyDay(CELLS)
    own = as_taped(day, faultless.symbols)
    first, second = 10 * BATCH_CELLS, 11 * BATCH_CELLS
    frame, following = own[first:second], own[second : second + BATCH_CELLS]
    found = {
        "lost": np.concatenate([own[:first], own[second:]]),
        "twice": np.concatenate([own[:second], frame, own[second:]]),
        "swapped": np.concatenate([own[:first], following, frame, own[second + BATCH_CELLS :]]),
        "changed": own.copy(),
    }[wrong]
    if wrong == "changed":
        found["price"][first] += 1
    assert difference(own, own) == ""
    assert difference(own, found) != ""
    assert_whole(day, faultless, faultless)
    harmed = Recorded(faultless.report, found, faultless.symbols, faultless.events)
    with pytest.raises(AssertionError, match=r"the tape: .* (differs|instead of)"):
        assert_whole(day, harmed, faultless)
    fewer = Recorded(faultless.report, own, faultless.symbols, faultless.events[:-1])
    with pytest.raises(AssertionError, match=r"EVENTS: .* instead of"):
        assert_whole(day, fewer, faultless)
