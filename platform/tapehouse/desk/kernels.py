"""Orders through risk into the paper exchange, and fills into positions: the desk's compiled core.

The exchange is *paper*: our orders never touch the recorded book. A resting order joins its level behind everything
displayed; trades at its price eat the queue ahead first, a level that shrinks shrinks the queue with it, and a trade
beyond its price or new size displayed against it fills it. A marketable order takes what is displayed, level by
level. What this leaves out is in DESIGN.md.

Decisions are written as cells into `out` (shape (n, 8) words), from row `counters[OUT_ROWS]` on.
"""

from __future__ import annotations

from tapehouse.book import best_price, depth, level_size
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.money import MONEY_MAX, OVERFLOW, contract_value, multiply_divide
from tapehouse.desk.requests import (
    BAD_PRICE,
    BAD_SIZE,
    BUY,
    IOC,
    KILLED,
    OK,
    OPEN_LIMIT,
    POSITION_LIMIT,
    POST_ONLY,
    SELL,
    TOO_LARGE,
    UNKNOWN_ORDER,
    WOULD_CROSS,
)
from tapehouse.desk.state import (
    CASH,
    COST,
    DECISIONS,
    FEES,
    FILL_COUNT,
    FILLS,
    FREE_HEAD,
    INDEX,
    INSTRUMENT_ID,
    LAST_TRADE,
    LIMIT_KILLED,
    LIMIT_NOTIONAL,
    LIMIT_OPEN_ORDERS,
    LIMIT_ORDER_SIZE,
    LIMIT_POSITION,
    LOT,
    MONEY_EXPONENT,
    MULTIPLIER,
    NOW,
    OPEN_BUY,
    OPEN_SELL,
    ORDER_ACCOUNT,
    ORDER_AHEAD,
    ORDER_ID,
    ORDER_LEFT,
    ORDER_NUMBER,
    ORDER_PRICE,
    ORDER_SIDE,
    ORDER_SIZE,
    ORDER_SLOT,
    ORDINAL,
    OUT_ROWS,
    OVERFLOWS,
    POSITION,
    REALISED,
    REJECTED,
    TICK,
    VOLUME,
    WORKING_MAX,
)
from tapehouse.market import Action, Kind, Side

LADDER = 8  # levels that a marketable order may walk
INDEX_BITS = 12  # an order's id is its input's ordinal and its index among the outputs of that input
FEE_UNIT = 1_000_000

_ORDER, _FILL = int(Kind.ORDER), int(Kind.FILL)
_BID, _ASK = int(Side.BID), int(Side.ASK)
_ACCEPTED, _REJECTED, _CANCELLED = int(Action.ACCEPTED), int(Action.REJECTED), int(Action.CANCELLED)
_FILLED = int(Action.FILL)
_UNDEFINED = UNDEFINED
_MONEY_MAX = MONEY_MAX
MAKER, TAKER = 0, 1


@kernel()
def emit(
    desk: State,
    out: Array,
    slot: Int,
    kind: Int,
    action: Int,
    side: Int,
    reason: Int,
    order_id: Int,
    price: Int,
    size: Int,
) -> Int:
    """Write the two cells of a decision but for the extension's own words; return the extension's row."""
    counters = desk.counters
    row = counters[OUT_ROWS]
    index = counters[INDEX]
    small = desk.instruments[slot, INSTRUMENT_ID] | (kind << 48)
    packed = action | ((_BID if side == BUY else _ASK) << 8) | (128 << 16) | (reason << 24) | (index << 32)
    out[row, 0] = counters[NOW]
    out[row, 1] = counters[NOW]
    out[row, 2] = counters[ORDINAL]
    out[row, 3] = order_id
    out[row, 4] = price
    out[row, 5] = size
    out[row, 6] = small | (2 << 56)
    out[row, 7] = packed
    out[row + 1, 6] = small
    out[row + 1, 7] = packed
    counters[OUT_ROWS] = row + 2
    counters[INDEX] = index + 1
    counters[DECISIONS] += 1
    return row + 1


@kernel()
def emit_order(
    desk: State,
    out: Array,
    slot: Int,
    action: Int,
    side: Int,
    reason: Int,
    order_id: Int,
    price: Int,
    size: Int,
    account: Int,
    number: Int,
) -> None:
    """An ORDER record: what became of an order; `size` is what is left of it."""
    row = emit(desk, out, slot, _ORDER, action, side, reason, order_id, price, size)
    out[row, 0] = account
    out[row, 1] = number
    out[row, 2] = _UNDEFINED
    out[row, 3] = size
    out[row, 4] = 0
    out[row, 5] = 0


