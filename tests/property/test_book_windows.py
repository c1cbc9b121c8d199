"""Markets that wander over many windows, stub quotes, books wider than a window: the kernels equal the oracle, which
knows no window, at every step; and where the window happens to lie is never seen.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book import (
    ASK,
    BID,
    Status,
    apply,
    apply_cells,
    counts,
    define,
    levels,
    make_books,
    restore,
    set_level,
    snapshot,
    transitions,
    window,
)
from tapehouse.book.layout import FAR, LOW, PRICE_MAX
from tapehouse.book.reference import ReferenceBooks
from tapehouse.core import UNDEFINED
from tapehouse.market import Action, Cells, Kind, Side, empty_cells, words
from tests.property.test_book_streams import assert_equal, assert_memory_is_whole, pair

LEVELS, TICK = 64, 5
PARTS = 16
SLOT = np.zeros(1, np.int64)
WALKS = {
    "drift": {"step": 0.4, "spread": 10},
    "jumps": {"step": 0.1, "spread": 12, "jump": 300},
    "wide": {"step": 0.3, "spread": 60},
    "more than there may be": {"step": 0.1, "spread": 300, "kept": 0.9},
    "stubs": {"step": 0.4, "spread": 8, "stubs": 0.05},
    "by price": {"step": 0.4, "spread": 30, "by_price": 1.0},
}
LIFE = 61  # records from an order to its end


def walk(random: np.random.Generator, count: int, **kind: float) -> Cells:
    """Orders and levels around a price that wanders; stubs stand at the ends of what a venue takes.

    Every other record ends what an earlier one made; now and then an order is modified instead.
    """
    cells = empty_cells(count)
    cells["cells"], cells["order_id"] = 1, np.arange(count) + 1
    middle = 1_000 + np.cumsum(
        random.choice([-1, 1, 2], count) * (random.random(count) < kind["step"])
        + random.choice([-1, 1], count) * int(kind.get("jump", 0)) * (random.random(count) < 0.01)
    )
    bids = random.random(count) < 0.5
    away = random.geometric(1 / kind["spread"], count) - 2  # now and then the sides meet
    ticks = middle + np.where(bids, -away, away)
    stubs = random.random(count) < kind.get("stubs", 0.0)
    stubs[0] = True
    ticks[stubs] = np.where(bids[stubs], 1, 40_000_000) + random.integers(0, 3, stubs.sum())
    by_price = random.random(count) < kind.get("by_price", 0.05)
    actions = random.choice([Action.ADD, Action.MODIFY], count, p=[0.9, 0.1])
    modified = np.flatnonzero(actions == Action.MODIFY)
    cells["order_id"][modified] = np.maximum(modified + 1 - 2 * random.integers(1, LIFE // 2, len(modified)), 1)
    cells["size"] = random.integers(1, 9, count)
    ends = np.arange(LIFE, count, 2)
    ends = ends[random.random(len(ends)) >= kind.get("kept", 0.0)]
    actions[ends] = Action.CANCEL
    for column in (ticks, bids, by_price, cells["order_id"]):
        column[ends] = column[ends - LIFE]
    cells["size"][ends] = UNDEFINED
    cells["kind"], cells["action"] = np.where(by_price, Kind.MBP, Kind.MBO), actions
    cells["side"], cells["price"] = np.where(bids, Side.BID, Side.ASK), ticks * TICK
    return cells


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_wandering_market_equals_the_oracle(name: str, seed: int) -> None:
    random = np.random.default_rng([seed, *name.encode()])
    cells = walk(random, 3_000, **WALKS[name])
    books, oracle = pair(orders=4_000, window=LEVELS)
    most_far = 0
    for part in np.array_split(cells, PARTS):
        found = [Status(apply(books, 0, words(part), row)) for row in range(len(part))]
        assert found == [oracle.apply(0, part, row) for row in range(len(part))], f"seed {seed}"
        assert_equal(books, oracle)
        assert_memory_is_whole(books)
        most_far = max(most_far, int(books.slots[0, [FAR, FAR + 1]].sum()))
    assert transitions(books, 0)["moved"] > 3, "the market left its first window"
    assert most_far > 0
    assert counts(books, 0)["out_of_window"] == 0
    if name == "more than there may be":
        assert counts(books, 0)["too_many_levels"] > 0


@pytest.mark.parametrize("name", WALKS)
def test_a_restore_anywhere_has_the_same_future(name: str) -> None:
    """The window is laid anew by a restore; nobody can tell."""
    random = np.random.default_rng([7, *name.encode()])
    cells = walk(random, 3_000, **WALKS[name])
    whole, _ = pair(orders=4_000, window=LEVELS)
    cut, _ = pair(orders=4_000, window=LEVELS)
    apply_cells(whole, SLOT, words(cells))
    lay_elsewhere = 0
    for part in np.array_split(cells, PARTS):
        apply_cells(cut, SLOT, words(part))
        reborn, _ = pair(orders=4_000, window=LEVELS)
        restore(reborn, snapshot(cut))
        assert_memory_is_whole(reborn)
        lay_elsewhere += int(reborn.slots[0, LOW] != cut.slots[0, LOW])
        cut = reborn
    assert snapshot(cut) == snapshot(whole)
    assert lay_elsewhere > 0, "or this has shown nothing"


levels_of_a_side = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.integers(-300, 300) | st.integers(-(10**12), 10**12), st.integers(0, 3)),
    min_size=1,
    max_size=60,
)


@settings(deadline=None, max_examples=200)
@given(levels_of_a_side, st.randoms(use_true_random=False))
def test_levels_alone_make_a_book(stream: list[tuple[int, int, int]], shuffle: object) -> None:
    """Whatever the order in which levels came, and wherever the window went with them: equal levels, equal bytes."""
    last = {(side, price): size for side, price, size in stream}
    books = make_books(1, orders=1, levels=LEVELS)
    other = make_books(1, orders=1, levels=LEVELS)
    for each in (books, other):
        define(each, 0, 1)
    for side, price, size in stream:
        assert set_level(books, 0, side, price, size) == Status.OK
    ends = list(last.items())
    shuffle.shuffle(ends)
    for (side, price), size in ends:
        assert set_level(other, 0, side, price, size) == Status.OK
    for side in range(2):
        expected = [(price, size, 0) for (at, price), size in last.items() if at == side and size]
        assert levels(books, 0, side) == sorted(expected, reverse=side == BID)
    assert snapshot(books) == snapshot(other)


def test_a_stub_quote_first_lays_no_useless_window() -> None:
    books = make_books(1, orders=1)
    define(books, 0, 10_000_000)
    assert set_level(books, 0, ASK, 199_999_990_000_000, 1) == Status.OK
    assert set_level(books, 0, BID, 10_000_000, 1) == Status.OK
    for at in range(200):
        assert set_level(books, 0, BID, 580_000_000_000 - at * 10_000_000, 5) == Status.OK
        assert set_level(books, 0, ASK, 580_010_000_000 + at * 10_000_000, 5) == Status.OK
    low, high = window(books, 0)
    assert low < 560_000_000_000
    assert high > 600_000_000_000, "the window is where the market is"
    assert books.slots[0, [FAR, FAR + 1]].tolist() == [1, 1], "and the stubs are kept apart"
    assert levels(books, 0, ASK)[-1] == (199_999_990_000_000, 1, 0)


def test_a_drifting_market_moves_its_window_seldom() -> None:
    books = make_books(1, orders=1, levels=1 << 10)
    define(books, 0, 1)
    for middle in range(100_000):
        for side, sign in ((BID, -1), (ASK, 1)):
            set_level(books, 0, side, middle + 20 * sign, 1)
            set_level(books, 0, side, middle - 1 + 20 * sign, 0)
    assert transitions(books, 0)["moved"] <= 2 * 100_000 // (1 << 9) + 2, "about once in half a window"


@pytest.mark.parametrize("tick", [1, 2, 3, 48, 250_000_000, 10**9 + 7, 1 << 40])
def test_prices_to_the_last_that_can_be(tick: int) -> None:
    most = PRICE_MAX // tick * tick
    books, oracle = make_books(1, orders=1, levels=LEVELS), ReferenceBooks(1, orders=1, levels=LEVELS)
    define(books, 0, tick)
    oracle.define(0, tick)
    near = [offset + step * tick for offset in (-1, 0, 1) for step in (-2, -1, 0, 1, 2, LEVELS)]
    ends = [-(2**63), -(2**63) + 1, -(2**62), 2**62, UNDEFINED, UNDEFINED - 1, PRICE_MAX, -PRICE_MAX]
    prices = [end + each for end in (-most, 0, most) for each in near] + ends
    cells = empty_cells(len(prices))
    cells["kind"], cells["cells"], cells["action"], cells["size"] = Kind.MBP, 1, Action.MODIFY, 3
    cells["price"] = prices
    for side in (Side.BID, Side.ASK):
        cells["side"] = side
        for row in range(len(cells)):
            assert apply(books, 0, words(cells), row) == oracle.apply(0, cells, row), f"price {prices[row]}"
    assert snapshot(books) == oracle.snapshot()
    again = make_books(1, orders=1, levels=LEVELS)
    restore(again, snapshot(books))
    assert snapshot(again) == snapshot(books)


def test_a_window_that_lies_wrong_is_caught() -> None:
    """The comparison can fail: a window that moves without its levels."""
    books, oracle = pair(orders=40, window=LEVELS)
    cells = walk(np.random.default_rng(3), 40, step=0.1, spread=5)
    for row in range(len(cells)):
        apply(books, 0, words(cells), row)
        oracle.apply(0, cells, row)
    assert_equal(books, oracle)
    books.slots[0, LOW] += LEVELS
    with pytest.raises(AssertionError):
        assert_equal(books, oracle)
