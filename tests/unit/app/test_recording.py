"""`ReadableFeed`: what can be read of a feed, and why it ends."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tapehouse.app.live import Logs, record
from tapehouse.app.recording import ReadableFeed
from tapehouse.core import DataError, DecodeError, InvariantError, SystemClock
from tapehouse.engine import Engine
from tapehouse.feeds import GeneratedDay
from tapehouse.log import MemoryLog, decode_frame
from tapehouse.market import Cells, Instrument, empty_cells
from tapehouse.replay import Session
from tapehouse.strategies import maker

CELLS = 3_000
BATCH = 100


class Torn:
    """A generated day that is bad after some batches."""

    name = "torn"
    cells_estimate: int | None = CELLS

    def __init__(self, good: int, error: Exception | None) -> None:
        self._day = GeneratedDay(cells=CELLS, batch_cells=BATCH)
        self._good = good
        self._error = error

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        return self._day.instruments

    def batches(self) -> Iterator[Cells]:
        for at, cells in enumerate(self._day.batches()):
            if at == self._good and self._error is not None:
                raise self._error
            yield cells


FAULT = DecodeError("it is torn", subject="file", position="line 7", hint="mend it")


def test_it_ends_where_the_feed_is_bad_and_says_why() -> None:
    feed = ReadableFeed(Torn(3, FAULT))
    batches = list(feed.batches())
    assert len(batches) == 3
    assert feed.fault is FAULT
    assert [len(batch) for batch in feed.batches()] == [len(batch) for batch in batches], "each call is a new pass"


def test_a_good_feed_passes_whole() -> None:
    feed = ReadableFeed(Torn(3, None))
    whole = np.concatenate(list(GeneratedDay(cells=CELLS, batch_cells=BATCH).batches()))
    assert np.concatenate(list(feed.batches())).tobytes() == whole.tobytes()
    assert feed.fault is None
    assert (feed.name, feed.cells_estimate) == ("torn", CELLS)


def test_only_bad_data_ends_it() -> None:
    feed = ReadableFeed(Torn(3, InvariantError("our bug")))
    with pytest.raises(InvariantError):
        list(feed.batches())


def test_a_feed_of_which_nothing_can_be_read() -> None:
    with pytest.raises(DecodeError, match="it is torn"):
        ReadableFeed(Torn(0, FAULT)).require_some()
    ReadableFeed(Torn(1, FAULT)).require_some()

    class Empty(Torn):
        def batches(self) -> Iterator[Cells]:
            yield empty_cells(0)

    with pytest.raises(DataError, match="there is nothing in it"):
        ReadableFeed(Empty(0, None)).require_some()


async def test_what_came_before_the_fault_is_recorded_and_decided_upon() -> None:
    logs = Logs(tape=MemoryLog("TAPE_x"), events=MemoryLog("EVENTS_x"))
    feed = ReadableFeed(Torn(20, FAULT))
    report = await record(feed, logs, strategy=maker(), clock=SystemClock())
    assert feed.fault is FAULT
    cells = np.concatenate([decode_frame(message.payload)[1] async for message in logs.tape.read(1)])
    before = list(GeneratedDay(cells=CELLS, batch_cells=BATCH).batches())[:20]
    assert report.feed_cells == sum(map(len, before))
    assert len(cells[cells["source"] == 1]) == report.feed_cells
    replayed = await Session("again", logs.tape, Engine(maker()), clock=SystemClock()).run()
    assert replayed.digests == report.digests
