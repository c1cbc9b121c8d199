"""A watched feed against the slow way: every instrument looked at before each record, with the oracle's books."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapehouse.app import watching
from tapehouse.app.watching import WatchedFeed
from tapehouse.book import BookState
from tapehouse.book.reference import ReferenceBooks
from tapehouse.core.errors import DataError, UsageError
from tapehouse.feeds import GeneratedDay
from tapehouse.market import Action, Cause, Cells, Confidence, Flag, Instrument, Kind, empty_cells, gap_record
from tests.support.bench import level, quote

GOOD, SUSPECT, REBUILDING = Confidence.GOOD, Confidence.SUSPECT, Confidence.REBUILDING
LAST, SNAPSHOT = int(Flag.LAST), int(Flag.SNAPSHOT)
SHARES = tuple(Instrument(id=number, symbol=f"S{number}", tick_size=10_000_000) for number in (1, 3, 4))
TRADING, HALT, SHORT_SALE = 7, 8, 14


class Given:
    """A feed of these cells, cut as told."""

    name, cells_estimate, instruments = "given", None, SHARES

    def __init__(self, cells: Cells, cuts: list[int]) -> None:
        starts = np.flatnonzero(cells["cells"]).tolist()
        self._cells, self._bounds = (
            cells,
            sorted({0, len(cells), *(starts[cut % len(starts)] for cut in cuts if starts)}),
        )

    def batches(self) -> Iterator[Cells]:
        for start, end in pairwise(self._bounds):
            yield self._cells[start:end]


def made(step: tuple, now: int) -> Cells:
    """The record of a step."""
    what, number = step[0], step[1]
    if what == "level":
        cells = level(("buy", "sell")[step[2]], step[3], step[4], number, flags=step[5])
    elif what == "quote":
        cells = quote((step[2], 1), (step[3], 1), number)
    elif what == "clear":
        cells = level("buy", 1, 0, number, action=int(Action.CLEAR), flags=step[2])
    elif what == "gap":
        cells = gap_record(Cause.SEQUENCE, Confidence(step[2]), ts_recv=now, instrument=number)
    else:
        cells = empty_cells(1)
        cells["kind"], cells["cells"], cells["instrument"], cells["flags"] = Kind.STATUS, 1, number, LAST
        cells["count"] = step[2]
    cells["ts_recv"][cells["cells"] > 0] = now
    return cells


class Slow:
    """The rules in words, an instrument after the other, before and after each record."""

    def __init__(self, crossed_after: int | None, stale_after: int | None) -> None:
        self.crossed_after, self.stale_after = crossed_after, stale_after
        self.books = ReferenceBooks(len(SHARES), orders=100, levels=4096)
        for slot in range(len(SHARES)):
            self.books.define(slot, 10_000_000)
        self.since: dict[int, int] = {}
        self.spoke: dict[int, int] = {}
        self.crossed: set[int] = set()
        self.stale: set[int] = set()
        self.closed: set[int] = set()
        self.own = dict.fromkeys(range(len(SHARES)), GOOD)
        self.now: int | None = None
        self.silent = 0
        self.out: list[Cells] = []

    def say(self, slot: int, cause: Cause) -> None:
        worth = self.own[slot]
        if cause != Cause.RESUMED and worth == GOOD:
            worth = SUSPECT
        self.out.append(gap_record(cause, worth, ts_recv=self.now or 0, instrument=SHARES[slot].id))

    def good_again(self, slot: int) -> None:
        if self.own[slot] == GOOD and slot not in self.crossed and slot not in self.stale:
            self.say(slot, Cause.RESUMED)

    def take(self, record: Cells) -> None:
        cell, ns = record[0], int(record["ts_recv"][0])
        if self.now is not None and self.stale_after is not None and ns - self.now > self.stale_after:
            self.silent += ns - self.now
        self.now = ns
        numbers = [share.id for share in SHARES]
        slot = numbers.index(cell["instrument"]) if cell["instrument"] in numbers else -1
        speaks = slot >= 0 and cell["kind"] != Kind.GAP
        for each in range(len(SHARES)):
            if each in self.since and each not in self.crossed and ns - self.since[each] > (self.crossed_after or 0):
                self.crossed.add(each)
                self.say(each, Cause.CROSSED)
            quiet = ns - self.silent - self.spoke.get(each, ns)
            known = each in self.stale | self.closed or (speaks and each == slot)
            if self.stale_after is not None and quiet > self.stale_after and not known:
                self.stale.add(each)
                self.say(each, Cause.STALE)
        if speaks:
            if slot in self.stale:
                self.stale.discard(slot)
                self.good_again(slot)
            self.spoke[slot] = ns - self.silent
        self.out.append(record)
        concerned = [slot] if slot >= 0 else list(range(len(SHARES))) if cell["instrument"] == 0 else []
        if cell["kind"] == Kind.GAP:
            for each in concerned:
                self.own[each] = Confidence(int(cell["depth"]))
                if self.own[each] == GOOD and each in self.crossed | self.stale:
                    self.say(each, Cause.CROSSED if each in self.crossed else Cause.STALE)
        elif cell["kind"] == Kind.STATUS:
            for each in concerned if cell["count"] not in (0, SHORT_SALE) else []:
                (self.closed.discard if cell["count"] == TRADING else self.closed.add)(each)
                self.since.pop(each, None)
                if each in self.spoke:
                    self.spoke[each] = ns - self.silent
        elif slot >= 0 and self.crossed_after is not None:
            self.hold(slot, record)

    def hold(self, slot: int, record: Cells) -> None:
        self.books.apply(slot, record, 0)
        flags = int(record["flags"][0])
        if flags & SNAPSHOT:
            self.since.pop(slot, None)
        elif flags & LAST and self.books.state(slot) == BookState.CROSSED:
            if slot not in self.closed | self.crossed:
                self.since.setdefault(slot, self.now or 0)
        elif flags & LAST:
            self.since.pop(slot, None)
            if slot in self.crossed:
                self.crossed.discard(slot)
                self.good_again(slot)


NUMBERS = st.sampled_from([1, 1, 3, 4])
ANYONE = st.sampled_from([0, 1, 3, 9])
STEPS = st.tuples(
    st.one_of(
        st.tuples(
            st.just("level"), NUMBERS, st.integers(0, 1), st.integers(98, 102), st.sampled_from([0, 0, 5]),
            st.sampled_from([LAST, LAST, LAST, 0, SNAPSHOT, SNAPSHOT | LAST]),
        ),
        st.tuples(st.just("quote"), NUMBERS, st.integers(98, 102), st.integers(98, 102)),
        st.tuples(st.just("clear"), NUMBERS, st.sampled_from([LAST, SNAPSHOT])),
        st.tuples(st.just("gap"), ANYONE, st.integers(0, 2)),
        st.tuples(st.just("status"), ANYONE, st.sampled_from([0, TRADING, HALT, SHORT_SALE, 1])),
    ),
    st.sampled_from([0, 1, 1, 2, 5, 40]),  # ns since the record before
)  # fmt: skip
LIMITS = st.sampled_from([None, 0, 3, 8])
CROSS = [(("level", 1, 0, 101, 5, LAST), 1), (("level", 1, 1, 99, 5, LAST), 1)]


def run(steps: list[tuple], cuts: list[int], crossed: int | None, stale: int | None) -> tuple[Cells, Cells]:
    """The feed's cells, and what the watch makes of them."""
    now, records = 1_000, []
    for step, passed in steps:
        now += passed
        records.append(made(step, now))
    cells = np.concatenate([empty_cells(0), *records])
    feed = WatchedFeed(Given(cells, cuts), crossed_after_ns=crossed, stale_after_ns=stale)
    return cells, np.concatenate([empty_cells(0), *feed.batches()])


