"""Where the rings of a test lie."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def ring_directory() -> Iterator[Path]:
    """A directory of one test's own in shared memory."""
    directory = Path(tempfile.mkdtemp(prefix="tapehouse-test-", dir="/dev/shm"))
    yield directory
    shutil.rmtree(directory)
