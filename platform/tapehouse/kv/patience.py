"""Waiting no longer than a caller's patience, by a clock that is injected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from tapehouse.core.clock import Clock
from tapehouse.core.errors import TapehouseError
from tapehouse.kv.faults import delay

T = TypeVar("T")


async def within(clock: Clock, duration_ns: int, waiting: asyncio.Future[T], late: Callable[[], TapehouseError]) -> T:
    """What a future gives; where it takes longer, it is cancelled and `late` says what to raise."""
    pause = asyncio.create_task(delay(clock, duration_ns))
    try:
        both: set[asyncio.Future[Any]] = {waiting, pause}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise late()
        return waiting.result()
    finally:
        waiting.cancel()
        pause.cancel()
