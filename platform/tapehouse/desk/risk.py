"""What an order must pass before it goes anywhere: one check for orders on paper and where accounts cross.

Kill switches, size, ticks, the band around a reference price, notional, position with all that works on that side, open
orders. The reference is the last trade, else the middle of the market; where there is neither, no band holds. Messages
are counted in a second of engine time; a cancel, and a replace that only shrinks, are counted but never refused.
"""

from __future__ import annotations

from tapehouse.book import best_price
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.ledger_state import SIZE_MAX
from tapehouse.desk.money import MONEY_MAX, OVERFLOW, contract_value, multiply_divide
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
    SELL,
    TOO_LARGE,
)
from tapehouse.desk.state import (
    CASH,
    COST,
    CROSSING,
    FEES,
    LAST_TRADE,
    LIMIT_BAND,
    LIMIT_MESSAGES,
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
    REALISED,
    SWITCHED_OFF,
    TICK,
    UNIT_SCALE,
    WINDOW_COUNT,
    WINDOW_START,
)

RATE_WINDOW_NS = 1_000_000_000  # of engine time, in which an account's messages are counted
BAND_UNIT = 1_000_000
PROTECTION = 100_000  # of the reference, in BAND_UNIT: how far a market order goes where its account has no band
LEDGER_MAX = MONEY_MAX >> 3  # of an account that crosses: nothing can pass MONEY_MAX by one order
PRICE_MAX = 1 << 61  # of a reference
ORDER_MAX = SIZE_MAX >> 1  # so that a position, all that works on its side, and one order more add up without a wrap
_UNDEFINED = UNDEFINED


@kernel(inline=True)
def ledger_full(money: Array) -> Int:
    """Whether an account's amounts are so large that one more order could pass what can be counted."""
    most = max(abs(money[CASH]), abs(money[COST]))
    most = max(most, max(abs(money[REALISED]), abs(money[FEES])))
    return most > LEDGER_MAX


@kernel(inline=True)
def is_above(value: Int, limit: Int, scale: Int, powers: Array) -> Int:
    """Whether an amount that is not negative is more than a limit, exactly.

    Args:
        scale: The exponent of the amount's unit less that of the limit's.
    """
    most = powers.shape[0] - 1
    if scale > most:  # One unit of it is more than any limit.
        return value > 0
    if scale < -most:  # All that can be counted is less than a unit of the limit.
        return value > 0 and limit == 0
    if scale < 0:  # Rounded up, so that a part of the limit's unit beyond it counts.
        unit = powers[-scale]
        return value // unit + (1 if value % unit != 0 else 0) > limit
    return value > limit // powers[scale]


@kernel(inline=True)
def is_above_lots(size: Int, lots: Int, lot: Int) -> Int:
    """Whether a size is more than so many lots, whose product may not fit 64 bits."""
    if lot == 1:
        return size > lots
    return (size - 1) // lot >= lots


@kernel(inline=True)
def count_message(conduct: Array, now: Int) -> Int:
    """Count one message of an account; whether it is within the rate. A window begins with its first message."""
    if conduct[WINDOW_COUNT] == 0 or now - conduct[WINDOW_START] >= RATE_WINDOW_NS:
        conduct[WINDOW_START] = now
        conduct[WINDOW_COUNT] = 0
    conduct[WINDOW_COUNT] += 1
    return conduct[WINDOW_COUNT] <= conduct[LIMIT_MESSAGES]


@kernel(inline=True)
def reference_price(desk: State, books: State, slot: Int) -> Int:
    """The price that bands lie around: the last trade, else the middle of the market, else 0 for none."""
    contract = desk.instruments[slot]
    if 0 < contract[LAST_TRADE] <= PRICE_MAX:
        return contract[LAST_TRADE]
    bid = market_price(desk, books, slot, BUY)
    ask = market_price(desk, books, slot, SELL)
    if bid == _UNDEFINED or ask == _UNDEFINED or bid <= 0:
        return 0
    return bid + (ask - bid) // 2


@kernel(inline=True)
def market_price(desk: State, books: State, slot: Int, side: Int) -> Int:
    """The best price of a side that an order would meet: of what crosses, or of the recorded book."""
    if desk.instruments[slot, CROSSING] != 0:
        return best_price(desk.own, slot, side)
    return best_price(books, slot, side)


@kernel(inline=True)
def protection(desk: State, slot: Int, account: Int, side: Int, reference: Int) -> Int:
    """The limit of an order that names none: as far from the reference as the account's band goes, at least a tick."""
    tick = desk.instruments[slot, TICK]
    band = desk.limits[account, slot, LIMIT_BAND]
    reach = multiply_divide(reference, band if band != 0 else PROTECTION, BAND_UNIT)
    if side == BUY:
        return (reference + reach) // tick * tick
    return max(tick, -((reach - reference) // tick) * tick)


@kernel(inline=True)
def check_order(
    desk: State, powers: Array, slot: Int, account: Int, side: Int, price: Int, size: Int, reference: Int, best: Int,
    released: Int, reducing: Int,
) -> Int:  # fmt: skip
    """OK or the reason why this order may not go out.

    Args:
        reference: The price that the band lies around, 0 for no band.
        best: What an order to sell may get at most where that is more than its limit; UNDEFINED on paper.
        released: Size of the account's own order that this one replaces, 0 for none.
        reducing: Whether it can only reduce a position, so that no limit of one concerns it.
    """
    contract = desk.instruments[slot]
    limits = desk.limits[account, slot]
    money = desk.accounts[account, slot]
    if desk.conduct[account, SWITCHED_OFF] != 0:
        return KILLED
    lot = contract[LOT]
    if size <= 0 or size > ORDER_MAX or is_above_lots(size, limits[LIMIT_ORDER_SIZE], lot):
        return BAD_SIZE
    if lot != 1 and size % lot != 0:
        return BAD_SIZE
    if price <= 0 or price == _UNDEFINED or price % contract[TICK] != 0:
        return BAD_PRICE
    if limits[LIMIT_BAND] != 0 and reference != 0:
        beyond = price - reference if side == BUY else reference - price
        if beyond > multiply_divide(reference, limits[LIMIT_BAND], BAND_UNIT):
            return OUT_OF_BAND
    at_most = price if side == BUY or best == _UNDEFINED or best < price else best
    value = contract_value(at_most, size, contract[MULTIPLIER], contract[MONEY_EXPONENT], powers)
    if value == OVERFLOW or is_above(value, limits[LIMIT_NOTIONAL], contract[UNIT_SCALE], powers):
        return TOO_LARGE
    position = money[POSITION] if side == BUY else -money[POSITION]
    position += money[OPEN_BUY + side] - released + size  # if all of that side is filled
    if reducing == 0 and (position > SIZE_MAX or is_above_lots(position, limits[LIMIT_POSITION], lot)):
        return POSITION_LIMIT
    if money[OPEN_ORDERS] - (1 if released != 0 else 0) >= limits[LIMIT_OPEN_ORDERS]:
        return OPEN_LIMIT
    if contract[CROSSING] != 0 and (value > LEDGER_MAX or ledger_full(money)):
        return LEDGER_FULL
    return OK
