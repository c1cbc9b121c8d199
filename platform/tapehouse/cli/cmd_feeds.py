"""`tapehouse feeds`: formats, and files held against the truth that they carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from tapehouse.cli.source_options import SourceWords, WatchWords, source_options, watched


def list_formats(*, json: bool = False) -> int:
    """The formats that can be recorded.

    For example:

        tapehouse feeds list --json

    Parameters
    ----------
    json
        One line of JSON.
    """
    from tapehouse.cli.output import print_json, print_table
    from tapehouse.feeds import FORMATS

    if json:
        print_json([dataclasses.asdict(item) for item in FORMATS.values()])
        return 0
    rows = [(item.name, item.description, item.files, item.checked_by) for item in FORMATS.values()]
    print_table("Formats", ("name", "what", "files", "checked by"), rows)
    return 0


def check(
    format: str,
    *source: Path,
    said: SourceWords | None = None,
    json: bool = False,
) -> int:
    """Parse a file and hold it against the truth that it carries; exit 1 where it does not hold.

    Every format tells how many rows were read, how many comparisons were made and how many failed, where the first
    one failed, how fast it decodes, and what is its own. `tapehouse feeds list` says what each is held against.

    Examples:

        tapehouse feeds check lobster AMZN_2012-06-21_5.zip --json

        tapehouse feeds check lobster MESSAGE.csv BOOK.csv

        tapehouse feeds check dbn esh4.mbo.dbn.zst --json

    Parameters
    ----------
    format
        See `tapehouse feeds list`.
    source
        The file, or files where a format has several.
    json
        One line of JSON.
    """
    from tapehouse.cli.output import console
    from tapehouse.core import SystemClock
    from tapehouse.feeds import check_source, open_feed

    options = source_options(said)
    found = check_source(format, list(source), options)
    line: dict[str, object] = {
        "format": format,
        "rows": found.rows,
        "compared": found.compared,
        "mismatches": found.mismatches,
        "first_mismatch": found.first_mismatch,
    }
    if not found.mismatches:
        feed, clock, cells = open_feed(format, list(source), options, checking=True), SystemClock(), 0
        next(feed.batches(), None)  # Kernels that are loaded or compiled now are not in the measured time.
        start = clock.monotonic_ns()
        for batch in feed.batches():
            cells += len(batch)
        seconds = max(1, clock.monotonic_ns() - start) / 1e9
        line |= {"cells": cells, "records_per_s": round(found.rows / seconds)}
    else:
        line |= {"cells": None, "records_per_s": None}  # Of what is wrong nobody needs to know how fast.
    line |= found.truths
    if json:
        _print_exact(line)
        return 1 if found.mismatches else 0
    for label, value in line.items():
        if value is not None:
            shown = f"{value:,}" if isinstance(value, int) else value
            console.print(f"{label:<16} {shown}", highlight=False, markup=False, soft_wrap=True)
    return 1 if found.mismatches else 0


def push(
    format: str,
    *source: Path,
    ring: str,
    speed: str = "max",
    stamp: bool = False,
    drop: bool = False,
    cpus: str | None = None,
    seed: int = 7,
    cells: int = 600_000,
    said: SourceWords | None = None,
    watch: WatchWords | None = None,
    json: bool = False,
) -> int:
    """Push a source into a shared-memory ring, as a feed handler does; a desk in `ahead` mode takes it from there.

    The ring is made where it is not there yet, and waits for a desk: tapehouse host --mode ahead --feed RING.

    Examples:

        tapehouse feeds push generated --ring cme --speed 10x --stamp

        tapehouse feeds push dbn esh4.mbo.dbn.zst --ring es

    Parameters
    ----------
    format
        See `tapehouse feeds list`.
    source
        The file, or files where a format has several.
    ring
        Its name.
    speed
        `1x`, `10x`, any factor of the source's own pace, or `max`.
    stamp
        Give every record the present time as its receive time, as a live feed has it.
    drop
        Where the desk is behind: drop records and leave a gap record that counts them, instead of waiting.
    cpus
        Cores of the roles, such as feed=0; else what TAPEHOUSE_CPUS says.
    seed
        Of a generated day.
    cells
        Size of a generated day.
    json
        One line of JSON.
    """
    from tapehouse.app.pinning import configured, pin
    from tapehouse.app.pushing import push as push_feed
    from tapehouse.cli.output import Bar, console, print_json, run_async
    from tapehouse.core import SystemClock
    from tapehouse.core.ids import check_name
    from tapehouse.feeds import Feed, GeneratedDay, open_feed
    from tapehouse.replay.pacing import parse_speed
    from tapehouse.ring import Policy

    factor = parse_speed(speed)
    check_name(ring, "ring")
    pin("feed", configured(cpus))
    options = source_options(said)
    opened = open_feed(format, list(source), options)
    feed: Feed = GeneratedDay(seed=seed, cells=cells) if format == "generated" else opened
    feed = watched(feed, watch)
    with Bar(f"push {feed.name}", feed.cells_estimate, quiet=json) as bar:
        report = run_async(
            push_feed(
                feed,
                ring,
                clock=SystemClock(),
                speed=factor,
                stamp=stamp,
                policy=Policy.DROP if drop else None,
                on_progress=bar.at,
            )
        )
    found = dataclasses.asdict(report)
    if json:
        print_json({"ring": ring, **found})
        return 0
    console.print(
        f"{report.cells:,} cells of {report.instruments} instruments in {report.seconds:.2f} s into ring {ring}, "
        f"{report.dropped} records dropped",
        highlight=False,
    )
    return 0


def _print_exact(values: Mapping[str, object]) -> None:
    """One JSON line in which decimals are numbers with every digit that they have."""
    import json
    from decimal import Decimal

    parts = [
        f"{json.dumps(name)}: {value if isinstance(value, Decimal) else json.dumps(value)}"
        for name, value in values.items()
    ]
    print("{" + ", ".join(parts) + "}")
