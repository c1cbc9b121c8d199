"""`tapehouse sql`: DuckDB over the tables of one tape."""

from __future__ import annotations

import math
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

ROWS_SHOWN = 100  # to people, where they do not say


def sql(
    query: str | None = None,
    /,
    *,
    tape: str = "main",
    as_of: str | None = None,
    limit: int | None = None,
    csv: bool = False,
    json: bool = False,
    nats: str | None = None,
) -> int:
    """Ask DuckDB about a tape: events, orders, fills, positions, trades, quotes, prices, surface, bbo, commands, tape,
    instruments, wide_ids, gaps, parked, lineage.

    Only the tables that the query mentions are built. Numbers of price, size and money are doubles, with the exact
    integer beside them as `<name>_fixed`; `ts` is engine time, `ts_ns` its nanoseconds. `SELECT * FROM tables` lists
    the tables, `DESCRIBE trades` the columns of one.

    Where market data was missing, `trades`, `bbo`, `quotes`, `option_quotes` and `tape` say so in `confidence` (`good`,
    `suspect`, `rebuilding`), and `gaps` has a row for each span: `WHERE confidence = 'good'` excludes them.

    Examples:

        tapehouse sql "SELECT symbol, avg(price) FROM trades WHERE confidence = 'good' GROUP BY symbol"

        tapehouse sql "SELECT ts, end_ts, symbol, causes, missing FROM gaps ORDER BY ordinal" --tape amzn

        tapehouse sql "SELECT symbol, count(*), sum(size) FROM trades GROUP BY symbol ORDER BY symbol" --tape amzn

        tapehouse sql "SELECT * FROM positions" --as-of 2012-06-21T15:00:00Z --json

        tapehouse sql --tape amzn < report.sql

        tapehouse sql "SELECT ts, price, size FROM fills ORDER BY ordinal" --csv > fills.csv

    Parameters
    ----------
    query
        One SQL statement; without it, standard input is read.
    tape
        Which tape.
    as_of
        The moment to look at, ISO 8601 with a zone or integer ns of engine time; now by default.
    limit
        At most so many rows: 100 on a terminal, all of them as JSON or CSV.
    csv
        CSV with a header.
    json
        One line of JSON: a list of objects.
    nats
        The broker; else what the environment or the embedded cluster says.
    """
    from tapehouse.cli.output import console, print_json, print_table, run_async
    from tapehouse.client import AsyncClient
    from tapehouse.core.errors import UsageError

    if csv and json:
        raise UsageError("CSV or JSON, not both")
    if limit is not None and limit < 0:
        raise UsageError(f"a limit of {limit} rows")
    statement = query if query is not None else read_piped("a query", "see tapehouse sql --help")

    async def ask() -> Any:
        async with await AsyncClient.open(nats) as client:
            return await client.sql(statement, tape=tape, as_of=as_of)

    rows = run_async(ask())
    shown = rows if limit is None and (csv or json) else rows.head(ROWS_SHOWN if limit is None else limit)
    if csv:
        sys.stdout.write(shown.write_csv())
    elif json:
        print_json([{name: json_value(value) for name, value in row.items()} for row in shown.to_dicts()])
    else:
        print_table("", shown.columns, [[_cell(value) for value in row] for row in shown.rows()])
        more = f", of which {len(shown):,} are shown" if len(shown) < len(rows) else ""
        console.print(f"{len(rows):,} rows{more}", highlight=False, style="dim")
    return 0


def read_piped(what: str, hint: str) -> str:
    """All of standard input; raises UsageError where that is a terminal, at which nobody would know to type."""
    from tapehouse.core.errors import UsageError

    if sys.stdin.isatty():
        raise UsageError(f"{what} is missing", hint=hint)
    return sys.stdin.read()


def json_value(value: Any) -> Any:
    """What JSON can hold: times as ISO 8601, exact decimals as text, numbers that are none as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime | date | time):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal | timedelta):
        return str(value)
    if isinstance(value, dict):
        return {str(name): json_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(part) for part in value]
    if isinstance(value, bytes):
        return value.hex()
    return value


def _cell(value: Any) -> object:
    if value is None:
        return ""
    return str(json_value(value))  # Whole numbers too: ids and nanoseconds are copied, not read with separators.
