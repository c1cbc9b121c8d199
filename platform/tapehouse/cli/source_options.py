"""Options that every command with files of market data has: what files do not say themselves, and what is watched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

if TYPE_CHECKING:
    import datetime

    from tapehouse.feeds import Feed, SourceOptions


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class SourceWords:
    """What a user says of files.

    Parameters
    ----------
    date
        The trading day, where times in the file count from midnight.
    symbol
        The instrument, where the file names none.
    venue
        Where it trades, likewise.
    mapping
        TOML that says what the columns of a CSV or Parquet file mean.
    instruments
        TOML that defines instruments.
    """

    date: str | None = None
    symbol: str | None = None
    venue: str | None = None
    mapping: Path | None = None
    instruments: Path | None = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class WatchWords:
    """What a user wants to be watched.

    Parameters
    ----------
    crossed_after
        Say in a GAP record that a book is suspect where it stays crossed for longer, such as `1s` of feed time.
    stale_after
        The same where an instrument that spoke is silent for longer while others speak, such as `60s`.
    """

    crossed_after: str | None = None
    stale_after: str | None = None


def source_options(said: SourceWords | None) -> SourceOptions:
    """As the feeds take it; raises UsageError for a day that is none."""
    from tapehouse.feeds import SourceOptions

    said = said or SourceWords()
    return SourceOptions(
        day=read_day(said.date),
        symbol=said.symbol,
        venue=said.venue,
        mapping=said.mapping,
        instruments=said.instruments,
    )


def read_day(date: str | None) -> datetime.date | None:
    """A day as 2012-06-21; raises UsageError for anything else."""
    import datetime

    from tapehouse.core.errors import UsageError

    try:
        return None if date is None else datetime.date.fromisoformat(date)
    except ValueError as error:
        raise UsageError(f"{date!r} is no day", hint="write it as 2012-06-21") from error


def watched(feed: Feed, said: WatchWords | None) -> Feed:
    """A feed as it is, or watched for what the user asked; raises UsageError for a time that is none."""
    if said is None or (said.crossed_after is None and said.stale_after is None):
        return feed
    from tapehouse.app.watching import WatchedFeed
    from tapehouse.cli.output import read_duration

    crossed_ns = None if said.crossed_after is None else read_duration(said.crossed_after, "--crossed-after")
    stale_ns = None if said.stale_after is None else read_duration(said.stale_after, "--stale-after")
    return WatchedFeed(feed, crossed_after_ns=crossed_ns, stale_after_ns=stale_ns)
