"""`tapehouse record`: a market-data file onto a tape of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tapehouse.cli.source_options import SourceWords, WatchWords, source_options, watched

SAMPLES = ("lobster", "dbn")  # formats of single days, as the demonstrations record them


def record(
    format: str,
    *source: Path,
    tape: str | None = None,
    strategy: str | None = "maker",
    parameters: str | None = None,
    guard: bool = True,
    mode: Literal["gated", "ahead"] = "gated",
    options: bool | None = None,
    seed: int = 7,
    cells: int = 600_000,
    said: SourceWords | None = None,
    watch: WatchWords | None = None,
    nats: str | None = None,
    home: Path | None = None,
    json: bool = False,
) -> int:
    """Record a file onto a tape, with the strategy deciding beside it.

    Each history gets a tape of its own, named after its source. A recording that was stopped goes on where it
    stopped when the same command is given again.

    Examples:

        tapehouse record lobster AMZN_2012-06-21_5.zip

        tapehouse record dbn esh4.mbo.dbn.zst --tape esh4 --strategy none

        tapehouse record generated --cells 2000000 --mode ahead

    Parameters
    ----------
    format
        See `tapehouse feeds list`.
    source
        The file, or files where a format has several.
    tape
        Its name; else drawn from the source.
    strategy
        `maker`, `watcher`, `FILE.py:NAME`, `MODULE:NAME`, or `none` to record only.
    parameters
        A JSON object of the strategy's parameters.
    guard
        Stop a Python strategy that reads the clock or randomness.
    mode
        `gated`: the strategy decides on what the tape has made durable. `ahead`: it decides first, in the loop that
        writes the journal, and a sidecar process brings that to the tape; tape and decisions come out the same.
    options
        Hang a seeded option chain on a source that has none, so that the pricing engine has something to price. Unless
        it is said, lobster, dbn and generated get one, and nothing else does.
    seed
        Of that chain and of the generated day.
    cells
        Size of the generated day.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where snapshots live, as given to `tapehouse up`.
    json
        One line of JSON.
    """
    from tapehouse.app.recording import record_source
    from tapehouse.app.strategies import load_strategy
    from tapehouse.cli.output import Bar, compile_kernels, console, print_json, run_async
    from tapehouse.core.ids import check_name
    from tapehouse.feeds import Feed, GeneratedDay, SeededChain, open_feed

    feed: Feed
    opened = open_feed(format, list(source), source_options(said))
    if format == "generated":
        feed = GeneratedDay(seed=seed, cells=cells, options=options is not False)
    else:
        chained = format in SAMPLES if options is None else options
        feed = SeededChain(opened, seed=seed) if chained else opened
    feed = watched(feed, watch)
    chosen = None if strategy in (None, "none") else strategy
    if chosen is not None:
        load_strategy(chosen, parameters)  # What is wrong is told before anything takes its time.
    if tape is not None:
        check_name(tape, "tape")
    compile_kernels(quiet=json)
    with Bar(f"record {feed.name}", feed.cells_estimate, quiet=json) as bar:
        name, report = run_async(
            record_source(
                feed,
                tape=tape,
                strategy=chosen,
                parameters=parameters,
                guard=guard,
                mode=mode,
                nats=nats,
                home=home,
                on_progress=bar.at,
            )
        )
    digests = report.digests
    found = {
        "tape": name,
        "cells": report.cells,
        "feed_cells": report.feed_cells,
        "skipped_cells": report.skipped_cells,
        "commands": report.commands,
        "bytes": report.bytes,
        "seconds": round(report.seconds, 3),
        "decisions": digests.decisions if digests else 0,
        "decision_digest": digests.decision.hex() if digests else None,
        "state_digest": digests.state.hex() if digests else None,
    }
    for counter in ("unknown_orders", "revealed_levels"):
        value = getattr(opened, counter, None)
        if value is not None:
            found[counter] = value
    if json:
        print_json(found)
        return 0
    for label, value in found.items():
        if value is not None:
            shown = f"{value:,}" if isinstance(value, int) else value
            console.print(f"{label:<16} {shown}", highlight=False)
    console.print(f"next: tapehouse replay --tape {name}, tapehouse sql --tape {name} 'from fills'", highlight=False)
    return 0
