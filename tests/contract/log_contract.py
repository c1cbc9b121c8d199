"""What every `Log` must do, whoever stores it: one suite, run on each adapter by `test_log_contract`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

import pytest

from tapehouse.core import AmbiguousAppendError, ConflictError, GapError, UsageError
from tapehouse.core.ids import new_log_id
from tapehouse.log import Branch, Log, Message

FOLLOW_TIMEOUT_S = 20


class Harness(Protocol):
    """Makes logs of one adapter and harms them."""

    async def make(
        self, *, first: int = 1, branches: tuple[Branch, ...] | None = None, single_writer: bool = True
    ) -> Log:
        """A fresh, empty log whose first sequence will be `first`."""
        ...

    async def append_ambiguously(self, log: Log, payload: bytes, *, expected_last: int, stored: bool) -> None:
        """Append so that no acknowledgement comes back; `stored` says whether the message arrives. Must raise."""
        ...


async def fill(log: Log, count: int, start: int = 0) -> list[bytes]:
    """Append `count` fenced messages and return their payloads."""
    extent = await log.extent()
    payloads = [b"message %d" % (start + index) for index in range(count)]
    for index, payload in enumerate(payloads):
        sequence = await log.append(payload, expected_last=extent.last + index)
        assert sequence == extent.last + index + 1
    return payloads


async def collect(log: Log, first: int, *, through: int | None = None) -> list[Message]:
    return [message async for message in log.read(first, through=through)]


class LogContract:
    """The suite."""

    async def test_a_new_log_is_empty(self, harness: Harness) -> None:
        log = await harness.make()
        extent = await log.extent()
        assert (extent.first, extent.last) == (1, 0)
        assert len(extent.log_id) == 16
        assert await log.last() is None
        assert await collect(log, 1) == []

    async def test_appends_are_numbered_and_read_back_without_a_hole(self, harness: Harness) -> None:
        log = await harness.make()
        payloads = await fill(log, 40)
        messages = await collect(log, 1)
        assert [message.sequence for message in messages] == list(range(1, 41))
        assert [message.payload for message in messages] == payloads
        extent = await log.extent()
        assert (extent.first, extent.last) == (1, 40)

    async def test_more_messages_than_a_reader_may_run_ahead(self, harness: Harness) -> None:
        log = await harness.make(single_writer=False)
        count, at_once = 2500, 50  # so few that the last of them is acknowledged in time on a busy machine too
        for start in range(0, count, at_once):
            await asyncio.gather(
                *(log.append(b"%d" % index, expected_last=None) for index in range(start, start + at_once))
            )
        messages = await collect(log, 1)
        assert [message.sequence for message in messages] == list(range(1, count + 1))
        assert sorted(int(message.payload) for message in messages) == list(range(count))

    async def test_a_fence_refuses_a_stale_and_a_hasty_writer(self, harness: Harness) -> None:
        log = await harness.make()
        await fill(log, 3)
        for wrong in (0, 2, 4):
            with pytest.raises(ConflictError):
                await log.append(b"stale", expected_last=wrong)
        assert await log.append(b"right", expected_last=3) == 4
        assert [message.payload for message in await collect(log, 4)] == [b"right"]

    async def test_of_two_writers_under_one_fence_one_wins(self, harness: Harness) -> None:
        log = await harness.make()
        await fill(log, 2)
        results = await asyncio.gather(
            *(log.append(b"writer %d" % index, expected_last=2) for index in range(4)), return_exceptions=True
        )
        assert sum(result == 3 for result in results) == 1
        assert sum(isinstance(result, ConflictError) for result in results) == 3
        assert (await log.extent()).last == 3

    async def test_a_plain_append_takes_the_next_number(self, harness: Harness) -> None:
        log = await harness.make(single_writer=False)
        assert [await log.append(b"x", expected_last=None) for _ in range(3)] == [1, 2, 3]

    async def test_reading_from_the_middle_and_through(self, harness: Harness) -> None:
        log = await harness.make()
        await fill(log, 10)
        assert [message.sequence for message in await collect(log, 7)] == [7, 8, 9, 10]
        assert [message.sequence for message in await collect(log, 3, through=5)] == [3, 4, 5]
        assert [message.sequence for message in await collect(log, 9, through=50)] == [9, 10]
        assert await collect(log, 11) == []
        assert await collect(log, 5, through=4) == []

    async def test_following_goes_on_with_what_is_appended_later(self, harness: Harness) -> None:
        log = await harness.make()
        await fill(log, 3)
        seen: list[int] = []
        caught_up = asyncio.Event()

        async def follow() -> None:
            async for message in log.read(2, through=8, follow=True):
                seen.append(message.sequence)
                if message.sequence == 3:
                    caught_up.set()

        task = asyncio.create_task(follow())
        async with asyncio.timeout(FOLLOW_TIMEOUT_S):
            await caught_up.wait()
            await fill(log, 7, start=3)
            await task
        assert seen == [2, 3, 4, 5, 6, 7, 8]

    async def test_following_may_begin_beyond_the_end(self, harness: Harness) -> None:
        log = await harness.make()
        await fill(log, 1)
        task = asyncio.create_task(anext(aiter(log.read(4, follow=True))))
        await asyncio.sleep(0)
        await fill(log, 3, start=1)
        async with asyncio.timeout(FOLLOW_TIMEOUT_S):
            assert (await task).sequence == 4

    async def test_a_follower_can_be_stopped(self, harness: Harness) -> None:
        log = await harness.make()
        await fill(log, 2)
        reading = log.read(1, follow=True)
        assert (await anext(reading)).sequence == 1  # type: ignore[arg-type]
        await reading.aclose()  # type: ignore[attr-defined]
        task = asyncio.create_task(anext(log.read(3, follow=True)))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await fill(log, 1)

    async def test_last_is_the_last(self, harness: Harness) -> None:
        log = await harness.make()
        payloads = await fill(log, 5)
        last = await log.last()
        assert last is not None
        assert (last.sequence, last.payload) == (5, payloads[-1])

    async def test_headers_come_back_and_the_brokers_do_not(self, harness: Harness) -> None:
        log = await harness.make()
        headers = {"Traceparent": "00-abc", "x-text": "grün: ja"}
        await log.append(b"with", expected_last=0, headers=headers)
        await log.append(b"without", expected_last=1)
        first, second = await collect(log, 1)
        assert first.headers == headers
        assert second.headers == {}
        last = await log.last()
        assert last is not None
        assert last.headers == {}
        await log.append(b"", expected_last=2, headers=headers)
        last = await log.last()
        assert last is not None
        assert (last.payload, last.headers) == (b"", headers)

    async def test_the_brokers_own_headers_are_refused(self, harness: Harness) -> None:
        log = await harness.make()
        for name in ("Nats-Msg-Id", "nats-rollup"):
            with pytest.raises(UsageError, match=name):
                await log.append(b"x", expected_last=0, headers={name: "1"})
        assert (await log.extent()).last == 0

    async def test_empty_and_large_payloads(self, harness: Harness) -> None:
        log = await harness.make()
        large = bytes(range(256)) * 4096  # 1 MiB
        await log.append(b"", expected_last=0)
        await log.append(large, expected_last=1)
        assert [message.payload for message in await collect(log, 1)] == [b"", large]
        last = await log.last()
        assert last is not None
        assert last.payload == large

    async def test_trimming_forgets_what_is_below(self, harness: Harness) -> None:
        log = await harness.make()
        await fill(log, 10)
        await log.trim(5)
        extent = await log.extent()
        assert (extent.first, extent.last) == (5, 10)
        assert [message.sequence for message in await collect(log, 5)] == [5, 6, 7, 8, 9, 10]
        with pytest.raises(GapError, match="4"):
            await collect(log, 4)
        await log.trim(3)  # Nothing is there to forget.
        assert (await log.extent()).first == 5
        assert await log.append(b"goes on", expected_last=10) == 11

    async def test_the_last_message_is_never_trimmed(self, harness: Harness) -> None:
        log = await harness.make()
        payloads = await fill(log, 4)
        await log.trim(100)
        extent = await log.extent()
        assert (extent.first, extent.last) == (4, 4)
        last = await log.last()
        assert last is not None
        assert last.payload == payloads[-1]
        with pytest.raises(ConflictError):
            await log.append(b"stale", expected_last=0)

    async def test_a_restored_log_begins_where_it_is_told(self, harness: Harness) -> None:
        old, new = new_log_id(), new_log_id()
        branches = (Branch(log_id=old, through=99), Branch(log_id=new))
        log = await harness.make(first=70, branches=branches)
        extent = await log.extent()
        assert (extent.first, extent.last, extent.branches) == (70, 69, branches)
        assert extent.log_id == new
        assert extent.log_id_at(99) == old
        assert await log.last() is None
        with pytest.raises(GapError):
            await collect(log, 69)
        assert await log.append(b"again", expected_last=69) == 70
        assert [message.sequence for message in await collect(log, 70)] == [70]

    @pytest.mark.parametrize("stored", [True, False])
    async def test_an_ambiguous_append_is_resolved_by_the_last_message(self, harness: Harness, stored: bool) -> None:
        log = await harness.make()
        await fill(log, 2)
        with pytest.raises(AmbiguousAppendError):
            await harness.append_ambiguously(log, b"which?", expected_last=2, stored=stored)
        last = await log.last()
        assert last is not None
        if stored:
            assert (last.sequence, last.payload) == (3, b"which?")
            with pytest.raises(ConflictError):
                await log.append(b"which?", expected_last=2)
        else:
            assert last.sequence == 2
            assert await log.append(b"which?", expected_last=2) == 3
        assert [message.payload for message in await collect(log, 3)] == [b"which?"]
