"""Analytics and bars by the names that users give: of a tape, from the broker or a backup, or of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from tapehouse.app.replaying import tape_source
from tapehouse.core.errors import UsageError
from tapehouse.core.ids import check_name
from tapehouse.feeds import open_feed
from tapehouse.market import Cells, Instrument
from tapehouse.query.read import read_frames
from tapehouse.query.slots import Slots


class Builder(Protocol):
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


def check_asked(tape: str | None, source: str | None, files: Sequence[Path]) -> None:
    """Raise UsageError where both a tape and files are named, or neither."""
    if (tape is None) == (source is None) or (source is None and files):
        raise UsageError("name a tape, or files and their format", hint="--tape NAME, or --source FORMAT FILE …")
    if tape is not None:
        check_name(tape, "tape")


async def fold(
    builder: Builder,
    *,
    tape: str | None,
    source: str | None = None,
    files: Sequence[Path] = (),
    store: str | None = None,
    nats: str | None = None,
    home: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Give a builder a whole tape, or files of a format, a frame or batch at a time.

    Args:
        builder: It says itself when no more is wanted.

    Raises:
        UsageError: Both a tape and files are named, or neither.
        MissingError: There is no such tape, backup, file or instrument.
        DecodeError, GapError, IntegrityError: What is read is damaged.
    """
    check_asked(tape, source, files)
    done = 0
    if source is not None:
        feed = open_feed(source, files)
        builder.define(feed.instruments)
        for cells in feed.batches():
            wanted = builder.take(cells)
            done += len(cells)
            if on_progress:
                on_progress(done)
            if not wanted:
                break
        subject = feed.name
    else:
        assert tape is not None
        async with tape_source(tape, nats=nats, store=store, home=home) as log:
            async for _, cells in read_frames(log):
                wanted = builder.take(cells)
                done += len(cells)
                if on_progress:
                    on_progress(done)
                if not wanted:
                    break
        subject = tape
    builder.finish()
    builder.slots.require_symbol(subject)
