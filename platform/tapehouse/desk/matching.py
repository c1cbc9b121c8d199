"""Price-time matching in compiled code: a request through risk, against what rests, into fills of both sides.

A request is decided whole before the next: risk, then the resting orders of the other side by price and then by age,
at *their* prices, then what is left rests or is cancelled. Every order that was announced and every one that ended is
an ORDER record, every match a FILL record of the resting order and one of the order that met it, as in
docs/formats/decisions.md. Both sides are booked with the same value, so positions and cash, fees apart, add up to zero.

Nothing here allocates or raises: `run_requests` writes one reason a request, and stops where `out` has no room for the
next. It holds the arrays of `venue_state.py` and a `Books` that nobody else changes.
"""

from __future__ import annotations

from tapehouse.book import best_price
from tapehouse.book.resting import (
    expect_order,
    find_order,
    first_order,
    offered,
    order_after,
    order_id_in,
    order_left,
    order_row,
    reduce_order,
    remove_order,
)
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.ledger import post_fill
from tapehouse.desk.ledger_state import FEE_UNIT
from tapehouse.desk.money import contract_value, multiply_divide
from tapehouse.desk.records import ACCEPTED, CANCELLED, MAKER, REJECTED, TAKER, write_fill
from tapehouse.desk.requests import (
    BAD_REQUEST,
    BUY,
    CANCEL_BOTH,
    CANCEL_NEWEST,
    CANCEL_OLDEST,
    LEDGER_FULL,
    NO_ROOM,
    NOT_FILLABLE,
    OK,
    OWN_ORDER,
    SELL,
    TOO_MANY_MATCHES,
    TOO_MANY_MESSAGES,
    UNKNOWN_ORDER,
    WOULD_CROSS,
)
from tapehouse.desk.risk import ledger_full
from tapehouse.desk.state import (
    CASH,
    FILL_COUNT,
    INDEX,
    INDEX_BITS,
    INSTRUMENT_ID,
    LAST_TRADE,
    LOT,
    MONEY_EXPONENT,
    MULTIPLIER,
    NOW,
    OPEN_BUY,
    OPEN_ORDERS,
    ORDINAL,
    OUT_ROWS,
    POSITION,
    TICK,
)
from tapehouse.desk.state import REJECTED as REJECTED_COUNT
from tapehouse.desk.venue_orders import cancel_resting, rest, shrink_resting, take_out, write_order
from tapehouse.desk.venue_risk import check_order, count_message, protection
from tapehouse.desk.venue_state import (
    CANCEL,
    FOK,
    IOC,
    LIMIT_PRICE,
    LIMIT_SIDE,
    MARKET,
    MATCHES_MAX,
    OWNER,
    POST_ONLY,
    REPLACE,
    REQUEST_ACCOUNT,
    REQUEST_KIND,
    REQUEST_NUMBER,
    REQUEST_PRICE,
    REQUEST_ROWS_MAX,
    REQUEST_SIDE,
    REQUEST_SIZE,
    REQUEST_SLOT,
    REQUEST_TARGET,
    REQUEST_TIME,
    SELF_MATCH,
)

_UNDEFINED = UNDEFINED
REQUESTS_AHEAD = 4  # of those that wait, whose target is fetched meanwhile
ORDERS_AHEAD = 16  # ids count up, so where the orders to come will be kept is known
ID_MASK = (1 << INDEX_BITS) - 1


@kernel()
def can_fill(venue: State, books: State, slot: Int, account: Int, side: Int, price: Int, size: Int) -> Int:
    """Whether an order would be filled whole: by others alone, and before it meets one of its own account."""
    needed = size
    opposite = SELL if side == BUY else BUY
    if offered(books, slot, opposite, price, size, MATCHES_MAX) < size:
        return 0  # Most that cannot be filled find so little that their orders need not be asked one by one.
    row = first_order(books, slot, opposite)
    for _ in range(MATCHES_MAX):
        if row == 0:
            return 0
        order = venue.orders[row]
        beyond = order[LIMIT_PRICE] > price if side == BUY else order[LIMIT_PRICE] < price
        if beyond or order[OWNER] == account or ledger_full(venue.accounts[order[OWNER], slot]):
            return 0
        needed -= order_left(books, row)
        if needed <= 0:
            return 1
        row = order_after(books, slot, opposite, row)
    return 0


