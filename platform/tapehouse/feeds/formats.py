"""The formats that files can have, by name, and how to open and check them.

A format is one module of this room, named in its row below, with two functions: `open_files(paths, options)` gives a
`Feed` over files, `check_files(paths, options)` holds them against the truth that they carry and gives a `Check`. The
module is imported when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

from tapehouse.core.errors import UsageError
from tapehouse.feeds.checking import Check
from tapehouse.feeds.port import Feed


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """What a user may have to say of files that do not say it themselves; a format takes what concerns it.

    Args:
        day: The trading day, where times in the file count from midnight.
        symbol: The instrument, where the file names none.
        venue: Where it trades, likewise.
        mapping: TOML that says what the columns of a CSV or Parquet file mean.
        instruments: TOML that defines instruments; what it says goes before what a file suggests.
        checking: What comes out is thrown away, so what only a recording needs may be missing.
    """

    day: date | None = None
    symbol: str | None = None
    venue: str | None = None
    mapping: Path | None = None
    instruments: Path | None = None
    checking: bool = False


NO_OPTIONS = SourceOptions()
_OPTION = {"day": "date"}  # as the command line calls it


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format.

    Args:
        name: As `tapehouse record` takes it.
        module: Of this room, where its `open_files` and `check_files` are.
        description: One line.
        extensions: What its files end in; empty where it needs none.
        files: How many files one recording has, in words.
        checked_by: What the files are held against by `feeds check`.
        needs: Options without which it cannot be recorded.
    """

    name: str
    module: str
    description: str
    extensions: tuple[str, ...]
    files: str
    checked_by: str
    needs: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    item.name: item
    for item in (
        Format(
            name="lobster",
            module="lobster",
            description="LOBSTER order book data: a NASDAQ day as message and orderbook files",
            extensions=(".zip", ".csv"),
            files="one zip, or MESSAGE BOOK",
            checked_by="every row of the book file against the row before it and its message",
        ),
        Format(
            name="dbn",
            module="dbn",
            description="Databento Binary Encoding 1 to 3, every schema",
            extensions=(".dbn", ".dbn.zst"),
            files="one file",
            checked_by="the library's own decoder, folded into a second book",
        ),
        Format(
            name="bitstamp",
            module="bitstamp",
            description="Bitstamp order log: every order's life, trades, and best 20 levels that judge the book",
            extensions=(".log", ".log.xz", ".log.gz"),
            files="one log, or LOG ORDERS.csv for the check",
            checked_by="its own order_book lines, the lives of its orders, its trades, and orders.csv",
        ),
        Format(
            name="itch",
            module="itch",
            description="NASDAQ TotalView-ITCH 5.0: files of messages, and captures (pcap) of MoldUDP64",
            extensions=(".itch", ".itch.gz", ".gz", ".pcap", ".pcap.gz"),
            files="one file",
            checked_by="each message's length, stock and order; captures also by their packets' checksums",
        ),
        Format(
            name="iex",
            module="iex",
            description="IEX DEEP 1.0 and TOPS: captures (pcap) of IEX-TP",
            extensions=(".pcap", ".pcap.gz"),
            files="one file",
            checked_by="each packet's place against the one before, each message's type, levels and trades",
        ),
        Format(
            name="pitch",
            module="pitch",
            description="Cboe (BATS) PITCH 1 as text: lines of fixed columns",
            extensions=(".txt", ".pitch", ".gz"),
            files="one file",
            checked_by="each line's type and order; executed volumes also against an answer.txt beside the file",
            needs=("day",),
        ),
        Format(
            name="tardis",
            module="tardis",
            description="Tardis.dev normalized CSV: incremental_book_L2, book_snapshot_N, trades, quotes",
            extensions=(".csv", ".csv.gz"),
            files="one file",
            checked_by="its rows read as decimals, one by one, and what rows must keep: order, times, no crossed books",
        ),
        Format(
            name="taq",
            module="taq",
            description="Trades and quotes of US shares as LEAN packs them: one exchange and one side a row",
            extensions=(".zip", ".csv"),
            files="trades, quotes, or one file of each",
            checked_by="its lines as decimals, and the minute and second bars of the day where they lie beside it",
        ),
        Format(
            name="table",
            module="table",
            description="any CSV or Parquet file of trades, quotes, levels or orders, with a mapping of its columns",
            extensions=(".csv", ".csv.gz", ".parquet"),
            files="one file",
            checked_by="its rows as Python's own csv and decimals read them",
            needs=("mapping",),
        ),
        Format(
            name="binance",
            module="venue_binance",
            description="raw captures of Binance's websocket, spot and futures: depth, book tickers, trades",
            extensions=(),
            files="one recording; snapshots by REST may lie in files of their own",
            checked_by="update ids without a hole, and the book's best levels against every book ticker",
        ),
        Format(
            name="okx",
            module="venue_okx",
            description="raw captures of OKX's websocket: books, trades, tickers",
            extensions=(),
            files="one recording",
            checked_by="the venue's checksum of every book",
        ),
        Format(
            name="bitget",
            module="venue_bitget",
            description="raw captures of Bitget's websocket: books, trades, tickers",
            extensions=(),
            files="one recording",
            checked_by="the venue's checksum of every book",
        ),
        Format(
            name="deribit",
            module="venue_deribit",
            description="raw captures of Deribit's websocket: books, tickers and trades of options and futures",
            extensions=(),
            files="one recording; lists of instruments may lie in files of their own",
            checked_by="the chain of changes, tickers against books, and deltas by Black's formula",
        ),
        Format(
            name="bybit",
            module="venue_bybit",
            description="raw captures of Bybit's websocket, and its archives: order books and trades",
            extensions=(),
            files="one recording",
            checked_by="update ids without a hole",
        ),
        Format(
            name="kraken",
            module="venue_kraken",
            description="raw captures of Kraken's websocket, version 2: books, trades, tickers, instruments",
            extensions=(),
            files="one recording",
            checked_by="the venue's checksum of every book",
        ),
        Format(
            name="coinbase",
            module="venue_coinbase",
            description="raw captures of Coinbase Exchange's websocket: books by price or by order, trades, tickers",
            extensions=(),
            files="one recording; books by REST may lie in files of their own",
            checked_by="sequence numbers, trade numbers, and what each order had left when it ended",
        ),
        Format(
            name="tape",
            module="tape",
            description="tapehouse's own segment files, as drain writes them: history as a source",
            extensions=(".seg", ".tape"),
            files="files of one log in order, or a directory of them",
            checked_by="its own digests, from message to message and from file to file",
        ),
        Format(
            name="generated",
            module="generated",
            description="a generated market day of three shares and an option chain",
            extensions=(),
            files="none",
            checked_by="its digest: a seed gives the same bytes everywhere",
        ),
    )
}


