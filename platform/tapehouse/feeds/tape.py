"""Our own history as a source: segment files, such as `tapehouse drain RING --to DIR` writes, read back as a feed.

Market records come out as they were recorded; definitions become instruments, under the ids that they have there. What
a desk wrote (orders, fills, commands, events, epochs) is no market data: it is left out, and counted by kind. The files
of a log follow each other by sequence, ordinal and digest, or it is an error. The torn end of the last file, which a
crash may leave, ends the feed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tapehouse.core.errors import DecodeError, IntegrityError, MissingError
from tapehouse.core.ids import slug
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import NO_OPTIONS, SourceOptions
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.log import decode_frame
from tapehouse.log.segment_file import Recovered, recover_segment_file
from tapehouse.market import (
    KIND_SKIPPED_FROM,
    Cells,
    Instrument,
    Kind,
    empty_cells,
    read_definition,
    record_starts,
    records_of,
    whole_records,
)

SUFFIXES = (".seg", ".tape")
MARKET_KINDS = (Kind.MBO, Kind.MBP, Kind.QUOTE, Kind.TRADE, Kind.STATUS, Kind.OPTION_QUOTE, Kind.GAP)
_CELLS_PER_BYTE = 1 / 12  # of a compressed frame, for the estimate
_KNOWN = {int(kind) for kind in Kind}


class TapeFeed:
    """The segment files of one log.

    Args:
        paths: Files, or one directory of them.
        batch_cells: About how many cells a batch holds.

    Attributes:
        left_out: Records that are no market data, by kind, in the latest pass.
        corrected_times: Receive times that went backwards and were held.
        cut_bytes: Torn bytes at the end of the last file.

    Raises:
        MissingError: There is no such file, or none in the directory.
        DecodeError: Already the first file is damaged.
    """

    def __init__(self, paths: Sequence[Path | str], *, batch_cells: int = BATCH_CELLS_MAX) -> None:
        self._paths = _files_of([Path(path) for path in paths])
        self._batch_cells = min(max(batch_cells, 1), BATCH_CELLS_MAX)
        self.left_out: Counter[str] = Counter()
        self.corrected_times = 0
        self.cut_bytes = 0
        self._name = ""
        found: dict[int, Instrument] = {}
        try:
            for name, _, cells in _frames(self._paths, []):
                self._name = name
                for _, record in records_of(cells, Kind.DEFINITION):
                    instrument = read_definition(record)
                    found[instrument.id] = instrument
        except DecodeError:
            if not self._name:
                raise
        self._instruments = tuple(found[number] for number in sorted(found))

    @property
    def name(self) -> str:
        """`replayed-<log>`."""
        return slug(f"replayed-{self._name}")

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """As the log defines them, each by its last definition."""
        return self._instruments

    @property
    def cells_estimate(self) -> int | None:
        """From the files' sizes."""
        return max(int(sum(path.stat().st_size for path in self._paths) * _CELLS_PER_BYTE), 1)

    def batches(self) -> Iterator[Cells]:
        """The log from its first file on; each call is a new pass.

        Raises:
            DecodeError: A file is damaged, is missing, or has a record of no defined instrument.
        """
        self.left_out.clear()
        self.corrected_times = self.cut_bytes = 0
        latest = np.int64(0)
        defined = np.array([0, *(instrument.id for instrument in self._instruments)], np.int64)
        waiting = empty_cells(0)
        failure: DecodeError | None = None
        cuts: list[int] = []
        frames = _frames(self._paths, cuts)
        while failure is None:
            try:
                _, where, cells = next(frames)
                kept = self._market(cells, where)
            except StopIteration:
                break
            except DecodeError as error:
                failure = error
                break
            if len(kept) == 0:
                continue
            strange = ~np.isin(kept["instrument"], defined)
            if strange.any():
                at = int(np.argmax(strange))
                failure = DecodeError(f"instrument {kept['instrument'][at]} is not defined", subject=where)
                kept = kept[:at]
            held = np.maximum(np.maximum.accumulate(_first_times(kept)), latest) if len(kept) else None
            if held is not None:
                firsts = kept["cells"] > 0
                self.corrected_times += int((firsts & (held != kept["ts_recv"])).sum())
                kept["ts_recv"][firsts] = held[firsts]
                latest = held[-1]
            waiting = np.concatenate((waiting, kept))
            while len(waiting) >= self._batch_cells:
                size = whole_records(waiting, self._batch_cells)
                yield waiting[:size]
                waiting = waiting[size:]
        while len(waiting):
            size = whole_records(waiting, self._batch_cells)
            yield waiting[:size]
            waiting = waiting[size:]
        self.cut_bytes = sum(cuts)
        if failure is not None:
            raise failure

    def _market(self, cells: Cells, where: str) -> Cells:
        """The market records of a frame; every other record is counted."""
        keep = np.isin(cells["kind"], [int(kind) for kind in MARKET_KINDS])
        starts = record_starts(cells)
        others = cells["kind"][starts[~keep[starts]]]
        for number, count in zip(*np.unique(others, return_counts=True), strict=True):
            if int(number) not in _KNOWN and number < KIND_SKIPPED_FROM:
                raise DecodeError(f"records of kind {number} are not known", subject=where, hint="upgrade tapehouse")
            self.left_out[Kind(number).name.lower() if int(number) in _KNOWN else str(number)] += int(count)
        return cells[keep].copy()


