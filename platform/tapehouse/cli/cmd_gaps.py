"""`tapehouse gaps`: spans of missing market data on a tape."""

from __future__ import annotations

from pathlib import Path

NS = (("h", 3_600_000_000_000), ("min", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000))


def gaps(
    *,
    tape: str,
    instrument: str | None = None,
    open: bool = False,
    check: bool = False,
    store: str | None = None,
    nats: str | None = None,
    home: Path | None = None,
    json: bool = False,
) -> int:
    """Spans in which market data was missing or in doubt: when, why, how much, and how it was made good.

    A span begins where a book is said to be suspect or told anew, and ends where it is good again. Exit 0 also where
    there are some; with `--check` exit 1 where one is still open.

    Examples:

        tapehouse gaps --tape amzn

        tapehouse gaps --tape main --instrument BTC-USD --json

        tapehouse gaps --tape main --open --check

    Parameters
    ----------
    tape
        Which tape.
    instrument
        Only spans that concern this symbol: its own, and those of a whole feed.
    open
        Only spans that have not ended.
    check
        Exit 1 where a span that is shown has not ended.
    store
        Read the tape from the newest backup in this store instead of the broker.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Of the embedded cluster, as given to `tapehouse up`.
    json
        One line of JSON: a list of spans.
    """
    from tapehouse.app.gaps import gaps_of
    from tapehouse.cli.output import console, print_json, print_table, run_async
    from tapehouse.core.ids import check_name

    check_name(tape, "tape")
    found = run_async(gaps_of(tape, instrument=instrument, only_open=open, store=store, nats=nats, home=home))
    code = 1 if check and found.open else 0
    if json:
        print_json(found.rows)
        return code
    columns = ("instrument", "source", "begin", "end", "lasted", "why", "missing", "made good by")
    rows = [
        (
            row["instrument"] or "all",
            str(row["source"]),
            row["begin"],
            row["end"] or "open",
            "" if row["duration_ns"] is None else lasted(row["duration_ns"]),
            ", ".join(row["causes"]),
            row["missing"] or "",
            row["recovered_by"] or "",
        )
        for row in found.rows
    ]
    if rows:
        print_table("", columns, rows)
    console.print(
        f"{len(rows):,} spans of missing data in {found.cells:,} cells, {found.open:,} of them open", highlight=False
    )
    return code


def lasted(duration_ns: int) -> str:
    """A duration in its largest unit, with three digits after the point; exact below a microsecond."""
    for unit, length in NS:
        if duration_ns >= length:
            return f"{duration_ns / length:.3f} {unit}"
    return f"{duration_ns} ns"
