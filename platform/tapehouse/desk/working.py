"""Our own working orders: how they come to rest, shrink, end and are found. What became of each is an ORDER record.

A resting order stands in slot `slot` of `own` under its limit, a stop that waits in slot `STOPS + slot` under its stop:
buy stops among the asks there and sell stops among the bids, so that the one that is reached first is the best.
"""

from __future__ import annotations

from tapehouse.book import level_size
from tapehouse.book.layout import LIVE
from tapehouse.book.resting import (
    append_order,
    find_order,
    first_order,
    order_after,
    order_id_in,
    order_left,
    order_row,
    reduce_order,
    remove_order,
)
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.desk.due import forget_due, note_due
from tapehouse.desk.ledger import closable as held_against
from tapehouse.desk.records import ACCEPTED, CANCELLED, EXPIRED, key_of, order_id_of, write_order
from tapehouse.desk.requests import BUY, NOT_REDUCING, OK, REDUCE_ONLY_FLAG, SELL, SESSION_ENDED, UNKNOWN_ORDER
from tapehouse.desk.state import (
    CROSSING,
    HIDDEN_BUY,
    INSTRUMENTS_MAX,
    NEXT_DUE,
    NOW,
    OPEN_BUY,
    OPEN_ORDERS,
    ORDER_ACCOUNT,
    ORDER_AHEAD,
    ORDER_DISPLAY,
    ORDER_DUE,
    ORDER_EXPIRY,
    ORDER_FLAGS,
    ORDER_HIDDEN,
    ORDER_PRICE,
    ORDER_SIDE,
    ORDER_SLOT,
    ORDER_STOP,
    ORDERS_MAX,
    OUT_ROWS,
    OVER_REDUCED,
    REDUCING_BUY,
    REDUCING_SELL,
    STOPS,
    UNSETTLED,
    UNSETTLED_SLOTS,
    WORKING,
    WORKING_MAX,
)

ORDER_ROWS = 2  # that an ORDER record takes


@kernel(inline=True)
def left_of(desk: State, row: Int) -> Int:
    """What is left of an order, its hidden size included."""
    return order_left(desk.own, row) + desk.orders[row, ORDER_HIDDEN]


@kernel(inline=True)
def id_in(desk: State, row: Int) -> Int:
    """The id of the order in a row."""
    return order_id_of(order_id_in(desk.own, row))


@kernel(inline=True)
def entry_of(desk: State, place: Int, row: Int) -> Int:
    """The entry of the order in a row of slot `place` of `own`."""
    return find_order(desk.own, place, order_id_in(desk.own, row))


@kernel(inline=True)
def mark_unsettled(desk: State, slot: Int) -> None:
    """Have `orders.follow_up` look at an instrument once the present record or request is done."""
    if desk.instruments[slot, UNSETTLED] == 0:
        desk.instruments[slot, UNSETTLED] = 1
        desk.counters[UNSETTLED_SLOTS] += 1


@kernel(inline=True)
def count_open(desk: State, slot: Int, columns: Array, change: Int) -> None:
    """Change what an order's account has working in an instrument by a size."""
    money = desk.accounts[columns[ORDER_ACCOUNT], slot]
    side = columns[ORDER_SIDE]
    money[OPEN_BUY + side] += change
    if columns[ORDER_FLAGS] & REDUCE_ONLY_FLAG != 0:
        money[REDUCING_BUY + side] += change


@kernel(inline=True)
def put_to_work(desk: State, books: State, slot: Int, draft: Array, order_id: Int, left: Int, waits: Int) -> Int:
    """Let what is left of the draft rest, or wait for its stop; whether there was room.

    Args:
        books: The recorded ones, which say how long the queue is that it joins.
    """
    counters = desk.counters
    own = desk.own
    live = own.slots[slot, LIVE] + own.slots[STOPS + slot, LIVE]
    if live >= WORKING_MAX or counters[WORKING] >= ORDERS_MAX:
        return 0
    side, price = draft[ORDER_SIDE], draft[ORDER_PRICE]
    shown = left
    if waits != 0:
        row = append_order(own, STOPS + slot, SELL if side == BUY else BUY, key_of(order_id), draft[ORDER_STOP], left)
    else:
        if 0 < draft[ORDER_DISPLAY] < left:
            shown = draft[ORDER_DISPLAY]
        row = append_order(own, slot, side, key_of(order_id), price, shown)
    if row < 0:
        return 0
    columns = desk.orders[row]
    for column in range(columns.shape[0]):
        columns[column] = draft[column]
    columns[ORDER_SLOT] = slot
    columns[ORDER_DUE] = 0
    columns[ORDER_AHEAD] = 0
    columns[ORDER_HIDDEN] = left - shown
    contract = desk.instruments[slot]
    if waits == 0:
        contract[HIDDEN_BUY + side] += left - shown
        if contract[CROSSING] == 0:
            columns[ORDER_AHEAD] = level_size(books, slot, side, price)
    count_open(desk, slot, columns, left)
    desk.accounts[columns[ORDER_ACCOUNT], slot, OPEN_ORDERS] += 1
    counters[WORKING] += 1
    if columns[ORDER_EXPIRY] != 0:
        note_due(desk, row)
    return 1