@settings(deadline=None, max_examples=250)
@example([*CROSS, (("status", 9, 0), 5), (("level", 1, 0, 101, 0, LAST), 1)], [1], 3, None)
@example([*CROSS, (("gap", 1, 2), 5), (("gap", 0, 0), 1), (("level", 3, 0, 98, 1, LAST), 1)], [], 3, 3)
@given(st.lists(STEPS, max_size=60), st.lists(st.integers(0, 60), max_size=5), LIMITS, LIMITS)
def test_the_watch_says_what_the_slow_one_says(steps: list, cuts: list, crossed: int | None, stale: int | None) -> None:
    cells, found = run(steps, cuts, crossed, stale)
    slow, now = Slow(crossed, stale), 1_000
    for step, passed in steps:
        now += passed
        slow.take(made(step, now))
    assert found.tobytes() == np.concatenate([empty_cells(0), *slow.out]).tobytes()
    told = (found["kind"] == Kind.GAP) & np.isin(found["action"], [Cause.CROSSED, Cause.STALE, Cause.RESUMED])
    assert found[~told].tobytes() == cells.tobytes(), "the feed's own cells are unchanged"
    assert crossed is not None or stale is not None or not told.any(), "off, it says nothing"


def told(cells: Cells) -> list[tuple[int, str, int]]:
    gaps = cells[cells["kind"] == Kind.GAP]
    return [(int(gap["instrument"]), Cause(int(gap["action"])).name, int(gap["depth"])) for gap in gaps]


