"""Rows that people write, as orders in a desk's own numbers: symbols, account names and decimals resolved.

A row is a mapping: `instrument`, `side`, `price`, `size`, and where they apply `account`, `action` (submit, replace,
cancel), `type`, `time_in_force`, `post_only`, `reduce_only`, `order_id` (of a replace or cancel), `stop`, `display`,
`expiry`. What is absent, None or empty has its default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tapehouse.core import parse_time_ns
from tapehouse.core.errors import DataError, MissingError, TapehouseError
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.names import Names
from tapehouse.desk.order_frames import CANCELLED, NUMBER_MAX, REPLACED, SUBMITTED, make_orders, pack_depth
from tapehouse.desk.requests import LIMIT, ORDER_TYPES, POST_ONLY_FLAG, REDUCE_ONLY_FLAG, STOP_LIMIT, TIMES_IN_FORCE
from tapehouse.market import ORDER_EXTENSION, Cells, Instrument, Side

Row = Mapping[str, Any]

DEFAULT_ACCOUNT = "manual"
COLUMNS = (
    "instrument", "side", "price", "size", "account", "action", "type", "time_in_force", "post_only", "reduce_only",
    "order_id", "stop", "display", "expiry",
)  # fmt: skip
_ACTIONS = {"submit": SUBMITTED, "replace": REPLACED, "cancel": CANCELLED}
_SIDES = {"buy": int(Side.BID), "sell": int(Side.ASK)}
_TYPES = {name: number for number, name in enumerate(ORDER_TYPES)}
_TIMES = {name: number for number, name in enumerate(TIMES_IN_FORCE)}
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


def rows_of(orders: pl.DataFrame | Iterable[Row]) -> list[Row]:
    """Orders as rows; raises DataError for a column that no order has."""
    rows: list[Row] = [*(orders.iter_rows(named=True) if isinstance(orders, pl.DataFrame) else orders)]
    unknown = sorted({str(name) for row in rows for name in row} - set(COLUMNS))
    if unknown:
        raise DataError(f"orders have no {unknown[0]!r}", hint=f"they have {', '.join(COLUMNS)}")
    return rows


def read_orders(path: Path) -> pl.DataFrame:
    """A file of orders: CSV with a header, or Parquet.

    Raises:
        DataError: It is neither.
        MissingError: It is not there.
    """
    if not path.is_file():
        raise MissingError("no such file", subject=str(path))
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        return pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"it cannot be read: {error}", subject=str(path), hint="a CSV with a header line, or .parquet"
        ) from error


def account_names(rows: Sequence[Row]) -> list[str]:
    """The accounts that rows name, each once, in order."""
    return list(dict.fromkeys(str(_given(row, "account", DEFAULT_ACCOUNT)) for row in rows))


def order_cells(rows: Sequence[Row], names: Names, *, client: int, number: int) -> Cells:
    """Rows as consecutive orders of a client; `write_accounts` says whose they are.

    Raises:
        DataError: A row says something that no order can; the row is named.
        MissingError: It names an instrument that the desk does not know.
    """
    cells = make_orders(len(rows), client=client, number=number)
    first, said = cells[::2], cells[1::2].view(ORDER_EXTENSION)
    symbols = _symbols(names)
    for at, row in enumerate(rows):
        try:
            instrument = _instrument(str(_given(row, "instrument", "")), symbols)
            _write(first[at], said[at], row, instrument)
        except TapehouseError as error:
            error.position = f"row {at + 1}"
            raise
    return cells


def write_accounts(cells: Cells, rows: Sequence[Row], names: Names) -> None:
    """Give orders the numbers of their rows' accounts, which are open."""
    accounts = {name: at for at, name in names.accounts.items()}
    cells["count"][::2] = [accounts[str(_given(row, "account", DEFAULT_ACCOUNT))] for row in rows]


def _write(first: np.void, said: np.void, row: Row, instrument: Instrument) -> None:
    action = _choice(row, "action", _ACTIONS, "submit")
    kind = _choice(row, "type", _TYPES, "limit")
    first["instrument"], first["action"] = instrument.id, action
    first["side"] = _choice(row, "side", _SIDES, "buy" if action == CANCELLED else None)
    first["depth"] = pack_depth(kind, _choice(row, "time_in_force", _TIMES, "gtc"))
    flags = POST_ONLY_FLAG if _truth(row, "post_only") else 0
    first["flags"] = flags | (REDUCE_ONLY_FLAG if _truth(row, "reduce_only") else 0)
    if action != SUBMITTED:
        first["order_id"] = _integer(row, "order_id")
    priced = action != CANCELLED and kind in (LIMIT, STOP_LIMIT)
    first["price"] = _fixed(row, "price", instrument.fixed_price, needed=priced)
    first["size"] = _fixed(row, "size", instrument.fixed_size, needed=action != CANCELLED)
    stop = _fixed(row, "stop", instrument.fixed_price, needed=False)
    said["stop"] = stop if stop else UNDEFINED
    said["display"] = _fixed(row, "display", instrument.fixed_size, needed=False)
    expiry = _given(row, "expiry", 0)
    said["expiry"] = parse_time_ns(expiry) if expiry else 0


def _symbols(names: Names) -> dict[str, list[Instrument]]:
    symbols: dict[str, list[Instrument]] = {}
    for instrument in names.instruments.values():
        symbols.setdefault(instrument.symbol, []).append(instrument)
        symbols.setdefault(f"{instrument.symbol}@{instrument.id}", []).append(instrument)
    return symbols


def _instrument(symbol: str, symbols: dict[str, list[Instrument]]) -> Instrument:
    found = symbols.get(symbol, [])
    if len(found) > 1:
        raise DataError(
            f"{len(found)} instruments are called {symbol!r}",
            hint=f"say which: {', '.join(f'{symbol}@{instrument.id}' for instrument in found)}",
        )
    if not found:
        known = (
            ", ".join([name for name in symbols if "@" not in name][:10])
            or "none, until a host has decided on this tape"
        )
        raise MissingError(f"the desk knows no instrument {symbol!r}", hint=f"known: {known}")
    return found[0]


def _given(row: Row, name: str, default: Any) -> Any:
    value = row.get(name)
    return default if value is None or value == "" else value


def _choice(row: Row, name: str, known: dict[str, int], default: str | None) -> int:
    value = _given(row, name, default)
    number = known.get(str(value))
    if number is None:
        said = f"{name} is {value!r}" if value is not None else f"{name} is missing"
        raise DataError(said, hint=f"one of {', '.join(known)}")
    return number


def _truth(row: Row, name: str) -> bool:
    value = str(_given(row, name, False)).lower()
    if value not in (*_YES, *_NO):
        raise DataError(f"{name} is {value!r}", hint="true or false")
    return value in _YES


def _integer(row: Row, name: str) -> int:
    value = _given(row, name, None)
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if not 0 <= number <= NUMBER_MAX:
        raise DataError(f"{name} is {value!r}", hint="the id of the order that it is about")
    return number


def _fixed(row: Row, name: str, convert: Any, *, needed: bool) -> int:
    value = _given(row, name, None)
    if value is None:
        if needed:
            raise DataError(f"{name} is missing")
        return 0
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise DataError(f"{name} is {value!r}", hint="a decimal number") from None
    if not number.is_finite():
        raise DataError(f"{name} is {value!r}", hint="a finite number")
    return int(convert(number))


__all__ = ["COLUMNS", "Row", "account_names", "order_cells", "read_orders", "rows_of", "write_accounts"]
