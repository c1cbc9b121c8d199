"""What the desk knows: working orders, accounts, limits, instruments. Arrays alone, so that kernels can hold it.

Rows of `orders` are slots in a pool; a free slot has id 0. Working orders of one instrument are listed oldest first in
`working`. Cash, fees and profit count the instrument's currency unit, positions its size unit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DataError, IntegrityError
from tapehouse.core.pools import Pool
from tapehouse.desk.ledger_state import make_booking, make_legs, restore_ledger, snapshot_ledger
from tapehouse.desk.money import SCALE_MAX, rescale_exponent
from tapehouse.market import Instrument

ACCOUNTS_MAX = 16
INSTRUMENTS_MAX = 64  # with a book; options have none
WORKING_MAX = 64  # working orders of one instrument
ORDERS_MAX = INSTRUMENTS_MAX * WORKING_MAX
SYMBOL_IDS_MAX = 4096  # instrument ids on one tape, options included

# Columns of `orders`.
ORDER_ID, ORDER_SLOT, ORDER_SIDE, ORDER_PRICE, ORDER_SIZE, ORDER_LEFT, ORDER_AHEAD, ORDER_ACCOUNT, ORDER_NUMBER = range(
    9
)
ORDER_COLUMNS = 9

# Columns of `accounts[account, slot]`.
POSITION, CASH, FEES, COST, REALISED, OPEN_BUY, OPEN_SELL, FILLS, VOLUME = range(9)
ACCOUNT_COLUMNS = 9

# Columns of `limits[account]`; OPEN_ORDERS counts what rests in one instrument, of all accounts together.
# Order size and position count lots, so that one default suits a share and a millionth of a coin.
LIMIT_ORDER_SIZE, LIMIT_POSITION, LIMIT_NOTIONAL, LIMIT_OPEN_ORDERS, LIMIT_KILLED = range(5)
LIMIT_COLUMNS = 5

# Columns of `instruments[slot]`.
INSTRUMENT_ID, TICK, LOT, MONEY_EXPONENT, LAST_TRADE, MULTIPLIER = range(6)
INSTRUMENT_COLUMNS = 6
MULTIPLIER_MAX = 10**9

# Entries of `counters`.
NOW, INDEX, FILL_COUNT, FREE_HEAD, REJECTED, DECISIONS, OUT_ROWS, ORDINAL, OVERFLOWS = range(9)
COUNTERS = 9

# Default limits: wide enough for the sample strategies, narrow enough to stop a runaway one.
DEFAULT_LIMITS = (10_000, 100_000, 10**9 * 10**8, WORKING_MAX, 0)

Array64 = npt.NDArray[np.int64]


class Desk(NamedTuple):
    """The desk's whole numeric state; all arrays int64."""

    orders: Array64  # (ORDERS_MAX, ORDER_COLUMNS)
    working: Array64  # (INSTRUMENTS_MAX, WORKING_MAX): slots of `orders`, oldest first
    working_count: Array64  # (INSTRUMENTS_MAX,)
    accounts: Array64  # (ACCOUNTS_MAX, INSTRUMENTS_MAX, ACCOUNT_COLUMNS)
    limits: Array64  # (ACCOUNTS_MAX, LIMIT_COLUMNS)
    instruments: Array64  # (INSTRUMENTS_MAX, INSTRUMENT_COLUMNS)
    fees: Array64  # (2,): maker, taker, in parts per million of the notional
    counters: Array64  # (COUNTERS,)
    legs: Array64  # (ACCOUNTS_MAX, INSTRUMENTS_MAX, 2, LEG_COLUMNS): see ledger_state.py
    booking: Array64  # (ACCOUNTS_MAX, BOOKING_COLUMNS): how each account's fills are booked
    settled: Array64  # (INSTRUMENTS_MAX,): 1 where no queue ahead is known to be longer than its level; no state


def make_desk(*, maker_fee_ppm: int = 0, taker_fee_ppm: int = 30) -> Desk:
    """An empty desk."""
    orders = np.zeros((ORDERS_MAX, ORDER_COLUMNS), np.int64)
    orders[:, ORDER_LEFT] = np.arange(1, ORDERS_MAX + 1)  # free list, through ORDER_LEFT
    orders[-1, ORDER_LEFT] = -1
    limits = np.tile(np.array(DEFAULT_LIMITS, np.int64), (ACCOUNTS_MAX, 1))
    return Desk(
        orders=orders,
        working=np.zeros((INSTRUMENTS_MAX, WORKING_MAX), np.int64),
        working_count=np.zeros(INSTRUMENTS_MAX, np.int64),
        accounts=np.zeros((ACCOUNTS_MAX, INSTRUMENTS_MAX, ACCOUNT_COLUMNS), np.int64),
        limits=limits,
        instruments=np.zeros((INSTRUMENTS_MAX, INSTRUMENT_COLUMNS), np.int64),
        fees=np.array([maker_fee_ppm, taker_fee_ppm], np.int64),
        counters=np.zeros(COUNTERS, np.int64),
        legs=make_legs(ACCOUNTS_MAX, INSTRUMENTS_MAX),
        booking=make_booking(ACCOUNTS_MAX),
        settled=np.zeros(INSTRUMENTS_MAX, np.int64),
    )


