"""Replay sessions: whatever the speed, the same decisions and the same state as live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from tapehouse.core import VirtualClock
from tapehouse.core.errors import DecodeError, GapError
from tapehouse.engine import Engine, Strategy
from tapehouse.log import FrameWriter, MemoryLog, decode_frame
from tapehouse.market import Cells
from tapehouse.replay import Pace, Session, SessionReport
from tests.support.bench import LOG_ID, cells_of, quick_maker, quick_watcher, shared_day

PACES = {
    "max": Pace(),
    "1x": Pace(speed=1.0),
    "10x": Pace(speed=10.0),
    "10x, then max": Pace(speed=10.0, paced_ns=3_600_000_000_000),
    "1x for nothing": Pace(speed=1.0, paced_ns=0),
    "very fast": Pace(speed=1_000_000.0),
}


async def replay(
    tape: MemoryLog, make: Callable[[], Strategy], pace: Pace | None = None, *, clock: VirtualClock | None = None
) -> tuple[SessionReport, Cells]:
    outputs: list[Cells] = []
    engine = Engine(make())
    session = Session("replay", tape, engine, clock=clock or VirtualClock(7), pace=pace, on_outputs=outputs.append)
    report = await session.run()
    return report, np.concatenate(outputs)


async def tape_of(cells: Cells, frame_cells: int) -> MemoryLog:
    tape = MemoryLog("TAPE_day", log_id=LOG_ID)
    await (await FrameWriter.open(tape, writer=1, frame_cells=frame_cells)).append(cells)
    return tape


@pytest.mark.parametrize("make", [quick_maker, quick_watcher])
@pytest.mark.parametrize("name", PACES)
async def test_every_speed_decides_as_live(make: Callable[[], Strategy], name: str) -> None:
    logs, report, cells, events = shared_day(make)
    replayed, outputs = await replay(logs.tape, make, PACES[name])  # type: ignore[arg-type]
    assert replayed.digests == report.digests
    assert np.array_equal(outputs, events)
    assert replayed.cells == len(cells)


@pytest.mark.parametrize("frame_cells", [300, 1_000, 32_768])
async def test_every_framing_and_speed_decides_as_live(frame_cells: int) -> None:
    _, report, cells, events = shared_day(quick_maker)
    tape = await tape_of(cells, frame_cells)
    for pace in (PACES["max"], PACES["10x"]):
        replayed, outputs = await replay(tape, quick_maker, pace)
        assert replayed.digests == report.digests
        assert np.array_equal(outputs, events)


async def test_a_paced_day_takes_its_time_divided_by_the_speed() -> None:
    logs, _, cells, _ = shared_day(quick_maker)
    times = cells["ts_recv"][cells["cells"] > 0]
    length = int(times.max() - times[0])
    for speed in (1.0, 10.0):
        clock = VirtualClock(0)
        replayed, _ = await replay(logs.tape, quick_maker, Pace(speed=speed), clock=clock)  # type: ignore[arg-type]
        assert replayed.seconds == pytest.approx(length / speed / 1e9, rel=1e-9)
        assert replayed.paced_seconds == replayed.seconds
        assert (replayed.lateness_p50_us, replayed.lateness_p99_us, replayed.drift_us) == (0.0, 0.0, 0.0)
        assert clock.monotonic_ns() == int(length / speed)


async def test_after_the_paced_part_the_rest_comes_at_once() -> None:
    logs, _, cells, _ = shared_day(quick_maker)
    held = 1_000_000_000_000
    times = cells["ts_recv"][cells["cells"] > 0]
    assert times.max() - times[0] > 10 * held
    replayed, _ = await replay(logs.tape, quick_maker, Pace(speed=10.0, paced_ns=held))  # type: ignore[arg-type]
    last = int(times[times <= times[0] + held].max() - times[0])
    assert replayed.seconds == pytest.approx(last / 10 / 1e9, rel=1e-6)
    at_once, _ = await replay(logs.tape, quick_maker, Pace(speed=10.0, paced_ns=0))  # type: ignore[arg-type]
    assert at_once.seconds == 0.0


class Looking(VirtualClock):
    """Notes what a session had applied whenever it sleeps."""

    def __init__(self) -> None:
        super().__init__(0)
        self.engine: Engine | None = None
        self.seen: list[tuple[int, int]] = []

    async def sleep_until(self, monotonic_ns: int) -> None:
        await super().sleep_until(monotonic_ns)
        if self.engine is not None and self.engine.cells:
            self.seen.append((self.monotonic_ns(), self.engine.now))


async def test_nothing_is_applied_before_it_is_due_nor_left_behind() -> None:
    logs, _, cells, _ = shared_day(quick_maker)
    start = int(cells["ts_recv"][0])
    clock = Looking()
    clock.engine = Engine(quick_maker())
    await Session("replay", logs.tape, clock.engine, clock=clock, pace=Pace(speed=10.0)).run()
    assert len(clock.seen) > 1_000
    for wall, applied in clock.seen:
        assert (applied - start) // 10 <= wall


async def test_progress_is_told_frame_by_frame_and_a_part_can_be_replayed() -> None:
    _, _, cells, _ = shared_day(quick_maker)
    tape = await tape_of(cells, 500)
    progress: list[int] = []
    engine = Engine(quick_maker())
    session = Session("part", tape, engine, clock=VirtualClock(), through=3, on_progress=progress.append)
    report = await session.run()
    ends = [decode_frame(message.payload)[0].next_ordinal async for message in tape.read(1, through=3)]
    assert progress == ends
    assert (report.name, report.cells) == ("part", ends[-1])


async def test_others_may_run_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapehouse.replay.session.YIELD_CELLS", 500)
    _, _, cells, _ = shared_day(quick_maker)
    tape = await tape_of(cells, 100)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await replay(tape, quick_maker)
    task.cancel()
    assert turns >= len(cells) // 600


async def test_a_tape_without_its_beginning_is_not_replayed() -> None:
    _, _, cells, _ = shared_day(quick_maker)
    tape = await tape_of(cells, 500)
    await tape.trim(3)
    with pytest.raises(GapError, match="cell 0 is missing"):
        await replay(tape, quick_maker)


async def test_a_damaged_tape_names_the_sequence() -> None:
    _, _, cells, _ = shared_day(quick_maker)
    tape = await tape_of(cells, 500)
    payload = bytearray((await anext(tape.read(4))).payload)
    payload[-1] ^= 1
    tape.corrupt(4, bytes(payload))
    with pytest.raises(DecodeError, match=r"TAPE_day, sequence 4.*checksum"):
        await replay(tape, quick_maker)


async def test_an_empty_tape_is_a_session_of_nothing() -> None:
    report = await Session("none", MemoryLog("TAPE_none"), Engine(quick_maker()), clock=VirtualClock()).run()
    assert (report.cells, report.digests.decisions, report.cells_per_second) == (0, 0, 0.0)


async def test_the_reports_rate_is_cells_over_the_whole_time() -> None:
    logs, _, cells, _ = shared_day(quick_maker)
    report, _ = await replay(logs.tape, quick_maker, Pace(speed=10.0))  # type: ignore[arg-type]
    assert report.cells_per_second == pytest.approx(len(cells) / report.seconds)
    assert len(await cells_of(logs.tape)) == report.cells
