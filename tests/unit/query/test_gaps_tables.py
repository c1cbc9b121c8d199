"""Missing data in SQL: the table of spans, and the confidence beside every market record."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tapehouse.log import FrameWriter, MemoryLog
from tapehouse.market import Cause, Cells, Confidence, Kind, gap_record
from tapehouse.query import QuerySession, read_trades
from tests.support.desk_day import shared_day

GOOD, SUSPECT, REBUILDING = Confidence.GOOD, Confidence.SUSPECT, Confidence.REBUILDING
TOLD = (
    # where in the day, cause, confidence, instrument, missing
    (0.2, Cause.SEQUENCE, SUSPECT, 1, 7),
    (0.3, Cause.SEQUENCE, REBUILDING, 1, 5),
    (0.4, Cause.SNAPSHOT, GOOD, 1, 0),
    (0.5, Cause.DISCONNECTED, SUSPECT, 0, 0),
    (0.6, Cause.SNAPSHOT, GOOD, 2, 0),
    (0.7, Cause.RESUMED, GOOD, 0, 0),
    (0.8, Cause.STALE, SUSPECT, 9, 0),
)
WORDS = ("good", "suspect", "rebuilding")


def with_gaps() -> Cells:
    """The shared day with these GAP records."""
    cells = shared_day().cells
    starts = np.flatnonzero(cells["cells"])
    parts, at = [], 0
    for share, cause, worth, instrument, missing in TOLD:
        before = int(starts[int(share * len(starts))])
        now = int(cells["ts_recv"][before])
        parts += [
            cells[at:before],
            gap_record(cause, worth, ts_recv=now, instrument=instrument, source=1, missing=missing),
        ]
        at = before
    return np.concatenate([*parts, cells[at:]])


async def tape_of(cells: Cells) -> MemoryLog:
    log = MemoryLog("TAPE_day")
    writer = await FrameWriter.open(log, writer=1)
    starts = np.flatnonzero(cells["cells"])
    bounds = [0, *starts[200::200].tolist(), len(cells)]
    for start, end in pairwise(bounds):
        await writer.append(cells[start:end])
    return log


def expected(cells: Cells, ordinals: list[int]) -> list[str]:
    """What each record's instrument was worth, the slow way; all instruments have one feed."""
    worth = dict.fromkeys(range(1, 11), 0)
    found = {}
    for at in np.flatnonzero(cells["cells"]).tolist():
        if cells["kind"][at] == Kind.GAP:
            number, says = int(cells["instrument"][at]), int(cells["depth"][at])
            worth.update(dict.fromkeys([number] if number else worth, says))
        found[at] = WORDS[worth.get(int(cells["instrument"][at]), 0)]
    return [found[at] for at in ordinals]


@pytest.mark.parametrize("table", ["trades", "bbo", "quotes", "option_quotes"])
async def test_every_market_record_says_what_it_is_worth(table: str) -> None:
    cells = with_gaps()
    with QuerySession(tape=await tape_of(cells)) as session:
        rows = await session.sql(f"SELECT ordinal, confidence FROM {table} ORDER BY ordinal")
        found = rows["confidence"].to_list()
        assert found == expected(cells, rows["ordinal"].to_list())
        assert {"good", "suspect"} <= set(found)
        good = await session.sql(f"SELECT count(*) AS n FROM {table} WHERE confidence = 'good'")
        assert good["n"][0] == found.count("good") < len(found)


async def test_the_control_without_gap_records_is_all_good() -> None:
    with QuerySession(tape=shared_day().tape) as session:
        counted = await session.sql("SELECT confidence, count(*) AS n FROM tape GROUP BY ALL")
        assert counted["confidence"].to_list() == ["good"]
        assert len(await session.table("gaps")) == 0


async def test_the_spans_are_a_table() -> None:
    log = await tape_of(with_gaps())
    with QuerySession(tape=log) as session:
        rows = (
            await session.sql("SELECT symbol, causes, missing, recovered_by, open, end_ordinal - ordinal FROM gaps")
        ).rows()
        times = await session.sql(
            "SELECT bool_and(epoch_ns(end_ts) - epoch_ns(ts) BETWEEN duration_ns - 1000 AND "
            "duration_ns + 1000) AS agree, min(duration_ns) > 0 AS last FROM gaps"
        )
    assert [row[:5] for row in rows] == [
        ("AAPL", "sequence", 12, "snapshot", False),
        (None, "disconnected", 0, "resumed", False),
        ("AAPL 260116C00190000", "stale", 0, None, True),
    ]
    assert rows[0][5] > 0
    assert rows[2][5] is None
    assert times.rows() == [(True, True)]
    middle = with_gaps()
    moment = int(middle["ts_recv"][np.flatnonzero(middle["kind"] == Kind.GAP)[4]])
    with QuerySession(tape=log, as_of=moment) as then:
        assert (await then.sql("SELECT open FROM gaps"))["open"].to_list() == [False, True]


async def test_trades_without_sql_say_it_too() -> None:
    cells = with_gaps()
    trades = await read_trades(await tape_of(cells))
    assert trades["confidence"].to_list() == expected(cells, trades["ordinal"].to_list())
