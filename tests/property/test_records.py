"""Records of several cells: payloads come back, and where records begin agrees with an obvious walk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import DataError, DecodeError
from tapehouse.market import (
    CELLS_MAX,
    PAYLOAD_BYTES_MAX,
    Cells,
    Kind,
    empty_cells,
    from_words,
    pack_payload,
    record_starts,
    records_of,
    unpack_payload,
    whole_records,
    words,
)
from tapehouse.market.records import payload_cells
from tests.support.cells import batches, market_cells


def walk(cells: Cells) -> list[int] | None:
    """The slow oracle: where records begin, None where they are not whole."""
    starts, at = [], 0
    while at < len(cells):
        length = int(cells["cells"][at])
        if length == 0 or any(cells["cells"][at + 1 : at + length]) or at + length > len(cells):
            return None
        starts.append(at)
        at += length
    return starts


@given(
    payload=st.binary(max_size=PAYLOAD_BYTES_MAX),
    kind=st.sampled_from(list(Kind)),
    sequence=st.integers(0, 2**64 - 1),
    source=st.integers(0, 2**16 - 1),
    flags=st.integers(0, 255),
)
@settings(deadline=None)
def test_a_payload_comes_back(payload: bytes, kind: Kind, sequence: int, source: int, flags: int) -> None:
    record = pack_payload(
        kind, payload, ts_event=-5, ts_recv=7, sequence=sequence, order_id=9, instrument=3, source=source, flags=flags
    )
    assert unpack_payload(record) == payload
    assert len(record) == payload_cells(len(payload)) == record["cells"][0]
    assert not record["cells"][1:].any()
    assert (record["kind"] == kind).all()
    for name, value in {"instrument": 3, "source": source, "flags": flags}.items():
        assert (record[name] == value).all(), "an extension repeats it"
    first = record[0]
    assert (first["ts_event"], first["ts_recv"], first["sequence"], first["order_id"]) == (-5, 7, sequence, 9)
    raw = record.view(np.uint8).reshape(-1, 64)
    assert not raw[1:, :48].reshape(-1)[len(payload) :].any(), "the last extension is filled up with zeros"


@pytest.mark.parametrize(
    ("size", "cells"), [(0, 1), (1, 2), (48, 2), (49, 3), (PAYLOAD_BYTES_MAX - 1, 255), (PAYLOAD_BYTES_MAX, 255)]
)
def test_payloads_at_the_edges(size: int, cells: int) -> None:
    record = pack_payload(Kind.RAW, b"x" * size, ts_event=0, ts_recv=0)
    assert len(record) == cells
    assert unpack_payload(record) == b"x" * size


def test_a_longer_payload_is_refused() -> None:
    assert PAYLOAD_BYTES_MAX == 12_192
    with pytest.raises(DataError, match="command of 12193 bytes is too long"):
        pack_payload(Kind.COMMAND, b"x" * 12_193, ts_event=0, ts_recv=0)


@pytest.mark.parametrize("size", [-1, 97, 2**63 - 1, -(2**63)])
def test_a_record_cannot_hold_more_than_its_cells(size: int) -> None:
    record = pack_payload(Kind.RAW, b"x" * 96, ts_event=0, ts_recv=0)
    record["size"][0] = size
    with pytest.raises(DecodeError, match="cannot hold"):
        unpack_payload(record)


@given(cells=batches(), cut=st.integers(0, 10), length=st.integers(0, 255), at=st.integers(0, 119))
@settings(deadline=None, max_examples=200)
def test_record_starts_agrees_with_a_walk(cells: Cells, cut: int, length: int, at: int) -> None:
    assert record_starts(cells).tolist() == walk(cells)
    damaged = cells[cut:].copy()
    if at < len(damaged):
        damaged["cells"][at] = length
    expected = walk(damaged)
    if expected is None:
        with pytest.raises(DecodeError):
            record_starts(damaged)
    else:
        assert record_starts(damaged).tolist() == expected


def test_no_cells_are_no_records() -> None:
    assert record_starts(empty_cells(0)).tolist() == []
    assert whole_records(empty_cells(0), 10) == 0


@given(cells=batches(400), limit=st.integers(1, 400))
@settings(deadline=None, max_examples=200)
def test_whole_records_takes_as_many_as_fit(cells: Cells, limit: int) -> None:
    ends = [*walk(cells)[1:], len(cells)]
    fitting = [end for end in ends if end <= limit]
    assert whole_records(cells, limit) == (max(fitting) if fitting else ends[0])


@given(cells=batches(600), limit=st.integers(1, 300))
@settings(deadline=None)
def test_splitting_at_whole_records_loses_nothing(cells: Cells, limit: int) -> None:
    at, pieces = 0, []
    while at < len(cells):
        end = at + whole_records(cells[at:], limit)
        pieces.append(cells[at:end])
        assert record_starts(pieces[-1]).tolist()[0] == 0
        assert len(pieces[-1]) <= max(limit, CELLS_MAX)
        at = end
    assert np.concatenate(pieces).tobytes() == cells.tobytes()


def test_cells_that_are_no_whole_records_are_not_split() -> None:
    with pytest.raises(DecodeError, match="inside a record"):
        whole_records(empty_cells(600), 300)
    cut_off = market_cells(0, 20)
    cut_off["cells"][0], cut_off["cells"][1:] = 200, 0
    with pytest.raises(DecodeError, match="cut off after 20"):
        whole_records(cut_off, 10)


@given(cells=batches())
@settings(deadline=None)
def test_words_and_cells_are_one_memory(cells: Cells) -> None:
    view = words(cells)
    assert view.shape == (len(cells), 8)
    assert np.shares_memory(view, cells)
    assert from_words(view).tobytes() == cells.tobytes()
    assert np.shares_memory(from_words(view), cells)


@given(cells=batches(), kind=st.sampled_from(list(Kind)))
@settings(deadline=None)
def test_records_of_finds_every_record_of_a_kind(cells: Cells, kind: Kind) -> None:
    for at in walk(cells)[::2]:
        cells["kind"][at : at + int(cells["cells"][at])] = kind
    expected = [at for at in walk(cells) if cells["kind"][at] == kind]
    found = list(records_of(cells, kind))
    assert [at for at, _ in found] == expected
    assert all(len(record) == cells["cells"][at] for at, record in found)
