"""A feed whose instruments a file declares: what the file says goes before what the format guessed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tapehouse.core.errors import DataError
from tapehouse.feeds.port import Feed
from tapehouse.market import Cells, Instrument
from tapehouse.market.instrument_file import load_instruments


class DeclaredFeed:
    """A feed with declared terms in place of its own, by venue and symbol; a declaration without venue fits any.

    The units stay those of the cells: a format that does not take exponents from a declaration itself refuses others.

    Raises:
        DataError: No declaration is of an instrument of this feed, or one has exponents that its cells do not have.
    """

    def __init__(self, feed: Feed, declared: Sequence[Instrument], *, subject: str = "") -> None:
        self._feed = feed
        by_name = {(item.venue, item.symbol): item for item in declared}
        found = []
        used = 0
        for known in feed.instruments:
            item = by_name.get((known.venue, known.symbol)) or by_name.get(("", known.symbol))
            used += item is not None
            found.append(known if item is None else _terms(known, item, subject))
        if declared and not used:
            names = ", ".join(f"{item.venue}:{item.symbol}" for item in feed.instruments[:5])
            raise DataError("it declares no instrument of this feed", subject=subject, hint=f"the feed has {names}")
        self._instruments = tuple(found)

    def __getattr__(self, name: str) -> Any:  # What a format counts beside its cells.
        return getattr(self._feed, name)

    @property
    def name(self) -> str:
        """The feed's own."""
        return self._feed.name

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """With the declared terms; ids are the feed's."""
        return self._instruments

    @property
    def cells_estimate(self) -> int | None:
        """The feed's own."""
        return self._feed.cells_estimate

    def batches(self) -> Iterator[Cells]:
        """The feed's own cells."""
        return self._feed.batches()


def declare(feed: Feed, path: Path) -> DeclaredFeed:
    """A feed with the instruments of a TOML file; raises as `load_instruments` and `DeclaredFeed` do."""
    return DeclaredFeed(feed, load_instruments(path), subject=str(path))


def _terms(known: Instrument, item: Instrument, subject: str) -> Instrument:
    for name in ("price_exponent", "size_exponent"):
        if getattr(item, name) != getattr(known, name):
            raise DataError(
                f"{known.symbol}: {name} is {getattr(item, name)}, the feed's cells count in {getattr(known, name)}",
                subject=subject,
                hint=f"declare {name} = {getattr(known, name)}",
            )
    return replace(item, id=known.id, venue=known.venue, underlying=known.underlying)
