"""The kernels equal the slow oracle on any stream of records, however it is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book import Status, apply, apply_cells, best_price, counts, define, levels, make_books, restore, snapshot
from tapehouse.book.layout import SIZE_MAX
from tapehouse.book.reference import ReferenceBook, ReferenceBooks
from tapehouse.core import UNDEFINED
from tapehouse.market import Action, Cells, Flag, Kind, Side, empty_cells, words

ORDERS, LEVELS, TICK = 8, 64, 5
SLOTS = 3  # 0 with a tick, 1 with a pinned window, 2 never defined
FIELDS = ("slot", "kind", "action", "side", "flags", "order_id", "price", "size")

often = st.sampled_from
sometimes = often([False] * 9 + [True])


@st.composite
def records(draw):
    """Mostly sense, sometimes none: few ids and prices, so that they meet; all extremes of every field."""
    odd = draw(sometimes)
    kind = draw(often([Kind.MBO] * 5 + [Kind.MBP] * 2 + [Kind.TRADE] * odd))
    action = draw(often([Action.ADD] * 4 + [Action.CANCEL] * 3 + [Action.MODIFY] * 3 + [Action.TRADE, Action.FILL]))
    if draw(sometimes):
        action = draw(often([Action.CLEAR, Action.NONE, Action.ACCEPTED, 0, 255, Action.ADD, Action.MODIFY]))
    extreme_prices = [UNDEFINED, -(2**63), 2**61, -(2**61), 2**62, 101, 10_000, -5, 0]
    extreme_sizes = [0, -1, UNDEFINED, SIZE_MAX, SIZE_MAX - 3, -(2**63)]
    return (
        draw(often([0] * 6 + [1] * 2 + [2] * odd + [-1, 3] * odd)),
        kind,
        action,
        draw(often([Side.BID, Side.ASK] * 4 + [Side.NONE] * odd)),
        draw(often([0] * 12 + [int(Flag.LAST)] * 4 + [int(Flag.SNAPSHOT)] * odd)),
        draw(st.integers(0, 11) | often([0, 2**64 - 1, 2**63])),
        draw(often(extreme_prices) if draw(sometimes) else st.integers(18, 26).map(lambda at: at * TICK)),
        draw(often(extreme_sizes) if draw(sometimes) else st.integers(1, 6)),
    )


streams = st.lists(records(), max_size=20) | st.lists(records(), min_size=40, max_size=80)


def cells_of(stream: list[tuple[int, ...]]) -> tuple[Cells, list[int]]:
    cells = empty_cells(len(stream))
    cells["cells"] = 1
    for row, record in enumerate(stream):
        for name, value in zip(FIELDS[1:], record[1:], strict=True):
            cells[name][row] = value
        cells["instrument"][row] = record[0] if record[0] >= 0 else 99
    return cells, [record[0] for record in stream]


def pair(orders: int = ORDERS, window: int = LEVELS):
    books, oracle = make_books(SLOTS, orders=orders, levels=window), ReferenceBooks(SLOTS, orders=orders, levels=window)
    for both in (lambda *a, **k: define(books, *a, **k), oracle.define):
        both(0, TICK)
        both(1, TICK, base=-40)
    return books, oracle


def assert_equal(books, oracle: ReferenceBooks) -> None:
    assert snapshot(books) == oracle.snapshot()
    for slot in range(SLOTS):
        for side in range(2):
            expected = oracle.levels(slot, side)
            assert levels(books, slot, side) == expected
            assert best_price(books, slot, side) == (expected[0][0] if expected else UNDEFINED)
    for slot in range(SLOTS + 1):
        assert counts(books, slot) == {status.name.lower(): oracle.stats[slot][status] for status in Status}


def assert_memory_is_whole(books) -> None:
    """What is live in the arrays is what is linked, hashed and counted; all else is empty."""
    live = int(books.slots[:, 9].sum())
    assert np.count_nonzero(books.table[:, 1]) == live
    assert np.array_equal(books.levels[:, 0] != 0, (books.levels[:, 1] != 0) | (books.levels[:, 3] != 0))
    assert books.levels[:, 3].sum() == live
    assert np.bitwise_count(books.bitmap[:, : LEVELS // 64]).sum() == np.count_nonzero(books.levels[:, 0])
    free, row = 0, int(books.pool[1])
    while row:
        free, row = free + 1, int(books.orders[row, 2]) >> 32
    assert free + live == books.pool[2] - 1


@settings(deadline=None, max_examples=200)
@given(streams, st.data())
def test_kernels_equal_the_oracle_after_every_record_and_any_cut(stream, data):
    books, oracle = pair()
    cells, slots = cells_of(stream)
    found = [Status(apply(books, slot, words(cells), row)) for row, slot in enumerate(slots)]
    assert found == [oracle.apply(slot, cells, row) for row, slot in enumerate(slots)]
    assert_equal(books, oracle)
    assert_memory_is_whole(books)

    cut_books, _ = pair()
    at = 0
    while at < len(stream):
        end = data.draw(st.integers(at + 1, len(stream)), label="cut")
        for row in range(at, end):
            apply(cut_books, slots[row], words(cells[at:end]), row - at)
        reborn, _ = pair()
        restore(reborn, snapshot(cut_books))
        cut_books, at = reborn, end
    assert snapshot(cut_books) == snapshot(books)


@pytest.mark.parametrize("seed", range(4))
def test_long_streams_equal_the_oracle(seed):
    """Bigger books, deeper queues, a fuller table than hypothesis would make."""
    random = np.random.default_rng(seed)
    books, oracle = pair(orders=200, window=128)
    whole, _ = pair(orders=200, window=128)
    route = np.array([0, 1, -1])
    n = 3_000
    cells = empty_cells(n)
    cells["cells"], cells["instrument"] = 1, random.choice([0, 1], n, p=[0.8, 0.2])
    cells["kind"] = random.choice([Kind.MBO, Kind.MBP], n, p=[0.93, 0.07])
    cells["action"] = random.choice([ord(letter) for letter in "ACMRTF"], n, p=[0.5, 0.27, 0.15, 0.001, 0.039, 0.04])
    cells["side"] = random.choice([Side.BID, Side.ASK], n)
    cells["flags"] = random.choice([0, int(Flag.SNAPSHOT)], n, p=[0.9995, 0.0005])
    cells["order_id"] = random.integers(0, 400, n) << random.choice([0, 32], n)
    cells["price"] = 20 * TICK + TICK * random.geometric(0.1, n) * np.where(cells["side"] == Side.BID, -1, 1)
    cells["size"] = random.integers(1, 50, n)
    apply_cells(whole, route, words(cells))
    for part in np.array_split(cells, 12):
        apply_cells(books, route, words(part))
        for row in range(len(part)):
            oracle.apply(int(part["instrument"][row]), part, row)
        assert_equal(books, oracle)
    assert snapshot(whole) == snapshot(books), f"seed {seed}"
    assert sum(counts(books, 0)[name] > 0 for name in ("unknown_order", "duplicate_order", "orders_dropped")) == 3


def test_an_oracle_with_another_priority_rule_is_caught(monkeypatch):
    """The comparison can fail: an oracle that keeps priority where a size grows does not pass."""

    def keep_priority(self, book: ReferenceBook, found, side, price, size):
        found[2].size = size
        return Status.OK

    monkeypatch.setattr(ReferenceBooks, "_modify", keep_priority)
    books, oracle = pair()
    stream = [(0, Kind.MBO, Action.ADD, Side.BID, 0, order_id, 100, 5) for order_id in (1, 2)]
    cells, _ = cells_of([*stream, (0, Kind.MBO, Action.MODIFY, Side.BID, 0, 1, 100, 6)])
    for row in range(3):
        apply(books, 0, words(cells), row)
        oracle.apply(0, cells, row)
    assert levels(books, 0, 0) == oracle.levels(0, 0), "sizes alone do not show it"
    with pytest.raises(AssertionError):
        assert_equal(books, oracle)
