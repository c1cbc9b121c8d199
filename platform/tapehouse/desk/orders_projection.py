"""The orders projection: EVENTS folded to what has become of every order.

Keys are `orders/<order id>`. Working orders are always there; of those that are done the DONE_MAX with the highest ids
are kept, which is the same set however the log was split into calls, because ids only grow.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from tapehouse.book.projection import fixed_text
from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.core.units import format_time_ns
from tapehouse.desk.names import Names
from tapehouse.desk.requests import REASONS
from tapehouse.desk.state import ACCOUNTS_MAX
from tapehouse.market import Action, Cells, Kind, Side, words

PREFIX = "orders/"
DONE_MAX = 65_536
_FIRST_ROOM = 4096

# Columns of `table`, one row to an order, sorted by id.
(
    ID, INSTRUMENT, ACCOUNT, NUMBER, SIDE, PRICE, SIZE, LEFT, FILLED, FILLS, STATUS, REASON, CREATED, UPDATED, ORDINAL,
) = range(15)  # fmt: skip
COLUMNS = 15
WORKING, FILLED_UP, CANCELLED, REJECTED, EXPIRED, REPLACED = range(6)
STATUSES = ("working", "filled", "cancelled", "rejected", "expired", "replaced")

# Entries of `counts`.
ROWS, DONE, LAST_ID = range(3)
_HEAD = struct.Struct("<q")

_FOLDED, _FULL, _BAD_RECORD, _UNKNOWN_ORDER, _ORDER_NOT_NEW, _BAD_SIZE = range(6)
_PROBLEMS = {
    _BAD_RECORD: "a record is cut short, or names an impossible account or action",
    _UNKNOWN_ORDER: "a decision is about an order that is not working",
    _ORDER_NOT_NEW: "a new order's id is not above all earlier ones",
    _BAD_SIZE: "more was filled than was left, or an order grew in its place",
}
_ORDER, _FILL = int(Kind.ORDER), int(Kind.FILL)
_ACCEPTED, _REJECTED = int(Action.ACCEPTED), int(Action.REJECTED)
_CANCELLED, _EXPIRED = int(Action.CANCELLED), int(Action.EXPIRED)
_TRIGGERED, _REPEATED = int(Action.TRIGGERED), int(Action.REPEATED)
_ASK = int(Side.ASK)


class EventsPosition(Protocol):
    """What a projection reads of a frame's header."""

    @property
    def first_ordinal(self) -> int:
        """The ordinal of the first cell."""
        ...


@kernel()
def find_order(table: Array, rows: Int, order_id: Int) -> Int:
    """The row of an order, -1 where there is none."""
    low = 0
    high = rows
    while low < high:
        middle = (low + high) >> 1
        if table[middle, ID] < order_id:
            low = middle + 1
        else:
            high = middle
    return low if low < rows and table[low, ID] == order_id else -1


@kernel()
def open_order(order: Array, array: Array, at: Int) -> None:
    """Fill the row of a new order from its ACCEPTED or REJECTED record."""
    packed = array[at, 7]
    order[ID] = array[at, 3]
    order[INSTRUMENT] = array[at, 6] & 0xFFFFFFFF
    order[ACCOUNT] = array[at + 1, 0]
    order[NUMBER] = array[at + 1, 1]
    order[SIDE] = (packed >> 8) & 255
    order[PRICE] = array[at, 4]
    order[SIZE] = array[at, 5]
    order[LEFT] = array[at, 5]
    order[FILLED] = 0
    order[FILLS] = 0
    order[STATUS] = WORKING if packed & 255 == _ACCEPTED else REJECTED
    order[REASON] = (packed >> 24) & 255
    order[CREATED] = array[at, 0]


