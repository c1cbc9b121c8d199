"""`ahead` mode: the same tape and the same decisions as `gated` mode, before anything is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tapehouse.app.ahead import record_ahead, serve_ahead
from tapehouse.app.ahead_desk import ring_pair
from tapehouse.app.live import record
from tapehouse.app.pushing import push
from tapehouse.book import confidence
from tapehouse.core import ConflictError, DataError, StrategyError
from tapehouse.engine import Engine, Sequencer, Strategy
from tapehouse.engine.ahead import AheadEngine, FeedRing, JournalWriter, Outlets
from tapehouse.engine.journal import FENCED, create_journal
from tapehouse.engine.sequencer import DESK_SOURCE, TapeState
from tapehouse.feeds import GeneratedDay
from tapehouse.log import FrameWriter, MemoryLog, MemorySnapshots
from tapehouse.market import Cause, Cells, Confidence, Instrument, Kind, gap_record, pack_payload, records_of, words
from tapehouse.ring import Policy, Ring, list_rings
from tests.support.ahead import CLOCK, POLL_NS, desk, options, refolded, sidecar, until
from tests.support.bench import (
    LOG_ID,
    NOW,
    SHARE,
    cell,
    cells_of,
    command_bytes,
    events_in,
    idler,
    inbox,
    level,
    new_logs,
    quick_maker,
    quick_watcher,
)

CELLS = 5_000


@pytest.mark.parametrize("make", [quick_maker, quick_watcher])
async def test_both_modes_write_the_same_tape_and_decide_alike(make: Callable[[], Strategy], tmp_path: Path) -> None:
    gated_logs, ahead_logs = new_logs(), new_logs()
    feed = GeneratedDay(seed=7, cells=CELLS)
    gated = await record(feed, gated_logs, strategy=make(), clock=CLOCK)
    ahead = await record_ahead(
        "day",
        feed,
        ahead_logs,
        strategy=make(),
        sidecar=sidecar(ahead_logs, tmp_path),
        clock=CLOCK,
        options=options(tmp_path),
    )
    tapes = [await cells_of(logs.tape) for logs in (gated_logs, ahead_logs)]
    events = [await cells_of(logs.events) for logs in (gated_logs, ahead_logs)]
    assert len(tapes[0]) == len(tapes[1])
    differ = np.flatnonzero(tapes[0] != tapes[1])
    assert set(tapes[0]["kind"][differ].tolist()) <= {int(Kind.EPOCH)}, "only the EPOCH record says which mode"
    assert np.array_equal(events[0], events[1])
    assert ahead.digests is not None
    assert ahead.digests == gated.digests
    assert ahead.cells == gated.cells
    assert list_rings(tmp_path) == [], "a desk that is closed leaves no ring behind"


async def test_a_recording_goes_on_in_either_mode(tmp_path: Path) -> None:
    logs, whole = new_logs(), new_logs()
    snapshots = MemorySnapshots()
    feed = GeneratedDay(seed=7, cells=CELLS)

    class Torn:
        """The feed's beginning, then a fault."""

        name, instruments, cells_estimate = feed.name, feed.instruments, None

        def batches(self):  # type: ignore[no-untyped-def]
            yield next(iter(feed.batches()))[:2_000]
            raise DataError("the file ends here")

    with pytest.raises(DataError, match="the file ends here"):
        await record_ahead(
            "day", Torn(), logs, strategy=quick_maker(), sidecar=sidecar(logs, tmp_path), clock=CLOCK,
            snapshots=snapshots, options=options(tmp_path),
        )  # fmt: skip
    report = await record_ahead(
        "day", feed, logs, strategy=quick_maker(), sidecar=sidecar(logs, tmp_path), clock=CLOCK, snapshots=snapshots,
        options=options(tmp_path),
    )  # fmt: skip
    assert report.skipped_cells == 2_000
    await record(feed, whole, strategy=quick_maker(), clock=CLOCK)
    feeds = [tape[tape["source"] != DESK_SOURCE] for tape in [await cells_of(log.tape) for log in (logs, whole)]]
    assert np.array_equal(*feeds)
    engine, decided = await refolded(logs, quick_maker)
    assert np.array_equal(await cells_of(logs.events), decided)
    assert engine.digests() == report.digests


