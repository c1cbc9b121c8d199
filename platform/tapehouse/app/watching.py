"""A feed that is watched while it passes: books that stay crossed and instruments that fall silent, as GAP records.

No venue says these; they are seen from outside, by feed time alone, so the same feed gives the same records however it
is cut into batches. The feed's own cells pass unchanged. A book is crossed where its best bid is above its best ask at
the end of an event; while it is told anew, or while its instrument is known to be halted or not yet open, it may be. An
instrument is stale where it spoke, and others speak on; where the whole feed is silent nobody is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.book import BookState, apply, define, make_books, state_of, told_confidence
from tapehouse.core.errors import DataError, UsageError
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.feeds.port import Feed
from tapehouse.market import Cause, Cells, Confidence, Flag, Instrument, Kind, from_words, words

INSTRUMENTS_MAX = 1 << 13
ORDERS_MAX = 1 << 20
LEVELS = 1 << 12  # of a book's window
BATCH_CELLS = 65_536
_RECORD_MAX = 255  # cells

# Columns of `seen`, a row to an instrument; times are feed times, `SPOKE` without the feed's own silences.
SINCE, IS_CROSSED, SPOKE, IS_STALE, CLOSED, OWN = range(6)
# Entries of `times`.
NOW, SILENT, DUE, CROSSED_AFTER, STALE_AFTER = range(5)
NEVER = 2**62

_GAP, _STATUS, _DEFINITION = int(Kind.GAP), int(Kind.STATUS), int(Kind.DEFINITION)
_LAST, _SNAPSHOT = int(Flag.LAST), int(Flag.SNAPSHOT)
_CROSSED, _STALE, _RESUMED = int(Cause.CROSSED), int(Cause.STALE), int(Cause.RESUMED)
_GOOD, _SUSPECT = int(Confidence.GOOD), int(Confidence.SUSPECT)
_BOOK_CROSSED = int(BookState.CROSSED)
_FLAGS = int(Flag.SYNTHETIC | Flag.LAST)
_TRADING, _PRE_CLOSE = 7, 11  # DBN's status actions in which a market matches continuously
_STATUS_NONE, _STATUS_SHORT_SALE, _STATUS_LAST = 0, 14, 15  # those that say nothing of it, and the highest


class Watch(NamedTuple):
    """What a watched feed remembers."""

    slots: npt.NDArray[np.int64]  # by instrument id: its row of `seen`, -1 for none
    numbers: npt.NDArray[np.int64]  # by row: the instrument id
    seen: npt.NDArray[np.int64]  # (instruments, 6)
    times: npt.NDArray[np.int64]  # (5,)


@kernel(inline=True)
def _put_gap(watch: State, out: Array, at: Int, slot: Int, cause: Int) -> Int:
    """Write a GAP record of an instrument; return where the next cell goes.

    What the feed itself holds for worse than suspect stays so.
    """
    worth = watch.seen[slot, OWN]
    if cause != _RESUMED and worth == _GOOD:
        worth = _SUSPECT
    out[at] = 0
    out[at, 0] = watch.times[NOW]
    out[at, 1] = watch.times[NOW]
    out[at, 6] = watch.numbers[slot] | (_GAP << 48) | (1 << 56)
    out[at, 7] = cause | (_FLAGS << 16) | (worth << 24)
    return at + 1


@kernel()
def _look_around(watch: State, out: Array, at: Int, speaking: Int) -> Int:
    """Tell of what has lasted too long, except a silence that ends now, and note when to look again."""
    seen, times = watch.seen, watch.times
    due = NEVER
    for slot in range(seen.shape[0]):
        row = seen[slot]
        if row[SINCE] != NEVER and row[IS_CROSSED] == 0:
            if times[NOW] - row[SINCE] > times[CROSSED_AFTER]:
                row[IS_CROSSED] = 1
                at = _put_gap(watch, out, at, slot, _CROSSED)
            else:
                due = min(due, row[SINCE] + times[CROSSED_AFTER])
        if row[SPOKE] != NEVER and row[IS_STALE] == 0 and row[CLOSED] == 0:
            silent_until = row[SPOKE] + times[SILENT] + times[STALE_AFTER]
            if slot == speaking or times[NOW] <= silent_until:
                due = min(due, silent_until)
            else:
                row[IS_STALE] = 1
                at = _put_gap(watch, out, at, slot, _STALE)
    times[DUE] = due
    return at


@kernel()
def _pass_gap(watch: State, out: Array, at: Int, slot: Int, worth: Int) -> Int:
    """After the feed's own GAP record: what is crossed or stale does not become good by it."""
    for number in range(watch.seen.shape[0]):
        if slot >= 0 and number != slot:
            continue
        row = watch.seen[number]
        row[OWN] = worth
        if worth == _GOOD and row[IS_CROSSED] != 0:
            at = _put_gap(watch, out, at, number, _CROSSED)
        elif worth == _GOOD and row[IS_STALE] != 0:
            at = _put_gap(watch, out, at, number, _STALE)
    return at


