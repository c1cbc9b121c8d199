"""Tardis.dev's normalized CSV: which kind a file is, and its rows as integers in one unit for the whole file.

All kinds begin with exchange, symbol, timestamp and local_timestamp (microseconds); columns are found by their names.
What unit holds every price and every amount exactly is found by reading the file once, before the first batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import gcd
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.packed_files import PackedFile
from tapehouse.feeds.typed_rows import Block, DoesNotFitError, Texts, Type, TypedRows
from tapehouse.market import Instrument

INCREMENTAL, SNAPSHOTS, TRADES, QUOTES = "incremental_book_L2", "book_snapshot", "trades", "quotes"
LEVELS_MAX = 200
PRICE_EXPONENTS = (-9, -12, -15, -6)  # tried in this order
SIZE_EXPONENTS = (-9, -12, -15, -6, -3, 0)
TIME_MAX = 9_000_000_000_000_000  # microseconds; the year 2255
_COMMON = ("exchange", "symbol", "timestamp", "local_timestamp")
_KINDS = {
    INCREMENTAL: ("is_snapshot", "side", "price", "amount"),
    TRADES: ("id", "side", "price", "amount"),
    QUOTES: ("ask_amount", "ask_price", "bid_price", "bid_amount"),
}
_LEVEL = re.compile(r"(asks|bids)\[(\d{1,3})\]\.(price|amount)")
_TEXTS = ("exchange", "symbol", "is_snapshot", "side")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the columns of one file are."""

    kind: str
    levels: int  # of book snapshots, else 0
    columns: dict[str, int]  # by name
    types: tuple[Type, ...]

    def exponents(self, price: int, size: int) -> list[int]:
        """Each column's unit."""
        found = [0] * len(self.types)
        for name, column in self.columns.items():
            if name.endswith("price"):
                found[column] = price
            elif name.endswith("amount"):
                found[column] = size
        return found

    def matching(self, ending: str) -> list[int]:
        """The columns whose names end so, in order."""
        return [column for name, column in self.columns.items() if name.endswith(ending)]

    def side_columns(self, side: str) -> list[int]:
        """Of a book snapshot: price and amount of each level of `bids` or `asks`."""
        parts = ("price", "amount")
        return [self.columns[f"{side}[{level}].{part}"] for level in range(self.levels) for part in parts]


def read_layout(header: tuple[str, ...], title: str) -> Layout:
    """What a header says; raises DecodeError where it is none of the kinds."""
    columns = {name: at for at, name in enumerate(header)}
    if len(columns) != len(header) or not set(_COMMON) <= set(columns):
        raise DecodeError(
            "this is no header of a normalized Tardis file",
            subject=title,
            position="line 1",
            hint=f"it begins with {','.join(_COMMON)}",
        )
    levels = {int(match[2]) for name in header if (match := _LEVEL.fullmatch(name))}
    kind = next((name for name, own in _KINDS.items() if set(own) <= set(columns)), "")
    if levels:
        kind = SNAPSHOTS
        wanted = {f"{side}[{at}].{part}" for side in ("asks", "bids") for at in levels for part in ("price", "amount")}
        if max(levels) + 1 != len(levels) or len(levels) > LEVELS_MAX or not wanted <= set(columns):
            raise DecodeError("its levels are not complete", subject=title, position="line 1")
    if not kind:
        what = "derivative_ticker" if "funding_rate" in columns else "this kind of Tardis file"
        raise DecodeError(
            f"{what} has no cells",
            subject=title,
            position="line 1",
            hint="supported: incremental_book_L2, book_snapshot_N, trades, quotes",
        )
    return Layout(
        kind=kind,
        levels=len(levels),
        columns=columns,
        types=tuple(_type(name, optional=kind in (SNAPSHOTS, QUOTES)) for name in header),
    )


def _type(name: str, *, optional: bool) -> Type:
    if name in _TEXTS:
        return Type.TEXT
    if name == "id":
        return Type.ID
    if name in ("timestamp", "local_timestamp"):
        return Type.NUMBER
    if name.endswith(("price", "amount")):
        return Type.NUMBER_OR_EMPTY if optional else Type.NUMBER
    return Type.SKIP


