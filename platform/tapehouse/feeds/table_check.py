"""A second opinion on a table: its rows as Python's csv or pyarrow's own values and decimals, against the feed's cells.

The two ways share the mapping and no parsing of values. A table carries no other truth that every table has: a changed
digit that leaves a good row is noticed only where it sets a time back. So this check proves the reading, not the data;
how many quotes are crossed is told.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow.parquet

from tapehouse.core.units import NS_PER_SECOND, UNDEFINED, parse_time_ns
from tapehouse.feeds.checking import Check
from tapehouse.feeds.packed_files import PackedFile
from tapehouse.feeds.port import Feed
from tapehouse.feeds.table_mapping import LEVEL, QUOTE, SNAPSHOT_ACTION, TRADE, Constant, Mapping
from tapehouse.feeds.table_rows import is_parquet, sources_of
from tapehouse.market import Action, Flag, Instrument, Side

_NS = {"s": Decimal(10**9), "ms": Decimal(10**6), "us": Decimal(1000), "ns": Decimal(1)}
_ROWS = 4096


def check_table(path: Path, mapping: Mapping, feed: Feed) -> Check:
    """Compare record by record.

    Raises:
        MissingError, DecodeError: As the feed does.
    """
    for _ in feed.batches():
        pass  # What is no row at all is the feed's to refuse, with its line.
    check = Check()
    found = _records(feed)
    crossed = latest = 0
    for row in _rows(path):
        check.rows += 1
        where = f"{path.name}, row {check.rows}"
        values = {
            role: source.value if isinstance(source, Constant) else row[source]
            for role, source in sources_of(mapping).items()
        }
        event = _time(values["ts_event"], mapping)
        recv = _time(values["ts_recv"], mapping) if "ts_recv" in values else event
        latest = max(latest, recv)
        wanted = (values["symbol"], values["venue"], event, latest, *_numbers(values, mapping))
        check.compare(where, next(found, None), wanted)
        if mapping.kind == QUOTE:
            bid, ask = wanted[-4], wanted[-2]
            crossed += bid is not None and ask is not None and bid >= ask
    if (extra := next(found, None)) is not None:
        check.mismatch(f"the feed has a record more: {extra}")
    check.truths["instruments"] = len(feed.instruments)
    if mapping.kind == QUOTE:
        check.truths["crossed"] = crossed
    return check


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if is_parquet(path):
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=_ROWS):
            for row in batch.to_pylist():
                yield {name: "" if value is None else str(value) for name, value in row.items()}
        return
    with PackedFile(path) as file:
        yield from csv.DictReader(io.TextIOWrapper(io.BufferedReader(file), "utf-8", "replace", newline=""))


def _time(text: str, mapping: Mapping) -> int:
    """UTC ns."""
    unit, zone = mapping.time.unit, mapping.time.zone
    if unit != "iso":
        time = int(Decimal(text) * _NS[unit])
    else:
        bears_zone = text.endswith("Z") or "+" in text or text.count("-") > 2
        time = parse_time_ns(text if bears_zone else f"{text}Z")
    if zone == "UTC":
        return time
    naive = datetime.fromtimestamp(time // NS_PER_SECOND, ZoneInfo("UTC"))
    offset = naive.replace(tzinfo=ZoneInfo(zone)).utcoffset()
    return time - (0 if offset is None else int(offset.total_seconds())) * NS_PER_SECOND


def _decimal(text: str | None) -> Decimal | None:
    return None if not text else Decimal(text)


def _numbers(values: dict[str, str], mapping: Mapping) -> tuple[Any, ...]:
    """What a record must say beside its times: action, side, snapshot, order, then prices and sizes."""
    if mapping.kind == QUOTE:
        sides: list[Any] = []
        for name in ("bid", "ask"):
            price, size = _decimal(values[name]), _decimal(values.get(f"{name}_size"))
            if f"{name}_size" not in values:
                size = Decimal(1).scaleb(mapping.instrument.size_exponent)
            sides += [None, Decimal(0)] if price is None or not size else [price, size]
        return (int(Action.NONE), int(Side.NONE), False, 0, *sides)
    side = mapping.side_values()[values["side"]] if "side" in values else int(Side.NONE)
    action = int(Action.TRADE) if mapping.kind == TRADE else int(Action.MODIFY)
    if "action" in values:
        action = mapping.action_values()[values["action"]]
    snapshot = action == SNAPSHOT_ACTION
    size = Decimal(values["size"])
    if mapping.kind == LEVEL and (size == 0 or action == Action.CANCEL) and action != Action.CLEAR:
        action, size = int(Action.CANCEL), Decimal(0)
    elif snapshot:
        action = int(Action.ADD)
    order = values.get("order_id", "0")
    digits = order.isascii() and order.isdigit()
    number = int(order) if digits and (len(order) <= 18 or mapping.kind != TRADE) else 0
    return (action, side, snapshot, number, Decimal(values["price"]), size)


def _records(feed: Feed) -> Iterator[tuple[Any, ...]]:
    """The feed's records with decimals; the clears that it adds before snapshots are left out."""
    instruments: dict[int, Instrument] = {instrument.id: instrument for instrument in feed.instruments}
    added = int(Flag.SNAPSHOT | Flag.SYNTHETIC)
    for batch in feed.batches():
        rows = iter(batch.tolist())
        for row in rows:
            if row[12] & added == added and row[10] == Action.CLEAR:
                continue
            instrument = instruments[row[6]]
            parts = [row, *(next(rows) for _ in range(row[9] - 1))]
            numbers: list[Any] = []
            for part in parts:
                numbers += [None if part[4] == UNDEFINED else instrument.price(part[4])]
                numbers += [Decimal(part[5]).scaleb(instrument.size_exponent)]
            snapshot = bool(row[12] & Flag.SNAPSHOT)
            yield (instrument.symbol, instrument.venue, row[0], row[1], row[10], row[11], snapshot, row[3], *numbers)
