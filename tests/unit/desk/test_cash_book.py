"""Cash that no fill led to: both sides of every booking, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DataError, IntegrityError, InvariantError
from tapehouse.desk.cash_book import CASH_EXPONENT, CURRENCIES_MAX, KINDS, CashBook, cash_unit
from tapehouse.desk.money import MONEY_MAX

BOOKINGS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from([("USD", -9), ("USD", -2), ("EUR", -9)]),
        st.sampled_from(KINDS),
        st.integers(-(10**6), 10**6),
    ),
    max_size=30,
)
SIGNS = {"withdrawal": -1, "fee": -1}


@settings(max_examples=60, deadline=None)
@given(BOOKINGS, st.integers(0, 30))
def test_balances_are_the_sums_of_what_was_booked(
    bookings: list[tuple[int, tuple[str, int], str, int]], stop: int
) -> None:
    book = CashBook(3)
    sums: dict[tuple[int, tuple[str, int], str], int] = {}
    for at, (account, currency, kind, amount) in enumerate(bookings):
        if at == stop:
            data = book.snapshot()
            book = CashBook.restore(data, 3)
            assert book.snapshot() == data
        if amount == 0 or (amount < 0 and kind in ("deposit", "withdrawal")):
            before = book.snapshot()
            with pytest.raises(DataError, match="a positive amount"):
                book.book(account, *currency, kind, amount)
            assert book.snapshot() == before
            continue
        book.book(account, *currency, kind, amount)
        for row, sign in ((account, 1), (-1, -1)):
            key = (row, currency, kind)
            sums[key] = sums.get(key, 0) + sign * SIGNS.get(kind, 1) * amount
    book.verify()
    for row in (-1, 0, 1, 2):
        told = {
            (row, currency, kind): value
            for currency, kinds in book.of(row).items()
            for kind, value in kinds.items()
            if value
        }
        assert told == {key: value for key, value in sums.items() if key[0] == row and value}


def test_what_cannot_be_booked_is_refused_whole() -> None:
    book = CashBook(2)
    book.book(0, "USD", -9, "deposit", MONEY_MAX)
    before = book.snapshot()
    for account, currency, exponent, kind, amount, said in (
        (0, "USD", -9, "deposit", 1, "does not fit"),
        (1, "USD", -9, "deposit", 1, "does not fit"),  # of `external`
        (1, "USD", -9, "gift", 1, "no kind"),
        (2, "USD", -9, "deposit", 1, "no account 2"),
        (-1, "USD", -9, "deposit", 1, "no account -1"),
        (0, "USD", -40, "deposit", 1, "10\\^-40"),
    ):
        with pytest.raises(DataError, match=said):
            book.book(account, currency, exponent, kind, amount)
        assert book.snapshot() == before
    for at in range(CURRENCIES_MAX - 1):
        book.book(1, f"C{at}", -9, "deposit", 1)
    with pytest.raises(DataError, match="no room for JPY"):
        book.book(1, "JPY", -9, "deposit", 1)


def test_a_booking_without_its_contra_is_found() -> None:
    book = CashBook(2)
    book.book(0, "USD", -9, "interest", -70)
    book.verify()
    book.balances[1, 0, KINDS.index("fee")] += 1
    with pytest.raises(InvariantError, match="booked as fee"):
        book.verify()


def test_a_damaged_snapshot_is_refused() -> None:
    book = CashBook(2)
    book.book(0, "USD", -9, "deposit", 70)
    data = book.snapshot()
    for wrong in (data[:-1], b"[]", data.replace(b'[["USD",-9]]', b"[]"), data.replace(b"70", b"9e99")):
        with pytest.raises(IntegrityError):
            CashBook.restore(wrong, 2)
    with pytest.raises(IntegrityError):
        CashBook.restore(data, 3)


def test_a_currency_is_booked_in_the_unit_of_its_first_instrument() -> None:
    known = [("USD", -4), ("EUR", -2), ("USD", -9)]
    assert [cash_unit(code, known) for code in ("USD", "EUR", "JPY")] == [-4, -2, CASH_EXPONENT]
