"""`tapehouse book` and `books build` on a real broker and a real day: snapshots killed half-way, and every answer the
same as from the tape alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapehouse.app.book_keeper import BookKeeper
from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.app.live import Logs, record
from tapehouse.bus import Cluster
from tapehouse.cli.main import run
from tapehouse.core import SystemClock
from tapehouse.core.units import format_time_ns
from tapehouse.feeds import open_feed
from tapehouse.log import MemoryLog
from tapehouse.log.snaps import MemorySnaps
from tapehouse.query.books import Moment, read_book_at
from tests.support.book_tape import all_cells, slow_book
from tests.support.cli import ESH4, Shell
from tests.support.clusters import unique

CELLS_EVERY = 5_000
KILLED_AFTER = 7  # messages
LOOKS_MAX = 10_000


@dataclass(slots=True)
class Day:
    """A real day on a broker, and the same log in memory."""

    platform: Platform
    name: str
    url: str
    copy: MemoryLog


@pytest.fixture
async def day(
    cluster1: Cluster, market_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Day]:
    monkeypatch.setenv("TAPEHOUSE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")
    url, name = cluster1.urls[0], unique("book")
    async with open_platform(url, home=tmp_path) as platform:
        tape, events = await platform.tape(name, create=True), await platform.events(name, create=True)
        feed = open_feed("dbn", [market_data / ESH4])
        await record(feed, Logs(tape=tape, events=events), strategy=None, clock=SystemClock())
        copy = MemoryLog(tape.name, branches=(await tape.extent()).branches)
        async for message in tape.read(1):
            await copy.append(message.payload, expected_last=message.sequence - 1)
        yield Day(platform, name, url, copy)


async def command(day: Day, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    asked = [*map(str, arguments), "--tape", day.name, "--nats", day.url]
    code = await asyncio.to_thread(run, asked)
    said = capsys.readouterr()
    return code, said.out, said.err


async def stored(day: Day) -> list[str]:
    snaps = await day.platform.snaps()
    return [] if snaps is None else await snaps.subjects(f"snap.v1.book.*.{day.name}.>")


async def test_a_real_day(day: Day, capsys: pytest.CaptureFixture[str]) -> None:
    """One day, recorded once: killed and rerun, equal at random moments, and what a user sees."""
    await _killed_and_rerun(day)
    await _equal_everywhere(day)
    await _as_a_user_sees_it(day, capsys)
    await _refused(day, capsys)


async def _killed_and_rerun(day: Day) -> None:
    """SIGKILL between two snapshots; the rerun stores what is missing, and nothing twice."""
    build = ["books", "build", "--tape", day.name, "--nats", day.url, "--cells", CELLS_EVERY]
    shell = Shell(day.platform.home)
    process = await asyncio.to_thread(shell.start, *build)
    there: list[str] = []
    for _ in range(LOOKS_MAX):
        there = await stored(day)
        if len(there) >= KILLED_AFTER or process.poll() is not None:
            break
        await asyncio.sleep(0.005)
    process.kill()
    process.communicate()
    assert len(there) >= KILLED_AFTER
    half = len(await stored(day))
    expected = MemorySnaps()
    whole = await BookKeeper(day.copy, expected, cells_every=CELLS_EVERY).run()
    told = await asyncio.to_thread(shell.json, *build)
    assert told["messages"] == len(expected.stored) - half
    assert await stored(day) == sorted(expected.stored)
    snaps = await day.platform.snaps()
    assert snaps is not None
    for subject in sorted(expected.stored)[::17]:
        assert await snaps.load(subject) == expected.stored[subject]
    assert (await asyncio.to_thread(shell.inside.json, *build))["messages"] == 0
    assert whole.books > 10


async def _equal_everywhere(day: Day) -> None:
    tape, snaps = await day.platform.tape(day.name), await day.platform.snaps()
    cells = await all_cells(day.copy)
    rng = np.random.default_rng(20231225)
    for number, at in enumerate(rng.integers(1_000, len(cells), 12).tolist()):
        moment = Moment(ordinal=at) if number % 2 else Moment(time=int(cells["ts_recv"][: at + 1].max()))
        quick = await read_book_at(tape, snaps, "ESH4", moment=moment)
        whole = await read_book_at(day.copy, None, "ESH4", moment=moment)
        assert quick.book.canonical() == whole.book.canonical()
        assert (quick.next_ordinal, quick.time) == (whole.next_ordinal, whole.time)
        assert quick.cells_folded <= CELLS_EVERY + 256 or quick.mark is None
        if number < 3:
            slow = slow_book(cells, quick.book.instrument, time=moment.time, ordinal=moment.ordinal)
            assert (quick.book.canonical(), quick.next_ordinal, quick.time) == slow


async def _as_a_user_sees_it(day: Day, capsys: pytest.CaptureFixture[str]) -> None:
    cells = await all_cells(day.copy)
    time = int(cells["ts_recv"][40_000])
    by_ns = await command(day, capsys, "book", "ESH4", "--at", time, "--depth", 3, "--orders", "--json")
    by_text = await command(
        day, capsys, "book", "ESH4", "--at", format_time_ns(time), "--depth", 3, "--orders", "--json"
    )
    assert by_ns == by_text
    told: dict[str, Any] = json.loads(by_ns[1])
    assert (told["state"], told["ts_ns"], len(told["bids"]), len(told["asks"])) == ("normal", time, 3, 3)
    assert float(told["bids"][0]["price"]) < float(told["asks"][0]["price"])
    assert told["snapshot"]["ordinal"] <= told["folded_from"] <= told["position"]["next_ordinal"]
    for level in told["bids"] + told["asks"]:
        assert level["orders"] == len(level["queue"])
        assert int(level["size"]) == sum(int(order["size"]) for order in level["queue"]), "every order is known"
    code, shown, _ = await command(day, capsys, "book", "ESH4", "--at", time)
    assert code == 0
    for text in (
        f"ESH4, normal, good, {told['ts']}",
        told["bids"][0]["price"],
        "cells folded from cell",
        "from the snapshot at",
    ):
        assert text in shown


async def _refused(day: Day, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, problem in (
        (("ESH5",), 3, "no such instrument on the tape by then (nearest: ESH4"),
        (("ESH4", "--at", "2001-01-01T00:00:00Z"), 3, "the tape begins later (its first record is of 2023-12-2"),
        (("ESH4", "--at", "yesterday"), 2, "yesterday"),
        (("ESH4", "--at-ordinal", 10**9), 2, "the tape has not come to cell 1000000000"),
        (("ESH4", "--at", 5, "--at-ordinal", 5), 2, "a time or an ordinal, not both"),
        (("ESH4", "--depth", 0), 2, "a depth of 0"),
    ):
        ended, out, err = await command(day, capsys, "book", *arguments)
        assert (ended, out) == (code, "")
        assert problem in err
        assert err.count("\n") == 1
