"""The order core: one kernel that decides on a request, whichever door it came through.

`decide` is risk, then matching, then rest: against the recorded book where an instrument is paper, against the orders
of other accounts where it crosses. What a fill leads to besides (stops that come alive, reduce-only orders that became
too large) is done at its end by `follow_up`, and by the engine's loop after a market record. `catch_up` does what is
due before an input: what earlier inputs left of that, and orders whose time is over.
"""

from __future__ import annotations

from tapehouse.book.resting import first_order, order_left
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.reference import never_inline, refer
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.crossing import can_fill, match, meet_own
from tapehouse.desk.kernels import displayed, take_displayed
from tapehouse.desk.records import (
    ACCEPTED,
    CANCELLED,
    REJECTED,
    TRIGGERED,
    ids_left,
    next_order_id,
    write_order,
)
from tapehouse.desk.requests import (
    BAD_DISPLAY,
    BAD_EXPIRY,
    BAD_REQUEST,
    BAD_STOP,
    BUY,
    CANCEL,
    DAY,
    FOK,
    GTC,
    GTD,
    IOC,
    LIMIT,
    MARKET,
    NO_MARKET,
    NO_ROOM,
    NOT_FILLABLE,
    NOT_REDUCING,
    OK,
    POST_ONLY,
    POST_ONLY_FLAG,
    REDUCE_ONLY_FLAG,
    REPLACE,
    REQUEST_ACCOUNT,
    REQUEST_DISPLAY,
    REQUEST_EXPIRY,
    REQUEST_FLAGS,
    REQUEST_KIND,
    REQUEST_NUMBER,
    REQUEST_PRICE,
    REQUEST_SIDE,
    REQUEST_SIZE,
    REQUEST_SLOT,
    REQUEST_STOP,
    REQUEST_TARGET,
    REQUEST_TIME_IN_FORCE,
    REQUEST_TYPE,
    SELL,
    STOP,
    STOP_LIMIT,
    SUBMIT,
    TOO_MANY_MESSAGES,
    UNKNOWN_ACCOUNT,
    UNKNOWN_ORDER,
    WOULD_CROSS,
)
from tapehouse.desk.risk import check_order, count_message, market_price, protection, reference_price
from tapehouse.desk.state import (
    CROSSING,
    ID_BASE,
    INDEX,
    INSTRUMENTS_MAX,
    LAST_TRADE,
    LOT,
    NO_POLICY,
    NOW,
    ORDER_ACCOUNT,
    ORDER_DISPLAY,
    ORDER_EXPIRY,
    ORDER_FLAGS,
    ORDER_NUMBER,
    ORDER_PRICE,
    ORDER_SIDE,
    ORDER_SIZE,
    ORDER_STOP,
    ORDER_TIME_IN_FORCE,
    ORDER_TYPE,
    OUT_ROWS,
    OVER_REDUCED,
    OVERFLOWS,
    REDUCING_BUY,
    SELF_MATCH,
    SESSION_CLOSE,
    STOPS,
    STREET,
    TICK,
    TRADED_HIGH,
    TRADED_LOW,
    UNSETTLED,
    UNSETTLED_SLOTS,
)
from tapehouse.desk.state import (
    REJECTED as REJECTED_COUNT,
)
from tapehouse.desk.working import (
    cancel_order,
    closable,
    entry_of,
    expire_due,
    find_working,
    id_in,
    left_of,
    put_to_work,
    shrink_order,
    take_out,
    trim_reducing,
)

DAY_NS = 86_400_000_000_000
FOLLOWED_MAX = 2_048  # records of an input after which it lets no more stops come alive: the next input goes on
_UNDEFINED = UNDEFINED
_DRAFTED = -1  # no reason: row 0 of `orders` holds an order to place


