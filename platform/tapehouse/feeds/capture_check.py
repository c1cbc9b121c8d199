"""What raw captures are held against: the venue's own sequence numbers and checksums, and its other channels.

The books here are dicts that cells are put into, as any consumer would, so a number that went wrong on its way into a
cell is found as well as one that is wrong in the file.

What cannot be noticed: where a venue sends no checksum, a wrong size or price of a level that never becomes the best
one; a quote that another one followed before the next change; times; sizes and prices of trades.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from tapehouse.feeds.capture import Message
from tapehouse.feeds.capture_feed import CaptureFeed, MakeSession, open_capture
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import SourceOptions
from tapehouse.market import CELL, Action, Cause, Cells, Confidence, Flag, Kind, Side

HISTORY_MAX = 65_536  # quotes, or changes of a book, kept of one instrument until the other side comes
_QUOTE_SIDES = 2
_NAMES = CELL.names or ()
_LAST = int(Flag.LAST)
_LAST_OR_SNAPSHOT = int(Flag.LAST | Flag.SNAPSHOT)
Best = tuple[int, int, int, int]  # bid, size, ask, size; 0 where a side is empty


class LevelsByPrice:
    """One instrument's book from its cells: a dict a side, and the best prices."""

    def __init__(self) -> None:
        self._sides: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self._best: list[int | None] = [None, None]

    def apply(self, action: int, side: int, price: int, size: int) -> None:
        """Put one MBP cell into it."""
        if action == Action.CLEAR:
            for levels in self._sides:
                levels.clear()
            self._best = [None, None]
            return
        at = 0 if side == Side.BID else 1
        levels, best = self._sides[at], self._best[at]
        if size:
            levels[price] = size
            if best is None or (price > best if at == 0 else price < best):
                self._best[at] = price
        else:
            levels.pop(price, None)
            if price == best:
                self._best[at] = (max if at == 0 else min)(levels, default=None)

    def best(self) -> Best:
        """Both best levels."""
        bid, ask = self._best
        bids, asks = self._sides
        return (bid or 0, bids[bid] if bid is not None else 0, ask or 0, asks[ask] if ask is not None else 0)


class Observer(Protocol):
    """A truth that a venue's files carry beside sequence numbers and checksums."""

    def see(self, message: Message, cells: Cells, books: dict[int, LevelsByPrice]) -> None:
        """A message and its cells; `books` are as they were before it, and as far as the cells were put in."""
        ...

    def changed(self, message: Message, instrument: int, sequence: int, ts_event: int, best: Best) -> None:
        """A book has changed, and this is what is best now."""
        ...

    def end(self) -> dict[str, int]:
        """No more comes; what to tell beside the check."""
        ...


MakeObserver = Callable[[CaptureFeed, Check], Observer]


class TopOfBook:
    """After every change, the book's best levels are those of the last quote whose sequence is not above the change's.

    Quotes and changes come on different channels, so each waits for the other: a change is judged when a later quote
    was seen, or at the end. Changes before the first quote are not judged.
    """

    def __init__(self, feed: CaptureFeed, check: Check) -> None:
        self._check = check
        by_symbol = {item.symbol: item.id for item in feed.instruments}
        self._book_of = {item.id: by_symbol.get(item.symbol.partition("@")[0], 0) for item in feed.instruments}
        self._names = {item.id: item.symbol for item in feed.instruments}
        self._quotes: dict[int, tuple[list[int], list[Best]]] = {}
        self._changes: dict[int, list[tuple[int, Best, str]]] = {}

    def see(self, message: Message, cells: Cells, books: dict[int, LevelsByPrice]) -> None:
        """Take the quotes."""
        for at in np.flatnonzero((cells["kind"] == Kind.QUOTE) & (cells["cells"] == _QUOTE_SIDES)).tolist():
            bid, ask = (dict(zip(_NAMES, cell.item(), strict=True)) for cell in cells[at : at + 2])
            instrument = self._book_of[bid["instrument"]]
            numbers, told = self._quotes.setdefault(instrument, ([], []))
            numbers.append(bid["sequence"])
            told.append((bid["price"], bid["size"], ask["price"], ask["size"]))
            self._judge(instrument, final=len(numbers) >= HISTORY_MAX)

    def changed(self, message: Message, instrument: int, sequence: int, ts_event: int, best: Best) -> None:
        """Keep what is best now."""
        waiting = self._changes.setdefault(instrument, [])
        waiting.append((sequence, best, f"{message.file}, line {message.line}"))
        self._judge(instrument, final=len(waiting) >= HISTORY_MAX)

    def end(self) -> dict[str, int]:
        """Judge what waits."""
        for instrument in list(self._changes):
            self._judge(instrument, final=True)
        return {"top_of_book": self._check.compared}

    def _judge(self, instrument: int, *, final: bool) -> None:
        waiting = self._changes.get(instrument, [])
        numbers, told = self._quotes.get(instrument, ([], []))
        done = 0
        last = 0
        for sequence, best, where in waiting:
            if not numbers or (not final and numbers[-1] <= sequence):
                break
            done += 1
            at = bisect_right(numbers, sequence)
            if at:
                last = at - 1
                self._check.compare(f"{where}: best of {self._names[instrument]}", best, told[at - 1])
        del waiting[:done]
        del numbers[:last], told[:last]


