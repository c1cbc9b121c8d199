"""Ticks of US shares as LEAN packs them: what the names say, and the rows of one file as integers.

A zip holds one headerless CSV; times are milliseconds since midnight in New York, prices are 1e-4 USD. Six columns are
trades: time, price, size, exchange, sale condition, suspicious. Eight are quotes: time, bid price, bid size, ask price,
ask size, exchange, condition, suspicious. The day and the symbol stand in the names alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError, MissingError, UsageError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.packed_files import PackedFile
from tapehouse.feeds.typed_rows import Block, Texts, Type, TypedRows

TRADE_COLUMNS, QUOTE_COLUMNS = 6, 8
DAY_NS = 90_000 * NS_PER_SECOND  # the longest: 25 hours
_NS_IN_MS, _FIXED_IN_ROW = -6, -5  # exponents that make ns of ms, and 1e-9 of 1e-4
_TRADE_TYPES = (Type.NUMBER, Type.NUMBER, Type.NUMBER, Type.TEXT, Type.TEXT, Type.NUMBER)
_QUOTE_TYPES = (Type.NUMBER,) * 5 + (Type.TEXT, Type.TEXT, Type.NUMBER)
_TRADE_UNITS = (_NS_IN_MS, _FIXED_IN_ROW, 0, 0, 0, 0)
_QUOTE_UNITS = (_NS_IN_MS, _FIXED_IN_ROW, 0, _FIXED_IN_ROW, 0, 0, 0, 0)
_MEMBER = re.compile(r"(?P<day>\d{8})_(?P<symbol>[A-Za-z0-9.]+)_(?P<kind>[A-Za-z]+)_(?P<other>[A-Za-z]+)\.csv$")
_FILE = re.compile(r"^(?P<day>\d{8})_(trade|quote)\.(zip|csv)$")
_BARS = ("minute", "second", "hour", "daily")
_CONDITION_MAX = 2**32 - 1

# The consolidated tape's letters of exchanges.
VENUES = {
    "A": "XASE",
    "B": "XBOS",
    "C": "XCIS",
    "D": "FINR",
    "I": "XISX",
    "J": "EDGA",
    "K": "EDGX",
    "M": "XCHI",
    "N": "XNYS",
    "P": "ARCX",
    "Q": "XNAS",
    "T": "XNAS",
    "V": "IEXG",
    "W": "CBSX",
    "X": "XPHL",
    "Y": "BATY",
    "Z": "BATS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TickFile:
    """One file of trades or of quotes."""

    path: Path
    title: str
    columns: int
    day: date
    symbol: str

    @property
    def trades(self) -> bool:
        """Whether it holds trades, else quotes."""
        return self.columns == TRADE_COLUMNS

    @property
    def midnight_ns(self) -> int:
        """Midnight of its day in New York, UTC ns."""
        try:
            zone = ZoneInfo("America/New_York")
        except ZoneInfoNotFoundError as error:
            raise MissingError("the time zone America/New_York is not known here", hint="install tzdata") from error
        return int(datetime(self.day.year, self.day.month, self.day.day, tzinfo=zone).timestamp()) * NS_PER_SECOND

    @contextmanager
    def open(self, texts: Texts) -> Iterator[TypedRows]:
        """Its rows: times in ns since midnight, prices in 1e-9 USD, sizes in shares, texts by number."""
        with PackedFile(self.path) as file:
            rows = TypedRows(file, file.title, header=False)
            rows.begin(
                _TRADE_TYPES if self.trades else _QUOTE_TYPES,
                _TRADE_UNITS if self.trades else _QUOTE_UNITS,
                texts,
            )
            yield rows


def find_file(path: Path, options: SourceOptions) -> TickFile:
    """What a file is, by its names and its first line.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is none of ticks.
        UsageError: Neither its names nor the options say its day or its symbol.
    """
    with PackedFile(path) as file:
        first = file.read(4096) or b""
        title, member = file.title, file.member
    columns = first.split(b"\n", 1)[0].count(b",") + 1
    inside = _MEMBER.search(member or path.name)
    if inside is not None and inside["kind"].lower() in _BARS:
        raise DecodeError(f"{inside['kind']} bars have no cells", subject=title, hint="give the ticks")
    if columns not in (TRADE_COLUMNS, QUOTE_COLUMNS):
        raise DecodeError(
            f"{columns} columns; ticks have {TRADE_COLUMNS} (trades) or {QUOTE_COLUMNS} (quotes)",
            subject=title,
            position="line 1",
        )
    outside = _FILE.match(path.name)
    day, symbol = options.day, options.symbol
    for found in (inside, outside):
        if found is not None and day is None:
            day = _day(found["day"], title)
    if symbol is None:
        symbol = inside["symbol"].upper() if inside else path.resolve().parent.name.upper() if outside else None
    if day is None or symbol is None:
        missing = "day" if day is None else "symbol"
        raise UsageError(
            f"the file's names do not say its {missing}",
            subject=title,
            hint="give --date and --symbol, or keep names such as ibm/20131008_trade.zip",
        )
    return TickFile(path=path, title=title, columns=columns, day=day, symbol=symbol)


def _day(text: str, title: str) -> date:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError as error:
        raise DecodeError(f"{text} is no day", subject=title) from error


def first_bad_row(block: Block, conditions: npt.NDArray[np.int64], *, trades: bool) -> int:
    """The first row whose numbers cannot be; the number of rows where there is none.

    Args:
        conditions: What each number of a text is as a sale condition; -1 where it is none.
    """
    time, suspicious = block[:, 0], block[:, -1]
    bad = (time < 0) | (time >= DAY_NS) | (suspicious < 0) | (suspicious > 1)
    bad |= conditions[block[:, -2]] < 0
    bad |= (block[:, 1 : len(block[0]) - 3] < 0).any(axis=1)
    if trades:
        bad |= (block[:, 1] == 0) | (block[:, 2] == 0)
    return int(np.argmax(bad)) if bad.any() else len(block)


def condition_of(text: str) -> int:
    """The 32 bits of a condition in hex; -1 where it is none."""
    if not re.fullmatch(r"[0-9a-fA-F]{1,8}", text):
        return -1
    return min(int(text, 16), _CONDITION_MAX)
