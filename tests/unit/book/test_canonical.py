"""Snapshots: canonical whatever the path, exact on the way back, and never half restored."""

import numpy as np
import pytest

from tapehouse.book import (
    ASK,
    BID,
    BookState,
    Status,
    apply_cells,
    confidence,
    confidences,
    counts,
    define,
    digest,
    levels,
    make_books,
    restore,
    restore_books,
    set_confidence,
    set_level,
    snapshot,
    snapshot_books,
    state,
    transitions,
)
from tapehouse.book.layout import FAR
from tapehouse.core import UNDEFINED, IntegrityError, UsageError
from tapehouse.market import Action, Confidence, Kind, Side, empty_cells, words

SLOTS = np.arange(3)
HEADER_WORDS = 5


def cells_of(*records: tuple[int, str, int, int, int]):
    """MBO cells for slot 1 from (action, side, id, price, size)."""
    cells = empty_cells(len(records))
    cells["kind"], cells["cells"], cells["instrument"] = Kind.MBO, 1, 1
    cells["action"] = [record[0] for record in records]
    cells["side"] = [{"B": Side.BID, "A": Side.ASK}[record[1]] for record in records]
    for column, name in enumerate(("order_id", "price", "size"), 2):
        cells[name] = [record[column] for record in records]
    return cells


def new_books(**bounds):
    books = make_books(3, **{"orders": 16, "levels": 64, **bounds})
    define(books, 1, 10)
    define(books, 2, 5)
    return books


def example():
    books = new_books()
    records = [(Action.ADD, "B", 1, 1000, 5), (Action.ADD, "B", 2, 1000, 6), (Action.ADD, "A", 2**63 - 5, 1040, 7)]
    apply_cells(books, SLOTS, words(cells_of(*records, (Action.ADD, "B", 0, 990, 3))))
    return books


def test_equal_books_by_other_paths_give_equal_bytes():
    direct, winding = example(), new_books()
    detour = [(Action.ADD, "AB"[n % 2], n, 1000 + 10 * (n % 5), n) for n in range(100, 112)]
    back = [(Action.CANCEL, "B", n, 0, UNDEFINED) for n in range(100, 112)]
    there = [
        (Action.ADD, "A", 2**63 - 5, 1050, 9),
        (Action.ADD, "B", 1, 980, 5),
        (Action.MODIFY, "B", 1, 1000, 5),
        (Action.ADD, "B", 2, 1000, 8),
        (Action.CANCEL, "B", 2, 1000, 2),
        (Action.MODIFY, "A", 2**63 - 5, 1040, 7),
    ]
    apply_cells(winding, SLOTS, words(cells_of(*detour, *back, *there)))
    set_level(winding, 1, BID, 990, 3)
    assert snapshot(direct) == snapshot(winding)
    assert digest(direct) == digest(winding)
    assert len(digest(direct)) == 32
    assert not np.array_equal(direct.orders, winding.orders), "the arrays differ all the same"


@pytest.mark.parametrize(
    "records",
    [
        [(Action.CANCEL, "B", 1, 1000, 1)],
        [(Action.ADD, "B", 0, 990, 1)],
        [(Action.MODIFY, "B", 1, 1000, 6), (Action.CANCEL, "B", 1, 1000, 1)],  # only the order of the queue differs
        [(Action.CANCEL, "A", 2**63 - 5, 1040, 7), (Action.ADD, "A", 2**63 - 6, 1040, 7)],  # only an id does
    ],
)
def test_different_books_give_different_bytes(records):
    books = example()
    before = digest(books)
    apply_cells(books, SLOTS, words(cells_of(*records)))
    assert digest(books) != before


def test_a_book_wider_than_its_window_comes_back():
    books = new_books()
    far = [(Action.ADD, "AB"[n % 2], n, 1000 + 10_000 * n * (-1) ** n, n) for n in range(1, 16)]
    apply_cells(books, SLOTS, words(cells_of(*far)))
    for at in range(40):
        assert set_level(books, 2, at % 2, at * 37 * 5, 1 + at) == 0
    other = example()
    restore(other, snapshot(books))
    assert snapshot(other) == snapshot(books)
    assert [levels(other, 2, side) for side in range(2)] == [levels(books, 2, side) for side in range(2)]
    assert set_level(other, 1, BID, 1000, 1) == 0
    restore(other, snapshot(example()))
    assert snapshot(other) == snapshot(example()), "and leaves nothing behind"
    assert not other.slots[:, [FAR, FAR + 1]].any()


def test_what_a_book_is_worth_is_state_and_no_record_changes_it():
    books = example()
    before = digest(books)
    assert confidence(books, 1) == Confidence.GOOD
    assert set_confidence(books, 1, Confidence.SUSPECT) == Status.OK
    assert set_confidence(books, 1, Confidence.SUSPECT) == Status.OK
    assert set_confidence(books, 0, Confidence.REBUILDING) == Status.OK, "also of a slot that is not defined yet"
    assert digest(books) != before
    assert confidences(books, 1) == {"good": 0, "suspect": 1, "rebuilding": 0}
    apply_cells(books, SLOTS, words(cells_of((Action.CLEAR, "B", 0, 0, 0))))
    define(books, 0, 10)
    other = new_books()
    set_confidence(other, 2, Confidence.SUSPECT)
    restore(other, snapshot(books))
    assert [confidence(other, slot) for slot in range(3)] == [2, 1, 0]
    assert not any(confidences(other, slot)[each.name.lower()] for slot in range(3) for each in Confidence)
    for slot, worth in ((3, 0), (-1, 0), (0, 3), (0, -1)):
        assert set_confidence(books, slot, worth) == Status.OUT_OF_RANGE
    assert snapshot(books) == snapshot(other)
    with pytest.raises(UsageError, match="no slot 3"):
        confidence(books, 3)


