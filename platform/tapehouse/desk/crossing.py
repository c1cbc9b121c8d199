"""Accounts that trade with each other: price-time matching of a new order against what rests, at the resting prices.

Both sides are booked with the same value, so positions and cash, fees apart, add up to zero. One order meets at most
MATCHES_MAX others; an account never trades with itself.
"""

from __future__ import annotations

from tapehouse.book.layout import BEST, NO_RANK
from tapehouse.book.resting import first_order, offered, order_after, order_left
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.desk.ledger import POSTED, close_flag, fee_of, post_fill
from tapehouse.desk.money import contract_value
from tapehouse.desk.records import ACCEPTED, CANCELLED, MAKER, TAKER, write_fill, write_order
from tapehouse.desk.requests import (
    BUY,
    CANCEL_BOTH,
    CANCEL_OLDEST,
    DECREMENT,
    LEDGER_FULL,
    OK,
    OWN_ORDER,
    REDUCE_ONLY_FLAG,
    SELL,
    TOO_MANY_MATCHES,
)
from tapehouse.desk.risk import ledger_full
from tapehouse.desk.state import (
    CASH,
    FILL_COUNT,
    HIDDEN_BUY,
    INSTRUMENT_ID,
    LAST_TRADE,
    MONEY_EXPONENT,
    MULTIPLIER,
    ORDER_ACCOUNT,
    ORDER_DISPLAY,
    ORDER_FLAGS,
    ORDER_HIDDEN,
    ORDER_PRICE,
    ORDER_SIDE,
    OVERFLOWS,
    POSITION,
    SELF_MATCH,
    STOPS,
    TRADED_HIGH,
    TRADED_LOW,
)
from tapehouse.desk.working import (
    end_order,
    fill_shown,
    fit_to_position,
    id_in,
    left_of,
    mark_unsettled,
    note_position,
    shrink_order,
)

MATCHES_MAX = 1_000  # resting orders, or pieces of icebergs, that one order may meet


@kernel(inline=True)
def note_trade(desk: State, slot: Int, price: Int) -> None:
    """Something traded at a price: the stops that it has reached come alive once the present record is done."""
    own, contract = desk.own, desk.instruments[slot]
    contract[LAST_TRADE] = price
    if own.slots[STOPS + slot, BEST] != NO_RANK or own.slots[STOPS + slot, BEST + 1] != NO_RANK:
        contract[TRADED_LOW] = min(contract[TRADED_LOW], price)
        contract[TRADED_HIGH] = max(contract[TRADED_HIGH], price)
        mark_unsettled(desk, slot)


@kernel(inline=True)
def is_beyond(side: Int, price: Int, limit: Int) -> Int:
    """Whether a resting order's limit is beyond what an order of a side and a price would trade at."""
    return limit > price if side == BUY else limit < price


@kernel()
def can_fill(desk: State, slot: Int, account: Int, side: Int, price: Int, size: Int) -> Int:
    """Whether an order would be filled whole: by others alone, and before it meets one of its own account.

    Reduce-only orders are not counted on, since a fill of their account may take them away.
    """
    own = desk.own
    opposite = SELL if side == BUY else BUY
    if offered(own, slot, opposite, price, size, MATCHES_MAX) + desk.instruments[slot, HIDDEN_BUY + opposite] < size:
        return 0  # Most that cannot be filled find so little that their orders need not be asked one by one.
    needed, met = size, 0
    row = first_order(own, slot, opposite)
    while row != 0 and not is_beyond(side, price, desk.orders[row, ORDER_PRICE]):
        level, hidden, pieces = desk.orders[row, ORDER_PRICE], 0, 0
        while row != 0 and desk.orders[row, ORDER_PRICE] == level:
            columns = desk.orders[row]
            met += 1
            if met > MATCHES_MAX or columns[ORDER_ACCOUNT] == account:
                return 0
            if ledger_full(desk.accounts[columns[ORDER_ACCOUNT], slot]):
                return 0
            if columns[ORDER_FLAGS] & REDUCE_ONLY_FLAG == 0:
                needed -= order_left(own, row)
                if needed <= 0:
                    return 1
                if columns[ORDER_HIDDEN] != 0:
                    hidden += columns[ORDER_HIDDEN]
                    pieces += (columns[ORDER_HIDDEN] - 1) // columns[ORDER_DISPLAY] + 1
            row = order_after(own, slot, opposite, row)
        met += pieces  # What is hidden comes behind all that is shown at its price.
        needed -= hidden
        if met > MATCHES_MAX:
            return 0
        if needed <= 0:
            return 1
    return 0


@kernel()
def prevent(
    desk: State, out: Array, slot: Int, row: Int, draft: Array, order_id: Int, price: Int, left: Int, policy: Int
) -> Int:
    """An order met a resting one of its own account: do as the account wants; returns what may go on, 0 to stop.

    The order itself is written here only where it was shrunk and goes on; the caller does the rest.
    """
    if policy == CANCEL_OLDEST or policy == CANCEL_BOTH:
        end_order(desk, out, slot, row, CANCELLED, OWN_ORDER)
        return left if policy == CANCEL_OLDEST else 0
    if policy != DECREMENT:
        return 0
    resting = left_of(desk, row)
    both = min(left, resting)
    if both == resting:
        end_order(desk, out, slot, row, CANCELLED, OWN_ORDER)
    else:
        shrink_order(desk, out, row, resting - both, OWN_ORDER)
    if left > both:
        write_order(desk, out, slot, draft, ACCEPTED, OWN_ORDER, order_id, price, left - both, order_id)
    return left - both


