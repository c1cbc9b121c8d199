"""A follower takes over at any point of the leader's work: EVENTS is always that of an undisturbed run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import numpy as np
import pytest

from tapehouse.app.following import Follower
from tapehouse.app.logs import Logs
from tapehouse.core import VirtualClock
from tapehouse.core.errors import ConflictError, IntegrityError
from tapehouse.core.metrics import Metrics
from tapehouse.engine import Engine, GatedEngine, Strategy, read_tape
from tapehouse.engine.gated import TAKE_OVER_ATTEMPTS_MAX
from tapehouse.log import FrameWriter, MemoryLog, MemorySnapshots
from tapehouse.log.host import Snapshot
from tapehouse.market import Cells, Kind, records_of
from tapehouse.strategies import maker
from tests.support.bench import LOG_ID, NOW, cells_of, fold, quick_maker, quick_watcher, shared_day
from tests.support.standby_day import check_decided

FRAME_CELLS = 40
TURNS_MAX = 400


class DeadError(Exception):
    """The leader's process is gone."""


class Events(MemoryLog):
    """An EVENTS whose writer can be ended at an append, and before whose append something else may happen."""

    def __init__(self) -> None:
        super().__init__("EVENTS_day", log_id=LOG_ID[::-1])
        self.ends_at = -1
        self.stored_at_end = False
        self.before: Callable[[], object] | None = None
        self.appends = 0

    async def append(self, payload: bytes, **more: object) -> int:  # type: ignore[override]
        before, self.before = self.before, None
        if before is not None:
            await before()  # type: ignore[misc]
        self.appends += 1
        if self.appends == self.ends_at and not self.stored_at_end:
            raise DeadError
        sequence = await super().append(payload, **more)  # type: ignore[arg-type]
        if self.appends == self.ends_at:
            raise DeadError
        return sequence


class Unfenced(MemoryLog):
    """A log that takes everything from anybody: what the fence is there to prevent."""

    async def append(self, payload: bytes, **more: object) -> int:  # type: ignore[override]
        return await super().append(payload, **{**more, "expected_last": None})  # type: ignore[arg-type]


async def tape_of(cells: Cells, *, through: int | None = None) -> tuple[MemoryLog, FrameWriter]:
    """A tape with the first cells on it, and the writer for the rest."""
    tape = MemoryLog("TAPE_day", log_id=LOG_ID)
    writer = await FrameWriter.open(tape, writer=1, frame_cells=FRAME_CELLS)
    await writer.append(cells[:through])
    return tape, writer


def follower(tape: MemoryLog, events: MemoryLog, make: Callable[[], Strategy], **more: object) -> Follower:
    return Follower(Logs(tape=tape, events=events), strategy=make(), **more)  # type: ignore[arg-type]


async def lead(standby: Follower) -> None:
    await standby.lead_gated(clock=VirtualClock(NOW), metrics=Metrics())


async def turns(count: int) -> None:
    """Let every task go on so often."""
    for _ in range(count):
        await asyncio.sleep(0)


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("make", [quick_maker, quick_watcher])
@pytest.mark.parametrize("seed", range(6))
async def test_a_leader_that_dies_anywhere(make: Callable[[], Strategy], seed: int) -> None:
    """Before or after any append, the follower behind it by any number of turns, cold or warm."""
    _, _, cells, outputs = shared_day(make)
    rng = random.Random(seed)
    tape, _ = await tape_of(cells)
    events = Events()
    events.ends_at, events.stored_at_end = rng.randrange(1, 60), rng.random() < 0.5
    leader = GatedEngine(Engine(make()), tape, events, writer=2)
    standby = follower(tape, events, make)
    await standby.open()
    following = asyncio.create_task(standby.run())
    if rng.random() < 0.5:
        await turns(rng.randrange(TURNS_MAX))
    with pytest.raises(DeadError):
        await leader.run(follow=True)
    await turns(rng.randrange(TURNS_MAX))
    await stopped(following)
    events.ends_at = -1
    await lead(standby)
    assert np.array_equal(await cells_of(events), outputs)
    check = fold(Engine(make()), await cells_of(tape), [])
    assert np.array_equal(check, outputs)
    assert standby.gated.is_met


async def test_a_warm_follower_has_nothing_left_to_read() -> None:
    _, _, cells, outputs = shared_day(quick_maker)
    tape, _ = await tape_of(cells)
    events = Events()
    await GatedEngine(Engine(quick_maker()), tape, events, writer=2).run()
    snapshots = MemorySnapshots()
    standby = follower(tape, events, quick_maker, snapshots=snapshots)
    standby.gated._snapshot_cells = 1_000
    await standby.open()
    assert not standby.is_warm
    following = asyncio.create_task(standby.run())
    while not (standby.is_warm and standby.gated.recovered == len(outputs)):  # noqa: ASYNC110  (nothing tells it)
        await asyncio.sleep(0)
    await stopped(following)
    assert standby.gated.held_cells == 0
    saved = Snapshot.decode(snapshots.saved["engine"]).progress
    assert 0 < saved.next_ordinal <= len(cells)
    before = (await events.extent()).last
    await lead(standby)
    assert (await events.extent()).last == before, "what the leader wrote is met, not written again"
    assert standby.fold.state.progress is not None
    known, again = standby.fold.state, await read_tape(tape)
    assert (known.instruments, known.feed_cells, known.clock) == (again.instruments, again.feed_cells, again.clock)


