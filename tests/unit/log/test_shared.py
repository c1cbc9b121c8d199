"""One reader for all who follow a log: everybody gets every message once and in order, whatever comes between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tapehouse.core.errors import BusUnavailableError, GapError, IntegrityError
from tapehouse.log import Log, MemoryLog, Message, SharedLog, shared


class Counted(MemoryLog):
    """A log that counts its readers, can keep them waiting, and ends them as told."""

    def __init__(self) -> None:
        super().__init__("TAPE_x")
        self.reads: list[tuple[int, bool]] = []
        self.open = 0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.failure: BusUnavailableError | None = None
        self.other_bytes = False

    async def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        self.reads.append((first, follow))
        self.open += 1
        try:
            async for message in super().read(first, through=through, follow=follow):
                await self.flowing.wait()
                if self.failure is not None:
                    raise self.failure
                yield message if not self.other_bytes else Message(sequence=message.sequence, subject="s", payload=b"?")
        finally:
            self.open -= 1


class Pause:
    """A pause that ends when it is told to."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self.over.wait()


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def put(log: Log, *numbers: int) -> None:
    for number in numbers:
        await log.append(b"%d" % number, expected_last=None)


class Taker:
    """A follower that notes what it takes."""

    def __init__(self, log: Log, first: int, *, through: int | None = None) -> None:
        self.taken: list[Message] = []
        self.task = asyncio.create_task(self._take(log, first, through))

    async def _take(self, log: Log, first: int, through: int | None) -> None:
        async for message in log.read(first, through=through, follow=True):
            self.taken.append(message)

    @property
    def numbers(self) -> list[int]:
        return [int(message.payload) for message in self.taken]

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_many_follow_with_one_reader_wherever_they_begin() -> None:
    log = Counted()
    await put(log, 1, 2, 3)
    one = SharedLog(log)
    takers = [Taker(one, first) for first in (1, 3, 4, 6)]
    await settle()
    await put(log, 4, 5, 6, 7)
    await settle()
    assert [taker.numbers for taker in takers] == [[1, 2, 3, 4, 5, 6, 7], [3, 4, 5, 6, 7], [4, 5, 6, 7], [6, 7]]
    assert [first for first, follows in log.reads if follows] == [4]
    for taker in takers[1:]:
        await taker.stop()
    assert log.open == 1
    await takers[0].stop()
    assert log.open == 0, "the last one who leaves ends the reader"
    again = Taker(one, 6)
    await settle()
    assert again.numbers == [6, 7]
    await again.stop()


async def test_own_appends_are_heard_when_acknowledged_and_once() -> None:
    log = Counted()
    await put(log, 1)
    one = SharedLog(log, subject="tape.v1.x")
    taker = Taker(one, 1)
    await settle()
    log.flowing.clear()  # The way back through the broker is not needed.
    await one.append(b"2", expected_last=1, headers={"a": "b"})
    await settle()
    assert taker.numbers == [1, 2]
    assert (taker.taken[-1].subject, taker.taken[-1].headers) == ("tape.v1.x", {"a": "b"})
    await put(log, 3)  # Somebody else's: it comes by the reader, and what is appended behind it after it.
    await one.append(b"4", expected_last=3)
    await settle()
    assert taker.numbers == [1, 2]
    log.flowing.set()
    await settle()
    assert taker.numbers == [1, 2, 3, 4]
    await taker.stop()


async def test_an_append_that_nobody_acknowledged_comes_by_the_reader() -> None:
    log = Counted()
    one = SharedLog(log, subject="tape.v1.x")
    taker = Taker(one, 1)
    await settle()
    log.flowing.clear()
    log.fail_next_append(stored=True)
    with pytest.raises(Exception, match="no acknowledgement"):
        await one.append(b"1", expected_last=0)
    await settle()
    assert taker.numbers == []
    log.flowing.set()
    await settle()
    assert taker.numbers == [1]
    await taker.stop()


async def test_other_bytes_than_were_acknowledged_end_everybody() -> None:
    log = Counted()
    one = SharedLog(log, subject="tape.v1.x")
    taker = Taker(one, 1)
    await settle()
    log.other_bytes = True
    await one.append(b"1", expected_last=0)
    await settle()
    with pytest.raises(IntegrityError, match="another message than the one that was acknowledged"):
        await taker.task


async def test_a_slow_follower_reads_the_log_itself_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "WINDOW_MESSAGES", 4)
    log = Counted()
    one = SharedLog(log)
    slow = one.read(1, follow=True)
    fast = Taker(one, 1)
    await put(log, 1)
    assert (await anext(slow)).sequence == 1
    for number in range(2, 12):
        await put(log, number)
        await settle()
    assert fast.numbers == list(range(1, 12))
    assert [(await anext(slow)).sequence for _ in range(10)] == list(range(2, 12))
    assert (2, False) in log.reads
    await slow.aclose()  # type: ignore[attr-defined]
    await fast.stop()


async def test_bytes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "WINDOW_BYTES", 3)
    log = Counted()
    one = SharedLog(log)
    taker = Taker(one, 1)
    await settle()
    for number in (10, 11, 12):
        await put(log, number)
        await settle()
    assert taker.numbers == [10, 11, 12]
    assert one._window is not None
    assert one._window.first == 3
    await taker.stop()


async def test_what_ends_the_reader_ends_all_and_the_next_ones_start_anew() -> None:
    log = Counted()
    one = SharedLog(log)
    takers = [Taker(one, 1), Taker(one.unhurried(), 1)]
    await settle()
    log.failure = BusUnavailableError("away")
    await put(log, 1)
    await settle()
    for taker in takers:
        with pytest.raises(BusUnavailableError, match="away"):
            await taker.task
    log.failure = None
    again = Taker(one, 1)
    await put(log, 2)
    await settle()
    assert again.numbers == [1, 2]
    await again.stop()
    assert log.open == 0


async def test_who_is_behind_what_is_there_hears_of_it() -> None:
    log = Counted()
    await put(log, 1, 2, 3)
    await log.trim(3)
    taker = Taker(SharedLog(log), 1)
    with pytest.raises(GapError, match="trimmed"):
        await taker.task


async def test_the_unhurried_come_later_one_by_one_and_lose_nothing() -> None:
    log, pause = Counted(), Pause()
    one = SharedLog(log, pause=pause)
    prompt, late = Taker(one, 1), [Taker(one.unhurried(), 1) for _ in range(3)]
    await settle()
    await put(log, 1, 2)
    await settle()
    assert prompt.numbers == [1, 2]
    assert [taker.numbers for taker in late] == [[], [], []]
    assert pause.asked == [shared.UNHURRIED_S]
    pause.over.set()
    await settle()
    assert [taker.numbers for taker in late] == [[1, 2]] * 3
    for taker in (prompt, *late):
        await taker.stop()


async def test_following_to_a_sequence_ends_there() -> None:
    log = Counted()
    await put(log, 1, 2)
    one = SharedLog(log)
    taker = Taker(one, 1, through=3)
    within = Taker(one, 1, through=1)
    await settle()
    await put(log, 3, 4)
    await asyncio.gather(taker.task, within.task)
    assert (taker.numbers, within.numbers) == ([1, 2, 3], [1])
    assert log.open == 0
