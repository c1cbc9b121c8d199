"""What a Bitstamp log says of itself, held against a book of dicts that shares the parser with the feed and no more.

- Each order lives one life: a create is of a new id, a change never adds, and a delete has the price, the side and what
  remained, or nothing remained. Messages that come milliseconds after their order's delete are counted, not blamed.
- Each order_book line's best bid and ask, price and size, is what the order messages give. The first hour is only
  counted: orders from before the log are missing there. Later a difference counts unless our best was the line's
  within PHASE_NS (the two streams are not in step), or a gap is open: crossed for longer than CROSSED_NS, until the
  line agrees.
- At a gap the orders that the line contradicts are taken out; none of them is ever told again.
- The feed's GAP records are the ones found here. Each trade has an order that lost that amount within TRADE_NS.
- orders.csv, where given, has a row for each order message. Its volume was cut off after a product of floats, so it
  may be one unit less; such rows are counted.

What cannot be noticed: prices and times of trades, levels below the best of order_book lines, times that keep the
order, creation times of orders that are never told again, and an order that neither was the best nor was deleted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from tapehouse.core.errors import DecodeError
from tapehouse.feeds.bitstamp_log import BID, BOOK, CHANGED, CREATED, DELETED, TRADE, Level, Message, messages_of
from tapehouse.feeds.checking import Check
from tapehouse.feeds.packed_files import PackedFile, lines_of
from tapehouse.feeds.port import Feed
from tapehouse.market import Cause, Kind

HOUR_NS = 3_600_000_000_000
PHASE_NS = 1_000_000_000
TRADE_NS = 5_000_000_000
CROSSED_NS = 1_000_000_000
GONE_MAX = 1 << 16  # deleted ids that are remembered
TOPS_MAX = 1 << 14  # best prices that are remembered, for PHASE_NS
_NS_PER_MS = 1_000_000
_COLUMNS = 7
_HEADER = b"id,timestamp,exchange.timestamp,price,volume,action,direction"

Top = tuple[Level | None, Level | None]


@dataclass(slots=True)
class _Waiting:
    """An order_book line that differed, or a trade without its order yet."""

    message: Message
    found: Top | None = None


@dataclass(slots=True)
class _Log:
    """The fold over a log."""

    check: Check
    orders: dict[int, list[int]] = field(default_factory=dict)  # id: side, price, size, creation
    levels: tuple[Counter[int], Counter[int]] = field(default_factory=lambda: (Counter(), Counter()))
    gone: dict[int, None] = field(default_factory=dict)  # the latest deleted ids, oldest first
    removed: set[int] = field(default_factory=set)  # orders taken out at a gap
    tops: deque[tuple[int, Top]] = field(default_factory=lambda: deque(maxlen=TOPS_MAX))
    books: deque[_Waiting] = field(default_factory=deque)
    trades: deque[Message] = field(default_factory=deque)
    losses: deque[tuple[int, int, bool]] = field(default_factory=deque)  # time, amount, whether by a change
    hours: dict[int, list[int]] = field(default_factory=dict)
    gaps: list[int] = field(default_factory=list)
    began: int | None = None
    latest: int = 0
    crossed_since: int | None = None
    open_gap: bool = False
    trades_seen: int = 0
    trades_matched: int = 0
    trades_matched_by_change: int = 0
    late: int = 0
    passing: int = 0

    def where(self, message: Message) -> str:
        return f"line {message.line}, {message.event} at {message.ts_recv // _NS_PER_MS} ms"

    def take(self, message: Message) -> None:
        """One line of the log."""
        self.began = message.ts_recv if self.began is None else self.began
        if message.ts_recv < self.latest:
            self.check.mismatch(f"{self.where(message)}: the time goes backwards")
        self.latest = max(self.latest, message.ts_recv)
        if message.event == BOOK:
            self.book(message)
        elif message.event == TRADE:
            self.trades_seen += 1
            self.trades.append(message)
        else:
            self.order(message)
            self.note_top()
        self.settle(final=False)

    def order(self, message: Message) -> None:
        """An order's message: its own contradictions, then its effect."""
        where, known = self.where(message), self.orders.get(message.id)
        if message.id in self.removed:
            self.removed.remove(message.id)
            self.check.mismatch(f"{where}: an order_book line contradicted this order before, yet it lives")
        elif message.id in self.gone:
            self.late += 1
        elif message.event == CREATED:
            self.check.compare(where, "known already" if known else "new", "new")
        elif known:
            remaining = message.size if message.event == DELETED and message.size else known[2]
            found = (message.side, message.created_s, message.price if message.event == DELETED else known[1])
            self.check.compare(where, (*found, remaining), (known[0], known[3], known[1], known[2]))
            if message.event == CHANGED:
                self.check.compare(f"{where}, amount {message.size} of {known[2]}", message.size <= known[2], True)
        if known:
            self.change(known[0], known[1], -known[2])
            del self.orders[message.id]
        if message.event == DELETED:
            self.remember_gone(message.id)
        elif message.size:
            self.orders[message.id] = [message.side, message.price, message.size, message.created_s]
            self.change(message.side, message.price, message.size)
        if known and message.event != CREATED and (message.event == CHANGED or message.size == 0):
            lost = known[2] - (message.size if message.event == CHANGED else 0)
            self.losses.append((message.ts_recv, lost, message.event == CHANGED))

    def remember_gone(self, order: int) -> None:
        """Keep the id among the latest GONE_MAX."""
        self.gone[order] = None
        if len(self.gone) > GONE_MAX:
            del self.gone[next(iter(self.gone))]

    def change(self, side: int, price: int, delta: int) -> None:
        """Add to a level; it goes when nothing remains."""
        self.levels[side][price] += delta
        if self.levels[side][price] <= 0:
            del self.levels[side][price]

    def top(self) -> Top:
        """The best bid and the best ask with their sizes."""
        bids, asks = self.levels
        bid, ask = max(bids, default=None), min(asks, default=None)
        return (None if bid is None else (bid, bids[bid]), None if ask is None else (ask, asks[ask]))

    def note_top(self) -> None:
        """Remember the best prices, and since when they cross."""
        bid, ask = top = self.top()
        self.tops.append((self.latest, top))
        if bid is not None and ask is not None and bid[0] >= ask[0]:
            self.crossed_since = self.latest if self.crossed_since is None else self.crossed_since
        else:
            self.crossed_since = None

    def book(self, message: Message) -> None:
        """One order_book line against the best prices of the book."""
        top, wanted = self.top(), _top_of(message)
        if None in top or None in wanted:
            return
        assert self.began is not None
        hour = (message.ts_recv - self.began) // HOUR_NS
        counts = self.hours.setdefault(hour, [0, 0])
        counts[0] += top == wanted
        counts[1] += 1
        if self.crossed_since is not None and message.ts_recv - self.crossed_since > CROSSED_NS:
            self.open_gap_at(message)
        elif top == wanted:
            self.open_gap = False
        if hour > 0 and not self.open_gap:
            self.check.compared += 1
            if top != wanted:
                self.books.append(_Waiting(message, top))

    def open_gap_at(self, message: Message) -> None:
        """Orders are gone: take out what the line contradicts, as an honest repair may."""
        bid, ask = _top_of(message)
        if bid is None or ask is None or bid[0] >= ask[0]:
            return
        self.open_gap = True
        self.gaps.append(message.ts_recv)
        for order, (side, price, size, _) in list(self.orders.items()):
            if price >= ask[0] if side == BID else price <= bid[0]:
                del self.orders[order]
                self.removed.add(order)
                self.change(side, price, -size)
        self.note_top()

    def settle(self, *, final: bool) -> None:
        """Judge what has waited long enough."""
        while self.books and (final or self.latest - self.books[0].message.ts_recv > PHASE_NS):
            waiting = self.books.popleft()
            message = waiting.message
            wanted = _top_of(message)
            if any(top == wanted for at, top in self.tops if abs(at - message.ts_recv) <= PHASE_NS):
                self.passing += 1
            else:
                self.check.mismatch(f"{self.where(message)}: best {waiting.found}, not {wanted}")
        while self.trades and (final or self.latest - self.trades[0].ts_recv > TRADE_NS):
            self.judge_trade(self.trades.popleft())
        horizon = self.trades[0].ts_recv if self.trades else self.latest
        while self.losses and horizon - self.losses[0][0] > TRADE_NS:
            self.losses.popleft()

    def judge_trade(self, trade: Message) -> None:
        """Whether an order lost the trade's amount near its time."""
        near = [
            by_change
            for at, amount, by_change in self.losses
            if amount == trade.size and abs(at - trade.ts_recv) <= TRADE_NS
        ]
        self.check.compare(f"{self.where(trade)}: orders that lost {trade.size}", bool(near), True)
        self.trades_matched += bool(near)
        self.trades_matched_by_change += any(near)