async def test_a_follower_that_decides_otherwise_halts() -> None:
    _, _, cells, _ = shared_day(quick_maker)
    tape, _ = await tape_of(cells)
    events = Events()
    await GatedEngine(Engine(quick_maker()), tape, events, writer=2).run()
    standby = follower(tape, events, lambda: maker(interval_ms=50, spread_ticks=2))
    await standby.open()
    with pytest.raises(IntegrityError, match="a decision differs"):
        await standby.run()


async def test_what_a_follower_holds_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that decides nothing makes its follower wait, and one that writes again lets it go on."""
    monkeypatch.setattr("tapehouse.engine.meeting.HELD_CELLS_MAX", 200)
    _, _, cells, outputs = shared_day(quick_maker)
    tape, _ = await tape_of(cells)
    events = Events()
    standby = follower(tape, events, quick_maker)
    await standby.open()
    following = asyncio.create_task(standby.run())
    await turns(TURNS_MAX)
    held, stood = standby.gated.held_cells, standby.gated.sequence
    assert 200 <= held < 200 + 2 * FRAME_CELLS * 4
    await turns(TURNS_MAX)
    assert standby.gated.sequence == stood < (await tape.extent()).last
    writer = await FrameWriter.open(events, writer=2)
    await writer.append(outputs[:held], input_ordinal=1)
    await turns(TURNS_MAX)
    assert standby.gated.sequence > stood
    await stopped(following)


async def test_a_late_append_of_the_leader_before_is_met() -> None:
    """It had one under way, which arrives between our look at EVENTS and our own append."""
    _, _, cells, outputs = shared_day(quick_maker)
    tape, _ = await tape_of(cells)
    events = Events()
    half = (await tape.extent()).last // 2
    stale = GatedEngine(Engine(quick_maker()), tape, events, writer=2)
    await stale.run(through=half)
    standby = follower(tape, events, quick_maker)
    await standby.open()

    async def late() -> None:
        await stale.run(through=half + 30)

    events.before = late
    await lead(standby)
    assert np.array_equal(await cells_of(events), outputs)
    with pytest.raises(ConflictError):
        await stale.run()


async def test_a_writer_that_does_not_stop_keeps_the_tape() -> None:
    _, _, cells, _ = shared_day(quick_maker)
    tape, writer = await tape_of(cells, through=1_000)
    standby = follower(tape, Events(), quick_maker)
    append, tries = MemoryLog.append, 0

    async def rival(self: MemoryLog, payload: bytes, **more: object) -> int:
        nonlocal tries
        if self is tape and more["expected_last"] == writer.last_sequence and tries < TAKE_OVER_ATTEMPTS_MAX:
            tries += 1
            await writer.append(cells[1_000 + tries : 1_001 + tries])
        return await append(self, payload, **more)  # type: ignore[arg-type]

    own = writer._log
    writer._log = _Direct(tape, append)  # type: ignore[assignment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryLog, "append", rival)
        with pytest.raises(ConflictError):
            await lead(standby)
    writer._log = own
    assert tries == TAKE_OVER_ATTEMPTS_MAX
    assert not any(records_of((await cells_of(tape))[1_000:], Kind.EPOCH))


class _Direct:
    """The rival's own way to the tape, past what the test put in front of it."""

    def __init__(self, log: MemoryLog, append: Callable[..., object]) -> None:
        self.name, self._log, self._append = log.name, log, append

    async def append(self, payload: bytes, **more: object) -> int:
        return await self._append(self._log, payload, **more)  # type: ignore[misc, no-any-return]

    async def last(self) -> object:
        return await self._log.last()


async def test_a_stale_leader_neither_appends_nor_answers() -> None:
    """It wakes when another leads: its sequencer is refused, and its engine decides nothing of the new epoch."""
    _, _, cells, outputs = shared_day(quick_maker)
    tape, writer = await tape_of(cells, through=4_000)
    events = Events()
    stale = GatedEngine(Engine(quick_maker()), tape, events, writer=2)
    await stale.take_over(writer.last_sequence, epoch=writer.epoch)
    standby = follower(tape, events, quick_maker)
    sequencer, _ = await standby.lead_gated(clock=VirtualClock(NOW), metrics=Metrics())
    before = (await events.extent()).last
    with pytest.raises(ConflictError, match="fenced off"):
        await writer.append(cells[4_000:4_100])
    sequencer._add(cells[4_000:])
    await sequencer.flush()
    with pytest.raises(ConflictError, match="another host took the tape over in epoch 2"):
        await stale.run(follow=True)
    assert (await events.extent()).last == before, "EVENTS was quiet, so that its fence alone would have let it in"
    await standby.gated.run()
    decided = await cells_of(events)
    assert np.array_equal(fold(Engine(quick_maker()), await cells_of(tape), []), decided)
    assert len(decided) >= len(outputs)


async def test_without_the_fence_the_checker_finds_what_two_leaders_wrote() -> None:
    """The negative control of every campaign: two engines that both believe to lead, and nothing that stops one."""
    cells = shared_day(quick_maker)[2]
    tape, _ = await tape_of(cells)
    events = Unfenced("EVENTS_day", log_id=LOG_ID[::-1])
    both = [GatedEngine(Engine(maker(interval_ms=20)), tape, events, writer=number) for number in (2, 3)]
    for engine in both:
        await engine.open()
    await asyncio.gather(*(engine.run() for engine in both), return_exceptions=True)
    with pytest.raises(AssertionError, match=r"EVENTS (differs|has)"):
        check_decided(await cells_of(tape), await cells_of(events))
