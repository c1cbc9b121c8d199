"""A follower's decisions and EVENTS meet, however both are cut and whichever comes first; any difference is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import IntegrityError
from tapehouse.engine.meeting import Meeting
from tapehouse.market import Cells, empty_cells

CELLS = 40


def decisions() -> Cells:
    cells = empty_cells(CELLS)
    cells["sequence"], cells["cells"] = np.arange(CELLS), 1
    return cells


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int]]:
    """Turns of the two sides, each with how many cells it says."""
    turns = st.tuples(st.sampled_from(["decide", "know"]), st.integers(0, 9))
    return draw(st.lists(turns, max_size=30))


def play(history: list[tuple[str, int]], known: Cells) -> tuple[Meeting, int, int]:
    """The meeting afterwards, and how many cells each side has said."""
    meeting, decided = Meeting("EVENTS_x"), decisions()
    at = {"decide": 0, "know": 0}
    for side, count in history:
        begin, end = at[side], min(CELLS, at[side] + count)
        if side == "decide":
            meeting.decide(decided[begin:end], end)
        else:
            meeting.know(known[begin:end], end)
        at[side] = end
    return meeting, at["decide"], at["know"]


@settings(deadline=None)
@given(histories())
def test_what_one_side_alone_has_said_is_left(history: list[tuple[str, int]]) -> None:
    meeting, decided, known = play(history, decisions())
    assert meeting.met == min(decided, known)
    assert meeting.decided_cells == max(0, decided - known)
    assert meeting.known_cells == max(0, known - decided)
    left = []
    while meeting.decided_cells:
        outputs, reached = meeting.take()
        meeting.put_back(outputs, reached)
        assert meeting.take()[1] == reached == int(outputs["sequence"][-1]) + 1
        left += outputs["sequence"].tolist()
    assert left == list(range(known, decided))


@settings(deadline=None)
@given(histories(), st.integers(0, CELLS - 1))
def test_a_difference_is_found_as_soon_as_both_have_said_it(history: list[tuple[str, int]], at: int) -> None:
    known = decisions()
    known["price"][at] += 1
    said = {"decide": 0, "know": 0}
    for side, count in history:
        said[side] = min(CELLS, said[side] + count)
    if min(said.values()) > at:
        with pytest.raises(IntegrityError, match="differs") as caught:
            play(history, known)
        assert caught.value.position == f"input cell {at}, index 0"
    else:
        assert play(history, known)[0].met == min(said.values())
