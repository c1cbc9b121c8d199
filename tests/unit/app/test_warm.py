"""Kernels compiled once: for one version, on one machine, in one place of installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapehouse.app import warm
from tapehouse.core import MissingError


def test_each_place_of_installation_is_warmed_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba caches by the path of a source: a second environment that shares the cache is cold."""
    monkeypatch.setattr(warm, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(warm, "source_roots", lambda: [Path("/one/tapehouse")])
    monkeypatch.setattr(warm, "HALVES", ())
    assert not warm.is_warm()
    warm.warm()
    assert warm.is_warm()
    monkeypatch.setattr(warm, "source_roots", lambda: [Path("/two/tapehouse")])
    assert not warm.is_warm()


def test_a_kernel_that_does_not_compile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nyes some words | head -100000 >&2\necho last words >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(warm.sys, "executable", str(program))
    monkeypatch.setattr(warm, "cache_directory", lambda: tmp_path)
    with pytest.raises(MissingError, match=r"a kernel did not compile \(last words\)"):
        warm.warm()
    assert not warm.is_warm()


def test_the_small_files_that_warm_the_readers_are_sound(tmp_path: Path) -> None:
    from tapehouse.feeds import check_lobster

    pair = [tmp_path / f"WARM_2012-06-21_34200000_57600000_{role}_1.csv" for role in ("message", "orderbook")]
    for path, text in zip(pair, warm.LOBSTER_ROWS, strict=True):
        path.write_text(text)
    assert check_lobster(pair).mismatches == 0