@kernel()
def prevent(
    venue: State, books: State, out: Array, slot: Int, row: Int, order_id: Int, side: Int, price: Int, left: Int,
    number: Int,
) -> Int:  # fmt: skip
    """An order met a resting one of its own account: do as the account wants; returns what may go on, 0 to stop.

    The order itself is not written as cancelled here but where it was shrunk to nothing; the caller does the rest.
    """
    account = venue.orders[row, OWNER]
    policy = venue.limits[account, SELF_MATCH]
    if policy == CANCEL_NEWEST:
        return 0
    own = order_id_in(books, row)
    entry = find_order(books, slot, own)
    own <<= INDEX_BITS
    if policy == CANCEL_OLDEST or policy == CANCEL_BOTH:
        cancel_resting(venue, books, out, slot, entry, own, OWN_ORDER)
        return left if policy == CANCEL_OLDEST else 0
    resting = order_left(books, row)
    both = min(left, resting)
    if both == resting:
        cancel_resting(venue, books, out, slot, entry, own, OWN_ORDER)
    else:
        shrink_resting(venue, books, out, slot, row, own, resting - both, OWN_ORDER)
    if left > both:
        write_order(
            venue.counters, out, venue.instruments[slot, INSTRUMENT_ID], ACCEPTED, side, OWN_ORDER, order_id, price,
            left - both, account, number, order_id,
        )  # fmt: skip
    return left - both


@kernel()
def trade(
    venue: State, books: State, out: Array, powers: Array, slot: Int, row: Int, account: Int, side: Int,
    order_id: Int, take: Int,
) -> None:  # fmt: skip
    """Fill `take` of a resting order against a new one at the resting price: both sides booked with one value."""
    counters = venue.counters
    contract = venue.instruments[slot]
    order = venue.orders[row]
    owner, price, opposite = order[OWNER], order[LIMIT_PRICE], order[LIMIT_SIDE]
    key = order_id_in(books, row)
    theirs, ours = venue.accounts[owner, slot], venue.accounts[account, slot]
    value = contract_value(price, take, contract[MULTIPLIER], contract[MONEY_EXPONENT], powers)
    maker_fee = multiply_divide(value, venue.fees[MAKER], FEE_UNIT)
    taker_fee = multiply_divide(value, venue.fees[TAKER], FEE_UNIT)
    legs, booking = venue.legs, venue.booking
    post_fill(theirs, legs, booking, opposite, price, take, value, maker_fee, 0, contract, powers)
    post_fill(ours, legs, booking, side, price, take, value, taker_fee, 0, contract, powers)
    theirs[OPEN_BUY + opposite] -= take
    contract[LAST_TRADE] = price
    counters[FILL_COUNT] += 1
    resting_id = key << INDEX_BITS
    write_fill(
        counters, out, contract[INSTRUMENT_ID], opposite, MAKER, resting_id, price, take, maker_fee, order_id, owner,
        theirs[POSITION], theirs[CASH], 0,
    )  # fmt: skip
    write_fill(
        counters, out, contract[INSTRUMENT_ID], side, TAKER, order_id, price, take, taker_fee, resting_id, account,
        ours[POSITION], ours[CASH], 0,
    )  # fmt: skip
    if take < order_left(books, row):
        reduce_order(books, row, take)
    else:
        theirs[OPEN_ORDERS] -= 1
        remove_order(books, slot, find_order(books, slot, key))


