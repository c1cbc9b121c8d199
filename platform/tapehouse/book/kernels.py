"""What a record does to a book: add, cancel, modify, set a level, quote, clear.

`apply` takes one record, `apply_cells` a batch of them, `set_level` one level without a record. Each returns a `Status`
and counts it. Any int64 may stand in any field of a record: what makes no sense has a status, never an effect
on memory that is not the book's.
"""

from __future__ import annotations

from tapehouse.book.apart import stay_apart
from tapehouse.book.layout import (
    ANONYMOUS,
    ASK,
    BEST,
    BID,
    IN_SNAPSHOT,
    INVERSE,
    NO_RANK,
    PLACE,
    REMAINING,
    ROW,
    SIZE,
    SIZE_MAX,
    Status,
)
from tapehouse.book.places import NO_LEVEL, claim, locate, next_rank, place_of
from tapehouse.book.queues import append, clear, clear_side, detach, drop_newest, empty_level, enter, forget, resize
from tapehouse.book.standing import note_state
from tapehouse.book.table import find, home, low
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.prefetch import prefetch
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

KIND_MBO, KIND_MBP, KIND_QUOTE = int(Kind.MBO), int(Kind.MBP), int(Kind.QUOTE)
ADD, CANCEL, MODIFY, CLEAR = int(Action.ADD), int(Action.CANCEL), int(Action.MODIFY), int(Action.CLEAR)
TRADE, FILL, NONE = int(Action.TRADE), int(Action.FILL), int(Action.NONE)
SIDE_BID, SIDE_ASK = int(Side.BID), int(Side.ASK)
SNAPSHOT = int(Flag.SNAPSHOT)
WORDS = 8  # of a cell
AHEAD = 6  # records between the fetch of an order's entry and its use: longer than memory takes


@kernel(inline=True)
def side_of(letter: Int) -> Int:
    """A cell's side as kernels number it, -1 where it is neither bid nor ask."""
    if letter == SIDE_BID:
        return BID
    return ASK if letter == SIDE_ASK else -1


@kernel(inline=True)
def cancel_anonymous(books: State, slot: Int, side: Int, price: Int, size: Int) -> tuple[Int, Int]:
    """A cancel of an order that nobody told us: what is there of its level's anonymous size goes.

    Returns:
        The level's place, and how much was taken.
    """
    if side < 0 or size == UNDEFINED:
        return 0, 0
    place = locate(books, slot, side, price)
    if place < 0:
        return 0, 0
    taken = min(size, books.levels[place, ANONYMOUS])
    books.levels[place, ANONYMOUS] -= taken
    return place, taken


@kernel(inline=True)
def state_level(books: State, slot: Int, place: Int, size: Int) -> Int:
    """Make `size` the whole size of a level, whose change the caller makes: known orders stay where they fit into it,
    the rest is anonymous. Return the `Status`."""
    known = books.levels[place, SIZE] - books.levels[place, ANONYMOUS]
    status = OK
    if known > size:
        known = drop_newest(books, slot, place, size)
        status = ORDERS_DROPPED
    books.levels[place, ANONYMOUS] = size - known
    return status


