"""Recorded history as a feed: what went in comes out, chained files, torn ends, flipped bytes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError, MissingError, VirtualClock
from tapehouse.engine.frame_files import FrameFiles, SyncPolicy
from tapehouse.feeds import GeneratedDay, check_source, open_feed
from tapehouse.feeds.tape import TapeFeed
from tapehouse.log import FrameHeader, encode_frame, read_header, segment
from tapehouse.market import Cells, Kind, pack_payload, whole_records

LOG_ID = bytes(range(16))
DAY = GeneratedDay(seed=5, cells=1_000)
QUIET = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def recorded(directory: Path, *, finish: bool = True) -> Cells:
    """A generated day as files, definitions first and a desk's record behind them; its market cells."""
    fed = np.concatenate(list(DAY.batches()))
    parts = [each.definition(ts_recv=1) for each in DAY.instruments]
    parts.append(pack_payload(Kind.EVENT, b"{}", ts_event=1, ts_recv=1))
    left = fed
    while len(left):
        size = whole_records(left, 250)
        parts.append(left[:size])
        left = left[size:]
    write_frames(directory, parts, finish=finish)
    return fed


def write_frames(directory: Path, parts: list[Cells], *, finish: bool) -> None:
    files = FrameFiles(directory, name="DAY", log_id=LOG_ID, clock=VirtualClock(), sync=SyncPolicy.NONE)
    for part in parts:
        first = files.next_ordinal or 0
        frame = encode_frame(part, FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=first))
        files.write(frame, read_header(frame))
    if finish:
        files.finish()
    files.close()


def test_what_was_recorded_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MAX", 8_000)
    fed = recorded(tmp_path)
    assert len(list(tmp_path.iterdir())) > 2
    feed = TapeFeed([tmp_path])
    assert (np.concatenate(list(feed.batches())) == fed).all()
    assert feed.instruments == DAY.instruments
    assert feed.left_out == {"definition": len(feed.instruments), "event": 1}
    assert feed.name == "replayed-day"
    for batch_cells in (1, 700):
        batches = list(TapeFeed([tmp_path], batch_cells=batch_cells).batches())
        assert (np.concatenate(batches) == fed).all()
    found = check_source("tape", [tmp_path])
    assert (found.mismatches, found.truths["left_out_event"]) == (0, 1)


def test_a_missing_file_and_a_torn_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MAX", 8_000)
    recorded(tmp_path, finish=False)
    files = sorted(tmp_path.iterdir())
    whole = np.concatenate(list(open_feed("tape", [tmp_path]).batches()))
    assert check_source("tape", [tmp_path]).mismatches == 0
    files[-1].write_bytes(files[-1].read_bytes()[:-5])
    torn = np.concatenate(list(open_feed("tape", [tmp_path]).batches()))
    assert (torn == whole[: len(torn)]).all()
    assert "no whole message" in str(check_source("tape", [tmp_path]).first_mismatch)
    files[-2].unlink()
    before: list[Cells] = []
    with pytest.raises(DecodeError, match="does not go on"):
        before.extend(open_feed("tape", [tmp_path]).batches())
    assert sum(map(len, before)) > 0
    with pytest.raises(MissingError):
        open_feed("tape", [tmp_path / "none"])


def test_an_instrument_that_nobody_defined(tmp_path: Path) -> None:
    other = replace(DAY.instruments[0], id=999).definition(ts_recv=1)
    write_frames(tmp_path, [other, next(iter(DAY.batches()))], finish=False)
    with pytest.raises(DecodeError, match="not defined"):
        list(TapeFeed([tmp_path]).batches())


@QUIET
@given(place=st.integers(0, 10**7), bit=st.integers(0, 7))
def test_control_any_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, place: int, bit: int) -> None:
    directory = tmp_path_factory.mktemp("day", numbered=True)
    recorded(directory)
    path = next(directory.iterdir())
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(bytes(data))
    mismatches = -1
    with suppress(DecodeError):
        mismatches = check_source("tape", [path]).mismatches
    assert mismatches != 0


@QUIET
@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.seg"
    path.write_bytes(data)
    with pytest.raises(DecodeError):
        list(TapeFeed([path]).batches())
