"""A backup or a restore that dies at any call to the store, or at any append, can be run again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from tapehouse.core.clock import VirtualClock
from tapehouse.dr.backup import backup
from tapehouse.dr.repository import MachineSnapshot
from tapehouse.dr.restore import MemoryTarget, restore
from tapehouse.dr.store import MemoryStore
from tapehouse.dr.verify import verify
from tapehouse.log import segment_cut
from tapehouse.log.memory import MemoryLog
from tests.support.logs import OLD_ID, extend, filled, messages_of

CALLS_MAX = 200  # of any one backup here; a loop that gets there has lost its end


T = TypeVar("T")


class KilledError(Exception):
    """Stands for the death of the process: nobody handles it."""


class Deadly(MemoryStore):
    """Kills its caller at call number `at`, before or after it took effect."""

    at = -1
    after = False
    calls = 0

    def arm(self, at: int, *, after: bool) -> None:
        self.at, self.after, self.calls = at, after, 0

    async def _deadly(self, call: Awaitable[T]) -> T:
        self.calls += 1
        mine = self.calls == self.at
        if mine and not self.after:
            call.close()  # type: ignore[attr-defined]
            raise KilledError
        try:
            return await call
        finally:
            if mine:
                raise KilledError

    async def get(self, key: str) -> bytes:
        return await self._deadly(super().get(key))

    async def put(self, key: str, data: bytes, *, if_none_match: bool = False, if_match: str | None = None) -> str:
        return await self._deadly(super().put(key, data, if_none_match=if_none_match, if_match=if_match))


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_cut, "SEGMENT_MESSAGES", 8)


async def first_backup(store: MemoryStore) -> MemoryLog:
    log = await filled("TAPE_demo", 20)
    await backup([log], store, snapshot(20), VirtualClock(1))
    await extend(log, 60)
    return log


def snapshot(sequence: int) -> dict[str, MachineSnapshot]:
    return {"book": MachineSnapshot(log="TAPE_demo", log_id=OLD_ID, sequence=sequence, data=b"s%d" % sequence)}


async def until_it_lives(attempt: Callable[[int], object]) -> int:
    """Run `attempt(1)`, `attempt(2)`, ... until one is not killed; return which."""
    for at in range(1, CALLS_MAX):
        try:
            await attempt(at)  # type: ignore[misc]
        except KilledError:
            continue
        return at
    raise AssertionError("it was killed at every call")


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
async def test_a_backup_killed_anywhere_leaves_the_last_manifest_whole(after: bool) -> None:
    killed = 0

    async def attempt(at: int) -> None:
        nonlocal killed
        store = Deadly()
        log = await first_backup(store)
        store.arm(at, after=after)
        try:
            await backup([log], store, snapshot(60), VirtualClock(2))
        except KilledError:
            killed += 1
            store.arm(-1, after=False)
            assert (await verify(store)).sound
            target = MemoryTarget()
            back = await restore(store, target, VirtualClock())
            assert back.logs[0].last in (20, 60)
            there = {info.key async for info in store.list("segments/")}
            again = await backup([log], store, snapshot(60), VirtualClock(3))
            now = {info.key async for info in store.list("segments/")}
            assert again.segments_new == len(now - there), "what was there was not sent again"
            target = MemoryTarget()
            await restore(store, target, VirtualClock())
            assert await messages_of(target.logs["TAPE_demo"], 1, 60) == await messages_of(log, 1, 60)
            assert target.snapshots == {"book": b"s60"}
            raise

    last = await until_it_lives(attempt)
    assert killed == last - 1 > 10


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
async def test_a_restore_killed_at_any_read_goes_on(after: bool) -> None:
    async def attempt(at: int) -> None:
        store, target = Deadly(), MemoryTarget()
        log = await first_backup(store)
        await backup([log], store, snapshot(60), VirtualClock(2))
        store.arm(at, after=after)
        try:
            await restore(store, target, VirtualClock())
        except KilledError:
            store.arm(-1, after=False)
            await restore(store, target, VirtualClock())
            assert await messages_of(target.logs["TAPE_demo"], 1, 60) == await messages_of(log, 1, 60)
            assert target.snapshots == {"book": b"s60"}
            raise

    assert await until_it_lives(attempt) > 8


@pytest.mark.parametrize("stored", [False, True], ids=["not stored", "stored"])
async def test_a_restore_killed_at_any_append_goes_on(stored: bool) -> None:
    class Mortal(MemoryLog):
        at = -1

        async def append(self, payload, **options):  # type: ignore[no-untyped-def]
            if self._last + 1 == self.at and not stored:
                raise KilledError
            sequence = await super().append(payload, **options)
            if sequence == self.at:
                raise KilledError
            return sequence

    class Target(MemoryTarget):
        at = -1

        async def create(self, log):  # type: ignore[no-untyped-def]
            made = Mortal(log.name, first=log.first, branches=log.branches)
            made.at = self.at
            self.logs[log.name] = made
            return made

    store = MemoryStore()
    log = await first_backup(store)
    await backup([log], store, {}, VirtualClock(2))

    async def attempt(at: int) -> None:
        target = Target()
        target.at = at
        try:
            await restore(store, target, VirtualClock())
        except KilledError:
            half = target.logs["TAPE_demo"]
            half.at = -1  # type: ignore[attr-defined]
            there = (await half.extent()).last
            report = await restore(store, target, VirtualClock())
            assert report.logs[0].appended == 60 - there
            assert await messages_of(half, 1, 60) == await messages_of(log, 1, 60)
            raise

    assert await until_it_lives(attempt) == 61
