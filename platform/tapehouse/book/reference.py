"""The slow, obvious books: dicts of prices, lists of orders. The oracle that the kernels are held against.

Same rules, same statuses, same snapshot bytes as `kernels`, and none of its tricks: prices stay prices, an order is
found by looking, the best level is the maximum.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field

from tapehouse.book.layout import PRICE_MAX, SIZE_MAX, BookState, Status
from tapehouse.core.units import UNDEFINED
from tapehouse.market import Action, Cells, Confidence, Flag, Kind, Side

ACTIONS_WITHOUT_EFFECT = (Action.TRADE, Action.FILL, Action.NONE)
ACTIONS_WITH_EFFECT = (Action.ADD, Action.CANCEL, Action.MODIFY, Action.CLEAR)


@dataclass(slots=True)
class Order:
    """A known order, in its level's list."""

    order_id: int
    size: int


@dataclass(slots=True)
class Level:
    """What rests at one price of one side: known orders, oldest first, and a quantity of unknown ones."""

    anonymous: int = 0
    orders: list[Order] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Known and anonymous together."""
        return self.anonymous + sum(order.size for order in self.orders)


@dataclass(slots=True)
class ReferenceBook:
    """The book of one slot: for each side (0 bid, 1 ask) its levels by price; empty levels are not kept."""

    tick: int
    levels_max: int
    in_snapshot: bool = False
    sides: tuple[dict[int, Level], dict[int, Level]] = field(default_factory=lambda: ({}, {}))

    def find(self, order_id: int) -> tuple[int, int, Order] | None:
        """Side, price and order of a live order."""
        for side, levels in enumerate(self.sides):
            for price, level in levels.items():
                for order in level.orders:
                    if order.order_id == order_id:
                        return side, price, order
        return None

    def remove(self, side: int, price: int, order: Order) -> None:
        """Take an order out, and its level where it was the last of it."""
        self.sides[side][price].orders.remove(order)
        self.tidy(side, price)

    def tidy(self, side: int, price: int) -> None:
        """Forget a level without size."""
        if price in self.sides[side] and self.sides[side][price].size == 0:
            del self.sides[side][price]

    def fault(self, price: int) -> Status:
        """OK where a level can have that price."""
        if abs(price) > PRICE_MAX:
            return Status.OUT_OF_WINDOW
        return Status.OFF_TICK if price % self.tick else Status.OK

    def claim(self, side: int, price: int) -> Status:
        """As `fault`, for a level that is about to have a size."""
        fault = self.fault(price)
        if not fault and price not in self.sides[side] and len(self.sides[side]) >= self.levels_max:
            return Status.TOO_MANY_LEVELS
        return fault

    def state(self) -> BookState:
        """How the best bid and the best ask stand to each other."""
        bids, asks = self.sides
        if not bids or not asks:
            return BookState.ONE_SIDED if bids or asks else BookState.EMPTY
        if max(bids) < min(asks):
            return BookState.NORMAL
        return BookState.LOCKED if max(bids) == min(asks) else BookState.CROSSED

    def clear(self) -> None:
        """Empty both sides."""
        for levels in self.sides:
            levels.clear()


class ReferenceBooks:
    """As `make_books`, with the same meaning of every argument and status."""

    def __init__(self, instruments: int, *, orders: int, levels: int) -> None:
        self.books: list[ReferenceBook | None] = [None] * instruments
        self.orders_max = orders
        self.levels_max = levels
        self.stats: list[Counter[Status]] = [Counter() for _ in range(instruments + 1)]
        self.entered: list[Counter[BookState]] = [Counter() for _ in range(instruments)]
        self.confidence: list[Confidence] = [Confidence.GOOD] * instruments
        self.doubted: list[Counter[Confidence]] = [Counter() for _ in range(instruments)]

    def define(self, slot: int, tick_size: int) -> None:
        """See `layout.define`; only for slots that are still undefined."""
        self.books[slot] = ReferenceBook(tick_size, self.levels_max)

    def set_confidence(self, slot: int, confidence: int) -> Status:
        """See `standing.set_confidence`."""
        if not 0 <= slot < len(self.books) or confidence not in list(Confidence):
            return Status.OUT_OF_RANGE
        if self.confidence[slot] != confidence:
            self.confidence[slot] = Confidence(confidence)
            self.doubted[slot][Confidence(confidence)] += 1
        return Status.OK

    def live(self) -> int:
        """Known orders of all slots."""
        levels = (level for book in self.books if book for side in book.sides for level in side.values())
        return sum(len(level.orders) for level in levels)

    def apply(self, slot: int, cells: Cells, row: int) -> Status:
        """See `kernels.apply`."""
        if not 0 <= row < len(cells):
            self.stats[-1][Status.OUT_OF_RANGE] += 1
            return Status.OUT_OF_RANGE
        cell = cells[row]
        if cell["kind"] not in (Kind.MBO, Kind.MBP, Kind.QUOTE) or cell["cells"] == 0:
            return Status.OK
        if not 0 <= slot < len(self.books):
            self.stats[-1][Status.OUT_OF_RANGE] += 1
            return Status.OUT_OF_RANGE
        before = self.state(slot)
        if cell["kind"] == Kind.QUOTE:
            status = self._quote(self.books[slot], cells[row : row + int(cell["cells"])])
        else:
            names = ("kind", "action", "side", "flags", "order_id", "price", "size")
            status = self._change(self.books[slot], **{name: int(cell[name]) for name in names})
        self.stats[slot][status] += 1
        after = self.state(slot)
        if after != before:
            self.entered[slot][after] += 1
        return status

    def state(self, slot: int) -> BookState:
        """See `view.state`."""
        book = self.books[slot]
        return book.state() if book else BookState.EMPTY

    def _quote(self, book: ReferenceBook | None, record: Cells) -> Status:
        if book is None:
            return Status.UNDEFINED_SLOT
        if self._begin(book, int(record["action"][0]), int(record["flags"][0])):
            return Status.OK
        if len(record) < 2:
            return Status.OUT_OF_RANGE
        found = []
        for side in range(2):
            price, size = int(record["price"][side]), int(record["size"][side])
            if price == UNDEFINED or size == 0:
                book.sides[side].clear()
                continue
            for other in [each for each in book.sides[side] if each != price]:
                del book.sides[side][other]
            found.append(self._set_level(book, side, price, size))
            if found[-1] not in (Status.OK, Status.ORDERS_DROPPED):
                book.sides[side].clear()
        return next((status for status in found if status), Status.OK)

    def _begin(self, book: ReferenceBook, action: int, flags: int) -> bool:
        """Empty the book where this record says so; True where it says nothing else."""
        flagged = bool(flags & Flag.SNAPSHOT)
        if action == Action.CLEAR or (flagged and not book.in_snapshot):
            book.clear()
        book.in_snapshot = flagged
        return action == Action.CLEAR

    def _change(
        self,
        book: ReferenceBook | None,
        *,
        kind: int,
        action: int,
        side: int,
        flags: int,
        order_id: int,
        price: int,
        size: int,
    ) -> Status:
        if book is None:
            return Status.UNDEFINED_SLOT
        if action in ACTIONS_WITHOUT_EFFECT:
            return Status.OK
        if action not in ACTIONS_WITH_EFFECT:
            return Status.BAD_ACTION
        if self._begin(book, action, flags):
            return Status.OK
        number = {int(Side.BID): 0, int(Side.ASK): 1}.get(side)
        if kind == Kind.MBO and action == Action.CANCEL:
            return self._cancel(book, number, order_id, price, size)
        if number is None:
            return Status.BAD_SIDE
        if kind == Kind.MBP:
            return self._set_level(book, number, price, 0 if action == Action.CANCEL else size)
        if not (0 if action == Action.MODIFY else 1) <= size <= SIZE_MAX:
            return Status.BAD_SIZE
        found = book.find(order_id) if order_id else None
        if found:
            status = self._modify(book, found, number, price, size)
            return Status.DUPLICATE_ORDER if action == Action.ADD and status == Status.OK else status
        if action == Action.MODIFY and (order_id == 0 or size == 0):
            return Status.UNKNOWN_ORDER
        status = self._enter(book, number, order_id, price, size)
        return Status.UNKNOWN_ORDER if action == Action.MODIFY and status == Status.OK else status

    def _enter(self, book: ReferenceBook, side: int, order_id: int, price: int, size: int) -> Status:
        fault = book.claim(side, price)
        if fault:
            return fault
        level = book.sides[side].get(price, Level())
        if level.size + size > SIZE_MAX:
            return Status.BAD_SIZE
        if order_id and self.live() >= self.orders_max:
            return Status.TABLE_FULL
        book.sides[side][price] = level
        if order_id:
            level.orders.append(Order(order_id, size))
        else:
            level.anonymous += size
        return Status.OK

    def _modify(self, book: ReferenceBook, found: tuple[int, int, Order], side: int, price: int, size: int) -> Status:
        old_side, old_price, order = found
        fault = book.claim(side, price) if size else Status.OK
        if size and not fault and (side, price) == (old_side, old_price) and size <= order.size:
            order.size = size
            return Status.OK
        book.remove(old_side, old_price, order)
        if size == 0:
            return Status.OK
        return fault or self._enter(book, side, order.order_id, price, size)

    def _cancel(self, book: ReferenceBook, side: int | None, order_id: int, price: int, size: int) -> Status:
        if size <= 0:
            return Status.BAD_SIZE
        found = book.find(order_id) if order_id else None
        if found:
            at_side, at_price, order = found
            remaining = order.size
            if size < remaining:
                order.size -= size
                return Status.OK
            book.remove(at_side, at_price, order)
            return Status.OK if size in (remaining, UNDEFINED) else Status.EXCESS_SIZE
        level = book.sides[side].get(price) if side is not None and size != UNDEFINED else None
        if side is None or level is None:
            return Status.UNKNOWN_ORDER
        taken = min(size, level.anonymous)
        level.anonymous -= taken
        book.tidy(side, price)
        return Status.OK if order_id == 0 and taken == size else Status.UNKNOWN_ORDER

    def _set_level(self, book: ReferenceBook, side: int, price: int, size: int) -> Status:
        if not 0 <= size <= SIZE_MAX:
            return Status.BAD_SIZE
        fault = book.claim(side, price) if size else book.fault(price)
        if fault:
            return fault
        level = book.sides[side].setdefault(price, Level())
        dropped = False
        while level.size - level.anonymous > size:
            level.orders.pop()
            dropped = True
        level.anonymous += size - level.size
        book.tidy(side, price)
        return Status.ORDERS_DROPPED if dropped else Status.OK

    def levels(self, slot: int, side: int) -> list[tuple[int, int, int]]:
        """See `view.levels`."""
        book = self.books[slot]
        if book is None:
            return []
        prices = sorted(book.sides[side], reverse=side == 0)
        return [(price, book.sides[side][price].size, len(book.sides[side][price].orders)) for price in prices]

    def snapshot(self) -> bytes:
        """See `canonical.snapshot`: the same bytes."""
        words: list[int] = [3, len(self.books), self.levels_max, self.orders_max]
        for book, confidence in zip(self.books, self.confidence, strict=True):
            words.append(confidence)
            if book is None:
                words.append(0)
                continue
            words += [book.tick, int(book.in_snapshot)]
            for side, levels in enumerate(book.sides):
                words.append(len(levels))
                for price in sorted(levels, reverse=side == 0):
                    words += [price, levels[price].anonymous, len(levels[price].orders)]
                    for order in levels[price].orders:
                        words += [order.order_id, order.size]
        return b"TAPEBOOK" + b"".join(struct.pack("<Q", word % 2**64) for word in words)
