"""Leases on a virtual clock: no two holders at once, whatever is lost or late."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.bus.lease import Entry, Lease, MemoryLeaseStore
from tapehouse.core import (
    AmbiguousAppendError,
    BusUnavailableError,
    ConflictError,
    IntegrityError,
    TransientError,
    UsageError,
    VirtualClock,
)

TTL_S = 10.0
SECOND = 1_000_000_000


def lease(store: MemoryLeaseStore, clock: VirtualClock, holder: str = "a") -> Lease:
    return Lease(store, "desk", holder=holder, clock=clock, ttl_s=TTL_S)


async def test_a_free_lease_is_taken_at_once_and_released() -> None:
    store, clock = MemoryLeaseStore(), VirtualClock(5)
    first, second = lease(store, clock), lease(store, clock, "b")
    assert not first.held
    assert await first.acquire(patience_s=0) == 1
    assert first.held
    await first.release()
    assert not first.held
    assert await second.acquire(patience_s=0) == 2
    with pytest.raises(ConflictError):
        await first.renew()
    await first.release()  # Not held: harmless.
    assert second.held


async def test_a_held_lease_is_refused_with_its_holders_name() -> None:
    store, clock = MemoryLeaseStore(), VirtualClock()
    await lease(store, clock, "the first").acquire(patience_s=0)
    with pytest.raises(ConflictError, match="held by the first"):
        await lease(store, clock, "b").acquire(patience_s=TTL_S / 2)


async def test_a_silent_holder_is_replaced_after_its_whole_time() -> None:
    store, clock = MemoryLeaseStore(), VirtualClock()
    first, second = lease(store, clock), lease(store, clock, "b")
    await first.acquire(patience_s=0)
    assert await second.acquire(patience_s=3 * TTL_S) == 2
    assert clock.monotonic_ns() >= TTL_S * SECOND
    assert not first.held
    with pytest.raises(ConflictError, match="ran out"):
        await first.renew()


async def test_a_renewing_holder_is_not_replaced() -> None:
    store = MemoryLeaseStore()
    holders, challengers = VirtualClock(), VirtualClock()
    first, second = lease(store, holders), lease(store, challengers, "b")
    await first.acquire(patience_s=0)

    async def challenge() -> None:
        await second.acquire(patience_s=5 * TTL_S)

    task = asyncio.create_task(challenge())
    while not task.done():
        await first.renew()
        await asyncio.sleep(0)
    with pytest.raises(ConflictError, match="held by a"):
        await task


async def test_keep_renews_and_says_when_the_lease_is_lost() -> None:
    store, clock = MemoryLeaseStore(), VirtualClock()
    first = lease(store, clock)
    await first.acquire(patience_s=0)
    keeper = asyncio.create_task(first.keep())
    while clock.monotonic_ns() < 10 * TTL_S * SECOND:
        await asyncio.sleep(0)
        assert first.held
    data, revision = await store.get("desk")
    assert data is not None
    thief = Entry(holder="thief", generation=9, ttl_ms=1, life="x")
    await store.put("desk", thief.encode(), revision)
    with pytest.raises(ConflictError, match="another holder"):
        await keeper
    assert not first.held


@pytest.mark.parametrize("stored", [True, False])
async def test_an_ambiguous_first_write_is_resolved(stored: bool) -> None:
    store, clock = MemoryLeaseStore(), VirtualClock()
    first = lease(store, clock)
    store.fail_next_put(stored=stored)
    assert await first.acquire(patience_s=1) == 1
    assert first.held
    await first.renew()


@pytest.mark.parametrize("stored", [True, False])
async def test_an_ambiguous_renewal_is_resolved(stored: bool) -> None:
    store, clock = MemoryLeaseStore(), VirtualClock()
    first = lease(store, clock)
    await first.acquire(patience_s=0)
    store.fail_next_put(stored=stored)
    if stored:
        await first.renew()  # Found in the store: it arrived.
    else:
        with pytest.raises(AmbiguousAppendError):
            await first.renew()
    await first.renew()
    assert first.held


class HidingStore(MemoryLeaseStore):
    """Its reads lag: what `hidden` names is answered instead."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: tuple[bytes | None, int] | None = None

    async def get(self, key: str) -> tuple[bytes | None, int]:
        return self.hidden or await super().get(key)


async def test_a_write_found_late_does_not_lengthen_the_lease() -> None:
    """A renewal whose arrival is proven only later counts from when it was sent, not from the proof."""
    store, clock = HidingStore(), VirtualClock()
    first, second = lease(store, clock), lease(store, clock, "b")
    await first.acquire(patience_s=0)
    store.hidden = await store.get("desk")
    store.fail_next_put(stored=True)
    with pytest.raises(AmbiguousAppendError):
        await first.renew()
    until = first.valid_until_ns
    clock.advance(int(9 * SECOND))
    store.hidden = None
    assert first.valid_until_ns == until
    await first.renew()  # Replaces the found revision by a write of its own.
    assert first.valid_until_ns == 19 * SECOND
    with pytest.raises(ConflictError):
        await second.acquire(patience_s=5)


class DeafStore(MemoryLeaseStore):
    """Answers nothing."""

    async def get(self, key: str) -> tuple[bytes | None, int]:
        raise BusUnavailableError("no answer")


async def test_a_store_that_stays_away_is_reported() -> None:
    with pytest.raises(BusUnavailableError):
        await lease(DeafStore(), VirtualClock()).acquire(patience_s=1)