def define_instrument(desk: Desk, slot: int, instrument: Instrument) -> None:
    """Let the desk trade an instrument in a slot.

    Raises:
        DataError: The slot is beyond INSTRUMENTS_MAX, or no desk can trade it.
    """
    if not 0 <= slot < INSTRUMENTS_MAX:
        raise DataError(
            f"a desk trades {INSTRUMENTS_MAX} instruments at most",
            subject=instrument.symbol,
            hint="record so many with --strategy none, or split the tape",
        )
    desk.instruments[slot] = instrument_terms(instrument)


def revise_instrument(desk: Desk, slot: int, instrument: Instrument) -> None:
    """Give a slot's instrument the tick and lot of a new revision; what rests at a price of the old tick stays.

    Raises:
        DataError: The tick or the lot is none.
    """
    last_trade = int(desk.instruments[slot, LAST_TRADE])
    desk.instruments[slot] = instrument_terms(instrument)
    desk.instruments[slot, LAST_TRADE] = last_trade


def instrument_terms(instrument: Instrument) -> tuple[int, ...]:
    """The row of an instrument that has not traded.

    Raises:
        DataError: The exponents are too far apart for exact money, or the tick, the lot or the multiplier is none.
    """
    exponent = rescale_exponent(instrument.price_exponent, instrument.size_exponent, instrument.currency_exponent)
    if abs(exponent) > SCALE_MAX:
        raise DataError(f"money would be scaled by 10^{exponent}", subject=instrument.symbol)
    if instrument.tick_size < 1 or instrument.lot_size < 1:
        raise DataError(
            f"a tick of {instrument.tick_size} and a lot of {instrument.lot_size}", subject=instrument.symbol
        )
    if not 1 <= instrument.multiplier <= MULTIPLIER_MAX:
        raise DataError(f"a multiplier of {instrument.multiplier}", subject=instrument.symbol)
    return (instrument.id, instrument.tick_size, instrument.lot_size, exponent, 0, instrument.multiplier)


def order_pool(desk: Desk) -> Pool:
    """The rows of our own working orders. It can't be full: it has room for all that any instrument may have."""
    return Pool(
        name="desk_orders",
        used=int(desk.working_count.sum()),
        held=int(np.count_nonzero(desk.orders[:, ORDER_SIZE])),  # A row that is given back keeps its order's size.
        capacity=len(desk.orders),
        row_bytes=desk.orders.itemsize * desk.orders.shape[1],
    )


def snapshot(desk: Desk) -> bytes:
    """The canonical bytes of a desk: the same state gives the same bytes, whichever pool slots its orders took."""
    parts = [desk.accounts.tobytes(), desk.limits.tobytes(), desk.instruments.tobytes(), desk.fees.tobytes()]
    counters = desk.counters.copy()
    counters[[INDEX, FREE_HEAD, OUT_ROWS, ORDINAL]] = 0  # where the pool and the present call stand is no state
    parts.append(counters.tobytes())
    parts.append(desk.working_count.tobytes())
    for slot in range(INSTRUMENTS_MAX):
        count = int(desk.working_count[slot])
        if count:
            parts.append(desk.orders[desk.working[slot, :count]].tobytes())
    parts.append(snapshot_ledger(desk.booking, desk.legs))
    return b"".join(parts)


def restore(data: bytes) -> Desk:
    """The desk that `snapshot` returned; raises IntegrityError for other bytes."""
    desk = make_desk()
    at = 0
    for array in (desk.accounts, desk.limits, desk.instruments, desk.fees, desk.counters, desk.working_count):
        chunk = data[at : at + array.nbytes]
        if len(chunk) != array.nbytes:
            raise IntegrityError("a desk snapshot is too short", hint="refold the log")
        array[...] = np.frombuffer(chunk, np.int64).reshape(array.shape)
        at += array.nbytes
    if desk.working_count.min() < 0 or desk.working_count.max() > WORKING_MAX:
        raise IntegrityError("a desk snapshot counts impossible orders", hint="refold the log")
    total = int(desk.working_count.sum())
    end = at + total * ORDER_COLUMNS * desk.orders.itemsize
    if len(data) < end:
        raise IntegrityError("a desk snapshot's orders do not match their count", hint="refold the log")
    rows = np.frombuffer(data[at:end], np.int64)
    restore_ledger(data[end:], desk.booking, desk.legs)
    desk.orders[:total] = rows.reshape(total, ORDER_COLUMNS)
    taken = 0
    for slot in range(INSTRUMENTS_MAX):
        count = int(desk.working_count[slot])
        desk.working[slot, :count] = np.arange(taken, taken + count)
        taken += count
    desk.counters[FREE_HEAD] = total if total < ORDERS_MAX else -1
    return desk
