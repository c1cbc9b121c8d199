"""LOBSTER: a NASDAQ day as a message file and a book file, decoded to market-by-order cells.

The files show the best N levels only, so a full order book cannot be rebuilt from the messages. What the book file
reveals and nobody could have predicted comes as market-by-price cells behind the message's own, and is counted. Flag
LAST stands on the last cell of each row: there, the book that a consumer holds shows exactly the row's N levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tapehouse.core.errors import DecodeError
from tapehouse.core.ids import slug
from tapehouse.feeds import lobster_book as book_kernels
from tapehouse.feeds.checking import Check
from tapehouse.feeds.csv_rows import Rows, paired
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.lobster_check import LobsterCheck, check
from tapehouse.feeds.lobster_source import LobsterSource
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.market import Cells, Instrument, from_words

__all__ = ["LobsterCheck", "LobsterFeed", "check"]

_MESSAGE_BYTES = 40  # of an average line, for the estimate
_CELLS_PER_MESSAGE = 1.5

_COMPLAINTS = {
    book_kernels.BAD_TYPE: ("message", "the type is none of LOBSTER's 1 to 7"),
    book_kernels.BAD_DIRECTION: ("message", "the direction is neither 1 nor -1"),
    book_kernels.BAD_SIZE: ("message", "the size is not positive"),
    book_kernels.BAD_PRICE: ("message", "the price is not positive"),
    book_kernels.BAD_HALT: ("message", "a halt has price -1, 0 or 1, size 0 and direction -1"),
    book_kernels.BAD_TIME: ("message", "the time goes backwards"),
    book_kernels.BAD_ORDER: ("book", "the levels are not strictly ordered, or a size is not positive"),
}


class LobsterFeed:
    """One instrument's day.

    Args:
        paths: LOBSTER's zip, or its MESSAGE and BOOK files.
        batch_cells: About how many cells a batch holds.

    Attributes:
        unknown_orders: Cancels and executions of orders never added in the file, so far in the latest pass.
        revealed_levels: Levels that only the book file shows, the seed excluded.
        stale_levels: Remembered levels that the book file showed to be gone.
        restated_levels: Levels that had been out of view and were stated anew when something was taken from them.

    Raises:
        MissingError, DecodeError, UsageError: As `LobsterSource` does.
    """

    def __init__(self, paths: Sequence[Path | str], *, batch_cells: int = BATCH_CELLS_MAX) -> None:
        self._source = LobsterSource(paths)
        self._batch_cells = min(max(batch_cells, 1), BATCH_CELLS_MAX)
        self._remaining: dict[int, int] = {}
        self.unknown_orders = 0
        self.revealed_levels = 0
        self.stale_levels = 0
        self.restated_levels = 0

    @property
    def name(self) -> str:
        """`lobster-<symbol>-<day>`."""
        return slug(f"lobster-{self._source.name.symbol}-{self._source.name.day}")

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """The one instrument, with id 1."""
        return (Instrument(id=1, symbol=self._source.name.symbol, venue="XNAS"),)

    @property
    def levels(self) -> int:
        """How many levels of each side the book file shows."""
        return self._source.levels

    @property
    def cells_estimate(self) -> int | None:
        """From the size of the message file."""
        return int(self._source.message.size_bytes / _MESSAGE_BYTES * _CELLS_PER_MESSAGE)

    def batches(self) -> Iterator[Cells]:
        """The day from its beginning; each call is a new pass.

        Raises:
            DecodeError: A line is bad, or the files do not go together.
        """
        model = book_kernels.new_model()
        self._remaining = {}
        self.unknown_orders = self.revealed_levels = self.stale_levels = self.restated_levels = 0
        midnight = self._source.name.midnight_ns
        row = 1
        with self._source.open() as (message_rows, book_rows):
            for messages, book in paired(message_rows, book_rows):
                yield from self._decode(model, messages, book, row, midnight)
                row += len(messages)

    def _decode(
        self, model: book_kernels.Model, messages: Rows, book: Rows, first_row: int, midnight: int
    ) -> Iterator[Cells]:
        """The cells of one block of rows, in batches."""
        used = np.zeros(2, np.int64)
        done = 0
        while done < len(messages):
            out = np.empty((BATCH_CELLS_MAX, 8), np.int64)
            status = book_kernels.decode_rows(
                model, messages, book, done, first_row + done, midnight, self._batch_cells, out, used
            )
            ready = int(used[1])
            self._count_unknown(messages[done : done + ready])
            self.revealed_levels = int(model.tally[book_kernels.REVEALED])
            self.stale_levels = int(model.tally[book_kernels.STALE])
            self.restated_levels = int(model.tally[book_kernels.RESTATED])
            done += ready
            if used[0]:
                yield from_words(out[: used[0]].copy())
            if status != book_kernels.DECODED:
                raise self._complain(status, first_row + done)

    def _count_unknown(self, messages: Rows) -> None:
        """Follow the orders by id; a file of N levels refers to many that it never showed being added."""
        remaining = self._remaining
        for kind, order, shares in messages[:, book_kernels.TYPE : book_kernels.PRICE].tolist():
            if kind == book_kernels.ADD:
                remaining[order] = shares
            elif kind <= book_kernels.EXECUTION:
                left = remaining.get(order)
                if left is None:
                    self.unknown_orders += 1
                elif kind == book_kernels.DELETE or left <= shares:
                    del remaining[order]
                else:
                    remaining[order] = left - shares

    def _complain(self, status: int, row: int) -> DecodeError:
        where, text = _COMPLAINTS[status]
        member = self._source.message if where == "message" else self._source.book
        return DecodeError(text, subject=member.title, position=f"line {row}", hint="`feeds check` compares every row")


def open_files(paths: Sequence[Path], options: SourceOptions) -> LobsterFeed:
    """The feed over a zip or a MESSAGE and a BOOK file."""
    return LobsterFeed(paths)


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """Every row of the book file against the row before it and its message; also told: `revealed` levels."""
    found = check(paths)
    return Check(
        rows=found.rows,
        compared=found.compared,
        mismatches=found.mismatches,
        first_mismatch=found.first_mismatch,
        truths={"revealed": found.revealed},
    )
