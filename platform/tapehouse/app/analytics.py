"""Analytics and bars by the names that users give: of a tape, from the broker or a backup, or of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tapehouse.app.replaying import tape_source
from tapehouse.core.errors import UsageError
from tapehouse.core.ids import check_name
from tapehouse.feeds import open_feed
from tapehouse.query.folding import RowsBuilder, fold_batches, fold_log


def check_asked(tape: str | None, source: str | None, files: Sequence[Path]) -> None:
    """Raise UsageError where both a tape and files are named, or neither."""
    if (tape is None) == (source is None) or (source is None and files):
        raise UsageError("name a tape, or files and their format", hint="--tape NAME, or --source FORMAT FILE …")
    if tape is not None:
        check_name(tape, "tape")


async def fold(
    builder: RowsBuilder,
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
    if source is not None:
        feed = open_feed(source, files)
        builder.define(feed.instruments)
        fold_batches(builder, feed.batches(), subject=feed.name, on_progress=on_progress)
        return
    assert tape is not None
    async with tape_source(tape, nats=nats, store=store, home=home) as log:
        await fold_log(builder, log, subject=tape, on_progress=on_progress)
