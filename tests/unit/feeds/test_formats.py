"""Feeds by the name of their format, and that importing the room stays cheap."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tapehouse import feeds
from tapehouse.core import MissingError, UsageError
from tapehouse.feeds import FORMATS, open_feed


def test_formats_are_listed() -> None:
    assert set(FORMATS) >= {"lobster", "dbn", "generated"}
    for name, item in FORMATS.items():
        module = import_module(f"tapehouse.feeds.{item.module}")
        assert callable(module.open_files)
        assert callable(module.check_files)
        assert item.name == name
        assert item.description
        assert item.checked_by


def test_opening_by_name(tmp_path: Path) -> None:
    assert isinstance(open_feed("generated"), feeds.GeneratedDay)
    with pytest.raises(UsageError, match="no format 'none'"):
        open_feed("none", [tmp_path])
    with pytest.raises(UsageError, match="reads no files"):
        open_feed("generated", [tmp_path])
    for name in ("dbn", "lobster"):
        with pytest.raises(MissingError):
            open_feed(name, [tmp_path / "none"])


def test_everything_promised_is_there() -> None:
    assert all(hasattr(feeds, name) for name in feeds.__all__)
    with pytest.raises(AttributeError, match="no attribute"):
        feeds.nothing


def test_the_room_is_imported_without_its_formats() -> None:
    code = "import sys, tapehouse.feeds; print(sorted({'numba', 'databento_dbn', 'zstandard'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
