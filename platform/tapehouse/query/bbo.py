"""The top of every book over time: a row wherever a best price or size has changed at the end of an event."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from tapehouse.book import ASK, BID, apply, best_price, best_size, define, make_books
from tapehouse.core.errors import DataError
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.log import FrameHeader
from tapehouse.market import Action, Cells, Flag, Kind, words
from tapehouse.query.columns import Dictionary, finish, time_columns

BOOKS_MAX = 64
ORDERS_MAX = 1 << 18
# Columns of a row.
ORDINAL, TS, INSTRUMENT, BID_PRICE, BID_SIZE, ASK_PRICE, ASK_SIZE = range(7)
COLUMNS = 7
_MBO, _MBP, _LAST, _TRADE = int(Kind.MBO), int(Kind.MBP), int(Flag.LAST), int(Action.TRADE)


@kernel()
def fold_tops(
    books: State, slots: Array, tops: Array, array: Array, start: Int, first_ordinal: Int, out: Array, rows: Int
) -> tuple[Int, Int]:
    """Fold cells from row `start` on, writing a row of `out` at each change; return (row reached, rows written).

    It stops early at a book record of an instrument without a slot.

    Args:
        slots: Shape (ids,): the book of each instrument id, -1 for none.
        tops: Shape (books, 4): bid, bid size, ask, ask size of each book's last row.
        out: Shape (at least the cells, COLUMNS).
    """
    n = array.shape[0]
    for at in range(start, n):
        small = array[at, 6]
        kind = (small >> 48) & 255
        if (kind != _MBO and kind != _MBP) or (small >> 56) & 255 == 0 or array[at, 7] & 255 == _TRADE:
            continue
        instrument = small & 0xFFFFFFFF
        if instrument >= slots.shape[0] or slots[instrument] < 0:
            return at, rows
        slot = slots[instrument]
        apply(books, slot, array, at)
        if (array[at, 7] >> 16) & _LAST == 0:
            continue
        top = tops[slot]
        bid = best_price(books, slot, BID)
        bid_size = best_size(books, slot, BID)
        ask = best_price(books, slot, ASK)
        ask_size = best_size(books, slot, ASK)
        if bid == top[0] and bid_size == top[1] and ask == top[2] and ask_size == top[3]:
            continue
        top[0] = bid
        top[1] = bid_size
        top[2] = ask
        top[3] = ask_size
        row = out[rows]
        row[ORDINAL] = first_ordinal + at
        row[TS] = array[at, 1]
        row[INSTRUMENT] = instrument
        row[BID_PRICE] = bid
        row[BID_SIZE] = bid_size
        row[ASK_PRICE] = ask
        row[ASK_SIZE] = ask_size
        rows += 1
    return n, rows


class BboBuilder:
    """Rows of the top of every instrument that is told by order or by level."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self._books = make_books(BOOKS_MAX, orders=ORDERS_MAX)
        self._made = 0
        self._slots = np.full(1024, -1, np.int64)
        self._tops = np.full((BOOKS_MAX, 4), -1, np.int64)
        self._parts: list[npt.NDArray[np.int64]] = []

    def take(self, header: FrameHeader, cells: Cells) -> None:
        out = np.empty((len(cells), COLUMNS), np.int64)
        array = words(cells)
        at, rows = 0, 0
        while at < len(cells):
            at, rows = fold_tops(self._books, self._slots, self._tops, array, at, header.first_ordinal, out, rows)
            if at < len(cells) and not self._make_book(int(cells["instrument"][at])):
                at += max(1, int(cells["cells"][at]))  # Nothing defined it: the desk halted there, or skipped it.
        if rows:
            self._parts.append(out[:rows].copy())

    def _make_book(self, number: int) -> bool:
        """Begin an instrument's book; False where nothing defined it."""
        instrument = self._dictionary.instruments.get(number)
        if instrument is None:
            return False
        if self._made >= BOOKS_MAX:
            raise DataError(f"a tape has {BOOKS_MAX} books at most", subject=instrument.symbol, hint="split the tape")
        if number >= len(self._slots):
            longer = np.full(1 << number.bit_length(), -1, np.int64)
            longer[: len(self._slots)] = self._slots
            self._slots = longer
        define(self._books, self._made, instrument.tick_size)
        self._slots[number] = self._made
        self._made += 1
        return True

    def table(self) -> pl.DataFrame:
        rows = np.concatenate([np.zeros((0, COLUMNS), np.int64), *self._parts])
        ids, dictionary = rows[:, INSTRUMENT], self._dictionary
        return finish(
            {
                "ordinal": rows[:, ORDINAL],
                **time_columns(rows[:, TS]),
                "symbol": dictionary.symbols(ids),
                **dictionary.price("bid", ids, rows[:, BID_PRICE]),
                **dictionary.size("bid_size", ids, rows[:, BID_SIZE]),
                **dictionary.price("ask", ids, rows[:, ASK_PRICE]),
                **dictionary.size("ask_size", ids, rows[:, ASK_SIZE]),
                "confidence": dictionary.confidence(ids, rows[:, ORDINAL]),
            }
        )