def check_capture(
    make: MakeSession,
    paths: Sequence[Path],
    options: SourceOptions,
    *,
    primary: str,
    observer: MakeObserver | None = None,
) -> Check:
    """Read a recording whole and hold it against what it says of itself.

    Args:
        primary: The number of the session's tally that is counted as comparisons beside the observer's; or empty.

    Raises:
        MissingError, DecodeError, UsageError: As the feed does.
    """
    feed = open_capture(make, paths, options)
    check = Check()
    watching = observer(feed, check) if observer else None
    books: dict[int, LevelsByPrice] = {}
    names = {item.id: item.symbol for item in feed.instruments}
    suspect: dict[int, str] = {}
    for message, cells in feed.steps():
        check.rows += 1
        kinds = set(cells["kind"].tolist())
        if watching is not None and kinds:
            watching.see(message, cells, books)
        if Kind.MBP in kinds:
            _put_in(message, cells[cells["kind"] == Kind.MBP], books, watching)
        for cell in cells[cells["kind"] == Kind.GAP] if Kind.GAP in kinds else ():
            instrument = int(cell["instrument"])
            if cell["depth"] == Confidence.SUSPECT:
                cause = Cause(cell["action"]).name.lower().replace("_", " ")
                where = f"{message.file}, line {message.line}: {names[instrument]}"
                suspect[instrument] = where
                check.mismatch(f"{where}: {cause}, {int(cell['count'])} missing after {int(cell['sequence'])}")
            elif cell["depth"] == Confidence.GOOD:
                suspect.pop(instrument, None)
    extra = watching.end() if watching is not None else {}
    _finish(check, feed, primary, len(suspect))
    check.truths |= extra
    return check


def _put_in(message: Message, levels: Cells, books: dict[int, LevelsByPrice], watching: Observer | None) -> None:
    columns = ("instrument", "action", "side", "price", "size", "flags", "sequence", "ts_event")
    rows = zip(*(levels[name].tolist() for name in columns), strict=True)
    for instrument, action, side, price, size, flags, sequence, ts_event in rows:
        book = books.get(instrument)
        if book is None:
            book = books[instrument] = LevelsByPrice()
        book.apply(action, side, price, size)
        if watching is not None and flags & _LAST_OR_SNAPSHOT == _LAST:
            watching.changed(message, instrument, sequence, ts_event, book.best())


def _finish(check: Check, feed: CaptureFeed, primary: str, suspect: int) -> None:
    session = feed.session
    if session is None:
        return
    tally = session.tally
    for symbol in session.waiting:
        check.mismatch(f"{symbol}: changes came, and no book that they go on from")
    check.truths |= {
        "instruments": len(feed.instruments),
        "books": tally.books,
        "chained": tally.chained,
        "gaps": tally.gaps,
        "suspect_at_end": suspect,
        "checksums": tally.checksums,
        "checksum_mismatches": tally.checksum_mismatches,
        "trades": tally.trades,
        "quotes": tally.quotes,
        "old": tally.old,
        "left_out": tally.left_out,
        "first_id": min(tally.first_ids.values(), default=0),
        "last_id": max(tally.last_ids.values(), default=0),
    }
    if primary:
        found = check.truths[primary]
        check.compared += int(found or 0)
