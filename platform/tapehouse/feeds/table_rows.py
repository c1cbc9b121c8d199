"""The rows of a table, CSV or Parquet, as integers in the mapping's units.

Parquet is written out as CSV text, a batch at a time, and takes the same way from there: integers and decimals as they
are, floats by the shortest text that gives the same float, times as ISO 8601. So every number is read exactly, once.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from tapehouse.core.errors import DecodeError, MissingError
from tapehouse.feeds.packed_files import PackedFile
from tapehouse.feeds.table_mapping import Constant, Mapping, Source
from tapehouse.feeds.typed_rows import Texts, Type, TypedRows

ROWS_PER_BATCH = 16_384
_PARQUET = b"PAR1"
_TIME_EXPONENTS = {"s": -9, "ms": -6, "us": -3, "ns": 0, "iso": 0}
_NUMBERS = ("price", "bid", "ask")
_SIZES = ("size", "bid_size", "ask_size")
_TEXTS = ("side", "action")


class ParquetText(io.RawIOBase):
    """A Parquet file as CSV text, its header included.

    Raises:
        DecodeError: It is none, or a value has a comma, a quote or a line feed in it.
    """

    def __init__(self, path: Path, columns: list[str]) -> None:
        super().__init__()
        self._title = path.name
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
            there = [name for name in self._file.schema_arrow.names if name in columns]
            self._batches = self._file.iter_batches(batch_size=ROWS_PER_BATCH, columns=there, use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DecodeError(f"it is no Parquet file: {error}", subject=self._title) from error
        self._left = memoryview((",".join(there) + "\n").encode())

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        if not self._left:
            try:
                batch = next(self._batches, None)
                self._left = memoryview(b"" if batch is None else _text_of(batch))
            except (pa.ArrowException, OSError, ValueError) as error:
                raise DecodeError(f"a batch of rows cannot be read: {error}", subject=self._title) from error
        size = min(len(view), len(self._left))
        view[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


def _text_of(batch: Any) -> bytes:
    """A batch as CSV lines without a header."""
    columns = [pc.cast(column, pa.string()) for column in batch.columns]
    sink = io.BytesIO()
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    pyarrow.csv.write_csv(pa.RecordBatch.from_arrays(columns, batch.schema.names), sink, options)
    return sink.getvalue()


def sources_of(mapping: Mapping) -> dict[str, Source]:
    """Every source that the mapping names, by its role."""
    found: dict[str, Source] = {"ts_event": mapping.time.event}
    if mapping.time.receive is not None:
        found["ts_recv"] = mapping.time.receive
    found |= {"symbol": mapping.instrument.symbol, "venue": mapping.instrument.venue}
    return found | {name: value for name, value in mapping.columns if value is not None}


def type_of(role: str, mapping: Mapping) -> tuple[Type, int]:
    """The type and the unit of a role's column."""
    if role in ("ts_event", "ts_recv"):
        return (Type.ISO if mapping.time.unit == "iso" else Type.EPOCH), _TIME_EXPONENTS[mapping.time.unit]
    optional = mapping.kind == "quote"
    if role in _NUMBERS:
        return (Type.NUMBER_OR_EMPTY if optional else Type.NUMBER), mapping.instrument.price_exponent
    if role in _SIZES:
        return (Type.NUMBER_OR_EMPTY if optional else Type.NUMBER), mapping.instrument.size_exponent
    if role in (*_TEXTS, "symbol", "venue"):
        return Type.TEXT, 0
    return (Type.ID if role == "order_id" and mapping.kind == "trade" else Type.NUMBER), 0


def is_parquet(path: Path) -> bool:
    """By its first bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_PARQUET)) == _PARQUET
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingError("there is no such file", subject=str(path)) from error


@contextmanager
def open_rows(path: Path, mapping: Mapping, texts: Texts) -> Iterator[tuple[TypedRows, dict[str, int]]]:
    """The rows, and the column of each role that has one.

    Raises:
        MissingError: There is no such file.
        DecodeError: A column that the mapping names is not there, or one column has two types.
    """
    columns = {role: source for role, source in sources_of(mapping).items() if not isinstance(source, Constant)}
    parquet = is_parquet(path)
    stream: io.RawIOBase = ParquetText(path, list(columns.values())) if parquet else PackedFile(path)
    with stream:
        title = stream.title if isinstance(stream, PackedFile) else path.name
        rows = TypedRows(stream, title, header=True, word="row" if parquet else "line")
        header = list(rows.header)
        types, exponents = [Type.SKIP] * len(header), [0] * len(header)
        places = {}
        for role, name in columns.items():
            if header.count(name) != 1:
                found = ",".join(header)[:200]
                raise DecodeError(
                    f"the mapping's {role} is in {name!r}, which is not one column",
                    subject=title,
                    hint=f"it has {found}",
                )
            at = places[role] = header.index(name)
            kind, exponent = type_of(role, mapping)
            if types[at] not in (Type.SKIP, kind) or (types[at] == kind and exponents[at] != exponent):
                raise DecodeError(f"{name!r} cannot be {role} and something else too", subject=title)
            types[at], exponents[at] = kind, exponent
        rows.begin(types, exponents, texts)
        yield rows, places
