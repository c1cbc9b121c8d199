"""Pictures: refused before a long run where they cannot be, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tapehouse.app import plot
from tapehouse.core import MissingError, UsageError
from tapehouse.market import Instrument

LINES = plot.SessionLines(
    instrument=Instrument(id=1, symbol="AAPL", venue="XNAS"),
    trade_times=np.array([10**18, 10**18 + 10**9]),
    trade_prices=np.array([1.0, 2.0]),
    fill_times=np.array([10**18]),
    fill_prices=np.array([1.5]),
    fill_buys=np.array([True]),
    positions=np.array([1]),
    profits=np.array([0.5]),
)


def test_a_picture_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "session.png"
    path.write_bytes(b"old")
    plot.check_picture(path)
    plot.draw(LINES, path, title="a session")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.rstrip().endswith(b"IEND\xaeB`\x82")
    assert list(tmp_path.iterdir()) == [path]


def test_a_session_without_fills_or_trades_is_drawn(tmp_path: Path) -> None:
    nothing = np.zeros(0, np.int64)
    lines = plot.SessionLines(
        instrument=LINES.instrument,
        trade_times=nothing,
        trade_prices=nothing.astype(float),
        fill_times=nothing,
        fill_prices=nothing.astype(float),
        fill_buys=nothing.astype(bool),
        positions=nothing,
        profits=nothing.astype(float),
    )
    plot.draw(lines, tmp_path / "x.png", title="nothing")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "session.png"
    path.write_bytes(b"old")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MissingError, match="the picture cannot be written: No space left on device"):
        plot.draw(LINES, path, title="a session")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_where_no_picture_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="pictures are PNG"):
        plot.check_picture(tmp_path / "x.jpg")
    with pytest.raises(MissingError, match="there is no such directory"):
        plot.check_picture(tmp_path / "nowhere" / "x.png")
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(MissingError, match="it is a directory"):
        plot.check_picture(tmp_path / "dir.png")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(MissingError, match="cannot be written"):
        plot.check_picture(tmp_path / "x.png")
    monkeypatch.undo()
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="plots need matplotlib"):
        plot.check_picture(tmp_path / "x.png")
