"""The table `gaps`: spans in which market data was missing or in doubt, as the tape's GAP records tell them."""

from __future__ import annotations

import polars as pl

from tapehouse.log import FrameHeader
from tapehouse.market import Cells, GapSpan
from tapehouse.query.columns import Dictionary, time_columns

_SCHEMA = {
    "ordinal": pl.Int64,  # of the record that began it
    "ts_ns": pl.Int64,
    "end_ordinal": pl.Int64,  # null while it is open, as all about its end
    "end_ts_ns": pl.Int64,
    "duration_ns": pl.Int64,
    "symbol": pl.String,  # null where it is of several of the source's
    "source": pl.Int64,
    "causes": pl.String,  # with commas, in the order in which they came
    "missing": pl.Int64,  # records, as far as anybody knows
    "recovered_by": pl.String,
    "open": pl.Boolean,
}


def gaps_table(spans: list[GapSpan], dictionary: Dictionary) -> pl.DataFrame:
    """A row for each span, in order."""
    rows = [_row(span, dictionary) for span in spans]
    frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    begun, ended = time_columns(frame["ts_ns"].to_numpy())["ts"], (frame["end_ts_ns"] // 1000)
    frame = frame.insert_column(1, begun.alias("ts"))
    return frame.insert_column(4, ended.cast(pl.Datetime("us", "UTC")).alias("end_ts"))


class GapsBuilder:
    """Every span, those that are open included. The dictionary has folded them with its definitions."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary

    def take(self, header: FrameHeader, cells: Cells) -> None:
        """Nothing is left to take: see `Dictionary.learn`."""

    def table(self) -> pl.DataFrame:
        return gaps_table(self._dictionary.gaps.spans(), self._dictionary)


def _row(span: GapSpan, dictionary: Dictionary) -> tuple[object, ...]:
    instrument = dictionary.instruments.get(span.instrument)
    return (
        span.begin_ordinal,
        span.begin_ns,
        span.end_ordinal,
        span.end_ns,
        None if span.end_ns is None else span.end_ns - span.begin_ns,
        None if instrument is None else instrument.symbol,
        span.source,
        ",".join(cause.name.lower() for cause in span.causes),
        span.missing,
        None if span.recovered_by is None else span.recovered_by.name.lower(),
        span.end_ns is None,
    )
