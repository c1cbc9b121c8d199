"""What the ledger keeps beside an account's amounts: how its fills are booked, and its legs and lots. Arrays alone.

An account that nets at average cost, as all do at first, has empty legs: its row of amounts says everything.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import IntegrityError
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.requests import BUY, SELL

Array64 = npt.NDArray[np.int64]

# Columns of `booking[account]`; a fee rate is in millionths of the notional, UNDEFINED for the desk's own.
MODE, METHOD, MAKER_FEE, TAKER_FEE = range(4)
BOOKING_COLUMNS = 4
NETTING, HEDGING = 0, 1
MODES = ("netting", "hedging")
AVERAGE, FIFO = 0, 1
METHODS = ("average", "fifo")
FEE_UNIT = 1_000_000

# `legs[account, slot]` has two rows, LONG and SHORT, of these columns and then the lots, oldest first: size and cost
# of each. What the short leg holds counts as positive, what it cost as negative.
SIZE_MAX = 2**61  # of a position, a leg and a fill, so that two of them can be added without a wrap
LONG, SHORT = BUY, SELL
LEG_SIZE, LEG_COST, LEG_LOTS = range(3)
FIRST_LOT = 4
LOTS_MAX = 30  # of one leg; a lot beyond them joins the newest, exactly in value, and is one with it from there
LEG_COLUMNS = FIRST_LOT + 2 * LOTS_MAX  # eight cache lines


def make_booking(accounts: int) -> Array64:
    """Settings of accounts that net at average cost and pay the desk's fees, shape (accounts, BOOKING_COLUMNS)."""
    booking = np.zeros((accounts, BOOKING_COLUMNS), np.int64)
    booking[:, [MAKER_FEE, TAKER_FEE]] = UNDEFINED
    return booking


def make_legs(*shape: int) -> Array64:
    """Empty legs, shape (*shape, 2, LEG_COLUMNS)."""
    return np.zeros((*shape, 2, LEG_COLUMNS), np.int64)


def write_booking(row: Array64, mode: str, method: str, maker_fee_ppm: int | None, taker_fee_ppm: int | None) -> None:
    """Fill an account's row with values that are known to be good."""
    row[MODE], row[METHOD] = MODES.index(mode), METHODS.index(method)
    row[MAKER_FEE] = UNDEFINED if maker_fee_ppm is None else maker_fee_ppm
    row[TAKER_FEE] = UNDEFINED if taker_fee_ppm is None else taker_fee_ppm


def snapshot_ledger(booking: Array64, legs: Array64) -> bytes:
    """Settings, and the legs that are not empty with their places, canonical; int64 throughout."""
    flat = legs.reshape(-1, 2 * LEG_COLUMNS)
    places = np.flatnonzero(flat.any(axis=1))
    rows = np.column_stack([places, flat[places]])
    return booking.astype("<i8").tobytes() + rows.astype("<i8").tobytes()


def restore_ledger(data: bytes, booking: Array64, legs: Array64) -> None:
    """Fill arrays of a new ledger with what `snapshot_ledger` packed; raises IntegrityError for other bytes."""
    flat = legs.reshape(-1, 2 * LEG_COLUMNS)
    try:
        kept = np.frombuffer(data[: booking.nbytes], "<i8").reshape(booking.shape)
        rows = np.frombuffer(data[booking.nbytes :], "<i8").reshape(-1, 1 + 2 * LEG_COLUMNS)
    except ValueError as error:
        raise IntegrityError(f"the ledger of a snapshot is damaged: {error}", hint="refold the log") from error
    places = rows[:, 0]
    if len(places) and (places[0] < 0 or places[-1] >= len(flat) or (np.diff(places) <= 0).any()):
        raise IntegrityError("a leg of a snapshot is nobody's", hint="refold the log")
    check_ledger(kept, rows[:, 1:].reshape(-1, 2, LEG_COLUMNS))
    flat[places] = rows[:, 1:]
    booking[...] = kept


def check_ledger(booking: Array64, legs: Array64) -> None:
    """Raise IntegrityError for what no ledger can have come to: kernels trust these numbers as places."""
    lots = legs[..., LEG_LOTS]
    if (lots < 0).any() or (lots > LOTS_MAX).any() or (booking[:, [MODE, METHOD]] >> 1).any():
        raise IntegrityError("a snapshot's lots or settings are impossible", hint="refold the log")