@kernel()
def decide(desk: State, books: State, ladder: Array, out: Array, powers: Array, request: Array) -> Int:
    """Decide on one request; returns OK or the reason of its rejection. What became of it are records in `out`.

    A request that names no instrument, account, side or kind, or to cancel or replace what does not work, leaves no
    record, nor does one beyond the orders that an input may announce; `refuse` writes one where a door owes it.

    Args:
        ladder: Scratch, shape (2, LADDER) int64.
        request: Shape (REQUEST_COLUMNS,): see `requests.py`.
    """
    return _decide(refer(desk), refer(books), ladder, out, powers, request)


@kernel()
def _decide(desk: State, books: State, ladder: Array, out: Array, powers: Array, request: Array) -> Int:
    """`decide`, of references: compiled once for all doors, since the core is what takes longest to compile."""
    never_inline()
    slot, account, kind = request[REQUEST_SLOT], request[REQUEST_ACCOUNT], request[REQUEST_KIND]
    if not 0 <= slot < INSTRUMENTS_MAX or desk.instruments[slot, TICK] == 0:
        return BAD_REQUEST
    if not 0 <= account < STREET:
        return UNKNOWN_ACCOUNT
    in_time = count_message(desk.conduct[account], desk.counters[NOW])
    if kind == CANCEL:
        return cancel_order(desk, out, slot, account, request[REQUEST_TARGET])
    standing, entry, row = 0, -1, 0
    if kind == REPLACE:
        reason, standing, entry, row = draft_replacement(desk, out, request)
    elif kind == SUBMIT:
        reason = draft_order(desk, request)
    else:
        return BAD_REQUEST
    if reason == _DRAFTED:
        checked = OK if in_time else TOO_MANY_MESSAGES
        reason = place(desk, books, ladder, out, powers, slot, standing, entry, row, checked)
    if desk.instruments[slot, UNSETTLED] != 0:
        follow_up(desk, books, ladder, out, powers, slot, 0)
    return reason


@kernel()
def submit(
    desk: State, books: State, ladder: Array, out: Array, powers: Array, slot: Int, account: Int, side: Int, price: Int,
    size: Int, time_in_force: Int, number: Int,
) -> Int:  # fmt: skip
    """Decide on one limit order that names nothing else; as `decide`."""
    request = desk.request
    request[:] = 0
    request[REQUEST_KIND] = SUBMIT
    request[REQUEST_ACCOUNT] = account
    request[REQUEST_SLOT] = slot
    request[REQUEST_SIDE] = side
    request[REQUEST_TYPE] = LIMIT
    request[REQUEST_TIME_IN_FORCE] = time_in_force
    request[REQUEST_PRICE] = price
    request[REQUEST_SIZE] = size
    request[REQUEST_NUMBER] = number
    return decide(desk, books, ladder, out, powers, request)


@kernel()
def refuse(desk: State, out: Array, request: Array, reason: Int) -> None:
    """Write the rejection of a request of a known instrument that left no record; of a cancel or replace it names what
    that named. The order's id is 0: none was announced."""
    draft = desk.orders[0]
    write_draft(desk, request, draft)
    desk.counters[REJECTED_COUNT] += 1
    target = request[REQUEST_TARGET] if request[REQUEST_KIND] != SUBMIT else 0
    slot = request[REQUEST_SLOT]
    write_order(desk, out, slot, draft, REJECTED, reason, 0, draft[ORDER_PRICE], draft[ORDER_SIZE], target)


@kernel(inline=True)
def write_draft(desk: State, request: Array, draft: Array) -> None:
    """Write a request's terms as an order's columns: row 0 of `orders`, which no order has."""
    draft[:] = 0
    draft[ORDER_ACCOUNT] = request[REQUEST_ACCOUNT]
    draft[ORDER_NUMBER] = request[REQUEST_NUMBER]
    draft[ORDER_SIDE] = request[REQUEST_SIDE]
    draft[ORDER_PRICE] = request[REQUEST_PRICE]
    draft[ORDER_SIZE] = request[REQUEST_SIZE]
    draft[ORDER_DISPLAY] = request[REQUEST_DISPLAY]
    draft[ORDER_EXPIRY] = request[REQUEST_EXPIRY]
    draft[ORDER_TYPE] = request[REQUEST_TYPE]
    draft[ORDER_TIME_IN_FORCE] = request[REQUEST_TIME_IN_FORCE]
    draft[ORDER_FLAGS] = request[REQUEST_FLAGS]
    draft[ORDER_STOP] = request[REQUEST_STOP] if request[REQUEST_TYPE] >= STOP else _UNDEFINED
    if request[REQUEST_TIME_IN_FORCE] == POST_ONLY:
        draft[ORDER_TIME_IN_FORCE] = GTC
        draft[ORDER_FLAGS] |= POST_ONLY_FLAG


