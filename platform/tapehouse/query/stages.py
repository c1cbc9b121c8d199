"""The table `stages`: how long each burst of inputs took to the journal, through the engine and out.

It is read from Parquet files that a desk in `ahead` mode keeps beside its logs; see `app.stages`.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tapehouse.core.errors import DataError
from tapehouse.query.columns import time_columns

STAGES_SCHEMA = {
    "ts_ns": pl.Int64,  # UTC, when the burst was taken from its ring
    "ordinal": pl.Int64,  # of its first cell in TAPE
    "cells": pl.Int64,
    "feed": pl.Int64,  # 0 the desk's own commands and clock, else the feeds in their order
    "journal_ns": pl.Int64,  # until it was in the journal
    "decide_ns": pl.Int64,  # from there until the engine had folded it
    "send_ns": pl.Int64,  # from there until what was decided had been sent on
    "total_ns": pl.Int64,
}


def read_stages(directory: Path | None) -> pl.DataFrame:
    """All rows that are kept, in the order of time; none where nothing was kept.

    Raises:
        DataError: A file is damaged.
    """
    frames = [pl.DataFrame(schema=STAGES_SCHEMA)]
    for path in sorted(directory.glob("*.parquet")) if directory is not None else []:
        try:
            frames.append(pl.read_parquet(path).select(list(STAGES_SCHEMA)))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"timings cannot be read: {error}", subject=str(path), hint="remove the file") from error
    frame = pl.concat(frames).sort("ts_ns", maintain_order=True)
    return frame.insert_column(0, time_columns(frame["ts_ns"].to_numpy())["ts"].alias("ts"))
