"""Take-overs one after the other while a client sends commands: nothing lost, nothing doubled, and what each took.

`TAPEHOUSE_SEED` sets the order of a campaign and `TAPEHOUSE_TAKE_OVERS` how many there are of a kind; the machine, its
load and a table are printed.
"""

from __future__ import annotations

import os
import platform
import random
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest

from tapehouse.bus import Cluster
from tests.support.clusters import unique
from tests.support.standby_day import LEASE_TTL_S, Hosted, StandbyDay

KINDS = ("planned", "kill -9", "asleep")
ELSEWHERE = "kill -9, other machine"
EACH = 5
SEED_DEFAULT = 20_261_121
PARTS = ("leaderless_ms", "silent_ms", "closing_ms", "acquire_ms", "fold_ms", "serve_ms")
HOW = {"planned": "released", "kill -9": "dead", "asleep": "silent", ELSEWHERE: "silent"}


async def take_over(day: StandbyDay, kind: str, leader: Hosted, standby: Hosted) -> tuple[Hosted, Hosted]:
    """One take-over; the leader and the standby after it."""
    if kind == "planned":
        await day.hand_over()
        await standby.says("leads")
        await leader.says("standby")
        return standby, leader
    leader.send(signal.SIGSTOP if kind == "asleep" else signal.SIGKILL)
    await day.led_by(standby, kind)
    if kind == "asleep":
        leader.send(signal.SIGCONT)
        assert "fenced off" in await leader.ended(1)
    return standby, await day.standby()


def show(what: str, take_overs: list[tuple[str, dict[str, Any]]]) -> None:
    """Median and range of each kind, ms."""
    print(
        f"{what}; {os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}; median (least–most), ms"
    )
    print("| | times | " + " | ".join(part.removesuffix("_ms") for part in PARTS) + " |")
    print("|---" * (len(PARTS) + 2) + "|")
    for kind in dict.fromkeys(kind for kind, _ in take_overs):
        taken = [table for name, table in take_overs if name == kind]
        row = [[float(table[part]) for table in taken] for part in PARTS]
        cells = [f"{statistics.median(ms):,.0f} ({min(ms):,.0f}–{max(ms):,.0f})" for ms in row]
        print(f"| {kind} | {len(taken)} | " + " | ".join(cells) + " |")


async def campaign(day: StandbyDay, kinds: list[str]) -> None:
    """All take-overs, one after the other, and the proof of what they left."""
    try:
        await day.record()
        leader = day.host("--standby")
        await leader.says("leads")
        standby = await day.standby()
        async with day.commands():
            for kind in kinds:
                leader, standby = await take_over(day, kind, leader, standby)
        for hosted in (standby, leader):
            hosted.send(signal.SIGTERM)
            assert await hosted.ended(0) == ""
        commands, epochs = await day.check()
    finally:
        day.close()
    print(f"{day.mode}: {len(kinds)} take-overs, {commands} commands, {epochs} epochs")
    assert commands > len(kinds)
    assert epochs == len(kinds) + 2
    for kind, taken in day.take_overs:
        assert taken["how"] == HOW[kind]


@pytest.mark.chaos
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("mode", ["gated", "ahead"])
async def test_take_overs_of_every_kind(mode: str, tmp_path: Path, cluster3: Cluster) -> None:
    seed = int(os.environ.get("TAPEHOUSE_SEED") or SEED_DEFAULT)
    each = int(os.environ.get("TAPEHOUSE_TAKE_OVERS") or EACH)
    print(f"TAPEHOUSE_SEED={seed}")
    kinds = list(KINDS) * each
    random.Random(seed).shuffle(kinds)
    here = StandbyDay(tmp_path / "here", cluster3.urls, unique("campaign"), mode=mode, apart=True)
    await campaign(here, kinds)
    there = StandbyDay(tmp_path / "there", cluster3.urls, unique("campaign"), mode=mode, apart=True, elsewhere=True)
    await campaign(there, [ELSEWHERE] * each)
    taken = sorted(here.take_overs, key=lambda each: KINDS.index(each[0])) + there.take_overs
    show(f"{mode}, three durable brokers, a lease of {LEASE_TTL_S:g} s", taken)
    for kind, table in taken:
        if HOW[kind] == "silent":
            assert table["silent_ms"] >= LEASE_TTL_S * 1e3