@kernel(inline=True)
def match(
    venue: State, books: State, out: Array, powers: Array, slot: Int, account: Int, side: Int, price: Int,
    order_id: Int, size: Int, number: Int,
) -> tuple[Int, Int]:  # fmt: skip
    """Let an order meet what rests on the other side, best price first and oldest first.

    Returns:
        What is left of it, and OK or the reason why that must not rest.
    """
    left = size
    opposite = SELL if side == BUY else BUY
    for met in range(MATCHES_MAX + 1):
        row = first_order(books, slot, opposite)
        if row == 0 or left == 0:
            break
        limit = venue.orders[row, LIMIT_PRICE]
        if limit > price if side == BUY else limit < price:
            break
        if met == MATCHES_MAX:
            return left, TOO_MANY_MATCHES
        owner = venue.orders[row, OWNER]
        if owner == account:
            going_on = prevent(venue, books, out, slot, row, order_id, side, price, left, number)
            if going_on == 0:
                return left, OWN_ORDER
            left = going_on
        elif ledger_full(venue.accounts[owner, slot]):
            key = order_id_in(books, row)
            entry = find_order(books, slot, key)
            cancel_resting(venue, books, out, slot, entry, key << INDEX_BITS, LEDGER_FULL)
        else:
            take = min(left, order_left(books, row))
            trade(venue, books, out, powers, slot, row, account, side, order_id, take)
            left -= take
    return left, OK


@kernel(inline=True)
def place_order(
    venue: State, books: State, out: Array, powers: Array, slot: Int, account: Int, kind: Int, side: Int, price: Int,
    size: Int, number: Int, replaced: Int, entry: Int, checked: Int,
) -> Int:  # fmt: skip
    """Decide on one order; returns OK or the reason of its rejection.

    Args:
        replaced: The id of the order that goes where this one is accepted, 0 for none; `entry` is its entry.
        checked: OK, or why the request is rejected before it is looked at.
    """
    counters = venue.counters
    contract = venue.instruments[slot]
    instrument = contract[INSTRUMENT_ID]
    order_id = counters[ORDINAL] << INDEX_BITS
    if kind <= POST_ONLY or kind == REPLACE:
        expect_order(books, slot, counters[ORDINAL] + ORDERS_AHEAD)
    best = best_price(books, slot, SELL if side == BUY else BUY)
    released = order_left(books, order_row(books, entry)) if replaced != 0 and checked == OK else 0
    reason = checked
    if reason == OK:
        reason = check_order(
            venue.limits[account], venue.accounts[account, slot], contract, powers, side, price, size, best, released
        )
    marketable = best != _UNDEFINED and (best <= price if side == BUY else best >= price)
    if reason == OK and kind == POST_ONLY and marketable:
        reason = WOULD_CROSS
    if reason == OK and kind == FOK and can_fill(venue, books, slot, account, side, price, size) == 0:
        reason = NOT_FILLABLE
    action = ACCEPTED if reason == OK else REJECTED
    write_order(counters, out, instrument, action, side, reason, order_id, price, size, account, number, replaced)
    if reason != OK:
        counters[REJECTED_COUNT] += 1
        return reason
    if released != 0:
        take_out(venue, books, slot, entry)
    left, ended = size, OK
    if marketable:
        left, ended = match(venue, books, out, powers, slot, account, side, price, order_id, size, number)
    if left == 0:
        return OK
    if ended == OK and kind != IOC and kind != FOK and kind != MARKET:
        if rest(venue, books, slot, account, side, price, left, number) != 0:
            return OK
        ended = NO_ROOM
    write_order(counters, out, instrument, CANCELLED, side, ended, order_id, price, left, account, number, 0)
    return OK


