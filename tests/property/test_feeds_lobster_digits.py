"""One wrong digit anywhere in a LOBSTER day is found, wherever it can be known to be wrong.

What nobody can know is listed by `cannot_be_known`, and is what `lobster_check` says of itself.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError
from tapehouse.feeds import check_lobster

NAMES = [f"excerpt_AAPL_2012-06-21_34200000_57600000_{role}_10.csv" for role in ("message", "orderbook")]
TIME, TYPE, ORDER, SHARES, PRICE, DIRECTION = range(6)
LEVELS = 10

Rows = list[list[str]]


@pytest.fixture(scope="module")
def day(market_data: Path) -> tuple[Rows, Rows]:
    files = [(market_data / "lobster" / name).read_text().split() for name in NAMES]
    return tuple([line.split(",") for line in lines] for lines in files)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def scratch(market_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lobster")
    for name in NAMES:
        shutil.copyfile(market_data / "lobster" / name, folder / name)
    return folder


def nanoseconds(text: str) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole) * 10**9 + int(fraction[:9].ljust(9, "0"))


def best(book: Rows, row: int, side: str) -> int:
    return int(book[row][0 if side == "-1" else 2])


def message_change_cannot_be_known(messages: Rows, book: Rows, row: int, column: int, new: str) -> bool:
    fields = messages[row]
    kind = fields[TYPE]
    if column == ORDER:
        return True
    if column == TIME:
        earlier = nanoseconds(messages[row - 1][TIME]) if row else 0
        later = nanoseconds(messages[row + 1][TIME]) if row + 1 < len(messages) else 10**18
        return earlier <= nanoseconds(new) <= later
    if column == TYPE:
        if row == 0:
            return new in "123456"  # no row before it says what the message did; an add must be in view, and was
        if {kind, new} <= set("23"):
            return True
        if {kind, new} <= set("234"):
            return int(fields[PRICE]) == best(book, row - 1, fields[DIRECTION])
        return {kind, new} == set("56")  # a cross says nothing of the book either
    if column == SHARES:
        if kind == "5":
            return int(new) > 0
        if row == 0:
            column_of_side = 0 if fields[DIRECTION] == "-1" else 2
            shown = {book[0][at]: int(book[0][at + 1]) for at in range(column_of_side, 4 * LEVELS, 4)}
            return 0 < int(new) <= shown[fields[PRICE]]
        return False
    if column == PRICE:
        if row == 0:
            return new in book[0][0::2]  # another level in view, large enough or not: only the latter is seen
        return kind == "5" and best(book, row - 1, "1") < int(new) < best(book, row - 1, "-1")
    return False


def revealed_at(messages: Rows, book: Rows, row: int, column: int) -> bool:
    """Whether this cell of the book is not predicted by the row before it: in the first row, or newly in view."""
    if row == 0:
        return True
    fields = messages[row]
    if fields[TYPE] not in "234" or column // 4 != LEVELS - 1:
        return False
    side_column = 0 if fields[DIRECTION] == "-1" else 2
    if column % 4 // 2 * 2 != side_column:
        return False
    before = book[row - 1]
    for at in range(side_column, 4 * LEVELS, 4):
        if before[at] == fields[PRICE]:
            return int(before[at + 1]) == int(fields[SHARES])
    return False


def book_change_cannot_be_known(messages: Rows, book: Rows, row: int, column: int) -> bool:
    """A cell that was revealed is compared with the next row, unless that row no longer shows its level."""
    if not revealed_at(messages, book, row, column):
        return False
    if row + 1 == len(book):
        return True
    price = book[row][column // 2 * 2]
    following = book[row + 1][column % 4 // 2 * 2 :: 4]
    return price not in following


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_digit_is_found(day: tuple[Rows, Rows], scratch: Path, data: st.DataObject) -> None:
    messages, book = day
    which = data.draw(st.integers(0, 1), label="file")
    rows = day[which]
    row = data.draw(st.integers(0, len(rows) - 1), label="row")
    column = data.draw(st.integers(0, len(rows[row]) - 1), label="column")
    old = rows[row][column]
    places = [at for at, letter in enumerate(old) if letter.isdigit()]
    place = data.draw(st.sampled_from(places), label="place")
    digit = data.draw(st.sampled_from([d for d in "0123456789" if d != old[place]]), label="digit")
    new = old[:place] + digit + old[place + 1 :]
    if which == 0:
        unknowable = message_change_cannot_be_known(messages, book, row, column, new)
    else:
        unknowable = book_change_cannot_be_known(messages, book, row, column)

    rows[row][column] = new
    try:
        (scratch / NAMES[which]).write_text("\n".join(",".join(fields) for fields in rows) + "\n")
        check = check_lobster([scratch / name for name in NAMES])
        found = check.mismatches > 0
        first = check.first_mismatch
    except DecodeError as error:
        found, first = True, str(error)
    finally:
        rows[row][column] = old
        (scratch / NAMES[which]).write_text("\n".join(",".join(fields) for fields in rows) + "\n")
    assert found or unknowable, f"{NAMES[which]} line {row + 1} column {column + 1}: {old} became {new}"
    if found and first is not None:
        near = range(row + 1, row + 3)
        assert any(f"line {line}" in first for line in near), first


def test_what_can_be_known_is_nearly_everything(day: tuple[Rows, Rows]) -> None:
    """The list of excuses must not excuse the book: of its cells, few in a hundred may go unseen."""
    messages, book = day
    excused = sum(
        book_change_cannot_be_known(messages, book, row, column) for row in range(len(book)) for column in range(40)
    )
    assert excused / (len(book) * 40) < 0.01
