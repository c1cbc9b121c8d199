"""Pinned days: the decisions and the state that the sample maker comes to, on this CPU and on the plainest one.

A pinned digest changes only with what the code *means*: the maker, the paper exchange, the pricing, the feeds, or what
stands on a tape before a day (ordinals are in the decisions). Whoever changes that on purpose replaces
`decisions/digests.json` and says so in CHANGELOG.md; recorded desks then need a new epoch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.golden_day import digests_of, generated, lobster
from tests.support.other_cpus import OTHERS, words_of

PINNED = Path(__file__).parent / "decisions" / "digests.json"


def pinned(name: str) -> Any:
    return json.loads(PINNED.read_text())[name]


async def test_the_generated_day() -> None:
    assert await digests_of(generated()) == pinned("generated")


async def test_a_real_day_with_a_seeded_chain(market_data: Path) -> None:
    assert await digests_of(lobster(market_data)) == pinned("lobster-aapl")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("environment", OTHERS.values(), ids=OTHERS.keys())
def test_every_cpu_decides_alike(environment: dict[str, str], pytestconfig: pytest.Config) -> None:
    """Machine code for the plainest x86-64 or ARM, and a C library without FMA: the same digests, bit for bit.

    The first run compiles every kernel once more, for that CPU; later ones find them in pytest's cache directory.
    """
    assert pytestconfig.cache is not None
    cache = {"TAPEHOUSE_CACHE": str(pytestconfig.cache.mkdir("kernels-of-a-generic-cpu"))}
    environment = environment | (cache if "NUMBA_CPU_NAME" in environment else {})
    words = words_of("tests.support.golden_day", environment=environment, timeout_s=580)
    assert json.loads(" ".join(words)) == pinned("generated")
