"""Any CSV or Parquet file whose columns a mapping explains: trades, quotes, levels or orders.

Rows come in the file's order. A time that goes back is an error that names the row, unless the mapping says
`sorted = false`: then `ts_recv` is held at the latest time, and counted. Nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DataError, DecodeError, UsageError
from tapehouse.core.ids import slug
from tapehouse.core.units import NS_PER_SECOND, UNDEFINED, to_fixed
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import NO_OPTIONS, SourceOptions, one_file
from tapehouse.feeds.level_events import LevelEvents
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.feeds.table_check import check_table
from tapehouse.feeds.table_mapping import (
    LEVEL,
    ORDER,
    QUOTE,
    SNAPSHOT_ACTION,
    TRADE,
    Constant,
    Mapping,
    read_mapping,
)
from tapehouse.feeds.table_rows import open_rows, sources_of, type_of
from tapehouse.feeds.typed_rows import TIME_MAX, Block, Texts, Type, TypedRows
from tapehouse.market import Action, Cells, Flag, Instrument, Kind, Side, empty_cells, whole_records

_HOUR_NS = 3600 * NS_PER_SECOND
_ROW_BYTES = 60
_KINDS = {TRADE: Kind.TRADE, QUOTE: Kind.QUOTE, LEVEL: Kind.MBP, ORDER: Kind.MBO}
_PRICES = {TRADE: ("price",), QUOTE: ("bid", "ask"), LEVEL: ("price",), ORDER: ("price",)}
_SIZES = {TRADE: ("size",), QUOTE: ("bid_size", "ask_size"), LEVEL: ("size",), ORDER: ("size",)}


@dataclass(slots=True)
class _Steps:
    """The greatest steps that divide an instrument's prices and sizes."""

    price: int = 0
    size: int = 0


@dataclass(slots=True)
class _Table:
    """A file with its mapping, its texts, and what was surveyed."""

    path: Path
    mapping: Mapping
    texts: Texts = field(default_factory=Texts)
    ids: dict[tuple[int, int], int] = field(default_factory=dict)  # by the numbers of symbol and venue
    steps: dict[tuple[int, int], _Steps] = field(default_factory=dict)

    def column(self, block: Block, places: dict[str, int], role: str) -> npt.NDArray[np.int64] | None:
        """A role's values: of its column, or its constant; None where the mapping has none."""
        if role in places:
            values: npt.NDArray[np.int64] = block[:, places[role]]
            return values
        source = sources_of(self.mapping).get(role)
        if not isinstance(source, Constant):
            return None
        return np.full(len(block), self.constant(role, source), np.int64)

    def constant(self, role: str, source: Constant) -> int:
        """What a constant is in its role's unit; raises DecodeError where it is none."""
        kind, exponent = type_of(role, self.mapping)
        if kind == Type.TEXT:
            return self.texts.number(source.value)
        try:
            return to_fixed(source.value, exponent)
        except DataError as error:
            raise DecodeError(error.message, subject="the mapping", position=f"key columns.{role}") from error

    def survey(self) -> None:
        """Find every instrument and its steps; what stands behind damage is not asked."""
        with open_rows(self.path, self.mapping, self.texts) as (rows, places):
            try:
                while len(block := rows.read()):
                    self._survey_block(block, places)
            except DecodeError:
                if not self.steps:
                    raise
        self.ids = {pair: at for at, pair in enumerate(self.steps, 1)}

    def _survey_block(self, block: Block, places: dict[str, int]) -> None:
        symbols, venues = (self.column(block, places, role) for role in ("symbol", "venue"))
        assert symbols is not None
        assert venues is not None
        keys = (symbols << 32) | venues
        kind = self.mapping.kind
        for key in keys[np.sort(np.unique(keys, return_index=True)[1])].tolist():
            mine = block[keys == key]
            steps = self.steps.setdefault((key >> 32, key & 0xFFFF_FFFF), _Steps())
            for role in _PRICES[kind]:
                steps.price = _step(self.column(mine, places, role), steps.price)
            for role in _SIZES[kind]:
                steps.size = _step(self.column(mine, places, role), steps.size)

    def instruments(self) -> tuple[Instrument, ...]:
        """What the survey found, in the order of first use."""
        source = self.mapping.instrument
        return tuple(
            Instrument(
                id=self.ids[pair],
                symbol=self.texts[pair[0]],
                venue=self.texts[pair[1]],
                asset_class=source.asset_class,
                currency=source.currency,
                price_exponent=source.price_exponent,
                size_exponent=source.size_exponent,
                tick_size=steps.price or 1,
                lot_size=steps.size or 1,
            )
            for pair, steps in self.steps.items()
        )