@kernel()
def _pass_status(watch: State, slot: Int, action: Int) -> None:
    """A status says whether a market matches, or nothing of it; what is closed neither crosses nor falls silent."""
    if action <= _STATUS_NONE or action == _STATUS_SHORT_SALE or action > _STATUS_LAST:
        return
    for number in range(watch.seen.shape[0]):
        if slot >= 0 and number != slot:
            continue
        row = watch.seen[number]
        row[CLOSED] = 0 if action == _TRADING or action == _PRE_CLOSE else 1
        row[SINCE] = NEVER
        if row[SPOKE] != NEVER:
            row[SPOKE] = watch.times[NOW] - watch.times[SILENT]
    watch.times[DUE] = -NEVER


@kernel()
def _hold_book(books: State, watch: State, array: Array, row: Int, slot: Int, out: Array, at: Int) -> Int:
    """Apply a record to its book; where an event ends, look whether it is crossed."""
    seen = watch.seen[slot]
    apply(books, slot, array, row)
    flags = (array[row, 7] >> 16) & 255
    if flags & _SNAPSHOT != 0:
        seen[SINCE] = NEVER
        return at
    if flags & _LAST == 0:
        return at
    if state_of(books, slot) != _BOOK_CROSSED:
        seen[SINCE] = NEVER
        if seen[IS_CROSSED] != 0:
            seen[IS_CROSSED] = 0
            if seen[OWN] == _GOOD and seen[IS_STALE] == 0:
                at = _put_gap(watch, out, at, slot, _RESUMED)
    elif seen[SINCE] == NEVER and seen[CLOSED] == 0 and seen[IS_CROSSED] == 0:
        seen[SINCE] = watch.times[NOW]
        watch.times[DUE] = min(watch.times[DUE], seen[SINCE] + watch.times[CROSSED_AFTER])
    return at


@kernel()
def _note_time(watch: State, ts_recv: Int) -> None:
    """Move the feed's time; where nobody spoke for as long as makes one stale, that time does not count."""
    times = watch.times
    if ts_recv <= times[NOW]:
        return
    if times[NOW] != -NEVER and ts_recv - times[NOW] > times[STALE_AFTER]:
        times[SILENT] += ts_recv - times[NOW]
    times[NOW] = ts_recv


@kernel()
def watch_cells(books: State, watch: State, array: Array, start: Int, out: Array) -> tuple[Int, Int]:
    """Pass whole records from row `start` on, GAP records between them; return (row reached, cells written).

    It stops where `out` may not have room for the next record and all that can be told before and after it.
    """
    seen, times = watch.seen, watch.times
    room = out.shape[0] - _RECORD_MAX - 3 * (seen.shape[0] + 1)
    row, at = start, 0
    while row < array.shape[0] and at < room:
        small = array[row, 6]
        length, kind, number = (small >> 56) & 255, (small >> 48) & 255, small & 0xFFFFFFFF
        if length == 0 or row + length > array.shape[0]:
            return -1, at
        slot = watch.slots[number] if number < watch.slots.shape[0] else -1
        speaks = slot >= 0 and kind != _GAP and kind != _DEFINITION
        _note_time(watch, array[row, 1])
        if times[NOW] > times[DUE]:
            at = _look_around(watch, out, at, slot if speaks else -1)
        if speaks:
            if seen[slot, IS_STALE] != 0:
                seen[slot, IS_STALE] = 0
                if seen[slot, OWN] == _GOOD and seen[slot, IS_CROSSED] == 0:
                    at = _put_gap(watch, out, at, slot, _RESUMED)
            if times[STALE_AFTER] != NEVER:
                seen[slot, SPOKE] = times[NOW] - times[SILENT]
                times[DUE] = min(times[DUE], times[NOW] + times[STALE_AFTER])
        for cell in range(length):
            for word in range(8):
                out[at + cell, word] = array[row + cell, word]
        at += length
        if kind == _GAP and (slot >= 0 or number == 0):
            worth = told_confidence(array[row, 7] & 255, (array[row, 7] >> 24) & 255)
            at = _pass_gap(watch, out, at, slot if number != 0 else -1, worth)
        elif kind == _STATUS and (slot >= 0 or number == 0):
            _pass_status(watch, slot if number != 0 else -1, (array[row, 7] >> 32) & 0xFFFFFFFF)
        elif slot >= 0 and times[CROSSED_AFTER] != NEVER:
            at = _hold_book(books, watch, array, row, slot, out, at)
        row += length
    return row, at