def test_a_restore_counts_no_state_as_entered():
    books = example()
    restored = new_books()
    restore(restored, snapshot(books))
    assert not any(transitions(restored, 1)[each.name.lower()] for each in BookState)
    assert state(restored, 1) == state(books, 1) == BookState.NORMAL
    set_level(restored, 1, BID, 980, 1)
    assert transitions(restored, 1)["normal"] == 0, "nor does what follows, where it stays"


def test_restored_books_go_on_alike():
    books, other = example(), new_books()
    apply_cells(other, SLOTS, words(cells_of((Action.ADD, "A", 8, 1030, 1))))
    restore(other, snapshot(books))
    assert snapshot(other) == snapshot(books)
    assert sum(counts(other, 1).values()) == 0
    after = cells_of((Action.CANCEL, "B", 1, 1000, 5), (Action.ADD, "A", 9, 1030, 2), (Action.ADD, "B", 3, 10**6, 2))
    assert apply_cells(books, SLOTS, words(after)) == apply_cells(other, SLOTS, words(after)) == 0
    assert snapshot(other) == snapshot(books)
    assert levels(other, 1, ASK) == [(1030, 2, 1), (1040, 7, 1)]
    assert set_level(other, 2, BID, -100, 1) == 0


def test_empty_books_are_a_snapshot_too():
    books = make_books(3, orders=16, levels=64)
    empty = snapshot(books)
    assert len(empty) == 8 * (HEADER_WORDS + 3 * 2)
    full = example()
    restore_books(full, empty)
    assert snapshot_books(full) == empty
    assert not full.levels[:, 0].any()
    assert not full.table[:, 1].any()


@pytest.mark.parametrize("bounds", [{"orders": 17}, {"levels": 128}])
def test_a_snapshot_of_other_bounds_is_refused(bounds):
    with pytest.raises(IntegrityError, match="not 3, "):
        restore(new_books(**bounds), snapshot(example()))


@pytest.mark.parametrize("data", [b"", b"TAPEBOOK", b"x" * 80, b"TAPEBOOK" + b"\xff" * 72])
def test_other_bytes_are_refused(data):
    with pytest.raises(IntegrityError):
        restore(new_books(), data)


def test_every_cut_is_refused_and_changes_nothing():
    data = snapshot(example())
    books = new_books()
    apply_cells(books, SLOTS, words(cells_of((Action.ADD, "A", 8, 1030, 1))))
    before = snapshot(books)
    for end in range(len(data)):
        with pytest.raises(IntegrityError):
            restore(books, data[:end])
    for tail in (b"\0" * 8, b"\0", data[-16:]):
        with pytest.raises(IntegrityError):
            restore(books, data + tail)
    assert snapshot(books) == before


def test_every_changed_word_is_refused_or_becomes_what_it_says():
    data = np.frombuffer(snapshot(example()), "<i8")
    books = new_books()
    before = snapshot(books)
    refused = 0
    for at in range(len(data)):
        here = int(data[at])
        for value in {0, 1, -1, 7, 1000, UNDEFINED, -UNDEFINED, 2**62, min(here + 1, UNDEFINED), here - 1} - {here}:
            changed = data.copy()
            changed[at] = value
            try:
                restore(books, changed.tobytes())
            except IntegrityError:
                refused += 1
                assert snapshot(books) == before
            else:
                assert snapshot(books) == changed.tobytes(), f"word {at} as {value}"
                restore(books, before)
    assert refused > len(data) * 4, "most of them break a rule"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([1000, 0, 2, 1, 5, 2, 6], [1000, 0, 2, 1, 5, 1, 6]),  # an id twice in a level
        ([2**63 - 5, 7], [2, 7]),  # an id on both sides
        ([1000, 0, 2], [980, 0, 2]),  # levels that are not in order
        ([990, 3, 0], [1000, 3, 0]),  # a level twice
        ([990, 3, 0], [990, 0, 0]),  # a level of nothing
        ([1, 5, 2, 6], [1, UNDEFINED - 1, 2, 6]),  # a level that wraps
        ([10, 0, 2], [20, 0, 2]),  # prices off the tick
        ([10, 0, 2], [10, 2, 2]),  # neither in a snapshot nor not
        ([1000, 0, 2], [2**61 + 8, 0, 2]),  # a price beyond all
    ],
)
def test_impossible_books_are_refused(old, new):
    found = np.frombuffer(snapshot(example()), "<i8").tolist()
    at = next(i for i in range(len(found)) if found[i : i + len(old)] == old)
    found[at : at + len(new)] = new
    with pytest.raises(IntegrityError, match="damaged"):
        restore(new_books(), np.array(found, "<i8").tobytes())
