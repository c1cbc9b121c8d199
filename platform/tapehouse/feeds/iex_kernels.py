"""IEX-TP packets into spans of messages, and DEEP and TOPS messages into cells, whole blocks at a time."""

from __future__ import annotations

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.iex_layout import HEADER_BYTES, PRICE_MAX, PRICE_UNIT, SYMBOL_AT, VERSION
from tapehouse.feeds.iex_layout import length_table as _length_table
from tapehouse.feeds.iex_layout import status_table as _status_table
from tapehouse.feeds.packing import COUNT_SHIFT, head_word, put_cell, tail_word
from tapehouse.feeds.pcap import BEGIN as PAYLOAD
from tapehouse.feeds.pcap import END as PAYLOAD_END
from tapehouse.feeds.pcap import TIME
from tapehouse.feeds.symbol_table import STATE, divide, number_of
from tapehouse.market import Action, Flag, Kind, Side

# Slots of a stream's state: who sends it, the next number, the latest time of sending; then counters.
SESSION, CHANNEL, PROTOCOL, BEGUN, NEXT, SENT = range(6)
PACKETS, MESSAGES, HEARTBEATS, REPEATED, MISSING, STREAM_SLOTS = range(6, 12)
# What a packet is to the stream before it.
ALL_TAKEN, GAP, RESTART, NEW_SESSION, BAD_PACKET = range(5)

# Columns of a span: its bytes, the number of its first message, when it was captured.
BEGIN, END, FIRST, RECEIVED, SPAN_COLUMNS = range(5)
# Slots of a cursor, and of the counters of a pass.
SPAN, AT, NUMBER, USED, CURSOR_SLOTS = range(5)
LATEST, CORRECTED_TIMES, UNKNOWN_TYPES, TALLY_SLOTS = range(4)

DONE, ROOM_USED, BAD_LENGTH, BAD_PRICE, BAD_SIZE, BAD_TIME, TOO_MANY_SYMBOLS = range(7)
CELLS_PER_MESSAGE_MAX = 2
_SHORTEST = 12  # bytes of the shortest message with its length
# Bits of what is kept of a symbol: it has levels; its book is between two states.
HAS_LEVELS, IN_TRANSITION = 1, 2

_LENGTHS, _STATUSES = _length_table(), _status_table()
_S, _H, _O, _P, _E, _T, _Q = ord("S"), ord("H"), ord("O"), ord("P"), ord("E"), ord("T"), ord("Q")
_BUY, _SELL = ord("8"), ord("5")
_0, _1, _2 = np.int64(0), np.int64(1), np.int64(2)
_MBP, _TRADE, _STATUS, _QUOTE = np.int64(Kind.MBP), np.int64(Kind.TRADE), np.int64(Kind.STATUS), np.int64(Kind.QUOTE)
_ADD, _CANCEL = np.int64(Action.ADD), np.int64(Action.CANCEL)
_TRADED, _NONE = np.int64(Action.TRADE), np.int64(Action.NONE)
_BID, _ASK, _NO_SIDE = np.int64(Side.BID), np.int64(Side.ASK), np.int64(Side.NONE)
_LAST, _BY_PRICE, _UNDEFINED = np.int64(Flag.LAST), np.int64(Flag.BY_PRICE), np.int64(UNDEFINED)
_UNIT = np.int64(PRICE_UNIT)


