"""`ahead` mode as a user runs it: real brokers, and feed, host and sidecar in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from tapehouse.app.bootstrap import open_platform
from tapehouse.bus import Cluster
from tapehouse.engine.journal import JournalView
from tapehouse.market import Cells, Kind
from tapehouse.ring import Ring, list_rings
from tests.support.ahead_day import FEED, AheadDay, contiguous_cells
from tests.support.cli import Shell, assert_gone, until
from tests.support.clusters import unique

ORDERS = "orders"


@pytest.fixture
async def day(tmp_path: Path, ring_directory: Path, cluster1: Cluster) -> AsyncIterator[AheadDay]:
    day = AheadDay(tmp_path, ring_directory, cluster1.urls, unique("ahead"))
    day.begin()
    yield day
    left = day.sidecars()
    day.close()
    assert not left, "a sidecar was left behind"


def test_a_day_recorded_in_both_modes_comes_out_alike(tmp_path: Path, ring_directory: Path, cluster1: Cluster) -> None:
    shell = Shell(tmp_path / "home", TAPEHOUSE_SHM=str(ring_directory))
    tapes = {mode: unique(mode) for mode in ("gated", "ahead")}
    nats = ("--nats", ",".join(cluster1.urls))
    told = {
        mode: shell.json(
            "record", "generated", "--cells", 30_000, "--strategy", "maker", "--mode", mode, "--tape", tape, *nats
        )
        for mode, tape in tapes.items()
    }
    for name in ("decision_digest", "state_digest", "decisions", "cells", "feed_cells"):
        assert told["ahead"][name] == told["gated"][name]
    assert told["ahead"]["decisions"] > 0
    assert list_rings(ring_directory) == []
    assert shell.inside.json("prove", "--tape", tapes["ahead"], *nats)["equal"]
    again = shell.json(
        "record", "generated", "--cells", 30_000, "--strategy", "maker", "--mode", "gated", "--tape", tapes["ahead"],
        *nats,
    )  # fmt: skip
    assert again["skipped_cells"] == told["ahead"]["feed_cells"], "a gated recording goes on where ahead mode ended"


async def test_a_desk_with_a_feed_commands_and_an_outlet(day: AheadDay) -> None:
    """A desk's life: fed by `feeds push`, commanded by `send`, read by `sql`; then gated on the same tape."""
    Ring.create(ORDERS, directory=day.rings)
    day.start_host("--orders", ORDERS)
    shell, nats = day.shell, ("--nats", day.urls)
    inside = partial(asyncio.to_thread, shell.inside.json)
    pushed = shell.json("feeds", "push", "generated", "--ring", FEED, "--cells", 20_000, "--stamp")
    assert (pushed["dropped"], pushed["ring"]) == (0, FEED)
    sent = [await inside("send", "account.kill", '{"account":"manual"}', "--tape", day.tape, *nats) for _ in range(3)]
    assert [outcome["outcome"] for outcome in sent] == ["accepted"] * 3
    with Ring.observe(FEED, directory=day.rings) as ring:
        await day.until(lambda: ring.lag == 0, "the feed is not taken")
    day.stop_host()
    assert list_rings(day.rings) == sorted([FEED, ORDERS]), "what the host made is gone, what it was given is not"
    rows = await inside("sql", "select count(*) n, min(total_ns) least from stages", "--tape", day.tape, *nats)
    assert rows[0]["n"] > 0
    assert rows[0]["least"] > 0
    assert (await inside("prove", "--tape", day.tape, *nats))["equal"]
    events = await _events(day)
    with Ring.consume(ORDERS, directory=day.rings) as ring:
        left = ring.readable().copy()
    assert {int(Kind.ORDER), int(Kind.EVENT)} <= set(events["kind"].tolist())
    assert left.tobytes() == events.tobytes(), "what left at once is what became durable, cell by cell"

    day.start_host(mode="gated")
    outcome = await inside("send", "account.kill", '{"account":"manual"}', "--tape", day.tape, *nats)
    assert outcome["outcome"] == "accepted"
    day.stop_host()
    assert (await inside("prove", "--tape", day.tape, *nats))["equal"]


async def _events(day: AheadDay) -> Cells:
    async with day.platform() as platform:
        return await contiguous_cells(await platform.events(day.tape))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stopped_desk_has_everything_durable_and_a_snapshot(day: AheadDay, number: int) -> None:
    day.start_feed()
    day.start_host()
    async with day.platform() as platform:
        await day.send(await platform.commands(day.tape))
    await day.until(lambda: day.published > 5_000, "the feed does not come")
    day.stop_host(number)
    assert list_rings(day.rings) == [FEED]
    assert [path.name for path in day.shell.home.glob("snapshots/*/engine*")], "no snapshot was written"
    day.start_host()  # The same ring, whose definitions only the first life has heard.
    await day.until(lambda: day.published > 15_000, "the feed does not go on")
    day.end_feed()
    await day.taken()
    day.stop_host(number)
    found = await day.check()
    assert found.commands == 1
    assert found.feed_cells > 15_000


