"""The paper exchange: what the recorded market does to our resting orders, and what a new order takes from it.

Our orders never touch the recorded book. A resting order joins its level behind everything displayed; trades at its
price eat the queue ahead first, a level that shrinks shrinks the queue with it, and a trade beyond its price or new
size displayed against it fills it. A marketable order takes what is displayed, level by level. What reaches several of
our orders reaches them by price and then by age. What this leaves out is in DESIGN.md.

Everything that a record can mean for us is asked of our best price first, so it costs little where few orders rest.
Where accounts trade with each other no record of a feed does anything here.
"""

from __future__ import annotations

from tapehouse.book import best_price, depth, level_size
from tapehouse.book.layout import LIVE
from tapehouse.book.resting import first_order, first_order_at, order_after, order_behind, order_left
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.ledger import POSTED, close_flag, fee_of, post_fill, post_street
from tapehouse.desk.money import contract_value
from tapehouse.desk.records import MAKER, TAKER, write_fill
from tapehouse.desk.requests import BUY, REDUCE_ONLY_FLAG, SELL
from tapehouse.desk.state import (
    CASH,
    CROSSING,
    FILL_COUNT,
    INSTRUMENT_ID,
    LAST_TRADE,
    MONEY_EXPONENT,
    MULTIPLIER,
    ORDER_ACCOUNT,
    ORDER_AHEAD,
    ORDER_FLAGS,
    ORDER_PRICE,
    ORDER_SIDE,
    OVERFLOWS,
    POSITION,
    STOPS,
    STREET,
    TRADED_HIGH,
    TRADED_LOW,
)
from tapehouse.desk.working import fill_shown, fit_to_position, id_in, mark_unsettled, note_position
from tapehouse.market import Side

LADDER = 8  # levels that a marketable order may walk
REACH_MAX = 2_048  # of our orders, or pieces of icebergs, that one record may fill

_BID, _ASK = int(Side.BID), int(Side.ASK)
_NONE = int(Side.NONE)
_UNDEFINED = UNDEFINED


@kernel(inline=True)
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
    flags: Int,
) -> None:
    """Book one fill into the account and write its FILL record; OVERFLOWS counts those that do not fit.

    The street has the other side of it, without a fee: so positions, and cash with fees, add up to zero.

    Args:
        flags: Of its order: one that may only reduce closes what a hedging account holds on the other side.
    """
    money, street = desk.accounts[account, slot], desk.accounts[STREET, slot]
    contract = desk.instruments[slot]
    value = contract_value(price, size, contract[MULTIPLIER], contract[MONEY_EXPONENT], powers)
    booking = desk.booking[account]
    closing = close_flag(booking, flags)
    fee = fee_of(booking, desk.fees, liquidity, value)
    legs = desk.legs[account, slot]
    status = post_fill(money, legs, booking, side, price, size, value, fee, closing, contract, powers)
    if status != POSTED or post_street(street, side, size, value) != POSTED:
        desk.counters[OVERFLOWS] += 1
        return
    desk.counters[FILL_COUNT] += 1
    write_fill(
        desk.counters, out, contract[INSTRUMENT_ID], side, liquidity, order_id, price, size, fee, 0, account,
        money[POSITION], money[CASH], closing,
    )  # fmt: skip
    note_position(desk, slot, account)


@kernel(inline=True)
def works_on_paper(desk: State, slot: Int) -> Int:
    """Whether orders of ours rest in an instrument that the recorded market fills."""
    return desk.own.slots[slot, LIVE] != 0 and desk.instruments[slot, CROSSING] == 0


@kernel()
def displayed(books: State, ladder: Array, slot: Int, side: Int, price: Int, enough: Int) -> Int:
    """What an order of a side and a price could take of the recorded book, until it is enough."""
    levels = depth(books, slot, SELL if side == BUY else BUY, ladder[0], ladder[1])
    total = 0
    for level in range(levels):
        if total >= enough or (ladder[0, level] > price if side == BUY else ladder[0, level] < price):
            break
        total += min(ladder[1, level], enough - total)
    return total


@kernel(inline=True)
def take_displayed(
    desk: State, books: State, ladder: Array, out: Array, powers: Array, slot: Int, draft: Array, order_id: Int,
    price: Int, size: Int,
) -> Int:  # fmt: skip
    """Let an order take what is displayed, level by level, at the levels' prices; returns what is left of it."""
    account, side = draft[ORDER_ACCOUNT], draft[ORDER_SIDE]
    left = size
    levels = depth(books, slot, SELL if side == BUY else BUY, ladder[0], ladder[1])
    for level in range(levels):
        if left == 0 or (ladder[0, level] > price if side == BUY else ladder[0, level] < price):
            break
        take = min(ladder[1, level], left)
        book_fill(desk, out, powers, slot, account, side, order_id, ladder[0, level], take, TAKER, draft[ORDER_FLAGS])
        left -= take
    return left


@kernel()
def fill_resting(
    desk: State, books: State, out: Array, powers: Array, slot: Int, row: Int, reach: Int
) -> tuple[Int, Int]:
    """Fill what is shown of a resting order at its limit, as far as `reach` goes.

    Returns:
        How much was filled, and the row of an iceberg's next piece, 0 where there is none.
    """
    columns = desk.orders[row]
    if columns[ORDER_FLAGS] & REDUCE_ONLY_FLAG != 0 and fit_to_position(desk, out, slot, row) == 0:
        return 0, 0
    take = min(order_left(desk.own, row), reach)
    book_fill(
        desk, out, powers, slot, columns[ORDER_ACCOUNT], columns[ORDER_SIDE], id_in(desk, row), columns[ORDER_PRICE],
        take, MAKER, columns[ORDER_FLAGS],
    )  # fmt: skip
    return take, fill_shown(desk, books, slot, row, take)


