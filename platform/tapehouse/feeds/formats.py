"""The formats that files can have, by name, and how to open them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tapehouse.core.errors import UsageError
from tapehouse.feeds.port import Feed


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format.

    Args:
        name: As `tapehouse record` takes it.
        description: One line.
        extensions: What its files end in; empty where it needs none.
        files: How many files one recording has, in words.
        checked_by: What the files are held against by `feeds check`.
    """

    name: str
    description: str
    extensions: tuple[str, ...]
    files: str
    checked_by: str


FORMATS: dict[str, Format] = {
    item.name: item
    for item in (
        Format(
            name="lobster",
            description="LOBSTER order book data: a NASDAQ day as message and orderbook files",
            extensions=(".zip", ".csv"),
            files="one zip, or MESSAGE BOOK",
            checked_by="every row of the book file against the row before it and its message",
        ),
        Format(
            name="dbn",
            description="Databento Binary Encoding 1 to 3: mbo, mbp-1, mbp-10, trades, tbbo, bbo, status, definition",
            extensions=(".dbn", ".dbn.zst"),
            files="one file",
            checked_by="the library's own decoder, folded into a second book",
        ),
        Format(
            name="generated",
            description="a generated market day of three shares and an option chain",
            extensions=(),
            files="none",
            checked_by="its digest: a seed gives the same bytes everywhere",
        ),
    )
}


def open_feed(format: str, paths: Sequence[Path | str] = ()) -> Feed:
    """The feed of a format over its files.

    Raises:
        UsageError: There is no such format, or the number of files is wrong.
        MissingError, DecodeError: As the format's feed does.
    """
    if format == "lobster":
        from tapehouse.feeds.lobster import LobsterFeed

        return LobsterFeed(paths)
    if format == "dbn":
        from tapehouse.feeds.dbn import DbnFeed

        return DbnFeed(paths)
    if format == "generated":
        from tapehouse.feeds.generated import GeneratedDay

        if paths:
            raise UsageError("a generated day reads no files", hint="leave them out")
        return GeneratedDay()
    raise UsageError(f"there is no format {format!r}", hint=f"one of {', '.join(FORMATS)}")