@kernel(inline=True)
def cross(
    desk: State, books: State, out: Array, powers: Array, slot: Int, row: Int, account: Int, side: Int, order_id: Int,
    take: Int, flags: Int,
) -> None:  # fmt: skip
    """Fill `take` of a resting order against a new one at the resting price: both sides booked with one value."""
    counters = desk.counters
    contract = desk.instruments[slot]
    columns = desk.orders[row]
    owner, price, opposite = columns[ORDER_ACCOUNT], columns[ORDER_PRICE], columns[ORDER_SIDE]
    theirs, ours = desk.accounts[owner, slot], desk.accounts[account, slot]
    value = contract_value(price, take, contract[MULTIPLIER], contract[MONEY_EXPONENT], powers)
    maker, taker = desk.booking[owner], desk.booking[account]
    maker_fee, taker_fee = fee_of(maker, desk.fees, MAKER, value), fee_of(taker, desk.fees, TAKER, value)
    theirs_closing, ours_closing = close_flag(maker, columns[ORDER_FLAGS]), close_flag(taker, flags)
    failed = post_fill(
        theirs, desk.legs[owner, slot], maker, opposite, price, take, value, maker_fee, theirs_closing, contract, powers
    )
    failed |= post_fill(
        ours, desk.legs[account, slot], taker, side, price, take, value, taker_fee, ours_closing, contract, powers
    )
    if failed != POSTED:
        counters[OVERFLOWS] += 1
        return
    note_trade(desk, slot, price)
    counters[FILL_COUNT] += 1
    resting_id = id_in(desk, row)
    write_fill(
        counters, out, contract[INSTRUMENT_ID], opposite, MAKER, resting_id, price, take, maker_fee, order_id, owner,
        theirs[POSITION], theirs[CASH], theirs_closing,
    )  # fmt: skip
    write_fill(
        counters, out, contract[INSTRUMENT_ID], side, TAKER, order_id, price, take, taker_fee, resting_id, account,
        ours[POSITION], ours[CASH], ours_closing,
    )  # fmt: skip
    fill_shown(desk, books, slot, row, take)
    note_position(desk, slot, owner)
    note_position(desk, slot, account)


@kernel(inline=True)
def match(
    desk: State, books: State, out: Array, powers: Array, slot: Int, draft: Array, order_id: Int, price: Int, size: Int
) -> tuple[Int, Int]:
    """Let an order meet what rests on the other side, best price first and oldest first.

    Returns:
        What is left of it, and OK or the reason why that must not rest.
    """
    account, side = draft[ORDER_ACCOUNT], draft[ORDER_SIDE]
    opposite = SELL if side == BUY else BUY
    policy = desk.conduct[account, SELF_MATCH]
    left = size
    for met in range(MATCHES_MAX + 1):
        row = first_order(desk.own, slot, opposite)
        if row == 0 or left == 0 or is_beyond(side, price, desk.orders[row, ORDER_PRICE]):
            break
        if met == MATCHES_MAX:
            return left, TOO_MANY_MATCHES
        owner = desk.orders[row, ORDER_ACCOUNT]
        if owner == account:
            going_on = prevent(desk, out, slot, row, draft, order_id, price, left, policy)
            if going_on == 0:
                return left, OWN_ORDER
            left = going_on
        elif ledger_full(desk.accounts[owner, slot]):
            end_order(desk, out, slot, row, CANCELLED, LEDGER_FULL)
        elif desk.orders[row, ORDER_FLAGS] & REDUCE_ONLY_FLAG == 0 or fit_to_position(desk, out, slot, row):
            take = min(left, order_left(desk.own, row))
            cross(desk, books, out, powers, slot, row, account, side, order_id, take, draft[ORDER_FLAGS])
            if desk.counters[OVERFLOWS] != 0:  # The engine halts here: nothing more may be said.
                return 0, OK
            left -= take
    return left, OK


@kernel()
def meet_own(desk: State, out: Array, slot: Int, draft: Array, order_id: Int, price: Int, size: Int) -> tuple[Int, Int]:
    """On paper: what an account's policy makes of a new order that would cross resting ones of its own; as `match`.

    Without a policy they meet as strangers, so this need not be called.
    """
    account, side = draft[ORDER_ACCOUNT], draft[ORDER_SIDE]
    policy = desk.conduct[account, SELF_MATCH]
    opposite = SELL if side == BUY else BUY
    left, met = size, 0
    row = first_order(desk.own, slot, opposite)
    while row != 0 and not is_beyond(side, price, desk.orders[row, ORDER_PRICE]):
        after = order_after(desk.own, slot, opposite, row)
        if desk.orders[row, ORDER_ACCOUNT] == account:
            if met == MATCHES_MAX:
                return left, TOO_MANY_MATCHES
            met += 1
            going_on = prevent(desk, out, slot, row, draft, order_id, price, left, policy)
            if going_on == 0:
                return left, OWN_ORDER
            left = going_on
        row = after
    return left, OK
