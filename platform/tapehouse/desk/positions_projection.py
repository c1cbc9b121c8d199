"""The positions projection: EVENTS folded to what every account holds and earned, per instrument.

Keys are `positions/<account>/<symbol>`. The fold books each fill itself, as the desk did, and holds its position and
cash against what the FILL record says that they were afterwards: a difference means that the log or one of the two is
wrong, and halts.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from tapehouse.book.projection import fixed_text
from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.core.units import format_time_ns, from_fixed
from tapehouse.desk.money import OVERFLOW, POWERS, contract_value, multiply_divide, rescale_exponent
from tapehouse.desk.names import Names
from tapehouse.desk.orders_projection import EventsPosition
from tapehouse.desk.state import ACCOUNTS_MAX, SYMBOL_IDS_MAX
from tapehouse.market import Cells, Instrument, Kind, Side, words

PREFIX = "positions/"
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)

# Columns of `table`, one row to (account, instrument id).
POSITION, CASH, FEES, COST, REALISED, FILLS, VOLUME, SEEN, ORDINAL = range(9)
COLUMNS = 9
_UNDEFINED_EXPONENT = 127  # no instrument: scales are -18 to 18

_FOLDED, _BAD_RECORD, _UNDEFINED_INSTRUMENT, _DISAGREES, _OVERFLOWS = range(5)
_PROBLEMS = {
    _BAD_RECORD: "a record is cut short or names an impossible account",
    _UNDEFINED_INSTRUMENT: "an instrument is used before its definition",
    _OVERFLOWS: "money does not fit 64 bits",
}
_FILL = int(Kind.FILL)
_BID = int(Side.BID)


@kernel()
def book_fill(
    money: Array, sign: Int, price: Int, size: Int, fee: Int, multiplier: Int, exponent: Int, powers: Array
) -> Int:
    """Book one fill; returns its notional or OVERFLOW. What is closed releases its share of the cost."""
    value = contract_value(price, size, multiplier, exponent, powers)
    if value == OVERFLOW:
        return value
    position = money[POSITION]
    held = position if position >= 0 else -position
    if position * sign >= 0:
        money[COST] += sign * value
    else:
        closed = size if size < held else held
        closed_value = contract_value(price, closed, multiplier, exponent, powers)
        released = money[COST] if closed == held else multiply_divide(money[COST], closed, held)
        money[REALISED] += -sign * closed_value - released
        money[COST] += -released + sign * (value - closed_value)
    money[POSITION] = position + sign * size
    money[CASH] -= sign * value + fee
    money[FEES] += fee
    money[FILLS] += 1
    money[VOLUME] += size
    return value


@kernel()
def fold_fills(table: Array, exponents: Array, multipliers: Array, array: Array, powers: Array) -> tuple[Int, Int]:
    """Fold all cells; return (row, why it stopped there).

    Args:
        table: Shape (ACCOUNTS_MAX, SYMBOL_IDS_MAX, COLUMNS).
        exponents, multipliers: Shape (SYMBOL_IDS_MAX,): the money scale and the multiplier of each instrument id.
        array: Shape (n, 8) int64 cells, whole records.
    """
    n = array.shape[0]
    at = 0
    while at < n:
        small = array[at, 6]
        kind = (small >> 48) & 255
        length = (small >> 56) & 255
        if length == 0 or at + length > n:
            return at, _BAD_RECORD
        if kind == _FILL:
            account = array[at + 1, 3]
            if length != 2 or account < 0 or account >= ACCOUNTS_MAX:
                return at, _BAD_RECORD
            instrument = small & 0xFFFFFFFF
            if instrument >= exponents.shape[0] or exponents[instrument] == _UNDEFINED_EXPONENT:
                return at, _UNDEFINED_INSTRUMENT
            money = table[account, instrument]
            sign = 1 if (array[at, 7] >> 8) & 255 == _BID else -1
            multiplier, exponent = multipliers[instrument], exponents[instrument]
            value = book_fill(money, sign, array[at, 4], array[at, 5], array[at + 1, 1], multiplier, exponent, powers)
            if value == OVERFLOW:
                return at, _OVERFLOWS
            if money[POSITION] != array[at + 1, 4] or money[CASH] != array[at + 1, 5]:
                return at, _DISAGREES
            money[SEEN] = array[at, 0]
            money[ORDINAL] = array[at, 2]
        at += length
    return at, _FOLDED


class PositionsProjection:
    """A machine over EVENTS; see the module."""

    name = "positions"
    version = 1

    def __init__(self) -> None:
        self._names = Names()
        self._table = np.zeros((ACCOUNTS_MAX, SYMBOL_IDS_MAX, COLUMNS), np.int64)
        self._exponents = np.full(SYMBOL_IDS_MAX, _UNDEFINED_EXPONENT, np.int64)
        self._multipliers = np.ones(SYMBOL_IDS_MAX, np.int64)

    @property
    def names(self) -> Names:
        """What instruments and accounts are called."""
        return self._names

    def apply(self, header: EventsPosition, cells: Cells) -> None:
        """Fold whole records of EVENTS.

        Raises:
            DecodeError: A record cannot be read.
            IntegrityError: The fold disagrees with the position or cash that a fill states.
        """
        self._price(self._names.learn(cells))
        at, why = fold_fills(self._table, self._exponents, self._multipliers, words(cells), POWERS)
        if why == _FOLDED:
            return
        position = f"cell {header.first_ordinal + int(at)}"
        if why == _DISAGREES:
            raise IntegrityError(
                "a fill's position or cash is not what its fills before it lead to",
                subject="EVENTS",
                position=position,
                hint="the log is damaged, or fills are missing before it",
            )
        raise DecodeError(_PROBLEMS[int(why)], subject="EVENTS", position=position)

    def _price(self, instruments: list[Instrument]) -> None:
        for instrument in instruments:
            self._multipliers[instrument.id] = instrument.multiplier
            self._exponents[instrument.id] = rescale_exponent(
                instrument.price_exponent, instrument.size_exponent, instrument.currency_exponent
            )

    # State.

    def held(self) -> list[tuple[int, int]]:
        """(account, instrument id) of everything ever filled, sorted."""
        return [(int(account), int(instrument)) for account, instrument in np.argwhere(self._table[:, :, FILLS] > 0)]

    def row(self, account: int, instrument: int) -> npt.NDArray[np.int64]:
        """One account's columns in one instrument; not to be changed."""
        row: npt.NDArray[np.int64] = self._table[account, instrument]
        return row

    def snapshot(self) -> bytes:
        """The whole state, canonical."""
        held = self.held()
        rows = np.array([[*place, *self.row(*place).tolist()] for place in held], "<i8").reshape(-1, 2 + COLUMNS)
        return pack_sections({"names": self._names.snapshot(), "positions": rows.tobytes()})

    def restore(self, snapshot: bytes) -> None:
        """Become the state that `snapshot` returned; raises IntegrityError for other bytes."""
        sections = unpack_sections(snapshot)
        restored = PositionsProjection()
        try:
            restored._names = Names.restore(sections["names"])
            restored._price(list(restored._names.instruments.values()))
            rows = np.frombuffer(sections["positions"], "<i8").reshape(-1, 2 + COLUMNS)
            for account, instrument, *row in rows.tolist():
                if not 0 <= account < ACCOUNTS_MAX or instrument not in restored._names.instruments:
                    raise IntegrityError("a position of a snapshot is nobody's", hint="refold the log")
                restored._table[account, instrument] = row
        except (KeyError, ValueError) as error:
            raise IntegrityError(f"a snapshot of positions is damaged: {error}", hint="refold the log") from error
        self.__dict__.update(restored.__dict__)

    def digest(self) -> bytes:
        """BLAKE3 of the snapshot."""
        return blake3(self.snapshot()).digest()

    # Reading.

    def get(self, key: str) -> dict[str, Any] | None:
        """The value under `positions/<account>/<symbol>`, ready for JSON; None where there is none."""
        return next((value for found, value in self.items(key) if found == key), None)

    def items(self, prefix: str = PREFIX) -> list[tuple[str, Any]]:
        """All keys that begin with `prefix`, sorted, with their values."""
        found = []
        for (account, instrument), value in self.by_place():
            key = f"{PREFIX}{self._names.account(account)}/{self._names.token(instrument)}"
            if key.startswith(prefix):
                found.append((key, value))
        return sorted(found, key=lambda item: item[0])

    def by_place(self) -> list[tuple[tuple[int, int], dict[str, Any]]]:
        """Every value with its (account, instrument id), sorted by these."""
        return [(place, self._value(self.row(*place).tolist(), place[1])) for place in self.held()]

    def _value(self, row: list[int], instrument_id: int) -> dict[str, Any]:
        instrument = self._names.instruments[instrument_id]
        money, size = instrument.currency_exponent, instrument.size_exponent
        return {
            "position": fixed_text(row[POSITION], size),
            "average_price": average_price(row[COST], row[POSITION], instrument),
            "cash": fixed_text(row[CASH], money),
            "fees": fixed_text(row[FEES], money),
            "realised": fixed_text(row[REALISED], money),
            "currency": instrument.currency,
            "fills": row[FILLS],
            "volume": fixed_text(row[VOLUME], size),
            "ts": format_time_ns(row[SEEN]),
            "as_of": row[ORDINAL],
        }


def average_price(cost: int, position: int, instrument: Instrument) -> str | None:
    """What the open position cost per unit, rounded to the instrument's price unit; None where there is none."""
    if position == 0:
        return None
    exact = _EXACT.divide(
        from_fixed(cost, instrument.currency_exponent),
        from_fixed(position * instrument.multiplier, instrument.size_exponent),
    )
    scaled = _EXACT.scaleb(exact, -instrument.price_exponent)
    return fixed_text(int(_EXACT.to_integral_value(scaled)), instrument.price_exponent)
