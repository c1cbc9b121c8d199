"""A second opinion on a DBN file: the library's own objects folded into dicts, held against the feed's cells.

The two ways share no decoding: `databento_dbn` reads the records one by one here, the feed by numpy. At the end both
must show the same levels, the same trades and the same number of records.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Any

import databento_dbn
import numpy as np

from tapehouse.core.errors import DecodeError
from tapehouse.core.units import UNDEFINED, from_fixed
from tapehouse.feeds.dbn_records import QUOTES, RECORD_BYTES
from tapehouse.feeds.dbn_source import UPGRADE, open_dbn
from tapehouse.feeds.dbn_summaries import BAR_SECONDS, SUMMARY_BYTES
from tapehouse.market import Action, Cells, Flag, Kind, Side

_PRICE_EXPONENT = -9
_CENTS = Decimal("0.01")
_ADD, _CANCEL, _MODIFY, _CLEAR = (chr(x) for x in (Action.ADD, Action.CANCEL, Action.MODIFY, Action.CLEAR))
_BID, _ASK = chr(Side.BID), chr(Side.ASK)

_SUMMARIES = frozenset({Kind.BAR, Kind.STATISTIC, Kind.IMBALANCE})

Levels = dict[str, dict[int, int]]  # by side, then price: size


@dataclass(slots=True)
class DictBook:
    """One instrument's book, the obvious way."""

    orders: dict[int, list[Any]] = field(default_factory=dict)  # id: side, price, size
    levels: Levels = field(default_factory=lambda: {_BID: {}, _ASK: {}})
    sequence: int = 0
    trades: int = 0
    traded_size: int = 0
    records: int = 0
    unknown_orders: int = 0
    summaries: list[tuple[int, ...]] = field(default_factory=list)  # bars, statistics, imbalances, field by field

    def clear(self) -> None:
        """Forget orders and levels."""
        self.orders.clear()
        for levels in self.levels.values():
            levels.clear()

    def change(self, side: str, price: int, delta: int) -> None:
        """Add to a level; it goes when nothing remains."""
        if side not in self.levels:
            return
        size = self.levels[side].get(price, 0) + delta
        if size > 0:
            self.levels[side][price] = size
        else:
            self.levels[side].pop(price, None)

    def by_order(self, action: str, side: str, order_id: int, price: int, size: int) -> None:
        """Apply one market-by-order change."""
        if action == _CLEAR:
            self.clear()
        elif action == _ADD or (action == _MODIFY and order_id not in self.orders):
            self.unknown_orders += action == _MODIFY
            self.orders[order_id] = [side, price, size]
            self.change(side, price, size)
        elif action == _MODIFY:
            old_side, old_price, old_size = self.orders[order_id]
            self.change(old_side, old_price, -old_size)
            self.orders[order_id] = [side, price, size]
            self.change(side, price, size)
        elif action == _CANCEL:
            order = self.orders.get(order_id)
            if order is None:
                self.unknown_orders += 1
                self.change(side, price, -size)
                return
            self.change(order[0], order[1], -size)
            order[2] -= size
            if order[2] <= 0:
                del self.orders[order_id]

    def state(self) -> list[tuple[int, int]]:
        """Bids best first, then asks best first."""
        bids = sorted(self.levels[_BID].items(), reverse=True)
        return [*bids, (0, 0), *sorted(self.levels[_ASK].items())]


def _from_library(path: Path, own_ids: dict[int, int]) -> tuple[dict[int, DictBook], int, Counter[str]]:
    """Books by the feed's ids, all records, and those of types that have no cells."""
    books: dict[int, DictBook] = {}
    records = 0
    skipped: Counter[str] = Counter()
    with open_dbn(path) as stream:
        decoder = databento_dbn.DBNDecoder(upgrade_policy=UPGRADE)
        decoder.write_and_decode(stream.metadata_bytes)
        for block in stream.blocks():
            decoded: list[Any] = decoder.write_and_decode(block.tobytes())
            for record in decoded:
                records += 1
                rtype = int(record.rtype)
                if rtype in SUMMARY_BYTES:
                    book = books.setdefault(own_ids[record.instrument_id], DictBook())
                    book.records += 1
                    book.summaries.append(_summary_fields(record, rtype))
                    continue
                if rtype not in RECORD_BYTES:
                    skipped[str(record.rtype)] += 1
                    continue
                book = books.setdefault(own_ids[record.instrument_id], DictBook())
                book.records += 1
                _apply_record(book, record, rtype)
    return books, records, skipped