def room_for(length: int) -> int:
    """How many cells `length` bytes of messages can become at most."""
    return (length // _SHORTEST + 1) * CELLS_PER_MESSAGE_MAX


@kernel(inline=True)
def le16(data: Array, at: Int) -> Int:
    return np.int64(data[at]) | (np.int64(data[at + 1]) << 8)


@kernel(inline=True)
def le32(data: Array, at: Int) -> Int:
    return le16(data, at) | (le16(data, at + 2) << 16)


@kernel(inline=True)
def le64(data: Array, at: Int) -> Int:
    return le32(data, at) | (le32(data, at + 4) << 32)


@kernel(inline=True)
def _symbol(data: Array, at: Int) -> Int:
    """Eight bytes, the first the highest."""
    word = np.int64(0)
    for index in range(8):
        word = (word << 8) | np.int64(data[at + index])
    return word


@kernel()
def _is_framed(data: Array, at: Int, end: Int, count: Int) -> Int:
    """Whether exactly `count` messages with their lengths fill data[at:end]."""
    for _ in range(count):
        if at + 2 > end:
            return False
        at += 2 + le16(data, at)
    return at == end


@kernel()
def take_packets(data: Array, datagrams: Array, row: Int, state: Array, spans: Array, counts: Array) -> Int:
    """Packets from `row` on into spans of their messages.

    Args:
        datagrams: As `pcap.Capture.blocks` gives them.
        state: Of the stream, STREAM_SLOTS.
        spans: Shape (as many as datagrams, SPAN_COLUMNS).
        counts: 0 becomes the spans, 1 the row where it stopped.

    Returns:
        ALL_TAKEN; or at the packet of the row: GAP where it begins behind the next number, RESTART where it was sent
        later than all before and begins before it, NEW_SESSION, or BAD_PACKET. The caller goes on at the row.
    """
    counts[0] = 0
    while row < datagrams.shape[0]:
        counts[1] = row
        at = datagrams[row, PAYLOAD]
        end = datagrams[row, PAYLOAD_END]
        if end - at < HEADER_BYTES or data[at] != VERSION or le16(data, at + 12) != end - at - HEADER_BYTES:
            return BAD_PACKET
        count = le16(data, at + 14)
        first = le64(data, at + 24)
        sent = le64(data, at + 32)
        if count == 0:
            first = max(first, _1)
        if first < 1 or first > UNDEFINED - count or not _is_framed(data, at + HEADER_BYTES, end, count):
            return BAD_PACKET
        if (
            state[BEGUN] == 0
            or state[SESSION] != le32(data, at + 8)
            or state[CHANNEL] != le32(data, at + 4)
            or state[PROTOCOL] != le16(data, at + 2)
        ):
            return NEW_SESSION
        if first < state[NEXT] and sent > state[SENT]:
            return RESTART
        if first > state[NEXT]:
            return GAP
        state[SENT] = max(state[SENT], sent)
        state[PACKETS] += 1
        if count == 0:
            state[HEARTBEATS] += 1
        known = min(state[NEXT] - first, count)
        state[REPEATED] += known
        at += HEADER_BYTES
        for _ in range(known):
            at += 2 + le16(data, at)
        if known < count:
            span = counts[0]
            spans[span, BEGIN] = at
            spans[span, END] = end
            spans[span, FIRST] = state[NEXT]
            spans[span, RECEIVED] = datagrams[row, TIME]
            counts[0] += 1
            state[MESSAGES] += count - known
            state[NEXT] = first + count
        row += 1
    counts[1] = row
    return ALL_TAKEN


@kernel(inline=True)
def _is_price(price: Int) -> Int:
    return 0 <= price <= PRICE_MAX


@kernel()
def _message_status(data: Array, at: Int, kind: Int) -> Int:
    """Whether the numbers of a message can be: DONE, or what is bad."""
    if le64(data, at + 2) < 0:
        return BAD_TIME
    if kind == _BUY or kind == _SELL or kind == _T:
        price = le64(data, at + 22)
        if kind == _T and le32(data, at + 18) == 0:
            return BAD_SIZE
        return DONE if _is_price(price) and price > 0 else BAD_PRICE
    if kind == _Q:
        return DONE if _is_price(le64(data, at + 22)) and _is_price(le64(data, at + 30)) else BAD_PRICE
    return DONE


@kernel()
def decode_spans(
    data: Array, spans: Array, cursor: Array, keys: Array, known: Array, symbols: Array, tally: Array, types: Array,
    limit: Int, out: Array,
) -> Int:  # fmt: skip
    """The messages of `spans` from the cursor on into cells.

    Args:
        cursor: CURSOR_SLOTS; AT -1 where the span was not begun.
        keys, known, symbols: Of a `SymbolTable`.
        tally, types: Counters; of messages by type, shape (256,).
        limit: Stop where so many cells are there.
        out: Words, shape (m, 8), m at least CELLS_PER_MESSAGE_MAX.

    Returns:
        DONE, ROOM_USED (go on from the cursor), or what is bad at cursor[AT].
    """
    used = np.int64(0)
    cursor[USED] = 0
    while cursor[SPAN] < spans.shape[0]:
        span = cursor[SPAN]
        if cursor[AT] < 0:
            cursor[AT] = spans[span, BEGIN]
            cursor[NUMBER] = spans[span, FIRST]
        while cursor[AT] < spans[span, END]:
            if used >= limit or used + CELLS_PER_MESSAGE_MAX > out.shape[0]:
                return ROOM_USED
            at = cursor[AT] + 2
            length = le16(data, cursor[AT])
            kind = np.int64(data[at]) if length != 0 else _0
            if _LENGTHS[kind] == 0:
                tally[UNKNOWN_TYPES] += 1
            else:
                if _LENGTHS[kind] != length:
                    return BAD_LENGTH
                status = _message_status(data, at, kind)
                if status != DONE:
                    return status
                number = _0
                if kind != _S:
                    number = number_of(keys, known, symbols, _symbol(data, at + SYMBOL_AT))
                    if number == 0:
                        return TOO_MANY_SYMBOLS
                received = spans[span, RECEIVED]
                if received < tally[LATEST]:
                    received = tally[LATEST]
                    tally[CORRECTED_TIMES] += 1
                tally[LATEST] = received
                used = _decode(data, at, kind, number, known, out, used, received, cursor[NUMBER])
            types[kind] += 1
            cursor[AT] = at + length
            cursor[NUMBER] += 1
            cursor[USED] = used
        cursor[SPAN] += 1
        cursor[AT] = -1
    return DONE


@kernel(inline=True)
def _decode(
    data: Array, at: Int, kind: Int, number: Int, known: Array, out: Array, used: Int, received: Int, sequence: Int
) -> Int:
    """The cells of one good message; the next free cell."""
    event = le64(data, at + 2)
    if kind == _BUY or kind == _SELL:
        size = le32(data, at + 18)
        price = le64(data, at + 22)
        divide(known, number, price)
        complete = data[at + 1] & 1
        known[number, STATE] = HAS_LEVELS if complete else HAS_LEVELS | IN_TRANSITION
        flags = (_BY_PRICE | _LAST) if complete else _BY_PRICE
        tail = tail_word(_ADD if size != 0 else _CANCEL, _BID if kind == _BUY else _ASK, flags, _0)
        head = head_word(number, _0, _MBP, _1)
        return put_cell(out, used, event, received, sequence, _0, price * _UNIT, size, head, tail)
    flags = _0 if known[number, STATE] & IN_TRANSITION else _LAST
    if kind == _T:
        price = le64(data, at + 22)
        divide(known, number, price)
        head = head_word(number, _0, _TRADE, _1)
        tail = tail_word(_TRADED, _NO_SIDE, flags, _0)
        return put_cell(out, used, event, received, sequence, _0, price * _UNIT, le32(data, at + 18), head, tail)
    if kind == _Q:
        tail = tail_word(_NONE, _NO_SIDE, flags, _0)
        for side in range(2):  # the bid's cell, then the ask's extension, its fields the other way round
            price = le64(data, at + 22 + 8 * side)
            size = le32(data, at + 18 + 20 * side)
            if size != 0 and price != 0:
                divide(known, number, price)
                price *= _UNIT
            else:
                price = _UNDEFINED
                size = _0
            head = head_word(number, _0, _QUOTE, _2 - 2 * side)
            used = put_cell(out, used, event, received, sequence, _0, price, size, head, tail)
        return used
    if kind == _S or kind == _H or kind == _O or kind == _P or kind == _E:
        action = _STATUSES[kind, data[at + 1]]
        tail = tail_word(_NONE, _NO_SIDE, flags, _0) | (action << COUNT_SHIFT)
        return put_cell(
            out, used, event, received, sequence, _0, _UNDEFINED, _0, head_word(number, _0, _STATUS, _1), tail
        )
    return used
