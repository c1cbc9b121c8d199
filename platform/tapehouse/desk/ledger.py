"""The ledger: what one fill does to one account's position, cash and profit, exact; and what must always add up.

One kernel books every fill, whoever asks: the desk, a venue, and the projection that reads what they decided. An
account is *netting* (a purchase closes what is short before it is long) or *hedging* (a long and a short leg held
apart: only an order with the close flag closes the other leg). What is closed releases its cost by *average*, or by
*fifo*, oldest lot first. Amounts count the currency's unit, sizes the instrument's; profit and cost are before fees.

For every row: cash + fees + cost - realised = 0. The other side of a paper fill, and of a correction, is the *street*,
the last row of `accounts`; so for every instrument positions, and cash with fees, add up to zero over all rows.
"""

from __future__ import annotations

from typing import Any

from tapehouse.core.errors import DataError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.ledger_state import (
    AVERAGE,
    FEE_UNIT,
    FIFO,
    FIRST_LOT,
    HEDGING,
    LEG_COST,
    LEG_LOTS,
    LEG_SIZE,
    LOTS_MAX,
    MAKER_FEE,
    METHOD,
    METHODS,
    MODE,
    MODES,
    NETTING,
    SIZE_MAX,
    write_booking,
)
from tapehouse.desk.money import MONEY_MAX, POWERS, contract_value, multiply_divide
from tapehouse.desk.requests import BUY, REDUCE_ONLY_FLAG, SELL
from tapehouse.desk.state import (
    CASH,
    COST,
    FEES,
    FILLS,
    MONEY_EXPONENT,
    MULTIPLIER,
    OPEN_BUY,
    OPEN_SELL,
    POSITION,
    REALISED,
    VOLUME,
)

CLOSE_FLAG = REDUCE_ONLY_FLAG  # of a fill: its order was to close

# What a posting returns.
POSTED, OVERFLOWED = 0, 1

_UNDEFINED = UNDEFINED
_MONEY_MAX = MONEY_MAX


@kernel(inline=True)
def beyond(amount: Int) -> Int:
    """Whether an amount of money or a size is beyond what the ledger keeps; OVERFLOW is."""
    return amount > _MONEY_MAX or amount < -_MONEY_MAX


@kernel(inline=True)
def fee_of(booking: Array, fees: Array, liquidity: Int, value: Int) -> Int:
    """The fee of a fill; OVERFLOW where it does not fit.

    Args:
        booking: The account's row.
        fees: Shape (2,): the desk's own rates of makers and takers.
        liquidity: 0 maker, 1 taker.
    """
    rate = booking[MAKER_FEE + liquidity]
    return multiply_divide(value, fees[liquidity] if rate == _UNDEFINED else rate, FEE_UNIT)


@kernel(inline=True)
def closable(money: Array, legs: Array, booking: Array, side: Int) -> Int:
    """How much an order on a side could close: of what is held on the other side, whatever works already."""
    if booking[MODE] == HEDGING:
        return legs[SELL if side == BUY else BUY, LEG_SIZE]
    position = money[POSITION]
    if side == BUY:
        return -position if position < 0 else 0
    return position if position > 0 else 0


@kernel(inline=True)
def close_flag(booking: Array, flags: Int) -> Int:
    """Which of an order's flags its fills carry: CLOSE_FLAG of a hedging account, whose legs hang on it; else none."""
    return flags & CLOSE_FLAG if booking[MODE] == HEDGING else 0


@kernel()
def released_lots(leg: Array, closed: Int) -> Int:
    """The cost of the oldest `closed` of a leg, of which there is as much; a part of a lot releases its share."""
    released = 0
    left = closed
    for lot in range(leg[LEG_LOTS]):
        size, cost = leg[FIRST_LOT + 2 * lot], leg[FIRST_LOT + 2 * lot + 1]
        if left < size:
            return released + (multiply_divide(cost, left, size) if left > 0 else 0)
        released += cost
        left -= size
    return released