@kernel(inline=True)
def change_book(
    books: State, slot: Int, by_order: Int, action: Int, side: Int, order_id: Int, price: Int, size: Int
) -> Int:
    """Add, cancel or modify an order, or state a level, in a defined slot.

    Two levels change at most, each once and at the end: `place` by `change`, and the one that an order leaves.
    A record never changes the size of a level before it is certain what comes of it.
    """
    cancel = action == CANCEL
    known = by_order and action != ADD  # the record says that the order is there
    if side < 0 and not (by_order and cancel):
        return BAD_SIDE
    if cancel and not by_order:
        size = 0
    if size < 0 or (size > SIZE_MAX and not cancel) or (size == 0 and by_order and action != MODIFY):
        return BAD_SIZE
    entry = -1
    if by_order and order_id != 0:
        entry = find(books.table, books.pool, slot, order_id)
    status = OK
    place, change, from_place, loss = 0, 0, 0, 0
    if cancel and by_order and entry < 0:
        place, taken = cancel_anonymous(books, slot, side, price, size)
        change = -taken
        status = OK if order_id == 0 and taken == size else UNKNOWN_ORDER
    else:
        if not cancel and size != 0:
            if known and order_id == 0:
                return UNKNOWN_ORDER
            place = claim(books, slot, side, price)
        elif not by_order:
            place = locate(books, slot, side, price)
        if entry >= 0:
            row = low(books.table[entry, ROW])
            from_place, remaining = books.orders[row, PLACE], books.orders[row, REMAINING]
            left = size
            if cancel:
                place, left = from_place, max(remaining - size, 0)
                status = EXCESS_SIZE if size > remaining and size != UNDEFINED else OK
            elif size != 0:
                if place < 0:
                    status, left = -place, 0
                elif size > SIZE_MAX - books.levels[place, SIZE] + (remaining if place == from_place else 0):
                    status, left = BAD_SIZE, 0
                elif not known:
                    status = DUPLICATE_ORDER
            if left == 0:
                forget(books, slot, entry)
                loss = remaining
            else:
                books.orders[row, REMAINING] = left
                change = left
                if place == from_place:
                    change -= remaining
                else:
                    loss = remaining
                if change > 0:  # it grew or came: behind all others
                    detach(books, from_place, row)
                    append(books, place, row)
        elif by_order:
            if size == 0:
                return UNKNOWN_ORDER
            if place < 0:
                return -place
            status = enter(books, slot, place, order_id, size)
            if status != OK:
                return status
            change = size
            status = UNKNOWN_ORDER if known else OK
        else:
            if place < 0:
                return OK if place == -NO_LEVEL else -place
            status = state_level(books, slot, place, size)
            change = size - books.levels[place, SIZE]
    while change != 0 or loss != 0:
        if change != 0:
            resize(books, place, change)
        place, change, loss = from_place, -loss, 0
    return status


@kernel()
def state_price(books: State, slot: Int, side: Int, price: Int, size: Int) -> Int:
    """Make `size` the whole size at a price of a defined slot's side, 0 to empty it; return the `Status`."""
    if size < 0 or size > SIZE_MAX:
        return BAD_SIZE
    place = locate(books, slot, side, price) if size == 0 else claim(books, slot, side, price)
    if place < 0:
        return OK if place == -NO_LEVEL else -place
    status = state_level(books, slot, place, size)
    change = size - books.levels[place, SIZE]
    if change != 0:
        resize(books, place, change)
    return status


@kernel()
def state_quote(books: State, slot: Int, side: Int, price: Int, size: Int) -> Int:
    """Make one level all that a side has; none where price or size say that there is none.

    A side whose quote cannot be is empty: what was quoted before is gone in any case.
    """
    if price == UNDEFINED or size == 0:
        clear_side(books, slot, side)
        return OK
    keep = locate(books, slot, side, price)
    rank = books.slots[slot, BEST + side]
    while rank != NO_RANK:
        place = place_of(books, slot, side, rank)
        rank = next_rank(books, slot, side, rank)
        if place != keep:
            empty_level(books, slot, place)
    status = state_price(books, slot, side, price, size)
    if status != OK and status != ORDERS_DROPPED:
        clear_side(books, slot, side)
    return status


@kernel()
def change_quotes(books: State, slot: Int, words: Array, row: Int) -> Int:
    """Apply one quote record to a defined slot; the first trouble of bid and ask is what comes of it."""
    stay_apart()
    if (words[row, 6] >> 56) & 0xFF < 2 or row + 1 >= words.shape[0]:
        return OUT_OF_RANGE
    status = OK
    for side in range(2):
        came = state_quote(books, slot, side, words[row + side, 4], words[row + side, 5])
        if status == OK:
            status = came
    return status


