"""What a venue knows: accounts, limits, terms of instruments, and whose each resting order is. Arrays alone.

The first columns are those of the desk (`state.py`), so that the same kernels book money and the same cells are
written. The orders themselves rest in a `Books`, by the ordinal of the request that announced them: an order's id is
that ordinal x 4,096, so ids count up by one there and lie together in the table.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import UsageError
from tapehouse.desk.ledger_state import FEE_UNIT, make_booking, make_legs
from tapehouse.desk.money import MONEY_MAX
from tapehouse.desk.requests import BAD_REQUEST, CANCEL_NEWEST, REASONS
from tapehouse.desk.state import ACCOUNT_COLUMNS, COUNTERS, INSTRUMENT_COLUMNS, LIMIT_BAND, Array64

# Columns of a request, one row each. An order with the terms below, or a cancel or replace of the order in TARGET.
(
    REQUEST_KIND,
    REQUEST_ACCOUNT,
    REQUEST_SLOT,
    REQUEST_SIDE,
    REQUEST_PRICE,
    REQUEST_SIZE,
    REQUEST_TARGET,
    REQUEST_NUMBER,
    REQUEST_TIME,
) = range(9)
REQUEST_COLUMNS = 9
# Kinds of requests; the first three are numbered as a desk's times in force.
LIMIT, IOC, POST_ONLY, FOK, MARKET, CANCEL, REPLACE = range(7)
KINDS = ("limit", "ioc", "post_only", "fok", "market", "cancel", "replace")

# Columns of `limits[account]` after the first of the desk's.
LIMIT_KILLED, LIMIT_MESSAGES, WINDOW_START, WINDOW_COUNT, SELF_MATCH = range(LIMIT_BAND, LIMIT_BAND + 5)
VENUE_LIMIT_COLUMNS = 16
# Columns of `instruments[slot]` after the desk's; LAST_TRADE begins as the reference price.
BAND = INSTRUMENT_COLUMNS - 1
# Columns of `orders`, by the order's row in the books.
OWNER, OWNER_NUMBER, LIMIT_PRICE, LIMIT_SIDE = range(4)
ORDER_COLUMNS = 4

VENUE_REASONS = REASONS[: BAD_REQUEST + 1]

RATE_WINDOW_NS = 1_000_000_000  # of engine time, in which an account's messages are counted
MATCHES_MAX = 1_000  # resting orders that one order may meet
REQUEST_ROWS_MAX = 4 * MATCHES_MAX + 4  # rows that one request may write: two records a match, and its own
LEDGER_MAX = MONEY_MAX >> 3  # of an account that trades and of a notional: nothing can pass MONEY_MAX by one order
LOTS_MAX = 1 << 30  # of limits, and of an instrument's lot in size units
PRICE_MAX = 1 << 61  # of a reference and of a band
ACCOUNTS_MAX = 1 << 16
MESSAGES_MAX = 1 << 40
VENUE_LIMITS = (10_000, 100_000, 10**9 * 10**8, 10_000, 0, 1_000_000, 0, 0, CANCEL_NEWEST)


class VenueState(NamedTuple):
    """A venue's whole numeric state but for its books; all arrays int64."""

    accounts: Array64  # (accounts, instruments, ACCOUNT_COLUMNS)
    limits: Array64  # (accounts, VENUE_LIMIT_COLUMNS)
    instruments: Array64  # (instruments, INSTRUMENT_COLUMNS)
    orders: Array64  # (orders + 1, ORDER_COLUMNS)
    fees: Array64  # (2,): maker, taker, in parts per million of the notional
    counters: Array64  # (COUNTERS,), as a desk's
    booking: Array64  # (BOOKING_COLUMNS,): all accounts net at average cost
    legs: Array64  # (2, LEG_COLUMNS): so none has legs, and these stay empty


def make_venue_state(
    *, accounts: int, instruments: int, orders: int, maker_fee_ppm: int, taker_fee_ppm: int
) -> VenueState:
    """A venue without instruments, accounts at the default limits.

    Raises:
        UsageError: A number is out of its bounds.
    """
    if not 0 < accounts <= ACCOUNTS_MAX:
        raise UsageError(f"a venue of {accounts} accounts cannot be made", hint=f"from 1 to {ACCOUNTS_MAX} can")
    if abs(maker_fee_ppm) > FEE_UNIT or abs(taker_fee_ppm) > FEE_UNIT:
        raise UsageError("a fee of more than the notional", hint=f"fees are in millionths, at most {FEE_UNIT}")
    limits = np.zeros((accounts, VENUE_LIMIT_COLUMNS), np.int64)
    limits[:, : len(VENUE_LIMITS)] = VENUE_LIMITS
    return VenueState(
        accounts=np.zeros((accounts, instruments, ACCOUNT_COLUMNS), np.int64),
        limits=limits,
        instruments=np.zeros((instruments, INSTRUMENT_COLUMNS), np.int64),
        orders=np.zeros((orders + 1, ORDER_COLUMNS), np.int64),
        fees=np.array([maker_fee_ppm, taker_fee_ppm], np.int64),
        counters=np.zeros(COUNTERS, np.int64),
        booking=make_booking(1)[0],
        legs=make_legs(),
    )


Requests = npt.NDArray[np.int64]  # shape (n, REQUEST_COLUMNS)
