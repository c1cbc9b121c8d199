"""The table `parked`: every input that a desk could not understand or apply, and what has become of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from tapehouse.desk.commands import EVENTS
from tapehouse.desk.names import Names
from tapehouse.desk.parking_commands import CommandDropped, CommandParked, CommandUnparked, InputParked
from tapehouse.log import FrameHeader
from tapehouse.market import CELL_BYTES, Cells, Kind, records_of, unpack_payload
from tapehouse.query.columns import Dictionary, time_columns

PARKED, REPLAYED, DROPPED, FALLEN_OUT, SKIPPED = "parked", "replayed", "dropped", "fallen out", "skipped"
MARKS = tuple(f'"type":"{name}"'.encode() for name in ("command.parked", "command.unparked", "command.dropped",
                                                        "input.parked"))  # fmt: skip


def is_about_parking(payload: bytes) -> bool:
    """Whether an event may be one of those; most are not, and need not be decoded."""
    return any(mark in payload for mark in MARKS)


class ParkedBuilder:
    """A row an input; a command's `state` is parked, replayed, dropped or fallen out, a record's is skipped."""

    _SCHEMA = {  # noqa: RUF012  (a constant)
        "position": pl.Int64, "ts_ns": pl.Int64, "input": pl.String, "state": pl.String, "type": pl.String,
        "version": pl.Int64, "client": pl.String, "number": pl.Int64, "sequence": pl.Int64, "kind": pl.Int64,
        "symbol": pl.String, "bytes": pl.Int64, "hash": pl.String, "reason": pl.String, "settled": pl.Int64,
    }  # fmt: skip

    def __init__(self, dictionary: Dictionary, names: Names) -> None:
        self._dictionary = dictionary
        self._rows: dict[int, dict[str, Any]] = {}

    def take(self, header: FrameHeader, cells: Cells) -> None:
        for _, record in records_of(cells, Kind.EVENT):
            payload = unpack_payload(record)
            if is_about_parking(payload):
                self._learn(record, payload)

    def _learn(self, record: Cells, payload: bytes) -> None:
        at, now = int(record["sequence"][0]), int(record["ts_recv"][0])
        _, body = EVENTS.decode(payload)
        if isinstance(body, CommandParked):
            self._rows[at] = {
                "position": at, "ts_ns": now, "input": "command", "state": PARKED, "type": body.type or None,
                "version": body.version or None, "client": body.client or None, "sequence": body.sequence,
                "number": body.number if body.client else None, "bytes": body.size, "hash": body.hash,
                "reason": body.reason,
            }  # fmt: skip
        elif isinstance(body, InputParked):
            self._rows[at] = {
                "position": at, "ts_ns": now, "input": "record", "state": SKIPPED, "kind": body.kind,
                "symbol": body.instrument, "bytes": body.cells * CELL_BYTES, "reason": body.reason,
            }  # fmt: skip
        elif isinstance(body, CommandUnparked | CommandDropped):
            row = self._rows.get(body.position)
            if row is not None:  # A log that was trimmed begins after it was parked.
                asked = isinstance(body, CommandDropped) and body.why == "asked"
                row["state"] = REPLAYED if isinstance(body, CommandUnparked) else DROPPED if asked else FALLEN_OUT
                row["settled"] = at

    def table(self) -> pl.DataFrame:
        known = self._dictionary.instruments
        rows = []
        for row in self._rows.values():
            number = row.get("symbol")
            symbol = known[number].symbol if number in known else None
            rows.append({**dict.fromkeys(self._SCHEMA), **row, "symbol": symbol})
        frame = pl.DataFrame(rows, schema=self._SCHEMA, orient="row")
        times = time_columns(frame["ts_ns"].to_numpy().astype(np.int64))["ts"].alias("ts")
        return frame.insert_column(1, times)
