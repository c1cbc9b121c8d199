"""Stored snapshots of books stay readable for ever: committed files against what they said when written.

Version 1 was written when a book had a fixed window; its words for the window's base are read over. Version 3 says what
each book is worth; in those before it all are GOOD. `write_golden` made
the file of the version that is current, and is run by hand for a new one: `python -m tests.golden.test_book_format`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapehouse.book import (
    ASK,
    BID,
    Books,
    apply_cells,
    confidence,
    define,
    levels,
    make_books,
    restore,
    set_confidence,
    snapshot,
    state,
)
from tapehouse.market import Action, Cells, Confidence, Flag, Kind, Side, empty_cells, words

FOLDER = Path(__file__).parent / "formats"
TICKS = {1: 10, 2: 5, 3: 7}
WORTH = {0: Confidence.REBUILDING, 2: Confidence.SUSPECT}  # of version 3; slot 0 is not defined
BOUNDS = {"instruments": 4, "orders": 16, "levels": 64}


def golden_cells() -> Cells:
    """What the books of every version were told: orders, an anonymous quantity, ids beyond 2^63, levels, a snapshot."""
    add, state_level, bid, ask = Action.ADD, Action.MODIFY, Side.BID, Side.ASK
    snap = int(Flag.SNAPSHOT)
    records = [
        (Kind.MBO, 1, add, bid, 0, 1, 1000, 5),
        (Kind.MBO, 1, add, bid, 0, 2, 1000, 6),
        (Kind.MBO, 1, add, ask, 0, 2**63 - 5, 1040, 7),
        (Kind.MBO, 1, add, bid, 0, 0, 990, 3),
        (Kind.MBO, 1, add, ask, 0, 2**64 - 1, 1040, 1),
        (Kind.MBP, 2, state_level, bid, snap, 0, -20, 9),
        (Kind.MBP, 2, state_level, ask, snap, 0, 100, 4),
        (Kind.MBO, 2, add, ask, snap, 1, 100, 2),
    ]
    cells = empty_cells(len(records))
    cells["cells"] = 1
    for column, name in enumerate(("kind", "instrument", "action", "side", "flags", "order_id", "price", "size")):
        cells[name] = [record[column] for record in records]
    return cells


def golden_books() -> Books:
    books = make_books(**BOUNDS)
    for slot, tick in TICKS.items():
        define(books, slot, tick)
    apply_cells(books, np.arange(4), words(golden_cells()))
    return books


def doubted_books() -> Books:
    """The golden books, some of which are not good: what version 3 was written from."""
    books = golden_books()
    for slot, worth in WORTH.items():
        set_confidence(books, slot, worth)
    return books


def meaning(books: Books) -> list[dict[str, Any]]:
    """Every slot in words."""
    return [
        {"bids": levels(books, slot, BID), "asks": levels(books, slot, ASK), "state": state(books, slot).name.lower()}
        for slot in range(len(books.slots))
    ]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_stored_snapshot_is_read(version: int) -> None:
    data = (FOLDER / f"books-v{version}.bin").read_bytes()
    assert int.from_bytes(data[8:16], "little") == version
    books = make_books(**BOUNDS)
    restore(books, data)
    assert json.loads(json.dumps(meaning(books))) == json.loads((FOLDER / "books.json").read_text())
    same = golden_books() if version < 3 else doubted_books()
    assert snapshot(books) == snapshot(same), "and is the same state, orders and their queues included"
    worth = WORTH if version >= 3 else {}
    assert [confidence(books, slot) for slot in range(4)] == [worth.get(slot, Confidence.GOOD) for slot in range(4)]


def test_the_current_version_is_still_written_so() -> None:
    assert snapshot(doubted_books()) == (FOLDER / "books-v3.bin").read_bytes()


def write_golden() -> None:
    """Write what is not there yet."""
    books = doubted_books()
    for name, data in (
        ("books-v3.bin", snapshot(books)),
        ("books.json", (json.dumps(meaning(books), indent=1) + "\n").encode()),
    ):
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    write_golden()