@dataclass(slots=True, kw_only=True)
class TardisFile:
    """One file, surveyed: its layout, its texts, its units and its instruments."""

    path: Path
    layout: Layout
    texts: Texts
    price_exponent: int
    size_exponent: int
    instruments: tuple[Instrument, ...]
    ids: dict[tuple[int, int], int]  # by the numbers of exchange and symbol

    @contextmanager
    def open(self) -> Iterator[TypedRows]:
        """The rows from the beginning."""
        with _opened(self.path) as rows:
            rows.begin(self.layout.types, self.layout.exponents(self.price_exponent, self.size_exponent), self.texts)
            yield rows

    def own_ids(self, block: Block) -> npt.NDArray[np.int64]:
        """The instrument of each row."""
        exchanges, symbols = (block[:, self.layout.columns[name]] for name in ("exchange", "symbol"))
        keys = (exchanges << 32) | symbols
        if (keys == keys[0]).all():
            return np.full(len(keys), self.ids[int(exchanges[0]), int(symbols[0])], np.int64)
        found, places = np.unique(keys, return_inverse=True)
        own = [self.ids[key >> 32, key & 0xFFFF_FFFF] for key in found.tolist()]
        return np.array(own, np.int64)[places]


@contextmanager
def _opened(path: Path) -> Iterator[TypedRows]:
    with PackedFile(path) as file:
        yield TypedRows(file, file.title, header=True)


@dataclass(slots=True)
class _Steps:
    """The greatest steps that divide an instrument's prices and amounts."""

    price: int = 0
    size: int = 0


@dataclass(slots=True)
class _Survey:
    layout: Layout
    texts: Texts
    steps: dict[tuple[int, int], _Steps] = field(default_factory=dict)

    def add(self, block: Block) -> None:
        """The instruments and the numbers of some rows."""
        exchanges, symbols = (block[:, self.layout.columns[name]] for name in ("exchange", "symbol"))
        for key in np.unique((exchanges << 32) | symbols).tolist():
            pair = (key >> 32, key & 0xFFFF_FFFF)
            mine = block[(exchanges == pair[0]) & (symbols == pair[1])]
            steps = self.steps.setdefault(pair, _Steps())
            steps.price = gcd(steps.price, _step(mine[:, self.layout.matching("price")]))
            steps.size = gcd(steps.size, _step(mine[:, self.layout.matching("amount")]))


def _step(values: Block) -> int:
    flat = values.ravel()
    return int(np.gcd.reduce(np.where(flat == UNDEFINED, 0, flat), initial=0))


def survey_file(path: Path) -> TardisFile:
    """Read a file once for its units and instruments; what stands behind damage is not asked.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is none of Tardis' kinds, its first row is damaged, or no unit holds its numbers.
    """
    tried = {"price": 0, "amount": 0}
    choices = {"price": PRICE_EXPONENTS, "amount": SIZE_EXPONENTS}
    while True:
        price, size = (choices[name][tried[name]] for name in ("price", "amount"))
        with _opened(path) as rows:
            layout = read_layout(rows.header, rows.title)
            found = _Survey(layout, Texts())
            rows.begin(layout.types, layout.exponents(price, size), found.texts)
            try:
                while len(block := rows.read()):
                    found.add(block)
            except DoesNotFitError as error:
                name = rows.header[error.column].rpartition(".")[2].rpartition("_")[2]
                if name not in tried or tried[name] + 1 == len(choices[name]):
                    if not found.steps:
                        raise
                else:
                    tried[name] += 1
                    continue
            except DecodeError:
                if not found.steps:
                    raise
        return _surveyed(path, found, price, size)


def _surveyed(path: Path, found: _Survey, price: int, size: int) -> TardisFile:
    instruments, ids = [], {}
    for number, (pair, steps) in enumerate(sorted(found.steps.items(), key=lambda item: item[0]), 1):
        exchange, symbol = found.texts[pair[0]], found.texts[pair[1]]
        ids[pair] = number
        instruments.append(
            Instrument(
                id=number,
                symbol=symbol,
                venue=exchange,
                asset_class="crypto",
                price_exponent=price,
                size_exponent=size,
                tick_size=steps.price or 1,
                lot_size=steps.size or 1,
            )
        )
    return TardisFile(
        path=path,
        layout=found.layout,
        texts=found.texts,
        price_exponent=price,
        size_exponent=size,
        instruments=tuple(instruments),
        ids=ids,
    )
