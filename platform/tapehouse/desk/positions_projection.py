"""The positions projection: EVENTS folded to what every account holds, earned and was booked.

Keys are `positions/<account>/<symbol>`, and `cash/<account>/<currency>` for balances. The fold books each fill with the
desk's own kernel and holds position and cash against what the FILL record says that they were afterwards: a difference
means that the log or one of the two is wrong, and halts.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_HALF_EVEN, Context
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from pydantic import BaseModel

from tapehouse.book.projection import fixed_text
from tapehouse.core.errors import DataError, DecodeError, IntegrityError
from tapehouse.core.ids import encode_token
from tapehouse.core.kernel import Array
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.core.units import format_time_ns, from_fixed, to_fixed
from tapehouse.desk.cash_book import EXTERNAL, KINDS, CashBook
from tapehouse.desk.events import EVENTS, AccountConfigured, CashBooked, PositionCorrected
from tapehouse.desk.ledger import POSTED, post_correction
from tapehouse.desk.ledger_state import (
    FIFO,
    LEG_COST,
    LEG_LOTS,
    LEG_SIZE,
    LONG,
    METHOD,
    METHODS,
    MODE,
    MODES,
    SHORT,
    write_booking,
)
from tapehouse.desk.money import POWERS
from tapehouse.desk.names import Names
from tapehouse.desk.orders_projection import EventsPosition
from tapehouse.desk.positions_fold import (
    BAD_RECORD,
    DISAGREES,
    FOLDED,
    NEW_PLACE,
    ORDINAL,
    OVERFLOWS,
    SEEN,
    UNDEFINED_INSTRUMENT,
    Holdings,
    fold_fills,
)
from tapehouse.desk.state import ACCOUNT_COLUMNS, ACCOUNTS_MAX, CASH, COST, FEES, FILLS, POSITION, REALISED, VOLUME
from tapehouse.market import Cells, Instrument, Kind, records_of, unpack_payload, words

PREFIX = "positions/"
CASH_PREFIX = "cash/"
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)
_PROBLEMS = {
    BAD_RECORD: "a record is cut short or names an impossible account",
    UNDEFINED_INSTRUMENT: "an instrument is used before its definition",
    OVERFLOWS: "money does not fit 64 bits",
}
_BOOKED = (b'"cash.booked"', b'"position.corrected"', b'"account.configured"')


class PositionsProjection:
    """A machine over EVENTS; see the module."""

    name = "positions"
    version = 2

    def __init__(self) -> None:
        self._names = Names()
        self._holdings = Holdings()
        self._book = CashBook(ACCOUNTS_MAX)

    @property
    def names(self) -> Names:
        """What instruments and accounts are called."""
        return self._names

    # The fold.

    def apply(self, header: EventsPosition, cells: Cells) -> None:
        """Fold whole records of EVENTS.

        Raises:
            DecodeError: A record cannot be read.
            IntegrityError: The fold disagrees with the position or cash that a fill states.
        """
        for instrument in self._names.learn(cells):
            self._holdings.price(instrument)
        array = words(cells)
        at = 0
        for place, event in _bookings(cells):
            self._fold(header, array, at, place)
            at = place
            try:
                self._take(event, cells[place : place + 1])
            except DataError as error:
                position = f"cell {header.first_ordinal + place}"
                raise DecodeError(f"a booking cannot be: {error}", subject="EVENTS", position=position) from error
        self._fold(header, array, at, len(array))

    def _fold(self, header: EventsPosition, array: Array, start: int, end: int) -> None:
        held = self._holdings
        at, why = start, NEW_PLACE
        while why == NEW_PLACE:
            stopped, why = fold_fills(
                held.table, held.legs, held.booking, held.places, held.contracts, held.trades, array, at, end, POWERS
            )
            at = int(stopped)
            if why == NEW_PLACE:
                held.place(int(array[at + 1, 3]), int(array[at, 6]) & 0xFFFFFFFF)
        if why == FOLDED:
            return
        position = f"cell {header.first_ordinal + at}"
        if why == DISAGREES:
            raise IntegrityError(
                "a fill's position or cash is not what its fills before it lead to",
                subject="EVENTS",
                position=position,
                hint="the log is damaged, or fills are missing before it",
            )
        raise DecodeError(_PROBLEMS[int(why)], subject="EVENTS", position=position)

    def _take(self, event: BaseModel, cell: Cells) -> None:
        """Book what no fill led to; raises DataError where it cannot be."""
        if isinstance(event, CashBooked):
            account = self._number(event.account)
            amount = to_fixed(event.amount, event.exponent)
            self._book.book(account, event.currency, event.exponent, event.kind, amount)
        elif isinstance(event, PositionCorrected):
            self._correct(event, cell)
        elif isinstance(event, AccountConfigured):
            account = self._number(event.account)
            if any(self.row(*place)[POSITION] or self._legs(*place)[:, LEG_SIZE].any() for place in self._of(account)):
                raise DataError("an account was configured that is not flat", subject=event.account)
            row = self._holdings.booking[account]
            write_booking(row, event.mode, event.method, event.maker_fee_ppm, event.taker_fee_ppm)

    def _correct(self, event: PositionCorrected, cell: Cells) -> None:
        held, account = self._holdings, self._number(event.account)
        instrument = next(
            (
                known
                for known in self._names.instruments.values()
                if known.symbol == event.instrument and known.asset_class != "option"
            ),
            None,
        )
        if instrument is None:
            raise DataError("no such instrument", subject=event.instrument)
        row = held.place(account, instrument.id)
        size, price = instrument.fixed_size(event.size), instrument.fixed_price(event.price)
        money, street = held.table[row], np.zeros(ACCOUNT_COLUMNS, np.int64)
        status = post_correction(
            money, held.legs[row], held.booking[account], street, size, price, held.contracts[instrument.id], POWERS
        )
        if status != POSTED:
            raise DataError("a correction does not fit 64 bits", subject=event.instrument)
        money[SEEN], money[ORDINAL] = int(cell["ts_recv"][0]), int(cell["sequence"][0])

    def _number(self, account: str) -> int:
        number = next((number for number, name in self._names.accounts.items() if name == account), None)
        if number is None:
            raise DataError("no event opened this account", subject=account)
        return number

    # State.

    def held(self) -> list[tuple[int, int]]:
        """(account, instrument id) of everything ever filled or corrected, sorted."""
        return self._holdings.held()

    def row(self, account: int, instrument: int) -> npt.NDArray[np.int64]:
        """One account's columns in one instrument; not to be changed."""
        row: npt.NDArray[np.int64] = self._holdings.table[self._holdings.places[account, instrument]]
        return row

    def settings(self, account: int) -> tuple[str, str]:
        """An account's mode and method."""
        row = self._holdings.booking[account]
        return MODES[row[MODE]], METHODS[row[METHOD]]

    def last_fill(self, instrument: int) -> tuple[int, int] | None:
        """The price of an instrument's last fill and the input ordinal that led to it; None where there was none."""
        price, ordinal = self._holdings.trades[instrument].tolist()
        return (price, ordinal) if ordinal else None

    def legs(self, account: int, instrument: int) -> tuple[int, int, int]:
        """What an account holds long and short, and in how many lots; all that nets at average cost is one lot."""
        legs, row = self._legs(account, instrument), self.row(account, instrument)
        position = int(row[POSITION])
        if not legs[:, LEG_SIZE].any():
            return max(position, 0), max(-position, 0), int(position != 0)
        sizes = legs[:, LEG_SIZE]
        fifo = self._holdings.booking[account, METHOD] == FIFO
        lots = legs[:, LEG_LOTS].sum() if fifo else np.count_nonzero(sizes)
        return int(sizes[LONG]), int(sizes[SHORT]), int(lots)

    def booked(self) -> set[int]:
        """The accounts that cash was booked to."""
        return {account for account in range(ACCOUNTS_MAX) if self._book.of(account)}

    def booked_cash(self, account: int) -> list[tuple[str, Fraction]]:
        """(currency, amount) of all that was booked to an account beside fills."""
        found = self._book.of(account).items()
        return [(code, sum(kinds.values()) * Fraction(10) ** exponent) for (code, exponent), kinds in found]

    def _legs(self, account: int, instrument: int) -> npt.NDArray[np.int64]:
        legs: npt.NDArray[np.int64] = self._holdings.legs[self._holdings.places[account, instrument]]
        return legs

    def _of(self, account: int) -> list[tuple[int, int]]:
        return [place for place in self.held() if place[0] == account]

    def snapshot(self) -> bytes:
        """The whole state, canonical."""
        return pack_sections(
            {
                "names": self._names.snapshot(),
                "positions": self._holdings.snapshot(),
                "cash": self._book.snapshot(),
            }
        )

    def restore(self, snapshot: bytes) -> None:
        """Become the state that `snapshot` returned; raises IntegrityError for other bytes."""
        sections = unpack_sections(snapshot)
        restored = PositionsProjection()
        try:
            restored._names = Names.restore(sections["names"])
            restored._holdings.restore(sections["positions"], restored._names.instruments)
            restored._book = CashBook.restore(sections["cash"], ACCOUNTS_MAX)
        except KeyError as error:
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
        for account, instrument in self.held():
            key = self.key(account, instrument)
            if key.startswith(prefix):
                found.append((key, self.value(account, instrument)))
        return sorted(found, key=lambda item: item[0])

    def key(self, account: int, instrument: int) -> str:
        """Where a position is found."""
        return f"{PREFIX}{self._names.account(account)}/{self._names.token(instrument)}"

    def value(self, account: int, instrument_id: int) -> dict[str, Any]:
        """One position, ready for JSON; `average_price` is None where both legs are held, which have one each."""
        instrument, row = self._names.instruments[instrument_id], self.row(account, instrument_id).tolist()
        money, size = instrument.currency_exponent, instrument.size_exponent
        long, short, lots = self.legs(account, instrument_id)
        mode, method = self.settings(account)
        costs = self._legs(account, instrument_id)[:, LEG_COST].tolist()
        if not any(costs):
            costs = [row[COST], row[COST]]  # one leg alone, and that is the position
        return {
            "position": fixed_text(row[POSITION], size),
            "long": fixed_text(long, size),
            "short": fixed_text(short, size),
            "lots": lots,
            "average_price": average_price(row[COST], row[POSITION], instrument) if not (long and short) else None,
            "long_average_price": average_price(costs[LONG], long, instrument),
            "short_average_price": average_price(costs[SHORT], -short, instrument),
            "cash": fixed_text(row[CASH], money),
            "fees": fixed_text(row[FEES], money),
            "realised": fixed_text(row[REALISED], money),
            "currency": instrument.currency,
            "fills": row[FILLS],
            "volume": fixed_text(row[VOLUME], size),
            "mode": mode,
            "method": method,
            "ts": format_time_ns(row[SEEN]),
            "as_of": row[ORDINAL],
        }

    def cash_items(self, prefix: str = CASH_PREFIX) -> list[tuple[str, Any]]:
        """All keys `cash/<account>/<currency>` that begin with `prefix`, sorted, with their values."""
        found: dict[tuple[int, str], dict[str, list[tuple[int, int]]]] = {}
        for account in range(-1, ACCOUNTS_MAX):
            for (currency, exponent), kinds in self._book.of(account).items():
                amounts = found.setdefault((account, currency), {})
                for kind, amount in kinds.items():
                    amounts.setdefault(kind, []).append((amount, exponent))
        for account, instrument_id in self.held():
            instrument = self._names.instruments[instrument_id]
            amounts = found.setdefault((account, instrument.currency), {})
            traded = int(self.row(account, instrument_id)[CASH])
            amounts.setdefault("traded", []).append((traded, instrument.currency_exponent))
        items = []
        for (account, currency), amounts in found.items():
            owner = EXTERNAL if account < 0 else self._names.account(account)
            key = f"{CASH_PREFIX}{owner}/{encode_token(currency)}"
            if key.startswith(prefix):
                everything = [amount for each in amounts.values() for amount in each]
                told = {kind: exact_sum(amounts.get(kind, [])) for kind in ("traded", *KINDS)}
                items.append((key, {"balance": exact_sum(everything), **told, "currency": currency}))
        return sorted(items, key=lambda item: item[0])


def _bookings(cells: Cells) -> Iterator[tuple[int, BaseModel]]:
    """Events of what no fill led to, each with the index of its first cell."""
    for at, record in records_of(cells, Kind.EVENT):
        payload = unpack_payload(record)
        if any(kind in payload for kind in _BOOKED):
            yield at, EVENTS.decode(payload)[1]


def exact_sum(amounts: list[tuple[int, int]]) -> str:
    """The exact decimal that (fixed, exponent) pairs add up to."""
    finest = min((exponent for _, exponent in amounts), default=0)
    return str(fixed_text(sum(fixed * 10 ** (exponent - finest) for fixed, exponent in amounts), finest))


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