@kernel(inline=True)
def draft_order(desk: State, request: Array) -> Int:
    """Draft a new order in row 0 of `orders`; _DRAFTED, or why it is none."""
    order_type, time_in_force, side = request[REQUEST_TYPE], request[REQUEST_TIME_IN_FORCE], request[REQUEST_SIDE]
    if not LIMIT <= order_type <= STOP_LIMIT or not GTC <= time_in_force <= GTD or not BUY <= side <= SELL:
        return BAD_REQUEST
    write_draft(desk, request, desk.orders[0])
    return _DRAFTED


@kernel(inline=True)
def draft_replacement(desk: State, out: Array, request: Array) -> tuple[Int, Int, Int, Int]:
    """Give an order another price, size, stop or display: in its place where it only shrinks, else a draft is made.

    Of each 0 keeps what the order has; side, type, time in force, flags and expiry always stay.

    Returns:
        _DRAFTED, OK where it is done, or why not; and the order that goes: its slot of `own`, its entry, its row.
    """
    slot, account, target = request[REQUEST_SLOT], request[REQUEST_ACCOUNT], request[REQUEST_TARGET]
    standing, entry, row = find_working(desk, slot, account, target)
    if row == 0:
        return UNKNOWN_ORDER, 0, -1, 0
    columns = desk.orders[row]
    price = request[REQUEST_PRICE] if request[REQUEST_PRICE] != 0 else columns[ORDER_PRICE]
    size = request[REQUEST_SIZE] if request[REQUEST_SIZE] != 0 else left_of(desk, row)
    stop = request[REQUEST_STOP] if request[REQUEST_STOP] != 0 else columns[ORDER_STOP]
    display = request[REQUEST_DISPLAY] if request[REQUEST_DISPLAY] != 0 else columns[ORDER_DISPLAY]
    same_price = price == columns[ORDER_PRICE] or columns[ORDER_TYPE] == STOP
    same_terms = same_price and stop == columns[ORDER_STOP] and display == columns[ORDER_DISPLAY]
    if same_terms and 0 < size <= left_of(desk, row) and size % desk.instruments[slot, LOT] == 0:
        shrink_order(desk, out, row, size, OK)
        return OK, 0, -1, 0
    draft = desk.orders[0]
    for column in range(columns.shape[0]):
        draft[column] = columns[column]
    draft[ORDER_NUMBER] = request[REQUEST_NUMBER]
    draft[ORDER_PRICE] = price
    draft[ORDER_SIZE] = size
    draft[ORDER_STOP] = stop
    draft[ORDER_DISPLAY] = display if request[REQUEST_DISPLAY] != 0 or display < size else 0
    if standing < STOPS and columns[ORDER_TYPE] >= STOP:  # It came alive: what it is now is a limit order.
        draft[ORDER_TYPE] = LIMIT
        draft[ORDER_STOP] = _UNDEFINED
    return _DRAFTED, standing, entry, row


