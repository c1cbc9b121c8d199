"""Orders of bulk frames inside the compiled loop: each has one effect, and one answer.

A client numbers its orders upwards. What became of the last WINDOW numbers of each of CLIENTS_MAX clients is state: a
number that was seen is answered with its first outcome (REPEATED) and nothing else happens, one below the window is
refused (STALE_NUMBER), since nobody knows any more. Of a full table the client that was silent longest is forgotten.

The answer is a second extension of the first ORDER record that the order led to, so that it costs one cell.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.book.resting import expect_order
from tapehouse.core.errors import IntegrityError
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.prefetch import prefetch_row
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.order_frames import ORDER_CELLS
from tapehouse.desk.orders import decide
from tapehouse.desk.records import key_of, next_order_id, write_record
from tapehouse.desk.requests import (
    BAD_REQUEST,
    BUY,
    CANCEL,
    OK,
    REPLACE,
    REQUEST_ACCOUNT,
    REQUEST_COLUMNS,
    REQUEST_DISPLAY,
    REQUEST_EXPIRY,
    REQUEST_FLAGS,
    REQUEST_KIND,
    REQUEST_NUMBER,
    REQUEST_PRICE,
    REQUEST_SIDE,
    REQUEST_SIZE,
    REQUEST_SLOT,
    REQUEST_STOP,
    REQUEST_TARGET,
    REQUEST_TIME_IN_FORCE,
    REQUEST_TYPE,
    SELL,
    STALE_NUMBER,
    SUBMIT,
    UNKNOWN_ACCOUNT,
)
from tapehouse.desk.state import INDEX_BITS, ORDINAL, OUT_ROWS, REJECTED, STREET
from tapehouse.market import Action, Kind, Side

CLIENTS_MAX = 256  # the longest-silent one is forgotten first
WINDOW = 8192  # outcomes of each: a power of two

# Columns of `clients`; a row in use has an id that is not 0.
CLIENT, LAST_NUMBER, SPOKE = range(3)
CLIENT_COLUMNS = 3
# Columns of `outcomes`; a place in use has a number that is not 0.
NUMBER, ORDER, REASON = range(3)
OUTCOME_COLUMNS = 3
# Entries of `counts`.
ORDERS_SEEN, CLIENTS, LAST_PLACE, ACCOUNTS = range(4)
COUNTS = 4

NEW, SEEN, STALE = range(3)

ORDERS_AHEAD = 4  # some 800 ns before they are decided: more than memory takes

_ORDER = int(Kind.ORDER)
_ACCEPTED, _REJECTED, _REPEATED = int(Action.ACCEPTED), int(Action.REJECTED), int(Action.REPEATED)
_CANCEL_ACTION, _MODIFY_ACTION = int(Action.CANCEL), int(Action.MODIFY)
_BID = int(Side.BID)
_UNDEFINED = UNDEFINED
_CELLS = 255 << 56
_HEAD = struct.Struct("<qq")
_CLIENT = struct.Struct("<qqqq")

Array64 = npt.NDArray[np.int64]


class Bulk(NamedTuple):
    """Bulk clients and their recent outcomes; all arrays int64."""

    clients: Array64  # (clients, CLIENT_COLUMNS): rows 0 to before `counts[CLIENTS]` are in use
    outcomes: Array64  # (clients, window, OUTCOME_COLUMNS): that of a number stands at number mod window
    counts: Array64  # (COUNTS,): orders so far; clients; the place of the last one and the accounts open are no state
    request: Array64  # (REQUEST_COLUMNS,): scratch


def make_bulk(clients: int = CLIENTS_MAX, window: int = WINDOW) -> Bulk:
    """No client has spoken yet; `window` is a power of two. Memory is taken by what is used alone."""
    bulk = Bulk(
        clients=np.zeros((clients, CLIENT_COLUMNS), np.int64),
        outcomes=np.zeros((clients, window, OUTCOME_COLUMNS), np.int64),
        counts=np.zeros(COUNTS, np.int64),
        request=np.zeros(REQUEST_COLUMNS, np.int64),
    )
    bulk.counts[ACCOUNTS] = 1  # the strategy's
    return bulk


@kernel(inline=True)
def place_of(bulk: State, client: Int) -> Int:
    """The row of a client, which spoke now; a new one takes a free row, else that of the longest silent."""
    clients, counts = bulk.clients, bulk.counts
    counts[ORDERS_SEEN] += 1
    place = counts[LAST_PLACE]
    if clients[place, CLIENT] != client:
        place = -1
        oldest = 0
        for row in range(counts[CLIENTS]):
            if clients[row, CLIENT] == client:
                place = row
                break
            if clients[row, SPOKE] < clients[oldest, SPOKE]:
                oldest = row
        if place < 0:
            if counts[CLIENTS] < clients.shape[0]:
                place = counts[CLIENTS]
                counts[CLIENTS] += 1
            else:
                place = oldest
                for at in range(bulk.outcomes.shape[1]):
                    bulk.outcomes[place, at, NUMBER] = 0
            clients[place, CLIENT] = client
            clients[place, LAST_NUMBER] = 0
        counts[LAST_PLACE] = place
    clients[place, SPOKE] = counts[ORDERS_SEEN]
    return place


@kernel(inline=True)
def look_up(bulk: State, place: Int, number: Int) -> Int:
    """Whether a client's number is NEW, SEEN (its outcome is in the ring) or STALE."""
    window = bulk.outcomes.shape[1]
    last = bulk.clients[place, LAST_NUMBER]
    if number > last:
        return NEW
    if number <= last - window:
        return STALE
    # Only a number that is the same modulo the window could have taken its place, and that would be beyond the last.
    return SEEN if bulk.outcomes[place, number & (window - 1), NUMBER] == number else NEW


