"""Ids wider than a cell's 64 bits: numbered, defined before use, found again."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import DataError, DecodeError
from tapehouse.market import KIND_SKIPPED_FROM, Kind, WideIds, empty_cells, read_wide_id, uuid_bytes, wide_id

WIDE = uuid.UUID("d50ec984-77a8-460a-b958-66f114b0de9b").bytes


def test_an_id_is_defined_before_its_first_use_and_only_then() -> None:
    ids = WideIds()
    number, record = ids.number(WIDE, ts_recv=5, instrument=3, source=16)
    assert record is not None
    assert read_wide_id(record) == (number, WIDE)
    assert (record["instrument"] == 3).all()
    assert (record["source"] == 16).all()
    assert record["kind"][0] == Kind.WIDE_ID >= KIND_SKIPPED_FROM, "machines skip it"
    assert len(record) == 2
    assert ids.number(WIDE, ts_recv=6) == (number, None)
    assert ids.find(WIDE) == number
    assert (ids.release(WIDE), ids.release(WIDE), ids.find(WIDE), len(ids)) == (number, None, None, 0)


def test_a_feed_that_starts_again_gives_the_same_numbers() -> None:
    assert WideIds().number(WIDE, ts_recv=0)[0] == WideIds().number(WIDE, ts_recv=9)[0] == 2_755_949_543_368_190_419


def test_two_ids_never_share_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    class Same:
        def __init__(self, data: bytes) -> None: ...

        def digest(self, length: int) -> bytes:
            return b"\xff" * length

    monkeypatch.setattr(wide_id, "blake3", Same)
    ids = WideIds()
    numbers = [ids.number(bytes([at]), ts_recv=0)[0] for at in range(4)]
    assert numbers == [2**64 - 1, 1, 2, 3], "the next free one, never 0"
    ids.release(bytes([1]))
    assert ids.number(b"later", ts_recv=0)[0] == 1


@given(wide=st.binary(max_size=60))
@settings(deadline=None)
def test_any_id_comes_back_or_is_refused(wide: bytes) -> None:
    if 0 < len(wide) <= 48:
        number, record = WideIds().number(wide, ts_recv=0)
        assert record is not None
        assert 0 < number < 2**64
        assert read_wide_id(record) == (number, wide)
    else:
        with pytest.raises(DataError, match="1 to 48 bytes"):
            WideIds().number(wide, ts_recv=0)


def test_living_ids_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_id, "LIVING_MAX", 2)
    ids = WideIds()
    for wide in (b"a", b"b"):
        ids.number(wide, ts_recv=0)
    with pytest.raises(DataError, match="2 ids live at once"):
        ids.number(b"c", ts_recv=0)


def test_other_records_and_texts_are_refused() -> None:
    with pytest.raises(DecodeError, match="kind 0 defines no wide id"):
        read_wide_id(empty_cells(1))
    assert uuid_bytes("D50EC984-77a8-460a-b958-66f114b0de9b") == WIDE
    with pytest.raises(DecodeError, match="'not one' is no UUID"):
        uuid_bytes("not one")
