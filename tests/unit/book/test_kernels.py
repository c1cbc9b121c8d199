"""What each record does to a book, one rule at a time."""

import numpy as np
import pytest

from tapehouse.book import (
    ASK,
    BID,
    Status,
    apply,
    apply_cells,
    best_price,
    best_size,
    counts,
    define,
    depth,
    level_size,
    levels,
    make_books,
    order_counts,
    set_level,
    snapshot,
)
from tapehouse.book.layout import SIZE_MAX
from tapehouse.core import UNDEFINED, UsageError
from tapehouse.market import Action, Flag, Kind, Side, empty_cells, words

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

    def bids(self):
        return levels(self.books, 1, BID)

    def asks(self):
        return levels(self.books, 1, ASK)

    def queue(self, side: int, price: int) -> list[tuple[int, int]]:
        """The (id, size) of a level's orders, oldest first, read from the snapshot's words."""
        found = np.frombuffer(snapshot(self.books), "<i8").tolist()
        at = 5 + 1 + 4  # the header, slot 0, the head of slot 1
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
    assert bench.send("M", "B", 10**15, 5, 2) == Status.OUT_OF_WINDOW
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


def test_removal_before_any_price_lays_no_window(bench):
    assert bench.price("C", "B", 5_000_000, 0) == Status.OK
    assert bench.send("A", "B", 1000, 5, 1) == Status.OK
    assert bench.price("C", "B", 5_000_000, 0) == Status.OUT_OF_WINDOW


def test_clear_empties_the_book_and_lays_the_window_anew(bench):
    for order_id in range(1, 20):
        bench.send("A", "AB"[order_id % 2], 1000 + TICK * order_id, 5, order_id)
    bench.send("A", "B", 1000, 5, 0)
    assert bench.send("A", "B", 10**6, 1, 99) == Status.OUT_OF_WINDOW
    assert bench.send("R", "N", UNDEFINED, UNDEFINED, 0) == Status.OK
    assert bench.bids() == bench.asks() == []
    assert not bench.books.bitmap.any()
    assert not bench.books.table[:, 1].any()
    assert bench.send("A", "B", 10**6, 1, 99) == Status.OK
    assert bench.bids() == [(10**6, 1, 1)]


def test_trades_and_fills_do_not_change_the_book(bench):
    bench.send("A", "B", 1000, 5, 1)
    before = snapshot(bench.books)
    for action in "TFN":
        assert bench.send(action, "B", 1000, 5, 1) == Status.OK
    assert snapshot(bench.books) == before


def test_other_kinds_and_extensions_are_left_alone(bench):
    for kind in (Kind.TRADE, Kind.QUOTE, Kind.COMMAND, 0, 200):
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
        ("A", "B", 1000 + 32 * TICK, 1, Status.OUT_OF_WINDOW),
        ("A", "B", 1000 - 33 * TICK, 1, Status.OUT_OF_WINDOW),
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


def test_the_window_holds_its_first_and_last_price(bench):
    bench.send("A", "B", 1000, 1, 1)
    for order_id, price in ((2, 1000 - 32 * TICK), (3, 1000 + 31 * TICK)):
        assert bench.send("A", "B", price, 1, order_id) == Status.OK
        assert bench.send("A", "A", price, 1, order_id + 10) == Status.OK
    assert [price for price, _, _ in bench.bids()] == [1310, 1000, 680]
    assert [price for price, _, _ in bench.asks()] == [680, 1310]


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


def test_read_only_cells_are_taken_too(bench):
    cells = empty_cells(1)
    cells["kind"], cells["cells"], cells["action"], cells["side"] = Kind.MBP, 1, Action.MODIFY, Side.ASK
    cells["price"], cells["size"] = 1000, 3
    frozen = np.frombuffer(cells.tobytes(), np.int64).reshape(-1, 8)
    assert not frozen.flags.writeable
    assert apply(bench.books, 1, frozen, 0) == Status.OK
    assert bench.asks() == [(1000, 3, 0)]
