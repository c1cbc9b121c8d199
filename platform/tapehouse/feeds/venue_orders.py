"""Books by order inside a venue's session, for venues that name orders by UUIDs and tell each order's life.

An order gets a number of 64 bits (`market.WideIds`), and a WIDE_ID record with the venue's own id stands before the
number is used first. An order that ends lets go of its number.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.cell_rows import CellRows
from tapehouse.feeds.venue_events import BookMessage
from tapehouse.feeds.venue_ladder import Ladder, VenueBook
from tapehouse.feeds.venue_numbers import Rows
from tapehouse.market import Action, Cells, Flag, Kind, Side, WideIds

ORDERS_MAX = 1 << 20  # living, of one instrument; the book that gets one more is not trusted
NO_ROWS: Rows = np.zeros((0, 7), np.int64)


class Turn(Enum):
    """What happens to an order on the book."""

    OPEN = "open"
    MATCH = "match"  # it rested, and `size` of it was taken
    DONE = "done"  # it has ended with `size` left; it may never have been on the book
    CHANGE = "change"  # from `before` to `size` and `price`; likewise


@dataclass(slots=True, kw_only=True)
class OrderTurn:
    """One turn in one order's life.

    Args:
        order: The venue's id.
        before: The size that it should have had, of a CHANGE; -1 where nobody says.
        size: As the turn says; -1 of a DONE that does not say it.
        price: -1 where a CHANGE leaves it.
    """

    turn: Turn
    order: bytes
    bid: bool
    price: int
    size: int
    before: int = -1


@dataclass(slots=True, kw_only=True)
class OrderMessage(BookMessage):
    """A whole book of orders, or what happened to one: none where a message only counts."""

    bids: Rows = field(default_factory=lambda: NO_ROWS)
    asks: Rows = field(default_factory=lambda: NO_ROWS)
    turns: list[OrderTurn] = field(default_factory=list)


@dataclass(slots=True)
class _Order:
    number: int
    bid: bool
    price: int
    size: int


class OrdersBook(VenueBook):
    """Orders by the venue's id; the ladders hold the sum of each level."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: dict[bytes, _Order] = {}
        self._ids = WideIds()

    def clear(self) -> None:
        """Forget all orders and their numbers."""
        super().clear()
        self.orders.clear()
        self._ids = WideIds()

    def apply(self, message: OrderMessage, instrument: int, now: int) -> tuple[Cells, bool]:
        """Take a message; its cells, LAST on the last one, and whether every turn was one that the book allows."""
        writer = _Writer(message, instrument, now)
        if message.whole:
            self.clear()
            writer.cell(Action.CLEAR, Side.NONE, 0, UNDEFINED, 0, Flag.SYNTHETIC)
        possible = True
        for turn in message.turns:
            known = self.orders.get(turn.order)
            if turn.turn is Turn.OPEN:
                possible &= self._open(turn, known, writer)
            elif turn.turn is Turn.MATCH:
                possible &= self._match(turn, known, writer)
            elif turn.turn is Turn.DONE:
                possible &= self._done(turn, known, writer)
            elif known is not None:
                possible &= self._change(turn, known, writer)
        return writer.take(), possible

    def _open(self, turn: OrderTurn, known: _Order | None, writer: _Writer) -> bool:
        if known is not None:
            self._take(turn.order, known, known.size, writer)
        if len(self.orders) >= ORDERS_MAX:
            return False
        number, record = self._ids.number(turn.order, ts_recv=writer.now, instrument=writer.instrument)
        if record is not None:
            writer.rows.add_cells(record)
        order = self.orders[turn.order] = _Order(number, turn.bid, turn.price, turn.size)
        self._level(order, turn.size)
        writer.order(Action.ADD, order, turn.size)
        return known is None

    def _match(self, turn: OrderTurn, known: _Order | None, writer: _Writer) -> bool:
        if known is None:
            return False
        taken = min(turn.size, known.size)
        writer.order(Action.FILL, known, taken)
        fits = taken == turn.size and known.bid == turn.bid and known.price == turn.price
        self._take(turn.order, known, taken, writer)
        return fits

    def _done(self, turn: OrderTurn, known: _Order | None, writer: _Writer) -> bool:
        """What is left of an order goes; one that is filled has gone by its matches, and is unknown here."""
        if known is None:
            return True
        left = known.size
        self._take(turn.order, known, left, writer)
        return turn.size in (-1, left)

    def _change(self, turn: OrderTurn, known: _Order, writer: _Writer) -> bool:
        """A smaller size at its price keeps its place in the queue; anything else loses it."""
        fits = turn.before in (-1, known.size) and turn.bid == known.bid
        price = known.price if turn.price < 0 or turn.size == 0 else turn.price
        if price == known.price and turn.size <= known.size:
            self._take(turn.order, known, known.size - turn.size, writer)
            return fits
        self._level(known, -known.size)
        known.price, known.size = price, turn.size
        self._level(known, known.size)
        writer.order(Action.MODIFY, known, known.size)
        return fits

    def _take(self, wide: bytes, order: _Order, size: int, writer: _Writer) -> None:
        """Take size off an order; nothing where it is 0, and the order with its last."""
        if size:
            writer.order(Action.CANCEL, order, size)
            self._level(order, -size)
            order.size -= size
        if not order.size:
            del self.orders[wide]
            self._ids.release(wide)

    def _level(self, order: _Order, size: int) -> None:
        side: Ladder = self.bids if order.bid else self.asks
        key = -order.price if order.bid else order.price
        held = side.sizes.get(key, 0)
        if held == 0:
            insort(side.keys, key)
        if held + size:
            side.sizes[key] = held + size
        else:
            del side.sizes[key], side.keys[bisect_left(side.keys, key)]


class _Writer:
    """The cells of one message."""

    def __init__(self, message: OrderMessage, instrument: int, now: int) -> None:
        self.rows = CellRows()
        self.instrument, self.now = instrument, now
        self._ts_event, self._sequence = message.ts_event or now, message.last
        self._flags = int(Flag.SNAPSHOT) if message.whole else 0

    def order(self, action: Action, order: _Order, size: int) -> None:
        """A cell of an order."""
        self.cell(action, Side.BID if order.bid else Side.ASK, order.number, order.price, size)

    def cell(self, action: Action, side: Side, number: int, price: int, size: int, flags: int = 0) -> None:
        """Any cell of the book."""
        self.rows.add(
            Kind.MBO,
            action,
            side,
            instrument=self.instrument,
            ts_event=self._ts_event,
            ts_recv=self.now,
            price=price,
            size=size,
            sequence=self._sequence,
            order_id=number,
            flags=self._flags | flags,
        )

    def take(self) -> Cells:
        """What was written, its last cell flagged."""
        if len(self.rows):
            self.rows.end_event()
        return self.rows.take()