@kernel(inline=True)
def take_out(desk: State, place: Int, entry: Int) -> None:
    """Take an order out of slot `place` of `own` and out of what its account has open."""
    row = order_row(desk.own, entry)
    columns = desk.orders[row]
    slot = columns[ORDER_SLOT]
    hidden = columns[ORDER_HIDDEN]
    count_open(desk, slot, columns, -(order_left(desk.own, row) + hidden))
    desk.accounts[columns[ORDER_ACCOUNT], slot, OPEN_ORDERS] -= 1
    desk.instruments[slot, HIDDEN_BUY + columns[ORDER_SIDE]] -= hidden
    desk.counters[WORKING] -= 1
    if columns[ORDER_DUE] != 0:
        forget_due(desk, row)
    remove_order(desk.own, place, entry)


@kernel(inline=True)
def end_order(desk: State, out: Array, place: Int, row: Int, action: Int, reason: Int) -> None:
    """Write that an order is cancelled or expired, and why, and take it out."""
    end_entry(desk, out, place, entry_of(desk, place, row), row, action, reason)


@kernel(inline=True)
def end_entry(desk: State, out: Array, place: Int, entry: Int, row: Int, action: Int, reason: Int) -> None:
    """`end_order` of one that was just found."""
    columns = desk.orders[row]
    write_order(
        desk, out, columns[ORDER_SLOT], columns, action, reason, id_in(desk, row), columns[ORDER_PRICE],
        left_of(desk, row), 0,
    )  # fmt: skip
    take_out(desk, place, entry)


@kernel()
def shrink_order(desk: State, out: Array, row: Int, size: Int, reason: Int) -> None:
    """Leave `size`, at most what is left, of an order in its place; it is announced anew, replacing itself.

    What is hidden goes first.
    """
    columns = desk.orders[row]
    slot = columns[ORDER_SLOT]
    by = left_of(desk, row) - size
    hidden = min(by, columns[ORDER_HIDDEN])
    columns[ORDER_HIDDEN] -= hidden
    desk.instruments[slot, HIDDEN_BUY + columns[ORDER_SIDE]] -= hidden
    if by > hidden:
        reduce_order(desk.own, row, by - hidden)
    count_open(desk, slot, columns, -by)
    order_id = id_in(desk, row)
    write_order(desk, out, slot, columns, ACCEPTED, reason, order_id, columns[ORDER_PRICE], size, order_id)


@kernel(inline=True)
def fill_shown(desk: State, books: State, slot: Int, row: Int, take: Int) -> Int:
    """Take `take`, at most what is shown, from a resting order; an iceberg's next piece goes to the back of its level.

    Returns:
        The row of that next piece, 0 where there is none.
    """
    own = desk.own
    columns = desk.orders[row]
    if take < order_left(own, row):
        reduce_order(own, row, take)
        count_open(desk, slot, columns, -take)
        return 0
    entry = entry_of(desk, slot, row)
    if columns[ORDER_HIDDEN] == 0:
        take_out(desk, slot, entry)
        return 0
    piece = min(columns[ORDER_DISPLAY], columns[ORDER_HIDDEN])
    columns[ORDER_HIDDEN] -= piece
    side, price = columns[ORDER_SIDE], columns[ORDER_PRICE]
    desk.instruments[slot, HIDDEN_BUY + side] -= piece
    count_open(desk, slot, columns, -take)
    if desk.instruments[slot, CROSSING] == 0:
        columns[ORDER_AHEAD] = level_size(books, slot, side, price)
    key = order_id_in(own, row)
    remove_order(own, slot, entry)
    return append_order(own, slot, side, key, price, piece)  # The row that was given back last: the same one.


@kernel(inline=True)
def closable(desk: State, account: Int, slot: Int, side: Int) -> Int:
    """How much an order on a side can close of the account's position."""
    return held_against(desk.accounts[account, slot], desk.legs[account, slot], desk.booking[account], side)


@kernel()
def fit_to_position(desk: State, out: Array, slot: Int, row: Int) -> Int:
    """Have a reduce-only order about to trade be no larger than what it can close; 0 where nothing is left of it."""
    columns = desk.orders[row]
    room = closable(desk, columns[ORDER_ACCOUNT], slot, columns[ORDER_SIDE])
    if room == 0:
        end_order(desk, out, slot, row, CANCELLED, NOT_REDUCING)
        return 0
    if left_of(desk, row) > room:
        shrink_order(desk, out, row, room, NOT_REDUCING)
    return 1