def test_a_book_that_stays_crossed_is_told_once_and_comes_back() -> None:
    wait, uncross = (("level", 3, 0, 98, 1, LAST), 2), (("level", 1, 0, 101, 0, LAST), 1)
    _, found = run([*CROSS, wait, wait, wait, uncross, wait], [], 3, None)
    assert told(found) == [(1, "CROSSED", SUSPECT), (1, "RESUMED", GOOD)]
    assert told(run([*CROSS, wait, uncross, wait, wait], [], 3, None)[1]) == [], "for so long it may be"
    closed = [(("status", 1, HALT), 1), *CROSS, wait, wait, wait]
    assert told(run(closed, [], 3, None)[1]) == [], "so may a book that is halted"
    again = [*closed, (("status", 1, TRADING), 1), (("level", 1, 1, 99, 6, LAST), 1), wait, wait, wait]
    assert told(run(again, [], 3, None)[1]) == [(1, "CROSSED", SUSPECT)]


def test_an_instrument_that_falls_silent_is_told_and_a_feed_that_does_is_not() -> None:
    one, other = (("level", 1, 0, 98, 1, LAST), 2), (("level", 3, 0, 98, 1, LAST), 2)
    assert told(run([one, other, other, other, other, one], [], None, 3)[1]) == [(1, "STALE", 1), (1, "RESUMED", 0)]
    night = (("level", 3, 0, 98, 1, LAST), 1_000_000)
    assert told(run([one, night, one, night, one], [], None, 3)[1]) == []


def test_a_generated_day_is_the_same_with_nothing_told_however_it_is_cut() -> None:
    day = GeneratedDay(seed=7, cells=20_000)
    cells = np.concatenate(list(day.batches()))
    found = np.concatenate(list(WatchedFeed(day, crossed_after_ns=10**9).batches()))
    assert found.tobytes() == cells.tobytes(), "its books cross before the open alone, which its statuses say"
    quiet = [np.concatenate(list(WatchedFeed(Cut(day, size), stale_after_ns=10**8).batches())) for size in (1, 7_000)]
    assert quiet[0].tobytes() == quiet[1].tobytes()
    assert (quiet[0]["kind"] == Kind.GAP).sum() > 0
    assert quiet[0][quiet[0]["kind"] != Kind.GAP].tobytes() == cells.tobytes()


class Cut:
    """A feed in batches of about so many records."""

    def __init__(self, feed: GeneratedDay, records: int) -> None:
        self.name, self.cells_estimate, self.instruments = feed.name, None, feed.instruments
        self._feed, self._records = feed, records

    def batches(self) -> Iterator[Cells]:
        cells = np.concatenate(list(self._feed.batches()))
        starts = [*np.flatnonzero(cells["cells"])[:: self._records].tolist(), len(cells)]
        for start, end in pairwise(starts):
            yield cells[start:end]


def test_what_cannot_be_watched_is_refused() -> None:
    with pytest.raises(UsageError, match="stale after -1 ns"):
        WatchedFeed(Given(empty_cells(0), []), stale_after_ns=-1)
    short = level("buy", 1, 1)
    short["cells"] = 2
    with pytest.raises(DataError, match="cut short"):
        list(WatchedFeed(Given(short, []), crossed_after_ns=1).batches())


def test_control_a_watch_that_counts_the_feeds_own_silence_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "take", _impatient(Slow.take))
    steps = [(("level", 1, 0, 98, 1, LAST), 1), (("level", 3, 0, 98, 1, LAST), 40), (("level", 4, 0, 98, 1, LAST), 1)]
    with pytest.raises(AssertionError):
        test_the_watch_says_what_the_slow_one_says.hypothesis.inner_test(steps, [], None, 3)


def _impatient(take):
    def impatient(self: Slow, record: Cells) -> None:
        take(self, record)
        self.silent = 0

    return impatient


def test_one_record_and_all_that_can_be_told_with_it_fit_a_batch() -> None:
    assert watching.BATCH_CELLS > 3 * (watching.INSTRUMENTS_MAX + 1) + 255
