"""What the desk knows: working orders, accounts, limits, instruments. Arrays alone, so that kernels can hold it.

Our own working orders rest in a `Books` of our own (`own`), by price and then by age, found by id: slot s of it holds
what rests in instrument s, slot `STOPS + s` the stop orders that wait there, by their stop price. Beside each of its
rows `orders` has what a book does not know of an order. Cash, fees and profit count the instrument's currency unit,
positions its size unit. Snapshots are in `stored.py`.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.book import Books, make_books
from tapehouse.book.layout import FRESH, LIVE, lay_floor
from tapehouse.book.layout import TICK as OWN_TICK
from tapehouse.book.resting import (
    append_order,
    find_order,
    first_order,
    order_after,
    order_id_in,
    order_left,
    remove_order,
)
from tapehouse.core.check import check
from tapehouse.core.errors import DataError
from tapehouse.core.pools import Pool
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.ledger_state import make_booking, make_legs
from tapehouse.desk.money import SCALE_MAX, rescale_exponent
from tapehouse.desk.requests import REQUEST_COLUMNS
from tapehouse.market import Instrument

ACCOUNTS_MAX = 64
STREET = ACCOUNTS_MAX - 1  # the other side of every paper fill; nobody trades for it
INSTRUMENTS_MAX = 64  # with a book; options have none
STOPS = INSTRUMENTS_MAX  # the slot of `own` in which the stops of instrument 0 wait
WORKING_MAX = 8192  # working orders of one instrument, waiting stops included
ORDERS_MAX = 32_768  # working orders in all
SYMBOL_IDS_MAX = 4096  # instrument ids on one tape, options included
OWN_LEVELS = 8192  # of a side of `own`: as many as orders, so there is always one for a price
INTERNAL_VENUE = "internal"  # the venue of instruments in which accounts trade with each other

# Columns of `orders`, by the order's row in `own`. What is shown of it is what remains of it there.
(
    ORDER_ACCOUNT,
    ORDER_NUMBER,
    ORDER_SIDE,
    ORDER_PRICE,  # its limit; of a STOP the stop
    ORDER_SIZE,  # when it was announced
    ORDER_HIDDEN,  # of an iceberg: what is left beyond the piece that is shown
    ORDER_DISPLAY,  # of an iceberg: how large a piece is; 0 for all of it
    ORDER_AHEAD,  # of the recorded book's level, what is before it
    ORDER_EXPIRY,  # UTC ns, 0 for never
    ORDER_TYPE,
    ORDER_TIME_IN_FORCE,
    ORDER_FLAGS,
    ORDER_STOP,  # UNDEFINED for none
    ORDER_DUE,  # where in `due` it stands, 0 for nowhere
    ORDER_SLOT,
) = range(15)
ORDER_COLUMNS = 16  # two cache lines

# Columns of `accounts[account, slot]`; OPEN_ and REDUCING_ are sizes of working orders, waiting stops included.
(
    POSITION,
    CASH,
    FEES,
    COST,
    REALISED,
    OPEN_BUY,
    OPEN_SELL,
    FILLS,
    VOLUME,
    OPEN_ORDERS,
    REDUCING_BUY,  # of them, what may only reduce a position
    REDUCING_SELL,
) = range(12)
ACCOUNT_COLUMNS = 16

# Columns of `limits[account, slot]`. Order size and position count lots, so that one default suits a share and a
# millionth of a coin. The notional counts units of 10^LIMIT_EXPONENT of whatever currency an instrument has. The band
# is in millionths of the reference price, 0 for none.
LIMIT_EXPONENT = -9
LIMIT_ORDER_SIZE, LIMIT_POSITION, LIMIT_NOTIONAL, LIMIT_OPEN_ORDERS, LIMIT_BAND = range(5)
LIMIT_COLUMNS = 8

# Columns of `conduct[account]`: what holds for an account in all instruments.
(
    SWITCHED_OFF,  # its kill switch
    SELF_MATCH,  # one of the policies, or NO_POLICY
    LIMIT_MESSAGES,  # in a second of engine time
    WINDOW_START,  # the second that is being counted, and what came in it
    WINDOW_COUNT,
) = range(5)
CONDUCT_COLUMNS = 8
NO_POLICY = 4  # orders of one account meet as strangers on paper; where accounts cross, the newest is cancelled

# Columns of `instruments[slot]`.
(
    INSTRUMENT_ID,
    TICK,
    LOT,
    MONEY_EXPONENT,
    LAST_TRADE,
    MULTIPLIER,
    CROSSING,  # 1: accounts trade with each other; 0: with the recorded book
    SESSION_CLOSE,  # when DAY orders end, UTC ns; not looked at when it is past
    TRADED_LOW,  # what traded since the stops were looked at last: UNDEFINED and 0 for nothing
    TRADED_HIGH,
    HIDDEN_BUY,  # what is hidden of resting icebergs
    HIDDEN_SELL,
    OVER_REDUCED,  # 1: a fill may have left a reduce-only order larger than what it may close
    UNSETTLED,  # 1: stops may have been reached or reduce-only orders be too large: `orders.follow_up` looks
    UNIT_SCALE,  # the exponent of its currency's unit less LIMIT_EXPONENT
) = range(15)
INSTRUMENT_COLUMNS = 16
MULTIPLIER_MAX = 10**9

# Entries of `counters`.
(
    NOW,
    INDEX,
    FILL_COUNT,
    NEXT_DUE,  # the earliest expiry of a working order; UNDEFINED where none has one
    REJECTED,
    DECISIONS,
    OUT_ROWS,
    ORDINAL,
    OVERFLOWS,
    DUE_COUNT,  # orders in `due`
    UNFINISHED,  # 1: the input at ORDINAL was begun and its outputs did not fit: INDEX goes on
    UNSETTLED_SLOTS,  # instruments that are UNSETTLED
    _UNUSED,  # always 0
    WORKING,  # orders that work, in all instruments
    ID_BASE,  # the INDEX at which this input itself began: what was due before it takes no order ids
) = range(15)
COUNTERS = 16

OPEN_ORDERS_DEFAULT = 64
# Default limits: wide enough for the sample strategies, narrow enough to stop a runaway one.
DEFAULT_LIMITS = (10_000, 100_000, 10**9 * 10**8, OPEN_ORDERS_DEFAULT, 0, 0, 0, 0)
MESSAGES_MAX = 1 << 40
DEFAULT_CONDUCT = (0, NO_POLICY, MESSAGES_MAX, 0, 0, 0, 0, 0)
INDEX_BITS = 12  # an order's id is its input's ordinal and its index among the outputs of that input
ORDINAL_BITS = 51  # its key in `own` has the index above the ordinal, so that neighbours lie together

Array64 = npt.NDArray[np.int64]


class Desk(NamedTuple):
    """The desk's whole numeric state; all arrays int64."""

    own: Books  # of 2 x INSTRUMENTS_MAX slots: resting orders, then stops
    orders: Array64  # (ORDERS_MAX + 1, ORDER_COLUMNS)
    due: Array64  # (ORDERS_MAX + 1,): rows of orders that expire, a heap from 1 on
    accounts: Array64  # (ACCOUNTS_MAX, INSTRUMENTS_MAX, ACCOUNT_COLUMNS)
    limits: Array64  # (ACCOUNTS_MAX, INSTRUMENTS_MAX, LIMIT_COLUMNS)
    conduct: Array64  # (ACCOUNTS_MAX, CONDUCT_COLUMNS)
    booking: Array64  # (ACCOUNTS_MAX, BOOKING_COLUMNS): how each account's fills are booked; see ledger_state.py
    legs: Array64  # (ACCOUNTS_MAX, INSTRUMENTS_MAX, 2, LEG_COLUMNS)
    instruments: Array64  # (INSTRUMENTS_MAX, INSTRUMENT_COLUMNS)
    fees: Array64  # (2,): maker, taker, in parts per million of the notional
    counters: Array64  # (COUNTERS,)
    settled: Array64  # (INSTRUMENTS_MAX,): 1 where no queue ahead is known to be longer than its level; no state
    request: Array64  # (REQUEST_COLUMNS,): scratch of whoever makes a request inside a kernel


