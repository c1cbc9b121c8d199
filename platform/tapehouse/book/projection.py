"""The price projection: TAPE folded to the last trade and the best bid and ask of every instrument.

Keys are `prices/<symbol>`, with the symbol as `encode_token` spells it; where a second instrument has a symbol that is
taken, its key ends with `@` and its instrument id. The best prices come from the instrument's book where the tape tells
it by order or by level, else from its last quote; a book is made at the first such record.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from tapehouse.book.canonical import restore as restore_books
from tapehouse.book.canonical import snapshot as snapshot_books
from tapehouse.book.kernels import apply
from tapehouse.book.layout import ASK, BID, define, make_books
from tapehouse.book.queues import clear
from tapehouse.book.view import best_price, best_size
from tapehouse.core.errors import DataError, DecodeError, IntegrityError
from tapehouse.core.ids import encode_token
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.core.units import UNDEFINED, format_time_ns
from tapehouse.market import KIND_LAST, KIND_SKIPPED_FROM, Action, Cells, Instrument, Kind, read_definition, words

PREFIX = "prices/"
BOOKS_MAX = 64  # instruments told by order or by level, as many as a desk trades
ORDERS_MAX = 1 << 18  # live orders of all books
INSTRUMENTS_MAX = 1 << 16
INSTRUMENT_ID_MAX = (1 << 22) - 1
_FIRST_ROOM = 1024  # rows and ids to begin with; both double as definitions come

# Columns of `table`, one row to an instrument.
LAST, LAST_SIZE, QUOTED_BID, QUOTED_BID_SIZE, QUOTED_ASK, QUOTED_ASK_SIZE, SEEN, SEEN_ORDINAL, BOOK = range(9)
COLUMNS = 9

_DONE, _DEFINITION, _FIRST_BOOK_RECORD, _UNDEFINED_INSTRUMENT, _UNKNOWN_KIND, _BAD_RECORD = range(6)
_MBO, _MBP, _TRADE = int(Kind.MBO), int(Kind.MBP), int(Kind.TRADE)
_QUOTE, _OPTION_QUOTE, _DEFINITION_KIND = int(Kind.QUOTE), int(Kind.OPTION_QUOTE), int(Kind.DEFINITION)
_TRADE_ACTION = int(Action.TRADE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A price to value positions at.

    Args:
        price: In units of 10^exponent; the middle of two prices may need one digit more than they have.
        source: `mid`, `last`, or what else a reader took.
        ordinal: Of the record that spoke of the instrument last.
    """

    price: int
    exponent: int
    source: str
    ordinal: int


class TapePosition(Protocol):
    """What the projection reads of a frame's header."""

    @property
    def first_ordinal(self) -> int:
        """The ordinal of the first cell."""
        ...


@kernel()
def fold_prices(
    books: State, rows: Array, table: Array, array: Array, start: Int, first_ordinal: Int
) -> tuple[Int, Int]:
    """Fold cells from row `start` on; return (row, why it stopped there).

    Args:
        rows: Shape (ids,): the table's row of each instrument id, -1 for none.
        table: Shape (instruments, COLUMNS).
        array: Shape (n, 8) int64 cells, whole records.
        first_ordinal: Of row 0.
    """
    n = array.shape[0]
    at = start
    while at < n:
        small = array[at, 6]
        kind = (small >> 48) & 255
        length = (small >> 56) & 255
        if length == 0 or at + length > n:
            return at, _BAD_RECORD
        if kind == _DEFINITION_KIND:
            return at, _DEFINITION
        if kind == _MBO or kind == _MBP or kind == _TRADE or kind == _QUOTE or kind == _OPTION_QUOTE:
            instrument = small & 0xFFFFFFFF
            if instrument >= rows.shape[0] or rows[instrument] < 0:
                return at, _UNDEFINED_INSTRUMENT
            seen = table[rows[instrument]]
            if kind == _QUOTE or kind == _OPTION_QUOTE:
                if length < 2:
                    return at, _BAD_RECORD
                seen[QUOTED_BID] = array[at, 4]
                seen[QUOTED_BID_SIZE] = array[at, 5]
                seen[QUOTED_ASK] = array[at + 1, 4]
                seen[QUOTED_ASK_SIZE] = array[at + 1, 5]
            elif kind == _TRADE or array[at, 7] & 255 == _TRADE_ACTION:
                seen[LAST] = array[at, 4]
                seen[LAST_SIZE] = array[at, 5]
            elif seen[BOOK] < 0:
                return at, _FIRST_BOOK_RECORD
            else:
                apply(books, seen[BOOK], array, at)
            seen[SEEN] = array[at, 1]
            seen[SEEN_ORDINAL] = first_ordinal + at
        elif kind == 0 or KIND_LAST < kind < KIND_SKIPPED_FROM:
            return at, _UNKNOWN_KIND
        at += length
    return at, _DONE


