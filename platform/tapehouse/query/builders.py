"""The tables that come straight from cells: one builder each, which takes frames in order and gives a frame at the end.

Rows are in the log's order. Numbers of price, size and money are doubles, with the exact integer that the log holds
beside them as `<name>_fixed`. `ts` is engine time; `ts_event_ns` is the venue's.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from tapehouse.core.errors import DataError, DecodeError
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.names import Names
from tapehouse.desk.requests import REASONS
from tapehouse.log import FrameHeader, read_envelope
from tapehouse.market import (
    CELL,
    FILL_EXTENSION,
    OPTION_EXTENSION,
    ORDER_EXTENSION,
    Action,
    Cells,
    Kind,
    records_of,
    unpack_payload,
)
from tapehouse.query.columns import ACTIONS, KINDS, SIDES, Columns, Dictionary, Ints, finish, time_columns, words_of

ROWS_MAX = 50_000_000  # of one table
_PRICED = (Kind.MBO, Kind.MBP, Kind.QUOTE, Kind.TRADE, Kind.OPTION_QUOTE)  # elsewhere `size` counts bytes
LIQUIDITY_WORDS = pl.Series(["maker", "taker"], dtype=pl.String)
REASON_WORDS = pl.Series([*REASONS, *(f"reason {code}" for code in range(len(REASONS), 256))], dtype=pl.String)


class Builder(Protocol):
    """Makes one table."""

    def take(self, header: FrameHeader, cells: Cells) -> None:
        """Take the next frame of the log."""
        ...

    def table(self) -> pl.DataFrame:
        """The table of everything taken."""
        ...


class Records:
    """First cells that were picked, their extensions, and where they stood in the log."""

    def __init__(self, *, extensions: int = 0) -> None:
        self._parts: list[list[Cells]] = [[] for _ in range(1 + extensions)]
        self._ordinals: list[Ints] = []
        self._rows = 0

    def take(self, header: FrameHeader, cells: Cells, mask: npt.NDArray[np.bool_]) -> None:
        """Keep the first cells under a mask.

        Raises:
            DataError: There are more than ROWS_MAX.
            DecodeError: A record is shorter than its kind.
        """
        rows = np.flatnonzero(mask & (cells["cells"] > 0))
        if not len(rows):
            return
        self._rows += len(rows)
        if self._rows > ROWS_MAX:
            raise DataError(f"a table of more than {ROWS_MAX} rows", hint="ask as of an earlier moment")
        if int(cells["cells"][rows].min()) < len(self._parts):
            raise DecodeError("a record is shorter than its kind", position=f"after cell {header.first_ordinal}")
        self._ordinals.append(rows + header.first_ordinal)
        for at, part in enumerate(self._parts):
            part.append(cells[rows + at])

    def cells(self, extension: int = 0) -> Cells:
        """The first cells (0), or their extensions of that number."""
        return np.concatenate([np.zeros(0, CELL), *self._parts[extension]])

    def ordinals(self) -> Ints:
        """Where each first cell stood."""
        return np.concatenate([np.zeros(0, np.int64), *self._ordinals])


class TradesBuilder:
    """Every trade that a venue printed."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self._records = Records()

    def take(self, header: FrameHeader, cells: Cells) -> None:
        kinds = cells["kind"]
        told = ((kinds == Kind.MBO) | (kinds == Kind.MBP)) & (cells["action"] == Action.TRADE)
        self._records.take(header, cells, told | (kinds == Kind.TRADE))

    def table(self) -> pl.DataFrame:
        cells = self._records.cells()
        ids = cells["instrument"]
        return finish(
            {
                "ordinal": self._records.ordinals(),
                **time_columns(cells["ts_recv"]),
                "ts_event_ns": cells["ts_event"],
                "symbol": self._dictionary.symbols(ids),
                **self._dictionary.price("price", ids, cells["price"]),
                **self._dictionary.size("size", ids, cells["size"]),
                "aggressor": words_of(SIDES, cells["side"]),
                "sequence": cells["sequence"],
                "confidence": self._dictionary.confidence(ids, self._records.ordinals()),
            }
        )


