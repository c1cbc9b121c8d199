"""The orders of a book one by one, in the order of their priority: for whoever decides which of them trade.

Rows, entries and places are good until the book changes. Nothing here is counted in `stats`, and no order here has the
id 0: these books hold what their owner put in, so there is nothing that a record could get wrong.
"""

from __future__ import annotations

from tapehouse.book.layout import (
    BEST,
    BID,
    INVERSE,
    LINKS,
    NO_RANK,
    ORDER_ID,
    PLACE,
    QUEUE,
    REMAINING,
    ROW,
    SHIFT,
    SIZE,
)
from tapehouse.book.places import claim, locate, next_rank, place_of, price_of, rank_of
from tapehouse.book.queues import OK, enter, remove, resize
from tapehouse.book.table import find, high, home, low
from tapehouse.core.kernel import Int, State, kernel
from tapehouse.core.prefetch import prefetch


@kernel(inline=True)
def first_order(books: State, slot: Int, side: Int) -> Int:
    """The row of the oldest order at the best price of a side, 0 where the side is empty."""
    rank = books.slots[slot, BEST + side]
    return low(books.levels[place_of(books, slot, side, rank), QUEUE]) if rank != NO_RANK else 0


@kernel(inline=True)
def order_after(books: State, slot: Int, side: Int, row: Int) -> Int:
    """The row of the order that comes next: behind it at its price, or first at the next price; 0 after the last."""
    behind = high(books.orders[row, LINKS])
    if behind != 0:
        return behind
    rank = next_rank(books, slot, side, rank_of(books, books.orders[row, PLACE]))
    return low(books.levels[place_of(books, slot, side, rank), QUEUE]) if rank != NO_RANK else 0


@kernel(inline=True)
def first_order_at(books: State, slot: Int, side: Int, price: Int) -> Int:
    """The row of the oldest order at a price of a side, 0 where there is none."""
    if books.slots[slot, INVERSE] == 0:
        return 0
    place = locate(books, slot, side, price)
    return low(books.levels[place, QUEUE]) if place >= 0 else 0


@kernel(inline=True)
def order_behind(books: State, row: Int) -> Int:
    """The row of the next order at the same price, 0 after the last."""
    return high(books.orders[row, LINKS])


@kernel(inline=True)
def level_of(books: State, slot: Int, row: Int) -> tuple[Int, Int]:
    """The side and the price at which an order rests."""
    place = books.orders[row, PLACE]
    side = (place >> books.pool[SHIFT]) & 1  # Places of far levels come after an even number of books.
    return side, price_of(books, slot, side, rank_of(books, place))


@kernel()
def offered(books: State, slot: Int, side: Int, price: Int, enough: Int, levels_max: Int) -> Int:
    """The size at a side's prices that are no worse than `price`, until it is enough or the levels are too many."""
    rank = books.slots[slot, BEST + side]
    total = 0
    for _ in range(levels_max):
        if rank == NO_RANK or total >= enough:
            break
        here = price_of(books, slot, side, rank)
        if here < price if side == BID else here > price:
            break
        total += books.levels[place_of(books, slot, side, rank), SIZE]
        rank = next_rank(books, slot, side, rank)
    return total


@kernel(inline=True)
def expect_order(books: State, slot: Int, order_id: Int) -> None:
    """Fetch what `find_order` and `append_order` will look at, ahead of time."""
    prefetch(books.table, home(books.pool, slot, order_id))


@kernel(inline=True)
def find_order(books: State, slot: Int, order_id: Int) -> Int:
    """The entry of a live order, -1 where it is not live."""
    return find(books.table, books.pool, slot, order_id)


@kernel(inline=True)
def order_row(books: State, entry: Int) -> Int:
    """The row of the order at an entry."""
    return low(books.table[entry, ROW])


@kernel(inline=True)
def order_id_in(books: State, row: Int) -> Int:
    """The id under which the order in a row was appended."""
    return books.orders[row, ORDER_ID]


@kernel(inline=True)
def order_left(books: State, row: Int) -> Int:
    """What remains of the order in a row."""
    return books.orders[row, REMAINING]


@kernel(inline=True)
def append_order(books: State, slot: Int, side: Int, order_id: Int, price: Int, size: Int) -> Int:
    """Queue a new order behind the others of its price; returns its row, or minus the status that says why not."""
    place = claim(books, slot, side, price)
    if place < 0:
        return place
    status = enter(books, slot, place, order_id, size)
    if status != OK:
        return -status
    resize(books, place, size)
    return high(books.levels[place, QUEUE])


@kernel(inline=True)
def reduce_order(books: State, row: Int, size: Int) -> None:
    """Take from an order less than remains of it; it keeps its priority."""
    books.orders[row, REMAINING] -= size
    resize(books, books.orders[row, PLACE], -size)


@kernel(inline=True)
def remove_order(books: State, slot: Int, entry: Int) -> None:
    """Take an order out."""
    remove(books, slot, entry)