def _summary_fields(record: Any, rtype: int) -> tuple[int, ...]:
    """What a bar, a statistic or an imbalance says, in the order in which its cells say it."""
    if rtype in BAR_SECONDS:
        seconds = BAR_SECONDS[rtype]
        return (record.ts_event, record.close, record.volume, seconds, record.open, record.high, record.low)
    if rtype == databento_dbn.RType.STATISTICS:
        kind = int(record.stat_type) | int(record.update_action) << 16
        return (record.ts_event, record.price, record.quantity, kind, record.ts_ref, record.sequence)
    states = (record.auction_type, record.auction_status, record.freeze_status, record.num_extensions)
    state = sum(_code(value) << 8 * byte for byte, value in enumerate(states))
    last = _code(record.unpaired_side) | _code(record.significant_imbalance) << 8
    prices = (record.cont_book_clr_price, record.auct_interest_clr_price, record.ssr_filling_price)
    return (
        record.ts_event, record.ref_price, record.total_imbalance_qty, state, _time(record.auction_time), *prices,
        record.ind_match_price, record.upper_collar, record.lower_collar, record.paired_qty,
        record.market_imbalance_qty, record.unpaired_qty, last, _code(record.side),
    )  # fmt: skip


def _code(value: Any) -> int:
    """A character, a side or a number as the byte that the file has."""
    return value if isinstance(value, int) else ord(str(value))


def _time(value: int) -> int:
    """A time as a signed word."""
    return value - 2**64 if value >= 2**63 else value


def _cell_fields(cells: Cells, at: int, kind: int) -> tuple[int, ...]:
    """The same out of the feed's cells."""
    first = cells[at]
    length = int(first["cells"])
    owned = cells[at + 1 : at + length].view(np.int64).reshape(length - 1, -1)[:, :6].reshape(-1).tolist()
    head = (int(first["ts_event"]), int(first["price"]), int(first["size"]), int(first["count"]))
    if kind == Kind.BAR:
        return (*head, *owned[:3])
    if kind == Kind.STATISTIC:
        return (*head, owned[0] % 2**64, int(first["sequence"]))
    return (*head, *owned[:11], int(first["side"]))


def _apply_record(book: DictBook, record: Any, rtype: int) -> None:
    book.sequence = getattr(record, "sequence", book.sequence)
    if rtype == databento_dbn.RType.STATUS:
        return
    action = str(getattr(record, "action", "N"))
    if action == "T":
        book.trades += 1
        book.traded_size += record.size
    if rtype == databento_dbn.RType.MBO:
        book.by_order(action, str(record.side), record.order_id, record.price, record.size)
    elif rtype in QUOTES or rtype == databento_dbn.RType.MBP_10:
        book.clear()
        for level in record.levels:
            if level.bid_px != UNDEFINED:
                book.levels[_BID][level.bid_px] = level.bid_sz
            if level.ask_px != UNDEFINED:
                book.levels[_ASK][level.ask_px] = level.ask_sz


def _apply_cells(books: dict[int, DictBook], cells: Cells) -> None:
    """Fold a batch of the feed's."""
    names = ("instrument", "kind", "cells", "action", "side", "order_id", "price", "size", "flags", "sequence")
    rows = list(zip(*(cells[name].tolist() for name in names), strict=True))
    for at, (instrument, kind, length, code, side_code, order_id, price, size, flags, sequence) in enumerate(rows):
        if length == 0:
            continue
        book = books.setdefault(instrument, DictBook())
        if kind in _SUMMARIES:
            book.summaries.append(_cell_fields(cells, at, kind))
            continue
        action, side = chr(code), chr(side_code)
        if not flags & Flag.SYNTHETIC:
            book.sequence = sequence
        if action == "T":
            book.trades += 1
            book.traded_size += size
        if kind == Kind.MBO:
            book.by_order(action, side, order_id, price, size)
        elif kind == Kind.MBP and action != "N":
            book.levels[side].pop(price, None)
            if size > 0 and action != _CANCEL:
                book.levels[side][price] = size
        elif kind == Kind.QUOTE:
            book.clear()
            for letter, (quoted, quoted_size) in ((_BID, (price, size)), (_ASK, (rows[at + 1][6], rows[at + 1][7]))):
                if quoted != UNDEFINED:
                    book.levels[letter][quoted] = quoted_size


