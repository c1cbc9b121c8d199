"""ITCH over MoldUDP64 on loopback, server and recorder as processes: nothing lost or doubled, every gap told."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapehouse.feeds import SourceOptions, open_feed
from tapehouse.market import Cells, Kind
from tapehouse.market.gap import Cause, Confidence
from tests.support.cli import Shell
from tests.support.live_feeds import Drain, ended, free_ports, gaps_of, instruments_of, started, stopped

DAY = "2026-03-02"
FILE = "itch50/SIMULATED_ex20101224.TEST_ITCH_50.gz"
MESSAGES = 12_012
RING = "itch"


def recorded(
    market_data: Path, tmp_path: Path, directory: Path, *faults: object, lines: int = 1, retransmission: bool = True
) -> tuple[Cells, Any, Any]:
    """The cells of one session, and what the recorder and the server tell."""
    shell = Shell(tmp_path, TAPEHOUSE_SHM=str(directory))
    *ports, answers = free_ports(lines + 1)
    wanted: list[object] = ["--ring", RING, "--date", DAY, "--json", "--cells", 1 << 17]
    for option, port in zip(("--mold", "--mold-b"), ports, strict=False):
        wanted += [option, f"127.0.0.1:{port}"]
    if retransmission:
        wanted += ["--retransmit", f"127.0.0.1:{answers}"]
    recorder, _ = started(shell, "feeds", "live", "itch", *wanted)
    udp: list[object] = []
    for port in ports:
        udp += ["--udp", f"127.0.0.1:{port}"]
    source = market_data / FILE
    server, _ = started(shell, "feeds", "serve", "itch", source, *udp, "--port", answers, "--json", *faults)
    drain = Drain(RING, directory)
    try:
        told = stopped(recorder, interrupt=False)  # the session's end
        played = stopped(server)
        drain.take()
        assert played["played"] == MESSAGES
        assert told["ended"]
        return drain.cells, told, played["faults"]
    finally:
        drain.close()
        ended(recorder, server)


def market(cells: Cells) -> Cells:
    """What the messages say, without when they came: no gap records, no definitions."""
    definitions = np.cumsum(cells["cells"] > 0)  # the number of each cell's record
    kinds = cells["kind"][np.flatnonzero(cells["cells"])][definitions - 1]
    kept = cells[(kinds != Kind.GAP) & (kinds != Kind.DEFINITION)].copy()
    kept["ts_recv"] = 0
    return kept


@pytest.fixture(scope="module")
def truth(market_data: Path) -> Cells:
    """The file through its feed."""
    feed = open_feed("itch", [market_data / FILE], SourceOptions(day=date.fromisoformat(DAY)))
    return market(np.concatenate(list(feed.batches())))


def assert_same(found: Cells, truth: Cells) -> None:
    assert len(found) == len(truth)
    for name in found.dtype.names or ():
        assert np.array_equal(found[name], truth[name]), name


def test_faults_with_a_retransmission_server_change_nothing(
    market_data: Path, tmp_path: Path, ring_directory: Path, truth: Cells
) -> None:
    faults = ("--drop", "0.05", "--dup", "0.05", "--reorder", "0.05", "--corrupt-checksum", "0.05")
    cells, told, happened = recorded(market_data, tmp_path, ring_directory, *faults)
    assert_same(market(cells), truth)
    instruments_of(cells)
    assert {item["fault"] for item in happened} == {"drop", "dup", "reorder", "corrupt-checksum"}
    assert told["messages"] == MESSAGES
    assert told["lost"] == 0
    assert told["repaired"] > 0
    gaps = gaps_of(cells)
    assert len(gaps) == told["gaps"]
    lost_packets = [item for item in happened if item["fault"] in ("drop", "corrupt-checksum")]
    assert 0 < sum(gap[0] == Cause.SEQUENCE for gap in gaps) <= len(happened)
    assert told["malformed"] == sum(item["fault"] == "corrupt-checksum" for item in happened)
    assert sum(gap[4] for gap in gaps if gap[0] == Cause.SEQUENCE) >= len(lost_packets)
    assert gaps[-1][:2] in ((Cause.RETRANSMITTED, Confidence.GOOD), (Cause.RESUMED, Confidence.GOOD))


def test_without_one_every_hole_is_told_and_stays(
    market_data: Path, tmp_path: Path, ring_directory: Path, truth: Cells
) -> None:
    cells, told, happened = recorded(market_data, tmp_path, ring_directory, "--drop", "@3,40,41", retransmission=False)
    assert [item["message"] for item in happened] == [3, 40, 41]
    holes = [range(gap[2] + 1, gap[3]) for gap in gaps_of(cells) if gap[0] == Cause.SEQUENCE]
    assert [[hole.start, hole.stop] for hole in holes] == told["lost_ranges"]
    assert len(holes) == 2
    assert told["messages"] + told["lost"] == MESSAGES
    assert {gap[1] for gap in gaps_of(cells)} == {Confidence.SUSPECT}
    lost = {number for hole in holes for number in hole}
    assert len(lost) == told["lost"] > 0
    kept = truth[~np.isin(truth["sequence"], list(lost))]
    found = market(cells)
    before = found["sequence"] < min(lost)
    assert np.array_equal(found[before], kept[kept["sequence"] < min(lost)])
    assert not lost & set(found["sequence"].tolist())


def test_two_lines_fill_each_other(market_data: Path, tmp_path: Path, ring_directory: Path, truth: Cells) -> None:
    cells, told, happened = recorded(
        market_data, tmp_path, ring_directory, "--drop", "0.1", "--seed", 3, lines=2, retransmission=True
    )
    assert_same(market(cells), truth)
    dropped = [{item["message"] for item in happened if item["connection"] == line} for line in (0, 1)]
    assert dropped[0] - dropped[1], "each line lost what the other had"
    assert dropped[1] - dropped[0]
    assert told["lost"] == 0
    assert all(line["gaps"] > 0 for line in told["lines"])
    assert sum(line["first"] for line in told["lines"]) + told["repaired"] == MESSAGES
