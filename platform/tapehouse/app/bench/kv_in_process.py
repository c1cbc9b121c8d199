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

import numpy as np

from tapehouse.app.bench.kv_loads import FILL_TOGETHER, VALUE_BYTES, Plan, key
from tapehouse.core.check import check
from tapehouse.core.clock import SystemClock
from tapehouse.kv import requests
from tapehouse.kv.client import Kv
from tapehouse.kv.many import Many, Packed
from tapehouse.log import MemoryLog

READS = 1 << 18  # of a measurement
CALL_KEYS = 1_024  # of a call for many
SEED = 7


@dataclass(frozen=True, slots=True)
class Keys:
    """What is read, before the clock runs in both forms that a caller may have it."""

    each: list[bytes]
    packed: list[Packed]  # CALL_KEYS of them in each

    @classmethod
    def of(cls, each: list[bytes]) -> Keys:
        return cls(each, [Packed.of(each[first : first + CALL_KEYS]) for first in range(0, len(each), CALL_KEYS)])


Way = Callable[[Kv, Keys], Awaitable[int]]


async def _one_by_one(kv: Kv, keys: Keys) -> int:
    """`await kv.get(key)`; how many bytes were read."""
    size = 0
    for each in keys.each:
        found = await kv.get(each)
        size += len(found.value) if found else 0
    return size


async def _by_the_view(kv: Kv, keys: Keys) -> int:
    """The view's own lookup, without the routing and the level around it."""
    get = kv.nodes[0].view.get
    size = 0
    for each in keys.each:
        size += len(get(each).value)  # type: ignore[union-attr]
    return size


async def _many_at_once(kv: Kv, keys: Keys) -> int:
    """Columns of keys in, columns of values out."""
    many = Many(kv)
    size = 0
    for packed in keys.packed:
        found = await many.get(packed)
        size += found.values.data.nbytes
    return size


# Each reads all the keys, in any way, and says how many bytes their values had.
WAYS: dict[str, Way] = {"Kv.get": _one_by_one, "View.get": _by_the_view, "Many.get": _many_at_once}
FASTEST_WAY = "Many.get"  # which has the goal


async def measure_in_process(plan: Plan, repeat: int) -> dict[str, list[float]]:
    """Reads a second of each way, run by run, the ways in turns."""
    log, life = MemoryLog("KV_bench"), count(1)

    async def open_log(_: int) -> MemoryLog:
        return log

    values: dict[str, list[float]] = {way: [] for way in WAYS}
    async with await Kv.open(open_log, new_life=partial(next, life), clock=SystemClock(), shards=1) as kv:
        await _fill(kv, plan.keys)
        numbers = np.random.default_rng(SEED).integers(0, plan.keys, plan.requests or READS)
        keys = Keys.of([key(number) for number in numbers.tolist()])
        for attempt in range(repeat + 1):  # The first is not counted: it compiles.
            for name, way in WAYS.items():
                begun = time.perf_counter_ns()
                size = await way(kv, keys)
                seconds = (time.perf_counter_ns() - begun) / 1e9
                check(size == len(keys.each) * VALUE_BYTES, f"{size} bytes of {len(keys.each)} values", subject=name)
                if attempt:
                    values[name].append(len(keys.each) / seconds)
    return values


async def _fill(kv: Kv, keys: int) -> None:
    """Set every key."""
    value = b"x" * VALUE_BYTES
    for first in range(0, keys, FILL_TOGETHER):
        numbers = range(first, min(first + FILL_TOGETHER, keys))
        outcomes = await asyncio.gather(*(kv.write(requests.put(key(number), value)) for number in numbers))
        check(all(outcome.is_applied for outcome in outcomes), "a put was not applied")
