"""Any seed gives a sound day: the product's own book takes every record of it without a word."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book import ASK, BID, apply_cells, best_price, define, make_books
from tapehouse.feeds import GeneratedDay
from tapehouse.feeds.random_integers import below, geometric, new_random, next_word
from tapehouse.market import Kind, record_starts, words

MASK = 2**64 - 1


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**64),
    cells=st.integers(1_000, 30_000),
    instruments=st.integers(1, 5),
    batch_cells=st.sampled_from([1, 333, 65_536]),
)
def test_a_day_of_any_seed(seed: int, cells: int, instruments: int, batch_cells: int) -> None:
    day = GeneratedDay(seed, cells, instruments, batch_cells=batch_cells)
    batches = list(day.batches())
    everything = np.concatenate(batches)
    record_starts(everything)
    firsts = everything["cells"] > 0
    assert (np.diff(everything["ts_recv"][firsts]) >= 0).all()
    assert (everything["ts_event"][firsts] <= everything["ts_recv"][firsts]).all()
    assert {item.id for item in day.instruments} >= set(everything["instrument"].tolist())
    assert everything.tobytes() == np.concatenate(list(day.batches())).tobytes()  # a second pass

    books = make_books(instruments, orders=1 << 13, levels=1 << 13)
    slots = np.full(len(day.instruments) + 1, -1, np.int64)
    for item in day.instruments[:instruments]:
        define(books, item.id - 1, item.tick_size)
        slots[item.id] = item.id - 1
    market = everything[everything["kind"] == Kind.MBO]
    assert apply_cells(books, slots, words(market)) == 0  # no unknown order, no excess, no duplicate
    for slot in range(instruments):
        assert best_price(books, slot, BID) < best_price(books, slot, ASK)


def split_mix(state: int) -> tuple[int, int]:
    """The generator as its authors wrote it, in Python's integers."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    word = state
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return state, word ^ (word >> 31)


@settings(max_examples=50, deadline=None)
@given(state=st.integers(0, MASK), limit=st.integers(1, 2**62))
def test_the_stream_of_integers(state: int, limit: int) -> None:
    kernel_state = np.array([state], np.uint64)
    for _ in range(5):
        state, word = split_mix(state)
        assert int(next_word(kernel_state)) == word
    state, word = split_mix(state)
    assert below(kernel_state, limit) == (word >> 1) % limit
    state, word = split_mix(state)
    ones = len(bin(word >> 34)) - len(bin(word >> 34).rstrip("1"))
    assert geometric(kernel_state) == min(ones, 30)


def test_streams_of_one_seed_differ() -> None:
    assert new_random(7)[0] != new_random(7, 1)[0]
    assert new_random(7)[0] == new_random(7 + 2**64)[0]
