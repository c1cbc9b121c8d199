"""Frames in the files of a directory, and the spill on top of them: what a kill or a disk may leave behind."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from tapehouse.core import ConflictError, GapError, IntegrityError, MissingError, VirtualClock
from tapehouse.engine.frame_files import (
    SYNC_INTERVAL_NS,
    FrameFiles,
    SyncPolicy,
    read_frames,
    segment_paths,
    verify_directory,
)
from tapehouse.engine.journal import JournalIdentity
from tapehouse.engine.spill import Spill, spill_directory
from tapehouse.log import Codec, FrameHeader, encode_frame, read_header, segment
from tapehouse.log.segment_file import SegmentFileWriter
from tests.support.cells import LOG_ID, market_cells

IDENTITY = JournalIdentity(log_id=LOG_ID, writer=7, epoch=2, base_ordinal=100)
CELLS = market_cells(1, 600)


def framed(first: int, n: int, *, writer: int = 7) -> tuple[bytes, FrameHeader]:
    header = FrameHeader(log_id=LOG_ID, writer=writer, epoch=2, first_ordinal=first, codec=Codec.PLAIN)
    frame = encode_frame(CELLS[first - 100 : first - 100 + n], header)
    return frame, read_header(frame)


def opened(directory: Path, **options: object) -> FrameFiles:
    return FrameFiles(directory, name="T", log_id=LOG_ID, clock=VirtualClock(), **options)  # type: ignore[arg-type]


def spill_of(directory: Path, **options: object) -> Spill:
    return Spill(directory, IDENTITY, name="T", clock=VirtualClock(), **options)  # type: ignore[arg-type]


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that hold two frames of ten cells."""
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MAX", 2000)


@pytest.mark.parametrize("policy", list(SyncPolicy))
def test_files_are_gone_on_with_in_every_policy(tmp_path: Path, policy: SyncPolicy, small_segments: None) -> None:
    for life in range(3):
        files = opened(tmp_path, sync=policy)
        for number in range(3):
            first = 100 + (life * 3 + number) * 10
            files.write(*framed(first, 10))
        if life == 1:
            files.finish()
        files.close()
        files.close()
    report = verify_directory(tmp_path)
    assert (report.frames, report.cells, report.first_ordinal, report.next_ordinal) == (9, 90, 100, 190)
    assert report.segments >= 5
    assert report.unfinished
    there = np.concatenate([cells for _, cells in read_frames(tmp_path)])
    assert there.tobytes() == CELLS[:90].tobytes()


