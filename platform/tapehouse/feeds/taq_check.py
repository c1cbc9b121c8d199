"""Ticks held against the bars of the same day, which another pipeline made of them, and against their own lines.

Bars that lie beside the file of trades (LEAN's `minute` and `second` where its name or folder says `tick`) must agree:

- A bar lasts until the next one begins: a second without a bar gave its trades to the bar before it.
- Its volume is that of all trades but those whose condition has one of UNCOUNTED's bits; a minute bar that is the last
  before 16:00 may hold the official close too.
- Its high and low are prices between the lowest and the highest trade of its time.

This was measured on one day, where it explains every bar; no document of the format says so. How often a bar's volume
is simply the sum of its own second or minute, and its high and low those of trades without UNPRICED's bits, is told.
The feed's cells are compared with every line, read by Python's own means. What cannot be noticed: a digit of a quote's
price, of a trade's price within its bar, and of a size or an exchange where no bars lie beside the file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from tapehouse.core.errors import DecodeError
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.checking import Check
from tapehouse.feeds.packed_files import PackedFile, lines_of
from tapehouse.feeds.port import Feed
from tapehouse.feeds.taq_source import VENUES, TickFile
from tapehouse.market import Flag, Instrument, Kind

UNCOUNTED = 0x0500_00C0
OFFICIAL_CLOSE = 0x80
UNPRICED = 0x220
BARS_MAX = 100_000  # of one day: one for each second and some
_CLOSE_MS = 57_600_000
_UNITS_MS = {"minute": 60_000, "second": 1_000}
_NS_PER_MS = 1_000_000
_BAR_COLUMNS = 6


@dataclass(slots=True)
class _Span:
    """What the trades of one bar's time come to."""

    counted: int = 0
    low: Decimal | None = None
    high: Decimal | None = None
    priced_low: Decimal | None = None
    priced_high: Decimal | None = None

    def add(self, price: Decimal, size: int, condition: int) -> None:
        """One trade."""
        self.counted += 0 if condition & UNCOUNTED else size
        self.low = price if self.low is None else min(self.low, price)
        self.high = price if self.high is None else max(self.high, price)
        if not condition & UNPRICED:
            self.priced_low = price if self.priced_low is None else min(self.priced_low, price)
            self.priced_high = price if self.priced_high is None else max(self.priced_high, price)


