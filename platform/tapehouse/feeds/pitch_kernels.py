"""Lines of Cboe's PITCH text into cells, whole blocks at a time."""

from __future__ import annotations

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds import order_table
from tapehouse.feeds.order_table import find, forget_instrument, insert, is_full, meta_of, remove
from tapehouse.feeds.packing import head_word, put_cell, tail_word
from tapehouse.feeds.symbol_table import divide, number_of
from tapehouse.market import Action, Flag, Kind, Side

PRICE_UNIT = 100_000  # 1e-4 USD in units of 1e-9
LINE_BYTES_MAX = 256
CELLS_PER_LINE_MAX = 3
_NS_PER_MS = 1_000_000

# Slots of a cursor: the next byte, lines done, cells written.
AT, LINES, USED, CURSOR_SLOTS = range(4)
# Slots of a tally.
ORDERS, LATEST, CORRECTED_TIMES, UNKNOWN_TYPES, UNKNOWN_ORDERS, OVERTAKEN, DUPLICATES, SELLS, TALLY_SLOTS = range(9)

DONE, ROOM_USED, TABLE_FULL, CUT_OFF = range(4)
NO_START, BAD_LENGTH, BAD_NUMBER, BAD_SIDE, BAD_SIZE, BAD_PRICE, TOO_LONG, TOO_MANY_SYMBOLS = range(4, 12)

_START, _LINE_FEED, _RETURN, _BLANK = ord("S"), 10, 13, 32
_ADD_SHORT, _ADD_LONG, _EXECUTED, _CANCELLED = ord("A"), ord("d"), ord("E"), ord("X")
_TRADE_SHORT, _TRADE_LONG, _BREAK, _SYMBOL_CLEAR = ord("P"), ord("r"), ord("B"), ord("s")
_BUY, _SELL = ord("B"), ord("S")
_0, _1 = np.int64(0), np.int64(1)
_MBO, _TRADE_KIND = np.int64(Kind.MBO), np.int64(Kind.TRADE)
_ADD, _CANCEL, _CLEAR = np.int64(Action.ADD), np.int64(Action.CANCEL), np.int64(Action.CLEAR)
_T, _FILL = np.int64(Action.TRADE), np.int64(Action.FILL)
_BID, _ASK, _NO_SIDE = np.int64(Side.BID), np.int64(Side.ASK), np.int64(Side.NONE)
_LAST, _UNDEFINED, _UNIT = np.int64(Flag.LAST), np.int64(UNDEFINED), np.int64(PRICE_UNIT)


@kernel(inline=True)
def _digits(data: Array, at: Int, count: Int, base: Int) -> Int:
    """A number of `count` digits in base 10 or 36, below 2^63; -1 where one is none."""
    value = np.int64(0)
    for index in range(count):
        letter = np.int64(data[at + index])
        if 48 <= letter <= 57:
            digit = letter - 48
        elif base == 36 and 65 <= letter <= 90:
            digit = letter - 55
        else:
            return np.int64(-1)
        value = value * base + digit
    return value


@kernel(inline=True)
def _symbol(data: Array, at: Int, count: Int) -> Int:
    """A symbol as eight bytes, padded with blanks."""
    word = np.int64(0)
    for index in range(8):
        word = (word << 8) | (np.int64(data[at + index]) if index < count else np.int64(_BLANK))
    return word


@kernel(inline=True)
def _has_length(kind: Int, length: Int) -> Int:
    """Whether a line (without its S) has a length of its type; any, where the type is not decoded."""
    if kind == _ADD_SHORT:
        return length == 45
    if kind == _ADD_LONG:
        return length == 51 or length == 52  # with the participant, since later with the customer
    if kind == _EXECUTED:
        return length == 39
    if kind == _CANCELLED:
        return length == 27
    if kind == _TRADE_SHORT:
        return length == 56
    if kind == _TRADE_LONG:
        return length == 58
    if kind == _BREAK:
        return length == 21
    return length == 17 if kind == _SYMBOL_CLEAR else True


