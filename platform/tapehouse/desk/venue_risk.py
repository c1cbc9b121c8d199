"""What an order must pass before it meets a book: limits of its account, the band of its instrument, the message rate.

A cancel, and a replace that only shrinks, are counted but always let through: they can only lessen a risk.
"""

from __future__ import annotations

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.money import OVERFLOW, contract_value
from tapehouse.desk.requests import (
    BAD_PRICE,
    BAD_SIZE,
    BUY,
    KILLED,
    LEDGER_FULL,
    OK,
    OPEN_LIMIT,
    OUT_OF_BAND,
    POSITION_LIMIT,
    TOO_LARGE,
)
from tapehouse.desk.risk import ledger_full
from tapehouse.desk.state import (
    LAST_TRADE,
    LIMIT_NOTIONAL,
    LIMIT_OPEN_ORDERS,
    LIMIT_ORDER_SIZE,
    LIMIT_POSITION,
    LOT,
    MONEY_EXPONENT,
    MULTIPLIER,
    OPEN_BUY,
    OPEN_ORDERS,
    POSITION,
    TICK,
)
from tapehouse.desk.venue_state import (
    BAND,
    LIMIT_KILLED,
    LIMIT_MESSAGES,
    RATE_WINDOW_NS,
    WINDOW_COUNT,
    WINDOW_START,
)

_UNDEFINED = UNDEFINED


@kernel(inline=True)
def count_message(limits: Array, now: Int) -> Int:
    """Count one message of an account; whether it is within the rate. A window begins with its first message."""
    if limits[WINDOW_COUNT] == 0 or now - limits[WINDOW_START] >= RATE_WINDOW_NS:
        limits[WINDOW_START] = now
        limits[WINDOW_COUNT] = 0
    limits[WINDOW_COUNT] += 1
    return limits[WINDOW_COUNT] <= limits[LIMIT_MESSAGES]


@kernel(inline=True)
def check_order(
    limits: Array, money: Array, contract: Array, powers: Array, side: Int, price: Int, size: Int, best: Int,
    released: Int,
) -> Int:  # fmt: skip
    """OK or the reason why this order may not go to the book.

    Args:
        best: The best price of the other side: what an order to sell may get at most, if that is more than its limit.
        released: Size of the account's own order that this one replaces, 0 for none.
    """
    if limits[LIMIT_KILLED] != 0:
        return KILLED
    lot = contract[LOT]
    if size <= 0 or size > limits[LIMIT_ORDER_SIZE] * lot or (lot != 1 and size % lot != 0):
        return BAD_SIZE
    if price <= 0 or price == _UNDEFINED or price % contract[TICK] != 0:
        return BAD_PRICE
    beyond = price - contract[LAST_TRADE] if side == BUY else contract[LAST_TRADE] - price
    if beyond > contract[BAND]:
        return OUT_OF_BAND
    at_most = price if side == BUY or best == _UNDEFINED or best < price else best
    value = contract_value(at_most, size, contract[MULTIPLIER], contract[MONEY_EXPONENT], powers)
    if value == OVERFLOW or value > limits[LIMIT_NOTIONAL]:
        return TOO_LARGE
    position = money[POSITION] if side == BUY else -money[POSITION]
    if position + money[OPEN_BUY + side] - released + size > limits[LIMIT_POSITION] * lot:
        return POSITION_LIMIT
    if money[OPEN_ORDERS] - (1 if released != 0 else 0) >= limits[LIMIT_OPEN_ORDERS]:
        return OPEN_LIMIT
    return LEDGER_FULL if ledger_full(money) else OK


@kernel(inline=True)
def protection(contract: Array, side: Int) -> Int:
    """The limit of a market order: as far from the last trade as the band goes, but at least a tick."""
    if side == BUY:
        return contract[LAST_TRADE] + contract[BAND]
    return max(contract[LAST_TRADE] - contract[BAND], contract[TICK])