@kernel(inline=True)
def handle(venue: State, books: State, request: Array, out: Array, powers: Array) -> Int:
    """Decide on one request, whose ordinal is in the counters; returns OK or the reason of its rejection."""
    counters = venue.counters
    kind, account, slot = request[REQUEST_KIND], request[REQUEST_ACCOUNT], request[REQUEST_SLOT]
    side, price, size = request[REQUEST_SIDE], request[REQUEST_PRICE], request[REQUEST_SIZE]
    target, number = request[REQUEST_TARGET], request[REQUEST_NUMBER]
    counters[NOW] = max(counters[NOW], request[REQUEST_TIME])
    if (
        account < 0 or account >= venue.accounts.shape[0] or slot < 0 or slot >= venue.accounts.shape[1]
        or venue.instruments[slot, TICK] == 0 or kind < 0 or kind > REPLACE or side < BUY or side > SELL
    ):  # fmt: skip
        return BAD_REQUEST
    in_time = count_message(venue.limits[account], counters[NOW])
    reason, entry, replaced = OK, -1, 0
    if kind == CANCEL or kind == REPLACE:
        replaced = target
        if target > 0 and target & ID_MASK == 0:
            entry = find_order(books, slot, target >> INDEX_BITS)
        row = order_row(books, entry) if entry >= 0 else 0
        if row == 0 or venue.orders[row, OWNER] != account:
            reason = UNKNOWN_ORDER
        else:
            side = venue.orders[row, LIMIT_SIDE]
            if kind == CANCEL:
                cancel_resting(venue, books, out, slot, entry, target, OK)
                return OK
            stays = price == venue.orders[row, LIMIT_PRICE] and 0 < size <= order_left(books, row)
            if stays and size % venue.instruments[slot, LOT] == 0:
                shrink_resting(venue, books, out, slot, row, target, size, OK)
                return OK
    elif kind == MARKET:
        price = protection(venue.instruments[slot], side)
    if reason == OK and not in_time:
        reason = TOO_MANY_MESSAGES
    return place_order(
        venue, books, out, powers, slot, account, kind, side, price, size, number, replaced, entry, reason
    )


@kernel()
def run_requests(
    venue: State, books: State, requests: Array, reasons: Array, start: Int, out: Array, powers: Array
) -> Int:
    """Decide on requests from row `start` on, in order; returns the row to go on with once `out` was emptied.

    Args:
        requests: Shape (n, REQUEST_COLUMNS) int64.
        reasons: Shape (n,): OK or why a request was rejected.
        out: Shape (rows, 8); records are written from row `counters[OUT_ROWS]` on. Of REQUEST_ROWS_MAX rows at least.
    """
    counters = venue.counters
    limit = out.shape[0] - REQUEST_ROWS_MAX
    row = start
    while row < requests.shape[0] and counters[OUT_ROWS] <= limit:
        if row + REQUESTS_AHEAD < requests.shape[0]:
            later = requests[row + REQUESTS_AHEAD]
            if later[REQUEST_KIND] >= CANCEL:
                expect_order(books, later[REQUEST_SLOT], later[REQUEST_TARGET] >> INDEX_BITS)
        counters[ORDINAL] += 1
        counters[INDEX] = 0
        reasons[row] = handle(venue, books, requests[row], out, powers)
        row += 1
    return row


@kernel()
def cancel_account(venue: State, books: State, account: Int, reason: Int, out: Array) -> Int:
    """Cancel an account's resting orders, by instrument, side, price and age, as far as one request's rows go.

    Returns:
        Whether orders of it may be left: then `out` is full.
    """
    counters = venue.counters
    counters[ORDINAL] += 1
    counters[INDEX] = 0
    last = counters[OUT_ROWS] + REQUEST_ROWS_MAX
    for slot in range(venue.accounts.shape[1]):
        for side in range(2):
            row = first_order(books, slot, side)
            while row != 0 and venue.accounts[account, slot, OPEN_BUY + side] > 0:
                after = order_after(books, slot, side, row)
                if venue.orders[row, OWNER] == account:
                    if counters[OUT_ROWS] + 2 > last:
                        return 1
                    key = order_id_in(books, row)
                    entry = find_order(books, slot, key)
                    cancel_resting(venue, books, out, slot, entry, key << INDEX_BITS, reason)
                row = after
    return 0
