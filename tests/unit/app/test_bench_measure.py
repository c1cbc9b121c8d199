"""Rows, goals, peers and reports of the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tapehouse.app.bench.measure import (
    Goal,
    Measure,
    Peer,
    Report,
    figure,
    measure,
    not_measured,
    peer_of,
    table,
)

MACHINE = {"cpu": "a", "during": {"seconds": 1.23456789}}


def report(*rows: Measure, failure: str = "") -> Report:
    return Report(
        benchmark="books", command="tapehouse bench books", date="2026-01-02T03:04:05+00:00", machine=MACHINE,
        rows=rows, complete=not failure, failure=failure,
    )  # fmt: skip


def test_a_row_is_the_median_with_its_spread() -> None:
    row = measure("update", "ns", [30.0, 10.0, 20.0])
    assert (row.median, row.low, row.high, row.runs) == (20.0, 10.0, 30.0, 3)
    assert row.throughput == pytest.approx(50.0)  # M/s


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, float("inf")]])
def test_control_no_row_without_figures(values: list[float]) -> None:
    with pytest.raises(ValueError, match="no measurements"):
        measure("update", "ns", values)


@pytest.mark.parametrize(
    ("goal", "reached", "text"),
    [
        (Goal(at_most=20.0), True, "<= 20"),
        (Goal(at_most=19.0), False, "<= 19"),
        (Goal(at_least=20.0), True, ">= 20"),
        (Goal(figure="p99", at_most=40.0), False, "p99 <= 40"),
        (Goal(figure="p999", at_most=60.0), True, "p99.9 <= 60"),
        (Goal(figure="p50", at_most=60.0), None, "p50 <= 60"),
        (Goal(figure="ratio", at_least=2.0), True, "ratio >= 2x"),
        (Goal(figure="ratio", at_least=3.0), False, "ratio >= 3x"),
        (Goal(figure="throughput", at_least=5.0), True, "throughput >= 5 M/s"),
    ],
)
def test_goals(goal: Goal, reached: bool | None, text: str) -> None:
    row = measure("update", "ns", [20.0], p99=50.0, p999=60.0, peers=(peer_of("other", [50.0]),), goals=(goal,))
    assert goal.reached(row) is reached
    assert row.reached is reached
    assert str(goal) == text


@pytest.mark.parametrize("bounds", [{}, {"at_most": 1.0, "at_least": 1.0}])
def test_control_a_goal_has_one_bound(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="one bound"):
        Goal(**bounds)  # type: ignore[arg-type]


def test_a_goal_that_is_missed_is_missed_whatever_was_not_measured() -> None:
    goals = (Goal(at_most=1.0), Goal(figure="p50", at_most=1.0))
    assert measure("update", "ns", [2.0], goals=goals).reached is False
    assert measure("update", "ns", [1.0], goals=goals).reached is None
    assert measure("update", "ns", [1.0]).reached is None


@pytest.mark.parametrize(("unit", "ratio"), [("ns", 0.5), ("M records/s", 2.0), ("bytes a cell", 0.5)])
def test_the_ratio_says_how_many_times_better(unit: str, ratio: float) -> None:
    assert measure("update", unit, [20.0], peers=(peer_of("other", [10.0]),)).ratio == ratio


def test_the_ratio_is_to_the_best_peer_and_to_none_that_is_absent() -> None:
    peers = (peer_of("slow", [100.0]), peer_of("quick", [40.0]), Peer(name="absent", note="peer not installed"))
    row = measure("update", "ns", [20.0], peers=peers)
    assert row.ratio == 2.0
    assert row.ratio_to(peers[2]) is None
    assert not_measured("update", "ns", "no data", peers=peers).ratio is None


def test_the_file_is_stable_sorted_and_rounded(tmp_path: Path) -> None:
    rows = (
        measure(
            "update", "ns", [12.345678], data="ESH4", goals=(Goal(at_most=20.0),), peers=(peer_of("other", [99.0]),)
        ),
        not_measured("update", "ns", "no such file", data="AMZN"),
    )
    path = report(*rows).write(tmp_path / "results")
    text = path.read_text()
    assert path.name == "books.json"
    assert report(*rows).write(tmp_path / "results").read_text() == text
    assert [entry.name for entry in path.parent.iterdir()] == ["books.json"]
    kept = json.loads(text)
    assert text == json.dumps(kept, indent=2, sort_keys=True) + "\n"
    assert kept["machine"]["during"]["seconds"] == 1.235
    first, second = kept["rows"]
    assert first["median"] == 12.35
    assert first["goals"] == [{"figure": "median", "text": "<= 20", "reached": True}]
    assert first["reached"] is True
    assert first["peers"] == [{"name": "other", "median": 99.0, "low": 99.0, "high": 99.0, "ratio": 8.019}]
    assert second == {"name": "update", "unit": "ns", "data": "AMZN", "median": None, "note": "no such file", "runs": 0}


def test_the_table_says_whether_the_goal_is_reached() -> None:
    rows = (
        measure("a", "ns", [5.0], p50=1.0, p99=2.0, p999=3.0, goals=(Goal(at_most=10.0),)),
        measure("b", "ns", [50.0], goals=(Goal(at_most=10.0),), peers=(Peer(name="p", note="peer not installed"),)),
        not_measured("c", "ns", "no data", goals=(Goal(at_most=10.0),)),
    )
    one, two, three = table(rows)
    assert one[5:7] == ("1.00 / 2.00 / 3.00", "<= 10 reached")
    assert two[6:8] == ("<= 10 missed", "p: peer not installed")
    assert three[2] == "-"
    assert three[6:] == ("<= 10 not measured", "no data")


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (4.5678, "4.57"), (0.012345, "0.0123"), (123.4, "123"), (1234567.0, "1,234,567")]
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text
