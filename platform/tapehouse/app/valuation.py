"""What positions are worth now: the positions projection read beside the prices projection.

Both are folds of logs; this holds nothing and only joins them when somebody reads. A position is valued at the middle
of the best bid and ask, else at the last trade; where there is neither it has no value, and neither has a sum that it
is part of. Amounts are exact and rounded once, half away from zero, to the currency's unit. Nothing is converted but
the total of an account, and that only at rates of instruments on this very tape, which it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tapehouse.book.projection import Mark, PricesProjection, fixed_text
from tapehouse.desk.money import rescale_exponent
from tapehouse.desk.positions_fold import ORDINAL
from tapehouse.desk.positions_projection import CASH_PREFIX, PositionsProjection
from tapehouse.desk.state import CASH, COST, FEES, POSITION, REALISED
from tapehouse.market import Instrument

PNL_PREFIX = "pnl/"
INTERNAL_VENUE = "internal"  # where accounts trade with each other: the tape shows no market, so the last fill counts
_AMOUNTS = ("realised", "unrealised", "fees", "cash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How much of another currency one unit is worth, and by which instrument of the tape."""

    factor: Fraction
    told: dict[str, Any]
    inverted: bool


class Valuation:
    """Reads of `positions/`, `cash/` and `pnl/`; see the module."""

    names = ("positions", "cash", "pnl")

    def __init__(self, positions: PositionsProjection, prices: PricesProjection) -> None:
        self._positions = positions
        self._prices = prices

    def get(self, key: str) -> Any | None:
        """The value under a key, ready for JSON; None where there is none."""
        return next((value for found, value in self.items(key) if found == key), None)

    def items(self, prefix: str) -> list[tuple[str, Any]]:
        """All keys below one of `names` that begin with `prefix`, sorted, with their values."""
        if prefix.startswith(CASH_PREFIX):
            return self._positions.cash_items(prefix)
        if prefix.startswith(PNL_PREFIX):
            accounts = {
                account: f"{PNL_PREFIX}{self._positions.names.account(account)}" for account in self._accounts()
            }
            return [(key, self._account(account)) for account, key in _sorted(accounts) if key.startswith(prefix)]
        keys = {place: self._positions.key(*place) for place in self._positions.held()}
        return [(key, self._position(*place)) for place, key in _sorted(keys) if key.startswith(prefix)]

    def mark(self, instrument: Instrument) -> Mark | None:
        """What a position in an instrument is valued at."""
        seen = self._prices.mark(instrument.id)
        if seen is None and instrument.venue == INTERNAL_VENUE:
            filled = self._positions.last_fill(instrument.id)
            if filled is not None:
                return Mark(price=filled[0], exponent=instrument.price_exponent, source="fill", ordinal=filled[1])
        return seen

    # One position.

    def _position(self, account: int, instrument_id: int) -> dict[str, Any]:
        instrument = self._positions.names.instruments[instrument_id]
        mark = self.mark(instrument)
        unrealised = self._unrealised(account, instrument, mark)
        return {
            **self._positions.value(account, instrument_id),
            "mark": None if mark is None else fixed_text(mark.price, mark.exponent),
            "mark_source": None if mark is None else mark.source,
            "mark_as_of": None if mark is None else mark.ordinal,
            "unrealised": None if unrealised is None else fixed_text(unrealised, instrument.currency_exponent),
        }

    def _unrealised(self, account: int, instrument: Instrument, mark: Mark | None) -> int | None:
        """What closing at the mark would realise, in the currency's unit; 0 of a position that is closed."""
        row = self._positions.row(account, instrument.id)
        position, cost = int(row[POSITION]), int(row[COST])
        if mark is None:
            return 0 if not any(self._positions.legs(account, instrument.id)) else None
        exponent = rescale_exponent(mark.exponent, instrument.size_exponent, instrument.currency_exponent)
        return rounded(Fraction(position * mark.price * instrument.multiplier) * Fraction(10) ** exponent) - cost

    # One account.

    def _accounts(self) -> set[int]:
        return {account for account, _ in self._positions.held()} | self._positions.booked()

    def _account(self, account: int) -> dict[str, Any]:
        sums: dict[str, dict[str, Fraction]] = {}
        unmarked: dict[str, list[str]] = {}
        as_of, marks = 0, list[int]()
        for held, instrument_id in self._positions.held():
            if held != account:
                continue
            instrument = self._positions.names.instruments[instrument_id]
            row, unit = self._positions.row(account, instrument_id), Fraction(10) ** instrument.currency_exponent
            mine = sums.setdefault(instrument.currency, dict.fromkeys(_AMOUNTS, Fraction(0)))
            mark = self.mark(instrument)
            unrealised = self._unrealised(account, instrument, mark)
            as_of = max(as_of, int(row[ORDINAL]))
            if mark is not None and any(self._positions.legs(account, instrument_id)):
                marks.append(mark.ordinal)
            if unrealised is None:
                unmarked.setdefault(instrument.currency, []).append(instrument.symbol)
            amounts = (int(row[REALISED]), unrealised or 0, int(row[FEES]), int(row[CASH]))
            for name, amount in zip(_AMOUNTS, amounts, strict=True):
                mine[name] += amount * unit
        for currency, booked in self._positions.booked_cash(account):
            sums.setdefault(currency, dict.fromkeys(_AMOUNTS, Fraction(0)))["cash"] += booked
        told = {}
        for currency in sorted(sums):
            known: dict[str, Any] = {name: decimal_text(amount) for name, amount in sums[currency].items()}
            if currency in unmarked:
                known["unrealised"] = None
            told[currency] = {**known, "unmarked": sorted(unmarked.get(currency, []))}
        return {
            "currencies": told,
            "total": self._total(sums, unmarked),
            "as_of": as_of,
            "oldest_mark_as_of": min(marks, default=None),
        }

    def _total(self, sums: dict[str, dict[str, Fraction]], unmarked: dict[str, list[str]]) -> dict[str, Any] | None:
        """All currencies in the one that most of the others have a rate into; None where none has a rate from all."""
        candidates = []
        for base in sorted(sums):
            rates = {currency: self.rate(currency, base) for currency in sorted(sums) if currency != base}
            found = {currency: rate for currency, rate in rates.items() if rate is not None}
            if len(found) == len(rates):
                candidates.append((sum(rate.inverted for rate in found.values()), base, found))
        if not candidates:
            return None
        _, base, found = min(candidates, key=lambda each: each[:2])
        unit = min(
            (known.currency_exponent for known in self._positions.names.instruments.values() if known.currency == base),
            default=-9,
        )
        total: dict[str, Any] = {"currency": base}
        for name in _AMOUNTS:
            exact = sum(
                (sums[currency][name] * (found[currency].factor if currency != base else 1) for currency in sums),
                Fraction(0),
            )
            total[name] = fixed_text(rounded(exact / Fraction(10) ** unit), unit)
        if unmarked:
            total["unrealised"] = None
        return {**total, "rates": {currency: rate.told for currency, rate in found.items()}}

    def rate(self, currency: str, base: str) -> Rate | None:
        """The rate of the first instrument of the tape that quotes one in the other; None where none has a mark."""
        for inverted, symbols in ((False, _pairs(currency, base)), (True, _pairs(base, currency))):
            quoted = currency if inverted else base
            for instrument in self._positions.names.instruments.values():
                if instrument.symbol not in symbols or instrument.currency != quoted or instrument.right:
                    continue
                mark = self.mark(instrument)
                if mark is None or mark.price <= 0:
                    continue
                price = mark.price * Fraction(10) ** mark.exponent
                told = {
                    "instrument": instrument.symbol,
                    "mark": fixed_text(mark.price, mark.exponent),
                    "source": mark.source,
                    "as_of": mark.ordinal,
                    "inverted": inverted,
                }
                return Rate(factor=1 / price if inverted else price, told=told, inverted=inverted)
        return None


def _pairs(base: str, quote: str) -> tuple[str, str]:
    return f"{base}/{quote}", f"{base}{quote}"


def _sorted(keys: dict[Any, str]) -> Iterator[tuple[Any, str]]:
    yield from sorted(keys.items(), key=lambda item: item[1])


def rounded(amount: Fraction) -> int:
    """The nearest integer, halves away from zero."""
    whole = (2 * abs(amount.numerator) + amount.denominator) // (2 * amount.denominator)
    return -whole if amount < 0 else whole


def decimal_text(amount: Fraction) -> str:
    """A sum of decimals as an exact decimal."""
    exponent = 0
    while amount.denominator != 1:
        amount *= 10
        exponent -= 1
    return str(fixed_text(amount.numerator, exponent))
