"""Snapshots in files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tapehouse.app.snapshots import FileSnapshots
from tapehouse.core.errors import MissingError, UsageError


def test_what_is_saved_is_loaded_by_another_store(tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there yet"
    store = FileSnapshots(directory)
    assert store.load("prices") is None
    store.save("prices", b"one")
    store.save("orders", b"")
    store.save("prices", b"two")
    again = FileSnapshots(directory)
    assert again.load("prices") == b"two"
    assert again.load("orders") == b""
    assert sorted(path.name for path in directory.iterdir()) == ["orders.snapshot", "prices.snapshot"]


def test_a_write_that_fails_leaves_the_old_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileSnapshots(tmp_path)
    store.save("prices", b"old")

    def full(descriptor: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(MissingError, match="No space left on device"):
            store.save("prices", b"new")
    assert store.load("prices") == b"old"
    store.save("prices", b"newer")
    assert store.load("prices") == b"newer"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:3])))
    store = FileSnapshots(tmp_path)
    store.save("prices", b"0123456789")
    assert store.load("prices") == b"0123456789"


def test_everything_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        steps.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def noted_replace(source: Any, target: Any) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    FileSnapshots(tmp_path).save("prices", b"bytes")
    assert steps == ["file", "rename", "directory"]


def test_a_name_that_is_no_machines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        FileSnapshots(tmp_path).save("../prices", b"")


def test_a_snapshot_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "prices.snapshot").mkdir()
    with pytest.raises(MissingError, match="cannot be read"):
        FileSnapshots(tmp_path).load("prices")