def _first_times(cells: Cells) -> np.ndarray:
    """Each cell's receive time; an extension has its record's, for its own bytes there are something else."""
    lengths = cells["cells"]
    places = np.maximum.accumulate(np.where(lengths > 0, np.arange(len(cells)), 0))
    times: np.ndarray = cells["ts_recv"][places]
    return times


def _files_of(paths: list[Path]) -> list[Path]:
    """The files, in the order of their names; a directory stands for those in it."""
    files = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        elif path.is_file():
            files.append(path)
        else:
            raise MissingError("there is no such file", subject=str(path))
    if not files:
        where = ", ".join(map(str, paths)) or "nothing given"
        raise MissingError("there are no segment files", subject=where, hint="tapehouse drain RING --to DIR")
    return files


def _frames(paths: list[Path], cuts: list[int]) -> Iterator[tuple[str, str, Cells]]:
    """Every frame: its log's name, where it is, its cells; each held against the one before it.

    Args:
        cuts: Gets the torn bytes at the end of each file.

    Raises:
        DecodeError: A file is damaged, or does not go on where the one before it ended.
    """
    before: Recovered | None = None
    ordinal: int | None = None
    for path in paths:
        try:
            found = recover_segment_file(path)
        except IntegrityError as error:
            raise DecodeError(error.message, subject=path.name, position=error.position, hint=error.hint) from error
        cuts.append(found.cut_bytes)
        if before is not None:
            _require_chain(path, before, found)
        for message in found.messages:
            where = f"{path.name}, message {message.sequence}"
            try:
                header, cells = decode_frame(message.payload)
            except DecodeError as error:
                raise DecodeError(error.message, subject=where, position=error.position) from error
            if ordinal is not None and header.first_ordinal != ordinal:
                raise DecodeError(f"it begins with cell {header.first_ordinal}, not {ordinal}", subject=where)
            ordinal = header.next_ordinal
            yield found.header.name, where, cells
        before = found


def _require_chain(path: Path, before: Recovered, found: Recovered) -> None:
    following = before.header.first + len(before.messages)
    same = found.header.log_id == before.header.log_id and found.header.head_before == before.head_after
    if not before.finished or not same or found.header.first != following:
        raise DecodeError(
            "it does not go on where the file before it ended",
            subject=path.name,
            hint="a file is missing or unfinished, or is of another log",
        )


def open_files(paths: Sequence[Path], options: SourceOptions = NO_OPTIONS) -> TapeFeed:
    """The feed over segment files, or over a directory of them."""
    return TapeFeed(paths)


def check_files(paths: Sequence[Path], options: SourceOptions = NO_OPTIONS) -> Check:
    """Every file's own digests, the chain from file to file, the ordinals of frames, and defined instruments.

    What is damaged in the middle is an error; torn bytes at the end are a mismatch, as are times that went backwards.
    """
    feed = TapeFeed(paths)
    check = Check()
    for cells in feed.batches():
        check.rows += int((cells["cells"] > 0).sum())
    check.compared = check.rows
    if feed.cut_bytes:
        check.mismatch(f"{feed.cut_bytes} bytes at the end are no whole message")
    if feed.corrected_times:
        check.mismatch(f"{feed.corrected_times} receive times go backwards")
    check.truths["instruments"] = len(feed.instruments)
    check.truths |= {f"left_out_{name}": count for name, count in sorted(feed.left_out.items())}
    return check