@kernel(inline=True)
def check_terms(desk: State, books: State, slot: Int, draft: Array, best: Int) -> Int:
    """OK or what is wrong with an order's own terms; its expiry and the price of one that names none are filled in."""
    contract, now = desk.instruments[slot], desk.counters[NOW]
    side, order_type, time_in_force = draft[ORDER_SIDE], draft[ORDER_TYPE], draft[ORDER_TIME_IN_FORCE]
    if order_type == MARKET or order_type == STOP:
        draft[ORDER_PRICE] = draft[ORDER_STOP] if order_type == STOP else 0
        if draft[ORDER_FLAGS] & POST_ONLY_FLAG != 0:
            return BAD_REQUEST
    if order_type == MARKET:
        if best == _UNDEFINED:
            return NO_MARKET
        reference = reference_price(desk, books, slot)
        price = protection(desk, slot, draft[ORDER_ACCOUNT], side, reference if reference != 0 else best)
        draft[ORDER_PRICE] = price
        if best > price if side == BUY else best < price:
            return NO_MARKET
    if order_type == STOP or order_type == STOP_LIMIT:
        stop, last = draft[ORDER_STOP], contract[LAST_TRADE]
        if stop <= 0 or stop == _UNDEFINED or stop % contract[TICK] != 0:
            return BAD_STOP
        if last != 0 and (stop <= last if side == BUY else stop >= last):
            return BAD_STOP
    display = draft[ORDER_DISPLAY]
    if display != 0:
        shown_whole = order_type == MARKET or order_type == STOP or time_in_force == IOC or time_in_force == FOK
        if display < 0 or display % contract[LOT] != 0 or display >= draft[ORDER_SIZE] or shown_whole:
            return BAD_DISPLAY
    if time_in_force == DAY and draft[ORDER_EXPIRY] == 0:
        close = contract[SESSION_CLOSE]
        draft[ORDER_EXPIRY] = close if close > now else (now // DAY_NS + 1) * DAY_NS
    if time_in_force == DAY or time_in_force == GTD:
        if draft[ORDER_EXPIRY] <= now:
            return BAD_EXPIRY
    else:
        draft[ORDER_EXPIRY] = 0
    return OK


@kernel(inline=True)
def check_draft(
    desk: State, books: State, ladder: Array, powers: Array, slot: Int, draft: Array, best: Int, row: Int
) -> Int:
    """OK or the reason why the draft may not go out: its terms, risk, and what its flags and time in force want.

    Args:
        best: The best price that it would meet.
        row: Of the order that it replaces, 0 for none.
    """
    reason = check_terms(desk, books, slot, draft, best)
    account, side, size = draft[ORDER_ACCOUNT], draft[ORDER_SIDE], draft[ORDER_SIZE]
    if reason != OK:
        return reason
    price, waits = draft[ORDER_PRICE], draft[ORDER_TYPE] >= STOP
    reference = draft[ORDER_STOP] if waits else reference_price(desk, books, slot)
    if draft[ORDER_TYPE] == STOP:
        price = protection(desk, slot, account, side, reference)
    released = left_of(desk, row) if row != 0 else 0
    reducing = draft[ORDER_FLAGS] & REDUCE_ONLY_FLAG != 0
    at_most = best if desk.instruments[slot, CROSSING] != 0 else _UNDEFINED
    reason = check_order(desk, powers, slot, account, side, price, size, reference, at_most, released, reducing)
    if reason != OK:
        return reason
    if reducing:
        others = desk.accounts[account, slot, REDUCING_BUY + side] - released
        if size > closable(desk, account, slot, side) - others:
            return NOT_REDUCING
    return OK if waits else check_market(desk, books, ladder, slot, draft, price, best)


@kernel(inline=True)
def is_marketable(side: Int, price: Int, best: Int) -> Int:
    """Whether an order would trade with the best price that it meets."""
    return best != _UNDEFINED and (best <= price if side == BUY else best >= price)


@kernel(inline=True)
def check_market(desk: State, books: State, ladder: Array, slot: Int, draft: Array, price: Int, best: Int) -> Int:
    """OK, WOULD_CROSS of a post-only order that would trade, or NOT_FILLABLE of a fill-or-kill order."""
    side, size = draft[ORDER_SIDE], draft[ORDER_SIZE]
    if draft[ORDER_FLAGS] & POST_ONLY_FLAG != 0 and is_marketable(side, price, best):
        return WOULD_CROSS
    if draft[ORDER_TIME_IN_FORCE] == FOK:
        if desk.instruments[slot, CROSSING] != 0:
            if can_fill(desk, slot, draft[ORDER_ACCOUNT], side, price, size) == 0:
                return NOT_FILLABLE
        elif displayed(books, ladder, slot, side, price, size) < size:
            return NOT_FILLABLE
    return OK


@kernel(inline=True)
def place(
    desk: State,
    books: State,
    ladder: Array,
    out: Array,
    powers: Array,
    slot: Int,
    standing: Int,
    entry: Int,
    row: Int,
    checked: Int,
) -> Int:
    """Decide on the draft in row 0 of `orders`; returns OK or the reason of its rejection.

    Args:
        row: Of the order that goes where this one is accepted, 0 for none; it stands in slot `standing` of `own`, at
            `entry`.
        checked: OK, or why the request is rejected before it is looked at.
    """
    counters = desk.counters
    if ids_left(counters) <= 0:
        return NO_ROOM
    draft = desk.orders[0]
    side = draft[ORDER_SIDE]
    best = market_price(desk, books, slot, SELL if side == BUY else BUY)
    reason = checked
    if reason == OK:
        reason = check_draft(desk, books, ladder, powers, slot, draft, best, row)
    order_id = next_order_id(counters)
    replaced = id_in(desk, row) if row != 0 else 0
    action = ACCEPTED if reason == OK else REJECTED
    price, size = draft[ORDER_PRICE], draft[ORDER_SIZE]
    write_order(desk, out, slot, draft, action, reason, order_id, price, size, replaced)
    if reason != OK:
        counters[REJECTED_COUNT] += 1
        return reason
    if row != 0:
        take_out(desk, standing, entry)
    if draft[ORDER_TYPE] >= STOP:
        if put_to_work(desk, books, slot, draft, order_id, size, 1) == 0:
            write_order(desk, out, slot, draft, CANCELLED, NO_ROOM, order_id, price, size, 0)
        return OK
    work(desk, books, ladder, out, powers, slot, draft, order_id)
    return OK


@kernel(inline=True)
def work(
    desk: State, books: State, ladder: Array, out: Array, powers: Array, slot: Int, draft: Array, order_id: Int
) -> None:
    """Let the draft meet the market; what is left of it rests or is cancelled."""
    side, price, left, ended = draft[ORDER_SIDE], draft[ORDER_PRICE], draft[ORDER_SIZE], OK
    crossing = desk.instruments[slot, CROSSING] != 0
    if crossing:
        left, ended = match(desk, books, out, powers, slot, draft, order_id, price, left)
    else:
        if desk.conduct[draft[ORDER_ACCOUNT], SELF_MATCH] != NO_POLICY:
            left, ended = meet_own(desk, out, slot, draft, order_id, price, left)
        if ended == OK and is_marketable(side, price, market_price(desk, books, slot, SELL if side == BUY else BUY)):
            left = take_displayed(desk, books, ladder, out, powers, slot, draft, order_id, price, left)
    if left == 0:
        return
    order_type, time_in_force = draft[ORDER_TYPE], draft[ORDER_TIME_IN_FORCE]
    rests = order_type == LIMIT or order_type == STOP_LIMIT
    if ended == OK and rests and time_in_force != IOC and time_in_force != FOK:
        if put_to_work(desk, books, slot, draft, order_id, left, 0) != 0:
            return
        ended = NO_ROOM
    write_order(desk, out, slot, draft, CANCELLED, ended, order_id, price, left, 0)


@kernel()
def next_triggered(desk: State, slot: Int) -> Int:
    """The row of the next stop that a trade has reached, 0 for none: buy stops from below, then sells from above."""
    own, contract = desk.own, desk.instruments[slot]
    row = first_order(own, STOPS + slot, SELL)
    if row != 0 and desk.orders[row, ORDER_STOP] <= contract[TRADED_HIGH]:
        return row
    row = first_order(own, STOPS + slot, BUY)
    return row if row != 0 and desk.orders[row, ORDER_STOP] >= contract[TRADED_LOW] else 0


@kernel()
def come_alive(desk: State, books: State, ladder: Array, out: Array, powers: Array, slot: Int, row: Int) -> None:
    """A stop was reached: from now on it is the order that it stood for, and meets the market as one."""
    draft = desk.orders[0]
    columns = desk.orders[row]
    for column in range(columns.shape[0]):
        draft[column] = columns[column]
    order_id, left, side = id_in(desk, row), order_left(desk.own, row), draft[ORDER_SIDE]
    take_out(desk, STOPS + slot, entry_of(desk, STOPS + slot, row))
    if draft[ORDER_TYPE] == STOP:
        draft[ORDER_PRICE] = protection(desk, slot, draft[ORDER_ACCOUNT], side, desk.instruments[slot, LAST_TRADE])
    draft[ORDER_SIZE] = left
    price = draft[ORDER_PRICE]
    write_order(desk, out, slot, draft, TRIGGERED, OK, order_id, price, left, 0)
    best = market_price(desk, books, slot, SELL if side == BUY else BUY)
    reason = check_market(desk, books, ladder, slot, draft, price, best)
    if reason == OK and draft[ORDER_TYPE] == STOP and not is_marketable(side, price, best):
        reason = NO_MARKET
    if reason != OK:
        write_order(desk, out, slot, draft, CANCELLED, reason, order_id, price, left, 0)
        return
    work(desk, books, ladder, out, powers, slot, draft, order_id)


@kernel()
def follow_up(desk: State, books: State, ladder: Array, out: Array, powers: Array, slot: Int, limit: Int) -> Int:
    """Do what fills and trades in an instrument lead to: cut reduce-only orders, let the stops that were reached go.

    Args:
        limit: 0: until this input has led to FOLLOWED_MAX records. Else until `out` has so many rows.

    Returns:
        1 where stops that were reached still wait: `catch_up` goes on with them.
    """
    return _follow_up(refer(desk), refer(books), ladder, out, powers, slot, limit)


@kernel()
def _follow_up(desk: State, books: State, ladder: Array, out: Array, powers: Array, slot: Int, limit: Int) -> Int:
    """`follow_up`, of references."""
    never_inline()
    counters, contract = desk.counters, desk.instruments[slot]
    while True:
        if counters[OVERFLOWS] != 0:  # The engine halts at this input.
            return 0
        if contract[OVER_REDUCED] != 0:
            trim_reducing(desk, out, slot)
        row = next_triggered(desk, slot)
        if row == 0:
            break
        full = counters[OUT_ROWS] > limit if limit != 0 else counters[INDEX] - counters[ID_BASE] >= FOLLOWED_MAX
        if full:
            return 1
        come_alive(desk, books, ladder, out, powers, slot, row)
    contract[TRADED_LOW] = _UNDEFINED
    contract[TRADED_HIGH] = 0
    if contract[UNSETTLED] != 0:
        contract[UNSETTLED] = 0
        counters[UNSETTLED_SLOTS] -= 1
    return 0


@kernel()
def catch_up(desk: State, books: State, ladder: Array, out: Array, powers: Array, limit: Int) -> Int:
    """Before an input: let go the stops that earlier ones left, and end the orders whose time is over.

    Args:
        limit: Of rows of `out`.

    Returns:
        1 where there is more: empty `out` and call again, for the same input.
    """
    if desk.counters[UNSETTLED_SLOTS] != 0:
        for slot in range(INSTRUMENTS_MAX):
            unsettled = desk.instruments[slot, UNSETTLED] != 0
            if unsettled and follow_up(desk, books, ladder, out, powers, slot, limit) != 0:
                return 1
    if expire_due(desk, out, limit) != 0:
        return 1
    desk.counters[ID_BASE] = desk.counters[INDEX]
    return 0