async def test_commands_are_answered_and_a_live_tape_has_a_clock(tmp_path: Path) -> None:
    logs = new_logs(await inbox())
    assert logs.commands is not None
    ready = asyncio.Event()
    serving = asyncio.create_task(
        serve_ahead(
            "day",
            logs,
            strategy=idler(),
            sidecar=sidecar(logs, tmp_path),
            clock=CLOCK,
            options=options(tmp_path),
            timings=tmp_path / "stages",
            on_ready=ready.set,
        )
    )
    await asyncio.wait_for(ready.wait(), 60)
    await logs.commands.append(
        command_bytes(4, "account.kill", {"account": "late"}), expected_last=None, subject="cmd.v1.day.any.thing"
    )

    async def answers() -> list[dict[str, object]]:
        events = events_in(await cells_of(logs.events))
        return [event["body"] for event in events if event["type"] == "command.outcome"]

    async def both_came() -> bool:
        return len(await answers()) == 6 and (await cells_of(logs.tape))["kind"][-1] == Kind.CLOCK

    while not await both_came():
        assert not serving.done(), serving.result()
        await CLOCK.sleep_until(CLOCK.monotonic_ns() + POLL_NS)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    outcomes = [answer["outcome"] for answer in await answers()]
    assert outcomes == ["rejected", "repeated", "rejected", "parked", "accepted", "accepted"]
    _, decided = await refolded(logs, idler)
    assert np.array_equal(await cells_of(logs.events), decided)


async def test_feeds_of_other_processes_declare_their_instruments(tmp_path: Path) -> None:
    logs = new_logs()
    feeds = [GeneratedDay(seed=seed, cells=2_000) for seed in (1, 2)]
    names = ("east", "west")
    for name in names:
        Ring.create(name, cells=1 << 12, directory=tmp_path)
    pushing = [
        asyncio.create_task(push(feed, name, clock=CLOCK, directory=tmp_path))
        for feed, name in zip(feeds, names, strict=True)
    ]
    async with desk(logs, tmp_path, quick_maker(), feeds=names) as running:
        reports = await asyncio.gather(*pushing)
        await until(lambda: running.engine.idle, running.tasks)
    assert [report.dropped for report in reports] == [0, 0]
    tape = await cells_of(logs.tape)
    for feed, source in zip(feeds, (16, 17), strict=True):
        pushed = np.concatenate(list(feed.batches()))
        taped = tape[tape["source"] == source]
        for field in ("ts_event", "sequence", "order_id", "price", "size", "kind", "action", "side"):
            assert np.array_equal(pushed[field], taped[field])
    assert len(list(records_of(tape, Kind.DEFINITION))) == len(feeds[0].instruments), "both feeds trade the same ones"
    engine, decided = await refolded(logs, quick_maker)
    assert np.array_equal(await cells_of(logs.events), decided)
    assert engine.digests() == running.engine.engine.digests()


@pytest.mark.parametrize(
    ("record_", "message"),
    [
        (cell(int(Kind.TRADE), 9, price=1, size=1), "did not declare instrument 9"),
        (pack_payload(Kind.COMMAND, b"{}", ts_event=0, ts_recv=0), "may not say a record of kind 9"),
        (pack_payload(Kind.EPOCH, b"{}", ts_event=0, ts_recv=0), "may not say a record of kind 13"),
    ],
)
async def test_a_feed_says_only_what_a_feed_may_say(record_: Cells, message: str, tmp_path: Path) -> None:
    logs = new_logs()
    producer = Ring.produce("east", cells=1 << 12, directory=tmp_path)

    async def run() -> None:
        async with desk(logs, tmp_path, idler(), feeds=("east",)) as running:
            for cells in (SHARE.definition(ts_recv=1), cell(int(Kind.TRADE), 1, price=10_000_000, size=1), record_):
                producer.append(cells)
            await until(lambda: False, running.tasks)

    with pytest.raises(DataError, match=message):
        await run()
    producer.close()
    tape = await cells_of(logs.tape)
    assert (tape["kind"] == Kind.TRADE).sum() == 1, "what came before is on the tape, the wrong record is not"
    _, decided = await refolded(logs, idler)
    assert np.array_equal(await cells_of(logs.events), decided)


async def test_a_strategy_that_breaks_its_contract_stops_the_desk_and_no_cell_is_lost(tmp_path: Path) -> None:
    class Wild:
        name = "wild"

        def on_market(self, view: object) -> list[object]:
            return [1.5]

        def state(self) -> bytes:
            return b""

        def restore(self, state: bytes) -> None: ...

    logs = new_logs()
    feed = GeneratedDay(seed=7, cells=2_000)
    with pytest.raises(StrategyError, match="an intent is a float"):
        await record_ahead(
            "day", feed, logs, strategy=Wild(), sidecar=sidecar(logs, tmp_path), clock=CLOCK,
            options=options(tmp_path),
        )  # fmt: skip
    tape = await cells_of(logs.tape)
    assert len(tape) > 0
    assert list_rings(tmp_path) == []


