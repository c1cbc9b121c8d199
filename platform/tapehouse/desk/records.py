"""The records that say what was decided: ORDER and FILL cells, written into `out` from row `counters[OUT_ROWS]` on."""

from __future__ import annotations

from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.desk.requests import BUY
from tapehouse.desk.state import (
    DECISIONS,
    FILL_COUNT,
    ID_BASE,
    INDEX,
    INDEX_BITS,
    INSTRUMENT_ID,
    NOW,
    ORDER_ACCOUNT,
    ORDER_DISPLAY,
    ORDER_EXPIRY,
    ORDER_NUMBER,
    ORDER_SIDE,
    ORDER_STOP,
    ORDINAL,
    ORDINAL_BITS,
    OUT_ROWS,
)
from tapehouse.market import Action, Kind, Side

IDS_MAX = 1 << INDEX_BITS  # orders that one input may announce
MAKER, TAKER = 0, 1
ACCEPTED, REJECTED, CANCELLED = int(Action.ACCEPTED), int(Action.REJECTED), int(Action.CANCELLED)
TRIGGERED, EXPIRED = int(Action.TRIGGERED), int(Action.EXPIRED)

_ORDER, _FILL = int(Kind.ORDER) << 48, int(Kind.FILL) << 48
_FILLED = int(Action.FILL)
_BID, _ASK = int(Side.BID) << 8, int(Side.ASK) << 8
_LAST = 128 << 16
_TWO_CELLS = 2 << 56
_ORDINALS = (1 << ORDINAL_BITS) - 1


@kernel(inline=True)
def next_order_id(counters: Array) -> Int:
    """The id of an order that is announced now; where `ids_left` is 0 there is none."""
    return (counters[ORDINAL] << INDEX_BITS) | (counters[INDEX] - counters[ID_BASE])


@kernel(inline=True)
def ids_left(counters: Array) -> Int:
    """How many records this input may still lead to that announce an order."""
    return IDS_MAX - (counters[INDEX] - counters[ID_BASE])


@kernel(inline=True)
def key_of(order_id: Int) -> Int:
    """The key of an order in `own`: ids that follow each other lie together there. 0 for what can be no id."""
    if order_id <= 0:
        return 0
    return (order_id >> INDEX_BITS) | ((order_id & (IDS_MAX - 1)) << ORDINAL_BITS)


@kernel(inline=True)
def order_id_of(key: Int) -> Int:
    """The order's id of a key in `own`."""
    return ((key & _ORDINALS) << INDEX_BITS) | (key >> ORDINAL_BITS)


@kernel(inline=True)
def write_record(counters: Array, out: Array, small: Int, packed: Int, order_id: Int, price: Int, size: Int) -> Int:
    """Write what both cells of a decision have in common; returns the extension's row, whose own words are missing."""
    row = counters[OUT_ROWS]
    index = counters[INDEX]
    packed |= _LAST | (index << 32)
    first = out[row]
    first[0] = counters[NOW]
    first[1] = counters[NOW]
    first[2] = counters[ORDINAL]
    first[3] = order_id
    first[4] = price
    first[5] = size
    first[6] = small | _TWO_CELLS
    first[7] = packed
    out[row + 1, 6] = small
    out[row + 1, 7] = packed
    counters[OUT_ROWS] = row + 2
    counters[INDEX] = index + 1
    counters[DECISIONS] += 1
    return row + 1


@kernel(inline=True)
def write_order(
    desk: State, out: Array, slot: Int, columns: Array, action: Int, reason: Int, order_id: Int, price: Int, size: Int,
    replaced: Int,
) -> None:  # fmt: skip
    """An ORDER record: what became of an order; `size` is what is left of it, `replaced` the order it stands for.

    Args:
        columns: The order's row, or that of the draft: whose it is, and the terms that stay as they are.
    """
    packed = action | (_BID if columns[ORDER_SIDE] == BUY else _ASK) | (reason << 24)
    small = desk.instruments[slot, INSTRUMENT_ID] | _ORDER
    row = write_record(desk.counters, out, small, packed, order_id, price, size)
    extension = out[row]
    extension[0] = columns[ORDER_ACCOUNT]
    extension[1] = columns[ORDER_NUMBER]
    extension[2] = columns[ORDER_STOP]
    extension[3] = columns[ORDER_DISPLAY] if columns[ORDER_DISPLAY] != 0 else size
    extension[4] = columns[ORDER_EXPIRY]
    extension[5] = replaced


@kernel(inline=True)
def write_fill(
    counters: Array, out: Array, instrument: Int, side: Int, liquidity: Int, order_id: Int, price: Int, size: Int,
    fee: Int, counter_order: Int, account: Int, position: Int, cash: Int, flags: Int,
) -> None:  # fmt: skip
    """A FILL record of one side; position and cash are the account's after it, `flags` from `ledger.close_flag`."""
    packed = _FILLED | (_BID if side == BUY else _ASK) | (flags << 16) | (liquidity << 24)
    row = write_record(counters, out, instrument | _FILL, packed, order_id, price, size)
    extension = out[row]
    extension[0] = counters[FILL_COUNT]
    extension[1] = fee
    extension[2] = counter_order
    extension[3] = account
    extension[4] = position
    extension[5] = cash
