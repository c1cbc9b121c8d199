"""TotalView-ITCH messages into cells, whole blocks at a time.

Messages lie in *spans* of a block of bytes: a packet's messages, or all of a piece of a file. `decode_spans` can stop
after any message (the cells' room is used up, the table of orders is full) and go on from its cursor.
"""

from __future__ import annotations

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds import order_table
from tapehouse.feeds.itch_layout import PRICE_UNIT, SYSTEM_EVENTS, TRADING_STATES, length_table, status_table
from tapehouse.feeds.order_table import find, insert, is_full, meta_of, remove
from tapehouse.feeds.packing import COUNT_SHIFT, head_word, put_cell, tail_word
from tapehouse.market import Action, Flag, Kind, Side

# Columns of a span: its bytes, the number of its first message, and when it was received (-1: at its messages' times).
BEGIN, END, FIRST, RECEIVED, SPAN_COLUMNS = range(5)
# Slots of a cursor: the span, the next byte in it (-1 before it was begun), its messages done, cells written.
SPAN, AT, MESSAGES, USED, CURSOR_SLOTS = range(5)
# Slots of a tally.
ORDERS, INSTRUMENTS, LATEST, ZERO_LENGTHS, EMPTY, UNKNOWN_TYPES = range(6)
UNKNOWN_ORDERS, OVERTAKEN, DUPLICATES, CORRECTED_TIMES, NO_CROSS, UNPRINTED, TALLY_SLOTS = range(6, 13)
# Columns of what is known of a locate: the feed's instrument id, the symbol's 8 bytes, the divisor of its prices.
INSTRUMENT, SYMBOL, DIVISOR, LOCATE_COLUMNS = range(4)

DONE, ROOM_USED, TABLE_FULL, CUT_OFF = range(4)
BAD_LENGTH, UNFRAMED, BAD_SIDE, BAD_SIZE, BAD_PRICE = range(4, 9)

CELLS_PER_MESSAGE_MAX = 3
_SHORTEST = 14  # bytes of the shortest message that has a length of its own, with it

_LENGTHS = length_table()
_TRADING_STATES, _SYSTEM_EVENTS = status_table(TRADING_STATES), status_table(SYSTEM_EVENTS)
_A, _B, _C, _D, _E, _F, _H, _P = ord("A"), ord("B"), ord("C"), ord("D"), ord("E"), ord("F"), ord("H"), ord("P")
_Q, _R, _S, _U, _X, _N = ord("Q"), ord("R"), ord("S"), ord("U"), ord("X"), ord("N")
_0, _1 = np.int64(0), np.int64(1)
_MBO, _TRADE_KIND, _STATUS = np.int64(Kind.MBO), np.int64(Kind.TRADE), np.int64(Kind.STATUS)
_ADD, _CANCEL, _T, _FILL = np.int64(Action.ADD), np.int64(Action.CANCEL), np.int64(Action.TRADE), np.int64(Action.FILL)
_NONE, _NO_SIDE = np.int64(Action.NONE), np.int64(Side.NONE)
_BID, _ASK, _LAST, _UNDEFINED = np.int64(Side.BID), np.int64(Side.ASK), np.int64(Flag.LAST), np.int64(UNDEFINED)
_UNIT = np.int64(PRICE_UNIT)


