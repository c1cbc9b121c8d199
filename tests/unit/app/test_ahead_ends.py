"""How a desk in `ahead` mode ends: whatever ended it, it comes to its end, and the next one finds all in order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tapehouse.app import pushing as pushing_module
from tapehouse.app.ahead import record_ahead
from tapehouse.app.ahead_desk import ahead_desk
from tapehouse.app.journals import Leftover, finish_journal, forget_journal
from tapehouse.app.live import Logs
from tapehouse.app.pushing import push
from tapehouse.app.sidecars import SidecarTask
from tapehouse.core import ConflictError, DataError
from tapehouse.engine import Engine
from tapehouse.engine import ahead as engine_ahead
from tapehouse.engine.journal import COMMITTED, TAKEN_CELLS, TAKEN_HEAD, TAKEN_SOURCE, create_journal
from tapehouse.engine.sequencer import FeedKey
from tapehouse.feeds import GeneratedDay
from tapehouse.log import FrameWriter, MemorySnapshots
from tapehouse.market import Kind
from tapehouse.ring import Ring, RingFullError, list_rings
from tests.support.ahead import CLOCK, LOG_ID, POLL_NS, desk, options, refolded, sidecar, until
from tests.support.bench import cells_of, idler, inbox, new_logs, quick_maker
from tests.support.cells import market_cells

PATIENCE_S = 60


class LateSidecar(SidecarTask):
    """Drains nothing before it is let."""

    def __init__(self, logs: Logs, directory: Path) -> None:
        super().__init__(logs.tape, clock=CLOCK, spill=directory / "spill", rings=directory)
        self.asked, self.let = asyncio.Event(), asyncio.Event()

    async def start(self, journal: str) -> None:
        self.asked.set()
        self._task = asyncio.create_task(self._late(journal))

    async def _late(self, journal: str) -> None:
        await self.let.wait()
        await self._run(journal)


async def test_a_desk_that_is_cancelled_while_it_opens_ends(tmp_path: Path) -> None:
    logs = new_logs()
    late = LateSidecar(logs, tmp_path)

    async def open_it() -> None:
        async with ahead_desk("day", logs, strategy=idler(), sidecar=late, clock=CLOCK, options=options(tmp_path)):
            raise AssertionError("it opened before its epoch was durable")

    opening = asyncio.create_task(open_it())
    await late.asked.wait()
    opening.cancel()
    late.let.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(opening, PATIENCE_S)
    assert list_rings(tmp_path) == []
    async with desk(logs, tmp_path, idler()):
        pass


async def test_a_feed_that_is_refused_after_the_take_over_ends_the_desk(tmp_path: Path) -> None:
    logs = new_logs()
    day = GeneratedDay(seed=7, cells=2_000)

    class Other:
        """The same feed with other terms."""

        name, cells_estimate = day.name, None
        instruments = tuple(replace(item, multiplier=item.multiplier + 1) for item in day.instruments)
        batches = staticmethod(day.batches)

    for feed, refused in ((day, False), (Other(), True)):
        run = record_ahead(
            "day", feed, logs, strategy=idler(), sidecar=sidecar(logs, tmp_path), clock=CLOCK, options=options(tmp_path)
        )
        if refused:
            with pytest.raises(DataError, match="other terms"):
                await asyncio.wait_for(run, PATIENCE_S)
        else:
            await asyncio.wait_for(run, PATIENCE_S)
    assert list_rings(tmp_path) == []


async def test_a_desk_whose_events_another_takes_over_ends(tmp_path: Path) -> None:
    logs = new_logs()
    ring = Ring.produce("east", cells=1 << 13, directory=tmp_path)
    day = GeneratedDay(seed=7, cells=4_000)

    async def run() -> None:
        async with desk(logs, tmp_path, quick_maker(), feeds=("east",)) as running:
            await (await FrameWriter.open(logs.events, writer=99)).append(market_cells(1, 10))
            for instrument in day.instruments:
                ring.append(instrument.definition(ts_recv=1))
            for cells in day.batches():
                ring.append(cells)
            await until(lambda: False, running.tasks)

    with pytest.raises(ConflictError, match="another writer"):
        await asyncio.wait_for(run(), PATIENCE_S)
    ring.close()


async def test_an_outlet_that_nobody_reads_does_not_hold_the_desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is full and stays so: the desk can be stopped, and its successor publishes what could not leave."""
    monkeypatch.setattr(engine_ahead, "STALL_PATIENCE_NS", 100_000_000)
    logs = new_logs()
    Ring.create("orders", cells=64, directory=tmp_path)
    pushed = GeneratedDay(seed=7, cells=5_000)
    Ring.create("east", cells=1 << 13, directory=tmp_path)
    await push(pushed, "east", clock=CLOCK, directory=tmp_path)
    snapshots = MemorySnapshots()

    async def run() -> None:
        async with ahead_desk(
            "day", logs, strategy=quick_maker(), sidecar=sidecar(logs, tmp_path), clock=CLOCK, snapshots=snapshots,
            options=options(tmp_path, feeds=("east",), orders="orders"),
        ) as running:  # fmt: skip
            running.start()
            with Ring.observe("orders", directory=tmp_path) as orders:
                await until(lambda: orders.head > 32, running.tasks)
            await CLOCK.sleep_until(CLOCK.monotonic_ns() + 200_000_000)

    await asyncio.wait_for(run(), PATIENCE_S)
    assert not snapshots.saved, "a desk that could not send everything has no state to keep"
    async with desk(logs, tmp_path, quick_maker(), feeds=("east",)) as running:
        await until(lambda: running.engine.idle, running.tasks)
    _, decided = await refolded(logs, quick_maker)
    assert np.array_equal(await cells_of(logs.events), decided)
    assert len(await cells_of(logs.tape)) > 5_000


