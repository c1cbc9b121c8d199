"""What each record does to a book, one rule at a time."""

import numpy as np
import pytest

from tapehouse.book import (
    ASK,
    BID,
    BookState,
    Status,
    apply,
    apply_cells,
    best_price,
    best_size,
    counts,
    define,
    depth,
    ladder,
    level_size,
    levels,
    make_books,
    order_counts,
    set_level,
    snapshot,
    state,
    state_of,
    top,
    transitions,
    window,
)
from tapehouse.book.layout import SIZE_MAX
from tapehouse.core import UNDEFINED, UsageError
from tapehouse.market import Action, Flag, Kind, Side, empty_cells, extend, words

TICK = 10
SIDES = {"B": Side.BID, "A": Side.ASK, "N": Side.NONE}


class Bench:
    """A book in slot 1 of three, and short ways to send it records."""

    def __init__(self, *, orders: int = 64, tick: int = TICK) -> None:
        self.books = make_books(3, orders=orders, levels=64)
        define(self.books, 1, tick)

    def send(self, action: str, side: str, price: int, size: int, order_id: int = 0, *, kind=Kind.MBO, flags=0, slot=1):
        cell = empty_cells(1)
        cell["kind"], cell["cells"], cell["action"], cell["side"], cell["flags"] = (
            kind,
            1,
            ord(action),
            SIDES[side],
            flags,
        )
        cell["order_id"], cell["price"], cell["size"] = order_id, price, size
        return Status(apply(self.books, slot, words(cell), 0))

    def price(self, action: str, side: str, price: int, size: int, **more):
        return self.send(action, side, price, size, kind=Kind.MBP, **more)

    def quote(self, bid: tuple[int, int], ask: tuple[int, int], *, slot=1):
        cells = empty_cells(2)
        cells["kind"], cells["price"], cells["size"] = Kind.QUOTE, [bid[0], ask[0]], [bid[1], ask[1]]
        extend(cells)
        cells["cells"][0] = 2
        return Status(apply(self.books, slot, words(cells), 0))

    def bids(self):
        return levels(self.books, 1, BID)

    def asks(self):
        return levels(self.books, 1, ASK)

    def queue(self, side: int, price: int) -> list[tuple[int, int]]:
        """The (id, size) of a level's orders, oldest first, read from the snapshot's words."""
        found = np.frombuffer(snapshot(self.books), "<i8").tolist()
        at = 5 + 2 + 3  # the header, slot 0, the head of slot 1
        for number in range(2):
            count, at = found[at], at + 1
            for _ in range(count):
                here, orders = found[at], found[at + 2]
                at += 3
                if (number, here) == (side, price):
                    return [(found[at + 2 * i], found[at + 2 * i + 1]) for i in range(orders)]
                at += 2 * orders
        return []


@pytest.fixture
def bench():
    return Bench()


def test_orders_queue_in_levels_best_first(bench):
    for order_id, (side, price, size) in enumerate([("B", 1000, 5), ("B", 1010, 3), ("B", 1000, 2), ("A", 1030, 4)], 1):
        assert bench.send("A", side, price, size, order_id) == Status.OK
    assert bench.bids() == [(1010, 3, 1), (1000, 7, 2)]
    assert bench.asks() == [(1030, 4, 1)]
    assert (best_price(bench.books, 1, BID), best_size(bench.books, 1, BID)) == (1010, 3)
    assert (best_price(bench.books, 1, ASK), best_size(bench.books, 1, ASK)) == (1030, 4)
    assert bench.queue(BID, 1000) == [(1, 5), (3, 2)]


def test_cancel_takes_a_part_in_place_and_then_the_rest(bench):
    bench.send("A", "B", 1000, 5, 1)
    bench.send("A", "B", 1000, 5, 2)
    assert bench.send("C", "B", 1000, 2, 1) == Status.OK
    assert bench.queue(BID, 1000) == [(1, 3), (2, 5)]
    assert bench.send("C", "N", 0, 3, 1) == Status.OK, "an order is found by its id alone"
    assert bench.queue(BID, 1000) == [(2, 5)]
    assert bench.send("C", "B", 1000, 9, 2) == Status.EXCESS_SIZE
    assert bench.bids() == []
    assert best_price(bench.books, 1, BID) == UNDEFINED
    assert best_size(bench.books, 1, BID) == 0