@dataclass(slots=True)
class _Bars:
    """The bars of one unit, and the trades sorted into them."""

    unit: str
    title: str
    rows: dict[int, list[Decimal]]  # by their time: open, high, low, close, volume
    starts: list[int]
    spans: dict[int, _Span] = field(default_factory=lambda: defaultdict(_Span))
    own: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # volume of exactly a second or a minute
    close: int = 0

    def add(self, time: int, price: Decimal, size: int, condition: int) -> None:
        """One trade, into the bar that lasts at its time."""
        self.own[time // _UNITS_MS[self.unit] * _UNITS_MS[self.unit]] += size
        self.spans[self.starts[max(bisect_right(self.starts, time) - 1, 0)]].add(price, size, condition)
        self.close += size if condition & OFFICIAL_CLOSE else 0

    def compare(self, check: Check) -> None:
        """Every bar against its trades."""
        before_close = self.starts[max(bisect_right(self.starts, _CLOSE_MS - 1) - 1, 0)]
        simple = priced = 0
        for start, (_, high, low, _, volume) in self.rows.items():
            span, where = self.spans[start], f"{self.title}, bar {start}"
            with_close = span.counted + self.close
            also = with_close if self.unit == "minute" and start == before_close else span.counted
            check.compare(f"{where}, volume", volume if volume in (span.counted, also) else span.counted, volume)
            inside = span.low is not None and span.high is not None and span.low <= low <= high <= span.high
            check.compare(f"{where}, {low} to {high} within {span.low} to {span.high}", inside, True)
            simple += self.own[start] == volume
            priced += (span.priced_low, span.priced_high) == (low, high)
        check.truths[f"{self.unit}_volume"] = f"{simple}/{len(self.rows)}"
        check.truths[f"{self.unit}_high_low"] = f"{priced}/{len(self.rows)}"


def check_ticks(files: Sequence[TickFile], feed: Feed) -> Check:
    """Compare everything.

    Raises:
        MissingError, DecodeError: As the feed and reading the files do.
    """
    for _ in feed.batches():
        pass  # What is no row at all is the feed's to refuse, with its line.
    check = Check()
    cells = _by_kind(feed)
    for file in files:
        bars = _bars_beside(file) if file.trades else []
        latest = Decimal(0)
        fold = _QuoteFold()
        for number, row in _rows(file):
            where = f"{file.title}, line {number}"
            check.rows += 1
            time = Decimal(row[0])
            if time < latest:
                check.mismatch(f"{where}: the time goes backwards")
            latest = max(latest, time)
            found = next(cells[file.trades], None)
            if file.trades:
                wanted = _trade(number, row)
                for bar in bars:
                    bar.add(int(time), Decimal(row[1]), int(Decimal(row[2])), int(row[4], 16))
            else:
                wanted = fold.quote(number, row)
            event = file.midnight_ns + int(time * _NS_PER_MS)
            check.compare(where, found, (event, file.midnight_ns + int(latest * _NS_PER_MS), *wanted))
        for bar in bars:
            bar.compare(check)
    for left in cells.values():
        if (extra := next(left, None)) is not None:
            check.mismatch(f"the feed has a record more: {extra}")
    check.truths["exchanges"] = len(feed.instruments)
    return check


def _rows(file: TickFile) -> Iterator[tuple[int, list[str]]]:
    with PackedFile(file.path) as stream:
        for number, line in lines_of(stream, stream.title):
            yield number, line.decode("ascii", "replace").split(",")


def _trade(number: int, row: list[str]) -> tuple[Any, ...]:
    venue = VENUES.get(row[3], row[3])
    return (number, venue, int(row[4], 16), row[5] == "1", Decimal(row[1]) / 10_000, int(Decimal(row[2])))


class _QuoteFold:
    """Both sides of each exchange as the rows tell them."""

    def __init__(self) -> None:
        self._sides: dict[str, list[tuple[Decimal | None, int]]] = {}

    def quote(self, number: int, row: list[str]) -> tuple[Any, ...]:
        """What the record of a row must say."""
        sides = self._sides.setdefault(row[5], [(None, 0), (None, 0)])
        told = any(Decimal(text) for text in row[1:5])
        for side in range(2):
            price, size = Decimal(row[1 + 2 * side]), int(Decimal(row[2 + 2 * side]))
            if price and size:
                sides[side] = (price / 10_000, size)
            elif price or size or not told:
                sides[side] = (None, 0)
        venue = VENUES.get(row[5], row[5])
        return (number, venue, int(row[6], 16), row[7] == "1", *sides[0], *sides[1])


def _by_kind(feed: Feed) -> dict[bool, Iterator[tuple[Any, ...]]]:
    """The feed's records of trades (True) and quotes (False), each from a pass of its own."""
    instruments = {instrument.id: instrument for instrument in feed.instruments}
    return {
        True: _records(feed, instruments, Kind.TRADE),
        False: _records(feed, instruments, Kind.QUOTE),
    }


def _records(feed: Feed, instruments: dict[int, Instrument], kind: Kind) -> Iterator[tuple[Any, ...]]:
    for batch in feed.batches():
        rows = iter(batch[batch["kind"] == kind].tolist())
        for row in rows:
            instrument = instruments[row[6]]
            parts = [row] if kind is Kind.TRADE else [row, next(rows)]
            numbers = [
                number
                for part in parts
                for number in (None if part[4] == UNDEFINED else instrument.price(part[4]), part[5])
            ]
            doubtful = bool(row[12] & Flag.MAYBE_BAD_BOOK)
            yield (row[0], row[1], row[2], instrument.venue, row[14], doubtful, *numbers)


def _bars_beside(file: TickFile) -> list[_Bars]:
    """The bars of the same day and symbol where LEAN's names put them."""
    found = []
    for unit in _UNITS_MS:
        path = file.path
        folder = path.parent
        beside = path.with_name(path.name.replace("_tick_", f"_{unit}_"))
        if beside == path and folder.parent.name == "tick":
            beside = folder.parent.parent / unit / folder.name / path.name
        if beside != path and beside.is_file():
            found.append(_read_bars(unit, beside))
    return found


def _read_bars(unit: str, path: Path) -> _Bars:
    rows: dict[int, list[Decimal]] = {}
    with PackedFile(path) as file:
        for number, line in lines_of(file, file.title):
            try:
                time, *values = [Decimal(text) for text in line.decode("ascii", "replace").split(",")]
                if len(values) != _BAR_COLUMNS - 1 or len(rows) >= BARS_MAX or not all(x.is_finite() for x in values):
                    raise ValueError
                rows[int(time)] = values
            except (ArithmeticError, ValueError) as error:
                raise DecodeError("this is no bar", subject=file.title, position=f"line {number}") from error
        if not rows:
            raise DecodeError("there are no bars", subject=file.title)
        return _Bars(unit, file.title, rows, sorted(rows))
