"""Eventual reads in this process: what a strategy or a dashboard that holds a view pays, with no socket between.

The view is a KV's over a log in memory. `WAYS` names the ways to read it; a faster one is one line more there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Generic, TypeVar

import numpy as np

from tapehouse.app.bench.kv_loads import FILL_TOGETHER, VALUE_BYTES, Plan, key
from tapehouse.core.check import check
from tapehouse.core.clock import SystemClock
from tapehouse.kv import requests
from tapehouse.kv.client import Kv
from tapehouse.kv.many import Many, Packed
from tapehouse.log import MemoryLog

READS = 1 << 18  # of a measurement
TOGETHER = 4_096  # keys of one call for many
SEED = 7

Keys = TypeVar("Keys")


async def _one_by_one(kv: Kv, keys: list[bytes]) -> int:
    """`await kv.get(key)`; how many bytes were read."""
    size = 0
    for each in keys:
        found = await kv.get(each)
        size += len(found.value) if found else 0
    return size


async def _by_the_view(kv: Kv, keys: list[bytes]) -> int:
    """The view's own lookup, without the routing and the level around it."""
    get = kv.nodes[0].view.get
    size = 0
    for each in keys:
        size += len(get(each).value)  # type: ignore[union-attr]
    return size


async def _column_by_column(kv: Kv, columns: list[Packed]) -> int:
    """`Many.get` of columns of keys, as a table of quotes has them; the values come as columns too."""
    many = Many(kv)
    size = 0
    for column in columns:
        size += int((await many.get(column)).values.offsets[-1])
    return size


@dataclass(frozen=True, slots=True)
class Way(Generic[Keys]):
    """One way to read: it takes the keys in a shape of its own, and says how many bytes their values had."""

    shape: Callable[[list[bytes]], Keys]
    read: Callable[[Kv, Keys], Awaitable[int]]


def _packed(keys: list[bytes]) -> list[Packed]:
    return [Packed.of(keys[first : first + TOGETHER]) for first in range(0, len(keys), TOGETHER)]


FASTEST_WAY = f"Many.get, {TOGETHER:,} keys a call"  # which has the goal
WAYS: dict[str, Way[Any]] = {
    "Kv.get": Way(list, _one_by_one), "View.get": Way(list, _by_the_view), FASTEST_WAY: Way(_packed, _column_by_column),
}  # fmt: skip


async def measure_in_process(plan: Plan, repeat: int) -> dict[str, list[float]]:
    """Reads a second of each way, run by run, the ways in turns."""
    log, life = MemoryLog("KV_bench"), count(1)

    async def open_log(_: int) -> MemoryLog:
        return log

    values: dict[str, list[float]] = {way: [] for way in WAYS}
    async with await Kv.open(open_log, new_life=partial(next, life), clock=SystemClock(), shards=1) as kv:
        await _fill(kv, plan.keys)
        numbers = np.random.default_rng(SEED).integers(0, plan.keys, plan.requests or READS)
        keys = [key(number) for number in numbers.tolist()]
        shaped = {name: way.shape(keys) for name, way in WAYS.items()}
        for attempt in range(repeat + 1):  # The first is not counted: it compiles.
            for name, way in WAYS.items():
                begun = time.perf_counter_ns()
                size = await way.read(kv, shaped[name])
                seconds = (time.perf_counter_ns() - begun) / 1e9
                check(size == len(keys) * VALUE_BYTES, f"{size} bytes of {len(keys)} values", subject=name)
                if attempt:
                    values[name].append(len(keys) / seconds)
    return values


async def _fill(kv: Kv, keys: int) -> None:
    """Set every key."""
    value = b"x" * VALUE_BYTES
    for first in range(0, keys, FILL_TOGETHER):
        numbers = range(first, min(first + FILL_TOGETHER, keys))
        outcomes = await asyncio.gather(*(kv.write(requests.put(key(number), value)) for number in numbers))
        check(all(outcome.is_applied for outcome in outcomes), "a put was not applied")