@pytest.mark.parametrize("lost", [False, True])
async def test_no_order_leaves_beyond_the_deadline(lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits in the loop until the deadline is moved; a desk that ends before has sent nothing, and lost nothing."""
    if lost:  # A desk that ends in good order gets the whole patience: a busy machine may keep its loop waiting.
        monkeypatch.setattr(engine_ahead, "STALL_PATIENCE_NS", 100_000_000)
    logs, snapshots = new_logs(await inbox()), MemorySnapshots()
    Ring.create("orders", directory=tmp_path)
    Ring.create("east", cells=1 << 13, directory=tmp_path)
    await push(GeneratedDay(seed=7, cells=5_000), "east", clock=CLOCK, directory=tmp_path)

    async def run() -> None:
        async with ahead_desk(
            "day", logs, strategy=quick_maker(), sidecar=sidecar(logs, tmp_path), clock=CLOCK, snapshots=snapshots,
            options=options(tmp_path, feeds=("east",), orders="orders"),
        ) as running:  # fmt: skip
            metrics = running.sequencer.metrics
            await running.engine.limit(CLOCK.monotonic_ns() - 1)
            running.start()
            assert logs.commands is not None
            async for message in logs.commands.read(1):
                await running.admit(message)
            with Ring.observe("orders", directory=tmp_path) as orders:
                await until(lambda: metrics.get("orders_withheld_turns_total") > 0, running.tasks)
                assert orders.head == 0
                if lost:
                    return
                running.engine.allow_until(CLOCK.monotonic_ns() + 3600 * 10**9)
                await until(lambda: running.engine.idle, running.tasks)

    await asyncio.wait_for(run(), PATIENCE_S)
    with Ring.consume("orders", directory=tmp_path) as sent:
        held = sent.readable().tobytes()
    assert bool(snapshots.saved) != lost
    assert held == (b"" if lost else (await cells_of(logs.events)).tobytes())
    async with desk(logs, tmp_path, quick_maker(), feeds=("east",)) as running:
        await until(lambda: running.engine.idle, running.tasks)
    _, decided = await refolded(logs, quick_maker)
    assert np.array_equal(await cells_of(logs.events), decided)
    assert len(decided) > 0


async def test_what_a_feed_declared_holds_for_the_next_desk(tmp_path: Path) -> None:
    """The feed says it once; options need their underlying; another ring of the same name has to say it anew."""
    logs = new_logs()
    day = GeneratedDay(seed=7, cells=6_000)
    assert any(item.underlying for item in day.instruments)
    cells = np.concatenate(list(day.batches()))
    starts = np.flatnonzero(cells["cells"])
    cuts = [0, *starts[[len(starts) // 3, 2 * len(starts) // 3]].tolist(), len(cells)]
    ring = Ring.produce("east", cells=1 << 13, directory=tmp_path)
    for item in sorted(day.instruments, key=lambda found: found.underlying != 0):
        ring.append(item.definition(ts_recv=1))
    for start, end in pairwise(cuts):
        ring.append(cells[start:end])
        async with desk(logs, tmp_path, quick_maker(), feeds=("east",)) as running:
            await until(lambda: running.engine.idle, running.tasks)
    ring.append(day.instruments[-1].definition(ts_recv=1))  # An option again: its underlying was said long ago.
    async with desk(logs, tmp_path, quick_maker(), feeds=("east",)) as running:
        await until(lambda: running.engine.idle, running.tasks)
    ring.close()
    tape = await cells_of(logs.tape)
    assert np.array_equal(tape[tape["source"] == 16]["sequence"], cells["sequence"])
    assert (tape["kind"] == Kind.RAW).sum() == len(day.instruments), "each is remembered once"
    assert not (tape["kind"] == Kind.GAP).any()

    Ring.create("east", cells=1 << 13, directory=tmp_path, reclaim=True)

    async def undeclared() -> None:
        with Ring.produce("east", directory=tmp_path) as fresh:
            async with desk(logs, tmp_path, quick_maker(), feeds=("east",)) as running:
                fresh.append(cells[: cuts[1]])
                await until(lambda: False, running.tasks)

    with pytest.raises(DataError, match="did not declare instrument"):
        await undeclared()


async def test_a_lost_feed_is_told_once(tmp_path: Path) -> None:
    logs = new_logs()
    Ring.create("east", cells=1 << 12, directory=tmp_path)
    async with desk(logs, tmp_path, idler(), feeds=("east",)):
        pass
    for _ in range(3):
        async with desk(logs, tmp_path, idler()):
            pass
    tape = await cells_of(logs.tape)
    assert tape["source"][tape["kind"] == Kind.GAP].tolist() == [16]


async def test_a_desk_starts_from_the_snapshot_that_the_last_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs, snapshots = new_logs(), MemorySnapshots()
    feed = GeneratedDay(seed=7, cells=5_000)
    folded: list[int] = []
    apply = Engine.apply
    monkeypatch.setattr(Engine, "apply", lambda *given: (folded.append(len(given[2])), apply(*given))[1])
    for _ in range(3):
        folded.clear()
        await record_ahead(
            "day", feed, logs, strategy=quick_maker(), sidecar=sidecar(logs, tmp_path), clock=CLOCK,
            snapshots=snapshots, options=options(tmp_path),
        )  # fmt: skip
        assert sum(folded) == 0, "nothing was folded twice"
    await record_ahead(
        "day", feed, logs, strategy=quick_maker(), sidecar=sidecar(logs, tmp_path), clock=CLOCK,
        options=options(tmp_path),
    )  # fmt: skip
    assert sum(folded) > 5_000, "without the snapshot everything is"


def _leftover(directory: Path, *, told: int) -> None:
    """A journal of a dead host, all on its tape, and a feed whose ring has been told of `told` cells less."""
    with Ring.produce("east", cells=256, directory=directory) as feed:
        feed.append(market_cells(1, 20))
    with create_journal(
        "j", log_id=LOG_ID, writer=1, epoch=1, base_ordinal=0, commands_through=0, cells=256, directory=directory
    ) as journal:
        for word, value in ((TAKEN_SOURCE, 16), (TAKEN_CELLS, told), (TAKEN_HEAD, told)):
            journal.set_word(word, value)
        journal.append(market_cells(1, told))
        journal.set_word(COMMITTED, journal.head)


async def test_a_finished_journal_is_forgotten_after_its_feed_was_told(tmp_path: Path) -> None:
    """So that a host that is killed between the two leaves it to the next one."""
    _leftover(tmp_path, told=12)
    with Ring.observe("east", directory=tmp_path) as feed:
        key = FeedKey(source=16, ring=feed.identity.creation.hex())
        never = sidecar(new_logs(), tmp_path)
        for _ in range(2):
            leftover = await finish_journal("j", never, CLOCK, directory=tmp_path)
            assert leftover == Leftover(source=16, cells=12)
            with Ring.consume("j", directory=tmp_path), pytest.raises(ConflictError):
                forget_journal("j", leftover, {"east": key}, directory=tmp_path)
            assert feed.tail == 12, "told once, and a second time nothing more"
        forget_journal("j", leftover, {"east": key}, directory=tmp_path)
    assert list_rings(tmp_path) == ["east"]
    assert await finish_journal("j", never, CLOCK, directory=tmp_path) is None


async def test_another_ring_of_the_feeds_name_is_not_told(tmp_path: Path) -> None:
    _leftover(tmp_path, told=12)
    leftover = Leftover(source=16, cells=12)
    forget_journal("j", leftover, {"east": FeedKey(source=16, ring="00" * 16)}, directory=tmp_path)
    with Ring.observe("east", directory=tmp_path) as feed:
        assert feed.tail == 0


async def test_a_feed_waits_for_the_desk_that_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = GeneratedDay(seed=7, cells=9_000, options=False)
    Ring.create("east", cells=1 << 10, directory=tmp_path)
    pushing = asyncio.create_task(push(day, "east", clock=CLOCK, directory=tmp_path))
    taken = 0
    for _ in range(3):  # Each desk takes what is there, and goes.
        with Ring.consume("east", directory=tmp_path) as desk_:
            await until(lambda ring=desk_: ring.lag > 512 or pushing.done())  # type: ignore[misc]
            taken += desk_.lag
            desk_.release(len(desk_.readable()))
        await CLOCK.sleep_until(CLOCK.monotonic_ns() + POLL_NS)
    monkeypatch.setattr(pushing_module, "DESK_PATIENCE_NS", 1)
    with pytest.raises(RingFullError, match=r"full"):
        await asyncio.wait_for(pushing, PATIENCE_S)
    assert taken >= 3 * 512
