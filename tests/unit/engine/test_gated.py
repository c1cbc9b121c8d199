"""The gated engine through restarts, lost acknowledgements and rivals: EVENTS is always that of an undisturbed run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import numpy as np
import pytest

from tapehouse.core.errors import ConflictError, IntegrityError, StrategyError
from tapehouse.desk import BUY
from tapehouse.engine import Engine, GatedEngine, Strategy, Submit, View
from tapehouse.log import FrameWriter, MemoryLog, MemorySnapshots, decode_frame
from tapehouse.log.host import Snapshot
from tapehouse.market import Cells, Kind, record_starts, words
from tapehouse.strategies import maker
from tests.support.bench import LOG_ID, cells_of, fold, quick_maker, quick_watcher, shared_day

BOTH = pytest.mark.parametrize("make", [quick_maker, quick_watcher])
FRAME_CELLS = 40
SEEDS = range(6)


class CrashError(Exception):
    """The process is gone."""


class Faulty(MemoryLog):
    """An EVENTS whose appends fail as they are told to, and wait at a gate."""

    def __init__(self) -> None:
        super().__init__("EVENTS_day", log_id=LOG_ID[::-1])
        self.gate = asyncio.Event()
        self.gate.set()
        self.crash_before: set[int] = set()  # the number of the append, counted from 1
        self.crash_after: set[int] = set()
        self.ambiguous: dict[int, bool] = {}
        self.appends = 0

    async def append(self, payload: bytes, **more: object) -> int:  # type: ignore[override]
        self.appends += 1
        number = self.appends
        await self.gate.wait()
        if number in self.crash_before:
            raise CrashError
        if number in self.ambiguous:
            self.fail_next_append(stored=self.ambiguous[number])
        sequence = await super().append(payload, **more)  # type: ignore[arg-type]
        if number in self.crash_after:
            raise CrashError
        return sequence


async def tape_of(cells: Cells, frame_cells: int = FRAME_CELLS) -> MemoryLog:
    tape = MemoryLog("TAPE_day", log_id=LOG_ID)
    writer = await FrameWriter.open(tape, writer=1, frame_cells=frame_cells)
    await writer.append(cells)
    return tape


def gated(
    make: Callable[[], Strategy],
    tape: MemoryLog,
    events: MemoryLog,
    snapshots: MemorySnapshots | None = None,
    writer: int = 2,
) -> GatedEngine:
    return GatedEngine(Engine(make()), tape, events, writer=writer, snapshots=snapshots)


async def publishing(engine: GatedEngine, events: Faulty) -> None:
    """Return when one append is in flight, and what the next frame led to waits for it."""
    while engine.is_met or not events.appends:  # noqa: ASYNC110  (nothing tells this moment)
        await asyncio.sleep(0)


@BOTH
async def test_an_undisturbed_run_writes_what_the_engine_decides(make: Callable[[], Strategy]) -> None:
    _, report, cells, outputs = shared_day(make)
    tape, events = await tape_of(cells), Faulty()
    engine = gated(make, tape, events)
    progress: list[int] = []
    engine._on_progress = progress.append
    await engine.run()
    assert np.array_equal(await cells_of(events), outputs)
    assert engine.engine.digests() == report.digests
    assert progress[-1] == len(cells)
    reached = [decode_frame(message.payload)[0].input_ordinal async for message in events.read(1)]
    assert reached == sorted(reached)
    assert set(reached) <= set(progress)


@BOTH
@pytest.mark.parametrize("seed", SEEDS)
async def test_restarts_anywhere_change_nothing(make: Callable[[], Strategy], seed: int) -> None:
    """Kills between two frames; snapshots of every age, none at all included."""
    _, report, cells, outputs = shared_day(make)
    rng = random.Random(seed)
    tape, events, snapshots = await tape_of(cells), Faulty(), MemorySnapshots()
    last = (await tape.extent()).last
    at = 0
    recovered = 0
    while at < last:
        engine = gated(make, tape, events, snapshots, writer=rng.randrange(1, 100))
        await engine.open()
        begun = engine.sequence
        assert begun <= at
        at = min(last, max(at, begun) + rng.randrange(1, 40))
        await engine.run(through=at)
        recovered += engine.recovered
        if rng.random() < 0.4:
            await engine.save()
        elif rng.random() < 0.2:
            snapshots.saved.clear()
    assert np.array_equal(await cells_of(events), outputs)
    assert engine.engine.digests() == report.digests
    assert recovered > 0


@BOTH
async def test_a_kill_at_every_append_changes_nothing(
    make: Callable[[], Strategy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appends of several frames too: a kill may leave the first of them."""
    monkeypatch.setattr("tapehouse.log.writer.FRAME_CELLS_MAX", 6)
    monkeypatch.setattr("tapehouse.engine.gated.KNOWN_FRAMES_MAX", 3)
    _, _, cells, outputs = shared_day(make, cells=1_000)
    tape, events = await tape_of(cells, 100), Faulty()
    crashes = 0
    for _ in range(1_000):
        crashes += 1
        # A restart appends nothing that is there, so the next append is always news.
        which = events.crash_before if crashes % 2 else events.crash_after
        which.add(events.appends + 1 + crashes % 3)
        engine = gated(make, tape, events)
        try:
            await engine.run()
        except CrashError:
            continue
        break
    assert crashes > 10
    assert np.array_equal(await cells_of(events), outputs)


