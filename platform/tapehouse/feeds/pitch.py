"""Cboe's (BATS') PITCH as text, version 1: one line of fixed columns a message, behind an S.

Times count milliseconds from midnight in New York, so the day must be said. Executions and cancels name an order only:
the live ones are kept, as for ITCH. Lines of types that are no book, trade or clear are counted and left out.

| type | line without its S | becomes |
|---|---|---|
| A, d | time 8, type, id 12, side, shares 6, symbol 6 (d: 8), price 6 + 4, display; d: who | ADD |
| E, X | time 8, type, id 12, shares 6; E: execution 12 | TRADE, FILL and CANCEL; CANCEL |
| P, r | time 8, type, id 12, side, shares 6, symbol 6 (r: 8), price 6 + 4, execution 12 | TRADE |
| s | time 8, type, symbol 8 | CLEAR |
| B | time 8, type, execution 12 | nothing |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

import numpy as np

from tapehouse.core.errors import DecodeError
from tapehouse.core.ids import slug
from tapehouse.feeds import pitch_kernels as kernels
from tapehouse.feeds.byte_blocks import byte_blocks
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import SourceOptions, one_file
from tapehouse.feeds.new_york import UNKNOWN_DAY, midnight_ns
from tapehouse.feeds.order_table import grown, new_table
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.feeds.symbol_table import SymbolTable
from tapehouse.market import Cells, Instrument, from_words

_BYTES_PER_LINE = 38
_COMPRESSION = 6

_COMPLAINTS = {
    kernels.NO_START: "the line does not begin with S",
    kernels.BAD_LENGTH: "the line has not the length of its type",
    kernels.BAD_NUMBER: "a time, number or id is none",
    kernels.BAD_SIDE: "the side is neither B nor S",
    kernels.BAD_SIZE: "the number of shares is 0",
    kernels.BAD_PRICE: "the price is 0",
    kernels.TOO_LONG: f"the line is longer than {kernels.LINE_BYTES_MAX} bytes",
    kernels.TOO_MANY_SYMBOLS: "there are more symbols than a market has",
}


class PitchFeed:
    """One file, plain or gzip.

    Args:
        day: The trading day.
        batch_cells: About how many cells a batch holds.

    Attributes:
        tally, types: Of the latest pass: the slots of `pitch_kernels`; lines by the code of their type.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is empty.
    """

    def __init__(self, path: Path, *, day: date, batch_cells: int = BATCH_CELLS_MAX) -> None:
        self._path = path
        self._midnight = midnight_ns(day)
        self._batch_cells = min(max(batch_cells, 1), BATCH_CELLS_MAX)
        if not next(byte_blocks(path, 1), b""):
            raise DecodeError("the file is empty", subject=path.name, hint="download it again")
        self._surveyed = SymbolTable("BATS", kernels.PRICE_UNIT)
        self.tally = np.zeros(kernels.TALLY_SLOTS, np.int64)
        self.types = np.zeros(256, np.int64)
        with suppress(DecodeError):  # The batches meet the same damage, behind the lines that are good.
            for _ in self._pass(self._surveyed, sided=False):
                pass
        self._sided = bool(self.tally[kernels.SELLS])

    @property
    def name(self) -> str:
        """The file's name, made good as a tape's."""
        return slug(self._path.name.removesuffix(".gz").removesuffix(".txt"))

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """Every symbol that a line names, in the order of first use."""
        return self._surveyed.instruments

    @property
    def cells_estimate(self) -> int | None:
        """From the file's size."""
        plain = self._path.stat().st_size * (_COMPRESSION if self._path.suffix == ".gz" else 1)
        return max(plain // _BYTES_PER_LINE, 1)

    def batches(self) -> Iterator[Cells]:
        """The file from its beginning; each call is a new pass.

        Raises:
            DecodeError: A line is damaged, or the file is cut off.
        """
        yield from self._pass(self._surveyed.copied(), sided=self._sided)

    def _pass(self, table: SymbolTable, *, sided: bool) -> Iterator[Cells]:
        """One pass; `sided` where a trade says the side of the hidden order: newer files have B on all of them."""
        self.tally = np.zeros(kernels.TALLY_SLOTS, np.int64)
        self.types = np.zeros(256, np.int64)
        cursor = np.zeros(kernels.CURSOR_SLOTS, np.int64)
        fields = np.zeros(4, np.int64)
        rows = new_table()
        rest, final, failure = b"", False, None
        blocks = byte_blocks(self._path)
        while not final:
            try:
                block = next(blocks, b"")
            except DecodeError as error:
                block, failure = b"", error
            final = not block
            data = np.frombuffer(rest + block, np.uint8)
            cursor[kernels.AT] = 0
            status = kernels.ROOM_USED
            while status in (kernels.ROOM_USED, kernels.TABLE_FULL):
                if status == kernels.TABLE_FULL:
                    rows = grown(rows)
                out = np.empty((min(self._batch_cells + kernels.CELLS_PER_LINE_MAX, BATCH_CELLS_MAX), 8), np.int64)
                status = kernels.decode_lines(
                    data, cursor, rows, table.keys, table.known, table.tally, self.tally, self.types,
                    self._midnight, sided, final and failure is None, self._batch_cells, fields, out,
                )  # fmt: skip
                if cursor[kernels.USED]:
                    yield from_words(out[: cursor[kernels.USED]])
            if failure is not None:
                raise failure
            if status not in (kernels.DONE, kernels.CUT_OFF):
                line = int(cursor[kernels.LINES]) + 1
                raise DecodeError(_COMPLAINTS[status], subject=self._path.name, position=f"line {line}")
            rest = data[cursor[kernels.AT] :].tobytes()


def open_files(paths: Sequence[Path], options: SourceOptions) -> PitchFeed:
    """The feed over one file."""
    return PitchFeed(one_file(paths, "pitch"), day=options.day or UNKNOWN_DAY)


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """Every line against its type and its order, volumes against an answer beside the file; see `pitch_check`."""
    from tapehouse.feeds.pitch_check import check

    return check(one_file(paths, "pitch"), options.day or UNKNOWN_DAY)
