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


def _print_exact(values: Mapping[str, object]) -> None:
    """One JSON line in which decimals are numbers with every digit that they have."""
    import json
    from decimal import Decimal

    parts = [
        f"{json.dumps(name)}: {value if isinstance(value, Decimal) else json.dumps(value)}"
        for name, value in values.items()
    ]
    print("{" + ", ".join(parts) + "}")