def test_a_directory_has_one_writer(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(ConflictError, match="another process writes"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_a_frame_must_follow(tmp_path: Path) -> None:
    files = opened(tmp_path)
    files.write(*framed(100, 10))
    with pytest.raises(GapError, match="from ordinal 120 does not follow one to 110"):
        files.write(*framed(120, 10))
    files.close()


def test_a_torn_end_is_cut_and_a_file_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    files = opened(tmp_path)
    files.write(*framed(100, 10))
    files.write(*framed(110, 10))
    files.close()
    [path] = segment_paths(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    files = opened(tmp_path)
    assert files.next_ordinal == 110
    files.write(*framed(110, 20))
    files.finish()
    files.close()
    (tmp_path / f"{4:020d}.seg").write_bytes(b"THSG")
    files = opened(tmp_path)
    files.write(*framed(130, 5))
    files.close()
    assert verify_directory(tmp_path).next_ordinal == 135


def test_a_missing_or_foreign_file_is_found(tmp_path: Path, small_segments: None) -> None:
    files = opened(tmp_path)
    for number in range(8):
        files.write(*framed(100 + number * 10, 10))
    files.finish()
    files.close()
    paths = segment_paths(tmp_path)
    content = paths[1].read_bytes()
    paths[1].unlink()
    with pytest.raises(GapError, match="is missing"):
        verify_directory(tmp_path)
    paths[1].write_bytes(content)
    verify_directory(tmp_path)
    paths[0].write_bytes(paths[0].read_bytes()[:-3])
    with pytest.raises(IntegrityError, match="does not go on with the digest"):
        verify_directory(tmp_path)
    with pytest.raises(MissingError):
        verify_directory(tmp_path / "none")


def test_the_interval_syncs_when_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()
    files = FrameFiles(tmp_path, name="T", log_id=LOG_ID, clock=clock, sync=SyncPolicy.INTERVAL)
    synced = []
    files.write(*framed(100, 10))
    monkeypatch.setattr(SegmentFileWriter, "sync_flushed", lambda writer: synced.append(writer.path))
    files.sync_if_due()
    clock.advance(SYNC_INTERVAL_NS)
    files.sync_if_due()
    files.sync_if_due()
    files.close()
    assert synced == [tmp_path / f"{1:020d}.seg"], "one, when it was due"


def test_frames_are_written_beside_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()
    files = FrameFiles(tmp_path, name="T", log_id=LOG_ID, clock=clock, sync=SyncPolicy.INTERVAL)
    may_end = threading.Event()
    syncs = []

    def slow(writer: SegmentFileWriter) -> None:
        syncs.append(writer)
        assert may_end.wait(60)

    monkeypatch.setattr(SegmentFileWriter, "sync_flushed", slow)
    for number in range(3):  # The second one begins a sync, which lasts; the third begins none beside it.
        clock.advance(SYNC_INTERVAL_NS)
        files.write(*framed(100 + 10 * number, 10))
    may_end.set()
    files.finish()
    files.close()
    assert len(syncs) == 1
    assert verify_directory(tmp_path).cells == 30


@pytest.mark.parametrize("end", ["write", "sync", "finish", "close"])
def test_control_what_a_sync_aside_met_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    clock = VirtualClock()
    files = FrameFiles(tmp_path, name="T", log_id=LOG_ID, clock=clock, sync=SyncPolicy.INTERVAL)

    def broken(writer: SegmentFileWriter) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(SegmentFileWriter, "sync_flushed", broken)
    clock.advance(SYNC_INTERVAL_NS)
    files.write(*framed(100, 10))
    clock.advance(SYNC_INTERVAL_NS)
    files._aside.submit(int).result()  # One thread: by then the sync has met it.
    arguments = framed(110, 10) if end == "write" else ()
    with pytest.raises(OSError, match="the disk is gone"):
        getattr(files, end)(*arguments)
    files.close()


def test_a_spill_is_a_queue_that_survives_any_number_of_lives(tmp_path: Path, small_segments: None) -> None:
    place = spill_directory(tmp_path, "T", IDENTITY)
    at, end = 100, 100
    for life in range(6):
        spill = spill_of(place)
        assert spill.cells == end - at
        for _ in range(7):
            spill.append(*framed(end, 10))
            end += 10
        for _ in range(4 + life):
            frame, header = spill.first()
            if header.first_ordinal < at:  # Acknowledged in an earlier life, which did not come to remove it.
                spill.pop()
                continue
            assert frame == framed(at, 10)[0]
            spill.pop()
            at += 10
        held = sum(entry.frames is not None for entry in spill._queue)
        assert held <= 2
        if life < 5:
            spill._files.close()  # killed
            first = spill_of(place)
            while first.first_ordinal < at:
                first.pop()
            first._files.close()
            at = spill_of_first(place)
    while not spill.is_empty:
        spill.pop()
    spill.close()
    assert not place.exists()


def spill_of_first(place: Path) -> int:
    spill = spill_of(place)
    first = spill.first_ordinal
    spill._files.close()
    return first


def test_a_spill_of_another_journal_is_refused(tmp_path: Path) -> None:
    spill = spill_of(tmp_path)
    spill.append(*framed(100, 10, writer=8))
    spill._files.close()
    with pytest.raises(IntegrityError, match="another journal"):
        spill_of(tmp_path)


def test_a_spill_has_a_bound(tmp_path: Path) -> None:
    spill = spill_of(tmp_path, bytes_max=10_000)
    frame, header = framed(100, 50)
    assert spill.has_room(len(frame))
    spill.append(frame, header)
    assert not spill.has_room(len(frame))
    spill.pop()
    assert spill.stored_bytes == 0
    spill.close()
