"""Trades and quotes of US shares as LEAN packs them; both files of a day may be given, and are merged by time.

A row of quotes carries one side of one exchange, so each exchange is an instrument of its own: a quote record states
both sides of that exchange, the one that the row does not tell as it was told last. A trade is on the instrument of its
exchange too; the consolidated tape is all instruments of the symbol. `sequence` is the line, `count` the 32 bits of the
condition, MAYBE_BAD_BOOK what the file calls suspicious. In one millisecond quotes come before trades.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.core.ids import slug
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import NO_OPTIONS, SourceOptions
from tapehouse.feeds.packing import BATCH_CELLS_MAX, COUNT_SHIFT, put_cell
from tapehouse.feeds.taq_check import check_ticks
from tapehouse.feeds.taq_source import VENUES, TickFile, condition_of, find_file, first_bad_row
from tapehouse.feeds.typed_rows import ROWS_PER_BLOCK, Block, Texts, TypedRows
from tapehouse.market import Action, Cells, Flag, Instrument, Kind, Side, empty_cells, from_words, whole_records

FILES_MAX = 2
_ROW_BYTES = 30
_PACKED = 7
_QUOTE_HEAD = int(Kind.QUOTE) << 48 | 2 << 56
_TRADE_HEAD = int(Kind.TRADE) << 48 | 1 << 56
_NO_SIDE, _LAST, _DOUBTFUL = int(Side.NONE), int(Flag.LAST), int(Flag.MAYBE_BAD_BOOK)
_QUOTE_TAIL = int(Action.NONE) | _NO_SIDE << 8 | _LAST << 16
_TRADE_TAIL = int(Action.TRADE) | _NO_SIDE << 8 | _LAST << 16
_EXTENSION_MASK = (1 << 56) - 1


@kernel()
def _trade_cells(block: Array, own: Array, bits: Array, midnight: Int, line: Int, latest: Array, out: Array) -> Int:
    """Rows of trades as cells; `latest[0]` is the running maximum of times, `latest[1]` counts what it held."""
    at = 0
    for row in range(len(block)):
        event = midnight + block[row, 0]
        latest[1] += 1 if event < latest[0] else 0
        latest[0] = max(latest[0], event)
        tail = _TRADE_TAIL | (bits[row] << COUNT_SHIFT) | ((_DOUBTFUL << 16) if block[row, 5] else 0)
        head = _TRADE_HEAD | own[row]
        at = put_cell(out, at, event, latest[0], line + row, 0, block[row, 1], block[row, 2], head, tail)
    return at


@kernel()
def _quote_cells(
    block: Array, own: Array, bits: Array, midnight: Int, line: Int, latest: Array, sides: Array, out: Array
) -> Int:
    """Rows of quotes as pairs of cells; `sides` holds each instrument's bid and ask, price and size."""
    at = 0
    for row in range(len(block)):
        event = midnight + block[row, 0]
        latest[1] += 1 if event < latest[0] else 0
        latest[0] = max(latest[0], event)
        mine = own[row]
        told = 1 if block[row, 1] or block[row, 2] or block[row, 3] or block[row, 4] else 0
        for side in range(2):
            price = block[row, 1 + 2 * side]
            size = block[row, 2 + 2 * side]
            if price != 0 and size != 0:
                sides[mine, side, 0] = price
                sides[mine, side, 1] = size
            elif price != 0 or size != 0 or told == 0:
                sides[mine, side, 0] = UNDEFINED
                sides[mine, side, 1] = 0
        tail = _QUOTE_TAIL | (bits[row] << COUNT_SHIFT) | ((_DOUBTFUL << 16) if block[row, 7] else 0)
        head = _QUOTE_HEAD | mine
        at = put_cell(out, at, event, latest[0], line + row, 0, sides[mine, 0, 0], sides[mine, 0, 1], head, tail)
        head &= _EXTENSION_MASK
        at = put_cell(out, at, event, latest[0], line + row, 0, sides[mine, 1, 0], sides[mine, 1, 1], head, tail)
    return at