@kernel()
def too_large(amount: Int) -> Int:
    """Whether an amount of money is beyond what accounts may keep; OVERFLOW is."""
    return amount > _MONEY_MAX or amount < -_MONEY_MAX


@kernel()
def book_money(
    money: Array, side: Int, price: Int, size: Int, value: Int, fee: Int, contract: Array, powers: Array
) -> None:
    """Book one fill into one account's row of one instrument, at average cost; what is closed releases its share.

    Args:
        value: What `size` is worth at `price`; within MONEY_MAX, as the fee is.
        contract: The row of the instrument.
    """
    sign = 1 if side == BUY else -1
    position = money[POSITION]
    held = position if position >= 0 else -position
    if position * sign >= 0:
        money[COST] += sign * value
    else:
        closed = size if size < held else held
        closed_value = value
        if closed != size:
            closed_value = contract_value(price, closed, contract[MULTIPLIER], contract[MONEY_EXPONENT], powers)
        released = money[COST] if closed == held else multiply_divide(money[COST], closed, held)
        money[REALISED] += -sign * closed_value - released
        money[COST] += -released + sign * (value - closed_value)
    money[POSITION] = position + sign * size
    money[CASH] -= sign * value + fee
    money[FEES] += fee
    money[FILLS] += 1
    money[VOLUME] += size


@kernel()
def book_fill(
    desk: State,
    out: Array,
    powers: Array,
    slot: Int,
    account: Int,
    side: Int,
    order_id: Int,
    price: Int,
    size: Int,
    liquidity: Int,
) -> None:
    """Book one fill into the account and write its FILL record; OVERFLOWS counts amounts beyond MONEY_MAX."""
    money = desk.accounts[account, slot]
    contract = desk.instruments[slot]
    value = contract_value(price, size, contract[MULTIPLIER], contract[MONEY_EXPONENT], powers)
    fee = multiply_divide(value, desk.fees[liquidity], FEE_UNIT)
    if too_large(value) or too_large(fee):
        desk.counters[OVERFLOWS] += 1
        return
    book_money(money, side, price, size, value, fee, contract, powers)
    if too_large(money[CASH]) or too_large(money[COST]) or too_large(money[REALISED]) or too_large(money[FEES]):
        desk.counters[OVERFLOWS] += 1
        return
    desk.counters[FILL_COUNT] += 1
    row = emit(desk, out, slot, _FILL, _FILLED, side, liquidity, order_id, price, size)
    out[row, 0] = desk.counters[FILL_COUNT]
    out[row, 1] = fee
    out[row, 2] = 0
    out[row, 3] = account
    out[row, 4] = money[POSITION]
    out[row, 5] = money[CASH]


@kernel()
def check_risk(desk: State, powers: Array, slot: Int, account: Int, side: Int, price: Int, size: Int) -> Int:
    """OK or the reason why this order may not go out."""
    limits = desk.limits[account]
    contract = desk.instruments[slot]
    money = desk.accounts[account, slot]
    if limits[LIMIT_KILLED] != 0:
        return KILLED
    if size <= 0 or size > limits[LIMIT_ORDER_SIZE] * contract[LOT] or size % contract[LOT] != 0:
        return BAD_SIZE
    if price <= 0 or price == _UNDEFINED or price % contract[TICK] != 0:
        return BAD_PRICE
    value = contract_value(price, size, contract[MULTIPLIER], contract[MONEY_EXPONENT], powers)
    if value == OVERFLOW or value > limits[LIMIT_NOTIONAL]:
        return TOO_LARGE
    position = money[POSITION]
    if side == BUY:
        if position + money[OPEN_BUY] + size > limits[LIMIT_POSITION] * contract[LOT]:
            return POSITION_LIMIT
    elif position - money[OPEN_SELL] - size < -limits[LIMIT_POSITION] * contract[LOT]:
        return POSITION_LIMIT
    count = desk.working_count[slot]
    if count >= limits[LIMIT_OPEN_ORDERS] or count >= WORKING_MAX or desk.counters[FREE_HEAD] < 0:
        return OPEN_LIMIT
    return OK