def test_cancel_of_an_undefined_size_takes_all(bench):
    bench.send("A", "B", 1000, 5, 1)
    assert bench.send("C", "B", 1000, UNDEFINED, 1) == Status.OK
    assert bench.bids() == []
    bench.price("A", "B", 1000, 5)
    assert bench.send("C", "B", 1000, UNDEFINED, 1) == Status.UNKNOWN_ORDER
    assert bench.bids() == [(1000, 5, 0)], "but never all of what nobody knows"


def test_modify_keeps_priority_only_where_it_shrinks_in_place(bench):
    for order_id in (1, 2, 3):
        bench.send("A", "A", 1000, 5, order_id)
    assert bench.send("M", "A", 1000, 4, 1) == Status.OK
    assert bench.queue(ASK, 1000) == [(1, 4), (2, 5), (3, 5)]
    bench.send("M", "A", 1000, 4, 1)
    assert bench.queue(ASK, 1000) == [(1, 4), (2, 5), (3, 5)], "the same again changes nothing"
    bench.send("M", "A", 1000, 6, 1)
    assert bench.queue(ASK, 1000) == [(2, 5), (3, 5), (1, 6)]
    bench.send("M", "A", 1010, 5, 3)
    bench.send("M", "A", 1000, 5, 3)
    assert bench.queue(ASK, 1000) == [(2, 5), (1, 6), (3, 5)]
    bench.send("M", "B", 990, 5, 2)
    assert bench.bids() == [(990, 5, 1)]
    assert bench.send("M", "B", 990, 0, 2) == Status.OK
    assert bench.bids() == [], "a modify to nothing removes"


def test_modify_of_an_unknown_order_adds_and_is_counted(bench):
    assert bench.send("M", "B", 1000, 5, 9) == Status.UNKNOWN_ORDER
    assert bench.queue(BID, 1000) == [(9, 5)]
    assert bench.send("M", "B", 1000, 0, 8) == Status.UNKNOWN_ORDER
    assert bench.send("M", "B", 1000, 5, 0) == Status.UNKNOWN_ORDER, "0 is no order's id"
    assert bench.bids() == [(1000, 5, 1)]
    assert counts(bench.books, 1)["unknown_order"] == 3


def test_modify_to_where_no_order_can_be_removes_it(bench):
    bench.send("A", "B", 1000, 5, 1)
    bench.send("A", "B", 1000, 5, 2)
    assert bench.send("M", "B", 1005, 5, 1) == Status.OFF_TICK
    assert bench.send("M", "B", 2**62, 5, 2) == Status.OUT_OF_WINDOW
    assert bench.bids() == []


def test_add_of_a_live_order_is_a_modify(bench):
    bench.send("A", "B", 1000, 5, 1)
    bench.send("A", "B", 1000, 5, 2)
    assert bench.send("A", "B", 1010, 4, 1) == Status.DUPLICATE_ORDER
    assert bench.bids() == [(1010, 4, 1), (1000, 5, 1)]
    assert bench.send("A", "B", 1005, 4, 1) == Status.OFF_TICK
    assert bench.bids() == [(1000, 5, 1)]


def test_anonymous_quantity_comes_and_goes(bench):
    assert bench.send("A", "B", 1000, 5, 0) == Status.OK
    assert bench.send("A", "B", 1000, 2, 7) == Status.OK
    assert bench.bids() == [(1000, 7, 1)]
    assert bench.send("C", "B", 1000, 2, 99) == Status.UNKNOWN_ORDER
    assert bench.bids() == [(1000, 5, 1)], "an unknown order's cancel takes from it"
    assert bench.send("C", "B", 1000, 3, 0) == Status.OK
    assert bench.bids() == [(1000, 2, 1)]
    assert bench.send("C", "B", 1000, 1, 0) == Status.UNKNOWN_ORDER
    assert bench.send("C", "B", 1000, 1, 99) == Status.UNKNOWN_ORDER
    assert bench.bids() == [(1000, 2, 1)], "known orders are not taken from"
    for side, price in (("N", 1000), ("A", 1000), ("B", 1005), ("B", 10**16)):
        assert bench.send("C", side, price, 1, 99) == Status.UNKNOWN_ORDER