def format_named(name: str) -> Format:
    """One row of the table; raises UsageError where there is no such format."""
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r}", hint=f"one of {', '.join(sorted(FORMATS))}")
    return FORMATS[name]


def open_feed(
    format: str, paths: Sequence[Path | str] = (), options: SourceOptions = NO_OPTIONS, *, checking: bool = False
) -> Feed:
    """The feed of a format over its files.

    Args:
        checking: What comes out is thrown away, so options that only a recording needs may be missing.

    Raises:
        UsageError: There is no such format, the number of files is wrong, or an option that it needs is missing.
        MissingError, DecodeError: As the format's feed does.
    """
    chosen = format_named(format)
    for need in () if checking else chosen.needs:
        if getattr(options, need) is None:
            raise UsageError(f"{format} files do not say their {need}", hint=f"give --{_OPTION.get(need, need)}")
    if checking:
        options = replace(options, checking=True)
    feed: Feed = _module(chosen).open_files([Path(path) for path in paths], options)
    if options.instruments is None:
        return feed
    from tapehouse.feeds.declared import declare  # Its TOML models take their time to import.

    return declare(feed, options.instruments)


def check_source(format: str, paths: Sequence[Path | str] = (), options: SourceOptions = NO_OPTIONS) -> Check:
    """Hold files against the truth that they carry.

    Raises:
        UsageError, MissingError, DecodeError: As `open_feed`; an option that recording needs may be left out here.
    """
    check: Check = _module(format_named(format)).check_files([Path(path) for path in paths], options)
    return check


def one_file(paths: Sequence[Path], format: str) -> Path:
    """The only path; raises UsageError where there is none or more."""
    if len(paths) != 1:
        raise UsageError(f"{len(paths)} files", subject=format, hint="give one file")
    return paths[0]


def _module(format: Format) -> Any:
    return import_module(f"tapehouse.feeds.{format.module}")
