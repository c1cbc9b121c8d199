"""A desk as canonical bytes, and back: the same state gives the same bytes, whichever way led to it.

Little-endian int64 words: version, fees, counters; then instruments, accounts, limits, conduct, booking and legs, each
as a count and so many rows with what they are of before them, rows without anything of their own left out; then the
working orders by slot of `own`, side, price and age, each as slot, side, key, what is shown, and its columns. Where
rows lie in memory, where the present call stands and what can be worked out from the rest are not in it.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

from tapehouse.book.layout import LIVE, PRICE_MAX, lay_floor
from tapehouse.book.resting import append_order, find_order, order_id_in, order_left
from tapehouse.core.errors import IntegrityError
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.due import note_due
from tapehouse.desk.ledger_state import LEG_COLUMNS, check_ledger, make_booking
from tapehouse.desk.state import (
    ACCOUNT_COLUMNS,
    ACCOUNTS_MAX,
    DEFAULT_CONDUCT,
    DEFAULT_LIMITS,
    DUE_COUNT,
    ID_BASE,
    INDEX,
    INSTRUMENT_ID,
    INSTRUMENTS_MAX,
    LIMIT_COLUMNS,
    NEXT_DUE,
    ORDER_ACCOUNT,
    ORDER_COLUMNS,
    ORDER_DUE,
    ORDER_EXPIRY,
    ORDER_PRICE,
    ORDER_SLOT,
    ORDER_STOP,
    ORDINAL,
    OUT_ROWS,
    STOPS,
    TICK,
    UNFINISHED,
    WORKING,
    WORKING_MAX,
    Array64,
    Desk,
    level_price,
    make_desk,
    rows_of,
)

VERSION = 4
ORDER_WORDS = 4 + ORDER_COLUMNS
_CALL = [INDEX, OUT_ROWS, ORDINAL, UNFINISHED, ID_BASE, NEXT_DUE, DUE_COUNT]  # of the present call, or worked out
_HINT = "refold the log"


def snapshot(desk: Desk) -> bytes:
    """The canonical bytes of a desk."""
    counters = desk.counters.copy()
    counters[_CALL] = 0
    parts = [np.array([VERSION]), desk.fees, counters]
    parts += _rows(desk.instruments, desk.instruments[:, INSTRUMENT_ID] != 0)
    parts += _rows(desk.accounts, desk.accounts.any(axis=2))
    parts += _rows(desk.limits, (desk.limits != DEFAULT_LIMITS).any(axis=2))
    parts += _rows(desk.conduct, (desk.conduct != DEFAULT_CONDUCT).any(axis=1))
    parts += _rows(desk.booking, (desk.booking != make_booking(1)).any(axis=1))
    parts += _rows(_flat(desk.legs), desk.legs.any(axis=(2, 3)))
    orders = _orders(desk)
    parts += [np.array([len(orders)]), np.array(orders, np.int64).reshape(-1)]
    return b"".join(part.astype("<i8").tobytes() for part in parts)


def _rows(array: Array64, kept: Any) -> list[Array64]:
    """How many rows are kept, then each behind its place."""
    places = np.argwhere(kept)
    return [np.array([len(places)]), np.concatenate([places, array[kept]], axis=1).reshape(-1)]


def _flat(legs: Array64) -> Array64:
    return legs.reshape(*legs.shape[:2], -1)  # a view


def _orders(desk: Desk) -> list[list[int]]:
    listed = []
    for place in np.flatnonzero(desk.own.slots[:, LIVE]).tolist():
        for side, row in rows_of(desk, place):
            columns = desk.orders[row].copy()
            columns[ORDER_DUE] = 0
            listed.append(
                [place, side, int(order_id_in(desk.own, row)), int(order_left(desk.own, row)), *columns.tolist()]
            )
    return listed


class _Words:
    """The words of a snapshot, taken from the front."""

    def __init__(self, data: bytes) -> None:
        if len(data) % 8:
            raise IntegrityError("a desk snapshot is no whole number of words", hint=_HINT)
        self._words = np.frombuffer(data, "<i8").astype(np.int64)
        self._at = 0

    def take(self, count: int) -> Array64:
        taken = self._words[self._at : self._at + count]
        if len(taken) != count:
            raise IntegrityError("a desk snapshot is too short", hint=_HINT)
        self._at += count
        return taken

    def rows(self, most: int, words: int) -> Array64:
        """As many rows of so many words as the next word says, at most `most`."""
        count = int(self.take(1)[0])
        if not 0 <= count <= most:
            raise IntegrityError(f"a desk snapshot counts impossible rows: {count}", hint=_HINT)
        return self.take(count * words).reshape(count, words)

    def end(self) -> None:
        """Raise IntegrityError where words are left."""
        if self._at != len(self._words):
            raise IntegrityError(f"a desk snapshot has {len(self._words) - self._at} words too many", hint=_HINT)


def restore(data: bytes) -> Desk:
    """The desk that `snapshot` returned; raises IntegrityError for other bytes."""
    desk = make_desk()
    words = _Words(data)
    version = int(words.take(1)[0])
    if version != VERSION:
        raise IntegrityError(f"a desk snapshot of version {version} cannot be read", hint=_HINT)
    desk.fees[:] = words.take(len(desk.fees))
    desk.counters[:] = words.take(len(desk.counters))
    desk.counters[_CALL] = 0
    desk.counters[NEXT_DUE] = UNDEFINED
    cells = ACCOUNTS_MAX * INSTRUMENTS_MAX
    _put(desk.instruments, words.rows(INSTRUMENTS_MAX, 1 + desk.instruments.shape[1]), 1)
    _put(desk.accounts, words.rows(cells, 2 + ACCOUNT_COLUMNS), 2)
    _put(desk.limits, words.rows(cells, 2 + LIMIT_COLUMNS), 2)
    _put(desk.conduct, words.rows(ACCOUNTS_MAX, 1 + desk.conduct.shape[1]), 1)
    _put(desk.booking, words.rows(ACCOUNTS_MAX, 1 + desk.booking.shape[1]), 1)
    _put(_flat(desk.legs), words.rows(cells, 2 + 2 * LEG_COLUMNS), 2)
    check_ledger(desk.booking, desk.legs)
    _put_orders(desk, words.rows(2 * INSTRUMENTS_MAX * WORKING_MAX, ORDER_WORDS))
    words.end()
    return desk


def _put(array: Array64, rows: Array64, keys: int) -> None:
    places = rows[:, :keys]
    if (places < 0).any() or (places >= array.shape[:keys]).any():
        raise IntegrityError("a desk snapshot names an impossible account or instrument", hint=_HINT)
    array[tuple(places.T)] = rows[:, keys:]


def _put_orders(desk: Desk, rows: Array64) -> None:
    """Let the orders of a snapshot work again, in the order in which they stand."""
    for slot in range(INSTRUMENTS_MAX):
        tick = int(desk.instruments[slot, TICK])
        if not tick:
            continue
        if not 0 < tick <= PRICE_MAX:
            raise IntegrityError(f"a desk snapshot has a tick of {tick}", hint=_HINT)
        for place in (slot, STOPS + slot):
            here = rows[rows[:, 0] == place]
            column = 4 + (ORDER_PRICE if place < STOPS else ORDER_STOP)
            lay_floor(desk.own.slots, place, gcd(tick, *here[:, column].tolist()))
    for words in rows.tolist():
        place, side, key, shown, *columns = words
        slot = columns[ORDER_SLOT]
        fits = 0 <= place < 2 * INSTRUMENTS_MAX and side in (0, 1) and slot == place % INSTRUMENTS_MAX
        if not fits or key <= 0 or shown <= 0 or not 0 <= columns[ORDER_ACCOUNT] < ACCOUNTS_MAX:
            raise IntegrityError("a desk snapshot has an impossible order", hint=_HINT)
        known = desk.instruments[slot, TICK] and find_order(desk.own, place, key) < 0
        price = columns[ORDER_PRICE if place < STOPS else ORDER_STOP]
        row = append_order(desk.own, place, side, key, price, shown) if known else -1
        if row < 0:
            raise IntegrityError("a desk snapshot has an order that cannot rest", hint=_HINT)
        desk.orders[row] = columns
        if level_price(desk, place, row) != price or columns[ORDER_EXPIRY] < 0:
            raise IntegrityError("a desk snapshot has an impossible order", hint=_HINT)
        if columns[ORDER_EXPIRY]:
            note_due(desk, row)
    if int(desk.counters[WORKING]) != len(rows):
        raise IntegrityError("a desk snapshot's orders do not match their count", hint=_HINT)
