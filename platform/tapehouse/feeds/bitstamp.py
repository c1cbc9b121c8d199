"""Bitstamp's order log: every order's life, trades, and an independent stream of the best 20 levels.

Order messages become market-by-order cells, trades become trades without an aggressor: the log names none. The
order_book lines become no book; they judge the one that the order messages build. A log begins in the middle of a
session, so its book begins SUSPECT, and becomes GOOD at the first order_book line that it equals in every level. A book
that is crossed for longer than an aggressive order takes to execute, while the order_book line is not, has an order
that is gone: a GAP record says so, SYNTHETIC cancels remove every order that stands where the line's other side is,
and the book is REBUILDING until it equals a line in every level again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd
from pathlib import Path

from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.core.ids import slug
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.bitstamp_check import check_log
from tapehouse.feeds.bitstamp_log import (
    ASK,
    BID,
    BOOK,
    CHANGED,
    CREATED,
    DELETED,
    LEVELS,
    ORDERS_MAX,
    PRICE_EXPONENT,
    SIZE_EXPONENT,
    TRADE,
    Message,
    OrderBook,
    messages_of,
)
from tapehouse.feeds.cell_rows import CellRows
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import NO_OPTIONS, SourceOptions
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.market import Action, Cause, Cells, Confidence, Flag, Instrument, Kind, Side, gap_record

DEFAULT_SYMBOL = "BTCUSD"
CROSSED_NS_MAX = 1_000_000_000  # an aggressive order rests beyond the other side for 0.6 s at the longest
_LINE_BYTES = 110  # of an average line, for the estimate
_PACKED = 12
_SIDES = {BID: Side.BID, ASK: Side.ASK}


class BitstampFeed:
    """One log.

    Args:
        path: `.log`, plain or packed.
        symbol: The pair, which the file does not name.
        batch_cells: About how many cells a batch holds.

    Attributes:
        unknown_orders: Deletes of orders that the log never showed, so far in the latest pass.
        learnt_orders: Changes of such orders, which make them known.
        removed_orders: Orders cancelled because an order_book line contradicts them.
        corrected_times: Local times that went backwards and were held.

    Raises:
        MissingError: There is no such file.
        DecodeError: Its first line is none of a log.
    """

    def __init__(self, path: Path | str, *, symbol: str | None = None, batch_cells: int = BATCH_CELLS_MAX) -> None:
        self._path = Path(path)
        self._symbol = symbol or DEFAULT_SYMBOL
        self._batch_cells = batch_cells
        self._instruments = (
            Instrument(
                id=1,
                symbol=self._symbol,
                venue="BITSTAMP",
                asset_class="crypto",
                price_exponent=PRICE_EXPONENT,
                size_exponent=SIZE_EXPONENT,
                tick_size=self._survey_tick(),
            ),
        )
        self.unknown_orders = self.learnt_orders = self.removed_orders = self.corrected_times = 0

    def _survey_tick(self) -> int:
        """The greatest step that divides every price; what stands behind damage is not asked."""
        tick = 0
        try:
            for message in messages_of(self._path):
                tick = gcd(tick, message.price, *(price for price, _ in message.bids + message.asks))
        except DecodeError:
            if tick == 0:
                raise
        return tick or 1

    @property
    def name(self) -> str:
        """`bitstamp-<file>`."""
        return slug(f"bitstamp-{self._path.name.partition('.')[0]}")

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """The one pair, with id 1; its tick is the greatest that divides every price of the log."""
        return self._instruments

    @property
    def cells_estimate(self) -> int | None:
        """From the file's size."""
        plain = self._path.stat().st_size * (1 if self._path.suffix == ".log" else _PACKED)
        return max(plain // _LINE_BYTES, 1)

    def batches(self) -> Iterator[Cells]:
        """The log from its beginning; each call is a new pass.

        Raises:
            DecodeError: A line is none of a log.
        """
        self.unknown_orders = self.learnt_orders = self.removed_orders = self.corrected_times = 0
        rows = CellRows(self._batch_cells)
        decoding = _Decoding(self, rows)
        try:
            for message in messages_of(self._path):
                decoding.take(message)
                if rows.full:
                    yield rows.take()
        except DecodeError:
            if len(rows):
                yield rows.take()
            raise
        if len(rows):
            yield rows.take()


class _Decoding:
    """The state of one pass."""

    def __init__(self, feed: BitstampFeed, rows: CellRows) -> None:
        self._feed = feed
        self._rows = rows
        self._book = OrderBook()
        self._latest = 0
        self._confidence: Confidence | None = None
        self._crossed: Message | None = None  # the message that crossed the book, while it is

    def take(self, message: Message) -> None:
        """The cells of one line."""
        if message.ts_recv < self._latest:
            self._feed.corrected_times += 1
        self._latest = max(self._latest, message.ts_recv)
        if self._confidence is None:
            self._begin(message)
        if message.event == BOOK:
            self._judge(message)
            return
        before = len(self._rows)
        if message.event == TRADE:
            self._add(message, Action.TRADE, Side.NONE, message.price, message.size, kind=Kind.TRADE)
        else:
            self._order(message)
            if not self._book.crossed:
                self._crossed = None
            elif self._crossed is None:
                self._crossed = message
        if len(self._rows) > before:
            self._rows.end_event()

    def _begin(self, message: Message) -> None:
        self._gap(Cause.UNKNOWN, Confidence.SUSPECT)
        self._add(message, Action.CLEAR, Side.NONE, UNDEFINED, 0, flags=Flag.SYNTHETIC | Flag.LAST)

    def _order(self, message: Message) -> None:
        side, known = _SIDES[message.side], self._book.orders.get(message.id)
        if known is None and len(self._book.orders) >= ORDERS_MAX:
            raise DecodeError(
                f"more than {ORDERS_MAX} live orders", subject=self._feed.name, position=f"line {message.line}"
            )
        size = 0 if message.event == DELETED else message.size
        if known is None:
            self._count_unknown(message)
            if size:
                self._add(message, Action.ADD, side, message.price, size)
        else:
            stays = (known[0], known[1]) == (message.side, message.price)
            if size == 0:
                self._add(message, Action.CANCEL, _SIDES[known[0]], known[1], known[2])
            elif message.event == CHANGED and stays and size < known[2]:
                self._add(message, Action.CANCEL, side, known[1], known[2] - size)
            else:
                self._add(message, Action.MODIFY, side, message.price, size)
        self._book.put(message.id, message.side, message.price, size)

    def _count_unknown(self, message: Message) -> None:
        """An order that the log had not shown, or had shown to be gone."""
        if message.event == DELETED:
            self._feed.unknown_orders += 1
        elif message.event != CREATED:
            self._feed.learnt_orders += 1

    def _judge(self, message: Message) -> None:
        """Hold the book against an order_book line."""
        if self._is_contradicted(message):
            assert self._crossed is not None
            line = self._crossed.line
            self._gap(Cause.CROSSED, Confidence.SUSPECT, sequence=line - 1, following=line)
            self._gap(Cause.SNAPSHOT, Confidence.REBUILDING)
            self._remove_contradicted(message)
            self._crossed = None
        elif self._confidence is not Confidence.GOOD and self._book.top(LEVELS) == (message.bids, message.asks):
            self._gap(Cause.SNAPSHOT, Confidence.GOOD)

    def _is_contradicted(self, message: Message) -> bool:
        if self._crossed is None or self._latest - self._crossed.ts_recv <= CROSSED_NS_MAX:
            return False
        return bool(message.bids and message.asks) and message.bids[0][0] < message.asks[0][0]

    def _remove_contradicted(self, message: Message) -> None:
        """Cancel the bids that reach the line's best ask, and the asks that reach its best bid."""
        best_bid, best_ask = message.bids[0][0], message.asks[0][0]
        gone = [
            (order, side, price, size)
            for order, (side, price, size) in self._book.orders.items()
            if (price >= best_ask if side == BID else price <= best_bid)
        ]
        for order, side, price, size in gone:
            self._add(message, Action.CANCEL, _SIDES[side], price, size, order=order, flags=Flag.SYNTHETIC)
            self._book.put(order, side, price, 0)
        if gone:
            self._rows.end_event()
        self._feed.removed_orders += len(gone)

    def _add(
        self,
        message: Message,
        action: Action,
        side: Side,
        price: int,
        size: int,
        *,
        kind: Kind = Kind.MBO,
        order: int | None = None,
        flags: int = 0,
    ) -> None:
        self._rows.add(
            kind,
            action,
            side,
            instrument=1,
            ts_event=message.ts_recv,
            ts_recv=self._latest,
            sequence=message.line,
            order_id=message.id if order is None else order,
            price=price,
            size=size,
            flags=flags,
        )

    def _gap(self, cause: Cause, confidence: Confidence, *, sequence: int = 0, following: int = 0) -> None:
        self._confidence = confidence
        self._rows.add_cells(
            gap_record(cause, confidence, ts_recv=self._latest, instrument=1, sequence=sequence, following=following)
        )


def open_files(paths: Sequence[Path], options: SourceOptions = NO_OPTIONS) -> BitstampFeed:
    """The feed over a log; a second file, the companion orders.csv, is only for the check."""
    return BitstampFeed(_log_and_orders(paths)[0], symbol=options.symbol)


def check_files(paths: Sequence[Path], options: SourceOptions = NO_OPTIONS) -> Check:
    """The log against its own order_book lines, its orders' lives, its trades, and orders.csv where it is given."""
    log, orders = _log_and_orders(paths)
    return check_log(log, orders, BitstampFeed(log, symbol=options.symbol))


def _log_and_orders(paths: Sequence[Path]) -> tuple[Path, Path | None]:
    """The log and its companion, which ends in .csv, packed or not, in either order."""
    companions = [path for path in paths if ".csv" in path.name]
    logs = [path for path in paths if path not in companions]
    if len(logs) != 1 or len(companions) > 1:
        raise UsageError(f"{len(logs)} logs and {len(companions)} order files", hint="give LOG, or LOG ORDERS.csv")
    return logs[0], companions[0] if companions else None
