"""Records made of several cells: writing and reading JSON payloads, and finding where records begin."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DataError, DecodeError
from tapehouse.market.cell import CELL_BYTES, CELLS_MAX, OWNED_BYTES, PAYLOAD_BYTES_MAX, Cells, Kind, empty_cells


def payload_cells(payload_bytes: int) -> int:
    """How many cells a payload of that many bytes takes, its first cell included."""
    return 1 + -(-payload_bytes // OWNED_BYTES)


def pack_payload(
    kind: Kind,
    payload: bytes,
    *,
    ts_event: int,
    ts_recv: int,
    sequence: int = 0,
    order_id: int = 0,
    instrument: int = 0,
    source: int = 0,
    flags: int = 0,
) -> Cells:
    """A record that carries bytes (JSON of a command, an event, a definition, an epoch; raw bytes).

    Raises:
        DataError: The payload is longer than the 12,192 bytes that a record can hold.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise DataError(
            f"a {kind.name.lower()} of {len(payload)} bytes is too long",
            hint=f"{PAYLOAD_BYTES_MAX} bytes is the most a record holds",
        )
    record = empty_cells(payload_cells(len(payload)))
    first = record[0]
    first["ts_event"], first["ts_recv"], first["sequence"] = ts_event, ts_recv, sequence
    first["order_id"], first["size"], first["instrument"] = order_id, len(payload), instrument
    first["source"], first["kind"], first["cells"], first["flags"] = source, kind, len(record), flags
    extend(record)
    raw = record.view(np.uint8).reshape(-1, CELL_BYTES)
    owned = np.zeros((len(record) - 1) * OWNED_BYTES, np.uint8)
    owned[: len(payload)] = np.frombuffer(payload, np.uint8)
    raw[1:, :OWNED_BYTES] = owned.reshape(-1, OWNED_BYTES)
    return record


def extend(record: Cells) -> None:
    """Give every extension of one record the first cell's bytes 48 to 63, `cells` = 0."""
    raw = record.view(np.uint8).reshape(-1, CELL_BYTES)
    raw[1:, OWNED_BYTES:] = raw[0, OWNED_BYTES:]
    record["cells"][1:] = 0


def unpack_payload(record: Cells) -> bytes:
    """The bytes that `pack_payload` put into this record.

    Raises:
        DecodeError: The record is shorter than its own size field says.
    """
    size = int(record["size"][0])
    if not 0 <= size <= (len(record) - 1) * OWNED_BYTES:
        raise DecodeError(f"a record of {len(record)} cells cannot hold {size} payload bytes")
    raw = record.view(np.uint8).reshape(-1, CELL_BYTES)
    return raw[1:, :OWNED_BYTES].tobytes()[:size]


def record_starts(cells: Cells) -> npt.NDArray[np.int64]:
    """The index of each record's first cell.

    Raises:
        DecodeError: The cells do not divide into whole records.
    """
    lengths = cells["cells"]
    starts = np.flatnonzero(lengths)
    ends = np.append(starts[1:], len(cells))
    if len(cells) and (len(starts) == 0 or starts[0] != 0):
        raise DecodeError("a batch of cells begins inside a record", position="cell 0")
    wrong = np.flatnonzero(ends - starts != lengths[starts])
    if len(wrong):
        at = int(starts[wrong[0]])
        raise DecodeError(f"a record of {int(lengths[at])} cells is not followed by them", position=f"cell {at}")
    return starts


def whole_records(cells: Cells, limit: int) -> int:
    """The most cells, at most `limit` but at least one record, that end where a record ends.

    Raises:
        DecodeError: The cells begin inside a record, or the first record is not all there.
    """
    if len(cells) <= limit:
        return len(cells)
    near = cells["cells"][max(0, limit - CELLS_MAX) : limit + 1]  # a record that crosses `limit` begins in here
    begins = np.flatnonzero(near)
    end = max(0, limit - CELLS_MAX) + int(begins[-1]) if len(begins) else 0
    if end == 0:
        end = int(cells["cells"][0])
        if end == 0:
            raise DecodeError("a batch of cells begins inside a record", position="cell 0")
        if end > len(cells):
            raise DecodeError(f"a record of {end} cells is cut off after {len(cells)}", position="cell 0")
    return end


def records_of(cells: Cells, kind: Kind) -> Iterator[tuple[int, Cells]]:
    """Every record of one kind with the index of its first cell."""
    hits = np.flatnonzero((cells["kind"] == kind) & (cells["cells"] > 0))
    for at in hits.tolist():
        yield at, cells[at : at + int(cells["cells"][at])]
