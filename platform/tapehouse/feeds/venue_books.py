"""Sessions of venues that send a whole book and then its changes on one channel, as OKX and Bitget do alike.

Where messages name the one before them, they chain by that; a checksum of the best 25 levels holds each book.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from tapehouse.core.errors import DecodeError
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.session import Want, Wish
from tapehouse.feeds.venue_events import BookMessage, QuoteMessage, VenueMessage
from tapehouse.feeds.venue_fields import MILLISECOND_NS, Checksum, Millis, SignedId, signed
from tapehouse.feeds.venue_numbers import Scale
from tapehouse.feeds.venue_session import BookSession
from tapehouse.feeds.venue_state import BookState, Link

ARGUMENTS_PER_MESSAGE = 50
PONG = b"pong"


class Argument(msgspec.Struct, rename={"inst_id": "instId"}):
    """Which channel a message is of."""

    channel: str = ""
    inst_id: str = ""


class Envelope(msgspec.Struct, rename={"message": "msg"}):
    """What every message has."""

    event: str = ""
    arg: Argument = msgspec.field(default_factory=Argument)
    action: str = ""
    data: Raw = Raw(b"")
    message: str = ""


class Book(msgspec.Struct, rename={"sequence": "seqId", "previous": "prevSeqId"}):
    """OKX's and Bitget's messages of a book; each has some of the ids."""

    bids: Raw
    asks: Raw
    ts: Millis = 0
    checksum: Checksum | None = None
    sequence: SignedId | None = None
    previous: SignedId | None = None
    seq: SignedId | None = None
    pseq: SignedId | None = None


ENVELOPE = msgspec.json.Decoder(Envelope, strict=False)
_BOOKS = msgspec.json.Decoder(list[Book], strict=False)


class ChannelSession(BookSession):
    """A venue whose messages bear `arg` and `data`."""

    PING = b"ping"
    BOOK_CHANNELS: frozenset[str] = frozenset()

    def decode(self, body: bytes) -> list[VenueMessage]:
        """Books, and what `decode_data` makes of other channels; answers to subscriptions say nothing here."""
        if body == PONG:
            return []
        envelope = ENVELOPE.decode(body)
        if envelope.event == "error":
            raise DecodeError(f"the venue refuses: {envelope.message}", subject=self.VENUE)
        if envelope.event:
            return []
        symbol = envelope.arg.inst_id
        if not symbol or not envelope.arg.channel:
            raise DecodeError("it is none of the venue's messages", subject=self.VENUE)
        if envelope.arg.channel not in self.BOOK_CHANNELS:
            return self.decode_data(envelope, symbol)
        if envelope.action not in ("snapshot", "update"):
            raise DecodeError(f"a book is neither snapshot nor update: {envelope.action!r}", subject=symbol)
        scale = self.scale(symbol)
        return [book_message(scale, book, envelope.action == "snapshot") for book in _BOOKS.decode(envelope.data)]

    def decode_data(self, envelope: Envelope, symbol: str) -> list[VenueMessage]:
        """What a message of another channel says."""
        raise NotImplementedError

    def arguments(self, symbol: str) -> list[dict[str, str]]:
        """What to subscribe to, the book first."""
        raise NotImplementedError

    def link(self, state: BookState, message: BookMessage) -> Link:
        """By the id before, where messages have it. Ids may begin anew under way: the message says which it follows."""
        if message.previous is not None and message.previous >= 0:
            if message.previous == state.last:
                return Link.NEXT
            return Link.OLD if message.last <= state.last else Link.BROKEN
        return Link.OLD if 0 < message.last <= state.last else Link.NEXT

    def subscribe(self) -> list[Wish]:
        """All channels of all symbols, in messages of bounded length."""
        wanted = [argument for symbol in self.symbols for argument in self.arguments(symbol)]
        parts = (wanted[at : at + ARGUMENTS_PER_MESSAGE] for at in range(0, len(wanted), ARGUMENTS_PER_MESSAGE))
        return [_operation("subscribe", part) for part in parts]

    def ask_book(self, symbol: str) -> list[Wish]:
        """Subscribe to the book anew: the venue then begins with a whole one."""
        book = self.arguments(symbol)[:1]
        return [_operation("unsubscribe", book), _operation("subscribe", book)]


def book_message(scale: Scale, book: Book, whole: bool) -> BookMessage:
    """A book or its changes. A checksum of 0 beside ids stands for none: OKX has put it there since it sends ids."""
    last = book.sequence if book.sequence is not None else book.seq
    previous = book.previous if book.previous is not None else book.pseq
    checksum = None if last is not None and book.checksum == 0 else signed(book.checksum)
    return BookMessage(
        symbol=scale.symbol,
        whole=whole,
        ts_event=book.ts * MILLISECOND_NS,
        bids=scale.levels(book.bids),
        asks=scale.levels(book.asks),
        first=max(last or 0, 0),
        last=max(last or 0, 0),
        previous=previous,
        checksum=checksum,
        bid_text=bytes(book.bids),
        ask_text=bytes(book.asks),
    )


def quote(scale: Scale, channel: str, ts: int, bid: str, bid_size: str, ask: str, ask_size: str) -> QuoteMessage:
    """A ticker; an empty text is an empty side."""
    return QuoteMessage(
        symbol=scale.symbol,
        channel=channel,
        ts_event=ts * MILLISECOND_NS,
        sequence=0,
        bid=scale.price(bid) if bid else UNDEFINED,
        bid_size=scale.size(bid_size) if bid else 0,
        ask=scale.price(ask) if ask else UNDEFINED,
        ask_size=scale.size(ask_size) if ask else 0,
    )


def _operation(name: str, arguments: list[Any]) -> Wish:
    return Wish(want=Want.SEND, body=msgspec.json.encode({"op": name, "args": arguments}))
