"""Two processes on one ring: every word of every cell is judged on the other side, none is missing or doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapehouse.ring import Policy, Ring, remove
from tests.support.ring_traffic import finish, start

RING_CELLS = 4096  # small, so that it is full and empty all the time, and records lie across its end
SHORT, LONG = 1_500_000, 30_000_000
CONTROL_RECORDS = 20_000_000  # the broken ring must be caught within so many


def run(ring_directory: Path, way: str, records: int, cells_max: int, cells: int = RING_CELLS) -> None:
    Ring.create("traffic", cells=cells, policy=Policy.BLOCK, directory=ring_directory)
    consumer = start("consume", "traffic", ring_directory, cells_max=cells_max)
    producer = start("produce", "traffic", ring_directory, way=way, end=records, cells_max=cells_max)
    sent, got = finish(producer), finish(consumer)
    assert sent["number"] == records
    assert got == {
        "number": records,
        "bad": 0,
        "records": records,
        "first_bad": -1,
        "head": sent["head"],
        "tail": sent["head"],
    }
    remove("traffic", directory=ring_directory)


@pytest.mark.parametrize(
    ("way", "records", "cells_max"), [("cell", SHORT, 1), ("record", 300_000, 255), ("bulk", 300_000, 255)]
)
def test_every_word_arrives(ring_directory: Path, way: str, records: int, cells_max: int) -> None:
    run(ring_directory, way, records, cells_max)


@pytest.mark.chaos
@pytest.mark.parametrize("cells", [RING_CELLS, 1 << 20])
def test_every_word_of_thirty_million_arrives(ring_directory: Path, cells: int) -> None:
    run(ring_directory, "cell", LONG, 1, cells)


def test_control_a_ring_that_publishes_too_early_is_caught(ring_directory: Path) -> None:
    Ring.create("traffic", cells=RING_CELLS, directory=ring_directory)
    consumer = start("consume", "traffic", ring_directory, cells_max=8)
    producer = start("produce", "traffic", ring_directory, way="broken", end=CONTROL_RECORDS, cells_max=8)
    got = finish(consumer)  # It stops at the first bad word.
    producer.kill()
    producer.wait()
    assert got["bad"] > 0
    assert 0 <= got["first_bad"] < CONTROL_RECORDS


def test_a_process_that_ends_gives_its_role_back(ring_directory: Path) -> None:
    Ring.create("traffic", cells=RING_CELLS, directory=ring_directory)
    child = start("consume", "traffic", ring_directory)
    with (
        Ring.observe("traffic", directory=ring_directory) as observer,
        Ring.produce("traffic", directory=ring_directory) as producer,
    ):
        assert observer.consumer_pid == child.pid
        assert producer.consumer_alive()
        child.kill()
        child.wait()
        assert not producer.consumer_alive()
        assert observer.consumer_pid == child.pid  # which tells that it did not go in order
    child.communicate()