def test_damaged_entries_are_reported() -> None:
    for data in (b"", b"{", b"{}", b"[]"):
        with pytest.raises(IntegrityError):
            Entry.decode(data)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["renew", "release", "acquire", "pause"]), st.integers(0, 12)),
        max_size=40,
    ),
    st.lists(st.sampled_from([None, True, False]), max_size=40),
)
@settings(deadline=None, max_examples=150)
def test_never_two_holders(steps: list[tuple[str, str, int]], faults: list[bool | None]) -> None:
    """Any order of attempts, pauses and lost answers: at no time do two believe that they hold it."""

    async def run() -> None:
        store, clock = MemoryLeaseStore(), VirtualClock()
        leases = {name: lease(store, clock, name) for name in "ab"}
        generations = []
        for index, (name, action, seconds) in enumerate(steps):
            fault = faults[index] if index < len(faults) else None
            if fault is not None:
                store.fail_next_put(stored=fault)
            try:
                if action == "acquire" and not leases[name].held:
                    generations.append(await leases[name].acquire(patience_s=seconds))
                elif action == "renew":
                    await leases[name].renew()
                elif action == "release":
                    await leases[name].release()
                else:
                    clock.advance(seconds * SECOND)
            except (ConflictError, TransientError):
                pass  # Refused or unknown: neither makes a holder.
            assert sum(each.held for each in leases.values()) <= 1
        assert generations == sorted(set(generations))

    asyncio.run(run())


# What a standby and a leader that was away need.


async def test_a_holder_whose_process_has_ended_is_not_waited_for() -> None:
    store, clock = MemoryLeaseStore(), VirtualClock()
    first = Lease(store, "tape.desk", holder="a", clock=clock, ttl_s=TTL_S, process="gone")
    await first.acquire(patience_s=0)
    second = Lease(store, "tape.desk", holder="b", clock=clock, ttl_s=TTL_S, is_dead=lambda process: process == "gone")
    assert await second.acquire(patience_s=0) == 2
    assert second.taken is not None
    assert (second.taken.how, second.taken.holder) == ("dead", "a")


async def test_who_gives_up_at_a_sign_of_life_still_waits_for_a_silent_one() -> None:
    store, clock, other = MemoryLeaseStore(), VirtualClock(), VirtualClock()
    first, second = lease(store, clock), lease(store, other, "b")
    await first.acquire(patience_s=0)
    asking = asyncio.create_task(second.acquire(patience_s=None, while_silent=True))
    await asyncio.sleep(0)
    await first.renew()
    with pytest.raises(ConflictError, match="held by a"):
        await asking
    assert other.monotonic_ns() < TTL_S * SECOND
    assert await second.acquire(patience_s=None, while_silent=True) == 2
    assert second.taken is not None
    assert second.taken.how == "silent"
    assert second.taken.free_ns - second.taken.sign_ns >= TTL_S * SECOND


async def test_a_late_renewal_goes_on_unless_another_has_taken_it() -> None:
    store, clock = MemoryLeaseStore(), VirtualClock()
    first, second = lease(store, clock), lease(store, clock, "b")
    assert await first.acquire(patience_s=0) == 1
    clock.advance(int(2 * TTL_S * SECOND))
    assert not first.held
    await first.renew(late=True)
    assert first.held
    assert first.generation == 1
    assert await second.acquire(patience_s=3 * TTL_S) == 2
    with pytest.raises(ConflictError, match="b, generation 2, has it"):
        await first.renew(late=True)


async def test_a_release_says_how_long_nobody_acted_and_news_ends_a_wait() -> None:
    """The waiter's clock stands still: only the news can have woken it."""
    store, clock, news = MemoryLeaseStore(), VirtualClock(), asyncio.Event()

    class Still(VirtualClock):
        async def sleep_until(self, monotonic_ns: int) -> None:
            if monotonic_ns - self.monotonic_ns() > SECOND // 4:
                await asyncio.Event().wait()
            await super().sleep_until(monotonic_ns)

    first = lease(store, clock)
    await first.acquire(patience_s=0)
    waiter = Lease(store, "desk", holder="b", clock=Still(), ttl_s=TTL_S, news=news)
    waiting = asyncio.create_task(waiter.acquire(patience_s=None))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    news.set()  # At the sending: what is stored has not changed yet.
    await asyncio.sleep(0)
    await first.release(idle_ms=7)
    assert await waiting == 2
    assert waiter.taken is not None
    assert (waiter.taken.how, waiter.taken.idle_ms) == ("released", 7)


async def test_names_of_several_parts_are_checked_part_by_part() -> None:
    with pytest.raises(UsageError, match="no lease name"):
        Lease(MemoryLeaseStore(), "tape.A b", holder="a", clock=VirtualClock())


class LaggingStore(MemoryLeaseStore):
    """Its next read after `lag` is of before the last write, as of a broker that has not applied it yet."""

    def __init__(self) -> None:
        super().__init__()
        self._before: tuple[bytes | None, int] | None = None
        self._lags = False

    def lag(self) -> None:
        self._lags = True

    async def get(self, key: str) -> tuple[bytes | None, int]:
        if self._lags and self._before is not None:
            self._lags = False
            return self._before
        return await super().get(key)

    async def put(self, key: str, value: bytes, revision: int) -> int:
        before = await super().get(key)
        put = await super().put(key, value, revision)
        self._before = before
        return put


async def test_a_renewal_refused_for_our_own_late_write_is_no_loss() -> None:
    """An attempt that was given up arrives late; the next is refused, and reads what was there before."""
    store = LaggingStore()
    lease = Lease(store, "tape.desk", holder="a", clock=VirtualClock(), ttl_s=9.0)
    await lease.acquire(patience_s=0)
    data, revision = await store.get("tape.desk")
    assert data is not None
    await store.put("tape.desk", data, revision)
    store.lag()
    with pytest.raises(TransientError):
        await lease.renew()
    await lease.renew()
    assert lease.held
    assert lease.generation == 1