class PricesProjection:
    """A machine over TAPE; see the module."""

    name = "prices"
    version = 1

    def __init__(self, *, skip: bool = False) -> None:
        """Args:
        skip: Go on at a record that cannot be applied, where the desk decides whether anybody halts at it.
        """
        self._skip = skip
        self._books = make_books(BOOKS_MAX, orders=ORDERS_MAX)
        self._books_made = 0
        self._rows = np.full(_FIRST_ROOM, -1, np.int64)
        self._table = _blank_table(_FIRST_ROOM)
        self._instruments: dict[int, Instrument] = {}
        self._keys: dict[str, int] = {}  # to rows of the table
        self._listed: list[Instrument] = []  # by row

    # The fold.

    def apply(self, header: TapePosition, cells: Cells) -> None:
        """Fold whole records of TAPE.

        Raises:
            DataError: A definition contradicts an earlier one, a record comes before its instrument's definition, or
                there are more books than BOOKS_MAX.
        """
        array = words(cells)
        at = 0
        while True:
            stopped, why = fold_prices(self._books, self._rows, self._table, array, at, header.first_ordinal)
            at = int(stopped)
            if why == _DONE:
                return
            if why == _DEFINITION:
                end = at + int(cells["cells"][at])
                self._define(read_definition(cells[at:end]))
                at = end
            elif why == _FIRST_BOOK_RECORD:
                self._make_book(int(self._rows[int(cells["instrument"][at])]))
            elif self._skip and why in (_UNDEFINED_INSTRUMENT, _UNKNOWN_KIND):
                at += int(cells["cells"][at])
            else:
                _halt(int(why), cells[at], header.first_ordinal + at)

    def _define(self, instrument: Instrument) -> None:
        known = self._instruments.get(instrument.id)
        if known is not None:
            if known != instrument:
                self._revise(known, instrument)
            return
        row = len(self._listed)
        if not 0 < instrument.id <= INSTRUMENT_ID_MAX or row >= INSTRUMENTS_MAX:
            raise DataError(
                f"instrument id {instrument.id} is the tape's {row + 1}th",
                subject=instrument.symbol,
                hint=f"ids go to {INSTRUMENT_ID_MAX}, and there are {INSTRUMENTS_MAX} at most",
            )
        if instrument.id >= len(self._rows):
            longer = np.full(1 << instrument.id.bit_length(), -1, np.int64)
            longer[: len(self._rows)] = self._rows
            self._rows = longer
        if row >= len(self._table):
            self._table = np.concatenate([self._table, _blank_table(len(self._table))])
        self._rows[instrument.id] = row
        self._instruments[instrument.id] = instrument
        self._listed.append(instrument)
        key = PREFIX + encode_token(instrument.symbol)
        self._keys[f"{key}@{instrument.id}" if key in self._keys else key] = row

    def _revise(self, known: Instrument, instrument: Instrument) -> None:
        """A new revision of an instrument's terms; a book of another tick begins empty."""
        instrument.require_revision_of(known)
        row = int(self._rows[instrument.id])
        book = int(self._table[row, BOOK])
        if book >= 0 and instrument.tick_size != known.tick_size:
            clear(self._books, book)
            define(self._books, book, instrument.tick_size)
        self._instruments[instrument.id] = self._listed[row] = instrument

    def _make_book(self, row: int) -> None:
        if self._books_made >= BOOKS_MAX:
            raise DataError(
                f"a tape has {BOOKS_MAX} books at most", subject=self._listed[row].symbol, hint="split the tape"
            )
        define(self._books, self._books_made, self._listed[row].tick_size)
        self._table[row, BOOK] = self._books_made
        self._books_made += 1

    # State.

    def snapshot(self) -> bytes:
        """The whole state, canonical."""
        instruments = [instrument.terms() for instrument in self._listed]
        return pack_sections(
            {
                "books": snapshot_books(self._books),
                "instruments": json.dumps(instruments, sort_keys=True, separators=(",", ":")).encode(),
                "table": self._table[: len(self._listed)].astype("<i8").tobytes(),
            }
        )

    def restore(self, snapshot: bytes) -> None:
        """Become the state that `snapshot` returned; raises IntegrityError for other bytes."""
        restored = PricesProjection(skip=self._skip)
        sections = unpack_sections(snapshot)
        try:
            for fields in json.loads(sections["instruments"]):
                restored._define(Instrument(**fields))
            table = np.frombuffer(sections["table"], "<i8").reshape(len(restored._listed), COLUMNS)
            for row in sorted(np.flatnonzero(table[:, BOOK] >= 0).tolist(), key=lambda row: int(table[row, BOOK])):
                restored._make_book(row)
            restored._table[: len(table)] = table
            restore_books(restored._books, sections["books"])
        except (KeyError, ValueError, TypeError, DataError) as error:
            raise IntegrityError(f"a snapshot of prices is damaged: {error}", hint="refold the log") from error
        self.__dict__.update(restored.__dict__)

    def digest(self) -> bytes:
        """BLAKE3 of the snapshot."""
        return blake3(self.snapshot()).digest()

    # Reading.

    def get(self, key: str) -> dict[str, Any] | None:
        """The value under `prices/<symbol>`, ready for JSON; None where there is none."""
        row = self._keys.get(key)
        if row is None and key.startswith(PREFIX) and len(key) > len(PREFIX):
            row = self._keys.get(PREFIX + encode_token(key[len(PREFIX) :]))
        if row is None or self._table[row, SEEN_ORDINAL] < 0:
            return None
        return self._value(row)

    def items(self, prefix: str = PREFIX) -> list[tuple[str, Any]]:
        """All keys that begin with `prefix`, sorted, with their values."""
        wanted = sorted(key for key in self._keys if key.startswith(prefix))
        return [(key, value) for key in wanted if (value := self.get(key)) is not None]

    def by_instrument(self) -> list[tuple[Instrument, dict[str, Any]]]:
        """Every instrument of which anything was said, in the order of their definitions, with its value."""
        seen = np.flatnonzero(self._table[: len(self._listed), SEEN_ORDINAL] >= 0).tolist()
        return [(self._listed[row], self._value(row)) for row in seen]

    def mark(self, instrument_id: int) -> Mark | None:
        """What an instrument is worth by what was seen last: the middle of its best bid and ask, else its last trade.

        None where neither is there. A book with one side, or whose sides cross, has no middle.
        """
        row = int(self._rows[instrument_id]) if 0 <= instrument_id < len(self._rows) else -1
        if row < 0:
            return None
        exponent, last = self._listed[row].price_exponent, int(self._table[row, LAST])
        ordinal = int(self._table[row, SEEN_ORDINAL])
        bid, _, ask, _ = self._best(row)
        if bid != UNDEFINED and ask != UNDEFINED and bid <= ask:
            return Mark(price=(bid + ask) * 5, exponent=exponent - 1, source="mid", ordinal=ordinal)
        if last != UNDEFINED:
            return Mark(price=last, exponent=exponent, source="last", ordinal=ordinal)
        return None

    def _best(self, row: int) -> tuple[int, int, int, int]:
        """Best bid and ask with their sizes."""
        book = int(self._table[row, BOOK])
        if book < 0:
            bid, bid_size, ask, ask_size = self._table[row, QUOTED_BID : QUOTED_ASK_SIZE + 1].tolist()
            return bid, bid_size, ask, ask_size
        bid, bid_size = int(best_price(self._books, book, BID)), int(best_size(self._books, book, BID))
        return bid, bid_size, int(best_price(self._books, book, ASK)), int(best_size(self._books, book, ASK))

    def _value(self, row: int) -> dict[str, Any]:
        instrument = self._listed[row]
        seen = self._table[row].tolist()
        bid, bid_size, ask, ask_size = self._best(row)
        price, size = instrument.price_exponent, instrument.size_exponent
        return {
            "last": fixed_text(seen[LAST], price),
            "last_size": fixed_text(seen[LAST_SIZE], size) if seen[LAST] != UNDEFINED else None,
            "bid": fixed_text(bid, price),
            "bid_size": fixed_text(bid_size, size) if bid != UNDEFINED else None,
            "ask": fixed_text(ask, price),
            "ask_size": fixed_text(ask_size, size) if ask != UNDEFINED else None,
            "ts": format_time_ns(seen[SEEN]),
            "ts_ns": seen[SEEN],
            "ordinal": seen[SEEN_ORDINAL],
        }