@kernel()
def no_place(stats: Array) -> Int:
    """Count a record that was sent to no slot or row."""
    stats[stats.shape[0] - 1, OUT_OF_RANGE] += 1
    return OUT_OF_RANGE


@kernel(inline=True)
def apply_record(books: State, slot: Int, words: Array, row: Int) -> Int:
    """`apply`, without the cost of a call: for the one place of a loop through which every record comes."""
    if row < 0 or row >= words.shape[0] or words.shape[1] != WORDS:
        return no_place(books.stats)
    head, packed = words[row, 6], words[row, 7]
    kind, action = (head >> 48) & 0xFF, packed & 0xFF
    if (head >> 56) & 0xFF == 0 or (kind != KIND_MBO and kind != KIND_MBP and kind != KIND_QUOTE):
        return OK
    if slot < 0 or slot >= books.slots.shape[0]:
        return no_place(books.stats)
    status = OK
    if books.slots[slot, INVERSE] == 0:
        status = UNDEFINED_SLOT
    elif kind == KIND_QUOTE or action == ADD or action == CANCEL or action == MODIFY or action == CLEAR:
        snapshot = (packed >> 16) & SNAPSHOT
        if action == CLEAR or (snapshot != 0 and books.slots[slot, IN_SNAPSHOT] == 0):
            clear(books, slot)  # the first record of a snapshot begins a whole new book, with or without a clear
        books.slots[slot, IN_SNAPSHOT] = snapshot
        if kind == KIND_QUOTE and action != CLEAR:
            status = change_quotes(books, slot, words, row)
        elif action != CLEAR:
            side = side_of((packed >> 8) & 0xFF)
            status = change_book(
                books, slot, kind == KIND_MBO, action, side, words[row, 3], words[row, 4], words[row, 5]
            )
        note_state(books, slot)
    elif action != TRADE and action != FILL and action != NONE:
        status = BAD_ACTION
    books.stats[slot, status] += 1
    return status


@kernel(inline=True)
def expect(books: State, slots: Array, words: Array, row: Int) -> None:
    """Have the CPU fetch what `apply` will look at when it comes to a row of `words`, if there is one.

    For loops over records, some AHEAD rows early; it changes nothing.

    Args:
        slots: As `apply_cells`.
    """
    if row < words.shape[0] and words[row, 3] != 0:
        instrument = words[row, 6] & 0xFFFFFFFF
        if instrument < slots.shape[0]:
            prefetch(books.table, home(books.pool, slots[instrument], words[row, 3]))


@kernel()
def apply(books: State, slot: Int, words: Array, row: Int) -> Int:
    """Apply the record that begins in a row of cells to the book of a slot.

    Args:
        words: Cells as `market.words` shapes them, (n, 8) int64.
        row: Of a record's first cell. Extensions, and kinds other than market by order, by price and quote, do
            nothing. A quote makes its bid and its ask all that the book has: send a slot either quotes or the others.

    Returns:
        A `Status`, counted in `books.stats`.
    """
    return apply_record(books, slot, words, row)


@kernel()
def set_level(books: State, slot: Int, side: Int, price: Int, size: Int) -> Int:
    """Make `size` the whole size of a level (side 0 bid, 1 ask), 0 to empty it; as a market-by-price record would.

    Returns:
        A `Status`, counted in `books.stats`.
    """
    if slot < 0 or slot >= books.slots.shape[0] or (side != BID and side != ASK):
        return no_place(books.stats)
    status = UNDEFINED_SLOT
    if books.slots[slot, INVERSE] != 0:
        books.slots[slot, IN_SNAPSHOT] = 0
        status = state_price(books, slot, side, price, size)
    books.stats[slot, status] += 1
    note_state(books, slot)
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
        if instrument < slots.shape[0] and slots[instrument] >= 0:
            expect(books, slots, words, row + AHEAD)
            troubles += apply_record(books, slots[instrument], words, row) != OK
    return troubles