def test_price_records_set_a_whole_level(bench):
    assert bench.price("A", "A", 1000, 5) == Status.OK
    assert bench.price("M", "A", 1000, 8) == Status.OK
    assert bench.price("M", "A", 1010, 2) == Status.OK
    assert bench.asks() == [(1000, 8, 0), (1010, 2, 0)]
    assert bench.price("C", "A", 1000, 8) == Status.OK
    assert bench.price("C", "A", 1000, 8) == Status.OK, "what is gone may go again"
    assert bench.price("M", "A", 1010, 0) == Status.OK
    assert bench.asks() == []
    assert bench.price("R", "N", 0, 0) == Status.OK
    assert bench.price("T", "A", 1010, 1) == Status.OK
    assert bench.asks() == []


def test_a_stated_size_keeps_the_orders_that_fit_the_oldest_first(bench):
    for order_id in (1, 2, 3):
        bench.send("A", "B", 1000, 5, order_id)
    assert bench.price("M", "B", 1000, 20) == Status.OK
    assert bench.bids() == [(1000, 20, 3)]
    assert bench.price("M", "B", 1000, 15) == Status.OK
    assert bench.price("M", "B", 1000, 12) == Status.ORDERS_DROPPED
    assert bench.queue(BID, 1000) == [(1, 5), (2, 5)]
    assert bench.bids() == [(1000, 12, 2)]
    assert bench.send("C", "B", 1000, 2, 3) == Status.UNKNOWN_ORDER, "the dropped one is part of the rest"
    assert bench.bids() == [(1000, 10, 2)]
    assert bench.price("C", "B", 1000, 0) == Status.ORDERS_DROPPED
    assert bench.bids() == []


def test_removal_where_there_is_nothing_is_no_trouble_and_moves_no_window(bench):
    assert bench.price("C", "B", 5_000_000, 0) == Status.OK
    assert bench.send("A", "B", 1000, 5, 1) == Status.OK
    before = window(bench.books, 1)
    assert bench.price("C", "B", 5_000_000, 0) == Status.OK
    assert bench.send("C", "B", 5_000_000, 1, 0) == Status.UNKNOWN_ORDER
    assert window(bench.books, 1) == before


def test_clear_empties_the_book_far_levels_too(bench):
    for order_id in range(1, 20):
        bench.send("A", "AB"[order_id % 2], 1000 + TICK * order_id, 5, order_id)
    bench.send("A", "B", 1000, 5, 0)
    assert bench.send("A", "B", 10**6, 1, 99) == Status.OK
    assert bench.send("A", "A", 10**9, 1, 98) == Status.OK
    assert bench.bids()[0] == (10**6, 1, 1)
    assert bench.asks()[-1] == (10**9, 1, 1)
    assert bench.send("R", "N", UNDEFINED, UNDEFINED, 0) == Status.OK
    assert bench.bids() == bench.asks() == []
    assert not bench.books.bitmap.any()
    assert not bench.books.table[:, 1].any()
    assert not bench.books.levels.any()
    assert bench.send("A", "B", 10**6, 1, 99) == Status.OK
    assert bench.bids() == [(10**6, 1, 1)]


def test_trades_and_fills_do_not_change_the_book(bench):
    bench.send("A", "B", 1000, 5, 1)
    before = snapshot(bench.books)
    for action in "TFN":
        assert bench.send(action, "B", 1000, 5, 1) == Status.OK
    assert snapshot(bench.books) == before


