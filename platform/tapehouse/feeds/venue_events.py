"""What a venue's message says, in one vocabulary for all venues: prices and sizes already integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tapehouse.feeds.venue_numbers import Rows, Scale
from tapehouse.market import Instrument

ScaleOf = Callable[[str], Scale]


@dataclass(slots=True, kw_only=True)
class BookMessage:
    """A whole book, or changes of levels.

    Args:
        ts_event: Venue time, UTC ns; 0 where the message has none.
        first, last: The venue's ids of the first and last update in it; 0 where it has none.
        previous: The `last` of the message before it, where the venue says it.
        checksum: Of the book behind it, where the venue sends one; signed.
        bids, asks: See `Scale.levels`.
        bid_text, ask_text: What the rows' columns of places point into.
        named: Changes are named new, change and delete, and must be that.
    """

    symbol: str
    whole: bool
    ts_event: int
    bids: Rows
    asks: Rows
    first: int = 0
    last: int = 0
    previous: int | None = None
    checksum: int | None = None
    bid_text: bytes = b""
    ask_text: bytes = b""
    named: bool = False


@dataclass(slots=True, kw_only=True)
class TradeMessage:
    """One trade; `bought` says whether the aggressor did, None where nobody says."""

    symbol: str
    ts_event: int
    number: int
    price: int
    size: int
    bought: bool | None


@dataclass(slots=True, kw_only=True)
class QuoteMessage:
    """Best bid and ask as a channel of their own tells them; UNDEFINED and 0 where a side is empty.

    Args:
        channel: The venue's name of the channel.
    """

    symbol: str
    channel: str
    ts_event: int
    sequence: int
    bid: int
    bid_size: int
    ask: int
    ask_size: int


@dataclass(slots=True, kw_only=True)
class OptionMessage:
    """An option's ticker; volatilities in 1e-9; UNDEFINED where something is not there."""

    symbol: str
    ts_event: int
    bid: int
    bid_size: int
    ask: int
    ask_size: int
    forward: int
    mark: int
    bid_volatility: int
    ask_volatility: int
    mark_volatility: int
    open_interest: int


@dataclass(slots=True, kw_only=True)
class ListingMessage:
    """The venue defines an instrument; its id means nothing yet."""

    instrument: Instrument


@dataclass(slots=True, kw_only=True)
class ReplyMessage:
    """The venue wants an answer on the connection."""

    body: bytes


VenueMessage = BookMessage | TradeMessage | QuoteMessage | OptionMessage | ListingMessage | ReplyMessage
