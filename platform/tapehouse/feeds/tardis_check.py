"""A second opinion on a Tardis file: its lines split and read as Python decimals, held against the feed's cells.

The two ways share the unpacking and no more. Beside it, what the rows themselves must keep: local times never go
backwards and are within a day of the venue's, and no book snapshot is crossed. A digit of an amount, a price or a time
that keeps these can be changed without notice: the files carry nothing that it would contradict.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from tapehouse.core.errors import DecodeError
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.checking import Check
from tapehouse.feeds.packed_files import PackedFile, lines_of
from tapehouse.feeds.port import Feed
from tapehouse.market import Action, Flag, Instrument, Kind, Side

DAY_US = 86_400_000_000
_AGGRESSORS = {"buy": Side.BID, "sell": Side.ASK, "unknown": Side.NONE}
_BOOK_SIDES = {"bid": Side.BID, "ask": Side.ASK}

Row = dict[str, str]
Book = dict[int, dict[Decimal, Decimal]]  # by side


def check_tardis(path: Path, feed: Feed) -> Check:
    """Compare record by record.

    Raises:
        MissingError, DecodeError: As the feed and reading the file do.
    """
    for _ in feed.batches():
        pass  # What is no row at all is the feed's to refuse, with its line.
    check = Check()
    rows = _Rows(path, check)
    cells = _Cells(feed)
    header = rows.header
    if "is_snapshot" in header:
        _compare_levels(check, rows, cells)
    elif "asks[0].price" in header:
        _compare_books(check, rows, cells)
    else:
        _compare_records(check, rows, cells, trades="ask_price" not in header)
    left = cells.next_cell()
    if left is not None:
        check.mismatch(f"after the last row the feed has another record: {left}")
    check.truths |= {"instruments": len(feed.instruments), "cells_read": cells.read}
    return check


class _Rows:
    """The lines as dicts, and what consecutive rows must keep."""

    def __init__(self, path: Path, check: Check) -> None:
        self._path = path
        self._check = check
        self.header: list[str] = []
        self._lines = self._read()
        self.header = next(self._lines)[1]

    def _read(self) -> Iterator[tuple[str, list[str]]]:
        with PackedFile(self._path) as file:
            for number, line in lines_of(file, file.title):
                yield f"{file.title}, line {number}", line.decode("utf-8", "replace").split(",")

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        latest = 0
        for where, values in self._lines:
            self._check.rows += 1
            row = dict(zip(self.header, values, strict=True))
            local, venue = _time(row, "local_timestamp"), _time(row, "timestamp")
            if local < latest:
                self._check.mismatch(f"{where}: local_timestamp goes backwards")
            if abs(local - venue) > DAY_US:
                self._check.mismatch(f"{where}: the two times are more than a day apart")
            latest = max(latest, local)
            row["held"] = str(latest)
            yield where, row


class _Cells:
    """The feed's cells one by one, with decimals in place of integers."""

    def __init__(self, feed: Feed) -> None:
        self._instruments = {instrument.id: instrument for instrument in feed.instruments}
        self._cells = (cell for batch in feed.batches() for cell in batch.tolist())
        self.read = 0

    def next_cell(self) -> tuple[Any, ...] | None:
        """Kind, action, side, flags, exchange and symbol, both times in ns, price, size, order id; None at the end."""
        cell = next(self._cells, None)
        if cell is None:
            return None
        self.read += 1
        event, recv, _, order, price, size, own = cell[:7]
        instrument = self._instruments[own]
        name = (instrument.venue, instrument.symbol)
        return (cell[8], cell[10], cell[11], cell[12], name, event, recv, *_numbers(instrument, price, size), order)


def _numbers(instrument: Instrument, price: int, size: int) -> tuple[Decimal | None, Decimal]:
    exact = Decimal(size).scaleb(instrument.size_exponent)
    return (None if price == UNDEFINED else instrument.price(price)), exact


def _decimal(where: str, text: str) -> Decimal | None:
    try:
        return Decimal(text) if text else None
    except InvalidOperation as error:
        raise DecodeError(f"{text!r} is no number", subject=where) from error


def _time(row: Row, name: str) -> int:
    return int(Decimal(row[name]))


def _common(row: Row) -> tuple[Any, ...]:
    return ((row["exchange"], row["symbol"]), _time(row, "timestamp") * 1000, int(row["held"]) * 1000)


