"""Kernels are cached in the directory of their sources even where Numba was imported first.

Otherwise Numba caches beside the sources and misses edits of callees: stale machine code, found by a pinned digest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("first", ["import numba", ""])
def test_the_cache_is_ours_whoever_imported_numba_first(first: str, tmp_path: Path) -> None:
    code = f"{first}\nfrom tapehouse.core import detmath\nprint(detmath.sqrt(4.0), detmath.sqrt.stats.cache_path)"
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    environment["TAPEHOUSE_CACHE"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    root, place = done.stdout.split()
    assert root == "2.0"
    assert Path(place).is_relative_to(tmp_path / "kernels")
    assert list(tmp_path.glob("kernels/*/**/*.nbi"))