@kernel()
def submit(
    desk: State,
    books: State,
    ladder: Array,
    out: Array,
    powers: Array,
    slot: Int,
    account: Int,
    side: Int,
    price: Int,
    size: Int,
    time_in_force: Int,
    number: Int,
) -> Int:
    """Decide on one limit order; returns OK or the reason of its rejection.

    Args:
        ladder: Scratch, shape (2, LADDER) int64.
        side: BUY or SELL; price and size in the instrument's units.
        number: The sender's own number for it, carried into the records.
    """
    counters = desk.counters
    order_id = (counters[ORDINAL] << INDEX_BITS) | counters[INDEX]
    opposite = SELL if side == BUY else BUY
    best = best_price(books, slot, opposite)
    marketable = best != _UNDEFINED and ((side == BUY and best <= price) or (side == SELL and best >= price))
    reason = check_risk(desk, powers, slot, account, side, price, size)
    if reason == OK and time_in_force == POST_ONLY and marketable:
        reason = WOULD_CROSS
    if reason != OK:
        counters[REJECTED] += 1
        emit_order(desk, out, slot, _REJECTED, side, reason, order_id, price, size, account, number)
        return reason
    emit_order(desk, out, slot, _ACCEPTED, side, OK, order_id, price, size, account, number)
    left = size
    if marketable:
        levels = depth(books, slot, opposite, ladder[0], ladder[1])
        for level in range(levels):
            if left == 0 or (side == BUY and ladder[0, level] > price) or (side == SELL and ladder[0, level] < price):
                break
            take = ladder[1, level] if ladder[1, level] < left else left
            book_fill(desk, out, powers, slot, account, side, order_id, ladder[0, level], take, TAKER)
            left -= take
    if left == 0:
        return OK
    if time_in_force == IOC:
        emit_order(desk, out, slot, _CANCELLED, side, OK, order_id, price, left, account, number)
        return OK
    place = counters[FREE_HEAD]
    order = desk.orders[place]
    counters[FREE_HEAD] = order[ORDER_LEFT]
    order[ORDER_ID] = order_id
    order[ORDER_SLOT] = slot
    order[ORDER_SIDE] = side
    order[ORDER_PRICE] = price
    order[ORDER_SIZE] = size
    order[ORDER_LEFT] = left
    order[ORDER_AHEAD] = level_size(books, slot, side, price)
    order[ORDER_ACCOUNT] = account
    order[ORDER_NUMBER] = number
    desk.working[slot, desk.working_count[slot]] = place
    desk.working_count[slot] += 1
    desk.accounts[account, slot, OPEN_BUY if side == BUY else OPEN_SELL] += left
    return OK


@kernel()
def remove(desk: State, slot: Int, at: Int) -> None:
    """Take the order at place `at` of the instrument's working list out, keeping the order of the others."""
    place = desk.working[slot, at]
    order = desk.orders[place]
    desk.accounts[order[ORDER_ACCOUNT], slot, OPEN_BUY if order[ORDER_SIDE] == BUY else OPEN_SELL] -= order[ORDER_LEFT]
    count = desk.working_count[slot] - 1
    for other in range(at, count):
        desk.working[slot, other] = desk.working[slot, other + 1]
    desk.working_count[slot] = count
    order[ORDER_ID] = 0
    order[ORDER_LEFT] = desk.counters[FREE_HEAD]
    desk.counters[FREE_HEAD] = place


@kernel()
def cancel_at(desk: State, out: Array, slot: Int, at: Int) -> None:
    """Cancel the order at place `at` of the instrument's working list."""
    order = desk.orders[desk.working[slot, at]]
    emit_order(
        desk,
        out,
        slot,
        _CANCELLED,
        order[ORDER_SIDE],
        OK,
        order[ORDER_ID],
        order[ORDER_PRICE],
        order[ORDER_LEFT],
        order[ORDER_ACCOUNT],
        order[ORDER_NUMBER],
    )
    remove(desk, slot, at)


@kernel()
def cancel_side(desk: State, out: Array, slot: Int, account: Int, side: Int) -> Int:
    """Cancel an account's working orders on one side of an instrument; returns how many."""
    cancelled = 0
    at = 0
    while at < desk.working_count[slot]:
        order = desk.orders[desk.working[slot, at]]
        if order[ORDER_ACCOUNT] == account and order[ORDER_SIDE] == side:
            cancel_at(desk, out, slot, at)
            cancelled += 1
        else:
            at += 1
    return cancelled


@kernel()
def cancel_order(desk: State, out: Array, slot: Int, account: Int, order_id: Int) -> Int:
    """Cancel one working order of an account; UNKNOWN_ORDER where it is not working (any more)."""
    for at in range(desk.working_count[slot]):
        order = desk.orders[desk.working[slot, at]]
        if order[ORDER_ID] == order_id and order[ORDER_ACCOUNT] == account:
            cancel_at(desk, out, slot, at)
            return OK
    return UNKNOWN_ORDER


