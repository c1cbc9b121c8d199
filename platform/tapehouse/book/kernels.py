"""What a record does to a book: add, cancel, modify, set a level, clear.

`apply` takes one record, `apply_cells` a batch of them, `set_level` one level without a record. Each returns a
`Status` and counts it. Any int64 may stand in any field of a record: what makes no sense has a status, never an effect
on memory that is not the book's.
"""

from __future__ import annotations

from tapehouse.book.layout import (
    ANONYMOUS,
    ASK,
    BASE,
    BID,
    IN_SNAPSHOT,
    PLACE,
    REMAINING,
    ROW,
    SIZE,
    SIZE_MAX,
    TICK,
    Status,
)
from tapehouse.book.queues import claim, clear, drop_newest, enter, link, locate, remove, resize, unlink
from tapehouse.book.table import find, low
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.market import Action, Flag, Kind, Side

OK = int(Status.OK)
UNKNOWN_ORDER = int(Status.UNKNOWN_ORDER)
DUPLICATE_ORDER = int(Status.DUPLICATE_ORDER)
EXCESS_SIZE = int(Status.EXCESS_SIZE)
BAD_SIZE = int(Status.BAD_SIZE)
BAD_SIDE = int(Status.BAD_SIDE)
BAD_ACTION = int(Status.BAD_ACTION)
ORDERS_DROPPED = int(Status.ORDERS_DROPPED)
UNDEFINED_SLOT = int(Status.UNDEFINED_SLOT)
OUT_OF_RANGE = int(Status.OUT_OF_RANGE)

KIND_MBO, KIND_MBP = int(Kind.MBO), int(Kind.MBP)
ADD, CANCEL, MODIFY, CLEAR = int(Action.ADD), int(Action.CANCEL), int(Action.MODIFY), int(Action.CLEAR)
TRADE, FILL, NONE = int(Action.TRADE), int(Action.FILL), int(Action.NONE)
SIDE_BID, SIDE_ASK = int(Side.BID), int(Side.ASK)
SNAPSHOT = int(Flag.SNAPSHOT)
WORDS = 8  # of a cell


@kernel(inline=True)
def change_order(books: State, slot: Int, entry: Int, side: Int, price: Int, size: Int) -> Int:
    """Give a live order a new price or size. It keeps its priority only where it shrinks in place.

    An order that cannot be where its record says is removed: it is no longer where it was.
    """
    place = locate(books, slot, side, price)
    row = low(books.table[entry, ROW])
    remaining = books.orders[row, REMAINING]
    if size == 0 or place < 0:
        remove(books, slot, entry)
        return OK if size == 0 else -place
    if place == books.orders[row, PLACE] and size <= remaining:
        if size < remaining:
            books.orders[row, REMAINING] = size
            resize(books, place, size - remaining)
        return OK
    others = books.levels[place, SIZE]
    if place == books.orders[row, PLACE]:
        others -= remaining
    if size > SIZE_MAX - others:
        remove(books, slot, entry)
        return BAD_SIZE
    unlink(books, row)
    link(books, place, row, size)
    return OK


@kernel(inline=True)
def add_order(books: State, slot: Int, side: Int, order_id: Int, price: Int, size: Int) -> Int:
    """A new order. One that is live already is counted and modified; id 0 is an anonymous quantity."""
    if size <= 0 or size > SIZE_MAX:
        return BAD_SIZE
    if order_id != 0:
        entry = find(books.table, books.pool, slot, order_id)
        if entry >= 0:
            status = change_order(books, slot, entry, side, price, size)
            return DUPLICATE_ORDER if status == OK else status
    place = claim(books, slot, side, price)
    if place < 0:
        return -place
    return enter(books, slot, place, order_id, size)


@kernel(inline=True)
def modify_order(books: State, slot: Int, side: Int, order_id: Int, price: Int, size: Int) -> Int:
    """A new price and size for an order, size 0 removes it. An unknown one is counted and added, as DBN advises."""
    if size < 0 or size > SIZE_MAX:
        return BAD_SIZE
    if order_id == 0:
        return UNKNOWN_ORDER
    entry = find(books.table, books.pool, slot, order_id)
    if entry >= 0:
        return change_order(books, slot, entry, side, price, size)
    if size == 0:
        return UNKNOWN_ORDER
    place = claim(books, slot, side, price)
    if place < 0:
        return -place
    status = enter(books, slot, place, order_id, size)
    return UNKNOWN_ORDER if status == OK else status


@kernel(inline=True)
def cancel_order(books: State, slot: Int, side: Int, order_id: Int, price: Int, size: Int) -> Int:
    """Take `size` (all where undefined) from an order, which goes when nothing remains; else it keeps its priority.

    An order nobody told us may be part of its level's anonymous size: what is there is taken.
    """
    if size <= 0:
        return BAD_SIZE
    if order_id != 0:
        entry = find(books.table, books.pool, slot, order_id)
        if entry >= 0:
            row = low(books.table[entry, ROW])
            remaining = books.orders[row, REMAINING]
            if size < remaining:
                books.orders[row, REMAINING] = remaining - size
                resize(books, books.orders[row, PLACE], -size)
                return OK
            remove(books, slot, entry)
            return OK if size in (remaining, UNDEFINED) else EXCESS_SIZE
    if side < 0 or size == UNDEFINED:
        return UNKNOWN_ORDER
    place = locate(books, slot, side, price)
    if place < 0:
        return UNKNOWN_ORDER
    taken = min(size, books.levels[place, ANONYMOUS])
    if taken > 0:
        books.levels[place, ANONYMOUS] -= taken
        resize(books, place, -taken)
    return OK if order_id == 0 and taken == size else UNKNOWN_ORDER