def fixed_text(fixed: int, exponent: int) -> str | None:
    """A fixed-point number as an exact decimal without needless zeros; None where it is undefined."""
    if fixed == UNDEFINED:
        return None
    if exponent >= 0:
        return str(fixed * 10**exponent)
    whole, rest = divmod(abs(fixed), 10**-exponent)
    text = f"{whole}.{rest:0{-exponent}d}".rstrip("0") if rest else str(whole)
    return f"-{text}" if fixed < 0 else text


def _blank_table(rows: int) -> npt.NDArray[np.int64]:
    table = np.zeros((rows, COLUMNS), np.int64)
    table[:, [LAST, QUOTED_BID, QUOTED_ASK]] = UNDEFINED
    table[:, [SEEN_ORDINAL, BOOK]] = -1
    return table


def _halt(why: int, cell: Any, ordinal: int) -> None:
    position = f"cell {ordinal}"
    if why == _UNDEFINED_INSTRUMENT:
        raise DecodeError(
            f"instrument {int(cell['instrument'])} is used before its definition", subject="TAPE", position=position
        )
    if why == _UNKNOWN_KIND:
        raise DecodeError(
            f"record kind {int(cell['kind'])} is unknown", subject="TAPE", position=position, hint="upgrade tapehouse"
        )
    raise DecodeError("a record is cut short", subject="TAPE", position=position)