async def test_a_desk_that_is_fenced_off_stops(tmp_path: Path) -> None:
    async def run() -> None:
        async with desk(new_logs(), tmp_path, idler()) as running:
            running.journal.set_word(FENCED, 1)
            await until(lambda: False, running.tasks)

    with pytest.raises(ConflictError, match="another writer has taken the tape over"):
        await run()


async def test_two_desks_cannot_run_one_tape(tmp_path: Path) -> None:
    logs = new_logs()
    async with desk(logs, tmp_path, idler()):
        with pytest.raises(ConflictError, match="runs this tape"):
            await desk(logs, tmp_path, idler()).__aenter__()


async def test_a_feed_that_is_not_there_any_more_leaves_a_gap_record(tmp_path: Path) -> None:
    logs = new_logs()
    for _ in range(2):  # The second time it is another ring of the same name.
        Ring.create("east", cells=1 << 12, policy=Policy.BLOCK, directory=tmp_path, reclaim=True)
        async with desk(logs, tmp_path, idler(), feeds=("east",)):
            pass
    tape = await cells_of(logs.tape)
    gaps = tape[tape["kind"] == Kind.GAP]
    assert gaps["source"].tolist() == [16]
    assert len(list(records_of(tape, Kind.EPOCH))) == 2


@pytest.mark.parametrize(("allowed", "are_told"), [(0, True), (1 << 60, False)])
async def test_the_loop_tells_when_it_was_away(tmp_path: Path, allowed: int, are_told: bool) -> None:
    """With no time allowed every turn without work is told; with all the time there is, none."""
    log, events = MemoryLog("TAPE_day", log_id=LOG_ID), MemoryLog("EVENTS_day", log_id=LOG_ID)
    with ExitStack() as rings:
        journal = create_journal(
            "journal", log_id=LOG_ID, writer=1, epoch=1, base_ordinal=0, commands_through=0, cells=1 << 10,
            directory=tmp_path,
        )  # fmt: skip
        rings.callback(journal.close)
        decided, published = ring_pair(rings, "decided", 1 << 10, Policy.BLOCK, tmp_path)
        gaps, told = ring_pair(rings, "gaps", 1 << 10, Policy.DROP, tmp_path)
        feed, taken = ring_pair(rings, "feed", 1 << 10, Policy.BLOCK, tmp_path)
        outlets = Outlets(decided=decided, published=published, gaps=gaps, gap_counts=allowed)
        state = TapeState(clock="history")
        sequencer = Sequencer(log, JournalWriter(journal), state, clock_source="history", clock=CLOCK, code="")
        writer = await FrameWriter.open(events, writer=1)
        engine = AheadEngine(Engine(idler()), sequencer, writer, journal, outlets, clock=CLOCK, busy=True)
        engine.add_feed(FeedRing(name="feed", source=16, ring=taken))
        engine.start()
        for number in range(3):
            feed.append(cell(Kind.STATUS, 0))
            await until(lambda number=number: journal.head == number + 1 and engine.idle)
        await until(lambda: told.lag > 0 or not are_told)
        await engine.stop()
        spans = words(told.readable())[:, :2].copy()
        told.release(len(spans))
    assert (len(spans) > 0) == are_told
    kept = spans[spans[:, 1] > 0]
    assert (kept[:, 1] > kept[:, 0]).all()
    assert (kept[1:, 0] >= kept[:-1, 1]).all(), "no gap is told twice"


async def test_told_to_it_parks_what_a_feed_says_and_nobody_knows(tmp_path: Path) -> None:
    commands = MemoryLog("CMDS_day", log_id=LOG_ID)
    payload = command_bytes(1, "desk.poison", {"policy": "park"})
    await commands.append(payload, expected_last=None, subject="cmd.v1.day.desk.poison")
    logs, ready = new_logs(commands), asyncio.Event()
    producer = Ring.produce("east", cells=1 << 12, directory=tmp_path)
    serving = asyncio.create_task(
        serve_ahead(
            "day", logs, strategy=quick_maker(), sidecar=sidecar(logs, tmp_path), clock=CLOCK,
            options=options(tmp_path, feeds=("east",)), on_ready=ready.set,
        )
    )  # fmt: skip
    await asyncio.wait_for(ready.wait(), 60)

    async def types() -> list[str]:
        return [event["type"] for event in events_in(await cells_of(logs.events))]

    while "desk.poison_set" not in await types():
        assert not serving.done(), serving.result()
        await CLOCK.sleep_until(CLOCK.monotonic_ns() + POLL_NS)
    producer.append(np.concatenate([SHARE.definition(ts_recv=1), level("buy", 99, 5), cell(127, 1), cell(127, 0)]))
    while (await types()).count("input.parked") < 2:
        assert not serving.done(), serving.result()
        await CLOCK.sleep_until(CLOCK.monotonic_ns() + POLL_NS)
    producer.append(level("sell", 101, 5))
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    producer.close()
    _, decided = await refolded(logs, quick_maker)
    assert np.array_equal(await cells_of(logs.events), decided)