async def test_a_second_host_is_refused_whatever_its_mode(day: AheadDay) -> None:
    first = day.start_host(feed=False)
    for mode in ("ahead", "gated"):
        second = day.start_host(mode=mode, feed=False, wait=False)
        said = day.ended(second, code=1)
        assert f":{first.pid} (stop that host, or follow it" in said
        assert "--standby" in said
        assert len(said.splitlines()) == 1
    day.host = first
    day.stop_host()


def test_what_cannot_be_is_told_in_one_line(tmp_path: Path, ring_directory: Path, cluster1: Cluster) -> None:
    shell = Shell(tmp_path / "home", TAPEHOUSE_SHM=str(ring_directory))
    host = ("host", "--tape", unique("wrong"), "--nats", ",".join(cluster1.urls))
    assert "add --mode ahead" in shell.refused(*host, "--feed", "east", code=2)
    missing = shell.refused(*host, "--mode", "ahead", "--feed", "nothing", code=3)
    assert "nothing" in missing
    assert "tapehouse feeds push" in missing
    assert list_rings(ring_directory) == [], "a start that failed leaves nothing"
    assert "UPPER" in shell.refused(*host, "--mode", "ahead", "--feed", "UPPER", code=2)
    assert "--mode gated" in shell.refused("record", "generated", "--mode", "ahead", "--strategy", "none", code=2)
    Ring.create("east", directory=ring_directory)
    with Ring.consume("east", directory=ring_directory):
        taken = shell.refused(*host, "--mode", "ahead", "--feed", "east", code=1)
    assert f"process {os.getpid()} is its consumer" in taken
    assert list_rings(ring_directory) == ["east"]


def test_down_ends_the_host_first_and_leaves_nothing_behind(tmp_path: Path, ring_directory: Path) -> None:
    shell = Shell(tmp_path / "home", TAPEHOUSE_SHM=str(ring_directory))
    with shell.cluster():
        host = shell.start("host", "--tape", "desk", "--mode", "ahead")
        AheadDay.await_ready(host)
        assert shell.inside.json("status")["hosts"] == {"desk": host.pid}
        down = shell.json("down")
        assert (down["hosts"], down["stopped"]) == (["desk"], ["n0"])
        assert AheadDay.ended(host, 0) == "", "it met its brokers to the end"
        assert list_rings(ring_directory) == []
    assert_gone(shell.home)


def test_down_ends_a_sidecar_that_cannot_finish(tmp_path: Path, ring_directory: Path) -> None:
    """Broker and host are killed: what the journal holds waits for the next host, and is all there then."""
    shell = Shell(tmp_path / "home", TAPEHOUSE_SHM=str(ring_directory))
    with shell.cluster(profile="durable") as told:
        host = shell.start("host", "--tape", "desk", "--mode", "ahead")
        AheadDay.await_ready(host)
        os.kill(told["nodes"][0]["pid"], signal.SIGKILL)
        [journal] = [name for name in list_rings(ring_directory) if name.endswith("-journal")]
        with Ring.observe(journal, directory=ring_directory) as ring:
            words = JournalView(ring)
            until(lambda: ring.head > words.committed, "the clock stands still")
            host.kill()
            host.communicate()
            head, base = ring.head, words.identity().base_ordinal
        shell.run("down")
    assert_gone(shell.home)
    assert journal in list_rings(ring_directory)
    with shell.cluster(profile="durable"):
        host = shell.start("host", "--tape", "desk", "--mode", "gated")
        AheadDay.await_ready(host)
        host.send_signal(signal.SIGTERM)
        assert AheadDay.ended(host, 0) == ""
        assert journal not in list_rings(ring_directory)
        assert shell.inside.json("prove", "--tape", "desk")["equal"]
        assert asyncio.run(_tape_cells(shell)) > base + head


async def _tape_cells(shell: Shell) -> int:
    async with open_platform(home=shell.home) as platform:
        return len(await contiguous_cells(await platform.tape("desk")))


async def test_a_sidecar_that_is_told_to_stop_is_started_again(day: AheadDay) -> None:
    day.start_feed()
    day.start_host()
    await day.until(lambda: day.committed() > 1_000, "nothing reaches the tape")
    os.kill(day.sidecar_pid(), signal.SIGTERM)
    head = day.head()
    await day.until(lambda: day.committed() > head + 1_000, "nobody drains the journal any more")
    day.end_feed()
    await day.taken()
    day.stop_host()
    await day.check()
