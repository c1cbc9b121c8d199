"""What all venues' sessions share: books told whole and then by changes, and what happens when some are missing.

A venue adds how it spells its messages (`decode`), how they chain (`link`), and what to send. Everything that is said
about the worth of a book is said here: a broken chain, a wrong checksum, a crossed book, silence and a lost connection
become GAP records, changes are left out while a book is suspect, and what makes it good again is recorded too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import gcd

import msgspec

from tapehouse.core.errors import DecodeError
from tapehouse.core.units import PRICE_EXPONENT
from tapehouse.feeds.session import Want, Wish
from tapehouse.feeds.venue_cells import book_cells, quote_cells, trade_cells
from tapehouse.feeds.venue_events import (
    BookMessage,
    ListingMessage,
    OptionMessage,
    QuoteMessage,
    ReplyMessage,
    TradeMessage,
    VenueMessage,
)
from tapehouse.feeds.venue_numbers import DIVISOR, Scale
from tapehouse.feeds.venue_state import SECOND_NS, SPACING_NS, BookState, Link, Tally
from tapehouse.market import Cause, Cells, Confidence, Instrument, gap_record

INSTRUMENTS_MAX = 20_000  # of one session
PENDING_MAX = 10_000  # messages kept while a snapshot is awaited, of one instrument
BOOK_LEVELS_MAX = 1 << 17  # of one side; a book that grew beyond is asked for anew
WISHES_MAX = 4_096  # that nobody fetched; the oldest go, and what is still needed is wished for again
RETRY_NS = 5 * SECOND_NS  # after which a wish that brought no book is wished again
STALE_NS = 30 * SECOND_NS
CROSSED_NS = SECOND_NS
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class BookSession:
    """The common part of a `VenueSession`; see there for the methods.

    Args:
        symbols: What to subscribe to; empty for captures, where everything is taken.
        instruments: Definitions by symbol, whatever their ids: they go before what would be guessed.
        stale_ns: How long a connection may be silent.
        crossed_ns: How long a bid may be at or above an ask.
        surveying: It is for `survey` alone: numbers are of any unit.
    """

    VENUE = ""
    PING: bytes | None = None  # to send where nothing came for PING_NS
    PING_NS = 20 * SECOND_NS
    BUFFERED = False  # a whole book is asked for, and changes wait for it
    SIZE_EXPONENT = -9  # of instruments that nobody declared

    def __init__(
        self,
        symbols: tuple[str, ...] = (),
        *,
        instruments: Mapping[str, Instrument] | None = None,
        stale_ns: int = STALE_NS,
        crossed_ns: int = CROSSED_NS,
        surveying: bool = False,
    ) -> None:
        self.symbols = symbols
        self.tally = Tally()
        self._given = dict(instruments or {})
        self._declared = dict(self._given)
        self._stale_ns, self._crossed_ns = stale_ns, crossed_ns
        self._states: dict[str, BookState] = {}
        self._scales: dict[str, Scale] = {}
        self._out: list[Cells] = []
        self._wishes: deque[Wish] = deque(maxlen=WISHES_MAX)
        self._now = 0
        self._connected = False
        self._heard_at = -1  # -1: nothing is expected
        self._pinged_at = 0
        self._silent = False
        self._surveying = surveying

    # What a venue adds.

    def decode(self, body: bytes) -> list[VenueMessage]:
        """What a message says; raises DecodeError or msgspec's error, and changes nothing, where it says nothing."""
        raise NotImplementedError

    def decode_answer(self, symbol: str, body: bytes) -> list[VenueMessage]:
        """What a REST answer says, likewise."""
        raise DecodeError("the venue's books do not come by REST", subject=symbol)

    def link(self, state: BookState, message: BookMessage) -> Link:
        """How changes go on from the book that was told last."""
        raise NotImplementedError

    def buffered(self, state: BookState) -> bool:
        """Whether this book is asked for, and changes wait for it."""
        return self.BUFFERED

    def missing(self, state: BookState, message: BookMessage) -> int:
        """How many updates a broken chain lacks; 0 where nobody knows."""
        return 0

    def subscribe(self) -> list[Wish]:
        """What to wish for when a connection is there."""
        return []

    def ask_book(self, symbol: str) -> list[Wish]:
        """What to wish for to have a book told anew."""
        raise NotImplementedError

    def guess(self, symbol: str) -> Instrument:
        """An instrument that nobody declared."""
        return Instrument(
            id=1,
            symbol=symbol,
            venue=self.VENUE,
            asset_class="crypto",
            size_exponent=self.SIZE_EXPONENT,
            tick_size=1,
        )

    # The session.

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """See `VenueSession`."""
        return tuple(state.instrument for state in self._states.values())

    @property
    def waiting(self) -> tuple[str, ...]:
        """Symbols whose changes wait for a book that never came so far."""
        return tuple(
            name
            for name, state in self._states.items()
            if state.has_book and not state.synced and state.confidence is Confidence.GOOD
        )

    def connected(self, ts_recv: int) -> None:
        """See `VenueSession`."""
        self._advance(ts_recv)
        self._connected = True
        self._heard_at = self._pinged_at = self._now
        if self.symbols:
            self._wishes.extend(self.subscribe())

    def disconnected(self, ts_recv: int) -> None:
        """See `VenueSession`."""
        self._advance(ts_recv)
        self._connected = False
        self._heard_at = -1
        self._lose_all(Cause.DISCONNECTED)

    def missed(self, cause: Cause, ts_recv: int) -> None:
        """See `VenueSession`."""
        self._advance(ts_recv)
        self._lose_all(cause)
        for symbol, state in self._states.items():
            if state.has_book:
                self._wish_book(symbol, state)

    def receive(self, body: bytes, ts_recv: int) -> None:
        """See `VenueSession`."""
        self._take_in(self.read(body), ts_recv)

    def answered(self, symbol: str, body: bytes, ts_recv: int) -> None:
        """See `VenueSession`."""
        self._take_in(self.read_answer(symbol, body), ts_recv)

    def take(self) -> Iterator[Cells]:
        """See `VenueSession`."""
        out, self._out = self._out, []
        return iter(out)

    def wishes(self) -> list[Wish]:
        """See `VenueSession`."""
        wishes = list(self._wishes)
        self._wishes.clear()
        return wishes

    def elapsed(self, now: int) -> None:
        """See `VenueSession`."""
        silent_from = self._heard_at
        if silent_from >= 0 and now - silent_from >= self._stale_ns:
            self._advance(silent_from + self._stale_ns)
            self._silent = True
            for state in self._states.values():
                if state.confidence is Confidence.GOOD:
                    self._suspect(state, Cause.STALE)
        self._advance(now)
        if self._connected and self.PING is not None and now - max(silent_from, self._pinged_at) >= self.PING_NS:
            self._pinged_at = now
            self._wishes.append(Wish(want=Want.SEND, body=self.PING))
        for symbol, state in self._states.items():
            self._judge_crossed(symbol, state)
            if state.due or (state.wished and not state.synced):
                self._wish_book(symbol, state)

    # Messages.

    def read(self, body: bytes) -> list[VenueMessage]:
        """What a message says, nothing taken yet; raises DecodeError where it is none of the venue's."""
        try:
            return self._bounded(self.decode(body))
        except _UNREADABLE as error:
            raise DecodeError(f"it is none of the venue's messages: {error}", subject=self.VENUE) from error

    def read_answer(self, symbol: str, body: bytes) -> list[VenueMessage]:
        """As `read`, of a REST answer."""
        try:
            return self._bounded(self.decode_answer(symbol, body))
        except _UNREADABLE as error:
            raise DecodeError(f"it is no answer of the venue's: {error}", subject=self.VENUE) from error

    def _bounded(self, messages: list[VenueMessage]) -> list[VenueMessage]:
        if len(messages) + len(self._states) > INSTRUMENTS_MAX:
            named = {message.symbol for message in messages if not isinstance(message, ListingMessage | ReplyMessage)}
            listed = len(self._declared) + len(messages) - len(named)
            if len(named | self._states.keys()) > INSTRUMENTS_MAX or listed > INSTRUMENTS_MAX:
                raise DecodeError(f"more than {INSTRUMENTS_MAX} instruments", subject=self.VENUE)
        return messages

    def _advance(self, ts: int) -> None:
        self._now = max(self._now, ts)

    def _take_in(self, messages: list[VenueMessage], ts_recv: int) -> None:
        self._advance(ts_recv)
        self._heard_at = self._now
        if self._silent:
            self._silent = False
            for state in self._states.values():
                if state.cause is Cause.STALE:
                    self._recover(state, Cause.RESUMED)
        if not messages:
            self.tally.ignored += 1
        for message in messages:
            self._take_one(message)

    def _take_one(self, message: VenueMessage) -> None:
        if isinstance(message, ReplyMessage):
            self._wishes.append(Wish(want=Want.SEND, body=message.body))
            return
        if isinstance(message, ListingMessage):
            self._declared.setdefault(message.instrument.symbol, message.instrument)
            return
        state = self.enter(message)
        if not state.has_book and state.confidence is not Confidence.GOOD:
            self._recover(state, Cause.RESUMED)
        if isinstance(message, BookMessage):
            state.has_book = True
            if message.whole:
                self._whole(state, message)
            else:
                self._changes(state, message)
        elif isinstance(message, TradeMessage):
            self.tally.trades += 1
            self._out.append(trade_cells(message, state.instrument.id, self._now))
        else:
            self.tally.quotes += 1
            self._out.append(quote_cells(message, state.instrument.id, self._now))

    def scale(self, symbol: str) -> Scale:
        """The units of a symbol's numbers; it is not entered by being asked for."""
        known = self._scales.get(symbol)
        if known is None:
            declared = self._declared.get(symbol)
            exponents = (PRICE_EXPONENT, self.SIZE_EXPONENT)
            if declared is not None:
                exponents = (declared.price_exponent, declared.size_exponent)
            known = Scale(symbol, *exponents, strict=not self._surveying)
            if symbol in self._states or self._surveying:
                self._scales[symbol] = known
        return known

    def enter(self, message: BookMessage | TradeMessage | QuoteMessage | OptionMessage) -> BookState:
        """The state of a message's instrument. Quotes have one of their own: in one book with changes of levels, a
        quote would be all that there is."""
        symbol = message.symbol
        name = f"{symbol}@{message.channel}" if isinstance(message, QuoteMessage) else symbol
        return self._states.get(name) or self.enter_symbol(name)

    def enter_symbol(self, name: str) -> BookState:
        """Give an instrument its id, unless it has one."""
        state = self._states.get(name)
        if state is None:
            symbol = name.partition("@")[0]
            found = self._declared.get(symbol) or self.guess(symbol)
            state = self._states[name] = BookState(replace(found, symbol=name, id=len(self._states) + 1))
        return state

    def survey(self, messages: list[VenueMessage]) -> None:
        """Learn instruments from messages without taking them in; a session that surveys does nothing else."""
        for message in messages:
            if isinstance(message, ListingMessage):
                self._declared.setdefault(message.instrument.symbol, message.instrument)
            elif not isinstance(message, ReplyMessage):
                self.enter(message)

    def surveyed(self) -> dict[str, Instrument]:
        """What was learned: every symbol's instrument with units that hold all of its numbers.

        Raises:
            DecodeError: No unit holds them.
        """
        found = dict(self._declared)
        for symbol, scale in self._scales.items():
            declared = self._given.get(symbol)
            price_exponent, size_exponent, tick = scale.exponents()
            if declared is None:
                known = found.get(symbol) or self.guess(symbol)
                if symbol in found:  # listed by the venue
                    price_exponent, size_exponent = known.price_exponent, known.size_exponent
                    tick = gcd(known.tick_size, tick) if scale.seen[DIVISOR] else known.tick_size
                declared = replace(known, price_exponent=price_exponent, size_exponent=size_exponent, tick_size=tick)
            found[symbol] = declared
        return found

    # Books.

    def _whole(self, state: BookState, message: BookMessage) -> None:
        symbol = message.symbol
        if self.buffered(state):
            if state.synced:
                self.tally.ignored += 1
                return
            if not self._reaches(state, message):
                self.tally.too_old += 1
                state.wished = False
                self._wish_book(symbol, state)
                return
        elif state.synced:
            self._suspect(state, Cause.RESET, state.last, message.last)
        if state.confidence is not Confidence.GOOD:
            state.confidence = Confidence.REBUILDING
            self._gap(state, state.cause, state.last, message.last)
        state.last, state.synced, state.bridged = message.last, True, False
        state.wished, state.due, state.crossed_since = False, False, -1
        self.tally.books += 1
        self._apply(state, message)
        if not self._checksum_holds(state, message):
            return
        if state.confidence is not Confidence.GOOD:
            self._recover(state, Cause.SNAPSHOT)
        waiting, state.pending = state.pending, deque()
        for change in waiting:
            self._changes(state, change)

    def _reaches(self, state: BookState, message: BookMessage) -> bool:
        """Whether the changes at hand go on from a whole book that was asked for."""
        trial = BookState(state.instrument, last=message.last)
        for change in state.pending:
            link = self.link(trial, change)
            if link is not Link.OLD:
                return link is Link.NEXT
        return True

    def _changes(self, state: BookState, message: BookMessage) -> None:
        symbol = message.symbol
        if not state.synced:
            self._await(state, message)
            return
        link = self.link(state, message)
        if link is Link.OLD:
            self.tally.old += 1
            return
        if link is Link.BROKEN:
            self._suspect(state, Cause.SEQUENCE, state.last, message.first, self.missing(state, message))
            state.synced = False
            self._await(state, message)
            self._wish_book(symbol, state)
            return
        state.last, state.bridged = message.last, True
        self.tally.chained += 1
        self.tally.first_ids.setdefault(symbol, message.first)
        self.tally.last_ids[symbol] = message.last
        possible = self._apply(state, message)
        if not possible:
            self._distrust(state, Cause.CHECKSUM)
        elif state.book.levels > BOOK_LEVELS_MAX:
            self._distrust(state, Cause.UNKNOWN)
        elif self._checksum_holds(state, message):
            self._judge_crossed(symbol, state)

    def _apply(self, state: BookState, message: BookMessage) -> bool:
        """Change the book and send its cells; whether every change was one that its name allows."""
        cells, possible = book_cells(state.book, message, state.instrument.id, self._now)
        if len(cells):
            self._out.append(cells)
        return possible

    def _await(self, state: BookState, message: BookMessage) -> None:
        """Keep changes that came before their book, or leave them out."""
        if not self.buffered(state):
            self.tally.left_out += 1
            if state.confidence is Confidence.GOOD:
                self._suspect(state, Cause.SEQUENCE, 0, message.first)
                self._wish_book(message.symbol, state)
            return
        if len(state.pending) >= PENDING_MAX:
            state.pending.popleft()
            self.tally.left_out += 1
        state.pending.append(message)
        if not state.wished:
            self._wish_book(message.symbol, state)

    def _checksum_holds(self, state: BookState, message: BookMessage) -> bool:
        if message.checksum is None:
            return True
        self.tally.checksums += 1
        if state.book.checksum() == message.checksum:
            return True
        self.tally.checksum_mismatches += 1
        self._distrust(state, Cause.CHECKSUM)
        return False

    def _judge_crossed(self, symbol: str, state: BookState) -> None:
        if not state.synced or not state.book.crossed:
            state.crossed_since = -1
        elif state.crossed_since < 0:
            state.crossed_since = self._now
        elif self._now - state.crossed_since > self._crossed_ns:
            self._distrust(state, Cause.CROSSED)

    def _distrust(self, state: BookState, cause: Cause) -> None:
        """The book is wrong though nothing was seen to be missing: have it told anew."""
        state.synced = False
        state.crossed_since = -1
        self._suspect(state, cause, state.last)
        self._wish_book(state.instrument.symbol, state)

    def _wish_book(self, symbol: str, state: BookState) -> None:
        since = self._now - state.wished_at
        if not self._connected or (state.wished and since < RETRY_NS):
            return
        state.due = since < SPACING_NS
        if state.due:
            return
        state.wished, state.wished_at = True, self._now
        self._wishes.extend(self.ask_book(symbol))

    # What books are worth.

    def _lose_all(self, cause: Cause) -> None:
        for state in self._states.values():
            state.synced = state.wished = state.due = False
            state.pending.clear()
            self._suspect(state, cause, state.last)

    def _suspect(self, state: BookState, cause: Cause, last: int = 0, following: int = 0, missing: int = 0) -> None:
        if state.confidence is Confidence.SUSPECT and state.cause is cause:
            return
        self.tally.gaps += state.confidence is Confidence.GOOD
        state.confidence, state.cause = Confidence.SUSPECT, cause
        self._gap(state, cause, last or state.last, following, missing)

    def _recover(self, state: BookState, cause: Cause) -> None:
        state.confidence, state.cause = Confidence.GOOD, cause
        self._gap(state, cause, state.last)

    def _gap(self, state: BookState, cause: Cause, last: int, following: int = 0, missing: int = 0) -> None:
        self._out.append(
            gap_record(
                cause,
                state.confidence,
                ts_recv=self._now,
                instrument=state.instrument.id,
                sequence=max(last, 0),
                following=max(following, 0),
                missing=max(missing, 0),
            )
        )
