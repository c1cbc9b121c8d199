"""Venues' messages as cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.packing import head_word, tail_word
from tapehouse.feeds.venue_events import BookMessage, OptionMessage, QuoteMessage, TradeMessage
from tapehouse.feeds.venue_ladder import VenueBook
from tapehouse.feeds.venue_numbers import PRICE, SIZE
from tapehouse.market import (
    CELL,
    OPTION_EXTENSION,
    Action,
    Cells,
    Flag,
    Kind,
    Side,
    empty_cells,
    extend,
    from_words,
)

_BID, _ASK, _NO_SIDE = int(Side.BID), int(Side.ASK), int(Side.NONE)
_LAST = int(Flag.LAST)


def joined(parts: Sequence[Cells]) -> Cells:
    """Many small arrays of cells as one; NumPy itself takes its time to compare their structured types."""
    if len(parts) == 1:
        return parts[0]
    return np.frombuffer(bytearray().join(part.data for part in parts), CELL)


def book_cells(book: VenueBook, message: BookMessage, instrument: int, now: int) -> tuple[Cells, bool]:
    """Apply a message to a book; its cells, and whether every change was one that its name allows."""
    clear = int(message.whole)
    flags = int(Flag.SNAPSHOT) if message.whole else 0
    out = np.empty((clear + len(message.bids) + len(message.asks), 8), np.int64)
    out[:, 0] = message.ts_event or now
    out[:, 1] = now
    out[:, 2] = message.last
    out[:, 3] = 0
    out[:, 6] = head_word(instrument, 0, int(Kind.MBP), 1)
    if clear:
        book.clear()
        out[0, 4], out[0, 5] = UNDEFINED, 0
        out[0, 7] = tail_word(int(Action.CLEAR), _NO_SIDE, flags | int(Flag.SYNTHETIC), 0)
    possible = True
    at = clear
    for side, ladder, rows, text in (
        (_BID, book.bids, message.bids, message.bid_text),
        (_ASK, book.asks, message.asks, message.ask_text),
    ):
        tails, fine = ladder.change(rows, text, named=message.named)
        possible = possible and fine
        part = out[at : at + len(rows)]
        part[:, 4], part[:, 5], part[:, 7] = rows[:, PRICE], rows[:, SIZE], tails
        part[:, 7] |= side << 8 | flags << 16
        at += len(rows)
    if len(out):
        out[-1, 7] |= _LAST << 16
    return from_words(out), possible


def trade_cells(message: TradeMessage, instrument: int, now: int) -> Cells:
    """One TRADE record."""
    cells = _record(1, Kind.TRADE, instrument, message.ts_event or now, now)
    cell = cells[0]
    cell["sequence"], cell["order_id"] = message.number, message.number
    cell["price"], cell["size"], cell["action"] = message.price, message.size, Action.TRADE
    cell["side"] = _NO_SIDE if message.bought is None else _BID if message.bought else _ASK
    return cells


def quote_cells(message: QuoteMessage | OptionMessage, instrument: int, now: int) -> Cells:
    """One QUOTE or OPTION_QUOTE record."""
    is_option = isinstance(message, OptionMessage)
    kind, count = (Kind.OPTION_QUOTE, 3) if is_option else (Kind.QUOTE, 2)
    cells = _record(count, kind, instrument, message.ts_event or now, now)
    cells["action"], cells["side"] = Action.NONE, _NO_SIDE
    extend(cells)
    cells["price"][:2] = message.bid, message.ask
    cells["size"][:2] = message.bid_size, message.ask_size
    if isinstance(message, QuoteMessage):
        cells["sequence"] = message.sequence
        return cells
    told = cells[2:].view(OPTION_EXTENSION)[0]
    told["forward"], told["mark"] = message.forward, message.mark
    told["bid_volatility"], told["ask_volatility"] = message.bid_volatility, message.ask_volatility
    told["mark_volatility"], told["open_interest"] = message.mark_volatility, message.open_interest
    return cells


def _record(count: int, kind: Kind, instrument: int, ts_event: int, now: int) -> Cells:
    cells = empty_cells(count)
    cells["ts_event"], cells["ts_recv"], cells["instrument"] = ts_event, now, instrument
    cells["kind"], cells["cells"], cells["flags"] = kind, count, _LAST
    return cells