class QuotesBuilder:
    """Every QUOTE record, or every OPTION_QUOTE record with what the venue said beside the prices."""

    def __init__(self, dictionary: Dictionary, kind: Kind) -> None:
        self._dictionary = dictionary
        self._kind = kind
        self._records = Records(extensions=2 if kind == Kind.OPTION_QUOTE else 1)

    def take(self, header: FrameHeader, cells: Cells) -> None:
        self._records.take(header, cells, cells["kind"] == self._kind)

    def table(self) -> pl.DataFrame:
        bids, asks = self._records.cells(), self._records.cells(1)
        ids = bids["instrument"]
        columns: Columns = {
            "ordinal": self._records.ordinals(),
            **time_columns(bids["ts_recv"]),
            "ts_event_ns": bids["ts_event"],
            "symbol": self._dictionary.symbols(ids),
            **self._dictionary.price("bid", ids, bids["price"]),
            **self._dictionary.size("bid_size", ids, bids["size"]),
            **self._dictionary.price("ask", ids, asks["price"]),
            **self._dictionary.size("ask_size", ids, asks["size"]),
            "confidence": self._dictionary.confidence(ids, self._records.ordinals()),
        }
        if self._kind == Kind.OPTION_QUOTE:
            columns |= self._option_columns(ids, self._records.cells(2).view(OPTION_EXTENSION))
        return finish(columns)

    def _option_columns(self, ids: npt.NDArray[Any], said: npt.NDArray[Any]) -> Columns:
        known = self._dictionary.instruments
        unique, places = np.unique(ids, return_inverse=True)
        options = [known[number] for number in unique.tolist()]
        spread = pl.Series(places.astype(np.uint32))
        under = [known[option.underlying].symbol if option.underlying in known else None for option in options]
        strikes = [float(option.price(option.strike)) for option in options]
        volatilities = {
            name: np.where(said[name] > 0, said[name] / 1e9, np.nan)
            for name in ("bid_volatility", "ask_volatility", "mark_volatility")
        }
        return {
            "underlying": pl.Series(under, dtype=pl.String).gather(spread),
            "expiry": time_columns(np.array([option.expiry_ns for option in options], np.int64))["ts"].gather(spread),
            "strike": pl.Series(strikes, dtype=pl.Float64).gather(spread),
            "option_type": pl.Series([option.right for option in options], dtype=pl.String).gather(spread),
            **self._dictionary.price("forward", ids, said["forward"]),
            **self._dictionary.price("mark", ids, said["mark"]),
            **volatilities,
            "open_interest": said["open_interest"],
        }


class TapeBuilder:
    """The first cell of every record of TAPE, as it is."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self._records = Records()

    def take(self, header: FrameHeader, cells: Cells) -> None:
        self._records.take(header, cells, cells["kind"] > 0)

    def table(self) -> pl.DataFrame:
        cells = self._records.cells()
        ids = cells["instrument"]
        priced = np.isin(cells["kind"], _PRICED)
        return finish(
            {
                "ordinal": self._records.ordinals(),
                **time_columns(cells["ts_recv"]),
                "ts_event_ns": cells["ts_event"],
                "kind": words_of(KINDS, cells["kind"]),
                "action": words_of(ACTIONS, cells["action"]),
                "side": words_of(SIDES, cells["side"]),
                "symbol": self._dictionary.symbols(ids),
                **self._dictionary.price("price", ids, np.where(priced, cells["price"], UNDEFINED)),
                **self._dictionary.size("size", ids, np.where(priced, cells["size"], UNDEFINED)),
                "order_id": cells["order_id"],
                "sequence": cells["sequence"],
                "flags": cells["flags"],
                "depth": cells["depth"],
                "count": cells["count"],
                "source": cells["source"],
                "cells": cells["cells"],
                "confidence": self._dictionary.confidence(ids, self._records.ordinals()),
            }
        )


class CommandsBuilder:
    """Every command that got its place on the tape, good or bad."""

    _SCHEMA = {  # noqa: RUF012  (a constant)
        "ordinal": pl.Int64, "ts_ns": pl.Int64, "sequence": pl.Int64, "id": pl.String, "type": pl.String,
        "version": pl.Int64, "client": pl.String, "number": pl.Int64, "body": pl.String, "problem": pl.String,
    }  # fmt: skip

    def __init__(self, dictionary: Dictionary) -> None:
        self._rows: list[tuple[Any, ...]] = []

    def take(self, header: FrameHeader, cells: Cells) -> None:
        for at, record in records_of(cells, Kind.COMMAND):
            place = (header.first_ordinal + at, int(record["ts_recv"][0]), int(record["sequence"][0]))
            payload = unpack_payload(record)
            try:
                envelope = read_envelope(payload)
            except DataError as error:
                text = payload.decode("utf-8", "replace")
                self._rows.append((*place, None, None, None, None, None, text, error.message))
                continue
            self._rows.append(
                (
                    *place, envelope.id, envelope.type, envelope.version, envelope.client, envelope.number,
                    json.dumps(envelope.body, sort_keys=True, separators=(",", ":")), None,
                )
            )  # fmt: skip

    def table(self) -> pl.DataFrame:
        frame = pl.DataFrame(self._rows, schema=self._SCHEMA, orient="row")
        times = time_columns(frame["ts_ns"].to_numpy())["ts"].alias("ts")
        return frame.insert_column(1, times)


class FillsBuilder:
    """Every fill of ours, with the account's position and cash after it."""

    def __init__(self, dictionary: Dictionary, names: Names) -> None:
        self._dictionary = dictionary
        self._names = names
        self._records = Records(extensions=1)

    def take(self, header: FrameHeader, cells: Cells) -> None:
        self._records.take(header, cells, cells["kind"] == Kind.FILL)

    def table(self) -> pl.DataFrame:
        cells, said = self._records.cells(), self._records.cells(1).view(FILL_EXTENSION)
        ids = cells["instrument"]
        return finish(
            {
                **decision_columns(self._records, self._dictionary),
                "order_id": cells["order_id"].astype(np.int64),
                "account": account_names(self._names, said["client"]),
                "liquidity": words_of(LIQUIDITY_WORDS, np.minimum(cells["depth"], 1)),
                **self._dictionary.money("fee", ids, said["fee"]),
                **self._dictionary.size("position", ids, said["position"]),
                **self._dictionary.money("cash", ids, said["cash"]),
                "match_id": said["match_id"].astype(np.int64),
            }
        )