@kernel(inline=True)
def _new_order(data: Array, at: Int, long: Int, keys: Array, known: Array, symbols: Array, fields: Array) -> Int:
    """Side, shares, symbol and price of an add or a trade into `fields`: side (0 bid), shares, number, price."""
    if data[at + 21] != _BUY and data[at + 21] != _SELL:
        return BAD_SIDE
    fields[0] = 1 if data[at + 21] == _SELL else 0
    fields[1] = _digits(data, at + 22, 6, 10)
    width = 8 if long else 6
    fields[3] = _digits(data, at + 28 + width, 10, 10)
    if fields[1] < 0 or fields[3] < 0:
        return BAD_NUMBER
    if fields[1] == 0:
        return BAD_SIZE
    if fields[3] == 0:
        return BAD_PRICE
    fields[2] = number_of(keys, known, symbols, _symbol(data, at + 28, width))
    if fields[2] == 0:
        return TOO_MANY_SYMBOLS
    divide(known, fields[2], fields[3])
    return DONE


@kernel(inline=True)
def _put_reduction(
    rows: Array, row: Int, taken: Int, executed: Int, tally: Array, out: Array, used: Int, event: Int, received: Int,
    number: Int,
) -> Int:  # fmt: skip
    """An execution or a cancel of a resting order; the next free cell."""
    meta = rows[row, order_table.META]
    bid = order_table.side_of(meta) == 0
    side = _BID if bid else _ASK
    head = head_word(order_table.instrument_of(meta), _0, _MBO, _1)
    ref, price = rows[row, order_table.REF], rows[row, order_table.PRICE]
    if executed:
        tail = tail_word(_T, _ASK if bid else _BID, _0, _0)
        used = put_cell(out, used, event, received, number, _0, price, taken, head, tail)
        tail = tail_word(_FILL, side, _0, _0)
        used = put_cell(out, used, event, received, number, ref, price, taken, head, tail)
    left = rows[row, order_table.SHARES]
    if taken > left:
        tally[OVERTAKEN] += 1
        taken = left
    used = put_cell(out, used, event, received, number, ref, price, taken, head, tail_word(_CANCEL, side, _LAST, _0))
    if taken == left:
        remove(rows, row)
        tally[ORDERS] -= 1
    else:
        rows[row, order_table.SHARES] = left - taken
    return used


@kernel()
def _decode_line(
    data: Array, at: Int, kind: Int, rows: Array, keys: Array, known: Array, symbols: Array, tally: Array,
    midnight: Int, sided: Int, fields: Array, out: Array, cursor: Array,
) -> Int:  # fmt: skip
    """The cells of one line of the right length, its timestamp at `at`; a status."""
    milliseconds = _digits(data, at, 8, 10)
    named = kind != _SYMBOL_CLEAR and kind != _BREAK
    ref = _digits(data, at + 9, 12, 36) if named or kind == _BREAK else _0
    if milliseconds < 0 or ref < 0:
        return BAD_NUMBER
    adding = kind == _ADD_SHORT or kind == _ADD_LONG
    trading = kind == _TRADE_SHORT or kind == _TRADE_LONG
    if adding or trading:
        status = _new_order(data, at, kind == _ADD_LONG or kind == _TRADE_LONG, keys, known, symbols, fields)
        if status != DONE:
            return status
        if trading and _digits(data, at + (46 if kind == _TRADE_LONG else 44), 12, 36) < 0:
            return BAD_NUMBER
    elif kind == _SYMBOL_CLEAR:
        fields[2] = number_of(keys, known, symbols, _symbol(data, at + 9, 8))
        if fields[2] == 0:
            return TOO_MANY_SYMBOLS
    elif kind != _BREAK:
        fields[1] = _digits(data, at + 21, 6, 10)
        if fields[1] < 0 or (kind == _EXECUTED and _digits(data, at + 27, 12, 36) < 0):
            return BAD_NUMBER
        if fields[1] == 0:
            return BAD_SIZE
    event = midnight + milliseconds * _NS_PER_MS
    received = event
    if received < tally[LATEST]:
        received = tally[LATEST]
        tally[CORRECTED_TIMES] += 1
    tally[LATEST] = received
    number = cursor[LINES] + 1
    used = cursor[USED]
    price = fields[3] * _UNIT
    if adding:
        if find(rows, ref) >= 0:
            tally[DUPLICATES] += 1
        else:
            insert(rows, ref, price, fields[1], meta_of(fields[2], fields[0]))
            tally[ORDERS] += 1
            head = head_word(fields[2], _0, _MBO, _1)
            tail = tail_word(_ADD, _BID if fields[0] == 0 else _ASK, _LAST, _0)
            used = put_cell(out, used, event, received, number, ref, price, fields[1], head, tail)
    elif trading:
        tally[SELLS] += fields[0]
        side = _NO_SIDE
        if sided:
            side = _ASK if fields[0] == 0 else _BID
        head = head_word(fields[2], _0, _TRADE_KIND, _1)
        tail = tail_word(_T, side, _LAST, _0)
        used = put_cell(out, used, event, received, number, _0, price, fields[1], head, tail)
    elif kind == _SYMBOL_CLEAR:
        tally[ORDERS] -= forget_instrument(rows, fields[2])
        head = head_word(fields[2], _0, _MBO, _1)
        tail = tail_word(_CLEAR, _NO_SIDE, _LAST, _0)
        used = put_cell(out, used, event, received, number, _0, _UNDEFINED, _0, head, tail)
    elif kind != _BREAK:
        row = find(rows, ref)
        if row < 0:
            tally[UNKNOWN_ORDERS] += 1
        else:
            used = _put_reduction(rows, row, fields[1], kind == _EXECUTED, tally, out, used, event, received, number)
    cursor[USED] = used
    return DONE


