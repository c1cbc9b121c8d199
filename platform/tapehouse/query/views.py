"""The tables that are states: each folds its projection over the log, and shows what that holds at the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from tapehouse.book.projection import PricesProjection
from tapehouse.desk import orders_projection as orders_columns
from tapehouse.desk import positions_fold as positions_columns
from tapehouse.desk import state as desk_columns
from tapehouse.desk.cash_book import KINDS as BOOKING_KINDS
from tapehouse.desk.names import Names
from tapehouse.desk.orders_projection import OrdersProjection
from tapehouse.desk.positions_projection import PositionsProjection
from tapehouse.log import FrameHeader
from tapehouse.market import Cells
from tapehouse.pricing import SurfaceProjection
from tapehouse.query.builders import REASON_WORDS, account_names
from tapehouse.query.columns import SIDES, Dictionary, finish, time_columns, words_of

_AVERAGES = ("average_price", "long_average_price", "short_average_price")
_ALL_DONE = 2**62  # a query sees every order, however long ago it was done
_STATUSES = pl.Series(orders_columns.STATUSES, dtype=pl.String)
_TEXT, _NUMBER, _WHOLE, _TIME = pl.String(), pl.Float64(), pl.Int64(), pl.Datetime("us", "UTC")


class OrdersBuilder:
    """What has become of every order, from its acceptance or rejection on."""

    def __init__(self, dictionary: Dictionary, names: Names) -> None:
        self._dictionary = dictionary
        self._machine = OrdersProjection(done_max=_ALL_DONE)

    def take(self, header: FrameHeader, cells: Cells) -> None:
        self._machine.apply(header, cells)

    def table(self) -> pl.DataFrame:
        rows, dictionary = self._machine.rows, self._dictionary
        ids = rows[:, orders_columns.INSTRUMENT]
        return finish(
            {
                "order_id": rows[:, orders_columns.ID],
                "symbol": dictionary.symbols(ids),
                "account": account_names(self._machine.names, rows[:, orders_columns.ACCOUNT]),
                "side": words_of(SIDES, rows[:, orders_columns.SIDE]),
                **dictionary.price("price", ids, rows[:, orders_columns.PRICE]),
                **dictionary.size("size", ids, rows[:, orders_columns.SIZE]),
                **dictionary.size("remaining", ids, rows[:, orders_columns.LEFT]),
                **dictionary.size("filled", ids, rows[:, orders_columns.FILLED]),
                "fills": rows[:, orders_columns.FILLS],
                "status": words_of(_STATUSES, rows[:, orders_columns.STATUS]),
                "reason": words_of(REASON_WORDS, rows[:, orders_columns.REASON]),
                "number": rows[:, orders_columns.NUMBER],
                "created": time_columns(rows[:, orders_columns.CREATED])["ts"],
                "created_ns": rows[:, orders_columns.CREATED],
                "updated": time_columns(rows[:, orders_columns.UPDATED])["ts"],
                "updated_ns": rows[:, orders_columns.UPDATED],
                "input_ordinal": rows[:, orders_columns.ORDINAL],
            }
        )


class PositionsBuilder:
    """What every account holds and earned, by instrument."""

    def __init__(self, dictionary: Dictionary, names: Names) -> None:
        self._dictionary = dictionary
        self._machine = PositionsProjection()

    def take(self, header: FrameHeader, cells: Cells) -> None:
        self._machine.apply(header, cells)

    def table(self) -> pl.DataFrame:
        held, dictionary = self._machine.held(), self._dictionary
        places = np.array(held, np.int64).reshape(-1, 2)
        ids = places[:, 1]
        rows = np.array([self._machine.row(*place) for place in held], np.int64).reshape(-1, positions_columns.COLUMNS)
        values = [self._machine.value(*place) for place in held]
        legs = np.array([self._machine.legs(*place) for place in held], np.int64).reshape(-1, 3)
        return finish(
            {
                "account": account_names(self._machine.names, places[:, 0]),
                "symbol": dictionary.symbols(ids),
                **dictionary.size("position", ids, rows[:, desk_columns.POSITION]),
                **dictionary.size("long", ids, legs[:, 0]),
                **dictionary.size("short", ids, legs[:, 1]),
                "lots": legs[:, 2],
                **{name: _decimals(values, name) for name in _AVERAGES},
                **dictionary.money("cash", ids, rows[:, desk_columns.CASH]),
                **dictionary.money("fees", ids, rows[:, desk_columns.FEES]),
                **dictionary.money("realised", ids, rows[:, desk_columns.REALISED]),
                "currency": pl.Series([value["currency"] for value in values], dtype=pl.String),
                "fills": rows[:, desk_columns.FILLS],
                **dictionary.size("volume", ids, rows[:, desk_columns.VOLUME]),
                "mode": pl.Series([value["mode"] for value in values], dtype=pl.String),
                "method": pl.Series([value["method"] for value in values], dtype=pl.String),
                **time_columns(rows[:, positions_columns.SEEN]),
                "input_ordinal": rows[:, positions_columns.ORDINAL],
            }
        ).sort("account", "symbol")


class BalancesBuilder:
    """What every account has in each currency, from fills and from bookings; `external` is the contra of these."""

    _AMOUNTS = ("balance", "traded", *BOOKING_KINDS)

    def __init__(self, dictionary: Dictionary, names: Names) -> None:
        self._machine = PositionsProjection()

    def take(self, header: FrameHeader, cells: Cells) -> None:
        self._machine.apply(header, cells)

    def table(self) -> pl.DataFrame:
        items = self._machine.cash_items()
        values = [value for _, value in items]
        return pl.DataFrame(
            {
                "account": pl.Series([key.split("/")[1] for key, _ in items], dtype=pl.String),
                "currency": pl.Series([value["currency"] for value in values], dtype=pl.String),
                **{name: _decimals(values, name) for name in self._AMOUNTS},
            }
        )


def _decimals(values: list[dict[str, Any]], name: str) -> pl.Series:
    return pl.Series([None if value[name] is None else float(value[name]) for value in values], dtype=pl.Float64)


class PricesBuilder:
    """The last trade and the best bid and ask of every instrument."""

    _NUMBERS = ("last", "last_size", "bid", "bid_size", "ask", "ask_size")

    def __init__(self, dictionary: Dictionary) -> None:
        self._machine = PricesProjection(skip=True)

    def take(self, header: FrameHeader, cells: Cells) -> None:
        self._machine.apply(header, cells)

    def table(self) -> pl.DataFrame:
        rows = [
            {
                "symbol": instrument.symbol,
                **{name: None if value[name] is None else float(value[name]) for name in self._NUMBERS},
                "ts_ns": value["ts_ns"],
                "ordinal": value["ordinal"],
            }
            for instrument, value in self._machine.by_instrument()
        ]
        schema = {"symbol": _TEXT, **dict.fromkeys(self._NUMBERS, _NUMBER), "ts_ns": _WHOLE, "ordinal": _WHOLE}
        frame = pl.DataFrame(rows, schema=schema).sort("symbol", "ordinal")
        at = frame.columns.index("ts_ns")
        return frame.insert_column(at, time_columns(frame["ts_ns"].to_numpy())["ts"].alias("ts"))


class SurfaceBuilder:
    """Every option with its last quote, the volatility that this implies, its value and Greeks."""

    _SCHEMA = {  # noqa: RUF012  (a constant)
        "underlying": _TEXT, "symbol": _TEXT, "expiry": _TIME, "strike": _NUMBER, "option_type": _TEXT,
        "forward": _NUMBER, "volatility": _NUMBER, "price": _NUMBER, "delta": _NUMBER, "gamma": _NUMBER,
        "vega": _NUMBER, "theta": _NUMBER, "quoted_bid": _NUMBER, "quoted_ask": _NUMBER, "quoted_mark": _NUMBER,
        "quoted_bid_volatility": _NUMBER, "quoted_ask_volatility": _NUMBER, "quoted_mark_volatility": _NUMBER,
        "open_interest": _WHOLE, "quoted_at": _TIME, "as_of": _TIME,
    }  # fmt: skip

    def __init__(self, dictionary: Dictionary) -> None:
        self._machine = SurfaceProjection(skip=True)

    def take(self, header: FrameHeader, cells: Cells) -> None:
        self._machine.apply(header, cells)

    def table(self) -> pl.DataFrame:
        items: Iterable[tuple[str, dict[str, Any]]] = self._machine.items("surface/")
        options = [{**value, "option_type": value["right"]} for _, value in items if "strike" in value]
        times = [name for name, kind in self._SCHEMA.items() if kind == _TIME]
        told = {name: _TEXT if name in times else kind for name, kind in self._SCHEMA.items()}
        frame = pl.DataFrame([{name: option.get(name) for name in told} for option in options], schema=told)
        read = (pl.col(name).str.to_datetime("%+", time_unit="us", time_zone="UTC") for name in times)
        return frame.with_columns(*read).sort("underlying", "expiry", "strike", "option_type")