class TaqFeed:
    """A day of one share: trades, quotes or both.

    Args:
        paths: One file, or a file of trades and one of quotes.
        batch_cells: About how many cells a batch holds.

    Attributes:
        corrected_times: Times that went backwards within a file and were held, in the latest pass.

    Raises:
        MissingError, DecodeError, UsageError: As `find_file` does; the files are not of one day and symbol.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        options: SourceOptions = NO_OPTIONS,
        *,
        batch_cells: int = BATCH_CELLS_MAX,
    ) -> None:
        if not 1 <= len(paths) <= FILES_MAX:
            raise UsageError(f"{len(paths)} files", subject="taq", hint="give trades, quotes, or one file of each")
        files = sorted((find_file(Path(path), options) for path in paths), key=lambda file: file.trades)
        if len({(file.day, file.symbol) for file in files}) > 1 or len({file.trades for file in files}) < len(files):
            raise UsageError(
                "they are not the trades and the quotes of one day and symbol", subject=files[0].title, hint=""
            )
        self.files = tuple(files)  # quotes before trades
        self._batch_cells = min(max(batch_cells, 1), BATCH_CELLS_MAX)
        self._texts = Texts()
        self._exchanges: dict[int, int] = {}  # instrument id by the number of the exchange's letter
        self.corrected_times = 0
        self._instruments = self._survey()

    def _survey(self) -> tuple[Instrument, ...]:
        """Every exchange with its tick, the greatest that divides its prices."""
        steps: dict[int, int] = {}
        for file in self.files:
            columns, exchange = ([1], 3) if file.trades else ([1, 3], 5)
            with file.open(self._texts) as rows:
                try:
                    while len(block := rows.read()):
                        for number in np.unique(block[:, exchange]).tolist():
                            prices = block[block[:, exchange] == number][:, columns].ravel()
                            steps[number] = int(np.gcd.reduce(prices, initial=steps.get(number, 0)))
                except DecodeError:
                    if not steps:
                        raise
        letters = sorted((self._texts[number], number) for number in steps)
        self._exchanges = {number: at for at, (_, number) in enumerate(letters, 1)}
        return tuple(
            Instrument(
                id=at,
                symbol=self.files[0].symbol,
                venue=VENUES.get(letter, letter),
                tick_size=steps[number] or 1,
            )
            for at, (letter, number) in enumerate(letters, 1)
        )

    @property
    def name(self) -> str:
        """`taq-<symbol>-<day>`."""
        return slug(f"taq-{self.files[0].symbol}-{self.files[0].day}")

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """The symbol at each exchange, by letter."""
        return self._instruments

    @property
    def cells_estimate(self) -> int | None:
        """From the files' sizes."""
        rows = [file.path.stat().st_size * _PACKED // _ROW_BYTES * (1 if file.trades else 2) for file in self.files]
        return max(sum(rows), 1)

    def batches(self) -> Iterator[Cells]:
        """The day from its beginning; each call is a new pass.

        Raises:
            DecodeError: A line is bad; everything up to the time before it was yielded.
        """
        self.corrected_times = 0
        with ExitStack() as stack:
            streams = [
                _Stream(file, stack.enter_context(file.open(self._texts)), self._texts, self._exchanges)
                for file in self.files
            ]
            waiting = empty_cells(0)
            for cells in _merged(streams):
                waiting = np.concatenate((waiting, cells)) if len(waiting) else cells
                while len(waiting) >= self._batch_cells:
                    size = whole_records(waiting, self._batch_cells)
                    yield waiting[:size]
                    waiting = waiting[size:]
            while len(waiting):
                size = whole_records(waiting, self._batch_cells)
                yield waiting[:size]
                waiting = waiting[size:]
            self.corrected_times = sum(stream.corrected_times for stream in streams)
            for stream in streams:
                if stream.failure is not None:
                    raise stream.failure


class _Stream:
    """The cells of one file, a block at a time; a failure ends it and is kept."""

    def __init__(self, file: TickFile, rows: TypedRows, texts: Texts, exchanges: dict[int, int]) -> None:
        self._file = file
        self._rows = rows
        self._texts = texts
        self._exchanges = exchanges
        self._owns = np.zeros(0, np.int64)
        self._conditions = np.zeros(0, np.int64)
        self._midnight = file.midnight_ns
        self._latest = np.zeros(2, np.int64)
        self._sides = np.zeros((len(exchanges) + 1, 2, 2), np.int64)
        self._sides[:, :, 0] = UNDEFINED
        self._out = np.empty((ROWS_PER_BLOCK * 2, 8), np.int64)
        self.cells = empty_cells(0)  # that were read and not taken
        self.ended = False
        self.failure: DecodeError | None = None

    @property
    def corrected_times(self) -> int:
        """Times held so far."""
        return int(self._latest[1])

    @property
    def reached(self) -> int:
        """Everything before this time has been read."""
        return int(self._latest[0])

    def read(self) -> None:
        """Add the cells of the next block."""
        line = self._rows.rows_read + 1
        try:
            block = self._rows.read()
        except DecodeError as error:
            self.failure, self.ended = error, True
            return
        self.ended = len(block) == 0
        if self.ended:
            return
        self._learn_texts()
        good = first_bad_row(block, self._conditions, trades=self._file.trades)
        if good < len(block):
            self.ended = True
            self.failure = DecodeError(
                "a number is not one that it can be", subject=self._rows.title, position=f"line {line + good}"
            )
        if good:
            made = self._decode(block[:good], line)
            self.cells = np.concatenate((self.cells, made)) if len(self.cells) else made

    def _decode(self, block: Block, line: int) -> Cells:
        own = self._owns[block[:, 3 if self._file.trades else 5]]
        bits = self._conditions[block[:, -2]]
        if self._file.trades:
            used = _trade_cells(block, own, bits, self._midnight, line, self._latest, self._out)
        else:
            used = _quote_cells(block, own, bits, self._midnight, line, self._latest, self._sides, self._out)
        return from_words(self._out[:used].copy())

    def _learn_texts(self) -> None:
        if len(self._owns) < len(self._texts):
            known = range(len(self._texts))
            self._owns = np.array([self._exchanges.get(at, 0) for at in known], np.int64)
            self._conditions = np.array([condition_of(self._texts[at]) for at in known], np.int64)

    def take_before(self, time: int | None) -> Cells:
        """The cells received before a time, or all of them; the rest stays."""
        end = len(self.cells) if time is None else int(np.searchsorted(self.cells["ts_recv"], time))
        taken, self.cells = self.cells[:end], self.cells[end:]
        return taken


def _merged(streams: list[_Stream]) -> Iterator[Cells]:
    """The streams' cells by time, earlier streams first where times are equal; ends where one has failed."""
    while True:
        open_streams = [stream for stream in streams if not stream.ended]
        if not open_streams:
            break
        slowest = min(open_streams, key=lambda stream: stream.reached)
        slowest.read()
        limits = [stream.reached for stream in streams if not stream.ended or stream.failure is not None]
        if any(stream.failure is not None for stream in streams):
            break
        cells = _in_order([stream.take_before(min(limits) if limits else None) for stream in streams])
        if len(cells):
            yield cells
    failed = [stream.reached for stream in streams if stream.failure is not None]
    behind = [stream for stream in streams if not stream.ended and failed and stream.reached <= min(failed)]
    for stream in behind:
        while not stream.ended and stream.reached <= min(failed):
            stream.read()
    cells = _in_order([stream.take_before(min(failed) + 1 if failed else None) for stream in streams])
    if len(cells):
        yield cells


def _in_order(parts: list[Cells]) -> Cells:
    cells = np.concatenate(parts)
    if sum(len(part) > 0 for part in parts) < 2:
        return cells
    order: npt.NDArray[np.int64] = np.argsort(cells["ts_recv"], kind="stable")
    return cells[order]


def open_files(paths: Sequence[Path], options: SourceOptions = NO_OPTIONS) -> TaqFeed:
    """The feed over trades, quotes or both."""
    return TaqFeed(paths, options)


def check_files(paths: Sequence[Path], options: SourceOptions = NO_OPTIONS) -> Check:
    """The lines as decimals against the feed's cells, and trades against bars that lie beside them; see `taq_check`."""
    feed = TaqFeed(paths, options)
    return check_ticks(feed.files, feed)
