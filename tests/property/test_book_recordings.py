"""Recordings and a generated day, record by record against the slow oracle, in windows that hold all of them and in
windows that they leave again and again.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tapehouse.book import Status, apply, define, make_books, restore, snapshot, state, top, transitions
from tapehouse.book.layout import FAR
from tapehouse.book.reference import ReferenceBooks
from tapehouse.core import UNDEFINED
from tapehouse.feeds import DbnFeed, Feed, GeneratedDay, LobsterFeed
from tapehouse.market import Cells, words

PARTS = 12


def slice_of(feed: Feed, first: int, count: int) -> Cells:
    """Some of a feed's cells, from one in the middle on: books begin with orders that nobody announced."""
    found: list[Cells] = []
    rest = first + count
    for batch in feed.batches():
        found.append(batch[:rest])
        rest -= len(found[-1])
        if rest == 0:
            break
    return np.concatenate(found)[first:]


def recording(name: str, request: pytest.FixtureRequest) -> tuple[Feed, Cells]:
    if name == "generated":
        day = GeneratedDay(seed=11, cells=20_000, options=False)
        return day, slice_of(day, 100, 10_000)
    market_data: Path = request.getfixturevalue("market_data")
    if name == "esh4":
        folder = market_data / "databento" / "nautilus"
        feed: Feed = DbnFeed(folder / "esh4-glbx-mdp3-20231225.mbo.dbn.zst")
        return feed, slice_of(feed, 0, 9_000)
    feed = LobsterFeed([market_data / "lobster" / "LOBSTER_SampleFile_AMZN_2012-06-21_5.zip"])
    return feed, slice_of(feed, 20_000, 12_000)


@pytest.mark.parametrize(
    ("name", "window"), [("esh4", 1 << 16), ("esh4", 1 << 10), ("amzn", 1 << 16), ("amzn", 64), ("generated", 64)]
)
def test_a_recording_equals_the_oracle(request: pytest.FixtureRequest, name: str, window: int) -> None:
    feed, cells = recording(name, request)
    count = len(feed.instruments)
    books = make_books(count, orders=1 << 14, levels=window)
    oracle = ReferenceBooks(count, orders=1 << 14, levels=window)
    slots = {}
    for slot, instrument in enumerate(feed.instruments):
        define(books, slot, instrument.tick_size)
        oracle.define(slot, instrument.tick_size)
        slots[instrument.id] = slot
    most_far = 0
    for part in np.array_split(cells, PARTS):
        route = [slots[number] for number in part["instrument"].tolist()]
        found = [Status(apply(books, slot, words(part), row)) for row, slot in enumerate(route)]
        assert found == [oracle.apply(slot, part, row) for row, slot in enumerate(route)]
        assert snapshot(books) == oracle.snapshot()
        assert [tuple(top(books, slot)) for slot in range(count)] == [*tops(oracle, count)]
        assert [state(books, slot) for slot in range(count)] == [oracle.state(slot) for slot in range(count)]
        most_far = max(most_far, int(books.slots[:, [FAR, FAR + 1]].sum()))
        restore(books, oracle.snapshot())
    narrow = window < 1 << 16
    assert (most_far > 0 or transitions(books, 0)["moved"] > 1) == narrow, "the small window is left"


def tops(oracle: ReferenceBooks, count: int) -> Iterator[tuple[int, ...]]:
    for slot in range(count):
        ends = [oracle.levels(slot, side)[:1] or [(UNDEFINED, 0, 0)] for side in range(2)]
        yield (*ends[0][0][:2], *ends[1][0][:2])
