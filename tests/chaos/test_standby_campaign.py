"""Take-overs one after the other while a client sends commands: nothing lost, nothing doubled, and what each took.

`TAPEHOUSE_SEED` sets the order of a campaign; it is printed.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
from pathlib import Path

import pytest

from tapehouse.bus import Cluster
from tests.support.clusters import unique
from tests.support.standby_day import Hosted, StandbyDay

KINDS = ("planned", "kill -9", "asleep")
EACH = 5
SEED_DEFAULT = 20_261_121


async def take_over(day: StandbyDay, kind: str, leader: Hosted, standby: Hosted) -> tuple[Hosted, Hosted]:
    """One take-over; the leader and the standby after it."""
    if kind == "planned":
        await day.hand_over()
        await standby.says("leads")
        await leader.says("standby")
        return standby, leader
    leader.send(signal.SIGKILL if kind == "kill -9" else signal.SIGSTOP)
    await day.led_by(standby, kind)
    if kind == "asleep":
        leader.send(signal.SIGCONT)
        assert "fenced off" in await leader.ended(1)
    return standby, await day.standby()


def show(take_overs: list[tuple[str, dict[str, float]]]) -> None:
    """Medians of each kind, ms."""
    parts = ("leaderless_ms", "silent_ms", "closing_ms", "acquire_ms", "fold_ms", "serve_ms")
    print(f"{'':8} {'times':>5} " + " ".join(f"{part.removesuffix('_ms'):>10}" for part in parts))
    for kind in KINDS:
        taken = [table for what, table in take_overs if what == kind]
        medians = [statistics.median(table[part] for table in taken) for part in parts]
        print(f"{kind:8} {len(taken):5} " + " ".join(f"{median:10.1f}" for median in medians))


@pytest.mark.chaos
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("mode", ["gated", "ahead"])
async def test_take_overs_of_every_kind(mode: str, tmp_path: Path, cluster3: Cluster) -> None:
    seed = int(os.environ.get("TAPEHOUSE_SEED") or SEED_DEFAULT)
    each = int(os.environ.get("TAPEHOUSE_TAKE_OVERS") or EACH)
    print(f"TAPEHOUSE_SEED={seed}")
    kinds = list(KINDS) * each
    random.Random(seed).shuffle(kinds)
    day = StandbyDay(tmp_path, cluster3.urls, unique("campaign"), mode=mode, apart=True)
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
    print(f"{mode}: {len(kinds)} take-overs, {commands} commands, {epochs} epochs")
    show(day.take_overs)
    assert commands > len(kinds)
    assert epochs == len(kinds) + 2
