"""A generated day recorded through the product's own code while its brokers are harmed, and what must come of it.

The feed waits at each place where a fault is due until the fault is about to strike, so that cells are left to record
after every one of them, and appends are under way while it strikes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pytest

from tapehouse.app.bootstrap import Platform
from tapehouse.app.live import Logs, RecordReport, record
from tapehouse.app.proof import read_outputs
from tapehouse.core import SystemClock
from tapehouse.engine import Digests, sequencer
from tapehouse.engine.sequencer import FEED_SOURCE
from tapehouse.feeds import GeneratedDay
from tapehouse.log import Log, MemoryLog, Progress, open_frame
from tapehouse.market import Cells, Kind, read_definition, records_of
from tapehouse.strategies import maker

T = TypeVar("T")
LOOKS_MAX = 600
LOOK_PAUSE_S = 0.1
BATCH_CELLS = 2_000  # small batches make many appends for the faults to fall among
FAULT_WAIT_S = 60.0

# A fault gets a function to call in the moment in which it strikes: the feed goes on then.
Fault = Callable[[Callable[[], None]], Awaitable[None]]


async def settled(look: Callable[[], Awaitable[T]], message: str) -> T:
    """What `look` finds as soon as it finds anything."""
    for _ in range(LOOKS_MAX):
        if found := await look():
            return found
        await asyncio.sleep(LOOK_PAUSE_S)
    raise AssertionError(message)


class FaultyDay:
    """A generated day that meets faults on its way.

    Args:
        cells: About how many it has.
        faults: After how many cells of the feed each one is due.
    """

    def __init__(self, cells: int, faults: Mapping[int, Fault] | None = None) -> None:
        self._cells = cells
        self._day = GeneratedDay(cells=cells, batch_cells=BATCH_CELLS)
        self._faults = sorted((faults or {}).items())
        self._due: asyncio.Queue[tuple[Fault, threading.Event]] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.name = self._day.name
        self.instruments = self._day.instruments
        self.cells_estimate = self._day.cells_estimate
        self.met: list[int] = []

    def batches(self) -> Iterator[Cells]:
        """The day's batches; called in a thread, so it may wait."""
        taken = 0
        faults = list(self._faults)
        for cells in self._day.batches():
            yield cells
            taken += len(cells)
            while faults and taken >= faults[0][0]:
                at, fault = faults.pop(0)
                assert self._loop is not None
                struck = threading.Event()
                self._loop.call_soon_threadsafe(self._due.put_nowait, (fault, struck))
                assert struck.wait(FAULT_WAIT_S), f"the fault at {at} did not strike"
                self.met.append(at)

    async def harm(self) -> None:
        """Let the faults strike as they become due; returns after the last one."""
        self._loop = asyncio.get_running_loop()
        for _ in self._faults:
            fault, struck = await self._due.get()
            await fault(struck.set)

    def own_cells(self) -> Cells:
        """What the day gives of itself, no recorder between."""
        return np.concatenate(list(GeneratedDay(cells=self._cells).batches()))


@dataclass(slots=True)
class Recorded:
    """What a recording left."""

    report: RecordReport
    feed: Cells
    symbols: dict[str, int]
    events: Cells
    met: list[int] = field(default_factory=list)

    @property
    def digests(self) -> Digests:
        """Those of the engine that ran live."""
        assert self.report.digests is not None
        return self.report.digests


async def record_day(day: FaultyDay, logs: Logs) -> Recorded:
    """Record the day while its faults strike, and read back what is on the logs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequencer, "APPEND_CELLS", BATCH_CELLS)
        harming = asyncio.create_task(day.harm())
        await asyncio.sleep(0)  # So that it knows its loop before the feed needs it.
        try:
            report = await record(day, logs, strategy=maker(), clock=SystemClock())
            await harming
        finally:
            harming.cancel()
    feed, symbols = await read_back(logs.tape)
    return Recorded(report, feed, symbols, await read_outputs(logs.events), day.met)


async def record_in_memory(cells: int) -> Recorded:
    """The same day where nothing can go wrong."""
    return await record_day(FaultyDay(cells), Logs(tape=MemoryLog("TAPE_x"), events=MemoryLog("EVENTS_x")))


async def record_on(platform: Platform, tape: str, day: FaultyDay) -> Recorded:
    """The day on a cluster."""
    logs = Logs(tape=await platform.tape(tape, create=True), events=await platform.events(tape, create=True))
    return await record_day(day, logs)


async def read_back(log: Log) -> tuple[Cells, dict[str, int]]:
    """The feed's cells on a tape and the ids of its symbols; sequences and ordinals are asserted on the way."""
    extent = await log.extent()
    progress = Progress(log_id=extent.log_id, sequence=extent.first - 1, next_ordinal=0)
    parts, symbols = [], {}
    async for message in log.read(extent.first):
        header, cells = open_frame(log.name, message, extent, progress)
        progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
        parts.append(cells[cells["source"] == FEED_SOURCE])
        for _, definition in records_of(cells, Kind.DEFINITION):
            instrument = read_definition(definition)
            assert instrument.symbol not in symbols, "defined twice"
            symbols[instrument.symbol] = instrument.id
    assert progress.sequence == extent.last
    return np.concatenate(parts), symbols


def as_taped(day: FaultyDay, symbols: Mapping[str, int]) -> Cells:
    """The day's own cells with the ids that the tape gave to its instruments."""
    cells = day.own_cells()
    table = np.zeros(max(instrument.id for instrument in day.instruments) + 1, np.uint32)
    for instrument in day.instruments:
        table[instrument.id] = symbols[instrument.symbol]
    cells["instrument"] = table[cells["instrument"]]
    cells["source"] = FEED_SOURCE
    return cells


def difference(expected: Cells, found: Cells) -> str:
    """The first place where cells that must be the same are not; empty where they are."""
    common = min(len(expected), len(found))
    differ = np.flatnonzero(expected[:common] != found[:common])
    if len(differ):
        return f"cell {int(differ[0])} differs"
    return "" if len(expected) == len(found) else f"{len(found)} cells instead of {len(expected)}"


def assert_whole(day: FaultyDay, found: Recorded, faultless: Recorded) -> None:
    """Nothing lost, nothing twice, order kept, and every decision as if nothing had happened."""
    for what, wrong in (
        ("the tape", difference(as_taped(day, found.symbols), found.feed)),
        ("EVENTS", difference(faultless.events, found.events)),
    ):
        assert not wrong, f"{what}: {wrong}"
    assert found.digests == faultless.digests, "the digests differ"
    assert found.report.feed_cells == len(found.feed), "the report counts other cells than the tape holds"
