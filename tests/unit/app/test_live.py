"""Recording and serving: stopped, damaged, fenced off or given the wrong file, a tape stays what it was."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from tapehouse.app.live import Logs, record, serve
from tapehouse.core import SystemClock, VirtualClock
from tapehouse.core.errors import ConflictError, DataError, DecodeError, StrategyError
from tapehouse.engine import Engine, Strategy, Submit, View, read_tape
from tapehouse.engine.sequencer import FEED_SOURCE
from tapehouse.feeds.generated import GeneratedDay
from tapehouse.feeds.port import Feed
from tapehouse.log import FrameWriter, MemoryLog, MemorySnapshots, decode_frame
from tapehouse.market import Cells, Instrument, Kind, read_definition, records_of, unpack_payload
from tests.support.bench import (
    LOG_ID,
    NOW,
    cell,
    cells_of,
    command_bytes,
    events_in,
    fold,
    inbox,
    new_logs,
    quick_maker,
    quick_watcher,
    shared_day,
)

CELLS = 5_000


class Pieces:
    """A feed cut into many batches; it may break, or be looked at, between two of them."""

    def __init__(self, feed: Feed, size: int, *, before: Callable[[int], None] | None = None) -> None:
        self.feed = feed
        self.name, self.instruments, self.cells_estimate = feed.name, feed.instruments, feed.cells_estimate
        self._size = size
        self._before = before

    def batches(self) -> Iterator[Cells]:
        given = 0
        for batch in self.feed.batches():
            start = 0
            while start < len(batch):
                end = min(start + self._size, len(batch))
                while end < len(batch) and batch["cells"][end] == 0:
                    end += 1
                if self._before:
                    self._before(given)
                yield batch[start:end]
                given += end - start
                start = end


def day(size: int = 300, *, before: Callable[[int], None] | None = None, seed: int = 7, cells: int = CELLS) -> Pieces:
    return Pieces(GeneratedDay(seed=seed, cells=cells), size, before=before)


class Gate(MemoryLog):
    """A TAPE whose appends come one frame at a time, so that a recording can be stopped anywhere."""

    def __init__(self) -> None:
        super().__init__("TAPE_day", log_id=LOG_ID)
        self.left = 10**9
        self.shut = asyncio.Event()

    async def append(self, payload: bytes, **more: object) -> int:  # type: ignore[override]
        if self.left == 0:
            self.shut.set()
            await asyncio.Event().wait()  # until cancelled
        self.left -= 1
        return await super().append(payload, **more)  # type: ignore[arg-type]


def from_feed(cells: Cells) -> Cells:
    return cells[cells["source"] == FEED_SOURCE]


def small_appends(monkeypatch: pytest.MonkeyPatch, cells: int = 500) -> None:
    monkeypatch.setattr("tapehouse.engine.sequencer.APPEND_CELLS", cells)
    monkeypatch.setattr("tapehouse.log.writer.FRAME_CELLS_MAX", cells // 2)


@pytest.mark.parametrize("make", [quick_maker, quick_watcher, lambda: None])
@pytest.mark.parametrize("seed", range(3))
async def test_a_recording_stopped_anywhere_goes_on_where_it_stopped(
    make: Callable[[], Strategy | None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_appends(monkeypatch)
    whole = new_logs(await inbox())
    await record(day(), whole, strategy=make(), clock=VirtualClock(NOW))
    rng = random.Random(seed)
    tape = Gate()
    logs = replace(new_logs(await inbox()), tape=tape)
    snapshots = MemorySnapshots()
    stops = 0
    for _ in range(100):
        tape.left = rng.randrange(1, 9)
        tape.shut.clear()
        attempt = asyncio.create_task(
            record(day(rng.randrange(50, 900)), logs, strategy=make(), clock=VirtualClock(NOW), snapshots=snapshots)
        )
        stopping = asyncio.create_task(tape.shut.wait())
        await asyncio.wait({attempt, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if attempt.done():
            break
        stops += 1
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
    report = await attempt
    assert stops > 2
    mine, reference = await cells_of(tape), await cells_of(whole.tape)
    assert np.array_equal(from_feed(mine), from_feed(reference))
    kinds = (int(Kind.DEFINITION), int(Kind.COMMAND))
    for kind in kinds:  # each once, and before what needs it
        assert [unpack_payload(made) for _, made in records_of(mine, Kind(kind))] == [
            unpack_payload(made) for _, made in records_of(reference, Kind(kind))
        ]
    assert len(list(records_of(mine, Kind.EPOCH))) == stops + 1
    assert (report.feed_cells, report.cells) == (len(from_feed(reference)), len(mine))
    if make() is not None:
        engine = Engine(make())  # type: ignore[arg-type]
        assert np.array_equal(fold(engine, mine, []), await cells_of(logs.events))
        assert engine.digests() == report.digests


async def test_a_recording_again_of_all_that_is_there_adds_an_epoch_only() -> None:
    logs = new_logs()
    first = await record(day(), logs, strategy=quick_maker(), clock=VirtualClock(NOW))
    again = await record(day(), logs, strategy=quick_maker(), clock=VirtualClock(NOW))
    assert (again.skipped_cells, again.feed_cells) == (first.feed_cells, first.feed_cells)
    tail = (await cells_of(logs.tape))[first.cells :]
    assert set(tail["kind"].tolist()) == {int(Kind.EPOCH)}
    assert again.digests is not None
    assert first.digests is not None
    assert again.digests.decision == first.digests.decision


@pytest.mark.parametrize("at", [300, 2_100, CELLS - 300])
async def test_a_feed_that_breaks_leaves_what_came_before(at: int) -> None:
    def broken(given: int) -> None:
        if given >= at:
            raise DecodeError("a wrong byte", subject="day.bin", position=f"byte {given}")

    logs = new_logs()
    with pytest.raises(DecodeError, match=r"day\.bin, byte"):
        await record(day(before=broken), logs, strategy=quick_maker(), clock=VirtualClock(NOW))
    reference = new_logs()
    await record(day(), reference, strategy=quick_maker(), clock=VirtualClock(NOW))
    held = await cells_of(logs.tape)
    assert at <= len(from_feed(held)) < at + 310
    assert np.array_equal(held, (await cells_of(reference.tape))[: len(held)])
    await record(day(), logs, strategy=quick_maker(), clock=VirtualClock(NOW))
    assert np.array_equal(from_feed(await cells_of(logs.tape)), from_feed(await cells_of(reference.tape)))


async def test_a_feed_that_is_broken_from_the_start_leaves_an_empty_tape() -> None:
    def broken(given: int) -> None:
        raise DecodeError("no such format", subject="day.bin")

    logs = new_logs()
    with pytest.raises(DecodeError):
        await record(day(before=broken), logs, strategy=None, clock=VirtualClock(NOW))
    with pytest.raises(DataError, match="there is nothing in it"):
        await record(Nothing(), logs, strategy=None, clock=VirtualClock(NOW))
    assert (await logs.tape.extent()).last == 0


class Nothing:
    """A feed without a cell."""

    name = "nothing"
    instruments: tuple[Instrument, ...] = ()
    cells_estimate = 0

    def batches(self) -> Iterator[Cells]:
        yield from ()


class Short(Nothing):
    """A feed that uses what it does not declare."""

    name = "short"

    def __init__(self, *cells: Cells, declared: tuple[Instrument, ...] = ()) -> None:
        self.instruments = declared
        self._cells = cells

    def batches(self) -> Iterator[Cells]:
        yield from self._cells


async def test_an_undeclared_instrument_is_the_feeds_bug_and_none_is_none() -> None:
    share = Instrument(id=3, symbol="ALFA")
    for number, kind in ((0, Kind.MBP), (2, Kind.MBP), (4, Kind.TRADE), (9, Kind.STATUS)):
        with pytest.raises(DataError, match=f"did not declare instrument {number}"):
            await record(
                Short(cell(kind, number), declared=(share,)), new_logs(), strategy=None, clock=VirtualClock(NOW)
            )
    logs = new_logs()
    whole_market = [cell(Kind.STATUS, 0), cell(Kind.GAP, 0, count=7), cell(Kind.STATUS, 3)]
    await record(Short(*whole_market, declared=(share,)), logs, strategy=quick_maker(), clock=VirtualClock(NOW))
    assert from_feed(await cells_of(logs.tape))["instrument"].tolist() == [0, 0, 1]


async def test_a_derived_instrument_may_be_declared_before_what_it_derives_from() -> None:
    option = Instrument(
        id=1, symbol="C", asset_class="option", underlying=2, strike=10**9, expiry_ns=NOW + 10**15, right="C"
    )
    share = Instrument(id=2, symbol="S")
    logs = new_logs()
    feed = Short(cell(Kind.STATUS, 2), declared=(option, share))
    await record(feed, logs, strategy=quick_maker(), clock=VirtualClock(NOW))
    state = await read_tape(logs.tape)
    assert [(i.symbol, i.underlying) for i in state.instruments.values()] == [("S", 0), ("C", 1)]
    with pytest.raises(DataError, match="underlying 2 is not declared"):
        await record(
            Short(cell(Kind.STATUS, 1), declared=(option,)), new_logs(), strategy=None, clock=VirtualClock(NOW)
        )


# The wrong feed.


async def test_another_feed_on_a_tape_is_refused() -> None:
    logs = new_logs()
    await record(day(), logs, strategy=None, clock=VirtualClock(NOW))
    before = (await logs.tape.extent()).last
    with pytest.raises(DataError, match="holds the feed 'generated-7', not 'generated-8'"):
        await record(day(seed=8), logs, strategy=None, clock=VirtualClock(NOW))
    assert (await logs.tape.extent()).last == before


@pytest.mark.parametrize("cells", [CELLS // 2, CELLS * 2])
async def test_another_day_of_the_same_name_is_refused(cells: int) -> None:
    """Generated days of one seed share their name whatever their length; so may two files of one symbol."""
    logs = new_logs()
    await record(day(), logs, strategy=None, clock=VirtualClock(NOW))
    held = from_feed(await cells_of(logs.tape))
    with pytest.raises(DataError, match="not those that this feed begins with"):
        await record(day(cells=cells), logs, strategy=None, clock=VirtualClock(NOW))
    assert np.array_equal(from_feed(await cells_of(logs.tape)), held)


async def test_other_terms_of_an_instrument_are_refused() -> None:
    logs = new_logs()
    share = Instrument(id=1, symbol="ALFA")
    await record(Short(cell(Kind.STATUS, 1), declared=(share,)), logs, strategy=None, clock=VirtualClock(NOW))
    finer = Short(cell(Kind.STATUS, 1), declared=(replace(share, price_exponent=-2),))
    with pytest.raises(DataError, match="has it with other terms"):
        await record(finer, logs, strategy=None, clock=VirtualClock(NOW))


async def test_a_new_tick_is_a_new_revision_of_the_definition() -> None:
    logs = new_logs()
    share = Instrument(id=1, symbol="ALFA")
    await record(Short(cell(Kind.STATUS, 1), declared=(share,)), logs, strategy=None, clock=VirtualClock(NOW))
    finer = Short(cell(Kind.STATUS, 1), declared=(replace(share, tick_size=1),))
    await record(finer, logs, strategy=None, clock=VirtualClock(NOW))
    defined = [read_definition(record) for _, record in records_of(await cells_of(logs.tape), Kind.DEFINITION)]
    assert defined == [share, replace(share, tick_size=1, revision=2)]


async def test_a_live_tape_takes_no_history() -> None:
    logs = new_logs()
    await served(logs, quick_maker(), lambda: asyncio.sleep(0))
    with pytest.raises(DataError, match="its clock is 'wall', not 'history'"):
        await record(day(), logs, strategy=None, clock=VirtualClock(NOW))


# Commands.


async def test_commands_that_wait_are_taken_before_the_day_begins_and_later_ones_among_it() -> None:
    commands = await inbox()
    logs = new_logs(commands)
    arrived = False

    def send(given: int) -> None:
        nonlocal arrived
        if given > CELLS // 2 and not arrived:
            arrived = True
            payload = command_bytes(9, "account.kill", {"account": "strategy"})
            asyncio.run_coroutine_threadsafe(
                commands.append(payload, expected_last=None, subject="cmd.v1.day.account.kill"), loop
            ).result()

    loop = asyncio.get_running_loop()
    report = await record(day(before=send), logs, strategy=quick_maker(), clock=VirtualClock(NOW))
    tape = await cells_of(logs.tape)
    places = {int(made["sequence"][0]): at for at, made in records_of(tape, Kind.COMMAND)}
    begins = int(np.flatnonzero(tape["source"] == FEED_SOURCE)[0])
    assert sorted(places) == [1, 2, 3, 4, 5, 6]
    assert max(places[sequence] for sequence in range(1, 6)) < begins < places[6]
    assert report.commands == 6
    times = tape["ts_recv"][tape["cells"] > 0]
    assert (np.diff(times) >= 0).all()  # a command has the tape's time, not today's
    outcomes = [event["body"] for event in events_in(await cells_of(logs.events)) if event["type"] == "command.outcome"]
    assert [outcome["outcome"] for outcome in outcomes] == [
        *("accepted", "repeated", "rejected", "parked", "accepted", "accepted")
    ]


async def test_a_command_too_long_for_a_record_is_answered_all_the_same() -> None:
    commands = MemoryLog("CMDS_day")
    await commands.append(b"{" + b" " * 12_500, expected_last=None, subject="cmd.v1.day.any")
    logs = new_logs(commands)
    await record(day(), logs, strategy=quick_maker(), clock=VirtualClock(NOW))
    parked, answer = events_in(await cells_of(logs.events))
    assert (parked["causation"], parked["type"]) == ("cmds:1", "command.parked")
    assert (answer["causation"], answer["body"]["outcome"]) == ("cmds:1", "parked")


async def test_more_commands_than_an_append_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    small_appends(monkeypatch)
    commands = MemoryLog("CMDS_day")
    for number in range(300):
        payload = command_bytes(number, "account.kill", {"account": "bob", "on": False})
        await commands.append(payload, expected_last=None, subject="cmd.v1.day.account.kill")
    logs = new_logs(commands)
    most = 0
    append = FrameWriter.append

    async def watched(self: FrameWriter, cells: Cells, **more: int) -> int:
        nonlocal most
        most = max(most, len(cells))
        return await append(self, cells, **more)

    monkeypatch.setattr(FrameWriter, "append", watched)
    report = await record(day(), logs, strategy=quick_maker(), clock=VirtualClock(NOW))
    assert report.commands == 300
    assert most < 2 * 500 + 400


# What goes wrong beside it.


class Fragile:
    """Breaks in the middle of the day."""

    name = "fragile"

    def __init__(self) -> None:
        self.turns = 0

    def on_market(self, view: View) -> list[Submit]:
        self.turns += 1
        if self.turns == 200:
            raise RuntimeError("enough")
        return []

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        pass


async def test_a_strategy_that_breaks_stops_the_recording_and_what_was_recorded_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_appends(monkeypatch)
    logs, snapshots = new_logs(), MemorySnapshots()
    with pytest.raises(StrategyError, match="RuntimeError: enough"):
        await record(day(), logs, strategy=Fragile(), clock=VirtualClock(NOW), snapshots=snapshots)
    assert snapshots.saved == {}
    _, _, cells, _ = shared_day(quick_maker)
    held = from_feed(await cells_of(logs.tape))
    assert len(held) > 0
    assert np.array_equal(held, from_feed(cells)[: len(held)])
    report = await record(
        day(), replace(logs, events=MemoryLog("EVENTS_new")), strategy=quick_maker(), clock=VirtualClock(NOW)
    )
    assert report.feed_cells == len(from_feed(cells))


async def test_a_sequencer_that_is_fenced_off_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    small_appends(monkeypatch)
    logs = new_logs()
    loop = asyncio.get_running_loop()
    rivals = 0

    async def rival() -> None:
        writer = await FrameWriter.open(logs.tape, writer=9)
        await writer.append(cell(Kind.CLOCK, 0, source=2, ts_recv=NOW))

    def between(given: int) -> None:
        nonlocal rivals
        if given > CELLS // 2 and not rivals:
            rivals += 1
            asyncio.run_coroutine_threadsafe(rival(), loop).result()

    with pytest.raises(ConflictError, match="another writer"):
        await record(day(before=between), logs, strategy=quick_maker(), clock=VirtualClock(NOW))
    _, _, cells, _ = shared_day(quick_maker)
    held = from_feed(await cells_of(logs.tape))
    assert np.array_equal(held, from_feed(cells)[: len(held)])


# Serving.


async def served(
    logs: Logs,
    strategy: Strategy,
    act: Callable[[], object],
    *,
    clock: SystemClock | VirtualClock | None = None,
    snapshots: MemorySnapshots | None = None,
) -> None:
    """Serve while `act` runs, then stop as a user does."""
    ready = asyncio.Event()
    task = asyncio.create_task(
        serve(logs, strategy=strategy, clock=clock or SystemClock(), snapshots=snapshots, on_ready=ready.set)
    )
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if not task.done():
            await act()  # type: ignore[misc]
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def answers_to(logs: Logs, count: int) -> list[dict[str, object]]:
    """Wait for so many outcomes in EVENTS."""
    found: list[dict[str, object]] = []
    async for message in logs.events.read(1, follow=True):
        for event in events_in(decode_frame(message.payload)[1]):
            if event["type"] == "command.outcome":
                found.append({"causation": event["causation"], **event["body"]})
        if len(found) >= count:
            break
    return found


async def send(commands: MemoryLog, number: int, kind: str, **body: object) -> None:
    await commands.append(command_bytes(number, kind, body), expected_last=None, subject=f"cmd.v1.day.{kind}")


async def test_a_served_history_answers_commands_at_the_tapes_time() -> None:
    commands = await inbox()
    logs, snapshots = new_logs(commands), MemorySnapshots()
    await record(day(), logs, strategy=quick_maker(), clock=VirtualClock(NOW), snapshots=snapshots)
    ended = (await read_tape(logs.tape)).now
    order = {"instrument": "ALFA", "side": "buy", "price": "0.5", "size": "1"}

    async def act() -> None:
        await send(commands, 7, "order.submit", **order)
        assert (await answers_to(logs, 6))[-1]["outcome"] == "accepted"
        await send(commands, 7, "order.submit", **order)
        assert (await answers_to(logs, 7))[-1]["outcome"] == "repeated"

    await served(logs, quick_maker(), act, snapshots=snapshots)
    tape = await cells_of(logs.tape)
    assert int(tape["ts_recv"][tape["cells"] > 0].max()) == ended  # no clock, no wall time
    assert not (tape["kind"] == Kind.CLOCK).any()

    async def later() -> None:  # a second life begins where the first ended
        await send(commands, 8, "order.cancel", instrument="ALFA", order_id=1)
        assert (await answers_to(logs, 8))[-1]["outcome"] == "rejected"

    await served(logs, quick_maker(), later, snapshots=snapshots)
    engine = Engine(quick_maker())
    assert np.array_equal(fold(engine, await cells_of(logs.tape), []), await cells_of(logs.events))


async def test_a_served_live_tape_keeps_time_and_restarts_on_its_own_history() -> None:
    logs, snapshots, clock = new_logs(MemoryLog("CMDS_day")), MemorySnapshots(), VirtualClock(NOW)

    async def act() -> None:
        async for message in logs.tape.read(1, follow=True):
            if message.sequence == 20:
                break

    for _ in range(2):
        await served(logs, quick_maker(), act, clock=clock, snapshots=snapshots)
    tape = await cells_of(logs.tape)
    ticks = tape["ts_recv"][tape["kind"] == Kind.CLOCK]
    assert len(ticks) >= 20
    assert set(np.diff(ticks)[:10].tolist()) == {100_000_000}
    epochs = [json.loads(unpack_payload(made)) for _, made in records_of(tape, Kind.EPOCH)]
    assert [(epoch["clock"], epoch["epoch"], epoch["mode"]) for epoch in epochs] == [
        ("wall", 1, "gated"),
        ("wall", 2, "gated"),
    ]
    fold(Engine(quick_maker()), tape, [])


async def test_a_served_desk_that_is_fenced_off_says_so() -> None:
    logs = new_logs(MemoryLog("CMDS_day"))
    ready = asyncio.Event()
    first = asyncio.create_task(serve(logs, strategy=quick_maker(), clock=SystemClock(), on_ready=ready.set))
    await ready.wait()

    async def act() -> None:
        with pytest.raises(ConflictError):
            await first

    await served(logs, quick_maker(), act)


class Breaks(Fragile):
    """Breaks at its first turn."""

    def __init__(self) -> None:
        self.turns = 199


async def test_a_served_desk_whose_strategy_breaks_saves_nothing() -> None:
    logs, snapshots = new_logs(MemoryLog("CMDS_day")), MemorySnapshots()
    await record(day(), logs, strategy=None, clock=VirtualClock(NOW))
    with pytest.raises(StrategyError, match="enough"):
        await serve(logs, strategy=Breaks(), clock=SystemClock(), snapshots=snapshots)
    assert snapshots.saved == {}
