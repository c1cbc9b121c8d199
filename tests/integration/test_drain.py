"""`tapehouse drain` against real servers: outages, kills, a stale second writer, and rings logged into files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapehouse.app.returning_log import ReturningLog
from tapehouse.app.sidecars import SidecarProcess
from tapehouse.bus import Cluster, tape_spec
from tapehouse.core import ConflictError
from tapehouse.engine.frame_files import read_frames, segment_paths
from tapehouse.log import FrameWriter
from tapehouse.log.segment import decode_segment
from tapehouse.ring import Policy, Ring
from tests.conftest import PROJECT
from tests.support.cells import market_cells
from tests.support.cli import until
from tests.support.clusters import free_config, unique
from tests.support.journal_day import RING, JournalDay
from tests.support.journal_producer import PERIOD, generate

TIMEOUT_S = 90


@pytest.fixture
async def day(tmp_path: Path, cluster1: Cluster) -> AsyncIterator[JournalDay]:
    day = JournalDay(tmp_path, cluster1.urls, unique("drain"))
    await day.begin()
    yield day
    day.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A server that a test may harm."""
    with Cluster(free_config(tmp_path / "cluster")) as cluster:
        yield cluster


def drain(*arguments: object, code: int = 0) -> tuple[Any, str]:
    """`tapehouse drain` to its end: its JSON, and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "tapehouse.cli", "drain", *map(str, arguments), "--json"],
        cwd=PROJECT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return (json.loads(done.stdout) if done.stdout else None), done.stderr


async def test_a_journal_goes_to_its_tape_and_a_copy_to_files(day: JournalDay) -> None:
    copy = day.place / "copy"
    day.start_producer()
    day.start_sidecar("--segment", copy)
    await day.until("committed", 20_000)
    day.end_producer()
    told = day.end_sidecar()
    cells = await day.check()
    assert (told["ended"], told["cells"], told["left_cells"], told["said"]) == ("closed", cells, 0, "")
    found, _ = drain("--read", copy)
    assert (found["cells"], found["next_ordinal"], found["unfinished"]) == (cells, cells, False)
    copied = np.concatenate([cells for _, cells in read_frames(copy)])
    assert copied.tobytes() == generate(0, cells).tobytes()
    status, _ = drain("--status", RING, "--rings", day.rings)
    assert (status["purpose"], status["committed"], status["lag_cells"]) == ("journal", cells, 0)
    assert (status["producer"], status["consumer"], status["closed"]) == (0, 0, True)
    assert status["lag_cells_max"] > 0


async def test_a_sidecar_that_waits_takes_the_journal_that_it_is_told_and_ends_with_who_was_to_tell_it(
    day: JournalDay,
) -> None:
    """As a standby has it: one process for each end of the waiting."""
    drains = SidecarProcess(day.tape, nats=day.urls, home=day.place / "home", rings=day.rings)
    unused = SidecarProcess(day.tape, nats=day.urls, home=day.place / "home", rings=day.rings)
    await asyncio.gather(drains.prepare(), unused.prepare())
    waited = drains._waiting
    assert waited is not None
    day.start_producer()
    await drains.start(RING)
    assert drains._process is waited, "another process was started"
    await day.until("committed", 5_000)
    await unused.dismiss()
    day.end_producer()
    await drains.stop()
    assert waited.returncode == 0
    assert await day.check() > 5_000


async def test_the_sidecar_is_killed_and_its_successor_goes_on(day: JournalDay) -> None:
    day.start_producer()
    day.start_sidecar()
    for lives in range(1, 3):
        await day.until("committed", lives * 5_000)
        day.kill(day.sidecar)
        day.start_sidecar()
    day.end_producer()
    assert day.end_sidecar()["ended"] == "closed"
    assert await day.check() > 10_000


async def test_the_producer_is_killed_and_everything_that_it_published_is_on_the_tape(day: JournalDay) -> None:
    day.start_producer()
    day.start_sidecar()
    await day.until("committed", 5_000)
    day.kill(day.producer)
    told = day.end_sidecar()
    assert told["ended"] == "producer died"
    assert "the producer died; everything that it published is durable" in told["said"]
    assert await day.check() > 5_000


async def test_ctrl_c_leaves_the_rest_where_it_is(day: JournalDay) -> None:
    day.start_producer()
    day.start_sidecar()
    await day.until("committed", 5_000)
    assert day.sidecar is not None
    day.sidecar.send_signal(signal.SIGINT)
    told = day.end_sidecar()
    assert told["ended"] == "stopped"
    assert "cells are left" in told["said"]
    await day.until("head", day.status()["tail"] + 1_000)
    day.end_producer()
    told, _ = drain(RING, "--tape", day.tape, "--nats", day.urls, "--home", day.place / "home", "--rings", day.rings)
    assert told["ended"] == "closed"
    await day.check()


async def test_an_outage_goes_to_the_spill_and_then_to_the_tape(tmp_path: Path, cluster: Cluster) -> None:
    """The broker is stopped; a sidecar is killed in the outage and another one starts in it: the spill is finished."""
    day = JournalDay(tmp_path, cluster.urls, "outage")
    try:
        await day.begin()
        day.start_producer()
        day.start_sidecar("--stay")
        await day.until("committed", 2_000)
        await asyncio.to_thread(cluster.kill_node, 0, signal.SIGKILL)
        await day.until("spilled", 20_000)
        assert day.status()["committed"] < day.status()["tail"], "ring space was given back for what is in the spill"
        day.kill(day.sidecar)
        day.start_sidecar("--stay")
        await day.until("spilled", day.status()["spilled"] + 20_000)
        await asyncio.to_thread(cluster.restart_node, 0)
        await day.until("committed", day.status()["head"])
        day.end_producer()
        told = day.end_sidecar()
        assert (told["ended"], told["left_cells"], told["spilled_cells"]) == ("closed", 0, 0)
        await day.check()
        assert not list((tmp_path / "home" / "spill").iterdir())
    finally:
        day.close()


async def test_a_stale_journal_is_fenced_off_and_says_what_is_left(day: JournalDay) -> None:
    day.start_producer()
    day.start_sidecar("--stay")
    await day.until("committed", 5_000)
    async with day.platform() as platform:
        tape = await platform.tape(day.tape)
        while True:  # The successor needs a moment in which the journal is not faster.
            successor = await FrameWriter.open(tape, writer=5)
            try:
                await successor.append(market_cells(1, 10))
                break
            except ConflictError:
                continue
    said = day.end_sidecar(code=1)["said"]
    assert "another writer has appended sequence" in said
    assert "are not on the tape" in said
    assert day.status()["fenced"] == 1
    left = day.status()["head"] - day.status()["committed"]
    assert left > 0
    day.kill(day.producer)
    # What is in the ring can be kept.
    kept, _ = drain(RING, "--to", day.place / "kept", "--rings", day.rings)
    assert kept["cells"] > 0
    tail = day.status()["tail"]
    found = np.concatenate([cells for _, cells in read_frames(day.place / "kept")])
    assert found.tobytes() == generate(tail - len(found), len(found)).tobytes()


async def test_a_connection_that_was_given_up_is_made_anew(day: JournalDay) -> None:
    log = ReturningLog(tape_spec(day.tape), nats=day.urls, directory=day.place)
    try:
        assert await log.append(b"one", expected_last=0) == 1
        assert log._bus is not None
        await log._bus.close()
        assert (await log.extent()).last == 1
        assert log._log is not None
        assert log._log.seen_last == 1
        assert await log.append(b"two", expected_last=1) == 2
        await log._bus.close()
        last = await log.last()
        assert last is not None
        assert last.payload == b"two"
    finally:
        await log.close()


async def test_what_cannot_be_is_told_in_one_line(day: JournalDay) -> None:
    rings = ("--rings", day.rings)
    assert "there is no such ring" in drain("nothing", "--to", day.place / "d", *rings, code=3)[1]
    assert "is a journal" in drain(RING, "--to", day.place / "d", *rings, code=2)[1]
    assert "nothing says where to" in drain(RING, *rings, code=2)[1]
    assert "which ring?" in drain(*rings, code=2)[1]
    assert "no segment files" in drain("--read", day.place / "none", code=3)[1]
    absent = drain(RING, "--tape", "absent", "--nats", day.urls, "--home", day.place / "home", *rings, code=3)[1]
    assert "TAPE_absent" in absent
    Ring.create("plain", cells=256, directory=day.rings)
    assert "no journal" in drain("plain", "--tape", day.tape, "--nats", day.urls, *rings, code=2)[1]
    with Ring.consume(RING, directory=day.rings):
        busy = drain(RING, "--tape", day.tape, "--nats", day.urls, "--home", day.place / "home", *rings, code=1)[1]
    assert "is its consumer" in busy


@pytest.mark.parametrize(("codec", "sync"), [("plain", "none"), ("columns", "interval"), ("zstd", "frame")])
def test_any_ring_is_logged_into_files(tmp_path: Path, codec: str, sync: str) -> None:
    """A ring drained in two lives, and a second ring behind it: one directory, contiguous ordinals, three epochs."""
    rings, to = tmp_path / "rings", tmp_path / "log"
    options = ("--to", to, "--codec", codec, "--sync", sync, "--rings", rings)
    cells = generate(0, 20 * PERIOD)
    with Ring.produce("feed", cells=4096, directory=rings) as producer:
        producer.append(cells)
        child = subprocess.Popen(
            [sys.executable, "-m", "tapehouse.cli", "drain", "feed", *map(str, options)],
            cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with Ring.observe("feed", directory=rings) as seen:
            until(lambda: seen.tail == len(cells), "it is not drained", timeout_s=TIMEOUT_S)
        os.kill(child.pid, signal.SIGKILL)
        child.communicate(timeout=TIMEOUT_S)
        producer.append(generate(len(cells), 10 * PERIOD))
    told, _ = drain("feed", *options)
    assert (told["ended"], told["cells"]) == ("closed", 10 * PERIOD)
    with Ring.produce("other", cells=256, policy=Policy.DROP, directory=rings) as other:
        for _ in range(30):
            other.append(market_cells(1, 10))
        dropped = other.dropped
    assert dropped > 0
    told, _ = drain("other", *options)
    assert told["dropped_records"] == dropped
    found, _ = drain("--read", to)
    assert found["cells"] == 30 * PERIOD + told["cells"]
    assert (found["epochs"], found["unfinished"], found["cut_bytes"]) == (2, False, 0)
    logged = np.concatenate([frame for _, frame in read_frames(to)])
    assert logged[: 30 * PERIOD].tobytes() == generate(0, 30 * PERIOD).tobytes()
    segments = [decode_segment(path.read_bytes()) for path in segment_paths(to)]
    assert sum(len(segment.messages) for segment in segments) == found["frames"]


def test_a_damaged_directory_is_found(tmp_path: Path) -> None:
    rings, to = tmp_path / "rings", tmp_path / "log"
    with Ring.produce("feed", cells=1024, directory=rings) as producer:
        producer.append(generate(0, 10 * PERIOD))
    drain("feed", "--to", to, "--rings", rings)
    [path] = segment_paths(to)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    told, said = drain("--read", to, code=1)  # The only frame: its damage looks like a torn end.
    assert told["cells"] == 0
    assert "the end is torn" in said