@kernel(inline=True)
def remember(bulk: State, place: Int, number: Int, order_id: Int, reason: Int) -> None:
    """Keep the outcome of a new number."""
    outcome = bulk.outcomes[place, number & (bulk.outcomes.shape[1] - 1)]
    outcome[NUMBER] = number
    outcome[ORDER] = order_id
    outcome[REASON] = reason
    if number > bulk.clients[place, LAST_NUMBER]:
        bulk.clients[place, LAST_NUMBER] = number


@kernel()
def _tell(
    desk: State, out: Array, action: Int, reason: Int, order_id: Int, instrument: Int, words: Array, row: Int
) -> Int:
    """An ORDER record about the input at `row` where no order came to be; returns its row in `out`."""
    packed = action | (((words[row, 7] >> 8) & 255) << 8) | (reason << 24)
    price, size = words[row, 4], words[row, 5]
    extension = write_record(desk.counters, out, instrument | (_ORDER << 48), packed, order_id, price, size)
    out[extension, 0] = (words[row, 7] >> 32) & 0xFFFFFFFF
    out[extension, 1] = words[row + 1, 1]
    out[extension, 2] = _UNDEFINED
    out[extension, 3] = size
    out[extension, 4] = 0
    out[extension, 5] = 0
    return extension - 1


@kernel(inline=True)
def _announced(out: Array, start: Int, end: Int) -> Int:
    """Of the records in these rows, the first ORDER one that announces an order, else the first ORDER one, else -1."""
    found = -1
    at = start
    while at < end:
        if (out[at, 6] >> 48) & 255 == _ORDER:
            action = out[at, 7] & 255
            if action == _ACCEPTED or action == _REJECTED:
                return at
            if found < 0:
                found = at
        at += (out[at, 6] >> 56) & 255
    return found


@kernel(inline=True)
def _answer(desk: State, out: Array, at: Int, client: Int, number: Int, reason: Int) -> None:
    """Give the record at row `at` one more extension: whose order this answers, and how."""
    counters = desk.counters
    length = (out[at, 6] >> 56) & 255
    place = at + length
    row = counters[OUT_ROWS]
    while row > place:
        for column in range(8):
            out[row, column] = out[row - 1, column]
        row -= 1
    out[at, 6] = (out[at, 6] & ~_CELLS) | ((length + 1) << 56)
    out[place, 0] = client
    out[place, 1] = number
    out[place, 2] = out[at, 3]
    out[place, 3] = reason
    out[place, 4] = 0
    out[place, 5] = 0
    out[place, 6] = out[at + 1, 6]
    out[place, 7] = out[at, 7]
    counters[OUT_ROWS] += 1


@kernel(inline=True)
def _read_request(request: Array, words: Array, row: Int, slot: Int) -> None:
    """The order at `row` as a request."""
    packed = words[row, 7]
    action = packed & 255
    kind = SUBMIT
    if action == _CANCEL_ACTION:
        kind = CANCEL
    elif action == _MODIFY_ACTION:
        kind = REPLACE
    depth = (packed >> 24) & 255
    request[REQUEST_KIND] = kind
    request[REQUEST_ACCOUNT] = (packed >> 32) & 0xFFFFFFFF
    request[REQUEST_SLOT] = slot
    request[REQUEST_SIDE] = BUY if (packed >> 8) & 255 == _BID else SELL
    request[REQUEST_TYPE] = depth & 15
    request[REQUEST_TIME_IN_FORCE] = depth >> 4
    request[REQUEST_FLAGS] = (packed >> 16) & 127
    request[REQUEST_PRICE] = words[row, 4]
    request[REQUEST_SIZE] = words[row, 5]
    stop = words[row + 1, 2]
    request[REQUEST_STOP] = 0 if kind == REPLACE and stop == _UNDEFINED else stop  # None: it keeps its own.
    request[REQUEST_DISPLAY] = words[row + 1, 3]
    request[REQUEST_EXPIRY] = words[row + 1, 4]
    request[REQUEST_TARGET] = words[row, 3]
    request[REQUEST_NUMBER] = words[row + 1, 1]