def test_other_kinds_and_extensions_are_left_alone(bench):
    for kind in (Kind.TRADE, Kind.OPTION_QUOTE, Kind.COMMAND, 0, 200):
        assert bench.send("A", "B", 1000, 5, 1, kind=kind) == Status.OK
    extension = empty_cells(1)
    extension["kind"], extension["action"], extension["side"], extension["size"] = Kind.MBO, Action.ADD, Side.BID, 5
    assert apply(bench.books, 1, words(extension), 0) == Status.OK
    assert bench.bids() == []
    assert sum(counts(bench.books, 1).values()) == 0, "and are not counted"


@pytest.mark.parametrize(
    ("action", "side", "price", "size", "status"),
    [
        ("A", "N", 1000, 5, Status.BAD_SIDE),
        ("M", "N", 1000, 5, Status.BAD_SIDE),
        ("A", "B", 1000, 0, Status.BAD_SIZE),
        ("A", "B", 1000, -1, Status.BAD_SIZE),
        ("A", "B", 1000, UNDEFINED, Status.BAD_SIZE),
        ("C", "B", 1000, 0, Status.BAD_SIZE),
        ("C", "B", 1000, -(2**63), Status.BAD_SIZE),
        ("M", "B", 1000, -1, Status.BAD_SIZE),
        ("A", "B", UNDEFINED, 1, Status.OUT_OF_WINDOW),
        ("A", "B", -(2**63), 1, Status.OUT_OF_WINDOW),
        ("A", "B", 1001, 1, Status.OFF_TICK),
        ("A", "B", 2**61 + TICK, 1, Status.OUT_OF_WINDOW),
        ("A", "B", 10**12 + 1, 1, Status.OFF_TICK),
        ("Z", "B", 1000, 1, Status.BAD_ACTION),
        ("a", "B", 1000, 1, Status.BAD_ACTION),
    ],
)
def test_what_makes_no_sense_changes_nothing_and_is_counted(bench, action, side, price, size, status):
    bench.send("A", "B", 1000, 5, 1)
    before = snapshot(bench.books)
    assert bench.send(action, side, price, size, 2) == status
    assert counts(bench.books, 1)[status.name.lower()] == 1
    assert snapshot(bench.books) == before


@pytest.mark.parametrize("price", [UNDEFINED, UNDEFINED - 1, 2**61 + 1, -(2**61) - 1, -(2**63), 1001])
def test_a_first_price_that_cannot_be_lays_no_window(bench, price):
    assert bench.send("A", "B", price, 5, 1) in (Status.OUT_OF_WINDOW, Status.OFF_TICK)
    assert bench.send("A", "B", 1000, 5, 1) == Status.OK


def test_a_far_level_is_a_level_like_another(bench):
    bench.send("A", "B", 1000, 5, 1)
    bench.send("A", "A", 1010, 5, 2)
    far = 10**9
    assert bench.send("A", "A", far, 4, 3) == Status.OK
    assert bench.send("A", "A", far, 6, 4) == Status.OK
    assert bench.send("M", "A", far, 9, 3) == Status.OK
    assert bench.queue(ASK, far) == [(4, 6), (3, 9)]
    assert bench.price("M", "A", far, 10) == Status.ORDERS_DROPPED
    assert bench.asks() == [(1010, 5, 1), (far, 10, 1)]
    assert bench.send("C", "A", far, 4, 77) == Status.UNKNOWN_ORDER
    assert bench.send("M", "A", 1020, 6, 4) == Status.OK
    assert bench.asks() == [(1010, 5, 1), (1020, 6, 1)]
    assert bench.send("M", "A", far, 6, 2) == Status.OK, "an only order may go far and grow there"
    assert bench.send("M", "A", far, 8, 2) == Status.OK
    assert bench.asks() == [(1020, 6, 1), (far, 8, 1)]
    assert level_size(bench.books, 1, ASK, far) == 8
    assert level_size(bench.books, 1, ASK, far + TICK) == level_size(bench.books, 1, ASK, far + 1) == 0


