"""Books of a tape by the names that users give: one at a moment, and the snapshots of all."""

from __future__ import annotations

from pathlib import Path

from tapehouse.app.book_keeper import CELLS_EVERY, SECONDS_EVERY, BookKeeper, Kept
from tapehouse.app.bootstrap import open_platform
from tapehouse.core.ids import check_name
from tapehouse.query.books import BookAt, Moment, read_book_at


async def book_of(
    symbol: str, *, tape: str, moment: Moment | None = None, nats: str | None = None, home: Path | None = None
) -> BookAt:
    """The book of an instrument at a moment; see `read_book_at` for the errors.

    Raises:
        MissingError: There is no such tape.
    """
    async with open_platform(nats, home=home) as platform:
        log = await platform.tape(check_name(tape, "tape"))
        return await read_book_at(log, await platform.snaps(), symbol, moment=moment)


async def build_books(
    tape: str,
    *,
    cells_every: int = CELLS_EVERY,
    seconds_every: float = SECONDS_EVERY,
    nats: str | None = None,
    home: Path | None = None,
) -> Kept:
    """Write the snapshots of a tape's books that are not there yet, to its end.

    Raises:
        MissingError: There is no such tape.
        GapError, DecodeError, IntegrityError: The tape is damaged; the sequence is named.
    """
    async with open_platform(nats, home=home) as platform:
        log = await platform.tape(check_name(tape, "tape"))
        keeper = BookKeeper(log, await platform.make_snaps(), cells_every=cells_every, seconds_every=seconds_every)
        return await keeper.run()
