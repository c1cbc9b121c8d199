"""Every benchmark in its quick form: it runs, holds its structure, and writes it. No time is asserted."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapehouse.app.bench import BENCHMARKS, Campaign, desk_oracle, desk_stream, registry, ring, ring_loops
from tapehouse.app.bench.engines import header
from tapehouse.app.bench.material import gather
from tapehouse.app.bench.measure import Measure, measure
from tapehouse.app.bench.peer import Peers
from tapehouse.app.bench.timer import Timer
from tapehouse.cli import main as cli
from tapehouse.core import DataError, SystemClock
from tapehouse.core.errors import InvariantError, MissingError, UsageError

CLOCK = SystemClock()


def campaign(tmp_path: Path, *names: str, **settings: Any) -> Campaign:
    return Campaign(clock=CLOCK, names=names, command="test", output=tmp_path, quick=True, nodes=1, **settings)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_quick(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the generated day alone: recordings are told missing."""
    monkeypatch.setenv("TAPEHOUSE_DATA", str(tmp_path / "none"))
    seen: list[Measure] = []
    (report,) = campaign(tmp_path, name, on_row=seen.append).run()
    assert report.complete, report.failure
    assert list(report.rows) == seen
    kept = json.loads((tmp_path / f"{name}.json").read_text())
    assert kept["benchmark"] == name
    assert {"cpu", "cores", "kernel", "governor", "clock_source", "versions", "timer", "during"} <= set(kept["machine"])
    assert len(kept["rows"]) == len(report.rows) > 0
    measured = [row for row in report.rows if row.median is not None]
    assert measured
    for row in measured:
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.median <= row.high  # type: ignore[operator]
        percentiles = [value for value in (row.p50, row.p99, row.p999) if value is not None]
        assert percentiles == sorted(percentiles)
        assert len(percentiles) in (0, 3)
        for peer in row.peers:
            assert peer.median is not None or peer.note
    for row in report.rows:
        if row.median is None:
            assert "TAPEHOUSE_DATA" in row.note
            assert row.data in ("AMZN", "ESH4")


def test_a_recording_of_the_users_own(tmp_path: Path, market_data: Path) -> None:
    own = {"day": ("dbn", [market_data / "databento/nautilus/esh4-glbx-mdp3-20231224.mbo.dbn.zst"])}
    (report,) = campaign(tmp_path, "market-data", own=own).run()
    assert report.complete, report.failure
    assert {row.data for row in report.rows} == {"generated", "day"}


class Faulty:
    """A benchmark that measures one row, and then meets something."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def run(self, options: registry.Options) -> Iterator[Measure]:
        yield measure("first", "ns", [1.0])
        raise self._error


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda name: Faulty(KeyboardInterrupt()))
    (report,) = campaign(tmp_path, "maths", "books").run()  # The first that runs is the last.
    assert report.interrupted
    kept = json.loads((tmp_path / f"{report.benchmark}.json").read_text())
    assert (kept["complete"], kept["failure"]) == (False, "interrupted")
    assert [row["name"] for row in kept["rows"]] == ["first"]
    assert cli.run(["bench", "maths", "--quick", "--output", str(tmp_path)]) == 130


def test_a_failure_is_told_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "load", lambda name: Faulty(DataError("it is bad")))
    assert [report.failure for report in campaign(tmp_path, "maths", "books").run()] == ["it is bad", "it is bad"]
    assert cli.run(["bench", "maths", "--quick", "--output", str(tmp_path)]) == 3
    assert "maths: it is bad" in capsys.readouterr().err


def test_control_an_unknown_benchmark(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no benchmark 'speed'"):
        list(campaign(tmp_path, "speed").run())
    assert cli.run(["bench", "speed"]) == 2
    assert cli.run(["bench", "maths", "--repeat", "0"]) == 2


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == BENCHMARKS


def test_quick_writes_only_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "maths", "--quick", "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["benchmark"] == "maths"
    assert report["command"] == "tapehouse bench maths --quick --nodes 3"
    assert cli.run(["bench", "maths", "--quick", "--output", str(tmp_path)]) == 0
    assert "normal CDF" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["maths.json"]


# Peers.


def python_that(tmp_path: Path, does: str) -> str:
    """An interpreter that does something else."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_peer_answers(tmp_path: Path) -> None:
    rows = np.zeros((2, 8), np.int64)
    rows[:, 3:6] = [(1, 100, 5), (2, 101, 7)]
    rows[:, 7] = ord("A") | (ord("B") << 8)
    asked = Peers(tmp_path, python=sys.executable).ask("sorted_book", {"records": rows}, by_order=True, repeat=2)
    assert asked is not None  # hypothesis, a dependency of these tests, brings sortedcontainers
    assert len(asked["ns"]) == 2
    assert asked["levels"] == [2, 0]