def test_a_far_level_whose_order_finds_no_room_is_none():
    bench = Bench(orders=1)
    bench.send("A", "B", 1000, 5, 1)
    assert bench.send("A", "B", 10**9, 5, 2) == Status.TABLE_FULL
    assert bench.bids() == [(1000, 5, 1)]
    assert bench.send("C", "B", 1000, 5, 1) == Status.OK
    assert bench.bids() == []


def test_a_side_has_as_many_levels_as_a_window_has_ticks(bench):
    for number in range(64):
        assert bench.price("M", "A", 1000 + 7 * TICK * number, 1) == Status.OK
    assert bench.price("M", "A", 1000 + TICK, 1) == Status.TOO_MANY_LEVELS
    assert bench.price("M", "A", 10**9, 1) == Status.TOO_MANY_LEVELS
    assert bench.price("M", "A", 1000 + 7 * TICK, 5) == Status.OK, "one that is there may change"
    assert bench.price("M", "B", 990, 1) == Status.OK, "and the other side has its own"
    assert bench.price("M", "A", 1000, 0) == Status.OK
    assert bench.price("M", "A", 10**9, 1) == Status.OK
    assert len(bench.asks()) == 64


def test_a_quote_is_all_that_a_book_has(bench):
    for order_id, (side, price) in enumerate([("B", 1000), ("B", 990), ("A", 1010), ("A", 10**9)], 1):
        bench.send("A", side, price, 5, order_id)
    assert bench.quote((1000, 7), (1020, 3)) == Status.OK
    assert (bench.bids(), bench.asks()) == ([(1000, 7, 1)], [(1020, 3, 0)])
    assert bench.quote((1000, 2), (UNDEFINED, 3)) == Status.ORDERS_DROPPED
    assert (bench.bids(), bench.asks()) == ([(1000, 2, 0)], [])
    assert bench.quote((10**9, 0), (1010, 4)) == Status.OK, "a size of 0 is no quote"
    assert (bench.bids(), bench.asks()) == ([], [(1010, 4, 0)])
    assert bench.quote((995, 1), (1015, 4)) == Status.OFF_TICK
    assert (bench.bids(), bench.asks()) == ([], []), "what was quoted before is gone in any case"
    assert bench.quote((990, 1), (1010, -4)) == Status.BAD_SIZE
    assert (bench.bids(), bench.asks()) == ([(990, 1, 0)], [])
    assert bench.send("A", "B", 1000, 5, 9, kind=Kind.QUOTE) == Status.OUT_OF_RANGE, "a quote without its ask"
    assert bench.bids() == [(990, 1, 0)]
    assert bench.quote((1, 1), (2, 1), slot=0) == Status.UNDEFINED_SLOT


def test_how_the_sides_stand_is_told_and_counted(bench):
    def stands() -> BookState:
        return state(bench.books, 1)

    assert stands() == BookState.EMPTY
    bench.send("A", "B", 1000, 5, 1)
    assert stands() == BookState.ONE_SIDED
    bench.send("A", "A", 1010, 5, 2)
    assert stands() == state_of(bench.books, 1) == BookState.NORMAL
    bench.send("A", "B", 1010, 5, 3)
    assert stands() == BookState.LOCKED
    bench.send("A", "B", 10**9, 5, 4)
    assert stands() == BookState.CROSSED
    assert bench.bids() == [(10**9, 5, 1), (1010, 5, 1), (1000, 5, 1)], "told, not repaired"
    bench.send("M", "B", 1000, 5, 4)
    bench.send("C", "B", 1010, 5, 3)
    assert stands() == BookState.NORMAL
    bench.send("R", "N", 0, 0)
    expected = {"empty": 1, "one_sided": 1, "normal": 2, "locked": 2, "crossed": 1}
    assert {name: transitions(bench.books, 1)[name] for name in expected} == expected
    assert state_of(bench.books, 9) == state_of(bench.books, -1) == BookState.EMPTY
    for slot in (-1, 3):
        for read in (state, transitions, window):
            with pytest.raises(UsageError):
                read(bench.books, slot)


