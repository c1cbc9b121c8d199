"""The histogram of the benchmarks against a sorted list."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapehouse.app.bench.histogram import (
    BUCKETS,
    COUNT,
    LEAST,
    MOST,
    NEGATIVE,
    SUM,
    Spread,
    bucket_bounds,
    bucket_of,
    new_histogram,
    percentile,
    record_values,
)

MOST_VALUE = (1 << 63) - 1
values_of_all_sizes = st.integers(0, 62).flatmap(lambda bits: st.integers(0, (1 << bits) - 1)) | st.just(MOST_VALUE)


def filled(values: list[int]) -> np.ndarray:
    histogram = new_histogram()
    record_values(histogram, np.array(values, np.int64))
    return histogram


def nearest_rank(values: list[int], fraction: float) -> int:
    """The oracle: the value at the rank in the sorted list."""
    return sorted(values)[max(1, min(len(values), math.ceil(fraction * len(values)))) - 1]


@given(st.lists(values_of_all_sizes, min_size=1, max_size=200), st.floats(0.001, 1.0))
def test_a_percentile_is_less_than_one_percent_above_the_exact_one(values: list[int], fraction: float) -> None:
    exact, found = nearest_rank(values, fraction), percentile(filled(values), fraction)
    assert exact <= found <= exact + exact // 100


@given(values_of_all_sizes)
def test_a_value_lies_in_its_bucket_and_buckets_follow_each_other(value: int) -> None:
    bucket = int(bucket_of(value))
    low, high = bucket_bounds(bucket)
    assert 0 <= bucket < BUCKETS
    assert low <= value <= high
    assert (high - low) * 100 < max(value, 100)
    if bucket:
        assert bucket_bounds(bucket - 1)[1] == low - 1
    if bucket < BUCKETS - 1:
        assert bucket_bounds(bucket + 1)[0] == high + 1


def test_the_last_bucket_ends_where_int64_does() -> None:
    assert bucket_bounds(BUCKETS - 1)[1] == MOST_VALUE
    assert int(bucket_of(MOST_VALUE)) == BUCKETS - 1


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=100))
def test_the_tally_is_exact(values: list[int]) -> None:
    histogram = filled(values)
    tally = (len(values), sum(values), min(values), max(values))
    assert tuple(histogram[[COUNT, SUM, LEAST, MOST]].tolist()) == tally
    assert percentile(histogram, 1.0) == max(values)
    assert int(histogram[:BUCKETS].sum()) == len(values)


def test_what_is_below_zero_counts_as_zero_and_is_counted() -> None:
    histogram = filled([-5, 3])
    assert int(histogram[NEGATIVE]) == 1
    assert int(histogram[LEAST]) == 0
    assert percentile(histogram, 0.5) == 0


@pytest.mark.parametrize("fraction", [0.0, 1.1, -0.5])
def test_control_no_such_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match="quantile"):
        percentile(filled([1]), fraction)


def test_control_an_empty_histogram_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="of 0 values"):
        percentile(new_histogram(), 0.5)


def test_a_spread_is_in_ns() -> None:
    spread = Spread.of(filled([10] * 98 + [100, 200]), 0.5)
    assert (spread.count, spread.p50, spread.p99, spread.p999, spread.most) == (100, 5.0, 50.0, 100.0, 100.0)
    assert spread.mean == pytest.approx(0.5 * (980 + 300) / 100)
