"""Spans of time against sets of whole numbers: an oracle that marks every count."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.app.bench.histogram import LEAST, MOST, merged, new_histogram, record_values
from tapehouse.app.bench.spans import Lost, overlapping, spans_of, united, within
from tapehouse.app.bench.tick_to_order_loops import LOG_WORDS, due_at, note_span

MOST_COUNT = 200
span = st.tuples(st.integers(0, MOST_COUNT), st.integers(1, 30)).map(lambda made: (made[0], made[0] + made[1]))
spans = st.lists(span, max_size=20).map(lambda made: np.array(made, np.int64).reshape(-1, 2))


def marked(*parts: np.ndarray) -> set[int]:
    return {count for part in parts for start, end in part.tolist() for count in range(start, end)}


@settings(deadline=None)  # kernels may be compiled first
@given(spans, spans)
def test_united_spans_cover_the_same_time_and_do_not_meet(some: np.ndarray, others: np.ndarray) -> None:
    both = united(some, others)
    assert marked(both) == marked(some, others)
    assert (both[:, 0] < both[:, 1]).all()
    assert (both[1:, 0] > both[:-1, 1]).all()


@settings(deadline=None)  # kernels may be compiled first
@given(spans, st.integers(0, MOST_COUNT), st.integers(0, MOST_COUNT))
def test_within_counts_what_is_marked(some: np.ndarray, start: int, length: int) -> None:
    there = marked(some) & set(range(start, start + length))
    assert within(united(some), start, start + length) == len(there)


@settings(deadline=None)  # kernels may be compiled first
@given(spans, spans, st.integers(0, 15))
def test_overlapping_is_what_a_look_at_each_pair_finds(some: np.ndarray, others: np.ndarray, after: int) -> None:
    joined = united(others)
    found = overlapping(some, joined, after=after)
    hits = [
        any(start < end_of_gap + after and start_of_gap < end for start_of_gap, end_of_gap in joined.tolist())
        for start, end in some.tolist()
    ]
    assert found == (sum(hits) / len(hits) if hits else 1.0)


@settings(deadline=None)  # kernels may be compiled first
@given(spans, st.integers(2, LOG_WORDS))
def test_a_full_log_still_counts_and_sums(some: np.ndarray, words: int) -> None:
    log = np.zeros(min(words, 12), np.int64)
    for start, end in some.tolist():
        note_span(log, start, end)
    assert log[:2].tolist() == [len(some), int((some[:, 1] - some[:, 0]).sum())]
    kept = spans_of(log)
    assert np.array_equal(kept, some[: len(kept)])
    assert len(kept) == min(len(some), (len(log) - 2) // 2)


@settings(deadline=None)  # kernels may be compiled first
@given(st.floats(0.5, 1e6), st.integers(0, 10_000_000), st.integers(0, 1 << 60))
def test_a_schedule_neither_drifts_nor_turns_back(period: float, tick: int, start: int) -> None:
    due = due_at(start, period, tick)
    assert abs((due - start) - tick * period) <= 1
    assert due_at(start, period, tick + 1) >= due


@settings(deadline=None)  # kernels may be compiled first
@given(st.lists(st.lists(st.integers(0, 1 << 40), max_size=20), max_size=5))
def test_merged_histograms_hold_every_value(groups: list[list[int]]) -> None:
    apart = []
    for values in groups:
        apart.append(new_histogram())
        record_values(apart[-1], np.array(values, np.int64))
    together = new_histogram()
    record_values(together, np.array([value for values in groups for value in values], np.int64))
    assert np.array_equal(merged(apart), together)
    assert together[LEAST] <= together[MOST] or not any(groups)


def test_lost_time() -> None:
    assert Lost.of(np.array([(0, 10), (50, 80)], np.int64), 100, 1_000.0) == Lost(
        gaps=2, share=0.4, p50_us=20.0, most_us=30.0
    )
    assert Lost.of(np.zeros((0, 2), np.int64), 100, 1.0).share == 0.0