@kernel()
def decode_lines(
    data: Array, cursor: Array, rows: Array, keys: Array, known: Array, symbols: Array, tally: Array, types: Array,
    midnight: Int, sided: Int, final: Int, limit: Int, fields: Array, out: Array,
) -> Int:  # fmt: skip
    """Whole lines of a block from cursor[AT] on into cells.

    Args:
        rows: The table of orders.
        keys, known, symbols: Of a `SymbolTable`.
        tally, types: Counters; of lines by type, shape (256,).
        sided: Whether the side of a trade is that of the hidden order, or just always B.
        final: Whether the last line may lack its line feed.
        fields: Scratch, 4 words.

    Returns:
        DONE, ROOM_USED or TABLE_FULL (go on from the cursor), CUT_OFF where the last line is not all there, or what
        is bad in the line at the cursor.
    """
    cursor[USED] = 0
    while cursor[AT] < data.shape[0]:
        if cursor[USED] >= limit or cursor[USED] + CELLS_PER_LINE_MAX > out.shape[0]:
            return ROOM_USED
        if is_full(rows, tally[ORDERS]):
            return TABLE_FULL
        at = cursor[AT]
        end = at
        while end < data.shape[0] and data[end] != _LINE_FEED and end - at <= LINE_BYTES_MAX:
            end += 1
        if end - at > LINE_BYTES_MAX:
            return TOO_LONG
        following = end + 1
        if end == data.shape[0]:
            if final == 0:
                return CUT_OFF
            following = end
        if end > at and data[end - 1] == _RETURN:
            end -= 1
        if end == at or data[at] != _START:
            return NO_START
        at += 1
        if end - at < 9:
            return BAD_LENGTH
        kind = np.int64(data[at + 8])
        if not _has_length(kind, end - at):
            return BAD_LENGTH
        decoded = (
            kind == _ADD_SHORT or kind == _ADD_LONG or kind == _EXECUTED or kind == _CANCELLED
            or kind == _TRADE_SHORT or kind == _TRADE_LONG or kind == _BREAK or kind == _SYMBOL_CLEAR
        )  # fmt: skip
        if decoded:
            status = _decode_line(
                data, at, kind, rows, keys, known, symbols, tally, midnight, sided, fields, out, cursor
            )
            if status != DONE:
                return status
        else:
            tally[UNKNOWN_TYPES] += 1
        types[kind] += 1
        cursor[AT] = following
        cursor[LINES] += 1
    return DONE