def make_desk(*, maker_fee_ppm: int = 0, taker_fee_ppm: int = 30) -> Desk:
    """An empty desk."""
    limits = np.empty((ACCOUNTS_MAX, INSTRUMENTS_MAX, LIMIT_COLUMNS), np.int64)
    limits[:] = DEFAULT_LIMITS
    conduct = np.empty((ACCOUNTS_MAX, CONDUCT_COLUMNS), np.int64)
    conduct[:] = DEFAULT_CONDUCT
    counters = np.zeros(COUNTERS, np.int64)
    counters[NEXT_DUE] = UNDEFINED
    return Desk(
        own=make_books(2 * INSTRUMENTS_MAX, orders=ORDERS_MAX, levels=OWN_LEVELS),
        orders=np.zeros((ORDERS_MAX + 1, ORDER_COLUMNS), np.int64),
        due=np.zeros(ORDERS_MAX + 1, np.int64),
        accounts=np.zeros((ACCOUNTS_MAX, INSTRUMENTS_MAX, ACCOUNT_COLUMNS), np.int64),
        limits=limits,
        conduct=conduct,
        booking=make_booking(ACCOUNTS_MAX),
        legs=make_legs(ACCOUNTS_MAX, INSTRUMENTS_MAX),
        instruments=np.zeros((INSTRUMENTS_MAX, INSTRUMENT_COLUMNS), np.int64),
        fees=np.array([maker_fee_ppm, taker_fee_ppm], np.int64),
        counters=counters,
        settled=np.zeros(INSTRUMENTS_MAX, np.int64),
        request=np.zeros(REQUEST_COLUMNS, np.int64),
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
    terms = instrument_terms(instrument)
    row = desk.instruments[slot]
    row[:] = 0
    row[: len(terms)] = terms
    row[CROSSING] = instrument.venue == INTERNAL_VENUE
    row[UNIT_SCALE] = instrument.currency_exponent - LIMIT_EXPONENT
    row[SESSION_CLOSE] = instrument.session_close_ns
    row[TRADED_LOW] = UNDEFINED
    lay_tick(desk, slot, instrument.tick_size)


def revise_instrument(desk: Desk, slot: int, instrument: Instrument) -> None:
    """Give a slot's instrument the tick and lot of a new revision; what rests at a price of the old tick stays.

    Raises:
        DataError: The tick or the lot is none.
    """
    terms = instrument_terms(instrument)
    row = desk.instruments[slot]
    last_trade = int(row[LAST_TRADE])
    row[: len(terms)] = terms
    row[LAST_TRADE] = last_trade
    row[CROSSING] = instrument.venue == INTERNAL_VENUE
    row[UNIT_SCALE] = instrument.currency_exponent - LIMIT_EXPONENT
    row[SESSION_CLOSE] = instrument.session_close_ns
    lay_tick(desk, slot, instrument.tick_size)


def instrument_terms(instrument: Instrument) -> tuple[int, ...]:
    """The row of an instrument that has not traded, as far as its definition says it.

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


def lay_tick(desk: Desk, slot: int, tick: int) -> None:
    """Let our orders of an instrument rest at multiples of a tick, and those that rest already go on where they are."""
    for place in (slot, STOPS + slot):
        before = int(desk.own.slots[place, OWN_TICK])
        resting = rows_of(desk, place) if before else []
        wanted = gcd(before, tick) if resting else tick
        if wanted == before:
            continue
        kept = [(side, order_id_in(desk.own, row), order_left(desk.own, row), level_price(desk, place, row),
                 desk.orders[row].copy()) for side, row in resting]  # fmt: skip
        for _, key, *_ in kept:
            remove_order(desk.own, place, find_order(desk.own, place, key))
        lay_floor(desk.own.slots, place, wanted)
        for side, key, left, price, columns in kept:
            row = append_order(desk.own, place, side, key, price, left)
            check(row > 0, "an order that rested found no room at the new tick", subject=f"slot {slot}")
            desk.orders[row] = columns
            if columns[ORDER_DUE]:
                desk.due[columns[ORDER_DUE]] = row


def level_price(desk: Desk, place: int, row: int) -> int:
    """The price at which an order stands in a slot of `own`: its limit, or its stop while it waits."""
    return int(desk.orders[row, ORDER_STOP if place >= STOPS else ORDER_PRICE])


def rows_of(desk: Desk, place: int) -> list[tuple[int, int]]:
    """(side, row) of each order in a slot of `own`: bids before asks, each by price and then by age."""
    found = []
    for side in range(2):
        row = int(first_order(desk.own, place, side))
        while row:
            found.append((side, row))
            row = int(order_after(desk.own, place, side, row))
    return found


def working_count(desk: Desk, slot: int) -> int:
    """How many orders work in an instrument, waiting stops included."""
    return int(desk.own.slots[slot, LIVE] + desk.own.slots[STOPS + slot, LIVE])


class WorkingOrder(NamedTuple):
    """One working order, for reports and tests."""

    order_id: int
    account: int
    side: int
    price: int
    left: int  # hidden size included
    ahead: int
    waits: bool  # a stop order that was not triggered
    shown: int
    row: int


def working_orders(desk: Desk, slot: int) -> list[WorkingOrder]:
    """What works in an instrument: bids, asks, then the stops that wait; each by price and then by age."""
    listed = []
    for place in (slot, STOPS + slot):
        for _, row in rows_of(desk, place):
            columns = desk.orders[row].tolist()
            shown = int(order_left(desk.own, row))
            listed.append(
                WorkingOrder(
                    order_id=id_of(int(order_id_in(desk.own, row))),
                    account=columns[ORDER_ACCOUNT],
                    side=columns[ORDER_SIDE],
                    price=columns[ORDER_PRICE],
                    left=shown + columns[ORDER_HIDDEN],
                    ahead=columns[ORDER_AHEAD],
                    waits=place >= STOPS,
                    shown=shown,
                    row=row,
                )
            )
    return listed


def id_of(key: int) -> int:
    """The order's id of a key in `own`."""
    return (key & ((1 << ORDINAL_BITS) - 1)) << INDEX_BITS | key >> ORDINAL_BITS


def order_pool(desk: Desk) -> Pool:
    """The rows of our own working orders; a full one rejects the next with NO_ROOM."""
    return Pool(
        name="desk_orders",
        used=int(desk.own.slots[:, LIVE].sum()),
        held=int(desk.own.pool[FRESH]) - 1,
        capacity=ORDERS_MAX,
        row_bytes=8 * (ORDER_COLUMNS + desk.own.orders.shape[1]),
    )