@pytest.mark.parametrize("stored", [True, False])
async def test_appends_without_an_answer_lose_and_double_nothing(stored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapehouse.log.writer.RETRY_PAUSE_S", 0)
    _, _, cells, outputs = shared_day(quick_maker)
    tape, events = await tape_of(cells), Faulty()
    events.ambiguous = dict.fromkeys(range(1, 1_000, 2), stored)
    await gated(quick_maker, tape, events).run()
    assert np.array_equal(await cells_of(events), outputs)


async def test_another_strategy_after_a_restart_halts_at_the_input_that_it_decides_otherwise() -> None:
    _, _, cells, outputs = shared_day(quick_maker)
    tape, events, snapshots = await tape_of(cells), Faulty(), MemorySnapshots()
    half = (await tape.extent()).last // 2
    first = gated(quick_maker, tape, events, snapshots)
    await first.run(through=half)
    await first.save()
    held = await cells_of(events)
    other = gated(lambda: maker(interval_ms=50, spread_ticks=2), tape, events, snapshots)
    with pytest.raises(IntegrityError, match="a decision differs") as caught:
        await other.run()
    decided = fold(Engine(maker(interval_ms=50, spread_ticks=2)), cells, [])
    at = int(np.flatnonzero(decided[: len(held)] != held)[0])
    assert caught.value.position == f"input cell {decided['sequence'][at]}, index {decided['count'][at]}"
    assert np.array_equal(await cells_of(events), held)
    again = gated(quick_maker, tape, events, snapshots)
    await again.run()
    assert np.array_equal(await cells_of(events), outputs)


@BOTH
async def test_of_two_engines_one_is_fenced_off(make: Callable[[], Strategy]) -> None:
    _, _, cells, outputs = shared_day(make)
    tape, events = await tape_of(cells), Faulty()
    half = (await tape.extent()).last // 2
    old = gated(make, tape, events, writer=1)
    await old.run(through=half)
    new = gated(make, tape, events, writer=2)
    await new.run(through=half + 40)
    with pytest.raises(ConflictError):
        await old.run()
    with pytest.raises(ConflictError):
        await old.save()
    await new.run()
    assert np.array_equal(await cells_of(events), outputs)


async def test_two_engines_that_open_together_end_with_one() -> None:
    _, _, cells, outputs = shared_day(quick_maker)
    tape, events = await tape_of(cells), Faulty()
    both = [gated(quick_maker, tape, events, writer=number) for number in (1, 2)]
    for engine in both:
        await engine.open()
    ends = await asyncio.gather(*(engine.run() for engine in both), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["ConflictError", "NoneType"]
    assert np.array_equal(await cells_of(events), outputs)


async def test_a_desk_stopped_while_it_publishes_saves_nothing_that_is_not_durable() -> None:
    """The decisions of the frame just folded are not yet on their way when the run is cancelled."""
    _, _, cells, outputs = shared_day(quick_maker)
    tape, events, snapshots = await tape_of(cells), Faulty(), MemorySnapshots()
    engine = gated(quick_maker, tape, events, snapshots)
    await engine.open()
    events.gate.clear()
    task = asyncio.create_task(engine.run(follow=True))
    await publishing(engine, events)
    stopped_at = engine.sequence
    assert events.appends == 1
    task.cancel()
    await asyncio.sleep(0)
    events.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.save()
    assert Snapshot.decode(snapshots.saved["engine"]).progress.sequence == stopped_at
    again = gated(quick_maker, tape, events, snapshots)
    await again.run()
    assert again.recovered == 0
    assert np.array_equal(await cells_of(events), outputs)


async def test_a_run_that_was_cancelled_can_be_run_again() -> None:
    _, _, cells, outputs = shared_day(quick_maker)
    tape, events = await tape_of(cells), Faulty()
    engine = gated(quick_maker, tape, events)
    events.gate.clear()
    task = asyncio.create_task(engine.run())
    await publishing(engine, events)
    task.cancel()
    events.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.run()
    assert np.array_equal(await cells_of(events), outputs)


async def test_until_waits_for_the_last_decision_to_be_durable() -> None:
    _, _, cells, outputs = shared_day(quick_maker)
    tape, events = await tape_of(cells), Faulty()
    engine = gated(quick_maker, tape, events)
    await engine.open()
    events.gate.clear()
    follower = asyncio.create_task(engine.run(follow=True))
    reached: list[int] = []

    async def wait(sequence: int) -> None:
        await engine.until(sequence)
        reached.append(sequence)

    last = (await tape.extent()).last
    waiters = [asyncio.create_task(wait(sequence)) for sequence in range(1, last + 1)]
    await publishing(engine, events)
    folded = engine.sequence
    assert folded not in reached
    events.gate.set()
    await asyncio.gather(*waiters)
    assert np.array_equal(await cells_of(events), outputs)
    assert sorted(reached) == list(range(1, last + 1))
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)


@pytest.mark.parametrize("ahead", range(4))
async def test_what_until_promises_holds_at_every_step(ahead: int) -> None:
    """However the loop happens to run the tasks, EVENTS holds all decisions through the sequence asked for."""
    _, _, cells, _ = shared_day(quick_maker)
    tape, events = await tape_of(cells), Faulty()
    engine = gated(quick_maker, tape, events)
    await engine.open()
    follower = asyncio.create_task(engine.run(follow=True))
    for sequence in range(1, (await tape.extent()).last + 1, 1 + ahead):
        await engine.until(sequence)
        through = decode_frame((await anext(tape.read(sequence))).payload)[0].next_ordinal
        held = await cells_of(events)
        durable = int((held["sequence"][held["cells"] > 0] < through).sum()) if len(held) else 0
        _, _, _, outputs = shared_day(quick_maker)
        first = outputs["cells"] > 0
        assert durable == int((outputs["sequence"][first] < through).sum())
        for _ in range(ahead):
            await asyncio.sleep(0)
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)


