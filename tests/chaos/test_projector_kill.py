"""A projector killed at any moment comes back from its files to the state that a pure fold of the logs gives.

`TAPEHOUSE_SEED` sets the seed of the random campaign; it is printed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tapehouse.app.projector import Projector
from tests.conftest import PROJECT
from tests.support.desk_day import shared_day
from tests.support.projector_victim import NEVER, RECORDS

Live = Callable[[Path, int, str], dict[str, Any]]
SIGKILL = 9
CAMPAIGNS = {"short": 10, "long": 100}
LIVES_MAX = 6  # of one campaign; then it may live


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    """Runs one life of a projector in a child of a process that is kept warm."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.projector_victim"],
        cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def run(directory: Path, last: int, control: str = "") -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"directory": str(directory), "last": last, "control": control}) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        assert control or "error" not in answer, answer
        return answer

    yield run
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    assert process.stdout is not None
    process.stdout.close()


@pytest.fixture(scope="module")
def refolded() -> dict[str, str]:
    """The digests of a pure fold of the whole logs, without any snapshot."""
    day = shared_day(records=RECORDS)

    async def fold() -> dict[str, str]:
        projector = Projector(day.tape, day.events, None)
        await projector.open()
        await projector.run()
        return projector.digests()

    return asyncio.run(fold())


def kill_then_live(live: Live, directory: Path, points: list[int], control: str = "") -> dict[str, Any]:
    """Lives that end at these steps, then one that may end by itself."""
    for point in points:
        answer = live(directory, point, control)
        if "killed" not in answer:
            return answer
        assert answer == {"killed": SIGKILL}
    return live(directory, NEVER, control)


def test_a_life_without_a_kill_and_its_successor(live: Live, refolded: dict[str, str], tmp_path: Path) -> None:
    first = live(tmp_path, NEVER, "")
    assert first["digests"] == refolded
    assert first["begun"] == {"tape": 0, "events": 0}
    second = live(tmp_path, NEVER, "")
    assert second["digests"] == refolded
    assert second["begun"]["tape"] > 0  # So the snapshots were used.
    assert second["begun"]["events"] > 0
    assert second["steps"] < first["steps"]


@pytest.mark.parametrize("campaign_length", ["short", pytest.param("long", marks=pytest.mark.chaos)])
def test_killed_at_random_points_again_and_again(
    live: Live, refolded: dict[str, str], tmp_path: Path, campaign_length: str
) -> None:
    seed = int(os.environ.get("TAPEHOUSE_SEED") or 20_261_121)
    print(f"TAPEHOUSE_SEED={seed}")
    rng = random.Random(seed)
    steps = live(tmp_path / "whole", NEVER, "")["steps"]
    resumed = 0
    campaigns = CAMPAIGNS[campaign_length]
    for campaign in range(campaigns):
        points = [rng.randint(1, steps) for _ in range(rng.randint(1, LIVES_MAX))]
        answer = kill_then_live(live, tmp_path / str(campaign), points)
        assert answer["digests"] == refolded, f"campaign {campaign}: killed at {points}"
        assert not answer["ignored"], "a file was torn though it is replaced whole"
        resumed += answer["begun"]["tape"] > 0
    assert resumed > campaigns // 2  # or the snapshots were never tried


@pytest.mark.chaos
def test_killed_once_at_every_point(live: Live, refolded: dict[str, str], tmp_path: Path) -> None:
    steps = live(tmp_path / "whole", NEVER, "")["steps"]
    for point in range(1, steps + 1):
        answer = kill_then_live(live, tmp_path / str(point), [point])
        assert answer["digests"] == refolded, f"killed at step {point}"


def wrong_points(live: Live, refolded: dict[str, str], directory: Path, control: str) -> list[int]:
    """Kill points after which the state is not the pure fold's, or the fold stops at a contradiction."""
    steps = live(directory / "whole", NEVER, control)["steps"]
    points = range(1, steps + 1, 3)
    answers = [kill_then_live(live, directory / str(point), [point], control) for point in points]
    return [point for point, answer in zip(points, answers, strict=True) if answer.get("digests") != refolded]


def test_a_host_that_snapshots_before_it_folds_is_caught(live: Live, refolded: dict[str, str], tmp_path: Path) -> None:
    assert wrong_points(live, refolded, tmp_path, "early")


def test_a_torn_snapshot_is_folded_anew_and_one_that_is_believed_is_caught(
    live: Live, refolded: dict[str, str], tmp_path: Path
) -> None:
    assert wrong_points(live, refolded, tmp_path / "checked", "torn") == []
    assert wrong_points(live, refolded, tmp_path / "believed", "torn and believed")
