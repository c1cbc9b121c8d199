"""What every test may ask for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

PROJECT = Path(__file__).resolve().parent.parent
# How long an example takes is the machine's matter: the first one may compile a kernel, and others work here too.
settings.register_profile("tapehouse", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tapehouse")


@pytest.fixture(scope="session")
def market_data() -> Path:
    """Real market data with its published truth; kept beside the project, never in it."""
    path = Path(os.environ.get("TAPEHOUSE_DATA") or PROJECT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.fail(f"real market data is not at {path}: set TAPEHOUSE_DATA to its directory")
    return path


if str(PROJECT) not in sys.path:  # So that `tests.support` is found, however pytest was started.
    sys.path.insert(0, str(PROJECT))

from tests.support.clusters import cluster1, cluster3, kv_cluster1, kv_cluster3  # noqa: E402, F401  (for every test)
from tests.support.rings import ring_directory  # noqa: E402, F401