@kernel()
def fold_orders(table: Array, counts: Array, array: Array, start: Int) -> tuple[Int, Int]:
    """Fold cells from row `start` on; return (row, why it stopped there).

    Args:
        table: Shape (capacity, COLUMNS); `counts` says how many rows are in use.
        array: Shape (n, 8) int64 cells, whole records.
    """
    n = array.shape[0]
    at = start
    while at < n:
        small = array[at, 6]
        kind = (small >> 48) & 255
        length = (small >> 56) & 255
        if length == 0 or at + length > n:
            return at, _BAD_RECORD
        if kind == _ORDER or kind == _FILL:
            packed = array[at, 7]
            action = packed & 255
            if kind == _ORDER and (small & 0xFFFFFFFF == 0 or packed & 255 == _REPEATED):  # No order came to be.
                at += length
                continue
            account = array[at + 1, 3] if kind == _FILL else array[at + 1, 0]
            if length < 2 or account < 0 or account >= ACCOUNTS_MAX:
                return at, _BAD_RECORD
            order_id = array[at, 3]
            replaced = array[at + 1, 5] if kind == _ORDER and action == _ACCEPTED else 0
            shrunk = replaced != 0 and replaced == order_id
            if kind == _ORDER and (action == _ACCEPTED or action == _REJECTED) and not shrunk:
                if order_id <= counts[LAST_ID]:
                    return at, _ORDER_NOT_NEW
                gone = find_order(table, counts[ROWS], replaced) if replaced != 0 else -1
                if replaced != 0 and (gone < 0 or table[gone, STATUS] != WORKING):
                    return at, _UNKNOWN_ORDER
                row = counts[ROWS]
                if row == table.shape[0]:
                    return at, _FULL
                if gone >= 0:
                    table[gone, STATUS] = REPLACED
                    table[gone, UPDATED] = array[at, 0]
                    table[gone, ORDINAL] = array[at, 2]
                    counts[DONE] += 1
                order = table[row]
                open_order(order, array, at)
                counts[ROWS] = row + 1
                counts[LAST_ID] = order_id
                if action == _REJECTED:
                    counts[DONE] += 1
            else:
                row = find_order(table, counts[ROWS], order_id)
                if row < 0 or table[row, STATUS] != WORKING:
                    return at, _UNKNOWN_ORDER
                order = table[row]
                if kind == _FILL:
                    if array[at, 5] > order[LEFT]:
                        return at, _BAD_SIZE
                    order[LEFT] -= array[at, 5]
                    order[FILLED] += array[at, 5]
                    order[FILLS] += 1
                    if order[LEFT] == 0:
                        order[STATUS] = FILLED_UP
                elif shrunk:
                    if array[at, 5] > order[LEFT]:
                        return at, _BAD_SIZE
                    order[SIZE] -= order[LEFT] - array[at, 5]
                    order[LEFT] = array[at, 5]
                    order[REASON] = (packed >> 24) & 255
                elif action == _TRIGGERED:
                    order[PRICE] = array[at, 4]
                elif action != _CANCELLED and action != _EXPIRED:
                    return at, _BAD_RECORD
                else:
                    order[LEFT] = array[at, 5]
                    order[STATUS] = CANCELLED if action == _CANCELLED else EXPIRED
                    order[REASON] = (packed >> 24) & 255
                if order[STATUS] != WORKING:
                    counts[DONE] += 1
            order[UPDATED] = array[at, 0]
            order[ORDINAL] = array[at, 2]
        at += length
    return at, _FOLDED


