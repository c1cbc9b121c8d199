"""Leading on a virtual clock: when outputs may leave, who is told that it leads no more, and what a take-over took."""

from __future__ import annotations

import asyncio
import os

import pytest

from tapehouse.app.leadership import LOOK_S, Leadership, is_dead, process_name
from tapehouse.bus.lease import Lease, MemoryLeaseStore
from tapehouse.core import BusUnavailableError, ConflictError, Metrics, VirtualClock

TTL_S = 9.0
SECOND = 1_000_000_000


class Store(MemoryLeaseStore):
    """A store that may be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.puts = 0

    async def put(self, key: str, value: bytes, revision: int) -> int:
        self.puts += 1
        if self.away:
            raise BusUnavailableError("nobody answers")
        return await super().put(key, value, revision)


class Stepping(VirtualClock):
    """A clock whose sleepers wait until it was moved there."""

    async def sleep_until(self, monotonic_ns: int) -> None:
        while self.monotonic_ns() < monotonic_ns:  # noqa: ASYNC110  (the clock moves between two turns)
            await asyncio.sleep(0)


class World:
    """A leader with its lease."""

    def __init__(self) -> None:
        self.clock, self.store = Stepping(), Store()
        self.lease = Lease(self.store, "tape.desk", holder="a", clock=self.clock, ttl_s=TTL_S)
        self.leadership = Leadership(self.lease, clock=self.clock, metrics=Metrics())
        self.deadline = 0
        self.leadership.on_deadline = self._note

    def _note(self, deadline: int) -> None:
        self.deadline = deadline

    async def pass_s(self, seconds: float, *, step_s: float = 0.1) -> None:
        for _ in range(round(seconds / step_s)):
            self.clock.advance(int(step_s * SECOND))
            for _ in range(6):
                await asyncio.sleep(0)

    @property
    def may_send(self) -> bool:
        return self.clock.monotonic_ns() < self.deadline


@pytest.fixture
async def world() -> World:
    world = World()
    await world.lease.acquire(patience_s=0)
    return world


async def test_a_leader_that_renews_may_send_all_the_while(world: World) -> None:
    keeping = asyncio.create_task(world.leadership.keep())
    for _ in range(40):
        await world.pass_s(1.0)
        assert world.may_send
        assert world.lease.held
    await world.leadership.give_up()
    await keeping
    assert not world.lease.held


async def test_while_no_broker_answers_it_goes_on_and_once_another_leads_it_stops(world: World) -> None:
    keeping = asyncio.create_task(world.leadership.keep())
    await world.pass_s(1.0)
    world.store.away = True
    for _ in range(60):
        await world.pass_s(1.0)
        assert world.may_send
    assert world.leadership.is_alone
    assert not world.lease.held
    world.store.away = False
    other = Lease(world.store, "tape.desk", holder="b", clock=VirtualClock(), ttl_s=TTL_S)
    assert await other.acquire(patience_s=None) == 2
    world.leadership.reconnected()
    assert not world.may_send, "a broker answers: first it looks"
    with pytest.raises(ConflictError, match="b, generation 2") as caught:
        await keeping
    assert "fenced off" in caught.value.hint
    assert not world.may_send


async def test_a_broker_that_comes_back_with_nothing_changed_lets_it_go_on(world: World) -> None:
    keeping = asyncio.create_task(world.leadership.keep())
    await world.pass_s(1.0)
    world.store.away = True
    await world.pass_s(30.0)
    world.store.away = False
    world.leadership.reconnected()
    assert not world.may_send
    await world.pass_s(0.2)
    assert world.may_send
    assert world.lease.held
    assert world.lease.generation == 1
    await world.leadership.give_up()
    await keeping


@pytest.mark.parametrize("away", [True, False])
async def test_a_leader_that_slept_may_not_send_before_it_has_looked(world: World, away: bool) -> None:
    keeping = asyncio.create_task(world.leadership.keep())
    await world.pass_s(1.0)
    world.store.away = away
    await world.pass_s(20.0)
    assert world.may_send
    world.clock.advance(int((TTL_S + LOOK_S) * SECOND))  # Nothing of this process ran meanwhile.
    assert not world.may_send
    await world.pass_s(0.2)
    assert world.may_send
    await world.leadership.give_up()
    await keeping


async def test_what_a_take_over_took() -> None:
    clock, store = VirtualClock(1_000), MemoryLeaseStore()
    first = Lease(store, "tape.desk", holder="a", clock=clock, ttl_s=TTL_S)
    await first.acquire(patience_s=0)
    await first.release(idle_ms=3)
    second = Lease(store, "tape.desk", holder="b", clock=clock, ttl_s=TTL_S)
    await second.acquire(patience_s=0)
    metrics = Metrics()
    leadership = Leadership(second, clock=clock, metrics=metrics)
    clock.advance(2_000_000)
    leadership.folded()
    clock.advance(5_000_000)
    taken = leadership.served()
    assert taken is not None
    assert taken.table() == {
        "generation": 2, "how": "released", "before": "a", "silent_ms": 0.0, "closing_ms": 3.0, "acquire_ms": 0.0,
        "fold_ms": 2.0, "serve_ms": 5.0, "leaderless_ms": 10.0,
    }  # fmt: skip
    assert metrics.get("take_over_leaderless_ms") == 10.0
    assert leadership.note() == {"holder": "b", "generation": 2, "how": "released", "before": "a"}


def test_which_processes_are_known_to_have_ended() -> None:
    own = process_name()
    where, pid, ticks = own.rsplit("/", 2)
    assert pid == str(os.getpid())
    assert not is_dead(own)
    assert is_dead(f"{where}/{pid}/{int(ticks) + 1}"), "another life under the same pid"
    assert not is_dead(f"elsewhere/{pid}/{int(ticks) + 1}"), "of another machine nothing is known"
    assert not is_dead("")
    assert not is_dead(f"{where}/x/y")