def _top_of(message: Message) -> Top:
    return (message.bids[0] if message.bids else None, message.asks[0] if message.asks else None)


def check_log(path: Path, orders: Path | None, feed: Feed) -> Check:
    """Fold a log and hold it against itself, against the feed's gaps, and against orders.csv.

    Raises:
        MissingError, DecodeError: As reading the files does.
    """
    check = Check()
    fold = _Log(check)
    companion = _Companion(orders, check) if orders is not None else None
    for message in messages_of(path):
        check.rows += 1
        fold.take(message)
        if companion is not None and message.event in (CREATED, CHANGED, DELETED):
            companion.compare(message)
    fold.settle(final=True)
    if companion is not None:
        companion.finish()
    found = [
        int(at)
        for batch in feed.batches()
        for at in batch["ts_recv"][(batch["kind"] == Kind.GAP) & (batch["action"] == Cause.CROSSED)]
    ]
    check.compare("the times of the feed's gaps", found, fold.gaps)
    _tell(check, fold, companion)
    return check


def _tell(check: Check, fold: _Log, companion: _Companion | None) -> None:
    for hour, (equal, compared) in sorted(fold.hours.items()):
        check.truths[f"hour_{hour + 1}"] = f"{equal}/{compared}"
    check.truths |= {
        "gaps": len(fold.gaps),
        "first_gap_ms": fold.gaps[0] // _NS_PER_MS if fold.gaps else None,
        "out_of_step": fold.passing,
        "after_their_delete": fold.late,
        "trades_matched": f"{fold.trades_matched}/{fold.trades_seen}",
        "trades_matched_by_change": f"{fold.trades_matched_by_change}/{fold.trades_seen}",
    }
    if companion is not None:
        check.truths |= {"orders_rows": companion.rows, "orders_cut_volumes": companion.cut}