class OrdersProjection:
    """A machine over EVENTS; see the module."""

    name = "orders"
    version = 2

    def __init__(self, *, done_max: int = DONE_MAX) -> None:
        self._done_max = done_max
        self._names = Names()
        self._table = np.zeros((_FIRST_ROOM, COLUMNS), np.int64)
        self._counts = np.array([0, 0, -1], np.int64)

    @property
    def names(self) -> Names:
        """What instruments and accounts are called."""
        return self._names

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Every order, shape (orders, COLUMNS), sorted by id; not to be changed."""
        self._forget()
        return self._table[: int(self._counts[ROWS])]

    def apply(self, header: EventsPosition, cells: Cells) -> None:
        """Fold whole records of EVENTS.

        Raises:
            DecodeError: A record cannot be read, or contradicts the ones before it.
        """
        self._names.learn(cells)
        traded = (cells["kind"] == Kind.ORDER) & (cells["instrument"] != 0) | (cells["kind"] == Kind.FILL)
        used = np.unique(cells["instrument"][traded]).tolist()
        undefined = [instrument for instrument in used if instrument not in self._names.instruments]
        if undefined:
            raise DecodeError(f"instrument {undefined[0]} is used before its definition", subject="EVENTS")
        array = words(cells)
        at, why = 0, _FULL
        while why == _FULL:
            stopped, why = fold_orders(self._table, self._counts, array, at)
            at = int(stopped)
            if why == _FULL:
                self._make_room()
        if why != _FOLDED:
            raise DecodeError(
                _PROBLEMS[int(why)],
                subject="EVENTS",
                position=f"cell {header.first_ordinal + at}, order {int(cells['order_id'][at])}",
            )

    def _make_room(self) -> None:
        self._forget()
        if int(self._counts[ROWS]) > len(self._table) // 2:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])

    def _forget(self) -> None:
        """Let go of the oldest orders that are done, as far as there are more than are kept."""
        surplus = int(self._counts[DONE]) - self._done_max
        if surplus <= 0:
            return
        rows = self._table[: int(self._counts[ROWS])]
        keep = np.ones(len(rows), bool)
        keep[np.flatnonzero(rows[:, STATUS] != WORKING)[:surplus]] = False
        kept = rows[keep]
        self._table[: len(kept)] = kept
        self._counts[ROWS], self._counts[DONE] = len(kept), self._done_max

    # State.

    def snapshot(self) -> bytes:
        """The whole state, canonical."""
        return pack_sections(
            {
                "names": self._names.snapshot(),
                "orders": self.rows.astype("<i8").tobytes(),
                "last": _HEAD.pack(int(self._counts[LAST_ID])),
            }
        )

    def restore(self, snapshot: bytes) -> None:
        """Become the state that `snapshot` returned; raises IntegrityError for other bytes."""
        sections = unpack_sections(snapshot)
        try:
            names = Names.restore(sections["names"])
            rows = np.frombuffer(sections["orders"], "<i8").reshape(-1, COLUMNS)
            (last,) = _HEAD.unpack(sections["last"])
        except (KeyError, ValueError, struct.error) as error:
            raise IntegrityError(f"a snapshot of orders is damaged: {error}", hint="refold the log") from error
        if (np.diff(rows[:, ID]) <= 0).any() or (rows[:, ID] > last).any():
            raise IntegrityError("the orders of a snapshot are not in order", hint="refold the log")
        if not np.isin(rows[:, STATUS], range(len(STATUSES))).all():
            raise IntegrityError("an order of a snapshot has an impossible status", hint="refold the log")
        room = max(_FIRST_ROOM, 1 << len(rows).bit_length())
        self._names = names
        self._table = np.zeros((room, COLUMNS), np.int64)
        self._table[: len(rows)] = rows
        self._counts = np.array([len(rows), int((rows[:, STATUS] != WORKING).sum()), last], np.int64)

    def digest(self) -> bytes:
        """BLAKE3 of the snapshot."""
        return blake3(self.snapshot()).digest()

    # Reading.

    def get(self, key: str) -> dict[str, Any] | None:
        """The value under `orders/<order id>`, ready for JSON; None where there is none."""
        text = key[len(PREFIX) :]
        if not key.startswith(PREFIX) or not text.isascii() or not text.isdigit() or len(text) > 19:
            return None
        rows = self.rows
        order_id = int(text)
        at = int(np.searchsorted(rows[:, ID], order_id)) if order_id < 2**63 else len(rows)
        if at == len(rows) or int(rows[at, ID]) != order_id or text != str(order_id):
            return None
        return self._value(rows[at].tolist())

    def items(self, prefix: str = PREFIX) -> list[tuple[str, Any]]:
        """All keys that begin with `prefix`, in the order in which the orders came, with their values."""
        found = []
        for row in self.rows.tolist():
            key = f"{PREFIX}{row[ID]}"
            if key.startswith(prefix):
                found.append((key, self._value(row)))
        return found

    def _value(self, row: list[int]) -> dict[str, Any]:
        instrument = self._names.instruments[row[INSTRUMENT]]
        return {
            "instrument": instrument.symbol,
            "side": "sell" if row[SIDE] == _ASK else "buy",
            "price": fixed_text(row[PRICE], instrument.price_exponent),
            "size": fixed_text(row[SIZE], instrument.size_exponent),
            "left": fixed_text(row[LEFT], instrument.size_exponent),
            "filled": fixed_text(row[FILLED], instrument.size_exponent),
            "fills": row[FILLS],
            "status": STATUSES[row[STATUS]],
            "reason": reason_text(row[REASON]),
            "account": self._names.account(row[ACCOUNT]),
            "number": row[NUMBER],
            "created": format_time_ns(row[CREATED]),
            "updated": format_time_ns(row[UPDATED]),
            "as_of": row[ORDINAL],
        }


def reason_text(code: int) -> str:
    """Why an order was rejected, in words; empty where it was not."""
    return REASONS[code] if code < len(REASONS) else f"reason {code}"
