"""Requests: what anyone can ask of the desk's orders, one row of integers each, whichever door it came through.

A strategy's intent, a JSON command and a cell of a bulk frame all become such a row, and `orders.decide` decides on it:
one order core behind every door. Reasons are the codes that ORDER records carry; numbers here are pinned for ever.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Columns of a request.
(
    REQUEST_KIND,
    REQUEST_ACCOUNT,
    REQUEST_SLOT,
    REQUEST_SIDE,
    REQUEST_TYPE,
    REQUEST_TIME_IN_FORCE,
    REQUEST_FLAGS,
    REQUEST_PRICE,  # the limit, in price units; not looked at for MARKET and STOP
    REQUEST_SIZE,
    REQUEST_STOP,  # of STOP and STOP_LIMIT: the trade price at which the order comes alive
    REQUEST_DISPLAY,  # of an iceberg: what is shown at a time; 0 for all of it
    REQUEST_EXPIRY,  # of GOOD_TILL_DATE: UTC ns
    REQUEST_TARGET,  # of a replace or cancel: the order's id
    REQUEST_NUMBER,  # the sender's own, carried into the records
) = range(14)
REQUEST_COLUMNS = 16  # two cache lines

SUBMIT, REPLACE, CANCEL = range(3)
REQUEST_KINDS = ("submit", "replace", "cancel")

LIMIT, MARKET, STOP, STOP_LIMIT = range(4)
ORDER_TYPES = ("limit", "market", "stop", "stop_limit")

# A time in force; 2 is what post-only once was among them, and still means a GTC order with POST_ONLY_FLAG.
GTC, IOC, POST_ONLY, DAY, FOK, GTD = range(6)
TIMES_IN_FORCE = ("gtc", "ioc", "post_only", "day", "fok", "gtd")

POST_ONLY_FLAG, REDUCE_ONLY_FLAG = 1, 2

BUY, SELL = 0, 1

# What happens when an order meets one of its own account; named as venues name it.
CANCEL_NEWEST, CANCEL_OLDEST, CANCEL_BOTH, DECREMENT = range(4)
SELF_MATCH_POLICIES = ("cancel_newest", "cancel_oldest", "cancel_both", "decrement")

# Why a request was rejected, or what was left of an order cancelled: the `depth` of its ORDER record.
(
    OK,
    KILLED,
    BAD_SIZE,
    BAD_PRICE,
    TOO_LARGE,
    POSITION_LIMIT,
    OPEN_LIMIT,
    WOULD_CROSS,
    UNKNOWN_ORDER,
    OUT_OF_BAND,
    TOO_MANY_MESSAGES,
    NOT_FILLABLE,
    OWN_ORDER,
    TOO_MANY_MATCHES,
    NO_ROOM,
    LEDGER_FULL,
    BAD_REQUEST,
    NO_MARKET,
    NOT_REDUCING,
    BAD_STOP,
    BAD_DISPLAY,
    BAD_EXPIRY,
    UNKNOWN_ACCOUNT,
    STALE_NUMBER,
    SESSION_ENDED,
) = range(25)
REASONS = (
    "",
    "kill switch is on",
    "size is not a positive whole number of lots within the limit",
    "price is not a positive whole number of ticks",
    "notional is beyond the limit",
    "position would go beyond the limit",
    "too many open orders",
    "post-only order would trade",
    "no such working order",
    "price is beyond the band around the last trade",
    "too many messages in a second",
    "fill-or-kill order would not be filled",
    "order met one of its own account",
    "order met too many others",
    "no room in the book",
    "account holds as much money as can be counted",
    "no such account, instrument, side or kind of request",
    "nothing is offered that a market order could take",
    "reduce-only order would not reduce the position",
    "stop is not a positive whole number of ticks beyond the market",
    "display is not a positive whole number of lots below the size",
    "expiry is not in the future",
    "no such account",
    "number is below this client's window",
    "session or order's time is over",
)

Requests = npt.NDArray[np.int64]  # shape (n, REQUEST_COLUMNS)