@kernel()
def trade_through(
    desk: State, books: State, out: Array, powers: Array, slot: Int, side: Int, price: Int, size: Int
) -> tuple[Int, Int]:
    """Fill our orders of a side whose limit is beyond a price, best first; (what is left of the size, how many)."""
    left = size
    for filled in range(REACH_MAX):
        row = first_order(desk.own, slot, side)
        if row == 0 or left == 0:
            return left, filled
        limit = desk.orders[row, ORDER_PRICE]
        if limit <= price if side == BUY else limit >= price:
            return left, filled
        take, _ = fill_resting(desk, books, out, powers, slot, row, left)
        left -= take
    return 0, REACH_MAX


@kernel()
def trade_at(
    desk: State, books: State, out: Array, powers: Array, slot: Int, side: Int, price: Int, size: Int, filled: Int
) -> Int:
    """A trade at a price eats the queues ahead of our orders there, and what reaches them fills them; what is left."""
    row = first_order(desk.own, slot, side)
    left = size
    while row != 0 and left > 0 and desk.orders[row, ORDER_PRICE] == price and filled < REACH_MAX:
        ahead = desk.orders[row, ORDER_AHEAD]
        desk.orders[row, ORDER_AHEAD] = max(0, ahead - left)
        behind = order_behind(desk.own, row)
        if left > ahead:
            take, piece = fill_resting(desk, books, out, powers, slot, row, left - ahead)
            left -= take
            filled += 1
            if piece != 0 and behind == 0:
                behind = piece
        row = behind
    return left


@kernel()
def reach_orders(
    desk: State, books: State, out: Array, powers: Array, slot: Int, price: Int, size: Int, aggressor: Int
) -> None:
    """What a trade means for our resting orders."""
    left = size
    for side in range(2):
        if aggressor == (_BID if side == BUY else _ASK):
            continue
        left, filled = trade_through(desk, books, out, powers, slot, side, price, left)
        if left > 0 and aggressor != _NONE:
            left = trade_at(desk, books, out, powers, slot, side, price, left, filled)


@kernel(inline=True)
def on_trade(
    desk: State, books: State, out: Array, powers: Array, slot: Int, price: Int, size: Int, aggressor: Int
) -> None:
    """A trade printed: queues ahead shrink, and what reaches our orders fills them; one without price or size does not.

    Args:
        aggressor: The DBN side of the aggressor; orders on the other side trade. None: only trades through a price.
    """
    if price == _UNDEFINED or size == _UNDEFINED or size <= 0:
        return
    contract = desk.instruments[slot]
    if contract[CROSSING] != 0:
        return
    contract[LAST_TRADE] = price
    own = desk.own
    if own.slots[slot, LIVE] != 0:
        reach_orders(desk, books, out, powers, slot, price, size, aggressor)
    if own.slots[STOPS + slot, LIVE] != 0:
        contract[TRADED_LOW] = min(contract[TRADED_LOW], price)
        contract[TRADED_HIGH] = max(contract[TRADED_HIGH], price)
        mark_unsettled(desk, slot)


@kernel(inline=True)
def crosses(desk: State, slot: Int, side: Int, price: Int) -> Int:
    """Whether size displayed on a side at a price could fill one of our resting orders: else `on_liquidity` is idle."""
    if works_on_paper(desk, slot) == 0 or price == _UNDEFINED:
        return 0
    best = best_price(desk.own, slot, SELL if side == BUY else BUY)
    return best != _UNDEFINED and (price <= best if side == SELL else price >= best)


@kernel()
def on_liquidity(
    desk: State, books: State, out: Array, powers: Array, slot: Int, side: Int, price: Int, size: Int
) -> None:
    """New size was displayed at a price: what of it crosses our resting orders trades with them, best first."""
    left = size
    for _ in range(REACH_MAX):
        if left <= 0 or crosses(desk, slot, side, price) == 0:
            return
        row = first_order(desk.own, slot, SELL if side == BUY else BUY)
        take, _ = fill_resting(desk, books, out, powers, slot, row, left)
        left -= take


@kernel()
def shrink_queues(desk: State, books: State, slot: Int) -> None:
    """The book moved: the queue ahead of an order cannot be longer than its level."""
    own = desk.own
    for side in range(2):
        row, price, here = first_order(own, slot, side), _UNDEFINED, 0
        while row != 0:
            columns = desk.orders[row]
            if columns[ORDER_AHEAD] > 0:
                if columns[ORDER_PRICE] != price:
                    price = columns[ORDER_PRICE]
                    here = level_size(books, slot, side, price)
                columns[ORDER_AHEAD] = min(columns[ORDER_AHEAD], here)
            row = order_after(own, slot, side, row)
    desk.settled[slot] = 1


@kernel()
def shrink_level(desk: State, books: State, slot: Int, side: Int, price: Int) -> None:
    """As `shrink_queues`, where one level alone can have moved."""
    own = desk.own
    row = first_order_at(own, slot, side, price)
    if row == 0:
        return
    here = level_size(books, slot, side, price)
    while row != 0:
        desk.orders[row, ORDER_AHEAD] = min(desk.orders[row, ORDER_AHEAD], here)
        row = order_behind(own, row)
