"""The sequencer tells the tape when sessions close, once for each, and only where a calendar is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tapehouse.core import VirtualClock
from tapehouse.core.units import parse_time_ns
from tapehouse.engine import session_closes
from tapehouse.engine.sequencer import Sequencer, read_tape
from tapehouse.engine.session_closes import SessionCloses
from tapehouse.log import FrameHeader, FrameWriter, MemoryLog, decode_frame
from tapehouse.market import Cells, Instrument, Kind, read_definition, records_of
from tests.support.bench import LOG_ID, SHARE, EngineBench

pytest.importorskip("exchange_calendars")

FRIDAY_NOON = parse_time_ns("2026-01-02T17:00:00Z")
FRIDAY_CLOSE = parse_time_ns("2026-01-02T21:00:00Z")
MONDAY_CLOSE = parse_time_ns("2026-01-05T21:00:00Z")
LISTED = replace(SHARE, calendar="XNYS")


async def opened(log: MemoryLog, now: int) -> Sequencer:
    writer = await FrameWriter.open(log, writer=1)
    state = await read_tape(log)
    sequencer = Sequencer(log, writer, state, clock_source="history", clock=VirtualClock(1), code="test")
    state.now = max(state.now, now)
    return sequencer


async def definitions(log: MemoryLog) -> list[Instrument]:
    cells: Cells = np.concatenate([decode_frame(message.payload)[1] async for message in log.read(1)])
    return [read_definition(record) for _, record in records_of(cells, Kind.DEFINITION)]


async def test_a_revision_says_when_the_session_closes_and_the_next_one_after_it() -> None:
    log = MemoryLog("TAPE_day", log_id=LOG_ID)
    sequencer = await opened(log, FRIDAY_NOON)
    sequencer.define((LISTED, replace(SHARE, id=2, symbol="BETA")))
    for now in (FRIDAY_NOON, FRIDAY_CLOSE - 1, FRIDAY_CLOSE, FRIDAY_CLOSE + 1):
        sequencer.state.now = now
        await sequencer.tick()
    told = [(i.symbol, i.revision, i.session_close_ns) for i in await definitions(log)]
    assert told == [("ALFA", 1, 0), ("BETA", 1, 0), ("ALFA", 2, FRIDAY_CLOSE), ("ALFA", 3, MONDAY_CLOSE)]
    assert sequencer.metrics.get("session_closes_total") == 2
    successor = await opened(log, FRIDAY_CLOSE + 2)
    successor.define((LISTED,))  # the feed knows nothing of sessions, and revises nothing by that
    await successor.tick()
    assert len(await definitions(log)) == len(told)


async def test_an_engine_takes_the_revisions() -> None:
    log = MemoryLog("TAPE_day", log_id=LOG_ID)
    sequencer = await opened(log, FRIDAY_NOON)
    sequencer.define((LISTED,))
    await sequencer.tick()
    cells = np.concatenate([decode_frame(message.payload)[1] async for message in log.read(1)])
    bench = EngineBench(share=None)
    bench.engine.apply(FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0), cells)
    assert bench.engine.instruments[1].session_close_ns == FRIDAY_CLOSE


def test_no_calendar_no_revision() -> None:
    closes = SessionCloses()
    assert closes.revisions(FRIDAY_NOON, {1: SHARE, 2: replace(SHARE, id=2, calendar="NOWHERE")}) == []
    assert closes.unknown == 1
    assert not closes.due(MONDAY_CLOSE, {1: SHARE, 2: SHARE})
    assert closes.due(MONDAY_CLOSE, {1: SHARE})  # another number of instruments: look again
    assert not closes.due(0, {})


def test_without_the_package_nothing_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise session_closes.MissingError("trading calendars are not installed")

    monkeypatch.setattr(session_closes, "sessions", missing)
    closes = SessionCloses()
    assert closes.revisions(FRIDAY_NOON, {1: LISTED}) == []
    assert closes.unknown == 1


def test_definitions_without_a_close_are_written_as_ever() -> None:
    assert b"session_close" not in SHARE.definition(ts_recv=0).tobytes()
    closing = replace(LISTED, session_close_ns=FRIDAY_CLOSE)
    assert read_definition(closing.definition(ts_recv=0)) == closing
