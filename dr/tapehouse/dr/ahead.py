"""Bounded concurrency: run ahead of the consumer, in order, and stop everything at the first error."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


async def run_ahead(
    call: Callable[[_Item], Coroutine[Any, Any, _Result]], items: AsyncIterator[_Item], *, width: int
) -> AsyncGenerator[_Result, None]:
    """The results of `call` for each item, in the items' order, with at most `width` calls under way.

    An error of a call, or of the items, is raised in its place; calls under way are then cancelled, as they are when
    the consumer closes this generator.
    """
    under_way: deque[asyncio.Task[_Result]] = deque()
    try:
        async for item in items:
            while len(under_way) >= width:
                yield await under_way.popleft()
            under_way.append(asyncio.create_task(call(item)))
            while under_way and under_way[0].done():
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()
    finally:
        await _cancel(under_way)


async def iterate(items: Sequence[_Item]) -> AsyncIterator[_Item]:
    """A sequence as the asynchronous iterator that `run_ahead` takes."""
    for item in items:
        yield item


async def all_of(calls: Sequence[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Run all at once and return their results; at the first error cancel the others and raise it."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        if tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task in done:
                    task.result()
        return [task.result() for task in tasks]
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Sequence[asyncio.Task[Any]] | deque[asyncio.Task[Any]]) -> None:
    waiting: list[Awaitable[Any]] = []
    for task in tasks:
        task.cancel()
        waiting.append(task)
    await asyncio.gather(*waiting, return_exceptions=True)
