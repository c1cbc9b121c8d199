"""A table as the user wants it: folded behind a progress bar, then shown, as JSON, or in a file."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tapehouse.core.errors import MissingError, UsageError

if TYPE_CHECKING:
    import polars as pl

    from tapehouse.query.folding import RowsBuilder

ROWS_SHOWN = 100


def check_outputs(*, json: bool, csv: Path | None, parquet: Path | None) -> None:
    """Look, before a long run, whether files can be written; raises UsageError, MissingError where not."""
    if json and (csv or parquet):
        raise UsageError("JSON, or a file, not both")
    for path in (csv, parquet):
        if path is None:
            continue
        directory = path.absolute().parent
        if path.is_dir():
            raise MissingError("it is a directory", subject=str(path), hint="name a file")
        if not directory.is_dir():
            raise MissingError("there is no such directory", subject=str(directory), hint="make it, or name another")


def fold_shown(
    title: str,
    builder: RowsBuilder,
    *,
    tape: str | None,
    source: str | None,
    files: Sequence[Path],
    store: str | None,
    nats: str | None,
    home: Path | None,
    quiet: bool,
) -> None:
    """Give a builder a tape or files, with a progress bar; raises as `app.analytics.fold` does."""
    from tapehouse.app.analytics import fold
    from tapehouse.cli.output import Bar, compile_kernels, run_async

    compile_kernels(quiet=quiet)
    with Bar(f"{title} {tape or source or ''}", None, quiet=quiet) as bar:
        run_async(
            fold(
                builder,
                tape=tape,
                source=source,
                files=files,
                store=store,
                nats=nats,
                home=home,
                on_progress=bar.at,
            )
        )


def put_table(
    table: pl.DataFrame, shown: Mapping[str, str], *, json: bool, csv: Path | None, parquet: Path | None
) -> None:
    """Put a table out.

    Args:
        shown: The columns that people are shown, and what stands above each; files and JSON have all.

    Raises:
        MissingError: A file cannot be written.
    """
    from tapehouse.cli.cmd_sql import json_value
    from tapehouse.cli.output import console, print_json, print_table

    if json:
        print_json([{name: json_value(value) for name, value in row.items()} for row in table.to_dicts()])
        return
    if csv is not None:
        write_whole(csv, table.write_csv().encode())
    if parquet is not None:
        data = io.BytesIO()
        table.write_parquet(data)
        write_whole(parquet, data.getvalue())
    for path in (csv, parquet):
        if path is not None:
            console.print(f"{len(table):,} rows in {path}", highlight=False)
    if csv is None and parquet is None:
        rows = table.head(ROWS_SHOWN).select(*shown).rows()
        texts = [["" if value is None else _text(value) for value in row] for row in rows]
        print_table("", list(shown.values()), texts)
        more = f", of which {ROWS_SHOWN} are shown" if len(table) > ROWS_SHOWN else ""
        console.print(f"{len(table):,} rows{more}", highlight=False, style="dim")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises MissingError where it cannot be."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise MissingError(f"the file cannot be written: {error.strerror}", subject=str(path)) from error


def _text(value: object) -> object:
    from tapehouse.cli.cmd_sql import json_value

    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.10g}" if abs(value) >= 1e9 else f"{value:,.8g}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds" if value.microsecond else "seconds")[:23].split("+")[0]
    return value if isinstance(value, int) else str(json_value(value))