@kernel()
def take_lots(leg: Array, closed: Int) -> None:
    """Take the oldest `closed` out of a leg's lots, as `released_lots` counts them."""
    left = closed
    gone = 0
    count = leg[LEG_LOTS]
    while gone < count and left >= leg[FIRST_LOT + 2 * gone]:
        left -= leg[FIRST_LOT + 2 * gone]
        gone += 1
    if left > 0:
        size, cost = leg[FIRST_LOT + 2 * gone], leg[FIRST_LOT + 2 * gone + 1]
        leg[FIRST_LOT + 2 * gone] = size - left
        leg[FIRST_LOT + 2 * gone + 1] = cost - multiply_divide(cost, left, size)
    if gone > 0:
        for word in range(FIRST_LOT, FIRST_LOT + 2 * count):
            later = word + 2 * gone
            leg[word] = leg[later] if later < FIRST_LOT + 2 * count else 0
        leg[LEG_LOTS] = count - gone


@kernel()
def add_lot(leg: Array, size: Int, cost: Int) -> None:
    """Put a newest lot into a leg; where there are LOTS_MAX, it joins the newest of them."""
    count = leg[LEG_LOTS]
    if count == LOTS_MAX:
        leg[FIRST_LOT + 2 * count - 2] += size
        leg[FIRST_LOT + 2 * count - 1] += cost
        return
    leg[FIRST_LOT + 2 * count] = size
    leg[FIRST_LOT + 2 * count + 1] = cost
    leg[LEG_LOTS] = count + 1


@kernel()
def post_trade(
    money: Array, legs: Array, booking: Array, side: Int, price: Int, size: Int, value: Int, fee: Int, flags: Int,
    contract: Array, powers: Array,
) -> Int:  # fmt: skip
    """Book what a trade does to position, cash and profit of one account in one instrument, or nothing of it.

    Args:
        money: The account's row in the instrument, columns of `state.py`.
        legs: Its legs there, shape (2, LEG_COLUMNS).
        booking: The account's row.
        size: Positive.
        value: What `size` is worth at `price`.
        flags: CLOSE_FLAG where a hedging account closes its other leg with it; what goes beyond that leg opens.
        contract: The instrument's row.

    Returns:
        POSTED, or OVERFLOWED where an amount would be beyond MONEY_MAX or a size beyond SIZE_MAX.
    """
    if beyond(value) or beyond(fee) or size <= 0 or beyond(size):
        return OVERFLOWED
    sign = 1 if side == BUY else -1
    plain = booking[MODE] == NETTING and booking[METHOD] == AVERAGE
    opposite = SELL if side == BUY else BUY
    position, cost = money[POSITION], money[COST]
    if plain:
        held = -sign * position if sign * position < 0 else 0
        held_cost = cost
    else:
        held = legs[opposite, LEG_SIZE]
        held_cost = legs[opposite, LEG_COST]
    closed = 0
    if booking[MODE] == NETTING or flags & CLOSE_FLAG != 0:
        closed = size if size < held else held
    closed_value, released = 0, 0
    if closed > 0:
        closed_value = value
        if closed != size:
            closed_value = contract_value(price, closed, contract[MULTIPLIER], contract[MONEY_EXPONENT], powers)
        if closed == held:
            released = held_cost
        elif booking[METHOD] == FIFO:
            released = released_lots(legs[opposite], closed)
        else:
            released = multiply_divide(held_cost, closed, held)
    opened_cost = sign * (value - closed_value)
    position += sign * size
    cash = money[CASH] - sign * value - fee
    fees = money[FEES] + fee
    cost += opened_cost - released
    realised = money[REALISED] - sign * closed_value - released
    if beyond(position) or beyond(cash) or beyond(fees) or beyond(cost) or beyond(realised):
        return OVERFLOWED
    if not plain:
        own, other = legs[side], legs[opposite]
        if beyond(own[LEG_SIZE] + size - closed) or beyond(own[LEG_COST] + opened_cost):
            return OVERFLOWED
        if closed > 0:
            other[LEG_SIZE] -= closed
            other[LEG_COST] -= released
            if booking[METHOD] == FIFO:
                take_lots(other, closed)
        if size > closed:
            own[LEG_SIZE] += size - closed
            own[LEG_COST] += opened_cost
            if booking[METHOD] == FIFO:
                add_lot(own, size - closed, opened_cost)
    money[POSITION] = position
    money[CASH] = cash
    money[FEES] = fees
    money[COST] = cost
    money[REALISED] = realised
    return POSTED


@kernel()
def post_fill(
    money: Array, legs: Array, booking: Array, side: Int, price: Int, size: Int, value: Int, fee: Int, flags: Int,
    contract: Array, powers: Array,
) -> Int:  # fmt: skip
    """Book one fill as `post_trade` does, and count it; VOLUME stays at SIZE_MAX once it is there."""
    status = post_trade(money, legs, booking, side, price, size, value, fee, flags, contract, powers)
    if status == POSTED:
        money[FILLS] += 1
        volume = money[VOLUME] + size
        money[VOLUME] = volume if volume < SIZE_MAX else SIZE_MAX
    return status