def room_for(length: int) -> int:
    """How many cells `length` bytes of messages can become at most."""
    return (length // _SHORTEST + 1) * CELLS_PER_MESSAGE_MAX


@kernel(inline=True)
def be16(data: Array, at: Int) -> Int:
    return (np.int64(data[at]) << 8) | np.int64(data[at + 1])


@kernel(inline=True)
def be32(data: Array, at: Int) -> Int:
    return (be16(data, at) << 16) | be16(data, at + 2)


@kernel(inline=True)
def be48(data: Array, at: Int) -> Int:
    return (be16(data, at) << 32) | be32(data, at + 2)


@kernel(inline=True)
def be64(data: Array, at: Int) -> Int:
    """Eight bytes as int64: what is from 2^63 up becomes negative, and the same bytes again in a cell."""
    return (be32(data, at) << 32) | be32(data, at + 4)


@kernel(inline=True)
def _stock_at(kind: Int) -> Int:
    """Where the stock's symbol lies in a decoded message; 0 where there is none."""
    if kind == _A or kind == _F or kind == _P:
        return 24
    if kind == _R or kind == _H:
        return 11
    return 19 if kind == _Q else 0


@kernel(inline=True)
def _price_at(kind: Int) -> Int:
    """Where a price lies that a cell will bear; 0 where there is none."""
    if kind == _A or kind == _F or kind == _P or kind == _C:
        return 32
    if kind == _U:
        return 31
    return 27 if kind == _Q else 0


@kernel(inline=True)
def _is_decoded(kind: Int) -> Int:
    order = kind == _A or kind == _F or kind == _E or kind == _C or kind == _X or kind == _D or kind == _U
    return order or kind == _P or kind == _Q or kind == _H or kind == _S or kind == _R


@kernel()
def message_status(data: Array, at: Int, kind: Int) -> Int:
    """Whether the fields of a message (of the right length, from `at` on) can be: DONE, or what is bad."""
    if kind == _A or kind == _F:
        if data[at + 19] != _B and data[at + 19] != _S:
            return BAD_SIDE
        if be32(data, at + 20) == 0:
            return BAD_SIZE
        return BAD_PRICE if be32(data, at + 32) == 0 else DONE
    if kind == _E or kind == _C or kind == _X:
        return BAD_SIZE if be32(data, at + 19) == 0 else DONE
    if kind == _U:
        if be32(data, at + 27) == 0:
            return BAD_SIZE
        return BAD_PRICE if be32(data, at + 31) == 0 else DONE
    if kind == _P:
        return BAD_SIZE if be32(data, at + 20) == 0 else DONE
    if kind == _Q:
        return BAD_SIZE if be64(data, at + 11) < 0 else DONE
    return DONE


@kernel(inline=True)
def _frame(data: Array, at: Int, end: Int, zero_is_unsaid: Int, length: Array) -> Int:
    """The status of the frame at `at`; `length[0]` becomes the message's length."""
    if at + 2 > end:
        return CUT_OFF
    said = be16(data, at)
    length[0] = said
    if said == 0:
        if zero_is_unsaid == 0:
            return DONE
        if at + 3 > end:
            return CUT_OFF
        length[0] = _LENGTHS[data[at + 2]]
        if length[0] == 0:
            return UNFRAMED
    if at + 2 + length[0] > end:
        return CUT_OFF
    expected = _LENGTHS[data[at + 2]]
    if expected == 0:
        return DONE
    return DONE if expected == length[0] else BAD_LENGTH


@kernel(inline=True)
def _next_message(data: Array, at: Int, end: Int, zero_is_unsaid: Int, length: Array) -> Int:
    """As `_frame`, and whether the message's fields can be."""
    status = _frame(data, at, end, zero_is_unsaid, length)
    if status == DONE and length[0] != 0 and _LENGTHS[data[at + 2]] != 0:
        return message_status(data, at + 2, np.int64(data[at + 2]))
    return status


@kernel()
def hold_frames(data: Array, begin: Int, end: Int, zero_is_unsaid: Int, cursor: Array) -> Int:
    """Hold every message of data[begin:end] against its type; a status, and where in cursor[AT]."""
    at = begin
    length = cursor[CURSOR_SLOTS:]
    while at < end:
        cursor[AT] = at
        status = _next_message(data, at, end, zero_is_unsaid, length)
        if status != DONE:
            return status
        at += 2 + length[0]
    cursor[AT] = at
    return DONE


@kernel()
def survey_span(
    data: Array, begin: Int, end: Int, zero_is_unsaid: Int, locates: Array, tally: Array, cursor: Array
) -> Int:
    """Learn locates, symbols and the divisors of prices from data[begin:end].

    Args:
        locates: Shape (65536, LOCATE_COLUMNS); instruments get their ids in the order of first use.
        cursor: AT becomes the position of the message where it stopped, MESSAGES how many there were before it.

    Returns:
        A status; CUT_OFF where the last message is not all there.
    """
    at = begin
    cursor[AT] = at
    cursor[MESSAGES] = 0
    length = cursor[CURSOR_SLOTS:]
    while at < end:
        status = _next_message(data, at, end, zero_is_unsaid, length)
        if status != DONE:
            return status
        message = at + 2
        if length[0] != 0:
            kind = np.int64(data[message])
            if _LENGTHS[kind] != 0 and _is_decoded(kind) and kind != _S:
                locate = be16(data, message + 1)
                learn(data, message, kind, locate, locates, tally)
                price_at = _price_at(kind)
                if price_at != 0:
                    _divide(locates, locate, be32(data, message + price_at))
        at = message + length[0]
        cursor[AT] = at
        cursor[MESSAGES] += 1
    return DONE


@kernel(inline=True)
def learn(data: Array, at: Int, kind: Int, locate: Int, locates: Array, tally: Array) -> Int:
    """The feed's instrument of a locate, which is given one where it has none yet; its symbol, where this tells it."""
    if locates[locate, INSTRUMENT] == 0:
        tally[INSTRUMENTS] += 1
        locates[locate, INSTRUMENT] = tally[INSTRUMENTS]
    if locates[locate, SYMBOL] == 0 and _stock_at(kind) != 0:
        locates[locate, SYMBOL] = be64(data, at + _stock_at(kind))
    return locates[locate, INSTRUMENT]


@kernel(inline=True)
def _divide(locates: Array, locate: Int, price: Int) -> Int:
    """Make a locate's divisor divide a price too."""
    low = locates[locate, DIVISOR]
    while price != 0:
        rest = low % price if low != 0 else np.int64(0)
        low = price
        price = rest
    locates[locate, DIVISOR] = low
    return low


@kernel(inline=True)
def _put_execution(
    out: Array, used: Int, event: Int, received: Int, number: Int, order: Array, price: Int, taken: Int, printed: Int
) -> Int:
    """Trade, fill and cancel of a resting order; the trade only where it is printed. The next free cell."""
    meta = order[order_table.META]
    bid = order_table.side_of(meta) == 0
    side = _BID if bid else _ASK
    aggressor = _ASK if bid else _BID
    head = head_word(order_table.instrument_of(meta), _0, _MBO, _1)
    ref = order[order_table.REF]
    if printed:
        tail = tail_word(_T, aggressor, _0, _0)
        used = put_cell(out, used, event, received, number, _0, price, taken, head, tail)
    return put_cell(out, used, event, received, number, ref, price, taken, head, tail_word(_FILL, side, _0, _0))


@kernel(inline=True)
def _put_order(
    out: Array, used: Int, event: Int, received: Int, number: Int, order: Array, size: Int, action: Int, flags: Int
) -> Int:
    """An add or a cancel of one order of the table; the next free cell."""
    meta = order[order_table.META]
    side = _BID if order_table.side_of(meta) == 0 else _ASK
    head = head_word(order_table.instrument_of(meta), _0, _MBO, _1)
    price = order[order_table.PRICE]
    ref = order[order_table.REF]
    return put_cell(out, used, event, received, number, ref, price, size, head, tail_word(action, side, flags, _0))


@kernel(inline=True)
def _add(
    data: Array, at: Int, rows: Array, tally: Array, out: Array, used: Int, event: Int, received: Int, number: Int,
    instrument: Int,
) -> Int:  # fmt: skip
    ref = be64(data, at + 11)
    if find(rows, ref) >= 0:
        tally[DUPLICATES] += 1
        return used
    shares = be32(data, at + 20)
    meta = meta_of(instrument, 1 if data[at + 19] == _S else 0)
    row = insert(rows, ref, be32(data, at + 32) * _UNIT, shares, meta)
    tally[ORDERS] += 1
    return _put_order(out, used, event, received, number, rows[row], shares, _ADD, _LAST)


@kernel(inline=True)
def _reduce(
    data: Array, at: Int, kind: Int, rows: Array, tally: Array, out: Array, used: Int, event: Int, received: Int,
    number: Int,
) -> Int:  # fmt: skip
    """An execution, a partial cancel or a delete."""
    row = find(rows, be64(data, at + 11))
    if row < 0:
        tally[UNKNOWN_ORDERS] += 1
        return used
    left = rows[row, order_table.SHARES]
    taken = left if kind == _D else be32(data, at + 19)
    if kind == _E or kind == _C:
        price = rows[row, order_table.PRICE] if kind == _E else be32(data, at + 32) * _UNIT
        printed = kind == _E or data[at + 31] != _N
        if not printed:
            tally[UNPRINTED] += 1
        used = _put_execution(out, used, event, received, number, rows[row], price, taken, printed)
    if taken > left:
        tally[OVERTAKEN] += 1
        taken = left
    used = _put_order(out, used, event, received, number, rows[row], taken, _CANCEL, _LAST)
    if taken == left:
        remove(rows, row)
        tally[ORDERS] -= 1
    else:
        rows[row, order_table.SHARES] = left - taken
    return used


@kernel(inline=True)
def _replace(
    data: Array, at: Int, rows: Array, tally: Array, out: Array, used: Int, event: Int, received: Int, number: Int
) -> Int:
    """An order goes and another comes in its place, of the same side: it has a new id, so it is no MODIFY."""
    row = find(rows, be64(data, at + 11))
    if row < 0:
        tally[UNKNOWN_ORDERS] += 1
        return used
    meta = rows[row, order_table.META]
    used = _put_order(out, used, event, received, number, rows[row], rows[row, order_table.SHARES], _CANCEL, _0)
    remove(rows, row)
    tally[ORDERS] -= 1
    ref = be64(data, at + 19)
    if find(rows, ref) >= 0:
        tally[DUPLICATES] += 1
        out[used - 1, 7] |= _LAST << 16
        return used
    row = insert(rows, ref, be32(data, at + 31) * _UNIT, be32(data, at + 27), meta)
    tally[ORDERS] += 1
    return _put_order(out, used, event, received, number, rows[row], be32(data, at + 27), _ADD, _LAST)


@kernel(inline=True)
def _put_other(
    data: Array, at: Int, kind: Int, tally: Array, out: Array, used: Int, event: Int, received: Int, number: Int,
    instrument: Int,
) -> Int:  # fmt: skip
    """A trade of hidden orders, a cross, a trading action or a system event."""
    plain = tail_word(_T, _NO_SIDE, _LAST, _0)
    head = head_word(instrument, _0, _TRADE_KIND, _1)
    if kind == _P:
        price = be32(data, at + 32) * _UNIT
        return put_cell(out, used, event, received, number, _0, price, be32(data, at + 20), head, plain)
    if kind == _Q:
        shares = be64(data, at + 11)
        if shares == 0:
            tally[NO_CROSS] += 1
            return used
        return put_cell(out, used, event, received, number, _0, be32(data, at + 27) * _UNIT, shares, head, plain)
    action = _SYSTEM_EVENTS[data[at + 11]] if kind == _S else _TRADING_STATES[data[at + 19]]
    head = head_word(_0 if kind == _S else instrument, _0, _STATUS, _1)
    tail = tail_word(_NONE, _NO_SIDE, _LAST, _0) | (action << COUNT_SHIFT)
    return put_cell(out, used, event, received, number, _0, _UNDEFINED, _0, head, tail)


@kernel()
def decode_spans(
    data: Array, spans: Array, cursor: Array, rows: Array, locates: Array, tally: Array, types: Array,
    zero_is_unsaid: Int, midnight: Int, limit: Int, out: Array,
) -> Int:  # fmt: skip
    """The messages of `spans` from the cursor on into cells.

    Args:
        spans: Shape (n, SPAN_COLUMNS).
        rows: The table of orders.
        tally, types: Counters; of messages by type, shape (256,).
        zero_is_unsaid: Whether a length of 0 means the length of the type, as one file has it, or an empty message.
        midnight: UTC ns.
        limit: Stop where so many cells are there.
        out: Words, shape (m, 8), m at least CELLS_PER_MESSAGE_MAX.

    Returns:
        DONE, ROOM_USED or TABLE_FULL (go on from the cursor), CUT_OFF or what is bad at cursor[AT].
    """
    cursor[USED] = 0
    used = np.int64(0)
    length = cursor[CURSOR_SLOTS:]
    while cursor[SPAN] < spans.shape[0]:
        span = cursor[SPAN]
        if cursor[AT] < 0:
            cursor[AT] = spans[span, BEGIN]
            cursor[MESSAGES] = 0
        end = spans[span, END]
        at = cursor[AT]
        while at < end:
            if used >= limit or used + CELLS_PER_MESSAGE_MAX > out.shape[0]:
                return ROOM_USED
            if is_full(rows, tally[ORDERS]):
                return TABLE_FULL
            status = _next_message(data, at, end, zero_is_unsaid, length)
            if status != DONE:
                return status
            message = at + 2
            size = length[0]
            if size == 0:
                tally[EMPTY] += 1
            else:
                kind = np.int64(data[message])
                if _LENGTHS[kind] == 0:
                    tally[UNKNOWN_TYPES] += 1
                else:
                    number = spans[span, FIRST] + cursor[MESSAGES]
                    used = _decode(
                        data, message, kind, rows, locates, tally, out, used, midnight, spans[span, RECEIVED], number
                    )
                types[kind] += 1
                if zero_is_unsaid and be16(data, at) == 0:
                    tally[ZERO_LENGTHS] += 1
            at = message + size
            cursor[AT] = at
            cursor[MESSAGES] += 1
            cursor[USED] = used
        cursor[SPAN] += 1
        if cursor[SPAN] < spans.shape[0]:
            cursor[AT] = -1
    return DONE


@kernel(inline=True)
def _decode(
    data: Array, at: Int, kind: Int, rows: Array, locates: Array, tally: Array, out: Array, used: Int, midnight: Int,
    received: Int, number: Int,
) -> Int:  # fmt: skip
    """The cells of one good message; the next free cell."""
    if not _is_decoded(kind):
        return used
    event = midnight + be48(data, at + 5)
    if received < 0:
        received = event
    if received < tally[LATEST]:
        received = tally[LATEST]
        tally[CORRECTED_TIMES] += 1
    tally[LATEST] = received
    instrument = _0
    if kind != _S:
        instrument = learn(data, at, kind, be16(data, at + 1), locates, tally)
    if kind == _A or kind == _F:
        return _add(data, at, rows, tally, out, used, event, received, number, instrument)
    if kind == _E or kind == _C or kind == _X or kind == _D:
        return _reduce(data, at, kind, rows, tally, out, used, event, received, number)
    if kind == _U:
        return _replace(data, at, rows, tally, out, used, event, received, number)
    if kind == _R:
        return used
    return _put_other(data, at, kind, tally, out, used, event, received, number, instrument)
