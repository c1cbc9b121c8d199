"""Either side of a ring killed with SIGKILL at any moment: nothing published is lost, nothing torn is ever seen.

Kill points are drawn in published cells, not in time; `TAPEHOUSE_SEED` sets the seed, and it is printed.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tapehouse.ring import Ring, RingConsumer, RingObserver, RingProducer, remove
from tapehouse.ring.kernels import wait_for_room, wait_readable
from tests.support.ring_traffic import (
    BAD_WORDS,
    NAP_US,
    NAPS,
    SPINS,
    finish,
    judge,
    produce_records,
    start,
)

SHORT, LONG = 3, 20
RING_CELLS = 1024
CELLS_MAX = 255
CELLS_A_LIFE = 400_000  # at most, before a kill
NEVER = 1 << 40
LOOKS_MAX = 100_000


@pytest.fixture
def draw() -> random.Random:
    seed = int(os.environ.get("TAPEHOUSE_SEED") or random.SystemRandom().randrange(2**32))
    print(f"TAPEHOUSE_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def directory(ring_directory: Path) -> Iterator[Path]:
    Ring.create("victim", cells=RING_CELLS, directory=ring_directory)
    yield ring_directory
    remove("victim", directory=ring_directory)


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


def drain(ring: RingConsumer, state: np.ndarray, until: int) -> None:
    """Judge what comes until the head is at least there."""
    for _ in range(LOOKS_MAX):
        judge(ring.address, state, wait_readable(ring.address, SPINS, NAPS, NAP_US), CELLS_MAX)
        if ring.tail >= until:
            return
    raise AssertionError("the producer stands still")


@pytest.mark.parametrize(
    ("way", "kills"),
    [("record", SHORT), *(pytest.param(way, LONG, marks=pytest.mark.chaos) for way in ("record", "bulk"))],
)
def test_a_killed_producer_loses_and_tears_nothing(directory: Path, draw: random.Random, way: str, kills: int) -> None:
    state = np.array([0, 0, 0, -1], np.int64)
    with Ring.consume("victim", directory=directory) as ring:
        for life in range(kills):
            child = start("produce", "victim", directory, way=way, first=int(state[0]), end=NEVER, cells_max=CELLS_MAX)
            drain(ring, state, ring.head + draw.randrange(CELLS_A_LIFE))
            kill(child)
            assert not ring.producer_alive()
            head = ring.head
            drain(ring, state, head)
            assert (ring.head, ring.tail) == (head, head)
            assert state[1] == 0, f"life {life}: record {state[3]} is bad"
            assert len(ring.readable()) == 0


@pytest.mark.parametrize("kills", [SHORT, pytest.param(LONG, marks=pytest.mark.chaos)])
def test_a_killed_consumer_loses_nothing(directory: Path, draw: random.Random, kills: int) -> None:
    rows = np.zeros((CELLS_MAX, 8), np.int64)
    with Ring.observe("victim", directory=directory) as observer:
        with Ring.produce("victim", directory=directory) as ring:
            number = 0
            for _ in range(kills):
                child = start("consume", "victim", directory, cells_max=CELLS_MAX)
                number = feed(ring, observer, rows, number, observer.tail + draw.randrange(1, CELLS_A_LIFE))
                kill(child)
                assert observer.tail <= observer.head
            last = start("consume", "victim", directory, cells_max=CELLS_MAX)
            number = feed(ring, observer, rows, number, observer.head + CELLS_A_LIFE)
        got = finish(last)
        assert (got["bad"], got["number"]) == (0, number)
        assert got["head"] == got["tail"] == observer.head
        assert observer.word(BAD_WORDS) == 0  # Nor did any of those that were killed meet a bad word.


def feed(ring: RingProducer, observer: RingObserver, rows: np.ndarray, number: int, until: int) -> int:
    """Append until the consumer has released so much: the next number."""
    for _ in range(LOOKS_MAX):
        number = int(produce_records(ring.address, rows, number, NEVER, CELLS_MAX))
        if observer.tail >= until:
            return number
        wait_for_room(ring.address, CELLS_MAX, SPINS, NAPS, NAP_US)
    raise AssertionError("the consumer stands still")
