"""Databento's DBN files, versions 1 to 3, plain or zstd, decoded to cells a run of equal records at a time.

Market by order, trades, quotes of every kind, ten-level books and status become cells; definitions become instruments.
Records of other types inside a mixed file (bars, statistics, heartbeats) are counted in `skipped`; a file whose schema
has no cells is refused. Two things are put right, and counted: receive times that go backwards are held at the latest
one, and a snapshot that does not begin with a clear is given one, so that a second day does not double the book.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import databento_dbn
import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.core.ids import slug
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds import dbn_records as records_of_dbn
from tapehouse.feeds.batching import in_batches
from tapehouse.feeds.checking import Check
from tapehouse.feeds.dbn_check import check_dbn
from tapehouse.feeds.dbn_instruments import survey
from tapehouse.feeds.dbn_records import Bytes
from tapehouse.feeds.dbn_source import DbnStream, open_dbn
from tapehouse.feeds.dbn_summaries import BAR_SECONDS, SUMMARY_BYTES, extended, summary_cells
from tapehouse.feeds.formats import SourceOptions, one_file
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.market import Action, Cells, Flag, Instrument, Side, from_words, words

__all__ = ["SCHEMAS", "DbnFeed", "check_dbn"]

SCHEMAS = (
    "mbo",
    "mbp-1",
    "mbp-10",
    "tbbo",
    "trades",
    "bbo-1s",
    "bbo-1m",
    "cmbp-1",
    "cbbo-1s",
    "cbbo-1m",
    "tcbbo",
    "status",
    "definition",
    "ohlcv-1s",
    "ohlcv-1m",
    "ohlcv-1h",
    "ohlcv-1d",
    "ohlcv-eod",
    "statistics",
    "imbalance",
)
_BYTES_PER_RECORD = 56
_COMPRESSION = 4  # of zstd on market by order, for the estimate


class DbnFeed:
    """One file.

    Args:
        path: A `.dbn` or `.dbn.zst` file, or a sequence of just one.
        batch_cells: About how many cells a batch holds.

    Attributes:
        skipped: Records left out in the latest pass, by type.
        corrected_times: Receive times that went backwards and were held.
        inserted_clears: Snapshots that were given a clear.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is no DBN of a known version, or of a schema that has no cells.
    """

    def __init__(self, path: Path | str | Sequence[Path | str], *, batch_cells: int = BATCH_CELLS_MAX) -> None:
        if not isinstance(path, str | Path):
            if len(path) != 1:
                raise UsageError(f"a DBN feed reads one file, not {len(path)}", hint="record the days one by one")
            path = path[0]
        self._path = Path(path)
        self._batch_cells = min(max(batch_cells, 1), BATCH_CELLS_MAX)
        self.skipped: Counter[str] = Counter()
        self.corrected_times = 0
        self.inserted_clears = 0
        with open_dbn(self._path) as stream:
            self._metadata = stream.metadata
            schema = self.schema
            if schema is not None and schema not in SCHEMAS:
                raise DecodeError(
                    f"the schema {schema} has no cells",
                    subject=self._path.name,
                    hint=f"supported: {', '.join(SCHEMAS)}",
                )
            by_dbn_id = survey(stream)
        self._ids = np.array(list(by_dbn_id), np.int64)  # ascending
        self._own = np.array([instrument.id for instrument in by_dbn_id.values()], np.int64)
        self._instruments = tuple({instrument.id: instrument for instrument in by_dbn_id.values()}.values())

    @property
    def name(self) -> str:
        """The file's name, made good as a tape's."""
        return slug(self._path.name.removesuffix(".zst").removesuffix(".dbn"))

    @property
    def schema(self) -> str | None:
        """DBN's name of the schema; None where a file mixes them."""
        schema = self._metadata.schema
        return None if schema is None else str(schema)

    @property
    def metadata(self) -> Any:
        """What the file says of itself, as the DBN library reads it."""
        return self._metadata

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """From definitions in the file, else from its symbol mappings."""
        return self._instruments

    @property
    def own_ids(self) -> dict[int, int]:
        """The feed's instrument ids by DBN's."""
        return dict(zip(self._ids.tolist(), self._own.tolist(), strict=True))

    @property
    def cells_estimate(self) -> int | None:
        """From the file's size."""
        plain = self._path.stat().st_size * (_COMPRESSION if self._path.suffix == ".zst" else 1)
        return max(plain // _BYTES_PER_RECORD, 1)

    def batches(self) -> Iterator[Cells]:
        """The file from its beginning; each call is a new pass.

        Raises:
            DecodeError: A record is damaged, cut off, or of an instrument that the file does not name.
        """
        self.skipped.clear()
        self.corrected_times = self.inserted_clears = 0
        with open_dbn(self._path) as stream:
            yield from in_batches(self._decoded(stream), self._batch_cells)

    def _decoded(self, stream: DbnStream) -> Iterator[Cells]:
        """The cells of each run."""
        decoding = _Decoding(self._ids, self._own, len(self._instruments), mixed=self.schema is None)
        for rtype, run, position in stream.runs():
            cells = decoding.cells(rtype, run, stream.name, position)
            if cells is None:
                self.skipped[str(databento_dbn.RType.from_int(rtype))] += len(run)
                continue
            self.corrected_times, self.inserted_clears = decoding.corrected_times, decoding.inserted_clears
            yield cells


class _Decoding:
    """The state of one pass: the latest receive time, the ten-level books, which books were begun."""

    def __init__(
        self, ids: npt.NDArray[np.int64], own: npt.NDArray[np.int64], instruments: int, *, mixed: bool
    ) -> None:
        self._ids = ids
        self._own = own
        self._mixed = mixed  # records of several schemas
        self._latest = np.int64(0)
        self._known = np.full((instruments + 1, 2, records_of_dbn.BOOK_LEVELS, 3), UNDEFINED, np.int64)
        self._seen = np.zeros(instruments + 1, np.int64)
        self._snapshots_settled = np.zeros(instruments + 1, bool)
        self._snapshots_settled[0] = True
        self.corrected_times = 0
        self.inserted_clears = 0

    def cells(self, rtype: int, run: Bytes, subject: str, position: int) -> Cells | None:
        """The cells of a run; None where its type has none."""
        if rtype in SUMMARY_BYTES:
            firsts, owned = summary_cells(run, rtype)
            firsts["instrument"] = self._own_ids(firsts["instrument"], subject, position)
            if self._mixed and rtype in BAR_SECONDS:  # It came when it came, among records that bear their times.
                firsts["ts_recv"] = np.maximum(np.maximum.accumulate(firsts["ts_event"]), self._latest)
            self._mend_times(firsts)
            return extended(firsts, owned)
        if rtype not in records_of_dbn.RECORD_BYTES:
            return None
        records = records_of_dbn.read_records(run, rtype)
        if rtype == records_of_dbn.MBO:
            cells = records_of_dbn.mbo_cells(records)
        elif rtype == records_of_dbn.STATUS:
            cells = records_of_dbn.status_cells(records)
        elif rtype in records_of_dbn.QUOTES:
            cells = records_of_dbn.quote_cells(records, rtype)
        else:
            cells = records_of_dbn.trade_cells(records)
        cells["instrument"] = self._own_ids(cells["instrument"], subject, position)
        self._mend_times(cells)
        if rtype == records_of_dbn.MBO:
            return self._begin_snapshots(cells)
        if rtype == records_of_dbn.MBP_10:
            return self._depth(cells, run)
        return cells

    def _own_ids(self, numbers: npt.NDArray[Any], subject: str, position: int) -> npt.NDArray[np.int64]:
        wanted = numbers.astype(np.int64)
        places = np.searchsorted(self._ids, wanted)
        found = places < len(self._ids)
        found[found] = self._ids[places[found]] == wanted[found]
        if not found.all():
            number = int(wanted[np.argmin(found)])
            raise DecodeError(
                f"instrument {number} is not among the symbols that the file names",
                subject=subject,
                position=f"byte {position} and on",
                hint="the metadata is incomplete: request the file with stype_out=instrument_id",
            )
        return self._own[places]

    def _mend_times(self, cells: Cells) -> None:
        """Make `ts_recv` a running maximum; an undefined time takes the other one's place."""
        received = cells["ts_recv"]
        unknown = received == records_of_dbn.UNDEFINED_TIME
        received = np.where(unknown, cells["ts_event"], received)
        mended = np.maximum(np.maximum.accumulate(received), self._latest)
        firsts = cells["cells"] > 0
        self.corrected_times += int(((mended != cells["ts_recv"]) & firsts).sum())
        cells["ts_recv"] = mended
        timeless = cells["ts_event"] == records_of_dbn.UNDEFINED_TIME
        cells["ts_event"][timeless] = mended[timeless]
        self._latest = mended[-1]

    def _begin_snapshots(self, cells: Cells) -> Cells:
        """Put a clear before an instrument's first snapshot record, unless one came with it."""
        if self._snapshots_settled.all():
            return cells
        clears: list[int] = []
        snapshot = (cells["flags"] & int(Flag.SNAPSHOT)) != 0
        cleared = cells["action"] == Action.CLEAR
        for number in np.unique(cells["instrument"][snapshot | cleared]).tolist():
            if self._snapshots_settled[number]:
                continue
            self._snapshots_settled[number] = True
            first = int(np.argmax((cells["instrument"] == number) & (snapshot | cleared)))
            if not cleared[first]:
                clears.append(first)
        if not clears:
            return cells
        clears.sort()
        begun = cells[clears].copy()
        begun["order_id"], begun["price"], begun["size"] = 0, UNDEFINED, 0
        begun["action"], begun["side"] = Action.CLEAR, Side.NONE
        begun["flags"] = int(Flag.SNAPSHOT | Flag.SYNTHETIC)
        self.inserted_clears += len(clears)
        return np.insert(cells, clears, begun)

    def _depth(self, cells: Cells, run: Bytes) -> Cells:
        """What records of ten levels change in the books."""
        out = np.empty((len(cells) * records_of_dbn.DEPTH_CELLS_MAX, 8), np.int64)
        used = records_of_dbn.diff_depth(words(cells), records_of_dbn.depth_levels(run), self._known, self._seen, out)
        return from_words(out[:used].copy())


def open_files(paths: Sequence[Path], options: SourceOptions) -> DbnFeed:
    """The feed over one file."""
    return DbnFeed(one_file(paths, "dbn"))


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """Each instrument's book by the library's own decoder against ours; see `check_dbn` for what is told beside."""
    report = check_dbn(one_file(paths, "dbn"))
    return Check(
        rows=report["records"],
        compared=report["instruments"],
        mismatches=report.pop("mismatches"),
        first_mismatch=report.pop("first_mismatch"),
        truths=report,
    )
