"""Spans and confidences of a tape against the slow rules: a state for every instrument, looked at after each record."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DataError
from tapehouse.engine.sequencer import DESK_SOURCE
from tapehouse.market import Cause, Cells, Confidence, GapFold, GapSpan, Instrument, Kind, empty_cells, gap_record
from tapehouse.market.gap_spans import SEQUENCER_SOURCE

INSTRUMENTS = [1, 2, 3]
SOURCES = st.sampled_from([0, 1, 16, 17])
STEPS = st.one_of(
    st.tuples(
        st.just("gap"), st.sampled_from([0, 0, *INSTRUMENTS]), SOURCES, st.sampled_from([0, 1, 4, 32, 78, 200]),
        st.integers(0, 3), st.integers(0, 5),
    ),
    st.tuples(st.just("define"), st.sampled_from(INSTRUMENTS)),
    st.tuples(st.just("declare"), st.sampled_from(INSTRUMENTS), st.sampled_from([16, 17])),
    st.tuples(st.just("trade"), st.sampled_from(INSTRUMENTS)),
)  # fmt: skip


def record(step: tuple, now: int) -> Cells:
    if step[0] == "define":
        return Instrument(id=step[1], symbol=f"S{step[1]}").definition(ts_recv=now)
    if step[0] == "gap":
        _, instrument, source, cause, depth, missing = step
        made = gap_record(
            Cause.UNKNOWN, Confidence.GOOD, ts_recv=now, instrument=instrument, source=source, missing=missing
        )
        made["action"], made["depth"] = cause, depth
        return made
    made = empty_cells(1)
    made["ts_recv"], made["instrument"], made["cells"], made["kind"] = now, step[1], 1, Kind.TRADE
    if step[0] == "declare":
        made["kind"], made["size"], made["source"] = Kind.RAW, step[2], DESK_SOURCE
    return made


class Slow:
    """The rules as the engine has them, in a dict."""

    def __init__(self) -> None:
        self.worth: dict[int, int] = {}
        self.feed: dict[int, int] = {}
        self.since: dict[int, int] = {}  # the step at which what is doubtful became so
        self.concerned: dict[int, list[int]] = {}  # by the step of a record of all of a source's
        self.spoken: Counter[int] = Counter()  # by source: the last step at which one of its instruments was good again
        self.missing = 0

    def was_concerned(self, number: int, span: GapSpan, places: list[int]) -> bool:
        return span.instrument == 0 and number in self.concerned[places.index(span.begin_ordinal)]

    def take(self, at: int, step: tuple) -> None:
        if step[0] == "define":
            self.worth.setdefault(step[1], 0)
        elif step[0] == "declare" and step[1] in self.worth:
            self.feed[step[1]] = step[2]
        elif step[0] == "gap":
            _, instrument, source, cause, depth, missing = step
            if instrument and instrument not in self.worth:
                return
            if depth == 3 or (depth == 0 and cause in (0, 78)):
                depth = 1
            fed = [number for number in self.worth if source == 0 or self.feed.get(number, 0) in (0, source)]
            if not instrument:
                self.concerned[at] = fed
            for number in [instrument] if instrument else fed:
                self.worth[number] = depth
                if depth:
                    self.since.setdefault(number, at)
                else:
                    self.since.pop(number, None)
            if depth:
                self.missing += missing
                return
            for other in {16, 17, 1, 0}:
                mine = [number for number in self.worth if other == 0 or self.feed.get(number, 0) in (0, other)]
                if instrument in mine or (not instrument and (source in (0, other) or set(fed) & set(mine))):
                    self.spoken[other] = at


def folded(parts: list[Cells]) -> GapFold:
    fold, at = GapFold(), 0
    for part in parts:
        fold.take(part, at)
        at += len(part)
    return fold


@settings(deadline=None, max_examples=300)
@example([("define", 1), ("gap", 0, 1, 1, 1, 3), ("gap", 1, 1, 32, 0, 0), ("gap", 0, 1, 4, 1, 2), ("trade", 1)], [])
@example([("gap", 0, 1, 1, 1, 3), ("define", 1), ("gap", 1, 1, 32, 0, 0)], [])
@given(st.lists(STEPS, max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_every_confidence_and_every_span_is_what_the_slow_rules_say(steps: list[tuple], cuts: list[int]) -> None:
    defined_first = [("define", number) for number in INSTRUMENTS[:1]]
    steps = defined_first + steps
    records = [record(step, 100 * at) for at, step in enumerate(steps)]
    places = np.cumsum([0, *map(len, records)]).tolist()
    bounds = sorted({0, len(records), *(min(cut, len(records)) for cut in cuts)})
    fold = folded([np.concatenate(records[start:end]) for start, end in pairwise(bounds)])
    assert fold.spans() == folded(records).spans(), "however it is cut"

    slow, grown = Slow(), GapFold()
    for at, step in enumerate(steps):
        slow.take(at, step)
        grown.take(records[at], places[at])
        for number in INSTRUMENTS:
            worth = slow.worth.get(number, 0)
            assert fold.confidence(np.array([number]), np.array([places[at + 1]])).tolist() == [worth], (at, number)
        compare(grown, slow, places)
    assert grown.spans() == fold.spans()
    assert sum(span.missing for span in fold.spans()) == slow.missing


def compare(fold: GapFold, slow: Slow, places: list[int]) -> None:
    """Every doubtful instrument is in an open span, and every open span has one that is doubtful since it began."""
    going = []
    for span in fold.spans():
        assert list(span.causes) == list(dict.fromkeys(span.causes))
        assert (span.end_ordinal is None) == (span.recovered_by is None) == (span.end_ns is None)
        assert span.end_ordinal is None or span.begin_ordinal < span.end_ordinal
        if span.end_ordinal is None:
            going.append(span)
    for number in slow.since:
        assert any(
            span.instrument == number
            or (span.instrument == 0 and fold.concerns(span, number))
            or slow.was_concerned(number, span, places)
            for span in going
        )
    for span in going:
        if span.instrument:
            assert span.instrument in slow.since
            continue
        begun = places.index(span.begin_ordinal)
        members = slow.concerned[begun]
        if members or slow.spoken[span.source] > begun:
            assert any(slow.since.get(number, 10**9) <= begun for number in members), "nobody is doubtful any more"


def test_a_span_tells_what_was_missing_and_how_it_came_back() -> None:
    steps = [
        ("define", 1),
        ("define", 2),
        ("gap", 1, 1, int(Cause.SEQUENCE), 1, 4),
        ("gap", 1, 1, int(Cause.CHECKSUM), 2, 2),
        ("gap", 1, 1, int(Cause.SNAPSHOT), 0, 0),
        ("gap", 0, 1, int(Cause.DISCONNECTED), 1, 0),
        ("gap", 1, 1, int(Cause.SNAPSHOT), 0, 0),
        ("gap", 2, 1, int(Cause.RETRANSMITTED), 0, 0),
        ("gap", 2, 1, int(Cause.STALE), 1, 0),
    ]
    records = [record(step, 100 * at) for at, step in enumerate(steps)]
    places = np.cumsum([0, *map(len, records)]).tolist()
    fold = folded(records)
    assert fold.spans() == [
        GapSpan(
            instrument=1, source=1, causes=(Cause.SEQUENCE, Cause.CHECKSUM), begin_ordinal=places[2], begin_ns=200,
            end_ordinal=places[4], end_ns=400, missing=6, recovered_by=Cause.SNAPSHOT,
        ),
        GapSpan(
            instrument=0, source=1, causes=(Cause.DISCONNECTED,), begin_ordinal=places[5], begin_ns=500,
            end_ordinal=places[7], end_ns=700, recovered_by=Cause.RETRANSMITTED,
        ),
        GapSpan(instrument=2, source=1, causes=(Cause.STALE,), begin_ordinal=places[8], begin_ns=800),
    ]  # fmt: skip
    assert fold.concerns(fold.spans()[1], 2)
    assert not fold.concerns(fold.spans()[0], 2)
    assert SEQUENCER_SOURCE == DESK_SOURCE


def test_bounds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [("define", 1), *[("gap", 1, 1, 1, worth, 0) for worth in (1, 0) * 4]]
    records = [record(step, at) for at, step in enumerate(steps)]
    monkeypatch.setattr("tapehouse.market.gap_spans.SPANS_MAX", 3)
    with pytest.raises(DataError, match="cell 13: more than 3 spans"):
        folded(records)


def test_control_a_fold_that_forgets_who_feeds_an_instrument_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapehouse.market.gap_spans.SEQUENCER_SOURCE", 99)
    steps = [("declare", 1, 16), ("gap", 0, 17, 1, 1, 0)]
    with pytest.raises(AssertionError):
        test_every_confidence_and_every_span_is_what_the_slow_rules_say.hypothesis.inner_test(steps, [])


def test_a_venue_that_begins_anew_is_a_span_of_one_record() -> None:
    made = gap_record(Cause.RESET, Confidence.GOOD, ts_recv=7, source=1, sequence=90, following=1)
    fold = folded([Instrument(id=1, symbol="S1").definition(ts_recv=1), made, made])
    first, second = fold.spans()
    assert (first.causes, first.begin_ns, first.end_ns, first.missing) == ((Cause.RESET,), 7, 7, 0)
    assert first.begin_ordinal == first.end_ordinal == second.begin_ordinal - 1  # type: ignore[operator]
    assert not fold.confidence(np.array([1]), np.array([10])).any(), "the book is good all the while"