@kernel(inline=True)
def state_level(books: State, slot: Int, side: Int, price: Int, size: Int) -> Int:
    """Make `size` the whole size of a level, 0 to empty it: the way of a market-by-price feed.

    Known orders stay where they fit into that size, the rest of it is anonymous.
    """
    if size < 0 or size > SIZE_MAX:
        return BAD_SIZE
    if size == 0:
        if books.slots[slot, BASE] == UNDEFINED:
            return OK
        place = locate(books, slot, side, price)
    else:
        place = claim(books, slot, side, price)
    if place < 0:
        return -place
    status = OK
    if books.levels[place, SIZE] - books.levels[place, ANONYMOUS] > size:
        drop_newest(books, slot, place, size)
        status = ORDERS_DROPPED
    change = size - books.levels[place, SIZE]
    if change != 0:
        books.levels[place, ANONYMOUS] += change
        resize(books, place, change)
    return status


@kernel()
def side_of(letter: Int) -> Int:
    """A cell's side as kernels number it, -1 where it is neither bid nor ask."""
    if letter == SIDE_BID:
        return BID
    return ASK if letter == SIDE_ASK else -1


@kernel(inline=True)
def change_book(books: State, slot: Int, kind: Int, words: Array, row: Int) -> Int:
    """Apply one record of market by order or by price to a slot that exists."""
    packed = words[row, 7]
    action = packed & 0xFF
    if books.slots[slot, TICK] == 0:
        return UNDEFINED_SLOT
    if action in (TRADE, FILL, NONE):
        return OK
    if action not in (ADD, CANCEL, MODIFY, CLEAR):
        return BAD_ACTION
    snapshot = (packed >> 16) & SNAPSHOT
    if action == CLEAR or (snapshot != 0 and books.slots[slot, IN_SNAPSHOT] == 0):
        clear(books, slot)  # the first record of a snapshot begins a whole new book, with or without a clear
    books.slots[slot, IN_SNAPSHOT] = snapshot
    if action == CLEAR:
        return OK
    side = side_of((packed >> 8) & 0xFF)
    order_id, price, size = words[row, 3], words[row, 4], words[row, 5]
    if kind == KIND_MBO and action == CANCEL:
        return cancel_order(books, slot, side, order_id, price, size)
    if side < 0:
        return BAD_SIDE
    if kind == KIND_MBP:
        return state_level(books, slot, side, price, 0 if action == CANCEL else size)
    if action == ADD:
        return add_order(books, slot, side, order_id, price, size)
    return modify_order(books, slot, side, order_id, price, size)


@kernel()
def apply(books: State, slot: Int, words: Array, row: Int) -> Int:
    """Apply the record that begins in a row of cells to the book of a slot.

    Args:
        words: Cells as `market.words` shapes them, (n, 8) int64.
        row: Of a record's first cell. Extensions, and kinds other than market by order and by price, do nothing.

    Returns:
        A `Status`, counted in `books.stats`.
    """
    if row < 0 or row >= words.shape[0] or words.shape[1] != WORDS:
        books.stats[books.slots.shape[0], OUT_OF_RANGE] += 1
        return OUT_OF_RANGE
    head = words[row, 6]
    kind = (head >> 48) & 0xFF
    if (kind != KIND_MBO and kind != KIND_MBP) or (head >> 56) & 0xFF == 0:
        return OK
    if slot < 0 or slot >= books.slots.shape[0]:
        books.stats[books.slots.shape[0], OUT_OF_RANGE] += 1
        return OUT_OF_RANGE
    status = change_book(books, slot, kind, words, row)
    books.stats[slot, status] += 1
    return status


@kernel()
def set_level(books: State, slot: Int, side: Int, price: Int, size: Int) -> Int:
    """Make `size` the whole size of a level (side 0 bid, 1 ask), 0 to empty it; as a market-by-price record would.

    Returns:
        A `Status`, counted in `books.stats`.
    """
    if slot < 0 or slot >= books.slots.shape[0] or side not in (BID, ASK):
        books.stats[books.slots.shape[0], OUT_OF_RANGE] += 1
        return OUT_OF_RANGE
    status = UNDEFINED_SLOT
    if books.slots[slot, TICK] != 0:
        books.slots[slot, IN_SNAPSHOT] = 0
        status = state_level(books, slot, side, price, size)
    books.stats[slot, status] += 1
    return status


@kernel()
def apply_cells(books: State, slots: Array, words: Array) -> Int:
    """Apply every record to the book of its instrument; return how many gave another status than OK.

    Args:
        slots: (instruments,) int64: the slot of each instrument id; -1, or an id beyond, has no book and is skipped.
        words: Cells as `market.words` shapes them.
    """
    if words.shape[1] != WORDS:
        books.stats[books.slots.shape[0], OUT_OF_RANGE] += words.shape[0]
        return words.shape[0]
    troubles = 0
    for row in range(words.shape[0]):
        instrument = words[row, 6] & 0xFFFFFFFF
        if instrument < slots.shape[0] and slots[instrument] >= 0 and apply(books, slots[instrument], words, row) != OK:
            troubles += 1
    return troubles
