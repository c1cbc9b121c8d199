"""Pinned days: the decisions and the state that the sample maker comes to, on this CPU and on the plainest one.

A pinned digest changes only with what the code *means*: the maker, the paper exchange, the pricing, the feeds, or what
stands on a tape before a day (ordinals are in the decisions). Whoever changes that on purpose replaces
`decisions/digests.json` and says so in CHANGELOG.md; recorded desks then need a new epoch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.support.golden_day import digests_of, generated, lobster

PINNED = Path(__file__).parent / "decisions" / "digests.json"


def pinned(name: str) -> Any:
    return json.loads(PINNED.read_text())[name]


async def test_the_generated_day() -> None:
    assert await digests_of(generated()) == pinned("generated")


async def test_a_real_day_with_a_seeded_chain(market_data: Path) -> None:
    assert await digests_of(lobster(market_data)) == pinned("lobster-aapl")


@pytest.mark.timeout(600)
def test_a_cpu_without_extensions_decides_alike(pytestconfig: pytest.Config) -> None:
    """Machine code for the plainest x86-64 or ARM, and a C library without FMA: the same digests, bit for bit.

    The first run compiles every kernel once more, for that CPU; later ones find them in pytest's cache directory.
    """
    assert pytestconfig.cache is not None
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {
        "NUMBA_CPU_NAME": "generic",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX2_Usable,-FMA_Usable",
        "TAPEHOUSE_CACHE": str(pytestconfig.cache.mkdir("kernels-of-a-generic-cpu")),
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.golden_day"],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == pinned("generated")
