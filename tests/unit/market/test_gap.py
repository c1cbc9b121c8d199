"""Gap records: what a reader of the tape gets of missing data."""

from __future__ import annotations

from tapehouse.market import RECOVERED_FROM, Cause, Confidence, Flag, Kind, gap_record


def test_the_numbers_are_pinned() -> None:
    assert [cause.value for cause in Cause] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 32, 33, 34, 35]
    assert [confidence.value for confidence in Confidence] == [0, 1, 2]
    assert {cause.name for cause in Cause if cause >= RECOVERED_FROM} == {
        "SNAPSHOT",
        "RETRANSMITTED",
        "FILLED",
        "RESUMED",
    }


def test_a_gap_record() -> None:
    (cell,) = gap_record(
        Cause.SEQUENCE,
        Confidence.SUSPECT,
        ts_recv=7,
        ts_event=5,
        instrument=3,
        source=16,
        sequence=2**64 - 2,
        following=2**64 - 1,
        missing=2**40,
    )
    assert (cell["kind"], cell["cells"], cell["flags"]) == (Kind.GAP, 1, Flag.SYNTHETIC | Flag.LAST)
    assert (cell["ts_event"], cell["ts_recv"], cell["instrument"], cell["source"]) == (5, 7, 3, 16)
    assert (cell["action"], cell["depth"]) == (Cause.SEQUENCE, Confidence.SUSPECT)
    assert (cell["sequence"], cell["order_id"]) == (2**64 - 2, 2**64 - 1)
    assert cell["count"] == 2**32 - 1, "more than the field holds is told as the most it holds"
    (whole,) = gap_record(Cause.STALE, Confidence.SUSPECT, ts_recv=9)
    assert (whole["ts_event"], whole["instrument"]) == (9, 0)