@kernel()
def post_street(money: Array, side: Int, size: Int, value: Int) -> Int:
    """Book the other side of a fill into the street's row: no fees, and nothing of it is ever realised.

    Args:
        side: Of the account's fill, not of the street.

    Returns:
        As `post_trade`.
    """
    sign = 1 if side == BUY else -1
    position = money[POSITION] - sign * size
    cash = money[CASH] + sign * value
    if beyond(position) or beyond(cash):
        return OVERFLOWED
    money[POSITION] = position
    money[CASH] = cash
    money[COST] = -cash
    return POSTED


@kernel()
def post_correction(
    money: Array, legs: Array, booking: Array, street: Array, size: Int, price: Int, contract: Array, powers: Array
) -> Int:
    """Change a position by `size` at a price, against the street; it closes what is held on the other side first.

    Returns:
        As `post_trade`; nothing is booked on either side where one of them does not hold it.
    """
    if size == 0 or beyond(size):
        return OVERFLOWED
    side = BUY if size > 0 else SELL
    amount = size if size > 0 else -size
    value = contract_value(price, amount, contract[MULTIPLIER], contract[MONEY_EXPONENT], powers)
    if beyond(value) or post_street(street, side, amount, value) != POSTED:
        return OVERFLOWED
    status = post_trade(money, legs, booking, side, price, amount, value, 0, CLOSE_FLAG, contract, powers)
    if status != POSTED:
        post_street(street, SELL if side == BUY else BUY, amount, value)
    return status


def correct_position(desk: Any, account: int, slot: int, size: int, price: int) -> None:
    """Change an account's position by `size` at a price, as a trade with the street that no order led to.

    Args:
        desk: `accounts`, `legs`, `booking`, `instruments`; the last account is the street.
        size: In the instrument's size units; negative takes away.
        price: In price units; 0 where nothing was paid.

    Raises:
        DataError: No size, a negative price, or amounts beyond what the ledger keeps; nothing was booked.
    """
    street = len(desk.accounts) - 1
    if size == 0 or price < 0 or price == UNDEFINED:
        raise DataError(
            f"a correction by {size} at a price of {price}", hint="a size, and a price that is not negative"
        )
    if account == street:
        raise DataError("the street's position is what the accounts' lead to", hint="correct an account")
    place = (account, slot)
    status = post_correction(
        desk.accounts[place], desk.legs[place], desk.booking[account], desk.accounts[street, slot], size, price,
        desk.instruments[slot], POWERS,
    )  # fmt: skip
    if status != POSTED:
        raise DataError("a correction does not fit 64 bits", hint="a smaller size or price")


def configure_account(
    desk: Any,
    account: int,
    *,
    mode: str = "netting",
    method: str = "average",
    maker_fee_ppm: int | None = None,
    taker_fee_ppm: int | None = None,
) -> None:
    """Set how an account's fills are booked from now on, all of it at once.

    Args:
        desk: `accounts` and `booking`.
        mode, method: One of MODES, one of METHODS.
        maker_fee_ppm, taker_fee_ppm: In millionths of the notional; None for the desk's own.

    Raises:
        DataError: No such mode or method, a fee beyond the notional, or the account is not flat: it holds a position
            or has a working order.
    """
    if mode not in MODES or method not in METHODS:
        raise DataError(
            f"an account cannot be {mode} at {method}", hint=f"one of {', '.join(MODES)}; one of {', '.join(METHODS)}"
        )
    rates = (maker_fee_ppm, taker_fee_ppm)
    if any(rate is not None and abs(rate) > FEE_UNIT for rate in rates):
        raise DataError("a fee of more than the notional", hint=f"fees are in millionths, at most {FEE_UNIT}")
    if account == len(desk.accounts) - 1:
        raise DataError("the street has no settings", hint="configure an account")
    money = desk.accounts[account]
    if money[:, [POSITION, OPEN_BUY, OPEN_SELL]].any() or desk.legs[account, :, :, LEG_SIZE].any():
        raise DataError("the account is not flat", hint="close its positions and cancel its orders first")
    write_booking(desk.booking[account], mode, method, maker_fee_ppm, taker_fee_ppm)
