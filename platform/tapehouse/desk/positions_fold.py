"""What the positions projection keeps, and the kernel that folds fills into it: one row to (account, instrument id)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import IntegrityError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.desk.ledger import CLOSE_FLAG, POSTED, post_fill
from tapehouse.desk.ledger_state import (
    LEG_COLUMNS,
    make_booking,
    make_legs,
    restore_ledger,
    snapshot_ledger,
)
from tapehouse.desk.money import contract_value, rescale_exponent
from tapehouse.desk.requests import BUY, SELL
from tapehouse.desk.state import (
    ACCOUNT_COLUMNS,
    ACCOUNTS_MAX,
    CASH,
    COST,
    FEES,
    FILLS,
    INSTRUMENT_COLUMNS,
    MONEY_EXPONENT,
    MULTIPLIER,
    POSITION,
    REALISED,
    SYMBOL_IDS_MAX,
    VOLUME,
)
from tapehouse.market import Instrument, Kind, Side

# Columns of `table` after a desk's.
SEEN, ORDINAL, ACCOUNT, INSTRUMENT = range(ACCOUNT_COLUMNS, ACCOUNT_COLUMNS + 4)
COLUMNS = ACCOUNT_COLUMNS + 4
# What of them a snapshot keeps, in this order.
_KEPT = [ACCOUNT, INSTRUMENT, POSITION, CASH, FEES, COST, REALISED, FILLS, VOLUME, SEEN, ORDINAL]
# Columns of `trades`, one row to an instrument id: its last fill.
TRADE_PRICE, TRADE_ORDINAL = range(2)

_FIRST_ROOM = 64
_UNDEFINED_EXPONENT = 127  # no instrument: scales are -18 to 18

FOLDED, NEW_PLACE, BAD_RECORD, UNDEFINED_INSTRUMENT, DISAGREES, OVERFLOWS = range(6)
_FILL = int(Kind.FILL)
_BID = int(Side.BID)


@kernel()
def fold_fills(
    table: Array, legs: Array, booking: Array, places: Array, contracts: Array, trades: Array, array: Array,
    start: Int, end: Int, powers: Array,
) -> tuple[Int, Int]:  # fmt: skip
    """Fold cells `start` to `end`; return (row, why it stopped there).

    Args:
        table: Shape (rows, COLUMNS); legs: (rows, 2, LEG_COLUMNS).
        booking: Shape (ACCOUNTS_MAX, BOOKING_COLUMNS).
        places: Shape (ACCOUNTS_MAX, SYMBOL_IDS_MAX): the row of each account and instrument id, -1 for none.
        contracts: Shape (SYMBOL_IDS_MAX, a desk's INSTRUMENT_COLUMNS): multiplier and money exponent.
        trades: Shape (SYMBOL_IDS_MAX, 2).
        array: Shape (n, 8) int64 cells, whole records.
    """
    at = start
    while at < end:
        small = array[at, 6]
        kind = (small >> 48) & 255
        length = (small >> 56) & 255
        if length == 0 or at + length > end:
            return at, BAD_RECORD
        if kind == _FILL:
            account = array[at + 1, 3]
            if length != 2 or account < 0 or account >= places.shape[0]:
                return at, BAD_RECORD
            instrument = small & 0xFFFFFFFF
            if instrument >= places.shape[1] or contracts[instrument, MONEY_EXPONENT] == _UNDEFINED_EXPONENT:
                return at, UNDEFINED_INSTRUMENT
            row = places[account, instrument]
            if row < 0:
                return at, NEW_PLACE
            packed = array[at, 7]
            side = BUY if (packed >> 8) & 255 == _BID else SELL
            flags = (packed >> 16) & CLOSE_FLAG
            price, size, fee = array[at, 4], array[at, 5], array[at + 1, 1]
            contract = contracts[instrument]
            value = contract_value(price, size, contract[MULTIPLIER], contract[MONEY_EXPONENT], powers)
            money = table[row]
            status = post_fill(
                money, legs[row], booking[account], side, price, size, value, fee, flags, contract, powers
            )
            if status != POSTED:
                return at, OVERFLOWS
            if money[POSITION] != array[at + 1, 4] or money[CASH] != array[at + 1, 5]:
                return at, DISAGREES
            money[SEEN] = array[at, 0]
            money[ORDINAL] = array[at, 2]
            trades[instrument, TRADE_PRICE] = price
            trades[instrument, TRADE_ORDINAL] = array[at, 2]
        at += length
    return at, FOLDED


class Holdings:
    """The arrays of the fold. Rows are made as accounts first trade an instrument, and never go."""

    def __init__(self) -> None:
        self.table = np.zeros((_FIRST_ROOM, COLUMNS), np.int64)
        self.legs = make_legs(_FIRST_ROOM)
        self.booking = make_booking(ACCOUNTS_MAX)
        self.places = np.full((ACCOUNTS_MAX, SYMBOL_IDS_MAX), -1, np.int64)
        self.contracts = np.zeros((SYMBOL_IDS_MAX, INSTRUMENT_COLUMNS), np.int64)
        self.contracts[:, MONEY_EXPONENT] = _UNDEFINED_EXPONENT
        self.trades = np.zeros((SYMBOL_IDS_MAX, 2), np.int64)
        self.rows = 0

    def price(self, instrument: Instrument) -> None:
        """Take up how an instrument's money is counted."""
        row = self.contracts[instrument.id]
        row[MULTIPLIER] = instrument.multiplier
        row[MONEY_EXPONENT] = rescale_exponent(
            instrument.price_exponent, instrument.size_exponent, instrument.currency_exponent
        )

    def place(self, account: int, instrument: int) -> int:
        """The row of an account in an instrument, made where there is none."""
        row = int(self.places[account, instrument])
        if row >= 0:
            return row
        if self.rows == len(self.table):
            self.table = np.concatenate([self.table, np.zeros_like(self.table)])
            self.legs = np.concatenate([self.legs, np.zeros_like(self.legs)])
        row = self.rows
        self.rows += 1
        self.table[row, ACCOUNT], self.table[row, INSTRUMENT] = account, instrument
        self.places[account, instrument] = row
        return row

    def held(self) -> list[tuple[int, int]]:
        """(account, instrument id) of every row, sorted."""
        return sorted((account, instrument) for account, instrument in self._keys().tolist())

    def _keys(self) -> npt.NDArray[np.int64]:
        return self.table[: self.rows][:, [ACCOUNT, INSTRUMENT]]

    def snapshot(self) -> bytes:
        """The whole state, canonical: rows sorted by account and instrument."""
        keys = self._keys()
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        traded = np.flatnonzero(self.trades.any(axis=1))
        return pack_sections(
            {
                "rows": self.table[: self.rows][order][:, _KEPT].astype("<i8").tobytes(),
                "ledger": snapshot_ledger(self.booking, self.legs[: self.rows][order]),
                "trades": np.column_stack([traded, self.trades[traded]]).astype("<i8").tobytes(),
            }
        )

    def restore(self, data: bytes, instruments: dict[int, Instrument]) -> None:
        """Fill new holdings with what `snapshot` packed; raises IntegrityError for other bytes."""
        for instrument in instruments.values():
            self.price(instrument)
        sections = unpack_sections(data)
        try:
            rows = np.frombuffer(sections["rows"], "<i8").reshape(-1, len(_KEPT))
            trades = np.frombuffer(sections["trades"], "<i8").reshape(-1, 3)
            ledger = sections["ledger"]
        except (KeyError, ValueError) as error:
            raise IntegrityError(f"a snapshot of positions is damaged: {error}", hint="refold the log") from error
        for account, instrument in rows[:, :2].tolist():
            if not 0 <= account < ACCOUNTS_MAX or instrument not in instruments:
                raise IntegrityError("a position of a snapshot is nobody's", hint="refold the log")
            self.place(account, instrument)
        if self.rows != len(rows) or any(instrument not in instruments for instrument in trades[:, 0].tolist()):
            raise IntegrityError("a snapshot's positions are told twice, or of no instrument", hint="refold the log")
        self.table[: self.rows, _KEPT] = rows
        restored = np.zeros((self.rows, 2, LEG_COLUMNS), np.int64)
        restore_ledger(ledger, self.booking, restored)
        self.legs[: self.rows] = restored
        self.trades[trades[:, 0]] = trades[:, 1:]
