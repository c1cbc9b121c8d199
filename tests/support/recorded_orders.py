"""A recording's orders sent to a venue, and each execution that it tells as an order of a taker.

A file of N levels hides orders: those from before it began and those beyond its levels. What it reveals of them, a
level's size, rests here as orders that nobody knows, so that at each execution the venue's best prices are the file's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tapehouse.desk import BUY, SELL
from tapehouse.desk.control_commands import LOTS_MAX
from tapehouse.desk.records import MAKER
from tapehouse.desk.state import INDEX_BITS, ORDINAL
from tapehouse.desk.venue import NOTIONAL_MAX, AccountLimits, Venue
from tapehouse.market import Action, Cells, Instrument, Kind, Side

KNOWN_ACCOUNTS, UNKNOWN, TAKER = 60, 61, 62
NOBODY = 0  # the file's id of an order that it does not tell


@dataclass
class Resting:
    """An order of the recording in the venue."""

    known_as: int
    account: int
    side: int
    price: int
    left: int


class RecordedOrders:
    """A venue that is sent a recording.

    Args:
        requeue: A control: whoever joins a queue stands before those who waited there, as no exchange has it.

    Attributes:
        told: Of executions of orders that the file added: all, and those that the venue filled from the same order, at
            its price and to the same size; the same of those that had others at their price; and how often the youngest
            there would have been right. Of all executions: where price and size were the file's.
    """

    def __init__(self, instrument: Instrument, *, requeue: bool = False) -> None:
        self.venue = Venue([instrument])
        for account in range(TAKER + 1):
            self.venue.limit(account, AccountLimits(order_size=LOTS_MAX, position=LOTS_MAX, notional=NOTIONAL_MAX))
        self.requeue = requeue
        self.resting: dict[int, Resting] = {}
        self.queues: dict[tuple[int, int], list[int]] = {}
        self.known: dict[int, int] = {}
        self.executed = NOBODY
        self.now = 0
        self.told: Counter[str] = Counter()

    def send(self, cells: Cells) -> None:
        """The next cells of a feed by order."""
        for cell in cells:
            self.now = int(cell["ts_recv"])
            action, price, size = Action(int(cell["action"])), int(cell["price"]), int(cell["size"])
            side = BUY if cell["side"] == Side.BID else SELL
            if cell["kind"] == Kind.MBP:
                self._level(side, price, size if action == Action.ADD else 0)
            elif cell["kind"] == Kind.MBO:
                self._order(action, int(cell["order_id"]), side, price, size)

    def _order(self, action: Action, known_as: int, side: int, price: int, size: int) -> None:
        if action == Action.ADD:
            self._join(known_as, side, price, size)
        elif action == Action.FILL:
            self._execute(known_as, side, price, size)
        elif action == Action.CANCEL and known_as == self.executed:
            self.executed = NOBODY  # What was executed is told to be gone as well.
        elif action == Action.CANCEL:
            named = self.known.get(known_as)
            for order_id in [named] if named is not None else self._unknown(side, price):
                size -= self._cut(order_id, size)

    def _queue(self, side: int, price: int) -> list[int]:
        return self.queues.setdefault((side, price), [])

    def _unknown(self, side: int, price: int) -> list[int]:
        return [order_id for order_id in self._queue(side, price) if self.resting[order_id].known_as == NOBODY]

    def _level(self, side: int, price: int, size: int) -> None:
        """The file shows a level of that size: what the venue lacks there is somebody's."""
        there = sum(self.resting[order_id].left for order_id in self._queue(side, price))
        if there > size:
            for order_id in list(self._queue(side, price)):
                self._cut(order_id, there)
            there = 0
        if size > there:
            self._join(NOBODY, side, price, size - there)

    def _join(self, known_as: int, side: int, price: int, size: int) -> None:
        waited = [self.resting[order_id] for order_id in self._queue(side, price)] if self.requeue else []
        for order_id in list(self._queue(side, price)) if self.requeue else []:
            self._cut(order_id, self.resting[order_id].left)
        account = UNKNOWN if known_as == NOBODY else known_as % KNOWN_ACCOUNTS
        for order in [Resting(known_as, account, side, price, size), *waited]:
            self._rest(order)

    def _rest(self, order: Resting) -> None:
        order_id = (int(self.venue.desk.counters[ORDINAL]) + 1) << INDEX_BITS
        cells = self.venue.order(order.account, 0, order.side, order.price, order.left, time=self.now)
        assert len(cells) == 2, "an order of the recording traded before the recording said so"
        self.resting[order_id] = order
        self._queue(order.side, order.price).append(order_id)
        if order.known_as != NOBODY:
            self.known[order.known_as] = order_id

    def _cut(self, order_id: int, size: int) -> int:
        """Take so much from an order, at most all; returns how much that was."""
        order = self.resting[order_id]
        taken = min(size, order.left)
        if taken == order.left:
            self.venue.cancel(order.account, 0, order_id, time=self.now)
        elif taken:
            self.venue.replace(order.account, 0, order_id, order.price, order.left - taken, time=self.now)
        self._less(order_id, taken)
        return taken

    def _less(self, order_id: int, size: int) -> None:
        order = self.resting[order_id]
        left = order.left - size
        self.resting[order_id] = Resting(order.known_as, order.account, order.side, order.price, left)
        if not left:
            del self.resting[order_id]
            self._queue(order.side, order.price).remove(order_id)
            if self.known.get(order.known_as) == order_id:
                del self.known[order.known_as]

    def _execute(self, known_as: int, side: int, price: int, size: int) -> None:
        """Somebody takes what the file says was taken; whom the venue serves is compared with whom the file names."""
        self.executed = known_as
        wanted, queue = self.known.get(known_as), list(self._queue(side, price))
        cells = self.venue.order(TAKER, 0, 1 - side, price, size, time=self.now, time_in_force="ioc")
        makers = cells[(cells["kind"] == Kind.FILL) & (cells["cells"] > 0) & (cells["depth"] == MAKER)]
        fills = [tuple(int(fill[name]) for name in ("order_id", "price", "size")) for fill in makers]
        for order_id, _, filled in fills:
            self._less(order_id, filled)
        right_price = {fill[1] for fill in fills} == {price} and sum(fill[2] for fill in fills) == size
        self.told.update(executions=1, at_its_price=int(right_price))
        if wanted is None:
            return
        same = fills == [(wanted, price, size)]
        self.told.update(of_known=1, same=int(same))
        if len(queue) > 1:
            self.told.update(queued=1, queued_same=int(same), youngest=int(queue[-1] == wanted))
        if not same and wanted in self.resting:  # The one that was meant is gone; who was served instead is not.
            taken = self._cut(wanted, size - sum(filled for order_id, _, filled in fills if order_id == wanted))
            if taken:
                self._join(NOBODY, side, price, taken)
