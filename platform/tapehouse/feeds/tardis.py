"""Tardis.dev's normalized CSV, plain or packed, of one instrument or many: its kind is told by its header.

incremental_book_L2 becomes market-by-price cells (an amount of 0 removes a level); rows of is_snapshot that follow each
other are one snapshot, and the book is cleared at its first. book_snapshot_N becomes the levels that changed from row
to row. trades become trades, quotes become quotes. `ts_recv` is local_timestamp, held where it goes backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError
from tapehouse.core.ids import slug
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.batching import in_batches
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import NO_OPTIONS, SourceOptions, one_file
from tapehouse.feeds.level_events import LevelEvents
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.feeds.tardis_books import DECODED, diff_books
from tapehouse.feeds.tardis_check import check_tardis
from tapehouse.feeds.tardis_rows import (
    INCREMENTAL,
    QUOTES,
    SNAPSHOTS,
    TIME_MAX,
    TRADES,
    TardisFile,
    survey_file,
)
from tapehouse.feeds.typed_rows import Block, TypedRows
from tapehouse.market import (
    Action,
    Cells,
    Flag,
    Instrument,
    Kind,
    Side,
    empty_cells,
    from_words,
)

_NS_PER_US = 1_000
_ROW_BYTES = {INCREMENTAL: 75, QUOTES: 90}
_PACKED = 8
_BOOLEANS = {"true": 1, "false": 0}
_BOOK_SIDES = {"bid": int(Side.BID), "ask": int(Side.ASK)}
_AGGRESSORS = {"buy": int(Side.BID), "sell": int(Side.ASK), "unknown": int(Side.NONE)}


class TardisFeed:
    """One file.

    Args:
        path: `.csv`, plain or packed.
        batch_cells: About how many cells a batch holds.

    Attributes:
        corrected_times: Receive times that went backwards and were held, in the latest pass.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is none of the kinds that have cells.
    """

    def __init__(self, path: Path | str, *, batch_cells: int = BATCH_CELLS_MAX) -> None:
        self._file = survey_file(Path(path))
        self._batch_cells = min(max(batch_cells, 1), BATCH_CELLS_MAX)
        self.corrected_times = 0

    @property
    def name(self) -> str:
        """`tardis-<file>`."""
        return slug(f"tardis-{self._file.path.name.partition('.csv')[0]}")

    @property
    def kind(self) -> str:
        """Tardis' name of what the file holds."""
        return self._file.layout.kind

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """By exchange and symbol, in the order of first use; units and steps hold every number of the file."""
        return self._file.instruments

    @property
    def cells_estimate(self) -> int | None:
        """From the file's size."""
        path = self._file.path
        plain = path.stat().st_size * (1 if path.suffix == ".csv" else _PACKED)
        return max(plain // _ROW_BYTES.get(self.kind, 80), 1)

    def batches(self) -> Iterator[Cells]:
        """The file from its beginning; each call is a new pass.

        Raises:
            DecodeError: A line is bad.
        """
        self.corrected_times = 0
        decoding = _Decoding(self._file)
        with self._file.open() as rows:
            yield from in_batches(self._decoded(decoding, rows), self._batch_cells)

    def _decoded(self, decoding: _Decoding, rows: TypedRows) -> Iterator[Cells]:
        """The cells of each block; an event that damage cuts short ends with what there is of it."""
        waiting: list[Cells] = []
        ended = False
        while not ended:
            try:
                ended = not decoding.take(rows, waiting)
            except DecodeError:
                decoding.finish(waiting)
                yield from waiting
                raise
            self.corrected_times = decoding.corrected_times
            if ended:
                decoding.finish(waiting)
            yield from waiting
            waiting.clear()


class _Decoding:
    """The state of one pass."""

    def __init__(self, file: TardisFile) -> None:
        self._file = file
        self._layout = file.layout
        self.corrected_times = 0
        self._latest = np.int64(0)
        self._meanings: dict[str, npt.NDArray[np.int64]] = {}
        instruments = len(file.instruments) + 1
        self._events = LevelEvents(instruments - 1)
        levels = self._layout.levels
        self._known = np.full((instruments, 2, levels, 2), UNDEFINED, np.int64)
        self._seen = np.zeros(instruments, np.int64)
        self._out = np.empty((BATCH_CELLS_MAX + 4 * levels + 1, 8), np.int64)

    def take(self, rows: TypedRows, waiting: list[Cells]) -> bool:
        """Put the cells of the next block to those that wait; whether there was a block.

        Raises:
            DecodeError: A line is bad; the cells of those before it wait.
        """
        first_line = rows.rows_read + 2
        block = rows.read()
        if len(block) == 0:
            return False
        complaint = ""
        for name, allowed in self._allowed().items():
            bad = ~allowed(self._column(block, name))
            if bad.any():
                block = block[: int(np.argmax(bad))]
                complaint = f"{name} is not one of those that it can be"
        if len(block):
            done = self._decode(block, waiting)
            if done < len(block):
                block, complaint = block[:done], "its levels are not in order, or a size is not positive"
        if complaint:
            raise DecodeError(complaint, subject=rows.title, position=f"line {first_line + len(block)}")
        return True

    def _allowed(self) -> dict[str, Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]]:
        """Of each column that not every value does for, which do."""
        layout = self._layout
        allowed: dict[str, Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]] = {
            "timestamp": lambda values: (values > 0) & (values <= TIME_MAX),
            "local_timestamp": lambda values: (values > 0) & (values <= TIME_MAX),
        }
        for name in ("is_snapshot", "side"):
            if name in layout.columns and layout.kind in (INCREMENTAL, TRADES):
                allowed[name] = lambda values, name=name: self._meaning(name)[values] >= 0  # type: ignore[misc]
        if layout.kind in (INCREMENTAL, TRADES):
            allowed["amount"] = lambda values: values >= 0
        return allowed

    def _meaning(self, name: str) -> npt.NDArray[np.int64]:
        """What each text means in a column; -1 where nothing."""
        texts = self._file.texts
        if len(self._meanings.get(name, ())) < len(texts):
            words = _BOOLEANS if name == "is_snapshot" else _AGGRESSORS if self._layout.kind == TRADES else _BOOK_SIDES
            self._meanings[name] = np.array([words.get(texts[at], -1) for at in range(len(texts))], np.int64)
        return self._meanings[name]

    def _column(self, block: Block, name: str) -> npt.NDArray[np.int64]:
        column: npt.NDArray[np.int64] = block[:, self._layout.columns[name]]
        return column

    def _decode(self, block: Block, waiting: list[Cells]) -> int:
        """The cells of good rows; how many rows could be decoded."""
        own = self._file.own_ids(block)
        received = self._column(block, "local_timestamp") * _NS_PER_US
        held = np.maximum(np.maximum.accumulate(received), self._latest)
        self.corrected_times += int((held != received).sum())
        self._latest = held[-1]
        common = empty_cells(len(block))
        common["ts_event"], common["ts_recv"] = self._column(block, "timestamp") * _NS_PER_US, held
        common["instrument"], common["cells"] = own, 1
        if self._layout.kind == SNAPSHOTS:
            return self._books(block, common, waiting)
        if self._layout.kind == INCREMENTAL:
            waiting.append(self._levels(block, common))
        elif self._layout.kind == QUOTES:
            waiting.append(self._quotes(block, common))
        else:
            waiting.append(self._trades(block, common))
        return len(block)

    def _trades(self, block: Block, cells: Cells) -> Cells:
        cells["kind"], cells["action"], cells["flags"] = Kind.TRADE, Action.TRADE, Flag.LAST
        cells["side"] = self._meaning("side")[self._column(block, "side")]
        cells["price"], cells["size"] = self._column(block, "price"), self._column(block, "amount")
        cells["order_id"] = self._column(block, "id")
        return cells

    def _quotes(self, block: Block, bids: Cells) -> Cells:
        bids["kind"], bids["cells"] = Kind.QUOTE, 2
        bids["action"], bids["side"], bids["flags"] = Action.NONE, Side.NONE, Flag.LAST
        asks = bids.copy()
        asks["cells"] = 0
        for cells, side in ((bids, "bid"), (asks, "ask")):
            price, size = self._column(block, f"{side}_price"), self._column(block, f"{side}_amount")
            missing = (price == UNDEFINED) | (size == UNDEFINED)
            cells["price"], cells["size"] = np.where(missing, UNDEFINED, price), np.where(missing, 0, size)
        return np.stack((bids, asks), axis=1).ravel()

    def _levels(self, block: Block, cells: Cells) -> Cells:
        """Rows of incremental_book_L2; the last one is held until the next row says whether its event goes on."""
        amounts = self._column(block, "amount")
        snapshot = self._meaning("is_snapshot")[self._column(block, "is_snapshot")] == 1
        cells["kind"], cells["price"], cells["size"] = Kind.MBP, self._column(block, "price"), amounts
        cells["side"] = self._meaning("side")[self._column(block, "side")]
        changed = np.where(amounts == 0, int(Action.CANCEL), int(Action.MODIFY))
        cells["action"] = np.where(snapshot & (amounts > 0), int(Action.ADD), changed)
        cells["flags"] = np.where(snapshot, int(Flag.BY_PRICE | Flag.SNAPSHOT), int(Flag.BY_PRICE))
        return self._events.take(cells, self._column(block, "local_timestamp"))

    def finish(self, waiting: list[Cells]) -> None:
        """What was held ends its event."""
        waiting.append(self._events.finish())

    def _books(self, block: Block, common: Cells, waiting: list[Cells]) -> int:
        """Rows of book_snapshot_N; how many had levels in order."""
        levels = self._layout.levels
        columns = [*self._layout.side_columns("bids"), *self._layout.side_columns("asks")]
        books = np.ascontiguousarray(block[:, columns]).reshape(len(block), 2, levels, 2)
        times = np.stack((common["ts_event"], common["ts_recv"]), axis=1)
        owns = common["instrument"].astype(np.int64)
        used = np.zeros(2, np.int64)
        done, status = 0, DECODED
        while done < len(block) and status == DECODED:
            status = diff_books(times, owns, books, done, self._known, self._seen, BATCH_CELLS_MAX, self._out, used)
            done += int(used[1])
            if used[0]:
                waiting.append(from_words(self._out[: used[0]].copy()))
        return done


def open_files(paths: Sequence[Path], options: SourceOptions = NO_OPTIONS) -> TardisFeed:
    """The feed over one file."""
    return TardisFeed(one_file(paths, "tardis"))


def check_files(paths: Sequence[Path], options: SourceOptions = NO_OPTIONS) -> Check:
    """The feed's cells, folded, against the file read by Python's own csv and decimals; see `tardis_check`."""
    path = one_file(paths, "tardis")
    return check_tardis(path, TardisFeed(path))
