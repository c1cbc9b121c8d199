"""A feed over the raw capture of a venue: the messages of its files through the venue's session.

The files are read once before the first batch, to learn the instruments: how many decimals their numbers have, and
what tick divides their prices. What a live recorder would have to be told is thus known from what it recorded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tapehouse.core.errors import DecodeError, InvariantError, UsageError
from tapehouse.core.ids import slug
from tapehouse.feeds.batching import in_batches
from tapehouse.feeds.capture import Happening, Message, read_captures
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.feeds.session import VenueSession
from tapehouse.feeds.venue_cells import joined
from tapehouse.feeds.venue_session import BookSession
from tapehouse.feeds.venue_state import SECOND_NS
from tapehouse.market import Cells, Instrument

_BYTES_PER_CELL = 24  # of the plain text, about
_COMPRESSION = 8
_PACKED = (".gz", ".xz", ".zip")
_PRODUCT = re.compile(r"/products/([^/]+)/book$")
MakeSession = Callable[..., BookSession]


class CaptureFeed:
    """One recording of one venue.

    Args:
        make: The venue's session class.
        paths: Its files, merged by time.
        instruments: Definitions by symbol; they go before what the files suggest.
        batch_cells: About how many cells a batch holds.

    Attributes:
        session: Of the latest pass, for what it tallied; None before the first.

    Raises:
        MissingError, DecodeError, UsageError: As `read_captures`; a number does not fit any unit.
    """

    def __init__(
        self,
        make: MakeSession,
        paths: Sequence[Path],
        *,
        instruments: Mapping[str, Instrument] | None = None,
        batch_cells: int = BATCH_CELLS_MAX,
    ) -> None:
        self._make = make
        self._paths = list(paths)
        self._batch_cells = min(max(batch_cells, 1), BATCH_CELLS_MAX)
        self.session: BookSession | None = None
        surveyor = make(instruments=instruments, surveying=True)
        try:
            for message in read_captures(self._paths):
                if message.kind is Happening.RECEIVED:
                    surveyor.survey(surveyor.read(message.body))
                elif message.kind is Happening.ANSWERED:
                    surveyor.survey(surveyor.read_answer(asked_symbol(message.url), message.body))
        except DecodeError:
            pass  # Reading the batches meets the same damage, behind what is good.
        self._definitions = surveyor.surveyed()
        named = make(instruments=self._definitions)
        for state in surveyor.instruments:
            named.enter_symbol(state.symbol)
        self._instruments = named.instruments

    @property
    def name(self) -> str:
        """The first file's name, made good as a tape's."""
        return slug(self._paths[0].name.partition(".")[0] or "capture")

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """Everything that the files name."""
        return self._instruments

    @property
    def cells_estimate(self) -> int | None:
        """From the files' sizes."""
        sizes = [path.stat().st_size * (_COMPRESSION if path.suffix in _PACKED else 1) for path in self._paths]
        return max(sum(sizes) // _BYTES_PER_CELL, 1)

    def batches(self) -> Iterator[Cells]:
        """The recording from its beginning; each call is a new pass.

        Raises:
            DecodeError: A message cannot be read; it names its file and line.
        """
        yield from in_batches((cells for _, cells in self.steps()), self._batch_cells)

    def steps(self) -> Iterator[tuple[Message, Cells]]:
        """Each message with its cells, which may be none; raises DecodeError as `batches`."""
        session = self.session = self._make(instruments=self._definitions)
        known = 0
        for message in drive(session, read_captures(self._paths)):
            made = list(session.take())
            if len(session.instruments) != known:
                known = len(session.instruments)
                if session.instruments != self._instruments[:known]:
                    raise InvariantError("the second pass over a capture finds other instruments than the first")
            yield message, joined(made)


def drive(session: VenueSession, messages: Iterator[Message]) -> Iterator[Message]:
    """Have a session live through a recording; each message is yielded when the session has it.

    Raises:
        DecodeError: A message is none of the venue's, with its file and line.
    """
    open_urls: set[str] = set()
    looked = 0
    for message in messages:
        now = message.ts_recv
        if now - looked >= SECOND_NS:
            session.elapsed(now)
            looked = now
        if message.kind is Happening.CONNECTED:
            if message.url in open_urls:
                session.disconnected(now)
            open_urls.add(message.url)
            session.connected(now)
        elif message.kind is Happening.DISCONNECTED:
            open_urls.discard(message.url)
            session.disconnected(now)
        else:
            try:
                if message.kind is Happening.RECEIVED:
                    session.receive(message.body, now)
                elif message.kind is Happening.ANSWERED:
                    session.answered(asked_symbol(message.url), message.body, now)
            except DecodeError as error:
                raise _placed(error, message) from error
        session.wishes()  # nobody is there to grant them
        yield message


def open_capture(make: MakeSession, paths: Sequence[Path], options: SourceOptions) -> CaptureFeed:
    """The feed over one recording, with the instruments that the user declared."""
    return CaptureFeed(make, paths, instruments=declared_instruments(options))


def declared_instruments(options: SourceOptions) -> dict[str, Instrument]:
    """What `--instruments` defines, by symbol; raises UsageError where one is declared for two venues."""
    if options.instruments is None:
        return {}
    from tapehouse.market.instrument_file import load_instruments  # Its TOML models take their time to import.

    found: dict[str, Instrument] = {}
    for item in load_instruments(options.instruments):
        if item.symbol in found:
            raise UsageError(f"{item.symbol} is declared for two venues", subject=str(options.instruments))
        found[item.symbol] = replace(item, underlying=0)
    return found


def asked_symbol(url: str) -> str:
    """The `symbol` of a REST request's query, or the product in its path; empty where it has neither."""
    try:
        asked = urlsplit(url)
        product = _PRODUCT.search(asked.path)
        return parse_qs(asked.query).get("symbol", [product[1] if product else ""])[0]
    except ValueError:
        return ""


def _placed(error: DecodeError, message: Message) -> DecodeError:
    text = f"{error.subject}: {error.message}" if error.subject else error.message
    return DecodeError(text, subject=message.file, position=f"line {message.line}", hint=error.hint)
