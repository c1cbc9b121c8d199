"""The ledger's kernels against the slow ledger, over random fills in every mode and method."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DataError, IntegrityError, InvariantError
from tapehouse.core.units import UNDEFINED
from tapehouse.desk import POWERS
from tapehouse.desk.conservation import verify_conservation
from tapehouse.desk.ledger import (
    CLOSE_FLAG,
    OVERFLOWED,
    POSTED,
    SIZE_MAX,
    closable,
    configure_account,
    correct_position,
    fee_of,
    post_fill,
    post_street,
)
from tapehouse.desk.ledger_reference import ReferenceLedger
from tapehouse.desk.ledger_state import (
    FEE_UNIT,
    FIRST_LOT,
    LEG_COST,
    LEG_LOTS,
    LEG_SIZE,
    LOTS_MAX,
    METHODS,
    MODES,
    make_booking,
    make_legs,
    restore_ledger,
    snapshot_ledger,
    write_booking,
)
from tapehouse.desk.money import MONEY_MAX, contract_value
from tapehouse.desk.reference import half_away
from tapehouse.desk.requests import BUY, SELL
from tapehouse.desk.state import (
    ACCOUNT_COLUMNS,
    CASH,
    COST,
    FEES,
    FILLS,
    INSTRUMENT_COLUMNS,
    INSTRUMENT_ID,
    MONEY_EXPONENT,
    MULTIPLIER,
    OPEN_BUY,
    POSITION,
    REALISED,
    VOLUME,
)

WAYS = [(mode, method) for mode in MODES for method in METHODS]
ACCOUNTS = len(WAYS) + 1  # one of each kind, and the street
TERMS = [(1, 0), (7, -2), (5, 2)]  # multiplier and money exponent of each instrument
SLOT, SIDE, PRICE = st.integers(0, len(TERMS) - 1), st.integers(0, 1), st.integers(1, 5_000)
SIZE, RATE = st.one_of(st.integers(1, 12), st.integers(1, 5_000)), st.sampled_from([-300, 0, 30, 2_500])
CLOSING, CORRECTION = st.booleans(), st.sampled_from([False] * 7 + [True])
TRADES = st.lists(st.tuples(SLOT, SIDE, PRICE, SIZE, RATE, CLOSING, CORRECTION), min_size=1, max_size=60)
Trade = tuple[int, int, int, int, int, bool, bool]


@dataclass
class Book:
    """Arrays of accounts in instruments, as a desk has them, beside their oracles."""

    accounts: Any = field(default_factory=lambda: np.zeros((ACCOUNTS, len(TERMS), ACCOUNT_COLUMNS), np.int64))
    legs: Any = field(default_factory=lambda: make_legs(ACCOUNTS, len(TERMS)))
    booking: Any = field(default_factory=lambda: make_booking(ACCOUNTS))
    instruments: Any = field(default_factory=lambda: np.zeros((len(TERMS), INSTRUMENT_COLUMNS), np.int64))
    oracles: dict[tuple[int, int], ReferenceLedger] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for slot, (multiplier, exponent) in enumerate(TERMS):
            row = self.instruments[slot]
            row[INSTRUMENT_ID], row[MULTIPLIER], row[MONEY_EXPONENT] = slot + 11, multiplier, exponent
        for account, (mode, method) in enumerate(WAYS):
            write_booking(self.booking[account], mode, method, None, None)
            for slot, (multiplier, exponent) in enumerate(TERMS):
                self.oracles.setdefault(
                    (account, slot),
                    ReferenceLedger(mode == "hedging", method == "fifo", multiplier, exponent, LOTS_MAX),
                )

    def fill(self, account: int, slot: int, side: int, price: int, size: int, rate: int, closing: bool) -> int:
        """One fill, and where it was booked the street's side of it."""
        terms = self.instruments[slot]
        value = int(contract_value(price, size, terms[MULTIPLIER], terms[MONEY_EXPONENT], POWERS))
        fee = int(fee_of(self.booking[account], np.array([rate, rate]), 1, value))
        status = int(
            post_fill(
                self.accounts[account, slot], self.legs[account, slot], self.booking[account], side, price, size,
                value, fee, CLOSE_FLAG if closing else 0, terms, POWERS,
            )
        )  # fmt: skip
        if status == POSTED and abs(self.accounts[-1, slot, CASH]) + value <= MONEY_MAX:
            post_street(self.accounts[-1, slot], side, size, value)
        return status

    def verify(self) -> None:
        verify_conservation(self.accounts, self.legs, self.booking, self.instruments, len(TERMS))

    def compare(self, account: int, slot: int) -> None:
        """Every number of an account is its oracle's."""
        money, legs, slow = self.accounts[account, slot], self.legs[account, slot], self.oracles[account, slot]
        expected = {
            POSITION: slow.held(0) - slow.held(1), COST: slow.cost(0) + slow.cost(1), CASH: slow.cash,
            FEES: slow.fees, REALISED: slow.realised, FILLS: slow.fills, VOLUME: slow.volume,
        }  # fmt: skip
        assert {column: int(money[column]) for column in expected} == expected
        for side in range(2):
            assert closable(money, legs, self.booking[account], side) == slow.closable(side)
            if WAYS[account] == ("netting", "average"):
                assert not legs.any()
                continue
            assert (legs[side, LEG_SIZE], legs[side, LEG_COST]) == (slow.held(side), slow.cost(side))
            count = int(legs[side, LEG_LOTS])
            lots = legs[side, FIRST_LOT:].reshape(-1, 2).tolist()
            assert not np.array(lots[count:]).any()
            assert lots[:count] == (slow.lots[side] if slow.fifo else [])

    def trade(self, account: int, trade: Trade) -> None:
        """One trade into the kernels and into the oracle."""
        slot, side, price, size, rate, closing, correction = trade
        slow = self.oracles[account, slot]
        if correction:
            correct_position(self, account, slot, size if side == BUY else -size, price)
            slow.trade(side, price, size, 0, closing=True)
        else:
            assert self.fill(account, slot, side, price, size, rate, closing) == POSTED
            fee = half_away(Fraction(slow.worth(price, size) * rate, FEE_UNIT))
            slow.fill(side, price, size, fee, closing=closing)


