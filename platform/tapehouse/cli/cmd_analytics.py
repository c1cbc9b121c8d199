"""`tapehouse analytics`: measures of books and flows between them, a row for each interval of engine time."""

from __future__ import annotations

from pathlib import Path

SHOWN = {
    "begin": "begin",
    "symbol": "symbol",
    "bid": "bid",
    "ask": "ask",
    "microprice": "micro",
    "imbalance": "imbal.",
    "order_flow_imbalance": "flow",
    "trades": "trades",
    "volume": "volume",
    "twap": "twap",
    "realised_volatility": "volat.",
    "kyle_lambda": "lambda",
    "resilience": "resil.",
}


def analytics(
    *files: Path,
    tape: str | None = None,
    source: str | None = None,
    instrument: str | None = None,
    every: str = "1s",
    sample: str | None = None,
    recovery: str | None = None,
    levels: int = 5,
    bps: int = 10,
    from_time: str | None = None,
    to_time: str | None = None,
    csv: Path | None = None,
    parquet: Path | None = None,
    plot: Path | None = None,
    store: str | None = None,
    nats: str | None = None,
    home: Path | None = None,
    json: bool = False,
) -> int:
    """Spread, depth and imbalance at the end of each interval; order flow, volatility and impact over it.

    The definitions, with their units and sources, are in docs/analytics.md. People are shown some of the columns;
    JSON and files have all, exact integers (`<name>_fixed`) among them.

    Examples:

        tapehouse analytics --tape amzn --every 1m

        tapehouse analytics --tape esh4 --every 10s --levels 10 --bps 5 --plot esh4.png --parquet esh4.parquet

        tapehouse analytics --source lobster AMZN_2012-06-21_5.zip --every 1m --json

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
    every
        How long an interval is: `250ms`, `1s`, `5m`, `1h`. Intervals lie on a grid of UTC.
    sample
        How often the mid is looked at for volatility and impact; by default a tenth of `every`, which it must divide.
    recovery
        How long after a trade one looks whether what it took is back; `every` by default.
    levels
        How many of the best levels of a side are its depth.
    bps
        How many basis points from the mid are near.
    from_time
        Intervals from here on, ISO 8601 with a zone or integer ns; the books know what was before.
    to_time
        Records before this.
    csv
        Write all columns to this file.
    parquet
        Write all columns to this file.
    plot
        Write a picture of depth and spread over time, a PNG; of one instrument.
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
    from tapehouse.app.plot import check_picture
    from tapehouse.cli.tables import check_outputs, fold_shown, put_table
    from tapehouse.core.units import parse_time_ns
    from tapehouse.query.analytics import AnalyticsBuilder, AnalyticsOptions

    check_asked(tape, source, files)
    check_outputs(json=json, csv=csv, parquet=parquet)
    if plot is not None:
        check_picture(plot)
    options = AnalyticsOptions(
        every=every,
        sample=sample,
        recovery=recovery,
        levels=levels,
        bps=bps,
        symbol=instrument,
        start=None if from_time is None else parse_time_ns(from_time),
        end=None if to_time is None else parse_time_ns(to_time),
        ladders=plot is not None,
    )
    builder = AnalyticsBuilder(options)
    fold_shown(
        "analytics", builder, tape=tape, source=source, files=files, store=store, nats=nats, home=home, quiet=json
    )
    table = builder.table()
    if plot is not None:
        from tapehouse.app.plot_book import draw_book, lines_of

        draw_book(lines_of(builder), plot, title=f"{tape or source}, every {every}")
    put_table(table, SHOWN, json=json, csv=csv, parquet=parquet)
    return 0
