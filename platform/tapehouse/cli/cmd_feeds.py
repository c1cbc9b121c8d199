"""`tapehouse feeds`: formats, and files held against the truth that they carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path


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


def check(format: str, *source: Path, json: bool = False) -> int:
    """Parse a file and hold it against the truth that it carries; exit 1 where it does not hold.

    LOBSTER: every row of the book must be the row before it with its message applied. DBN: the file is replayed into
    a book, whose levels, best prices and last sequence are told.

    Examples:

        tapehouse feeds check lobster AMZN_2012-06-21_5.zip --json

        tapehouse feeds check lobster MESSAGE.csv BOOK.csv

        tapehouse feeds check dbn esh4.mbo.dbn.zst --json

    Parameters
    ----------
    format
        `lobster` or `dbn`.
    source
        The file, or files where a format has several.
    json
        One line of JSON.
    """
    from tapehouse.cli.output import console
    from tapehouse.core.errors import UsageError
    from tapehouse.feeds import check_dbn, check_lobster

    if format == "lobster":
        found = check_lobster(list(source))
        line = {
            "rows": found.rows,
            "compared": found.compared,
            "mismatches": found.mismatches,
            "revealed": found.revealed,
        }
        if not json:
            for label, value in line.items():
                console.print(f"{label:<12} {value:,}", highlight=False)
            if found.first_mismatch:
                console.print(f"first: {found.first_mismatch}", highlight=False)
        else:
            _print_exact(line)
        return 1 if found.mismatches else 0
    if format == "dbn":
        if len(source) != 1:
            raise UsageError(f"{len(source)} files", subject="feeds check dbn", hint="give one DBN file")
        answer = check_dbn(source[0])
        if json:
            _print_exact(answer)
        else:
            for label, value in answer.items():
                console.print(f"{label:<16} {value}", highlight=False)
        return 0
    raise UsageError(f"no format {format!r} can be checked", hint="lobster and dbn can")


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
        `lobster`, `dbn` or `generated`; see `tapehouse feeds list`.
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
    opened = open_feed(format, list(source))
    feed: Feed = GeneratedDay(seed=seed, cells=cells) if format == "generated" else opened
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