class EventsBuilder:
    """Every decision: what became of orders, fills, and the events that are JSON."""

    def __init__(self, dictionary: Dictionary, names: Names) -> None:
        self._dictionary = dictionary
        self._names = names
        self._orders = Records(extensions=1)
        self._fills = FillsBuilder(dictionary, names)
        self._events = Records()
        self._json: list[str] = []

    def take(self, header: FrameHeader, cells: Cells) -> None:
        self._orders.take(header, cells, cells["kind"] == Kind.ORDER)
        self._fills.take(header, cells)
        self._events.take(header, cells, cells["kind"] == Kind.EVENT)
        self._json += [unpack_payload(record).decode("utf-8", "replace") for _, record in records_of(cells, Kind.EVENT)]

    def table(self) -> pl.DataFrame:
        cells, said = self._orders.cells(), self._orders.cells(1).view(ORDER_EXTENSION)
        orders = finish(
            {
                **decision_columns(self._orders, self._dictionary),
                "order_id": cells["order_id"].astype(np.int64),
                "account": account_names(self._names, said["client"]),
                "reason": words_of(REASON_WORDS, cells["depth"]),
            }
        )
        fills = self._fills.table()
        told = finish(decision_columns(self._events, self._dictionary))
        told = told.with_columns(
            *(
                pl.lit(None).cast(told.schema[name]).alias(name)
                for name in ("price", "price_fixed", "size", "size_fixed")
            ),
            pl.lit(None).cast(pl.String).alias("action"),
            pl.Series("json", self._json, dtype=pl.String),
        )
        frame = pl.concat([orders, fills.drop("match_id"), told], how="diagonal")
        return frame.select(*(name for name in EVENT_COLUMNS)).sort("ordinal")


EVENT_COLUMNS = (
    "ordinal", "input_ordinal", "index", "ts", "ts_ns", "kind", "action", "symbol", "side", "price", "price_fixed",
    "size", "size_fixed", "order_id", "account", "reason", "liquidity", "fee", "fee_fixed", "position",
    "position_fixed", "cash", "cash_fixed", "json",
)  # fmt: skip


def decision_columns(records: Records, dictionary: Dictionary) -> Columns:
    """What every decision record has."""
    cells = records.cells()
    ids = cells["instrument"]
    return {
        "ordinal": records.ordinals(),
        "input_ordinal": cells["sequence"].astype(np.int64),
        "index": cells["count"].astype(np.int64),
        **time_columns(cells["ts_recv"]),
        "kind": words_of(KINDS, cells["kind"]),
        "action": words_of(ACTIONS, cells["action"]),
        "symbol": dictionary.symbols(ids),
        "side": words_of(SIDES, cells["side"]),
        **dictionary.price("price", ids, cells["price"]),
        **dictionary.size("size", ids, cells["size"]),
    }


def account_names(names: Names, numbers: npt.NDArray[Any]) -> pl.Series:
    """The name of each account number."""
    unique, places = np.unique(numbers, return_inverse=True)
    known = pl.Series([names.account(number) for number in unique.tolist()], dtype=pl.String)
    return known.gather(pl.Series(places.astype(np.uint32)))