@settings(max_examples=60, deadline=None)
@given(TRADES)
def test_every_number_is_the_slow_ledgers(trades: list[Trade]) -> None:
    book = Book()
    for trade in trades:
        for account in range(len(WAYS)):
            book.trade(account, trade)
            book.compare(account, trade[0])
        book.verify()
    assert (book.accounts[:, :, CASH] + book.accounts[:, :, FEES]).sum() == 0


@settings(max_examples=25, deadline=None)
@given(TRADES, TRADES)
def test_a_ledger_goes_on_from_its_snapshot_as_if_nothing_happened(before: list[Trade], after: list[Trade]) -> None:
    book = Book()
    for trade in before:
        for account in range(len(WAYS)):
            book.trade(account, trade)
    data = snapshot_ledger(book.booking, book.legs)
    other = Book(accounts=book.accounts.copy(), oracles=book.oracles)
    other.legs[...], other.booking[...] = 0, 0
    restore_ledger(data, other.booking, other.legs)
    assert snapshot_ledger(other.booking, other.legs) == data
    for trade in after:
        for account in range(len(WAYS)):
            other.trade(account, trade)
            other.compare(account, trade[0])
    other.verify()


@pytest.mark.parametrize("mode", MODES)
def test_lots_beyond_the_bound_join_the_newest_in_value(mode: str) -> None:
    book = Book()
    account = WAYS.index((mode, "fifo"))
    for step in range(LOTS_MAX + 7):
        book.trade(account, (1, BUY, 100 + step, 3, 30, False, False))
        book.compare(account, 1)
    legs = book.legs[account, 1]
    assert legs[BUY, LEG_LOTS] == LOTS_MAX
    assert legs[BUY, -2] == 3 * 8
    book.trade(account, (1, SELL, 90, 3 * (LOTS_MAX - 1) + 5, 30, True, False))  # into the lot that others joined
    book.compare(account, 1)
    book.trade(account, (1, SELL, 95, 50, 30, True, False))  # through zero
    book.compare(account, 1)
    assert legs[BUY, LEG_SIZE] == 0
    assert legs[SELL, LEG_SIZE] > 0
    book.verify()


