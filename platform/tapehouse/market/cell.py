"""The cell: 64 bytes, the unit of ring, frame and log. See docs/formats/cell.md for the byte-exact account.

A record is one cell, or a first cell and its *extensions*. An extension repeats bytes 48 to 63 of its first cell with
`cells` = 0 and owns its first 48 bytes. Numbers of kinds, actions, sides and flags are pinned for ever; the vocabulary
is that of Databento's DBN. Prices and sizes are integers in units of the instrument's exponents, times are UTC ns.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any

import numpy as np
import numpy.typing as npt

CELL = np.dtype(
    [
        ("ts_event", "<i8"),  # 0: venue time
        ("ts_recv", "<i8"),  # 8: when it reached us, and so engine time
        ("sequence", "<u8"),  # 16: the venue's
        ("order_id", "<u8"),  # 24
        ("price", "<i8"),  # 32
        ("size", "<i8"),  # 40
        ("instrument", "<u4"),  # 48
        ("source", "<u2"),  # 52
        ("kind", "u1"),  # 54
        ("cells", "u1"),  # 55: cells of this record; 0 in an extension
        ("action", "u1"),  # 56
        ("side", "u1"),  # 57
        ("flags", "u1"),  # 58
        ("depth", "u1"),  # 59
        ("count", "<u4"),  # 60
    ]
)
CELL_BYTES = 64
OWNED_BYTES = 48  # what an extension owns
CELLS_MAX = 255  # a record's cells, its first included
PAYLOAD_BYTES_MAX = (CELLS_MAX - 1) * OWNED_BYTES  # 12,192: the longest JSON payload

Cells = npt.NDArray[Any]  # shape (n,), dtype CELL

# An option quote's extension, in place of bytes 0 to 47: prices in the instrument's unit, volatilities in 1e-9.
OPTION_EXTENSION = np.dtype(
    [
        ("forward", "<i8"),
        ("mark", "<i8"),
        ("bid_volatility", "<i8"),
        ("ask_volatility", "<i8"),
        ("mark_volatility", "<i8"),
        ("open_interest", "<i8"),
        ("head", "V16"),
    ]
)
# An order's extension.
ORDER_EXTENSION = np.dtype(
    [
        ("client", "<u8"),
        ("number", "<u8"),
        ("stop", "<i8"),
        ("display", "<i8"),
        ("expiry", "<i8"),
        ("replaced", "<u8"),
        ("head", "V16"),
    ]
)
# The second extension of an ORDER record that answers an order of a bulk frame; see docs/formats/decisions.md.
ANSWER_EXTENSION = np.dtype(
    [
        ("client", "<u8"),
        ("number", "<u8"),
        ("order_id", "<u8"),
        ("reason", "<i8"),
        ("reserved_1", "<i8"),  # 0
        ("reserved_2", "<i8"),
        ("head", "V16"),
    ]
)
# A fill's extension; `position` and `cash` are the account's after the fill.
FILL_EXTENSION = np.dtype(
    [
        ("match_id", "<u8"),
        ("fee", "<i8"),
        ("counter_order", "<u8"),
        ("client", "<u8"),
        ("position", "<i8"),
        ("cash", "<i8"),
        ("head", "V16"),
    ]
)


class Kind(IntEnum):
    """What a record is. An unknown kind below 128 halts a machine, one from 128 up is skipped."""

    MBO = 1  # market by order
    MBP = 2  # market by price: `size` is the level's whole size, 0 where it vanished
    QUOTE = 3  # bid cell + ask extension
    TRADE = 4
    STATUS = 5
    OPTION_QUOTE = 6  # bid cell + ask extension + OPTION_EXTENSION
    ORDER = 7  # + ORDER_EXTENSION
    FILL = 8  # + FILL_EXTENSION
    COMMAND = 9  # JSON in extensions, `size` its bytes, `sequence` its CMDS sequence
    EVENT = 10  # JSON
    DEFINITION = 11  # JSON
    CLOCK = 12
    EPOCH = 13  # JSON: what begins here (mode, code, configuration, clock source)
    GAP = 14  # `count` records missing after `sequence`, and what the book is worth since: see `market.gap`
    RAW = 15  # bytes as they came; flag CONTINUED where a later record goes on
    WIDE_ID = 128  # bytes: the id wider than 64 bits for which `order_id` stands
    BAR = 129  # somebody's: close, volume + open, high, low, close; `count` its seconds
    STATISTIC = 130  # settlement, open interest and so on; `count` its type in DBN
    IMBALANCE = 131  # of an auction


KIND_SKIPPED_FROM = 128
KIND_LAST = int(max(kind for kind in Kind if kind < KIND_SKIPPED_FROM))  # of those that nobody may skip


class Action(IntEnum):
    """DBN's letters for market records; the lower-case ones are the desk's own, for orders."""

    NONE = ord("N")
    ADD = ord("A")
    CANCEL = ord("C")  # `size` less remains; the order goes when nothing remains
    MODIFY = ord("M")  # price and size become these
    CLEAR = ord("R")
    TRADE = ord("T")  # an aggressor traded; does not change the book
    FILL = ord("F")  # a resting order traded; does not change the book
    ACCEPTED = ord("a")
    REJECTED = ord("j")
    CANCELLED = ord("c")
    EXPIRED = ord("x")
    TRIGGERED = ord("t")  # a stop order came alive; `price` is its limit from now on
    REPEATED = ord("r")  # an answer that was given before: the record names the order of then, and changes nothing


class Side(IntEnum):
    """Of an order, a book side or a trade's aggressor."""

    NONE = ord("N")
    BID = ord("B")
    ASK = ord("A")


class Flag(IntFlag):
    """DBN's flags."""

    LAST = 128  # the last record of its event
    TOP_OF_BOOK = 64
    SNAPSHOT = 32
    BY_PRICE = 16
    BAD_TS_RECV = 8
    MAYBE_BAD_BOOK = 4
    CONTINUED = 2  # RAW: the next record goes on with these bytes
    SYNTHETIC = 1  # made by tapehouse, not by a venue


def empty_cells(n: int) -> Cells:
    """`n` cells of zero bytes, dtype CELL."""
    return np.zeros(n, CELL)


def words(cells: Cells) -> npt.NDArray[np.int64]:
    """Cells as shape (n, 8) int64 without a copy: the shape in which kernels take them.

    Columns: 0 ts_event, 1 ts_recv, 2 sequence, 3 order_id, 4 price, 5 size, 6 and 7 the packed small fields.
    """
    return np.ascontiguousarray(cells).view(np.int64).reshape(-1, 8)


def from_words(array: npt.NDArray[np.int64]) -> Cells:
    """The inverse of `words`, also without a copy."""
    return np.ascontiguousarray(array).reshape(-1).view(CELL)
