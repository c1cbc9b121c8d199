"""The sidecar: whatever becomes of its appends, its broker and itself, every cell is on the tape once, in order.

The checker is an obvious one: all that the producer appended, concatenated, against all cells of the tape. A sidecar
that gives ring space back too early, and one that forgets its spill, are the controls that it must catch.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapehouse.core import BusUnavailableError, ConflictError, IntegrityError, TapehouseError
from tapehouse.engine.frame_files import read_frames
from tapehouse.engine.journal import Journal, JournalView, create_journal
from tapehouse.engine.sidecar import Sidecar
from tapehouse.log import FrameHeader, decode_frame, encode_frame, segment
from tapehouse.market import empty_cells
from tapehouse.ring import Ring
from tests.support.cells import LOG_ID, market_cells
from tests.support.drain_world import EPOCH, FAULTS, NEVER, WRITER, KilledError, World, check_frames

MEMORY = "/dev/shm"  # what is killed here is a process, never the machine, so no disk has to sync
STORM = ["fine", "late", "away", "unheard", "lost", "fine", "late", "blind", "fine", "away", "late"]


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sidecar", dir=MEMORY) as name:
        yield Path(name)


def run(coroutine: object) -> None:
    asyncio.run(coroutine)  # type: ignore[arg-type]


async def test_a_quiet_day(place: Path) -> None:
    world = World(place, batches=30)
    report = await world.finish()
    await world.check()
    assert (report.ended, report.left_cells, report.outages) == ("closed", 0, 0)
    assert report.cells == sum(map(len, world.appended))
    assert not list((place / "spill").iterdir())
    frames = await world.tape()
    assert max(header.count for header, _ in frames) <= 255  # frames of 48 cells, or of one longer record
    with Ring.observe("world", directory=place / "rings") as seen:
        assert JournalView(seen).committed == seen.head == seen.tail


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", [0, 1, 5])
async def test_one_fault_of_each_kind_costs_nothing(place: Path, fault: str, at: int) -> None:
    world = World(place, faults=["fine"] * at + [fault], seed=at)
    report = await world.finish()
    await world.check()
    assert (report.outages == 1) == (fault == "away")


async def test_one_outage_after_another(place: Path) -> None:
    """The second spill of a life does not go on where the first one ended."""
    faults = ["fine", *["away", *["fine"] * 30] * 3]
    world = World(place, faults=faults, batches=250, seed=1)
    report = await world.finish()
    await world.check()
    assert report.outages >= 2


@given(
    faults=st.lists(st.sampled_from(FAULTS), max_size=30),
    seed=st.integers(0, 10**6),
    frame_cells=st.integers(1, 300),
    kills=st.lists(st.integers(1, 120), max_size=6),
    with_files=st.booleans(),
    spill_bytes_max=st.sampled_from([0, 9000, 40_000, 1 << 30]),
    segment_bytes=st.sampled_from([21_000, 40_000, 1 << 26]),
)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_any_schedule_of_faults_and_kills_loses_and_doubles_nothing(
    faults: list[str],
    seed: int,
    frame_cells: int,
    kills: list[int],
    with_files: bool,
    spill_bytes_max: int,
    segment_bytes: int,
) -> None:
    async def scenario(place: Path) -> None:
        world = World(
            place,
            faults=faults,
            seed=seed,
            frame_cells=frame_cells,
            with_files=with_files,
            spill_bytes_max=spill_bytes_max,
        )
        for kill in kills:
            if await world.live(kill_at=kill) is not None:
                break
        else:
            await world.finish()
        await world.check()
        if with_files:
            check_frames(list(read_frames(place / "copy")), world.appended, base_ordinal=0, commands=10)

    with tempfile.TemporaryDirectory(prefix="sidecar", dir=MEMORY) as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "SEGMENT_BYTES_MAX", segment_bytes)  # So that spills and copies have several files.
        run(scenario(Path(name)))


@pytest.mark.parametrize("with_files", [False, True])
async def test_killed_once_at_every_step(place: Path, with_files: bool) -> None:
    whole = World(place / "whole", faults=STORM, seed=5, with_files=with_files)
    await whole.live()
    steps = whole.log.steps.taken
    assert steps > 150
    killed = 0
    for step in range(1, steps + 1):
        world = World(place / str(step), faults=STORM, seed=5, with_files=with_files)
        killed += await world.live(kill_at=step) is None
        await world.finish()
        await world.check()
        if with_files:
            copied = list(read_frames(place / str(step) / "copy"))
            check_frames(copied, world.appended, base_ordinal=0, commands=10)
    assert killed > steps * 0.9


async def test_the_producer_dies_and_everything_that_it_published_is_durable(place: Path) -> None:
    world = World(place)
    world.producer.append(market_cells(1, 100))
    world.appended.append(market_cells(1, 100))
    world.pump = world.log.on_call = lambda: None  # type: ignore[method-assign]
    world.clock._pump = lambda: None
    world.producer._let_go()  # The descriptor alone goes, as with kill -9: nothing says that the ring is closed.
    world.producer._address = 0
    report = await world.finish()
    assert (report.ended, report.left_cells) == ("producer died", 0)
    await world.check()


async def test_stopped_with_the_broker_away_it_loses_nothing(place: Path) -> None:
    world = World(place, faults=["fine", "away", *["refused"] * 100], batches=60, seed=3)
    naps = 0
    pump = world.pump

    def stop_later() -> None:
        nonlocal naps
        naps += 1
        pump()
        if naps == 200 and world.sidecar is not None:
            world.sidecar.stop()

    world.clock._pump = world.log.on_call = stop_later
    report = await world.live()
    assert report is not None
    assert report.ended == "stopped"
    assert report.left_cells > 0
    assert report.spilled_cells > 0
    world.log.faults.clear()
    world.clock._pump = world.log.on_call = pump
    again = await world.finish()
    assert again.ended == "closed"
    await world.check()


async def test_a_full_spill_pushes_back_and_loses_nothing(place: Path) -> None:
    world = World(place, faults=["fine", *["away"] * 4], batches=200, seed=8, spill_bytes_max=30_000)
    report = await world.finish()
    await world.check()
    assert report.outages >= 1
    assert world.sidecar is not None
    assert world.sidecar.metrics.get("drain_spill_full_total") > 0


async def test_an_answer_that_never_comes_does_not_hold_the_ring(place: Path) -> None:
    """The broker takes an append and hangs: the cells go to the spill, and the message counts when it is there."""
    world = World(place, seed=2)
    hanging = 1
    real = world.log.append

    async def append(payload: bytes, **fences: object) -> int:
        nonlocal hanging
        sequence = await real(payload, **fences)  # type: ignore[arg-type]
        if hanging:
            hanging -= 1
            await asyncio.Event().wait()
        return sequence

    world.log.append = append  # type: ignore[method-assign]
    report = await world.live()
    assert report is not None
    assert report.outages >= 1
    await world.check()


# Another writer.


def foreign_frame(first_ordinal: int, *, writer: int = 99, epoch: int = EPOCH + 1) -> bytes:
    header = FrameHeader(log_id=LOG_ID, writer=writer, epoch=epoch, first_ordinal=first_ordinal)
    return encode_frame(market_cells(9, 5), header)


@pytest.mark.parametrize("spilled", [False, True])
async def test_a_successor_fences_the_journal_off_and_nothing_of_it_is_thrown_away(place: Path, spilled: bool) -> None:
    faults = ["fine", "fine", *(["away"] if spilled else [])]
    world = World(place, faults=faults, batches=40, seed=4)
    real = world.log.append
    count = 0

    async def append(payload: bytes, **fences: object) -> int:
        nonlocal count
        count += 1
        if count == 4:
            tail = decode_frame((await world.log.last()).payload)[0]  # type: ignore[union-attr]
            world.log._messages.append(
                type(world.log._messages[0])(
                    sequence=(await world.log.extent()).last + 1,
                    subject="t",
                    payload=foreign_frame(tail.next_ordinal),
                )
            )
        return await real(payload, **fences)  # type: ignore[arg-type]

    world.log.append = append  # type: ignore[method-assign]
    with pytest.raises(ConflictError, match=r"another writer .* cells from ordinal \d+ on are not on the tape"):
        await world.live()
    consumer = Ring.consume("world", directory=place / "rings")
    journal = Journal(consumer)
    assert journal.is_fenced
    frames = await world.tape()
    assert frames[-1][0].writer == 99
    ours = [(header, cells) for header, cells in frames if header.writer == WRITER]
    in_spill = [
        (header, cells)
        for directory in (place / "spill").iterdir()
        if list(directory.glob("*.seg"))
        for header, cells in read_frames(directory)
    ]
    through = ours[-1][0].next_ordinal
    kept = [cells[max(0, through - header.first_ordinal) :] for header, cells in in_spill]
    there = np.concatenate([*(cells for _, cells in ours), *kept, consumer.readable()])
    assert there.tobytes() == np.concatenate(world.appended).tobytes()
    assert journal.committed == through
    consumer.close()
    with pytest.raises(ConflictError, match="an earlier life of the sidecar was fenced off"):
        await world.live()


@pytest.mark.parametrize(
    ("first_ordinal", "epoch", "error"),
    [(0, EPOCH, ConflictError), (0, EPOCH + 1, ConflictError)],
)
async def test_a_tape_that_another_one_began_is_not_touched(
    place: Path, first_ordinal: int, epoch: int, error: type[TapehouseError]
) -> None:
    world = World(place)
    await world.log.append(foreign_frame(first_ordinal, epoch=epoch), expected_last=0)
    with pytest.raises(error):
        await world.live()
    assert len(await world.tape()) == 1


async def test_another_log_is_not_touched(place: Path) -> None:
    world = World(place)
    world.log._branches = (type(world.log._branches[0])(log_id=b"x" * 16),)
    with pytest.raises(IntegrityError, match="another log"):
        await world.live()


async def test_acknowledged_cells_that_are_gone_stop_it(place: Path) -> None:
    world = World(place, batches=40, seed=6)
    real = world.log.append

    async def append(payload: bytes, **fences: object) -> int:
        if len(world.log._messages) == 5:
            del world.log._messages[2:]
        return await real(payload, **fences)  # type: ignore[arg-type]

    world.log.append = append  # type: ignore[method-assign]
    with pytest.raises(IntegrityError, match="acknowledged data is gone"):
        await world.live()


def test_a_journal_that_is_not_all_on_its_tape_is_not_replaced(place: Path) -> None:
    def make() -> None:
        create_journal(
            "j", cells=64, log_id=LOG_ID, writer=1, epoch=1, base_ordinal=5, commands_through=0, directory=place
        ).close()

    make()
    make()  # An empty one is.
    producer = Ring.produce("j", directory=place)
    producer.append(market_cells(1, 3))
    producer.close()
    consumer = Ring.consume("j", directory=place)
    consumer.release(3)  # As when all of it is in a spill.
    consumer.close()
    with pytest.raises(ConflictError, match="3 cells that are not on its tape"):
        make()


# Controls: the checker must catch these sidecars.


class EarlySidecar(Sidecar):
    """Gives ring space back before TAPE has acknowledged."""

    async def _make_durable(self, frame: bytes, header: FrameHeader) -> bool:
        self._release(frame, header)
        assert self._tape is not None
        await self._place_in_time(self._tape, frame, header)
        return True


class ForgetfulSidecar(Sidecar):
    """Takes the frame out of the spill before TAPE has acknowledged."""

    async def _catch_up(self) -> None:
        assert self._spill is not None
        assert self._tape is not None
        while not self._spill.is_empty:
            frame, header = self._spill.first()
            self._spill.pop()
            try:
                await self._tape.place(frame, header, until_ns=0)
            except BusUnavailableError:
                continue
            self._commit()


async def finds_a_loss(world: World, kill_at: int) -> bool:
    try:
        await world.live(kill_at=kill_at)
        await world.finish()
        await world.check()
    except (AssertionError, TapehouseError):
        return True
    return False


@pytest.mark.parametrize("sidecar", [EarlySidecar, ForgetfulSidecar])
async def test_control_a_sidecar_that_lets_go_too_early_is_caught(place: Path, sidecar: type[Sidecar]) -> None:
    caught = 0
    for step in range(1, 160, 2):
        world = World(place / f"{step}", faults=["fine", "away", "fine"], seed=5, sidecar=sidecar)
        caught += await finds_a_loss(world, step)
    assert caught > 0


async def test_control_kills_are_real(place: Path) -> None:
    world = World(place)
    world.log.steps.last = 1
    with pytest.raises(KilledError):
        await world.log.extent()
    assert NEVER > 10**6
    with pytest.raises(AssertionError, match="lost, doubled or changed"):
        check_frames([], [market_cells(0, 1)], base_ordinal=0, commands=0)
    check_frames([], [empty_cells(0)], base_ordinal=0, commands=0)