def test_sizes_never_wrap(bench):
    assert bench.send("A", "B", 1000, SIZE_MAX - 1, 1) == Status.OK
    assert bench.send("A", "B", 1000, 2, 2) == Status.BAD_SIZE
    assert bench.send("A", "B", 1000, 1, 3) == Status.OK
    assert bench.send("A", "B", 1000, 1, 0) == Status.BAD_SIZE
    assert bench.bids() == [(1000, SIZE_MAX, 2)]
    bench.send("A", "B", 1010, 5, 4)
    assert bench.send("M", "B", 1000, 5, 4) == Status.BAD_SIZE
    assert bench.send("M", "B", 1000, 2, 3) == Status.BAD_SIZE, "one that cannot grow where it is goes too"
    assert bench.bids() == [(1000, SIZE_MAX - 1, 1)]
    assert bench.send("M", "B", 1000, SIZE_MAX, 1) == Status.OK, "its own old size does not stand in its way"
    assert bench.bids() == [(1000, SIZE_MAX, 1)]


def test_a_full_table_leaves_new_orders_out_and_works_on():
    bench = Bench(orders=3)
    for order_id in (1, 2, 3):
        assert bench.send("A", "B", 1000, 1, order_id) == Status.OK
    assert bench.send("A", "B", 1000, 1, 4) == Status.TABLE_FULL
    assert bench.send("M", "B", 1000, 1, 4) == Status.TABLE_FULL
    assert bench.send("A", "B", 1000, 1, 0) == Status.OK, "an anonymous quantity needs no row"
    assert bench.send("M", "B", 1010, 1, 3) == Status.OK
    assert bench.send("C", "B", 1000, 1, 1) == Status.OK
    assert bench.send("A", "B", 1000, 1, 4) == Status.OK
    assert bench.bids() == [(1010, 1, 1), (1000, 3, 2)]


def test_a_snapshot_replaces_the_book_with_or_without_a_clear(bench):
    bench.send("A", "B", 1000, 5, 1)
    bench.send("A", "A", 1050, 5, 2)
    flags = int(Flag.SNAPSHOT)
    bench.send("A", "B", 990, 1, 7, flags=flags)
    bench.send("A", "B", 980, 1, 8, flags=flags | int(Flag.LAST))
    assert bench.bids() == [(990, 1, 1), (980, 1, 1)]
    assert bench.asks() == []
    bench.send("A", "A", 1050, 5, 2)
    bench.send("T", "A", 1050, 5, 2, flags=flags)
    assert bench.bids() == [(990, 1, 1), (980, 1, 1)], "a trade begins no snapshot"
    bench.send("R", "N", 0, 0, flags=flags)
    bench.price("A", "B", 970, 1, flags=flags)
    assert bench.bids() == [(970, 1, 0)], "nor does the record after a flagged clear begin another"


def test_slots_do_not_touch_each_other():
    books = make_books(3, orders=64, levels=64)
    for slot in range(3):
        define(books, slot, TICK)
    cells = empty_cells(3)
    cells["kind"], cells["cells"], cells["action"], cells["side"] = Kind.MBO, 1, Action.ADD, Side.BID
    cells["order_id"], cells["price"], cells["size"], cells["instrument"] = 5, 1000, 1, [70, 71, 72]
    slots = np.full(100, -1)
    slots[[70, 71, 72]] = [2, 0, -1]
    assert apply_cells(books, slots, words(cells)) == 0
    assert [levels(books, slot, BID) for slot in range(3)] == [[(1000, 1, 1)], [], [(1000, 1, 1)]]
    cells["action"] = Action.CLEAR
    apply_cells(books, slots, words(cells[:1]))
    assert [levels(books, slot, BID) for slot in range(3)] == [[(1000, 1, 1)], [], []]


