"""The kernels equal the slow oracle on any stream of records, however it is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book import (
    BookState,
    Status,
    apply,
    apply_cells,
    best_price,
    best_size,
    confidence,
    confidences,
    counts,
    define,
    ladder,
    level_size,
    levels,
    make_books,
    restore,
    set_confidence,
    snapshot,
    state,
    top,
    transitions,
)
from tapehouse.book.layout import COUNT, FAR, LIVE, SIZE_MAX
from tapehouse.book.reference import ReferenceBook, ReferenceBooks
from tapehouse.core import UNDEFINED
from tapehouse.market import Action, Cells, Confidence, Flag, Kind, Side, empty_cells, extend, words

ORDERS, LEVELS, TICK = 8, 64, 5
SLOTS = 3  # 0 and 1 with a tick, 2 never defined
OTHER_TICK = 12  # even, not a power of two
FIELDS = ("slot", "kind", "action", "side", "flags", "order_id", "price", "size")

often = st.sampled_from
sometimes = often([False] * 9 + [True])


@st.composite
def records(draw):
    """Mostly sense, sometimes none: few ids and prices, so that they meet; all extremes of every field."""
    odd = draw(sometimes)
    kind = draw(often([Kind.MBO] * 5 + [Kind.MBP] * 2 + [Kind.QUOTE] + [Kind.TRADE] * odd))
    action = draw(often([Action.ADD] * 4 + [Action.CANCEL] * 3 + [Action.MODIFY] * 3 + [Action.TRADE, Action.FILL]))
    if draw(sometimes):
        action = draw(often([Action.CLEAR, Action.NONE, Action.ACCEPTED, 0, 255, Action.ADD, Action.MODIFY]))
    extreme_prices = [UNDEFINED, -(2**63), 2**61, -(2**61), 2**61 - 2**61 % TICK, 2**62, 101, -10_000, -5, 0]
    near = st.integers(18, 26)
    far = near | st.integers(-200, 300) | often([10**6, -(10**9), 10**15])  # of which few fit into one window
    extreme_sizes = [0, -1, UNDEFINED, SIZE_MAX, SIZE_MAX - 3, -(2**63)]
    return (
        draw(often([0] * 6 + [1] * 2 + [2] * odd + [-1, 3] * odd)),
        kind,
        action,
        draw(often([Side.BID, Side.ASK] * 4 + [Side.NONE] * odd)),
        draw(often([0] * 12 + [int(Flag.LAST)] * 4 + [int(Flag.SNAPSHOT)] * odd)),
        draw(st.integers(0, 11) | often([0, 2**64 - 1, 2**63])),
        draw(often(extreme_prices) if draw(sometimes) else (far if odd else near).map(lambda at: at * TICK)),
        draw(often(extreme_sizes) if draw(sometimes) else st.integers(1, 6)),
    )


streams = st.lists(records(), max_size=20) | st.lists(records(), min_size=40, max_size=80)


def cells_of(stream: list[tuple[int, ...]]) -> tuple[Cells, list[int]]:
    """The cells, and the slot of each. A quote has a second one, with the fields of the record before as its ask."""
    made: list[Cells] = []
    slots: list[int] = []
    for number, record in enumerate(stream):
        cells = empty_cells(2 if record[1] == Kind.QUOTE else 1)
        for row, fields in enumerate((record, stream[number - 1])[: len(cells)]):
            for name, value in zip(FIELDS[1:], fields[1:], strict=True):
                cells[name][row] = value
        cells["instrument"] = record[0] if record[0] >= 0 else 99
        if len(cells) == 2:
            extend(cells)
        cells["cells"][0] = len(cells)
        made.append(cells)
        slots += [record[0]] * len(cells)
    return np.concatenate([empty_cells(0), *made]), slots


def pair(orders: int = ORDERS, window: int = LEVELS):
    books, oracle = make_books(SLOTS, orders=orders, levels=window), ReferenceBooks(SLOTS, orders=orders, levels=window)
    for slot, tick in ((0, TICK), (1, OTHER_TICK)):
        define(books, slot, tick)
        oracle.define(slot, tick)
    return books, oracle


def assert_equal(books, oracle: ReferenceBooks) -> None:
    assert snapshot(books) == oracle.snapshot()
    for slot in range(SLOTS):
        ends = []
        for side in range(2):
            expected = oracle.levels(slot, side)
            assert levels(books, slot, side) == expected
            ends += expected[0][:2] if expected else (UNDEFINED, 0)
            assert [best_price(books, slot, side), best_size(books, slot, side)] == ends[-2:]
            assert [level_size(books, slot, side, price) for price, _, _ in expected] == [
                size for _, size, _ in expected
            ]
            beyond = expected[-1][0] + (-TICK if side == 0 else TICK) if expected else 0
            assert level_size(books, slot, side, beyond) == 0
        assert list(top(books, slot)) == ends
        assert state(books, slot) == oracle.state(slot)
        moves = transitions(books, slot)
        assert {each: moves[each.name.lower()] for each in BookState} == {
            each: oracle.entered[slot][each] for each in BookState
        }
        assert confidence(books, slot) == oracle.confidence[slot]
        assert confidences(books, slot) == {each.name.lower(): oracle.doubted[slot][each] for each in Confidence}
        for rows in (0, 1, 3):
            assert_ladder(books, oracle, slot, rows)
    for slot in range(SLOTS + 1):
        assert counts(books, slot) == {status.name.lower(): oracle.stats[slot][status] for status in Status}


def assert_ladder(books, oracle: ReferenceBooks, slot: int, rows: int) -> None:
    out = np.full((2, rows, 3), -9)
    written = 0
    for side in range(2):
        expected = oracle.levels(slot, side)[:rows]
        written += len(expected)
    assert ladder(books, slot, out) == written
    for side in range(2):
        expected = oracle.levels(slot, side)[:rows]
        blank = [(UNDEFINED, 0, 0)] * (rows - len(expected))
        assert [tuple(row) for row in out[side].tolist()] == [*expected, *blank]


def assert_memory_is_whole(books) -> None:
    """What is live in the arrays is what is linked, hashed, listed and counted; all else is empty."""
    live = int(books.slots[:, LIVE].sum())
    assert np.count_nonzero(books.table[:, 1]) == live
    assert np.array_equal(books.levels[:, 0] != 0, (books.levels[:, 1] != 0) | (books.levels[:, COUNT] != 0))
    assert books.levels[:, COUNT].sum() == live
    far = len(books.levels) // 2
    window = int(books.pool[3])
    assert np.bitwise_count(books.bitmap[:, : window // 64]).sum() == np.count_nonzero(books.levels[:far, 0])
    for book in range(2 * SLOTS):
        slot, side = divmod(book, 2)
        listed = books.far[book * window :][: int(books.slots[slot, FAR + side])]
        ranks = listed[:, 0].tolist()
        assert ranks == sorted(set(ranks), reverse=True)
        rows = np.flatnonzero(books.levels[far + book * window :][:window, 0]).tolist()
        assert sorted(listed[:, 1].tolist()) == rows
    free, row = 0, int(books.pool[1])
    while row:
        free, row = free + 1, int(books.orders[row, 2]) >> 32
    assert free + live == books.pool[2] - 1


@settings(deadline=None, max_examples=200)
@given(streams, st.data())
def test_kernels_equal_the_oracle_after_every_record_and_any_cut(stream, data):
    books, oracle = pair()
    cells, slots = cells_of(stream)
    worth = data.draw(st.dictionaries(st.integers(0, len(cells)), st.tuples(st.integers(-1, 3), st.integers(-1, 3))))
    for row, slot in enumerate(slots):
        if row in worth:
            assert set_confidence(books, *worth[row]) == oracle.set_confidence(*worth[row])
        assert Status(apply(books, slot, words(cells), row)) == oracle.apply(slot, cells, row)
    assert_equal(books, oracle)
    assert_memory_is_whole(books)

    cut_books, _ = pair()
    at = 0
    while at < len(cells):
        end = data.draw(st.integers(at + 1, len(cells)), label="cut")
        while end < len(cells) and cells["cells"][end] == 0:
            end += 1
        for row in range(at, end):
            if row in worth:
                set_confidence(cut_books, *worth[row])
            apply(cut_books, slots[row], words(cells[at:end]), row - at)
        reborn, _ = pair()
        restore(reborn, snapshot(cut_books))
        cut_books, at = reborn, end
    assert snapshot(cut_books) == snapshot(books)
    assert_memory_is_whole(cut_books)


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