def _step(values: npt.NDArray[np.int64] | None, initial: int) -> int:
    if values is None:
        return initial
    return int(np.gcd.reduce(np.where(values == UNDEFINED, 0, values), initial=initial))


class TableFeed:
    """One file.

    Args:
        path: CSV, plain or packed, or Parquet.
        mapping: What its columns are.
        batch_cells: About how many cells a batch holds.

    Attributes:
        corrected_times: Receive times that went backwards and were held, in the latest pass.

    Raises:
        MissingError: There is no such file.
        DecodeError: A column that the mapping names is not there, or the first row is bad.
    """

    def __init__(self, path: Path | str, mapping: Mapping, *, batch_cells: int = BATCH_CELLS_MAX) -> None:
        self._table = _Table(Path(path), mapping)
        self._batch_cells = min(max(batch_cells, 1), BATCH_CELLS_MAX)
        self._table.survey()
        self.mapping = mapping
        self.corrected_times = 0

    @property
    def name(self) -> str:
        """The file's name, made good as a tape's."""
        return slug(self._table.path.name.partition(".")[0])

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """By symbol and venue, in the order of first use."""
        return self._table.instruments()

    @property
    def cells_estimate(self) -> int | None:
        """From the file's size."""
        return max(self._table.path.stat().st_size // _ROW_BYTES, 1)

    def batches(self) -> Iterator[Cells]:
        """The file from its beginning; each call is a new pass.

        Raises:
            DecodeError: A row is bad.
        """
        self.corrected_times = 0
        decoding = _Decoding(self._table)
        waiting = empty_cells(0)
        failure: DecodeError | None = None
        with open_rows(self._table.path, self.mapping, self._table.texts) as (rows, places):
            while failure is None:
                try:
                    cells = decoding.take(rows, places)
                except DecodeError as error:
                    failure, cells = error, decoding.finish()
                if cells is None:
                    break
                waiting = np.concatenate((waiting, cells))
                while len(waiting) >= self._batch_cells:
                    size = whole_records(waiting, self._batch_cells)
                    yield waiting[:size]
                    waiting = waiting[size:]
                self.corrected_times = decoding.corrected_times
        waiting = np.concatenate((waiting, decoding.finish()))
        while len(waiting):
            size = whole_records(waiting, self._batch_cells)
            yield waiting[:size]
            waiting = waiting[size:]
        if failure is not None:
            raise failure


class _Decoding:
    """The state of one pass."""

    def __init__(self, table: _Table) -> None:
        self._table = table
        self._mapping = table.mapping
        self._latest = np.int64(0)
        self.corrected_times = 0
        self._events = LevelEvents(len(table.ids))
        self._places: dict[str, int] = {}
        self._failure: DecodeError | None = None

    def take(self, rows: TypedRows, places: dict[str, int]) -> Cells | None:
        """The cells of the next block; None at the end.

        Raises:
            DecodeError: A row is bad; the cells of those before it were given.
        """
        if self._failure is not None:
            raise self._failure
        self._places = places
        before = rows.rows_read
        block = rows.read()
        if len(block) == 0:
            return None
        word = rows.position().partition(" ")[0]
        first = before + (2 if word == "line" else 1)
        event, recv, bad = self._times(block)
        good, complaint = len(block), ""
        for what, wrong in {**bad, **self._wrong(block)}.items():
            if wrong.any() and int(np.argmax(wrong)) < good:
                good, complaint = int(np.argmax(wrong)), what
        if complaint:
            self._failure = DecodeError(complaint, subject=rows.title, position=f"{word} {first + good}")
        if good == 0:
            return empty_cells(0)
        return self._decode(block[:good], event[:good], recv[:good], first)

    def finish(self) -> Cells:
        """What was held."""
        return self._events.finish()

    def _column(self, block: Block, role: str) -> npt.NDArray[np.int64] | None:
        return self._table.column(block, self._places, role)

    def _meaning(self, values: npt.NDArray[np.int64], words: dict[str, int]) -> npt.NDArray[np.int64]:
        """What each text means; -1 where nothing."""
        numbers, places = np.unique(values, return_inverse=True)
        meanings = [words.get(self._table.texts[number], -1) for number in numbers.tolist()]
        return np.array(meanings, np.int64)[places]

    def _times(
        self, block: Block
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], dict[str, npt.NDArray[np.bool_]]]:
        """Both times in UTC ns, and which rows' cannot be."""
        event = self._column(block, "ts_event")
        assert event is not None
        told = self._column(block, "ts_recv")
        wrong = (event <= 0) | (event > TIME_MAX)
        if told is not None:
            wrong |= (told <= 0) | (told > TIME_MAX)
        event = self._in_utc(np.clip(event, 0, TIME_MAX))
        recv = event if told is None else self._in_utc(np.clip(told, 0, TIME_MAX))
        before = np.concatenate(([self._latest], recv[:-1]))
        back = recv < before if self._mapping.sorted else np.zeros(len(block), bool)
        return event, recv, {"a time is outside the years 1970 to 2116": wrong, _BACKWARDS: back}

    def _in_utc(self, times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Times without a zone are the mapping's; each hour of its clock has one offset."""
        zone = self._mapping.zone
        if zone is None:
            return times
        hours, places = np.unique(times // _HOUR_NS, return_inverse=True)
        offsets = []
        for hour in hours.tolist():
            naive = datetime.fromtimestamp(hour * 3600, UTC).replace(tzinfo=zone)
            offset = naive.utcoffset()
            offsets.append(0 if offset is None else int(offset.total_seconds()) * NS_PER_SECOND)
        return times - np.array(offsets, np.int64)[places]

    def _wrong(self, block: Block) -> dict[str, npt.NDArray[np.bool_]]:
        """For each thing that may be wrong, in which rows it is."""
        found: dict[str, npt.NDArray[np.bool_]] = {}
        for role, words in (("side", self._mapping.side_values()), ("action", self._mapping.action_values())):
            values = self._column(block, role)
            if values is not None:
                found[f"its {role} is none of the mapping's {role}s"] = self._meaning(values, words) < 0
        for role in _SIZES[self._mapping.kind]:
            values = self._column(block, role)
            if values is not None:
                found[f"its {role} is negative"] = values < 0
        for role in ("order_id", "sequence"):
            values = self._column(block, role)
            if values is not None:
                found[f"its {role} is negative"] = values < 0
        return found

    def _decode(self, block: Block, event: npt.NDArray[np.int64], recv: npt.NDArray[np.int64], first: int) -> Cells:
        cells = empty_cells(len(block))
        held = np.maximum(np.maximum.accumulate(recv), self._latest)
        self.corrected_times += int((held != recv).sum())
        self._latest = held[-1]
        symbols, venues = self._column(block, "symbol"), self._column(block, "venue")
        assert symbols is not None
        assert venues is not None
        keys, places = np.unique((symbols << 32) | venues, return_inverse=True)
        own = [self._table.ids[key >> 32, key & 0xFFFF_FFFF] for key in keys.tolist()]
        sequence = self._column(block, "sequence")
        cells["ts_event"], cells["ts_recv"] = event, held
        cells["sequence"] = np.arange(first, first + len(block)) if sequence is None else sequence
        cells["instrument"], cells["cells"] = np.array(own, np.int64)[places], 1
        cells["kind"], cells["flags"] = _KINDS[self._mapping.kind], Flag.LAST
        if self._mapping.kind == QUOTE:
            return self._quotes(block, cells)
        side, order = self._column(block, "side"), self._column(block, "order_id")
        cells["side"] = Side.NONE if side is None else self._meaning(side, self._mapping.side_values())
        cells["order_id"] = 0 if order is None else order
        cells["price"], cells["size"] = self._column(block, "price"), self._column(block, "size")
        if self._mapping.kind == TRADE:
            cells["action"] = Action.TRADE
            return cells
        return self._book(block, cells)

    def _quotes(self, block: Block, bids: Cells) -> Cells:
        """A side without a price is not there; one without a size column has the size 1 unit."""
        bids["cells"], bids["action"], bids["side"] = 2, Action.NONE, Side.NONE
        asks = bids.copy()
        asks["cells"] = 0
        for cells, role in ((bids, "bid"), (asks, "ask")):
            price, size = self._column(block, role), self._column(block, f"{role}_size")
            assert price is not None
            known = np.ones(len(block), np.int64) if size is None else size
            missing = (price == UNDEFINED) | (known == UNDEFINED) | (known == 0)
            cells["price"], cells["size"] = np.where(missing, UNDEFINED, price), np.where(missing, 0, known)
        return np.stack((bids, asks), axis=1).ravel()

    def _book(self, block: Block, cells: Cells) -> Cells:
        """Levels and orders: their actions, and where events end."""
        said = self._column(block, "action")
        actions = np.full(len(block), int(Action.MODIFY))
        if said is not None:
            actions = self._meaning(said, self._mapping.action_values())
        snapshot = actions == SNAPSHOT_ACTION
        actions[snapshot] = int(Action.ADD)
        flags = np.where(snapshot, int(Flag.SNAPSHOT), 0)
        if self._mapping.kind == LEVEL:
            gone = (cells["size"] == 0) | (actions == int(Action.CANCEL))
            actions = np.where(gone & (actions != int(Action.CLEAR)), int(Action.CANCEL), actions)
            cells["size"] = np.where(gone, 0, cells["size"])
            flags |= int(Flag.BY_PRICE)
        cells["action"], cells["flags"] = actions, flags
        event = self._column(block, "event")
        return self._events.take(cells, cells["sequence"].astype(np.int64) if event is None else event)


_BACKWARDS = "a time goes backwards; the mapping can allow it with sorted = false"


def open_files(paths: Sequence[Path], options: SourceOptions = NO_OPTIONS) -> TableFeed:
    """The feed over one file and the mapping of the options."""
    return TableFeed(one_file(paths, "table"), _mapping(options))


def check_files(paths: Sequence[Path], options: SourceOptions = NO_OPTIONS) -> Check:
    """The rows as Python reads them against the feed's cells, one by one; see `table_check`."""
    mapping = _mapping(options)
    path = one_file(paths, "table")
    return check_table(path, mapping, TableFeed(path, mapping))


def _mapping(options: SourceOptions) -> Mapping:
    if options.mapping is None:
        raise UsageError("a table does not say what its columns are", hint="give --mapping FILE.toml")
    mapping = read_mapping(options.mapping)
    changed: dict[str, Any] = {}
    for name in ("symbol", "venue"):
        value = getattr(options, name)
        if value is not None:
            changed[name] = Constant(value=value)
    if not changed:
        return mapping
    return mapping.model_copy(update={"instrument": mapping.instrument.model_copy(update=changed)})