class WatchedFeed:
    """A feed, and GAP records where its books stay crossed or its instruments fall silent."""

    def __init__(self, feed: Feed, *, crossed_after_ns: int | None = None, stale_after_ns: int | None = None) -> None:
        """Watch a feed for one or both.

        Args:
            crossed_after_ns: Of feed time that a book may be crossed; longer is CROSSED, SUSPECT, until it uncrosses.
            stale_after_ns: Of feed time that an instrument that spoke may be silent while others speak; longer is
                STALE, SUSPECT, until it speaks again.

        Raises:
            UsageError: A time is negative or beyond sense.
            DataError: The feed has more than INSTRUMENTS_MAX instruments.
        """
        for name, limit in (("crossed", crossed_after_ns), ("stale", stale_after_ns)):
            if limit is not None and not 0 <= limit < NEVER // 4:
                raise UsageError(f"{name} after {limit} ns", hint="give a time from 0 on")
        self._feed = feed
        self._crossed_after = NEVER if crossed_after_ns is None else crossed_after_ns
        self._stale_after = NEVER if stale_after_ns is None else stale_after_ns
        if len(feed.instruments) > INSTRUMENTS_MAX:
            raise DataError(
                f"{len(feed.instruments)} instruments cannot be watched",
                subject=feed.name,
                hint=f"{INSTRUMENTS_MAX} at most: record it without --crossed-after and --stale-after",
            )

    @property
    def name(self) -> str:
        """The feed's own."""
        return self._feed.name

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """The feed's own."""
        return self._feed.instruments

    @property
    def cells_estimate(self) -> int | None:
        """The feed's own: GAP records are few."""
        return self._feed.cells_estimate

    def batches(self) -> Iterator[Cells]:
        """The feed's cells, unchanged, and GAP records between them.

        Raises:
            DataError: A record is cut short; and whatever the feed raises.
        """
        instruments = self.instruments
        watch = self._fresh(instruments)
        booked = instruments if self._crossed_after != NEVER else ()
        books = make_books(max(1, len(booked)), orders=ORDERS_MAX, levels=LEVELS)
        for slot, instrument in enumerate(booked):
            if instrument.asset_class != "option":
                define(books, slot, instrument.tick_size)
        out = np.empty((BATCH_CELLS, 8), np.int64)
        for cells in self._feed.batches():
            array, row = words(cells), 0
            while row < len(array):
                row, written = watch_cells(books, watch, array, row, out)
                if written:
                    yield from_words(out[:written].copy())
                if row < 0:
                    raise DataError("a record is cut short", subject=self.name, hint="this is the feed's bug")

    def _fresh(self, instruments: tuple[Instrument, ...]) -> Watch:
        numbers = np.array([instrument.id for instrument in instruments], np.int64)
        slots = np.full(int(numbers.max(initial=0)) + 1, -1, np.int64)
        slots[numbers] = np.arange(len(numbers))
        seen = np.zeros((len(numbers), 6), np.int64)
        seen[:, [SINCE, SPOKE]] = NEVER
        return Watch(
            slots=slots,
            numbers=numbers,
            seen=seen,
            times=np.array([-NEVER, 0, NEVER, self._crossed_after, self._stale_after], np.int64),
        )
