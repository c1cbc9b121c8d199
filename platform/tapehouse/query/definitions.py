"""What a tape defines: its instruments, every revision of their terms, and ids wider than 64 bits."""

from __future__ import annotations

from typing import Any

import polars as pl

from tapehouse.core.errors import DataError
from tapehouse.log import FrameHeader
from tapehouse.market import Cells, Instrument, Kind, read_definition, read_wide_id, records_of
from tapehouse.query.builders import ROWS_MAX
from tapehouse.query.columns import time_columns

_UUID_BYTES = 16
_INSTRUMENT_SCHEMA = {
    "instrument": pl.Int64(),
    "symbol": pl.String(),
    "venue": pl.String(),
    "asset_class": pl.String(),
    "revision": pl.Int64(),
    "tick_size": pl.String(),
    "lot_size": pl.String(),
    "price_exponent": pl.Int64(),
    "size_exponent": pl.Int64(),
    "currency": pl.String(),
    "currency_exponent": pl.Int64(),
    "multiplier": pl.Int64(),
    "underlying": pl.String(),
    "strike": pl.String(),
    "option_right": pl.String(),
    "expiry_ns": pl.Int64(),
    "calendar": pl.String(),
    "ordinal": pl.Int64(),
}
_WIDE_SCHEMA = {"order_id": pl.UInt64(), "wide_id": pl.String(), "instrument": pl.Int64(), "ordinal": pl.Int64()}


class InstrumentsBuilder:
    """One row for each revision of an instrument's terms; steps and strikes as exact decimals in text."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._symbols: dict[int, str] = {}

    def take(self, header: FrameHeader, cells: Cells) -> None:
        """Take up the definitions among whole records."""
        for at, record in records_of(cells, Kind.DEFINITION):
            self._define(read_definition(record), header.first_ordinal + at)

    def _define(self, instrument: Instrument, ordinal: int) -> None:
        self._symbols[instrument.id] = instrument.symbol
        terms: dict[str, Any] = {name: getattr(instrument, name, None) for name in _INSTRUMENT_SCHEMA}
        terms["instrument"], terms["ordinal"] = instrument.id, ordinal
        terms["tick_size"] = f"{instrument.price(instrument.tick_size):f}"
        terms["lot_size"] = f"{instrument.size(instrument.lot_size):f}"
        terms["strike"] = f"{instrument.price(instrument.strike):f}" if instrument.strike else None
        terms["underlying"] = self._symbols.get(instrument.underlying)
        terms["option_right"] = instrument.right or None  # `right` alone would need quotes in SQL.
        terms["expiry_ns"] = instrument.expiry_ns or None
        self._rows.append(terms)

    def table(self) -> pl.DataFrame:
        """The definitions in the order in which they stand on the tape."""
        return pl.DataFrame(self._rows, schema=_INSTRUMENT_SCHEMA)


class WideIdsBuilder:
    """The venue's own id for each number that stands for one: a UUID where it has 16 bytes, else as hexadecimal."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, str, int, int]] = []
        self._times: list[int] = []

    def take(self, header: FrameHeader, cells: Cells) -> None:
        """Take up the WIDE_ID records among whole records; raises DataError for more than a table can hold."""
        for at, record in records_of(cells, Kind.WIDE_ID):
            number, wide = read_wide_id(record)
            self._rows.append((number, _text(wide), int(record["instrument"][0]), header.first_ordinal + at))
            self._times.append(int(record["ts_recv"][0]))
        if len(self._rows) > ROWS_MAX:
            raise DataError(f"more than {ROWS_MAX} rows", subject="wide_ids", hint="ask for a shorter tape")

    def table(self) -> pl.DataFrame:
        """One row for each record, in the order of the tape."""
        frame = pl.DataFrame(self._rows, schema=_WIDE_SCHEMA, orient="row")
        return frame.with_columns(**time_columns(pl.Series(self._times, dtype=pl.Int64).to_numpy()))


def _text(wide: bytes) -> str:
    digits = wide.hex()
    if len(wide) != _UUID_BYTES:
        return digits
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
