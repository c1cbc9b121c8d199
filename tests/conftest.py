"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def market_data() -> Path:
    """Real market data with its published truth; kept beside the project, never in it."""
    path = Path(os.environ.get("TAPEHOUSE_DATA") or PROJECT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.fail(f"real market data is not at {path}: set TAPEHOUSE_DATA to its directory")
    return path