def _decimal(price: int) -> Decimal:
    """A price with as many decimals as it needs, two at least."""
    value = from_fixed(price, _PRICE_EXPONENT).normalize()
    exponent = value.as_tuple().exponent
    return value if isinstance(exponent, int) and exponent <= -2 else value.quantize(_CENTS)


def check_dbn(path: Path | str) -> dict[str, Any]:
    """Decode a file twice and compare; the book at its end.

    Returns:
        `records`, `cells`, `schema`, `instruments`, `skipped`; of the instrument with the most records: `symbol`,
        `bid_levels`, `ask_levels`, `best_bid`, `best_ask` (Decimal or None), `best_bid_size`, `best_ask_size`,
        `sequence` of its last record, `trades`, `traded_size`, `unknown_orders`; `mismatches`, the instruments
        on which the two ways disagree; and `first_mismatch`.

    Raises:
        MissingError: There is no such file.
        DecodeError: The file is no DBN, of an unsupported schema, damaged or cut off.
    """
    from tapehouse.feeds.dbn import DbnFeed  # the feed's module re-exports this function

    feed = DbnFeed(path)
    decoded: dict[int, DictBook] = {}
    cells_count = 0
    for cells in feed.batches():
        _apply_cells(decoded, cells)
        cells_count += len(cells)
    try:
        truth, records, skipped = _from_library(Path(path), feed.own_ids)
    except databento_dbn.DBNError as error:
        raise DecodeError(f"the DBN library refuses it: {error}", subject=Path(path).name) from error
    by_symbol = {instrument.id: instrument.symbol for instrument in feed.instruments}
    wrong = [
        f"{by_symbol[number]}: {difference}"
        for number, book in sorted(truth.items())
        if (difference := _difference(book, decoded.get(number, DictBook())))
    ]
    if sum(skipped.values()) != sum(feed.skipped.values()):
        wrong.append(f"{sum(skipped.values())} records without cells, the feed left out {sum(feed.skipped.values())}")
    report: dict[str, Any] = {
        "records": records,
        "cells": cells_count,
        "schema": feed.schema or "mixed",
        "instruments": len(feed.instruments),
        "skipped": dict(feed.skipped),
        "corrected_times": feed.corrected_times,
        "inserted_clears": feed.inserted_clears,
        "mismatches": len(wrong),
        "first_mismatch": wrong[0] if wrong else None,
    }
    if truth:
        number = max(truth, key=lambda key: (truth[key].records, -key))
        report |= {"symbol": by_symbol[number], **_summary(truth[number])}
    return report


def _difference(truth: DictBook, decoded: DictBook) -> str | None:
    if truth.state() != decoded.state():
        mine, theirs = decoded.state(), truth.state()
        at = next((i for i, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), -1)
        return f"the books differ ({len(theirs)} levels against {len(mine)}, first at place {at})"
    if truth.sequence != decoded.sequence:
        return f"the last sequence is {truth.sequence}, decoded {decoded.sequence}"
    for at, (found, stated) in enumerate(zip_longest(decoded.summaries, truth.summaries)):
        if found != stated:
            return f"summary {at} is {stated}, decoded {found}"
    if (truth.trades, truth.traded_size) != (decoded.trades, decoded.traded_size):
        return f"{truth.trades} trades of {truth.traded_size}, decoded {decoded.trades} of {decoded.traded_size}"
    return None


def _summary(book: DictBook) -> dict[str, Any]:
    bids, asks = book.levels[_BID], book.levels[_ASK]
    best_bid, best_ask = max(bids, default=None), min(asks, default=None)
    return {
        "bid_levels": len(bids),
        "ask_levels": len(asks),
        "best_bid": None if best_bid is None else _decimal(best_bid),
        "best_ask": None if best_ask is None else _decimal(best_ask),
        "best_bid_size": 0 if best_bid is None else bids[best_bid],
        "best_ask_size": 0 if best_ask is None else asks[best_ask],
        "sequence": book.sequence,
        "trades": book.trades,
        "traded_size": book.traded_size,
        "unknown_orders": book.unknown_orders,
        "summaries": len(book.summaries),
    }