def test_hedging_keeps_both_legs_and_netting_one() -> None:
    book = Book()
    for account, (mode, _) in enumerate(WAYS):
        book.trade(account, (0, BUY, 10, 5, 0, False, False))
        book.trade(account, (0, SELL, 12, 3, 0, False, False))
        money = book.accounts[account, 0]
        assert money[POSITION] == 2
        assert money[REALISED] == (0 if mode == "hedging" else 6)
        assert closable(money, book.legs[account, 0], book.booking[account], BUY) == (3 if mode == "hedging" else 0)
        assert closable(money, book.legs[account, 0], book.booking[account], SELL) == (5 if mode == "hedging" else 2)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([1, 10**9, MONEY_MAX - 5, MONEY_MAX, MONEY_MAX + 1, 2**62]),
    st.sampled_from([1, 3, SIZE_MAX - 1, SIZE_MAX, SIZE_MAX + 1, 2**63 - 1]),
    st.lists(st.tuples(SIDE, st.booleans()), min_size=1, max_size=6),
)
def test_what_does_not_fit_is_counted_and_books_nothing(price: int, size: int, sides: list[tuple[int, bool]]) -> None:
    book = Book()
    for side, closing in sides:
        for account in range(len(WAYS)):
            slow = deepcopy(book.oracles[account, 0])
            slow.fill(side, price, size, 0, closing=closing)
            amounts = [slow.cash, slow.realised, slow.cost(0), slow.cost(1), slow.cost(0) + slow.cost(1)]
            sizes = [size, slow.held(0), slow.held(1), slow.held(0) - slow.held(1)]
            fits = max(map(abs, [*amounts, slow.worth(price, size)])) <= MONEY_MAX and max(map(abs, sizes)) <= SIZE_MAX
            before = book.accounts[account].copy(), book.legs[account].copy()
            status = book.fill(account, 0, side, price, size, 0, closing)
            assert status == (POSTED if fits else OVERFLOWED)
            if fits:
                slow.volume = min(slow.volume, SIZE_MAX)
                book.oracles[account, 0] = slow
                book.compare(account, 0)
            else:
                assert np.array_equal(book.accounts[account], before[0])
                assert np.array_equal(book.legs[account], before[1])