def test_undefined_slots_and_numbers_out_of_range_have_a_status(bench):
    assert bench.send("A", "B", 1000, 1, 1, slot=0) == Status.UNDEFINED_SLOT
    assert bench.send("R", "B", 1000, 1, 1, slot=0) == Status.UNDEFINED_SLOT
    for slot in (-1, 3, 2**62, -(2**62)):
        assert bench.send("A", "B", 1000, 1, 1, slot=slot) == Status.OUT_OF_RANGE
        assert set_level(bench.books, slot, BID, 1000, 1) == Status.OUT_OF_RANGE
        assert best_price(bench.books, slot, BID) == UNDEFINED
        assert best_size(bench.books, slot, BID) == level_size(bench.books, slot, BID, 1000) == 0
    assert set_level(bench.books, 1, 2, 1000, 1) == Status.OUT_OF_RANGE
    cells = words(empty_cells(2))
    for row in (-1, 2, 2**62):
        assert apply(bench.books, 1, cells, row) == Status.OUT_OF_RANGE
    assert apply(bench.books, 1, cells[:, :5].copy(), 0) == Status.OUT_OF_RANGE
    assert apply_cells(bench.books, np.zeros(1, np.int64), cells[:, :5].copy()) == 2
    assert counts(bench.books, 3)["out_of_range"] == 4 * 2 + 1 + 3 + 1 + 2
    assert not bench.books.levels.any()


def test_views_read_what_is_there_and_no_further(bench):
    for order_id, price in enumerate((1000, 990, 970), 1):
        bench.send("A", "B", price, order_id, order_id)
    prices, sizes = np.zeros(2, np.int64), np.full(8, -1)
    assert depth(bench.books, 1, BID, prices, sizes) == 2
    assert (prices.tolist(), sizes[:3].tolist()) == ([1000, 990], [1, 2, -1])
    assert depth(bench.books, 1, ASK, prices, sizes) == 0
    assert depth(bench.books, 1, 5, prices, sizes) == depth(bench.books, 9, BID, prices, sizes) == 0
    assert order_counts(bench.books, 1, BID, prices) == 2
    assert order_counts(bench.books, -1, BID, prices) == 0
    assert [level_size(bench.books, 1, BID, price) for price in (1000, 995, 980, 970, UNDEFINED, -1)] == [
        1,
        0,
        0,
        3,
        0,
        0,
    ]
    assert level_size(bench.books, 0, BID, 1000) == level_size(bench.books, 1, 2, 1000) == 0
    for slot, side in ((3, BID), (-1, BID), (1, 2)):
        with pytest.raises(UsageError):
            levels(bench.books, slot, side)


def test_top_and_ladder_read_both_sides_at_once(bench):
    assert top(bench.books, 1) == (UNDEFINED, 0, UNDEFINED, 0)
    for order_id, (side, price) in enumerate([("B", 1000), ("B", 1000), ("B", 10), ("A", 1010)], 1):
        bench.send("A", side, price, order_id, order_id)
    best = top(bench.books, 1)
    assert best == (1000, 3, 1010, 4)
    assert (best.bid, best.bid_size, best.ask, best.ask_size) == (1000, 3, 1010, 4)
    assert top(bench.books, -1) == top(bench.books, 3) == (UNDEFINED, 0, UNDEFINED, 0)
    out = np.full((2, 3, 3), 9)
    assert ladder(bench.books, 1, out) == 3
    none = [UNDEFINED, 0, 0]
    assert out.tolist() == [[[1000, 3, 2], [10, 3, 1], none], [[1010, 4, 1], none, none]]
    assert ladder(bench.books, 1, out[:, :1].copy()) == 2
    assert ladder(bench.books, 7, out) == 0
    assert out.tolist() == [[none] * 3] * 2
    for shape in ((1, 3, 3), (3, 3, 3), (2, 3, 2), (2, 3, 4)):
        assert ladder(bench.books, 1, np.zeros(shape, np.int64)) == -1


def test_read_only_cells_are_taken_too(bench):
    cells = empty_cells(1)
    cells["kind"], cells["cells"], cells["action"], cells["side"] = Kind.MBP, 1, Action.MODIFY, Side.ASK
    cells["price"], cells["size"] = 1000, 3
    frozen = np.frombuffer(cells.tobytes(), np.int64).reshape(-1, 8)
    assert not frozen.flags.writeable
    assert apply(bench.books, 1, frozen, 0) == Status.OK
    assert bench.asks() == [(1000, 3, 0)]
