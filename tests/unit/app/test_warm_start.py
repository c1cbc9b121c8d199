"""A second start compiles nothing: not a question of seconds, but of what is loaded and what is made again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tapehouse.app import warm
from tests.support.other_cpus import words_of


def started(*arguments: str, **environment: str) -> dict[str, Any]:
    """What a fresh process compiled and loaded until its first result."""
    words = words_of("tests.support.start", *arguments, environment=environment)
    found: dict[str, Any] = json.loads(" ".join(words))
    return found


def test_a_desk_that_was_started_before_compiles_nothing() -> None:
    started()  # Compiles, where nobody has yet.
    again = started()
    assert again["compiled"] == []
    assert again["missed"] == 0
    assert again["loaded"] >= 5


def test_a_first_start_compiles_and_a_second_one_loads(tmp_path: Path) -> None:
    """The control: compilations are seen where there are some."""
    first = started("encode", TAPEHOUSE_CACHE=str(tmp_path))
    assert "_encode" in first["compiled"]
    assert first["missed"] > 0
    second = started("encode", TAPEHOUSE_CACHE=str(tmp_path))
    assert second["compiled"] == []
    assert second["missed"] == 0
    assert second["loaded"] > 0


def test_warming_leaves_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Python is told not to write any, as in many images: else every start compiles all sources."""
    root = tmp_path / "tapehouse"
    root.mkdir()
    (root / "a.py").write_text("X = 1\n")
    monkeypatch.setattr(warm, "cache_directory", lambda: tmp_path)
    monkeypatch.setattr(warm, "source_roots", lambda: [root])
    monkeypatch.setattr(warm, "HALVES", ())
    warm.warm()
    assert list(root.rglob("a.*.pyc"))


@pytest.mark.parametrize("module", ["tapehouse.core", "tapehouse.cli.main"])
def test_what_every_command_imports_is_light(module: str) -> None:
    """Whole rooms behind these would be paid by every page of help (`test_main` holds its budget)."""
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    modules = set(run.stdout.split())
    assert module in modules
    heavy = {"numba", "llvmlite", "numpy", "polars", "duckdb", "nats", "pyarrow", "pydantic", "aiohttp"}
    assert not heavy & modules
    assert "tapehouse.core.kernel" not in modules
