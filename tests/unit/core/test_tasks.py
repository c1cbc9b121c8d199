"""Asyncio tasks that belong together, and that none of them ends as a traceback that nobody asked for."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tapehouse.core.errors import DataError
from tapehouse.core.tasks import cancel_all, first_failure, see_through


@pytest_asyncio.fixture(autouse=True)
async def nothing_unheard() -> AsyncIterator[None]:
    """No task may end with an exception that nobody looked at."""
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    yield
    gc.collect()
    await asyncio.sleep(0)
    assert unheard == []


async def test_the_first_failure_takes_the_others_down() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise DataError("beside")

    async def last() -> None:
        await asyncio.Event().wait()

    main = asyncio.create_task(last())
    with pytest.raises(DataError, match="beside"):
        await first_failure(main, [asyncio.create_task(fail())])
    assert main.cancelled()
    with pytest.raises(DataError, match="beside"):
        await first_failure(asyncio.create_task(fail()), [asyncio.create_task(asyncio.sleep(0))])


async def test_what_a_task_meets_while_it_is_cancelled_is_told_and_all_are_waited_for() -> None:
    ended: list[str] = []

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("stubborn")

    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise DataError("while it ended")

    async def failed() -> None:
        raise DataError("long ago")

    tasks = [asyncio.create_task(work()) for work in (failing, stubborn, failed)]
    await asyncio.sleep(0)
    with pytest.raises(DataError, match="while it ended"):
        await cancel_all(tasks)
    assert ended == ["stubborn"]
    assert isinstance(tasks[2].exception(), DataError)
    await cancel_all([])


async def test_who_is_cancelled_while_it_cancels_leaves_nothing_unheard() -> None:
    """A second cancellation comes while the first one's tasks still end, and one of them fails."""
    release = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()
            raise DataError("at its end")

    tasks = [asyncio.create_task(slow())]
    await asyncio.sleep(0)
    canceller = asyncio.create_task(cancel_all(tasks))
    await asyncio.sleep(0)
    canceller.cancel()
    await asyncio.wait([canceller])
    assert canceller.cancelled()
    release.set()
    await asyncio.wait(tasks)
    del tasks


async def test_work_that_is_seen_through_ends_though_its_caller_is_cancelled_twice() -> None:
    done: list[str] = []
    release = asyncio.Event()

    async def close() -> None:
        await release.wait()
        done.append("closed")

    async def caller() -> None:
        await see_through(close())
        done.append("went on")

    task = asyncio.create_task(caller())
    for _ in range(2):
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    release.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert done == ["closed"]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_seen_through_work_raises_is_told(cancelled: bool) -> None:
    release = asyncio.Event()

    async def close() -> None:
        await release.wait()
        raise DataError("not closed")

    task = asyncio.create_task(see_through(close()))
    await asyncio.sleep(0)
    if cancelled:
        task.cancel()
        await asyncio.sleep(0)
    release.set()
    with pytest.raises(asyncio.CancelledError if cancelled else DataError) as caught:
        await task
    assert cancelled == isinstance(caught.value.__cause__, DataError)
