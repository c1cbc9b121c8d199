"""`tapehouse bars`: bars of trades by time, tick count, volume or money."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

SHOWN = {
    "begin": "begin",
    "end": "end",
    "symbol": "symbol",
    "open": "open",
    "high": "high",
    "low": "low",
    "close": "close",
    "volume": "volume",
    "trades": "trades",
    "vwap": "vwap",
}


def bars(
    *files: Path,
    tape: str | None = None,
    source: str | None = None,
    instrument: str | None = None,
    by: Literal["time", "tick", "volume", "dollar"] = "time",
    size: str = "1m",
    from_time: str | None = None,
    to_time: str | None = None,
    csv: Path | None = None,
    parquet: Path | None = None,
    store: str | None = None,
    nats: str | None = None,
    home: Path | None = None,
    json: bool = False,
) -> int:
    """Open, high, low, close, volume, vwap, buys and sells of each bar, exact.

    A trade that overfills a bar goes whole into it. The last bar may be cut short by the end of the records:
    `complete` says so. A trade whose record does not name the aggressor is signed by the tick rule.

    Examples:

        tapehouse bars --tape amzn --by time --size 1m

        tapehouse bars --tape esh4 --by volume --size 1000 --parquet esh4.parquet

        tapehouse bars --source lobster AMZN_2012-06-21_5.zip --by dollar --size 1000000 --json

    Parameters
    ----------
    files
        Instead of a tape: the files of a source.
    tape
        Which tape.
    source
        The format of the files; see `tapehouse feeds list`.
    instrument
        Only this symbol.
    by
        What completes a bar: a span of engine time on a grid of UTC, a number of trades, their volume, or what they
        cost in the instrument's currency.
    size
        A span such as `1m`, or a number.
    from_time
        Trades from here on, ISO 8601 with a zone or integer ns.
    to_time
        Trades before this.
    csv
        Write all columns to this file.
    parquet
        Write all columns to this file.
    store
        Read the tape from the newest backup in this store instead of the broker.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Of the embedded cluster, as given to `tapehouse up`.
    json
        One line of JSON: a list of objects.
    """
    from tapehouse.app.analytics import check_asked
    from tapehouse.cli.tables import check_outputs, fold_shown, put_table
    from tapehouse.core.units import parse_time_ns
    from tapehouse.query.bars import BarsBuilder, BarsOptions

    check_asked(tape, source, files)
    check_outputs(json=json, csv=csv, parquet=parquet)
    start = None if from_time is None else parse_time_ns(from_time)
    end = None if to_time is None else parse_time_ns(to_time)
    builder = BarsBuilder(BarsOptions(by=by, size=size, symbol=instrument, start=start, end=end))
    fold_shown("bars", builder, tape=tape, source=source, files=files, store=store, nats=nats, home=home, quiet=json)
    put_table(builder.table(), SHOWN, json=json, csv=csv, parquet=parquet)
    return 0
