"""A real day of E-mini S&P 500 futures, order by order, ends in the book that is published for it.

The truth (922 bid levels, 565 ask levels, best 4810.00 x 22 and 4810.25 x 28) is asserted independently by
nautilus_trader's own tests of this file. The day begins with a snapshot of adds that no clear precedes.
"""

from pathlib import Path

import databento_dbn
import numpy as np
import pytest
import zstandard

from tapehouse.book import (
    ASK,
    BID,
    apply_cells,
    best_price,
    best_size,
    counts,
    define,
    digest,
    levels,
    make_books,
    restore,
    snapshot,
)
from tapehouse.market import Cells, Kind, empty_cells, words

TICK = 250_000_000
UNIT = 10**9
FIELDS = ("ts_event", "ts_recv", "sequence", "order_id", "price", "size")
SLOTS = np.zeros(1, np.int64)


def read_day(path: Path) -> Cells:
    with path.open("rb") as file:
        plain = zstandard.ZstdDecompressor().stream_reader(file).read()
    decoder = databento_dbn.DBNDecoder()
    decoder.write(plain)
    messages = [message for message in decoder.decode() if isinstance(message, databento_dbn.MBOMsg)]
    cells = empty_cells(len(messages))
    for name in FIELDS:
        cells[name] = [getattr(message, name) for message in messages]
    cells["action"] = [ord(str(message.action)) for message in messages]
    cells["side"] = [ord(str(message.side)) for message in messages]
    cells["flags"] = [int(message.flags) for message in messages]
    cells["kind"], cells["cells"] = Kind.MBO, 1
    return cells


@pytest.fixture(scope="module")
def days(market_data: Path) -> dict[int, Cells]:
    folder = market_data / "databento" / "nautilus"
    return {day: read_day(folder / f"esh4-glbx-mdp3-202312{day}.mbo.dbn.zst") for day in (24, 25)}


def new_books():
    books = make_books(1)
    define(books, 0, TICK)
    return books


def assert_published_end(books) -> None:
    assert (len(levels(books, 0, BID)), len(levels(books, 0, ASK))) == (922, 565)
    assert (best_price(books, 0, BID), best_size(books, 0, BID)) == (4_810 * UNIT, 22)
    assert (best_price(books, 0, ASK), best_size(books, 0, ASK)) == (4_810 * UNIT + TICK, 28)
    assert books.levels[:, 1].sum() == 0, "every order of that day is known"


def test_the_snapshot_of_a_day(days):
    books = new_books()
    assert apply_cells(books, SLOTS, words(days[24])) == 0
    assert (len(levels(books, 0, BID)), len(levels(books, 0, ASK))) == (892, 559)
    assert levels(books, 0, BID)[0][:2] == (4_799 * UNIT, 16)
    assert levels(books, 0, ASK)[0][:2] == (4_799 * UNIT + 2 * TICK, 23)


def test_a_day_ends_in_the_published_book(days):
    books = new_books()
    assert apply_cells(books, SLOTS, words(days[25])) == 0, "no unknown order, no price outside of the window"
    assert counts(books, 0)["ok"] == len(days[25]) == 68_792
    assert_published_end(books)


def test_the_next_day_replaces_the_book_though_no_clear_precedes_it(days):
    alone, after_another = new_books(), new_books()
    apply_cells(alone, SLOTS, words(days[25]))
    assert apply_cells(after_another, SLOTS, words(days[25])) == 0
    assert apply_cells(after_another, SLOTS, words(days[25])) == 0
    assert_published_end(after_another)
    assert digest(after_another) == digest(alone)
    unflagged = days[25].copy()
    unflagged["flags"] = 0
    doubled = new_books()
    apply_cells(doubled, SLOTS, words(days[25]))
    assert apply_cells(doubled, SLOTS, words(unflagged)) > 0
    assert digest(doubled) != digest(alone), "it is the flag that does it"


def test_any_cut_with_a_restore_ends_alike(days):
    whole, cut = new_books(), new_books()
    apply_cells(whole, SLOTS, words(days[25]))
    for part in np.array_split(days[25], 7):
        apply_cells(cut, SLOTS, words(part))
        reborn = new_books()
        restore(reborn, snapshot(cut))
        cut = reborn
    assert_published_end(cut)
    assert snapshot(cut) == snapshot(whole)


def test_one_lost_record_is_seen(days):
    whole, lossy = new_books(), new_books()
    apply_cells(whole, SLOTS, words(days[25]))
    at = int(np.flatnonzero(days[25]["action"] == ord("M"))[-1])
    apply_cells(lossy, SLOTS, words(np.delete(days[25], at)))
    assert digest(lossy) != digest(whole)
