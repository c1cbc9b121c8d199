"""References: a named tuple of arrays read through one pointer is the tuple itself, and no other one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from numba.core.errors import TypingError

from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.reference import never_inline, refer


class Inner(NamedTuple):
    rows: Array
    words: Array


class Outer(NamedTuple):
    counters: Array
    inner: Inner
    factors: Array


@kernel()
def _change(state: State, by: Int) -> Int:
    never_inline()
    state.counters[0] += by
    state.inner.rows[1, 2] = state.counters[0]
    inner = state.inner
    inner.words[inner.words.shape[0] - 1] = state.inner.rows.shape[0]
    return np.int64(state.factors[0] * by)


@kernel()
def _through_references(state: State, by: Int) -> Int:
    first = refer(state)
    return _change(first, by) + _change(refer(first), by)


@kernel()
def _by_value(state: State, by: Int) -> Int:
    return _change(state, by) + _change(state, by)


@kernel()
def _unknown_field(state: State) -> Int:
    return refer(state).nothing[0]


def _state(rows: int) -> Outer:
    inner = Inner(rows=np.zeros((rows, 3), np.int64), words=np.zeros(5, np.uint64))
    return Outer(counters=np.zeros(2, np.int64), inner=inner, factors=np.full(1, 2.5))


def _same(one: Outer, other: Outer) -> bool:
    arrays = ((one.counters, other.counters), (one.inner.rows, other.inner.rows), (one.inner.words, other.inner.words))
    return all(np.array_equal(here, there) for here, there in arrays)


def test_what_is_read_and_written_through_a_reference_is_the_tuple() -> None:
    for rows in (2, 4):  # another tuple of the same type: nothing is remembered from call to call
        referred, passed = _state(rows), _state(rows)
        assert _through_references(referred, 4) == _by_value(passed, 4) == 20
        assert _same(referred, passed)
        assert referred.counters[0] == referred.inner.rows[1, 2] == 8
        assert referred.inner.words[4] == rows


def test_a_field_that_the_tuple_does_not_have_does_not_compile() -> None:
    with pytest.raises(TypingError, match="nothing"):
        _unknown_field(_state(2))
