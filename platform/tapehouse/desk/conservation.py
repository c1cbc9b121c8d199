"""What must always add up in a ledger, checked after every batch in production: some microseconds for a desk.

For every account and instrument: cash + fees + cost - realised = 0, and legs and lots are the position and its cost.
For every instrument, over all accounts with the street: positions are zero, and so are cash and fees together.
"""

from __future__ import annotations

from tapehouse.core.errors import InvariantError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.desk.ledger_state import (
    AVERAGE,
    FIFO,
    FIRST_LOT,
    LEG_COST,
    LEG_LOTS,
    LEG_SIZE,
    LONG,
    METHOD,
    MODE,
    NETTING,
    SHORT,
    Array64,
)
from tapehouse.desk.state import CASH, COST, FEES, INSTRUMENT_ID, POSITION, REALISED

# What `unbalanced` finds.
BALANCED, POSITIONS_DIFFER, CASH_DIFFERS, PROFIT_DIFFERS, LEGS_DIFFER, LOTS_DIFFER = range(6)
_DIFFERENCES = {
    POSITIONS_DIFFER: "positions of all accounts do not add up to zero",
    CASH_DIFFERS: "cash and fees of all accounts do not add up to zero",
    PROFIT_DIFFERS: "an account's cash, fees, cost and realised profit do not add up to zero",
    LEGS_DIFFER: "an account's legs are not its position and cost",
    LOTS_DIFFER: "an account's lots are not its leg",
}

_HALF = 32
_LOW = 0xFFFFFFFF


@kernel()
def leg_difference(money: Array, legs: Array, booking: Array) -> Int:
    """BALANCED, or which part of an account's legs contradicts another."""
    if booking[MODE] == NETTING and booking[METHOD] == AVERAGE:
        return BALANCED  # its legs are never written
    if legs[LONG, LEG_SIZE] - legs[SHORT, LEG_SIZE] != money[POSITION]:
        return LEGS_DIFFER
    if legs[LONG, LEG_COST] + legs[SHORT, LEG_COST] != money[COST]:
        return LEGS_DIFFER
    if booking[MODE] == NETTING and legs[LONG, LEG_SIZE] != 0 and legs[SHORT, LEG_SIZE] != 0:
        return LEGS_DIFFER
    if booking[METHOD] == FIFO:
        for side in range(2):
            size, cost = legs[side, LEG_SIZE], legs[side, LEG_COST]
            for lot in range(legs[side, LEG_LOTS]):
                size -= legs[side, FIRST_LOT + 2 * lot]
                cost -= legs[side, FIRST_LOT + 2 * lot + 1]
            if size != 0 or cost != 0:
                return LOTS_DIFFER
    return BALANCED


@kernel()
def unbalanced(accounts: Array, legs: Array, booking: Array, slots: Int) -> tuple[Int, Int, Int]:
    """The first rule of the ledger that does not hold: (which, the instrument's slot, the account or -1 for all).

    Sums over accounts are taken in halves of 32 bits, so none of them wraps.

    Args:
        slots: Instruments to look at, from slot 0.
    """
    for slot in range(slots):
        position_high, position_low, cash_high, cash_low = 0, 0, 0, 0
        for account in range(accounts.shape[0]):
            money = accounts[account, slot]
            position_high += money[POSITION] >> _HALF
            position_low += money[POSITION] & _LOW
            owned = money[CASH] + money[FEES]
            cash_high += owned >> _HALF
            cash_low += owned & _LOW
            if owned + money[COST] != money[REALISED]:
                return PROFIT_DIFFERS, slot, account
            difference = leg_difference(money, legs[account, slot], booking[account])
            if difference != BALANCED:
                return difference, slot, account
        if position_high + (position_low >> _HALF) != 0 or position_low & _LOW != 0:
            return POSITIONS_DIFFER, slot, -1
        if cash_high + (cash_low >> _HALF) != 0 or cash_low & _LOW != 0:
            return CASH_DIFFERS, slot, -1
    return BALANCED, 0, 0


def verify_conservation(accounts: Array64, legs: Array64, booking: Array64, instruments: Array64, slots: int) -> None:
    """Hold the ledger's rules against all accounts, the street among them; some microseconds, for every batch.

    Args:
        accounts: Shape (accounts, instruments, columns of `state.py`).
        legs: Shape (accounts, instruments, 2, LEG_COLUMNS).
        booking: Shape (accounts, BOOKING_COLUMNS).
        instruments: Shape (instruments, columns of `state.py`), to name what differs.
        slots: How many instruments there are.

    Raises:
        InvariantError: Something does not add up; it says what, of which instrument and account.
    """
    which, slot, account = unbalanced(accounts, legs, booking, slots)
    if which == BALANCED:
        return
    whose = "all accounts" if account < 0 else f"account {int(account)}"
    raise InvariantError(
        _DIFFERENCES[int(which)],
        subject=f"instrument {int(instruments[slot, INSTRUMENT_ID])}, {whose}",
        hint="this is a bug: please report it",
    )