class _Companion:
    """The rows of orders.csv, one for each order message, in the same order."""

    def __init__(self, path: Path, check: Check) -> None:
        self.rows = 0
        self.cut = 0
        self._check = check
        self._rows = self._read(path)

    def _read(self, path: Path) -> Iterator[tuple[str, list[str]]]:
        with PackedFile(path) as file:
            for number, line in lines_of(file, file.title):
                if number == 1:
                    if line != _HEADER:
                        raise DecodeError("this is not the header of an orders.csv", subject=file.title)
                    continue
                row = line.decode("ascii", "replace").split(",")
                if len(row) != _COLUMNS:
                    raise DecodeError(
                        f"{len(row)} columns where {_COLUMNS} belong", subject=file.title, position=f"line {number}"
                    )
                self.rows += 1
                yield f"{file.title}, line {number}", row

    def compare(self, message: Message) -> None:
        """The next row against an order message."""
        where, row = next(self._rows, ("", []))
        if not row:
            self._check.mismatch(f"orders.csv has no row for line {message.line} of the log")
            return
        expected = [
            str(message.id),
            str(message.ts_recv // _NS_PER_MS),
            f"{message.created_s}000",
            f"{Decimal(message.price).scaleb(-9):.2f}",
            str(message.size),
            message.event.removeprefix("order_"),
            "bid" if message.side == BID else "ask",
        ]
        if row[4] == str(message.size - 1):
            self.cut += 1
            row[4] = expected[4]
        row[3] = _two_decimals(row[3])
        self._check.compare(where, row, expected)

    def finish(self) -> None:
        """What is left over has no message."""
        for where, _ in self._rows:
            self._check.mismatch(f"{where}: the log has no such order message")


def _two_decimals(text: str) -> str:
    """A price as the log spells it: orders.csv leaves out trailing zeros."""
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction:0<2}"