@kernel(inline=True)
def expect_later(desk: State, slot: Int, words: Array, row: Int) -> None:
    """Have the CPU fetch what an order ORDERS_AHEAD after the one at `row` will look at; it changes nothing.

    Where orders rest is scattered over a megabyte, and each account's rows are kilobytes apart. A wrong guess, of
    another instrument or of rows that are no orders, fetches what nobody needs.
    """
    later = row + ORDER_CELLS * ORDERS_AHEAD
    if later >= words.shape[0]:
        return
    target, account = words[later, 3], (words[later, 7] >> 32) & 0xFFFFFFFF
    if target == 0:
        target = (desk.counters[ORDINAL] + later - row) << INDEX_BITS
    expect_order(desk.own, slot, key_of(target))
    if account < STREET:
        prefetch_row(desk.accounts, account, slot)
        prefetch_row(desk.limits, account, slot)


@kernel(inline=True)
def on_order(
    desk: State, books: State, bulk: State, slots: Array, ladder: Array, out: Array, powers: Array, words: Array,
    row: Int,
) -> None:  # fmt: skip
    """Decide on the order of a bulk frame at `row`, or repeat what was decided; its answer is in `out`.

    Args:
        slots: Shape (ids,): the book slot of an instrument id, -1 for none.
        words: Shape (n, 8) int64 cells of TAPE; the record has at least two.
    """
    counters = desk.counters
    client = words[row + 1, 0]
    number = words[row + 1, 1]
    instrument = words[row, 6] & 0xFFFFFFFF
    slot = slots[instrument] if instrument < slots.shape[0] else -1
    if slot >= 0:
        expect_later(desk, slot, words, row)
    place = place_of(bulk, client)
    known = look_up(bulk, place, number)
    if known == SEEN:
        first = bulk.outcomes[place, number & (bulk.outcomes.shape[1] - 1)]
        shown = instrument if slot >= 0 else 0
        at = _tell(desk, out, _REPEATED, first[REASON], first[ORDER], shown, words, row)
        _answer(desk, out, at, client, number, first[REASON])
        return
    start = counters[OUT_ROWS]
    reason = OK
    at = -1
    if known == STALE:
        reason = STALE_NUMBER
    elif slot < 0:
        reason = BAD_REQUEST
    elif (words[row, 7] >> 32) & 0xFFFFFFFF >= bulk.counts[ACCOUNTS]:
        reason = UNKNOWN_ACCOUNT
    else:
        _read_request(bulk.request, words, row, slot)
        reason = decide(desk, books, ladder, out, powers, bulk.request)
        at = _announced(out, start, counters[OUT_ROWS])
    if at < 0:
        order_id = next_order_id(counters)
        if reason != OK:
            counters[REJECTED] += 1
        at = _tell(desk, out, _ACCEPTED if reason == OK else _REJECTED, reason, order_id, 0, words, row)
    _answer(desk, out, at, client, number, reason)
    if known == NEW:
        remember(bulk, place, number, out[at, 3], reason)


def snapshot_bulk(bulk: Bulk) -> bytes:
    """The canonical bytes: clients in the order in which they spoke last, the outcomes in their windows by number."""
    used = int(bulk.counts[CLIENTS])
    parts = [_HEAD.pack(int(bulk.counts[ORDERS_SEEN]), used)]
    for place in np.argsort(bulk.clients[:used, SPOKE]).tolist():
        client, last, spoke = bulk.clients[place].tolist()
        outcomes = bulk.outcomes[place]
        kept = outcomes[(outcomes[:, NUMBER] > max(0, last - len(outcomes)))]
        kept = kept[np.argsort(kept[:, NUMBER])]
        parts += [_CLIENT.pack(client, last, spoke, len(kept)), kept.tobytes()]
    return b"".join(parts)


def restore_bulk(data: bytes, clients: int = CLIENTS_MAX, window: int = WINDOW) -> Bulk:
    """What `snapshot_bulk` returned; raises IntegrityError for other bytes."""
    bulk = make_bulk(clients, window)
    try:
        bulk.counts[ORDERS_SEEN], used = _HEAD.unpack_from(data)
        if not 0 <= used <= clients:
            raise ValueError(f"{used} clients")
        bulk.counts[CLIENTS] = used
        at = _HEAD.size
        for place in range(used):
            client, last, spoke, count = _CLIENT.unpack_from(data, at)
            at += _CLIENT.size
            if client == 0 or not 0 <= count <= window:
                raise ValueError(f"client {client} with {count} outcomes")
            kept = np.frombuffer(data, np.int64, count * OUTCOME_COLUMNS, at).reshape(count, OUTCOME_COLUMNS)
            at += kept.nbytes
            if count and not (max(0, last - window) < kept[0, NUMBER] and kept[-1, NUMBER] <= last):
                raise ValueError(f"outcomes of client {client} beyond its window")
            bulk.clients[place] = client, last, spoke
            bulk.outcomes[place, kept[:, NUMBER] & (window - 1)] = kept
        if at != len(data):
            raise ValueError(f"{len(data) - at} bytes left over")
    except (ValueError, struct.error) as error:
        raise IntegrityError(f"the bulk clients of a snapshot are damaged: {error}", hint="refold the log") from error
    return bulk