def test_a_correction_that_does_not_fit_books_neither_side() -> None:
    book = Book()
    correct_position(book, 1, 0, 10, MONEY_MAX // 10)
    before = book.accounts.copy(), book.legs.copy()
    with pytest.raises(DataError, match="does not fit"):
        correct_position(book, 1, 0, 10, 1)
    book.accounts[-1] = 0
    with pytest.raises(DataError, match="does not fit"):  # The street could; the account cannot.
        correct_position(book, 1, 0, 10, 1)
    assert not book.accounts[-1].any()
    book.accounts[-1] = before[0][-1]
    assert np.array_equal(book.accounts, before[0])
    assert np.array_equal(book.legs, before[1])
    book.verify()
    for size, price, account in ((0, 5, 1), (5, -1, 1), (5, UNDEFINED, 1), (5, 5, len(WAYS))):
        with pytest.raises(DataError):
            correct_position(book, account, 0, size, price)


def test_settings_change_only_while_the_account_is_flat() -> None:
    book = Book()
    assert fee_of(book.booking[0], np.array([0, 30]), 1, FEE_UNIT) == 30
    configure_account(book, 0, maker_fee_ppm=-5, taker_fee_ppm=0)
    assert [int(fee_of(book.booking[0], np.array([7, 30]), liquidity, FEE_UNIT)) for liquidity in (0, 1)] == [-5, 0]
    for wrong in ({"mode": "both"}, {"method": "lifo"}, {"maker_fee_ppm": FEE_UNIT + 1}):
        with pytest.raises(DataError):
            configure_account(book, 0, **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="street"):
        configure_account(book, len(WAYS))
    book.accounts[0, 1, OPEN_BUY] = 1
    with pytest.raises(DataError, match="not flat"):
        configure_account(book, 0, mode="hedging")
    hedging = WAYS.index(("hedging", "average"))
    book.trade(hedging, (2, BUY, 10, 5, 0, False, False))
    book.trade(hedging, (2, SELL, 10, 5, 0, False, False))
    assert book.accounts[hedging, 2, POSITION] == 0
    with pytest.raises(DataError, match="not flat"):
        configure_account(book, hedging)
    book.trade(hedging, (2, BUY, 10, 5, 0, True, False))
    book.trade(hedging, (2, SELL, 10, 5, 0, True, False))
    configure_account(book, hedging)


@pytest.mark.parametrize(
    ("column", "change", "said"),
    [
        (POSITION, 1, "positions of all accounts"),
        (POSITION, 1 << 33, "positions of all accounts"),
        (CASH, -1, "fees, cost and realised"),
        (COST, 1, "fees, cost and realised"),
        (REALISED, 1, "fees, cost and realised"),
        (FEES, 1, "fees, cost and realised"),
    ],
)
def test_a_ledger_that_does_not_add_up_is_found(column: int, change: int, said: str) -> None:
    book = Book()
    for trade in [(slot, slot % 2, 50, 7, 30, False, False) for slot in (0, 1, 2, 1)]:
        for account in range(len(WAYS)):
            book.trade(account, trade)
    book.verify()
    book.accounts[WAYS.index(("netting", "average")), 1, column] += change
    with pytest.raises(InvariantError, match=f"instrument 12.*{said}"):
        book.verify()


def test_cash_that_came_from_nowhere_and_broken_legs_are_found() -> None:
    book = Book()
    account = WAYS.index(("hedging", "fifo"))
    for trade in [(1, BUY, 50, 7, 30, False, False), (1, SELL, 51, 2, 0, False, False)]:
        book.trade(account, trade)
    book.verify()
    kept = book.accounts.copy(), book.legs.copy()
    book.accounts[0, 1, [CASH, REALISED]] += 5
    with pytest.raises(InvariantError, match="instrument 12, all accounts: cash and fees"):
        book.verify()
    book.accounts[...] = kept[0]
    for column, change, said in ((LEG_SIZE, 1, "legs"), (LEG_COST, 3, "legs"), (FIRST_LOT, 1, "lots")):
        book.legs[account, 1, SELL, column] += change
        with pytest.raises(InvariantError, match=f"account {account}: an account's {said}"):
            book.verify()
        book.legs[...] = kept[1]
    book.verify()


def test_sums_of_many_large_amounts_do_not_wrap() -> None:
    accounts = np.zeros((16, 1, ACCOUNT_COLUMNS), np.int64)
    accounts[:8, 0, POSITION] = MONEY_MAX  # 8 x 2^61 is 2^64, which 64 bits take for nothing
    with pytest.raises(InvariantError, match="positions"):
        verify_conservation(accounts, make_legs(16, 1), make_booking(16), np.zeros((1, INSTRUMENT_COLUMNS), int), 1)
    accounts[8:, 0, POSITION] = -MONEY_MAX
    verify_conservation(accounts, make_legs(16, 1), make_booking(16), np.zeros((1, INSTRUMENT_COLUMNS), int), 1)


def test_a_damaged_snapshot_is_refused() -> None:
    book = Book()
    book.trade(WAYS.index(("netting", "fifo")), (1, BUY, 50, 7, 30, False, False))
    data = snapshot_ledger(book.booking, book.legs)
    at = data.index(bytes(book.legs[WAYS.index(("netting", "fifo")), 1, BUY, :1]))
    far = data[: at - 8] + (2**40).to_bytes(8, "little") + data[at:]
    lots = data[: at + 16] + (LOTS_MAX + 1).to_bytes(8, "little") + data[at + 24 :]
    for wrong in (data[:-1], b"", far, lots):
        with pytest.raises(IntegrityError):
            restore_ledger(wrong, make_booking(ACCOUNTS), make_legs(ACCOUNTS, len(TERMS)))
