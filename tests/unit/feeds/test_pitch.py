"""PITCH text: what is refused, what is counted, and the answer beside a file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from tapehouse.core import DecodeError, MissingError, UsageError
from tapehouse.feeds import check_source, open_feed
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.new_york import midnight_ns
from tapehouse.feeds.pitch import PitchFeed
from tapehouse.market import Action, Side
from tests.support import pitch

DAY = date(2009, 3, 2)
LINES = [
    pitch.add(28_800_011, 36**11, "S", 100, "SH", 619_200),
    pitch.add(28_800_012, 36**11 + 1, "B", 300, "SPY", 700_000),
    pitch.execute(28_800_013, 36**11 + 1, 200, 5),
    pitch.trade(28_800_014, 0, "B", 177, "ZVZZT", 200_000, 6),
    pitch.cancel(28_800_015, 36**11, 100),
]


def written(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_the_cells_of_a_line(tmp_path: Path) -> None:
    cells = np.concatenate(list(PitchFeed(written(tmp_path / "a.txt", LINES), day=DAY).batches()))
    actions = [Action.ADD, Action.ADD, Action.TRADE, Action.FILL, Action.CANCEL, Action.TRADE, Action.CANCEL]
    assert cells["action"].tolist() == actions
    assert cells["sequence"].tolist() == [1, 2, 3, 3, 3, 4, 5]
    assert cells["price"].tolist()[:3] == [61_920_000_000, 70_000_000_000, 70_000_000_000]
    assert cells["ts_event"][0] == midnight_ns(DAY) + 28_800_011 * 10**6
    assert cells["side"][2] == Side.ASK  # a buy order rested
    assert cells["side"][5] == Side.NONE  # no trade of the file is of a hidden sell order: the letter tells nothing


def test_trades_have_sides_where_the_letter_tells_them(tmp_path: Path) -> None:
    lines = [*LINES, pitch.trade(28_800_020, 0, "S", 10, "A", 1, 8)]
    cells = np.concatenate(list(PitchFeed(written(tmp_path / "a.txt", lines), day=DAY).batches()))
    assert cells["side"][[5, 7]].tolist() == [Side.ASK, Side.BID]


def test_the_day_must_be_said_to_record(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", LINES)
    with pytest.raises(UsageError, match="day"):
        open_feed("pitch", [path])
    assert open_feed("pitch", [path], SourceOptions(day=DAY)).instruments[0].symbol == "SH"
    assert open_feed("pitch", [path], checking=True).name == "a"
    with pytest.raises(MissingError):
        open_feed("pitch", [tmp_path / "none"], checking=True)
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(DecodeError, match="empty"):
        open_feed("pitch", [tmp_path / "empty"], checking=True)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "begin with S"),
        (LINES[0][1:], "begin with S"),
        (LINES[0][:-1], "length of its type"),
        (pitch.add(1, 1, "B", 1, "A", 1, "MPI"), "length of its type"),
        ("S1", "length of its type"),
        (LINES[0].replace("28800011", "2880O011"), "time, number or id"),
        (pitch.execute(1, 1, 1, 1)[:-1] + "a", "time, number or id"),
        (pitch.add(1, 1, "X", 1, "A", 1), "side"),
        (pitch.add(1, 1, "B", 0, "A", 1), "shares"),
        (pitch.add(1, 1, "B", 1, "A", 0), "price"),
        ("S00000001H" + "x" * 300, "longer than 256"),
    ],
)
def test_what_came_before_a_bad_line_is_yielded(tmp_path: Path, line: str, text: str) -> None:
    path = written(tmp_path / "bad.txt", [*LINES[:3], line, *LINES[3:]])
    got: list[int] = []
    with pytest.raises(DecodeError, match=text) as caught:
        got.extend(len(cells) for cells in PitchFeed(path, day=DAY).batches())
    assert (caught.value.subject, caught.value.position) == ("bad.txt", "line 4")
    assert sum(got) == 5


def test_a_line_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"S" + b"0" * (3 << 20))
    with pytest.raises(DecodeError, match="longer than 256"):
        list(PitchFeed(path, day=DAY).batches())
    with pytest.raises(DecodeError, match="longer than 256"):
        check_source("pitch", [path])


def test_the_answer_beside_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", LINES)
    answer = tmp_path / "answer.txt"
    for text, mismatches in [("SPY 200\nZVZZT 177\n", 0), ("ZVZZT 177\nSPY  201\n", 2), ("SPY 200\nSH 0\n", 1)]:
        answer.write_text(text)
        check = check_source("pitch", [path])
        assert (check.mismatches, check.truths["volumes_answered"]) == (mismatches, 2)
    answer.write_text("SPY\n")
    with pytest.raises(DecodeError, match="no symbol with its volume"):
        check_source("pitch", [path])


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ([*LINES, pitch.execute(28_800_016, 7, 1, 9)], "is not live"),
        ([*LINES, pitch.cancel(28_800_016, 36**11, 1)], "is not live"),
        ([*LINES, pitch.cancel(28_800_016, 36**11 + 1, 101)], "101 of 100"),
        ([*LINES, pitch.execute(28_800_016, 36**11 + 1, 1, 6)], "execution"),
        ([*LINES, pitch.add(28_800_016, 36**11 + 1, "B", 1, "SPY", 1)], "is there already"),
        ([*LINES, pitch.add(28_800_016, 36**11, "S", 1, "SPY", 1)], "symbol and side"),
        ([*LINES, pitch.cancel(28_800_010, 36**11 + 1, 1)], "time follows"),
        ([*LINES, "S28800016Zrest"], "type 'Z' is known"),
    ],
)
def test_what_contradicts_itself(tmp_path: Path, lines: list[str], text: str) -> None:
    check = check_source("pitch", [written(tmp_path / "a.txt", lines)])
    assert check.mismatches > 0
    assert text in (check.first_mismatch or "")


def test_cancels_of_unknown_orders_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", [*LINES, pitch.cancel(28_800_016, 7, 1)])
    check = check_source("pitch", [path])
    assert (check.mismatches, check.truths["unknown_orders"]) == (0, 1)
