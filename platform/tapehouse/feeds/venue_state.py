"""What a venue's session knows of each of its books, and what it counts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from tapehouse.feeds.venue_events import BookMessage
from tapehouse.feeds.venue_ladder import VenueBook
from tapehouse.market import Cause, Confidence, Instrument

SECOND_NS = 1_000_000_000
SPACING_NS = SECOND_NS  # between two wishes for one book


class Link(Enum):
    """How a message of changes goes on from the book."""

    NEXT = "next"
    OLD = "old"  # it is in the book already
    BROKEN = "broken"


@dataclass(slots=True)
class Tally:
    """What one session met so far."""

    books: int = 0  # whole books taken
    chained: int = 0  # messages of changes that followed the one before
    old: int = 0  # ... that were in the book already
    left_out: int = 0  # ... that came while the book was suspect or not told yet
    gaps: int = 0  # spans that began
    checksums: int = 0  # compared
    checksum_mismatches: int = 0
    trades: int = 0
    quotes: int = 0
    ignored: int = 0  # messages that have no cells
    too_old: int = 0  # whole books that the changes at hand did not reach back to
    first_ids: dict[str, int] = field(default_factory=dict)  # of the first change in each book
    last_ids: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class BookState:
    """One instrument of a session."""

    instrument: Instrument
    book: VenueBook = field(default_factory=VenueBook)
    has_book: bool = False  # a channel tells it
    synced: bool = False  # the book is told, and changes apply to it
    bridged: bool = False  # a change has followed it
    last: int = 0
    confidence: Confidence = Confidence.GOOD
    cause: Cause = Cause.UNKNOWN
    pending: deque[BookMessage] = field(default_factory=deque)
    crossed_since: int = -1
    wished: bool = False  # and no book came yet
    wished_at: int = -SPACING_NS
    due: bool = False  # to be wished for when SPACING_NS have passed
