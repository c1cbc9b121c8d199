"""Each thing that the LOBSTER check looks for, with a day that has just that wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapehouse.core import DecodeError
from tapehouse.feeds import check_lobster

MESSAGES = [
    "1,1,1,10,1000000,1",
    "2,1,2,10,1000200,-1",
    "3,2,1,4,1000000,1",
    "4,5,0,7,1000100,1",
    "5,4,2,10,1000200,-1",
]
BOOK = [
    "1000200,20,1000000,10,1000300,5,999900,8",
    "1000200,30,1000000,10,1000300,5,999900,8",
    "1000200,30,1000000,6,1000300,5,999900,8",
    "1000200,30,1000000,6,1000300,5,999900,8",
    "1000200,20,1000000,6,1000300,5,999900,8",
]


def save(folder: Path, messages: list[str], book: list[str]) -> list[Path]:
    paths = []
    for role, lines in (("message", messages), ("orderbook", book)):
        path = folder / f"TEST_2012-06-21_1_2_{role}_2.csv"
        path.write_text("".join(line + "\n" for line in lines))
        paths.append(path)
    return paths


def test_a_sound_day(tmp_path: Path) -> None:
    check = check_lobster(save(tmp_path, MESSAGES, BOOK))
    assert (check.rows, check.compared, check.mismatches, check.revealed) == (5, 5, 0, 0)
    assert check.first_mismatch is None


@pytest.mark.parametrize(
    ("line", "message", "row", "complaint"),
    [
        (2, "0.5,1,2,10,1000200,-1", BOOK[1], "line 2: the time goes backwards"),
        (2, "2,9,2,10,1000200,-1", BOOK[1], "line 2: type, direction"),
        (2, "2,1,2,10,1000200,-3", BOOK[1], "line 2: type, direction"),
        (2, "2,1,2,0,1000200,-1", BOOK[1], "line 2: type, direction"),
        (2, MESSAGES[1], "1000200,30,1000000,10,1000200,5,999900,8", "line 2: the levels are not strictly ordered"),
        (2, MESSAGES[1], "1000200,30,1000000,0,1000300,5,999900,8", "line 2: the levels are not strictly ordered"),
        (2, MESSAGES[1], "1000200,30,1000200,10,1000300,5,999900,8", "line 2: the best bid is not below"),
        (2, MESSAGES[1], "1000200,31,1000000,10,1000300,5,999900,8", "line 2: ask level 1 shows 31 at 1000200"),
        (2, MESSAGES[1], "1000200,30,1000000,10,1000300,5,999900,9", "line 2: bid level 2 shows 9 at 999900"),
        (2, "2,1,2,11,1000200,-1", BOOK[1], "the message leaves 31 at 1000200"),
        (2, "2,1,2,10,1000100,-1", BOOK[1], "the message leaves 10 at 1000100"),
        (3, "3,2,1,4,1000050,1", BOOK[2], "line 3: the message concerns a price"),
        (3, "3,2,1,40,1000000,1", BOOK[2], "line 3: bid level 1"),
        (4, "4,5,0,7,1000200,1", BOOK[3], "line 4: a hidden execution that is not inside"),
        (5, "5,4,2,10,1000300,-1", BOOK[4], "line 5: an execution that is not at the best price"),
        (1, "1,1,1,11,1000000,1", BOOK[0], "line 1: the message concerns a price"),
        (1, "1,1,1,10,1000001,1", BOOK[0], "line 1: the message concerns a price"),
    ],
)
def test_one_thing_wrong(tmp_path: Path, line: int, message: str, row: str, complaint: str) -> None:
    messages, book = MESSAGES.copy(), BOOK.copy()
    messages[line - 1], book[line - 1] = message, row
    check = check_lobster(save(tmp_path, messages, book))
    assert check.mismatches >= 1
    assert check.first_mismatch is not None
    assert complaint in check.first_mismatch


def test_a_level_that_vanishes_reveals_one(tmp_path: Path) -> None:
    messages = [MESSAGES[0], "2,3,9,10,1000000,1", "3,1,10,1,1000100,1"]
    book = [BOOK[0], "1000200,20,999900,8,1000300,5,999000,77", "1000200,20,1000100,1,1000300,5,999900,8"]
    check = check_lobster(save(tmp_path, messages, book))
    assert (check.mismatches, check.revealed) == (0, 1)
    book[1] = "1000200,20,999900,8,1000300,5,999950,77"  # revealed out of order
    assert check_lobster(save(tmp_path, messages, book)).mismatches == 1


def test_a_side_that_is_shown_whole_reveals_nothing(tmp_path: Path) -> None:
    messages = [MESSAGES[0], "2,3,9,10,1000000,1"]
    book = ["1000200,20,1000000,10,1000300,5,-9999999999,0", "1000200,20,-9999999999,0,1000300,5,-9999999999,0"]
    check = check_lobster(save(tmp_path, messages, book))
    assert (check.mismatches, check.revealed) == (0, 0)
    book[1] = "1000200,20,999900,10,1000300,5,-9999999999,0"
    assert check_lobster(save(tmp_path, messages, book)).mismatches == 1


def test_a_book_may_cross_only_while_halted(tmp_path: Path) -> None:
    crossed = "1000200,20,1000200,10,1000300,5,999900,8"
    messages = [MESSAGES[0], "2,7,0,0,-1,-1", "3,1,5,10,1000200,1", "4,7,0,0,1,-1"]
    book = [
        BOOK[0],
        BOOK[0],
        "1000200,20,1000200,10,1000300,5,1000000,10",
        "1000200,20,1000200,10,1000300,5,1000000,10",
    ]
    check = check_lobster(save(tmp_path, messages, book))
    assert check.mismatches == 1
    assert check.first_mismatch == "line 4: the best bid is not below the best ask"
    assert crossed not in book


def test_a_row_repeated_with_a_halt(tmp_path: Path) -> None:
    check = check_lobster(save(tmp_path, [MESSAGES[0], "2,7,0,0,-1,-1"], [BOOK[0], BOOK[1]]))
    assert check.mismatches == 1  # a halt changes nothing


def test_files_of_different_lengths(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="goes on"):
        check_lobster(save(tmp_path, MESSAGES[:-1], BOOK))
