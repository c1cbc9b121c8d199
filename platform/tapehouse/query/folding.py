"""A tape, or anything else that gives cells, folded into rows a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from tapehouse.log import Log
from tapehouse.market import Cells, Instrument
from tapehouse.query.read import read_frames
from tapehouse.query.slots import Slots

Progress = Callable[[int], None]  # is told the cells that were taken so far


class RowsBuilder(Protocol):
    """`AnalyticsBuilder` or `BarsBuilder`."""

    slots: Slots

    def define(self, instruments: Sequence[Instrument]) -> None:
        """Instruments that no record will define."""
        ...

    def take(self, cells: Cells) -> bool:
        """Whole records; False where no more are wanted."""
        ...

    def finish(self) -> None:
        """What has begun ends."""
        ...


async def fold_log(
    builder: RowsBuilder, log: Log, *, subject: str | None = None, on_progress: Progress | None = None
) -> None:
    """Give a builder a log of frames, until it has enough.

    Args:
        subject: What errors call the log, if not by its name.

    Raises:
        MissingError: The log defines no instrument that the builder wants.
        DecodeError, GapError, IntegrityError: What is read is damaged.
    """
    done = 0
    async for _, cells in read_frames(log):
        done += len(cells)
        if not _take(builder, cells, done, on_progress):
            break
    _finish(builder, subject or log.name)


def fold_batches(
    builder: RowsBuilder, batches: Iterable[Cells], *, subject: str, on_progress: Progress | None = None
) -> None:
    """The same with the batches of a feed, whose instruments were defined before; raises as they do."""
    done = 0
    for cells in batches:
        done += len(cells)
        if not _take(builder, cells, done, on_progress):
            break
    _finish(builder, subject)


def _take(builder: RowsBuilder, cells: Cells, done: int, on_progress: Progress | None) -> bool:
    wanted = builder.take(cells)
    if on_progress:
        on_progress(done)
    return wanted


def _finish(builder: RowsBuilder, subject: str) -> None:
    builder.finish()
    builder.slots.require_symbol(subject)
