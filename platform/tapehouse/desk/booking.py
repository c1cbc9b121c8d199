"""Fills into positions: what a trade does to the amounts of one account in one instrument."""

from __future__ import annotations

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.desk.money import MONEY_MAX, contract_value, multiply_divide
from tapehouse.desk.requests import BUY
from tapehouse.desk.state import CASH, COST, FEES, FILLS, MONEY_EXPONENT, MULTIPLIER, POSITION, REALISED, VOLUME

FEE_UNIT = 1_000_000
_MONEY_MAX = MONEY_MAX


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
