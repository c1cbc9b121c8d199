"""The cash book: deposits, withdrawals, fees, interest and dividends of accounts, by currency, each with its contra.

It holds what no fill led to; what fills led to is in the ledger's rows, by instrument. A balance is kept for each
(currency, exponent) that was ever booked and never converted. What an account gets, the account `external` gives, so
each kind of booking adds up to zero in each currency.
"""

from __future__ import annotations

import json

import numpy as np

from tapehouse.core.errors import DataError, IntegrityError, InvariantError
from tapehouse.desk.money import MONEY_MAX
from tapehouse.desk.state import Array64

EXTERNAL = "external"  # the contra of every booking: the last row
CURRENCIES_MAX = 64
CASH_EXPONENT = -9  # of a currency that no instrument is counted in
EXPONENT_MAX = 18  # of a unit, either way
KINDS = ("deposit", "withdrawal", "fee", "interest", "dividend")
_LESSENS = ("withdrawal", "fee")
_ONE_WAY = ("deposit", "withdrawal")


class CashBook:
    """Balances of so many accounts and of `external`; integers in units of 10^exponent of a currency."""

    def __init__(self, accounts: int) -> None:
        self.currencies: list[tuple[str, int]] = []  # in the order of their first booking
        self.balances: Array64 = np.zeros((accounts + 1, CURRENCIES_MAX, len(KINDS)), np.int64)

    def book(self, account: int, currency: str, exponent: int, kind: str, amount: int) -> None:
        """Book an amount, all of it or nothing.

        Args:
            amount: In units of 10^exponent. A deposit and a withdrawal are positive; a fee is what the account pays,
                interest and dividend what it gets, so a negative one goes the other way.

        Raises:
            DataError: No such kind or account, an amount of zero or of the wrong sign, too many currencies, or a
                balance beyond MONEY_MAX.
        """
        if kind not in KINDS:
            raise DataError(f"no kind of booking {kind!r}", hint=f"one of {', '.join(KINDS)}")
        if not 0 <= account < len(self.balances) - 1:
            raise DataError(f"there is no account {account} to book cash to")
        if not amount or (amount < 0 and kind in _ONE_WAY):
            raise DataError(f"a {kind} of {amount}", hint="a positive amount")
        if abs(exponent) > EXPONENT_MAX:
            raise DataError(f"amounts of {currency} in units of 10^{exponent}")
        known = (currency, exponent) in self.currencies
        if not known and len(self.currencies) == CURRENCIES_MAX:
            raise DataError(f"no room for {currency}", hint=f"a desk keeps cash in {CURRENCIES_MAX} currencies")
        place = self.currencies.index((currency, exponent)) if known else len(self.currencies)
        signed = -amount if kind in _LESSENS else amount
        column = KINDS.index(kind)
        after = [int(self.balances[row, place, column]) + change for row, change in ((account, signed), (-1, -signed))]
        if max(abs(value) for value in after) > MONEY_MAX:
            raise DataError(f"a {kind} does not fit 64 bits", subject=currency, hint="a smaller amount")
        if not known:
            self.currencies.append((currency, exponent))
        self.balances[account, place, column], self.balances[-1, place, column] = after

    def of(self, account: int) -> dict[tuple[str, int], dict[str, int]]:
        """What an account has been booked, by (currency, exponent) and kind; -1 is `external`."""
        found: dict[tuple[str, int], dict[str, int]] = {}
        for place, currency in enumerate(self.currencies):
            row = self.balances[account, place].tolist()
            if any(row):
                found[currency] = dict(zip(KINDS, row, strict=True))
        return found

    def verify(self) -> None:
        """Raise InvariantError unless every kind of booking adds up to zero in every currency."""
        sums = self.balances[:, : len(self.currencies)].astype(object).sum(axis=0)
        for place, kind in np.argwhere(sums != 0).tolist():
            raise InvariantError(
                f"what was booked as {KINDS[kind]} does not add up to zero",
                subject=self.currencies[place][0],
                hint="this is a bug: please report it",
            )

    def snapshot(self) -> bytes:
        """The whole state, canonical JSON."""
        balances = self.balances[:, : len(self.currencies)].tolist()
        state = {"balances": balances, "currencies": self.currencies}
        return json.dumps(state, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def restore(cls, data: bytes, accounts: int) -> CashBook:
        """What `snapshot` returned; raises IntegrityError for other bytes."""
        book = cls(accounts)
        try:
            state = json.loads(data)
            currencies = [(str(code), int(exponent)) for code, exponent in state["currencies"]]
            if len(set(currencies)) != len(currencies) or len(currencies) > CURRENCIES_MAX:
                raise ValueError("its currencies")
            shape = (accounts + 1, len(currencies), len(KINDS))
            book.balances[:, : len(currencies)] = np.array(state["balances"], np.int64).reshape(shape)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise IntegrityError(f"the cash of a snapshot is damaged: {error}", hint="refold the log") from error
        book.currencies = currencies
        return book


def cash_unit(currency: str, known: list[tuple[str, int]]) -> int:
    """The exponent to book a currency in: of the first instrument that is counted in it, else CASH_EXPONENT.

    Args:
        known: (currency, exponent) of the instruments, in the order of their definition.
    """
    return next((exponent for code, exponent in known if code == currency), CASH_EXPONENT)
