"""Asyncio tasks that belong together: whose failure takes which down, and what is told of it.

An exception that nobody asked a task for ends as a traceback on standard error, at some later time: each function here
leaves none behind, also where its caller is cancelled while it waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


def hear(task: asyncio.Task[Any]) -> None:
    """Take note of how a task ended, now or as its callback: whoever needs the reason has it from elsewhere."""
    if not task.cancelled():
        task.exception()


async def first_failure(main: asyncio.Task[None], beside: list[asyncio.Task[None]]) -> None:
    """Wait for `main`; a task beside it that fails first takes it down."""
    try:
        done, _ = await asyncio.wait({main, *beside}, return_when=asyncio.FIRST_COMPLETED)
        while main not in done:
            for task in done:
                task.result()
            done, _ = await asyncio.wait(
                {main, *(task for task in beside if not task.done())}, return_when=asyncio.FIRST_COMPLETED
            )
        main.result()
    finally:
        await cancel_all([main])


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end; raises what one of them meets while it ends.

    One that had failed before is the end that is under way, or came beside it: it is not told a second time.
    """
    tasks = list(tasks)
    running = [task for task in tasks if not task.done()]
    for task in tasks:
        task.add_done_callback(hear)
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in running:
        if not task.cancelled():
            task.result()


async def see_through(work: Coroutine[Any, Any, None]) -> None:
    """Await work that must not be cut short, such as a close; a cancellation waits for its end, and is raised then.

    Raises:
        CancelledError: The caller was cancelled meanwhile; what the work itself raised is its cause.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(hear)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    task.result()
