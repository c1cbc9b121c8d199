"""`tapehouse bench`: measure on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def bench(
    *,
    lobster: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    dbn: Path | None = None,
    cells: int = 2_000_000,
    repeat: int = 3,
    nodes: int = 3,
    json: bool = False,
) -> int:
    """Measure the tape: cells a second into three durable brokers, replayed from them and from memory, bytes a cell.

    Examples:

        tapehouse bench

        tapehouse bench --dbn esh4.mbo.dbn.zst --repeat 5 --json

    Parameters
    ----------
    lobster
        Measure on a LOBSTER zip, or its message and book file, instead of a generated day.
    dbn
        Measure on a DBN file instead of a generated day.
    cells
        Of the generated day.
    repeat
        Runs of each measurement; the median is shown with its spread.
    nodes
        1, 3 or 5 brokers.
    json
        One line of JSON.
    """
    from tapehouse.app.bench import TapeBench
    from tapehouse.app.machine import describe
    from tapehouse.cli.output import console, diagnostics, print_json, print_table, run_async
    from tapehouse.feeds import Feed, GeneratedDay, open_feed

    feed: Feed
    if lobster:
        feed = open_feed("lobster", lobster)
    elif dbn:
        feed = open_feed("dbn", [dbn])
    else:
        feed = GeneratedDay(cells=cells)

    def tell(step: str) -> None:
        if diagnostics.is_terminal and not json:
            diagnostics.print(f"  {step} …", highlight=False)

    files = [*(lobster or []), *([dbn] if dbn else [])]
    source_bytes = sum(path.stat().st_size for path in files)
    bench_run = TapeBench(feed, repeat=repeat, nodes=nodes, on_step=tell, source_bytes=source_bytes)
    rows = run_async(bench_run.run())
    if json:
        print_json({"machine": describe(), "feed": feed.name, "rows": [dataclasses.asdict(row) for row in rows]})
        return 0
    console.print(f"{describe()}\nfeed {feed.name}, {repeat} runs each", highlight=False)
    columns = ("what", "median", "unit", "spread", "how")
    table = [(row.name, f"{row.median:.2f}", row.unit, f"{row.low:.2f} to {row.high:.2f}", row.note) for row in rows]
    print_table("The tape", columns, table)
    return 0