async def test_gap_records_of_feeds_reach_their_own_books(tmp_path: Path) -> None:
    """By the feed's own ids, or all that it declared; replay of the tape agrees, and a lost ring is suspect."""
    logs = new_logs()
    west = Instrument(id=7, symbol="WEST", venue="WEST")
    second = Instrument(id=9, symbol="WEST2", venue="WEST")
    for name in ("east", "west"):
        Ring.create(name, cells=1 << 12, directory=tmp_path)

    def worth(engine: Engine) -> list[int]:
        return [int(confidence(engine.books, engine.route(number))) for number in sorted(engine.instruments)]

    async with desk(logs, tmp_path, quick_maker(), feeds=("east", "west")) as running:
        with Ring.produce("east", directory=tmp_path) as ring:
            ring.append(np.concatenate([SHARE.definition(ts_recv=1), level("buy", 99, 5), level("sell", 101, 5)]))
            await until(lambda: running.engine.idle, running.tasks)
            ring.append(gap_record(Cause.DISCONNECTED, Confidence.SUSPECT, ts_recv=NOW))
            ring.append(gap_record(Cause.SNAPSHOT, Confidence.GOOD, ts_recv=NOW))
            ring.append(gap_record(Cause.SEQUENCE, Confidence.REBUILDING, ts_recv=NOW, instrument=1, missing=3))
            await until(lambda: running.engine.idle, running.tasks)
        with Ring.produce("west", directory=tmp_path) as ring:
            ring.append(np.concatenate([item.definition(ts_recv=1) for item in (west, second)]))
            ring.append(np.concatenate([level("buy", 99, 5, 7), level("buy", 99, 5, 9)]))
            ring.append(gap_record(Cause.DROPPED, Confidence.SUSPECT, ts_recv=NOW))
            ring.append(gap_record(Cause.SNAPSHOT, Confidence.GOOD, ts_recv=NOW, instrument=9))
            await until(lambda: running.engine.idle, running.tasks)
        live = running.engine.engine
    assert worth(live) == [Confidence.REBUILDING, Confidence.SUSPECT, Confidence.GOOD]
    engine, decided = await refolded(logs, quick_maker)
    assert worth(engine) == worth(live)
    assert engine.digest() == live.digest()
    assert np.array_equal(await cells_of(logs.events), decided)

    async with desk(logs, tmp_path, quick_maker(), feeds=("west",)):
        pass
    tape = await cells_of(logs.tape)
    gaps = tape[tape["kind"] == Kind.GAP]
    assert gaps["source"].tolist() == [16, 16, 16, 17, 17, 16]
    assert gaps["instrument"].tolist() == [0, 0, 1, 0, 3, 0]
    assert (gaps["action"][-1], gaps["depth"][-1]) == (Cause.DETACHED, Confidence.SUSPECT)
    engine, _ = await refolded(logs, quick_maker)
    assert worth(engine) == [Confidence.SUSPECT, Confidence.SUSPECT, Confidence.GOOD], "east is gone, west is not"


async def test_a_ring_that_dropped_makes_its_books_suspect(tmp_path: Path) -> None:
    logs = new_logs()
    Ring.create("east", cells=64, policy=Policy.DROP, directory=tmp_path)
    with Ring.produce("east", directory=tmp_path) as ring:
        ring.append(np.concatenate([SHARE.definition(ts_recv=1), *[level("buy", 99, 5)] * 90]))
    async with desk(logs, tmp_path, quick_maker(), feeds=("east",)) as running:
        await until(lambda: running.engine.idle, running.tasks)
        with Ring.produce("east", directory=tmp_path) as ring:
            ring.append(level("buy", 98, 5))
            await until(lambda: running.engine.idle, running.tasks)
        assert confidence(running.engine.engine.books, 0) == Confidence.SUSPECT
    tape = await cells_of(logs.tape)
    gap = tape[tape["kind"] == Kind.GAP]
    assert (gap["action"].tolist(), gap["depth"].tolist()) == ([Cause.DROPPED], [Confidence.SUSPECT])
    assert gap["count"].sum() == 90 - (tape["source"] == 16).sum() + 2
