"""Trades of one instrument in a span of time, without SQL."""

from __future__ import annotations

import polars as pl

from tapehouse.core.errors import MissingError
from tapehouse.log import Log
from tapehouse.query.builders import TradesBuilder
from tapehouse.query.columns import Dictionary
from tapehouse.query.read import read_frames
from tapehouse.query.table import Table


async def read_trades(
    tape: Log, symbol: str | None = None, *, start: int | None = None, end: int | None = None
) -> Table:
    """Trades in the tape's order.

    Args:
        symbol: The venue's spelling; None for all.
        start, end: Engine time, UTC ns: from `start` on and before `end`.

    Raises:
        MissingError: The tape defines no such symbol.
    """
    dictionary = Dictionary()
    builder = TradesBuilder(dictionary)
    async for header, cells in read_frames(tape):
        dictionary.learn(header, cells)
        if end is not None and header.first_time >= end:
            if symbol is None or dictionary.defines(symbol):
                break
            continue  # Nothing more is wanted, but to know whether there is such a symbol at all.
        if start is None or header.last_time >= start:
            builder.take(header, cells)
    trades = builder.table()
    if symbol is not None:
        if not dictionary.defines(symbol):
            known = sorted({instrument.symbol for instrument in dictionary.instruments.values()})
            raise MissingError(
                f"no instrument {symbol!r}", subject=tape.name, hint=f"there are {', '.join(known[:10]) or 'none yet'}"
            )
        trades = trades.filter(pl.col("symbol") == symbol)
    if end is not None:
        trades = trades.filter(pl.col("ts_ns") < end)
    if start is not None:
        trades = trades.filter(pl.col("ts_ns") >= start)
    return Table(trades)