@kernel()
def fill_resting(desk: State, out: Array, powers: Array, slot: Int, at: Int, price: Int, size: Int) -> Int:
    """Fill a resting order; returns 1 if it is done and left the working list."""
    order = desk.orders[desk.working[slot, at]]
    side = order[ORDER_SIDE]
    account = order[ORDER_ACCOUNT]
    book_fill(desk, out, powers, slot, account, side, order[ORDER_ID], price, size, MAKER)
    desk.accounts[account, slot, OPEN_BUY if side == BUY else OPEN_SELL] -= size
    order[ORDER_LEFT] -= size
    if order[ORDER_LEFT] > 0:
        return 0
    remove(desk, slot, at)
    return 1


@kernel(inline=True)
def on_trade(desk: State, out: Array, powers: Array, slot: Int, price: Int, size: Int, aggressor: Int) -> None:
    """A trade printed: queues ahead shrink, and what reaches our orders fills them; one without price or size does not.

    Args:
        aggressor: The DBN side of the aggressor; orders on the other side trade. None: only trades through a price.
    """
    if price == _UNDEFINED or size == _UNDEFINED or size <= 0:
        return
    desk.instruments[slot, LAST_TRADE] = price
    left = size
    at = 0
    while at < desk.working_count[slot] and left > 0:
        order = desk.orders[desk.working[slot, at]]
        buy = order[ORDER_SIDE] == BUY
        if aggressor == (_BID if buy else _ASK):
            at += 1
            continue
        limit = order[ORDER_PRICE]
        if (buy and price < limit) or (not buy and price > limit):
            reach = left
        elif price == limit and aggressor != Side.NONE:
            ahead = order[ORDER_AHEAD]
            order[ORDER_AHEAD] = ahead - left if ahead > left else 0
            reach = left - ahead
        else:
            reach = 0
        if reach <= 0:
            at += 1
            continue
        size_filled = order[ORDER_LEFT] if order[ORDER_LEFT] < reach else reach
        left -= size_filled
        if fill_resting(desk, out, powers, slot, at, limit, size_filled) == 0:
            at += 1


@kernel()
def on_liquidity(desk: State, out: Array, powers: Array, slot: Int, side: Int, price: Int, size: Int) -> None:
    """New size was displayed at a price: what of it crosses our resting orders trades with them, oldest first."""
    left = size
    at = 0
    while at < desk.working_count[slot] and left > 0:
        order = desk.orders[desk.working[slot, at]]
        limit = order[ORDER_PRICE]
        crossed = order[ORDER_SIDE] != side and ((side == SELL and price <= limit) or (side == BUY and price >= limit))
        if not crossed:
            at += 1
            continue
        take = order[ORDER_LEFT] if order[ORDER_LEFT] < left else left
        left -= take
        if fill_resting(desk, out, powers, slot, at, limit, take) == 0:
            at += 1


@kernel(inline=True)
def crosses(desk: State, slot: Int, side: Int, price: Int) -> Int:
    """Whether size displayed on a side at a price could fill one of our resting orders: else `on_liquidity` is idle."""
    for at in range(desk.working_count[slot]):
        order = desk.orders[desk.working[slot, at]]
        limit = order[ORDER_PRICE]
        if order[ORDER_SIDE] != side and ((side == SELL and price <= limit) or (side == BUY and price >= limit)):
            return 1
    return 0


@kernel(inline=True)
def shrink_queues(desk: State, books: State, slot: Int) -> None:
    """The book moved: the queue ahead of an order cannot be longer than its level."""
    for at in range(desk.working_count[slot]):
        order = desk.orders[desk.working[slot, at]]
        if order[ORDER_AHEAD] > 0:
            here = level_size(books, slot, order[ORDER_SIDE], order[ORDER_PRICE])
            if here < order[ORDER_AHEAD]:
                order[ORDER_AHEAD] = here
    desk.settled[slot] = 1


@kernel(inline=True)
def shrink_level(desk: State, books: State, slot: Int, side: Int, price: Int) -> None:
    """As `shrink_queues`, where one level alone can have moved."""
    for at in range(desk.working_count[slot]):
        order = desk.orders[desk.working[slot, at]]
        if order[ORDER_AHEAD] > 0 and order[ORDER_PRICE] == price and order[ORDER_SIDE] == side:
            here = level_size(books, slot, side, price)
            if here < order[ORDER_AHEAD]:
                order[ORDER_AHEAD] = here