def _compare_records(check: Check, rows: _Rows, cells: _Cells, *, trades: bool) -> None:
    crossed = 0
    for where, row in rows:
        common = _common(row)
        if trades:
            number = int(row["id"]) if row["id"].isascii() and row["id"].isdigit() and len(row["id"]) < 19 else 0
            wanted = [
                (
                    int(Kind.TRADE),
                    int(Action.TRADE),
                    int(_AGGRESSORS[row["side"]]),
                    int(Flag.LAST),
                    *common,
                    _decimal(where, row["price"]),
                    _decimal(where, row["amount"]),
                    number,
                )
            ]
        else:
            small = (int(Kind.QUOTE), int(Action.NONE), int(Side.NONE), int(Flag.LAST))
            sides = [(_decimal(where, row[f"{x}_price"]), _decimal(where, row[f"{x}_amount"])) for x in ("bid", "ask")]
            full = [side if None not in side else (None, Decimal(0)) for side in sides]
            wanted = [(*small, *common, *side, 0) for side in full]
            bid, ask = full[0][0], full[1][0]
            crossed += bid is not None and ask is not None and bid >= ask
        for each in wanted:
            check.compare(where, cells.next_cell(), each)
    if not trades:
        check.truths["crossed"] = crossed


def _compare_levels(check: Check, rows: _Rows, cells: _Cells) -> None:
    """Each row is one level; before the first row of a snapshot stands a clear."""
    in_snapshot: dict[Any, bool] = {}
    snapshots = 0
    for where, row in rows:
        common = _common(row)
        snapshot = row["is_snapshot"] == "true"
        if snapshot and not in_snapshot.get(common[0]):
            snapshots += 1
            cell = cells.next_cell()
            check.compare(f"{where}, a clear before it", cell and (cell[0], cell[1], cell[4]), _cleared(common))
        in_snapshot[common[0]] = snapshot
        cell = cells.next_cell()
        wanted = (
            int(Kind.MBP),
            int(_BOOK_SIDES[row["side"]]),
            snapshot,
            *common,
            _decimal(where, row["price"]),
            _decimal(where, row["amount"]),
        )
        found = cell and (cell[0], cell[2], bool(cell[3] & Flag.SNAPSHOT), *cell[4:9])
        check.compare(where, found, wanted)
    check.truths["snapshots"] = snapshots


def _cleared(common: tuple[Any, ...]) -> tuple[Any, ...]:
    return (int(Kind.MBO), int(Action.CLEAR), common[0])


def _compare_books(check: Check, rows: _Rows, cells: _Cells) -> None:
    """After each row the book of the cells shows exactly that row."""
    books: dict[Any, Book] = {}
    crossed = 0
    for where, row in rows:
        common = _common(row)
        wanted: Book = {int(Side.BID): {}, int(Side.ASK): {}}
        for name, side in (("bids", Side.BID), ("asks", Side.ASK)):
            for level in range(sum(key.startswith(f"{name}[") and key.endswith("price") for key in row)):
                price, size = (_decimal(where, row[f"{name}[{level}].{part}"]) for part in ("price", "amount"))
                if price is not None and size is not None:
                    wanted[int(side)][price] = size
        begins = common[0] not in books  # with a clear, even where the row is empty
        book = books.setdefault(common[0], {int(Side.BID): {}, int(Side.ASK): {}})
        if begins or book != wanted:
            _apply_event(book, cells, common, check, where)
        check.compare(where, book, wanted)
        if wanted[Side.BID] and wanted[Side.ASK] and max(wanted[Side.BID]) >= min(wanted[Side.ASK]):
            crossed += 1
            check.mismatch(f"{where}: the book is crossed")
    check.truths["crossed"] = crossed


def _apply_event(book: Book, cells: _Cells, common: tuple[Any, ...], check: Check, where: str) -> None:
    """Apply cells up to the one with LAST."""
    while (cell := cells.next_cell()) is not None:
        kind, action, side, flags, name, event, recv, price, size, _ = cell
        if (name, event, recv) != common:
            check.mismatch(f"{where}: the feed's record is of {name} at {event}")
        if action == Action.CLEAR:
            for levels in book.values():
                levels.clear()
        elif kind == Kind.MBP and size:
            book[side][price] = size
        else:
            book[side].pop(price, None)
        if flags & Flag.LAST:
            return