async def test_snapshots_are_taken_by_count_of_cells() -> None:
    _, _, cells, _ = shared_day(quick_maker)
    tape, events, snapshots = await tape_of(cells), Faulty(), MemorySnapshots()
    engine = GatedEngine(Engine(quick_maker()), tape, events, writer=2, snapshots=snapshots, snapshot_cells=1_000)
    await engine.run()
    saved = Snapshot.decode(snapshots.saved["engine"]).progress
    assert len(cells) - 1_000 - FRAME_CELLS <= saved.next_ordinal <= len(cells)
    again = gated(quick_maker, tape, events, snapshots)
    await again.run()
    assert 0 < again.recovered < len(await cells_of(events))


async def test_a_snapshot_may_lie_in_the_middle_of_a_frame_of_events() -> None:
    _, _, cells, outputs = shared_day(quick_maker)
    tape, snapshots = await tape_of(cells), MemorySnapshots()
    half = gated(quick_maker, tape, Faulty(), snapshots)
    await half.run(through=(await tape.extent()).last // 2)
    await half.save()
    events = Faulty()
    await (await FrameWriter.open(events, writer=9)).append(outputs, input_ordinal=len(cells))
    engine = gated(quick_maker, tape, events, snapshots)
    await engine.run()
    assert engine.recovered == len(outputs) - half.engine.outputs
    assert (await events.extent()).last == 1


class Fragile:
    """Breaks at a price."""

    name = "fragile"

    def __init__(self) -> None:
        self.turns = 0

    def on_market(self, view: View) -> list[Submit]:
        self.turns += 1
        if self.turns == 30:
            raise RuntimeError("enough")
        return []

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


async def test_an_engine_that_broke_inside_a_frame_is_not_saved() -> None:
    _, _, cells, _ = shared_day(quick_maker)
    tape, events, snapshots = await tape_of(cells), Faulty(), MemorySnapshots()
    engine = gated(Fragile, tape, events, snapshots)
    with pytest.raises(StrategyError, match="enough"):
        await engine.run()
    await engine.save()
    assert snapshots.saved == {}


# Logs that do not fit together.


async def test_events_behind_the_snapshot_are_told() -> None:
    _, _, cells, _ = shared_day(quick_maker)
    tape, snapshots = await tape_of(cells), MemorySnapshots()
    engine = gated(quick_maker, tape, Faulty(), snapshots)
    await engine.run()
    await engine.save()
    with pytest.raises(IntegrityError, match="EVENTS ends at cell 0, behind the snapshot's"):
        await gated(quick_maker, tape, Faulty(), snapshots).open()


async def test_events_ahead_of_the_tape_are_told() -> None:
    _, _, cells, _ = shared_day(quick_maker)
    tape, events = await tape_of(cells), Faulty()
    await gated(quick_maker, tape, events).run()
    shorter = await tape_of(cells[cells["source"] == 2])
    with pytest.raises(IntegrityError, match="the tape lost its end"):
        await gated(quick_maker, shorter, events).open()


async def test_events_trimmed_beyond_the_snapshot_are_told_and_others_are_not_missed() -> None:
    _, _, cells, outputs = shared_day(quick_maker)
    tape, events, snapshots = await tape_of(cells), Faulty(), MemorySnapshots()
    half = (await tape.extent()).last // 2
    engine = gated(quick_maker, tape, events, snapshots)
    await engine.run(through=half)
    await engine.save()
    saved_at = (await events.extent()).last
    await engine.run(through=half + 30)
    await events.trim(saved_at)
    again = gated(quick_maker, tape, events, snapshots)
    await again.run()
    held = await cells_of(events)
    assert np.array_equal(held, outputs[len(outputs) - len(held) :])
    for trimmed in (saved_at + 2, (await events.extent()).last):
        await events.trim(trimmed)
        with pytest.raises(IntegrityError, match="trimmed beyond the engine's snapshot"):
            await gated(quick_maker, tape, events, snapshots).open()


async def test_damaged_events_are_told() -> None:
    _, _, cells, _ = shared_day(quick_maker)
    tape, events = await tape_of(cells), Faulty()
    await gated(quick_maker, tape, events).run()
    foreign = MemoryLog("EVENTS_other", log_id=b"x" * 16)
    await gated(quick_maker, tape, foreign).run()
    events.corrupt(3, (await anext(foreign.read(3))).payload)
    with pytest.raises(IntegrityError, match="another log or branch"):
        await gated(quick_maker, tape, events).run()


async def test_a_changed_decision_in_events_is_found() -> None:
    """The negative control of the comparison: one bit of one fee."""
    _, _, cells, outputs = shared_day(quick_maker)
    tape, events = await tape_of(cells), MemoryLog("EVENTS_day", log_id=LOG_ID[::-1])
    forged = outputs.copy()
    at = int(np.flatnonzero((forged["kind"] == Kind.FILL) & (forged["cells"] == 0))[0])
    forged["ts_recv"][at] ^= 1  # an extension's second word: the fee
    await (await FrameWriter.open(events, writer=9)).append(forged, input_ordinal=len(cells))
    with pytest.raises(IntegrityError, match="a decision differs"):
        await gated(quick_maker, tape, events).run()


# A desk that decides otherwise than it did.


class Buyer:
    """A Python strategy that buys now and then, at a price of its own; silent in a span of its turns."""

    name = "buyer"

    def __init__(self, *, price: int = 1, every: int = 40, silent_from: int = 2**62, once_at: int = -1) -> None:
        self.turns = 0
        self._price, self._every, self._silent_from, self._once_at = price, every, silent_from, once_at

    def on_market(self, view: View) -> list[Submit]:
        self.turns += 1
        regular = self.turns % self._every == 0 and self.turns < self._silent_from
        if not regular and self.turns != self._once_at:
            return []
        return [Submit(side=BUY, price=self._price * view.tick, size=100)]

    def state(self) -> bytes:
        return self.turns.to_bytes(8, "little")

    def restore(self, state: bytes) -> None:
        self.turns = int.from_bytes(state, "little")


def inputs_of_orders(outputs: Cells) -> list[int]:
    """The inputs on which the strategy sent orders."""
    starts = np.flatnonzero((outputs["kind"] == Kind.ORDER) & (outputs["cells"] > 0))
    clients = words(outputs)[starts + 1, 0]
    return sorted({int(outputs["sequence"][at]) for at in starts[clients == 0]})


@pytest.mark.parametrize("with_snapshot", [False, True])
async def test_a_changed_strategy_halts_at_the_first_input_that_it_decides_otherwise(with_snapshot: bool) -> None:
    """With another price, without orders, without the last one: at a restart the input is named."""
    _, _, cells, _ = shared_day(quick_maker)
    tape, events, snapshots = await tape_of(cells), Faulty(), MemorySnapshots()
    engine = gated(Buyer, tape, events, snapshots)
    await engine.run(through=(await tape.extent()).last // 2)
    if with_snapshot:
        await engine.save()
    known = inputs_of_orders(await cells_of(events)) if with_snapshot else []
    await engine.run()
    outputs = await cells_of(events)
    orders = inputs_of_orders(outputs)
    turns = engine.engine.strategy.turns  # type: ignore[union-attr]
    for changed, expected in (
        (lambda: Buyer(price=2), orders[len(known)]),
        (lambda: Buyer(silent_from=0), orders[len(known)]),
        (lambda: Buyer(silent_from=turns - turns % 40), orders[-1]),
    ):
        with pytest.raises(IntegrityError, match=r"a decision (differs|that was made before is not)") as told:
            await gated(changed, tape, events, snapshots, writer=3).run()
        assert told.value.position.startswith(f"input cell {expected}, index ")
        assert np.array_equal(await cells_of(events), outputs), "a desk that halts has written nothing"
    same = gated(Buyer, tape, events, snapshots, writer=4)
    await same.run()
    assert len(await cells_of(events)) == len(outputs)


async def test_a_strategy_that_decides_nothing_any_more_halts_where_nothing_else_is_decided() -> None:
    """What comes again is compared; what does not come again must be missed."""
    _, _, cells, _ = shared_day(quick_maker)
    tape, events = await tape_of(_without_commands(cells)), Faulty()
    await gated(Buyer, tape, events).run()
    outputs = await cells_of(events)
    with pytest.raises(IntegrityError, match="a decision that was made before is not made again") as told:
        await gated(lambda: Buyer(silent_from=0), tape, events, writer=3).run()
    assert told.value.position.startswith(f"input cell {inputs_of_orders(outputs)[0]}, index 0")


async def test_a_decision_more_on_an_input_that_events_is_done_with_halts() -> None:
    """The position of EVENTS says that nothing else was decided there; an append would put it behind its place."""
    _, _, cells, _ = shared_day(quick_maker)
    tape, events = await tape_of(_without_commands(cells), 4000), Faulty()
    engine = gated(Buyer, tape, events)
    await engine.run()
    outputs = await cells_of(events)
    turns = engine.engine.strategy.turns  # type: ignore[union-attr]
    assert turns % 40 > 2, "there are turns after the last order"
    more = gated(lambda: Buyer(once_at=turns - 1), tape, events, writer=3)
    with pytest.raises(IntegrityError, match="a decision was not made before") as told:
        await more.run()
    assert int(told.value.position.split()[2].rstrip(",")) > inputs_of_orders(outputs)[-1]
    assert np.array_equal(await cells_of(events), outputs)


def _without_commands(cells: Cells) -> Cells:
    starts = record_starts(cells)
    kinds = np.repeat(cells["kind"][starts], np.diff([*starts, len(cells)]))
    return cells[kinds != Kind.COMMAND]