def test_a_peer_that_is_not_installed(tmp_path: Path) -> None:
    assert Peers(tmp_path, python=python_that(tmp_path, "exit 3")).ask("sorted_book", {}) is None


def test_control_a_peer_that_fails_is_no_absent_one(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="it failed: out of luck"):
        Peers(tmp_path, python=python_that(tmp_path, "echo out of luck >&2; exit 1")).ask("sorted_book", {})
    with pytest.raises(MissingError, match="TAPEHOUSE_PEERS"):
        Peers(tmp_path, python=str(tmp_path / "nothing")).ask("sorted_book", {})


# The desk.


def test_control_another_end_of_a_stream_is_seen() -> None:
    stream = desk_stream.crossing_stream(1_024)
    engine, ordinal = stream.engine(), len(stream.opening)
    (part,) = stream.parts
    engine.apply(header(ordinal), part.cells[:-512])
    with pytest.raises(InvariantError, match="decided otherwise"):
        stream.require_end(engine)
    engine.apply(header(ordinal + len(part.cells) - 512), part.cells[-512:])
    stream.require_end(engine)


def test_control_kernels_that_decide_otherwise_than_the_plain_desk_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = desk_stream.crossing_stream(1_024)
    plain, asked = desk_oracle.require_agreement(stream, 100)
    assert (len(plain.records), len(asked)) == (0, 100)
    monkeypatch.setattr(desk_oracle, "SELL", desk_oracle.BUY)
    with pytest.raises(InvariantError, match="the plain desk"):
        desk_oracle.require_agreement(stream, 100)


# The ring.


def test_control_a_cell_that_is_wrong_is_seen() -> None:
    with ring.scratch_ring() as producer:
        address = producer.address
        assert ring_loops.produce(address, 0, 5, 1) == 5
        assert ring_loops.produce(address, 6, 8, 1) == 8  # the sixth is lost, so two are not where they should be
        assert ring_loops.consume(address, 0, 7, 1, 1) == (7, 2)
        assert ring_loops.produce(address, 0, 3, 1) == 3
        assert ring_loops.consume(address, 0, 3, 1, 1) == (3, 0)


def test_a_producer_whose_consumer_is_gone_ends(tmp_path: Path) -> None:
    with ring.scratch_ring(tmp_path) as producer:
        assert ring_loops.produce(producer.address, 0, 2 * producer.cells, 1_000) == producer.cells


def test_a_scratch_ring_leaves_nothing(tmp_path: Path) -> None:
    with ring.scratch_ring(tmp_path):
        assert any(tmp_path.iterdir())
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".ring"]


# The timer.


def test_the_timer_measures_itself() -> None:
    timer = Timer.start(CLOCK)
    assert timer.ns_per_count > 0
    assert timer.overhead >= 0
    assert timer.step >= 1


def test_material_says_what_is_missing(tmp_path: Path) -> None:
    generated, *recordings = gather(CLOCK, cells=2_000, directory=tmp_path)
    assert generated.feed is not None
    assert len(generated.tape_cells) > len(generated.feed_cells)  # definitions and the epoch come before
    assert [(item.name, item.feed) for item in recordings] == [("AMZN", None), ("ESH4", None)]
    assert all(str(tmp_path) in item.missing for item in recordings)
