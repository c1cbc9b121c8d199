"""The resting orders of a venue, and the records that say what became of an order."""

from __future__ import annotations

from tapehouse.book.resting import append_order, order_left, order_row, reduce_order, remove_order
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.records import ACCEPTED, CANCELLED, write_record
from tapehouse.desk.requests import BUY
from tapehouse.desk.state import (
    INSTRUMENT_ID,
    OPEN_BUY,
    OPEN_ORDERS,
    ORDINAL,
)
from tapehouse.desk.venue_state import LIMIT_PRICE, LIMIT_SIDE, OWNER, OWNER_NUMBER
from tapehouse.market import Kind, Side

_ORDER = int(Kind.ORDER) << 48
_BID, _ASK = int(Side.BID) << 8, int(Side.ASK) << 8
_UNDEFINED = UNDEFINED


@kernel()
def write_order(
    counters: Array, out: Array, instrument: Int, action: Int, side: Int, reason: Int, order_id: Int, price: Int,
    size: Int, account: Int, number: Int, replaced: Int,
) -> None:  # fmt: skip
    """An ORDER record: what became of an order; `size` is what is left of it, `replaced` the order it stands for."""
    packed = action | (_BID if side == BUY else _ASK) | (reason << 24)
    row = write_record(counters, out, instrument | _ORDER, packed, order_id, price, size)
    extension = out[row]
    extension[0] = account
    extension[1] = number
    extension[2] = _UNDEFINED
    extension[3] = size
    extension[4] = 0
    extension[5] = replaced


@kernel(inline=True)
def rest(venue: State, books: State, slot: Int, account: Int, side: Int, price: Int, left: Int, number: Int) -> Int:
    """Queue what is left of the present request's order; whether there was room."""
    row = append_order(books, slot, side, venue.counters[ORDINAL], price, left)
    if row < 0:
        return 0
    order = venue.orders[row]
    order[OWNER] = account
    order[OWNER_NUMBER] = number
    order[LIMIT_PRICE] = price
    order[LIMIT_SIDE] = side
    money = venue.accounts[account, slot]
    money[OPEN_BUY + side] += left
    money[OPEN_ORDERS] += 1
    return 1


@kernel()
def take_out(venue: State, books: State, slot: Int, entry: Int) -> None:
    """Take a resting order out of the books and of what its account has open."""
    row = order_row(books, entry)
    money = venue.accounts[venue.orders[row, OWNER], slot]
    money[OPEN_BUY + venue.orders[row, LIMIT_SIDE]] -= order_left(books, row)
    money[OPEN_ORDERS] -= 1
    remove_order(books, slot, entry)


@kernel()
def cancel_resting(venue: State, books: State, out: Array, slot: Int, entry: Int, order_id: Int, reason: Int) -> None:
    """Cancel a resting order and say why."""
    row = order_row(books, entry)
    order = venue.orders[row]
    write_order(
        venue.counters, out, venue.instruments[slot, INSTRUMENT_ID], CANCELLED, order[LIMIT_SIDE], reason, order_id,
        order[LIMIT_PRICE], order_left(books, row), order[OWNER], order[OWNER_NUMBER], 0,
    )  # fmt: skip
    take_out(venue, books, slot, entry)


@kernel()
def shrink_resting(
    venue: State, books: State, out: Array, slot: Int, row: Int, order_id: Int, size: Int, reason: Int
) -> None:
    """Leave `size`, less than now, of a resting order in its place; it is announced anew, replacing itself."""
    order = venue.orders[row]
    by = order_left(books, row) - size
    if by > 0:
        reduce_order(books, row, by)
        venue.accounts[order[OWNER], slot, OPEN_BUY + order[LIMIT_SIDE]] -= by
    write_order(
        venue.counters, out, venue.instruments[slot, INSTRUMENT_ID], ACCEPTED, order[LIMIT_SIDE], reason, order_id,
        order[LIMIT_PRICE], size, order[OWNER], order[OWNER_NUMBER], order_id,
    )  # fmt: skip