@kernel(inline=True)
def note_position(desk: State, slot: Int, account: Int) -> None:
    """After a fill: note where the account's reduce-only orders may close more than there is by now."""
    money = desk.accounts[account, slot]
    if money[REDUCING_BUY] | money[REDUCING_SELL] == 0:
        return
    for side in range(2):
        if money[REDUCING_BUY + side] > closable(desk, account, slot, side):
            desk.instruments[slot, OVER_REDUCED] = 1
            mark_unsettled(desk, slot)


@kernel()
def trim_reducing(desk: State, out: Array, slot: Int) -> None:
    """Cut reduce-only orders of an instrument to what their account can close: first come, first kept."""
    desk.instruments[slot, OVER_REDUCED] = 0
    for account in range(desk.accounts.shape[0]):
        for side in range(2):
            if desk.accounts[account, slot, REDUCING_BUY + side] > closable(desk, account, slot, side):
                trim_side(desk, out, slot, account, side)


@kernel()
def trim_side(desk: State, out: Array, slot: Int, account: Int, side: Int) -> None:
    """Cut an account's reduce-only orders of one side, those that rest before those that wait."""
    room = closable(desk, account, slot, side)
    for waits in range(2):
        place = STOPS + slot if waits else slot
        listed = 1 - side if waits else side
        row = first_order(desk.own, place, listed)
        while row != 0:
            after = order_after(desk.own, place, listed, row)
            columns = desk.orders[row]
            if columns[ORDER_ACCOUNT] == account and columns[ORDER_FLAGS] & REDUCE_ONLY_FLAG != 0:
                left = left_of(desk, row)
                if room == 0:
                    end_order(desk, out, place, row, CANCELLED, NOT_REDUCING)
                elif left > room:
                    shrink_order(desk, out, row, room, NOT_REDUCING)
                room -= min(left, room)
            row = after


@kernel(inline=True)
def find_working(desk: State, slot: Int, account: Int, order_id: Int) -> tuple[Int, Int, Int]:
    """(slot of `own`, entry, row) of an account's order, row 0 where it does not work."""
    key = key_of(order_id)
    if key != 0:
        for waits in range(2):
            place = STOPS + slot if waits else slot
            entry = find_order(desk.own, place, key)
            if entry >= 0:
                row = order_row(desk.own, entry)
                if desk.orders[row, ORDER_ACCOUNT] == account:
                    return place, entry, row
    return slot, -1, 0


@kernel(inline=True)
def cancel_order(desk: State, out: Array, slot: Int, account: Int, order_id: Int) -> Int:
    """Cancel one working order of an account; UNKNOWN_ORDER where it is not working (any more)."""
    place, entry, row = find_working(desk, slot, account, order_id)
    if row == 0:
        return UNKNOWN_ORDER
    end_entry(desk, out, place, entry, row, CANCELLED, OK)
    return OK


@kernel()
def mass_cancel(desk: State, out: Array, account: Int, slot: Int, side: Int) -> Int:
    """Cancel working orders: by instrument, those that rest and then the stops, by side, price and age.

    Args:
        account, slot, side: Whose, of which instrument, of which side; -1 for all.

    Returns:
        1 where `out` is full and more may have to go: empty it and call again. 0 where all are gone.
    """
    for at in range(max(slot, 0), slot + 1 if slot >= 0 else INSTRUMENTS_MAX):
        for part in range(4):
            place = at if part < 2 else STOPS + at
            which = part & 1
            listed = which if part < 2 else 1 - which
            if side >= 0 and which != side:
                continue
            row = first_order(desk.own, place, listed)
            while row != 0 and (account < 0 or desk.accounts[account, at, OPEN_BUY + which] > 0):
                after = order_after(desk.own, place, listed, row)
                if account < 0 or desk.orders[row, ORDER_ACCOUNT] == account:
                    if desk.counters[OUT_ROWS] + ORDER_ROWS > out.shape[0]:
                        return 1
                    end_order(desk, out, place, row, CANCELLED, OK)
                row = after
    return 0


@kernel()
def cancel_side(desk: State, out: Array, slot: Int, account: Int, side: Int) -> Int:
    """Cancel an account's working orders on one side of an instrument; as `mass_cancel`."""
    return mass_cancel(desk, out, account, slot, side)


@kernel()
def expire_due(desk: State, out: Array, limit: Int) -> Int:
    """End the working orders whose time is over, the earliest and then the oldest first.

    Args:
        limit: Of rows of `out`: no order is ended beyond it.

    Returns:
        1 where more are due than there was room for: empty `out` and call again.
    """
    counters = desk.counters
    while counters[NEXT_DUE] <= counters[NOW]:
        if counters[OUT_ROWS] + ORDER_ROWS > limit:
            return 1
        row = desk.due[1]
        slot = desk.orders[row, ORDER_SLOT]
        entry = entry_of(desk, slot, row)
        place = slot if entry >= 0 and order_row(desk.own, entry) == row else STOPS + slot
        end_order(desk, out, place, row, EXPIRED, SESSION_ENDED)
    return 0
