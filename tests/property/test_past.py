"""Projections from snapshots and the tails of their logs are those of a whole refold, byte for byte, at any moment."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.app.past import StateAt, read_state_at
from tapehouse.app.projections import NAMES, Source, make_projections
from tapehouse.app.state_keeper import KeptStates, StateKeeper
from tapehouse.core.errors import BusUnavailableError, GapError, IntegrityError, MissingError, UsageError
from tapehouse.log import Branch, FrameHeader, FrameWriter, MemoryLog, machine_snaps
from tapehouse.log.snaps import MemorySnaps
from tapehouse.market import Cells
from tapehouse.query.books import Moment
from tests.support.desk_day import LOG_ID, START, DeskDay, make_day, split

EVERY: dict[Source, int] = {"tape": 400, "events": 150}
FOLDED_MAX = {"tape": 400 + 2 * 50 + 60, "events": 150 + 2 * 40 + 60}  # a span, and the frames at its ends


async def keep(source: Source, log: MemoryLog, snaps: MemorySnaps) -> KeptStates:
    return await StateKeeper(log, snaps, tape="day", source=source, cells_every=EVERY[source]).run()


@cache
def kept_day() -> tuple[DeskDay, MemorySnaps]:
    """A day with a strategy and commands in small frames, and all its states; not to be changed."""

    async def make() -> tuple[DeskDay, MemorySnaps]:
        day, snaps = await make_day(seed=4, records=1500, frame_cells=50), MemorySnaps()
        for source, log in logs(day).items():
            await keep(source, log, snaps)
        return day, snaps

    with ThreadPoolExecutor(1) as pool:  # Also for tests that run in a loop of their own.
        return pool.submit(asyncio.run, make()).result()


def logs(day: DeskDay) -> dict[Source, MemoryLog]:
    return {"tape": day.tape, "events": day.events}


class Over(MemorySnaps):
    """On messages that are there."""

    def __init__(self, stored: dict[str, bytes]) -> None:
        super().__init__()
        self.stored = stored


def prefix(cells: Cells, source: Source, moment: Moment) -> Cells:
    """What counts, found record by record."""
    at = 0
    while at < len(cells):
        cell = cells[at]
        tape_cell = at if source == "tape" else int(cell["sequence"])
        if moment.time is not None and int(cell["ts_recv"]) > moment.time:
            break
        if moment.ordinal is not None and tape_cell > moment.ordinal:
            break
        at += int(cell["cells"])
    return cells[:at]


@cache
def refolded(source: Source, cells: int) -> dict[str, str]:
    """The digests of empty machines that folded so many cells in one piece."""
    day, _ = kept_day()
    whole = day.cells if source == "tape" else day.outputs
    header = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0)
    machines = make_projections()[source]
    for machine in machines:
        if cells:
            machine.apply(header, whole[:cells])
    return {machine.name: machine.digest().hex() for machine in machines}


def of_events(state: StateAt) -> dict[str, str]:
    return {name: digest for name, digest in state.digests().items() if name in NAMES["events"]}


async def ask(snaps: MemorySnaps | None, moment: Moment | None, **more: Any) -> StateAt:
    day, _ = kept_day()
    return await read_state_at(day.tape, day.events, snaps, name="day", moment=moment, **more)


def assert_is(state: StateAt, moment: Moment) -> None:
    day, _ = kept_day()
    sources: dict[Source, Cells] = {"tape": day.cells, "events": day.outputs}
    counted = {source: prefix(cells, source, moment) for source, cells in sources.items()}
    expected = {name: digest for source in counted for name, digest in refolded(source, len(counted[source])).items()}
    assert state.digests() == expected
    for source, cells in counted.items():
        assert state.positions[source].next_ordinal == len(cells)
        times = cells["ts_recv"][cells["cells"] > 0]
        assert state.positions[source].ts_ns == (int(times.max()) if len(times) else None)


@given(
    share=st.floats(0, 1),
    by_time=st.booleans(),
    there=st.sampled_from(["all", "none", "some", "no store"]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_snapshots_and_tails_are_a_whole_refold(share: float, by_time: bool, there: str, seed: int) -> None:
    day, whole = kept_day()
    at = int(share * (len(day.cells) - 1))
    starts = np.flatnonzero(day.cells["cells"][: at + 1])
    moment = Moment(time=int(day.cells["ts_recv"][starts[-1]])) if by_time else Moment(ordinal=at)
    rng = random.Random(seed)
    stored = {"all": whole.stored, "none": {}, "some": {k: v for k, v in whole.stored.items() if rng.random() < 0.5}}
    state = asyncio.run(ask(None if there == "no store" else Over(dict(stored[there])), moment))
    assert_is(state, moment)
    assert not state.refused
    if there == "all":
        for source, names in NAMES.items():
            for name in names:
                assert state.cells_folded[name] <= FOLDED_MAX[source]
    elif there != "some":
        assert set(state.snapshots.values()) == {None}


def test_the_day_has_states_of_all_projections() -> None:
    _, whole = kept_day()
    for names in NAMES.values():
        for name in names:
            assert sum(subject.startswith(f"snap.v1.{name}.") for subject in whole.stored) >= 3


async def test_the_end_is_what_is_asked_for_without_a_moment() -> None:
    day, whole = kept_day()
    state = await ask(whole, None)
    assert_is(state, Moment(ordinal=len(day.cells) - 1))
    only = await ask(whole, None, names=["orders"])
    assert only.digests() == {"orders": state.digests()["orders"]}
    assert set(only.positions) == {"events"}
    assert only.items("orders/") == state.items("orders/")
    assert only.describe()["snapshots"] == {"orders": state.snapshots["orders"]}


async def test_what_a_position_is_worth_is_read_at_one_cut_of_both_logs() -> None:
    day, whole = kept_day()
    moment = Moment(ordinal=len(day.cells) // 2)
    state = await ask(whole, moment, names=["positions"])
    assert set(state.digests()) == {"positions", "prices"}
    for prefix in ("positions/", "pnl/", "cash/"):
        assert state.items(prefix) == (await ask(None, moment)).items(prefix)
    for value in state.items("positions/").values():
        assert value["mark_as_of"] <= moment.ordinal
        assert value["as_of"] <= moment.ordinal
    assert state.items("pnl/")


async def test_decisions_on_the_record_of_the_cell_count_and_no_later_ones() -> None:
    """A command's answer is there at its own cells, from the first to the last, and not at the cell before."""
    day, whole = kept_day()
    first = int(
        day.outputs["sequence"][day.outputs["cells"] > 0][day.outputs["kind"][day.outputs["cells"] > 0] == 11][3]
    )
    length = int(day.cells["cells"][first])
    counts = [
        (await ask(whole, Moment(ordinal=first + step))).positions["events"].next_ordinal
        for step in (-1, 0, length - 1)
    ]
    assert counts[0] < counts[1] == counts[2]


async def test_what_the_desk_has_not_decided_yet_is_told() -> None:
    day, _ = kept_day()
    behind = MemoryLog("EVENTS_day", log_id=LOG_ID[::-1])
    writer = await FrameWriter.open(behind, writer=2)
    await writer.append(day.outputs[: split(day.outputs, 50)[3][1]], input_ordinal=300)
    early = int(day.outputs["sequence"][0])
    complete = {
        ordinal: (await read_state_at(day.tape, behind, None, name="day", moment=Moment(ordinal=ordinal))).complete
        for ordinal in (early, 299, 300, len(day.cells) - 1)
    }
    assert complete == {early: True, 299: True, 300: False, len(day.cells) - 1: False}
    prices = await read_state_at(day.tape, behind, None, name="day", names=["prices"])
    assert prices.complete is None


# Who writes.


async def test_two_keepers_and_a_rerun_store_everything_once() -> None:
    day, whole = kept_day()
    snaps = MemorySnaps()
    fresh = 0
    for source, log in logs(day).items():
        both = await asyncio.gather(keep(source, log, snaps), keep(source, log, snaps))
        fresh += sum(one.messages for one in both)
        again = await keep(source, log, snaps)
        assert (again.messages, again.refused) == (0, [])
        assert min(again.begun_at.values()) > 0
    assert snaps.stored == whole.stored
    assert fresh == len(whole.stored)


async def test_a_keeper_follows_what_is_appended() -> None:
    day, whole = kept_day()
    grown, snaps = MemoryLog("EVENTS_day", log_id=LOG_ID[::-1]), MemorySnaps()
    keeper = StateKeeper(grown, snaps, tape="day", source="events", cells_every=EVERY["events"])
    task = asyncio.create_task(keeper.run(follow=True))
    async for message in day.events.read(1):
        await grown.append(message.payload, expected_last=message.sequence - 1)
        await asyncio.sleep(0)
    wanted = {k for k in whole.stored if k.split(".")[2] in NAMES["events"]}
    while snaps.stored.keys() != wanted:
        assert not task.done()
        await asyncio.sleep(0)
    task.cancel()
    assert all(snaps.stored[subject] == whole.stored[subject] for subject in wanted)


class DyingSnaps(Over):
    """Stores so many messages, then is gone."""

    def __init__(self, left: int) -> None:
        super().__init__({})
        self.left = left

    async def store(self, subject: str, payload: bytes) -> bool:
        if self.left == 0:
            raise BusUnavailableError("killed")
        self.left -= 1
        return await super().store(subject, payload)


async def test_a_keeper_that_was_killed_anywhere_goes_on() -> None:
    day, whole = kept_day()
    of_events = {k: v for k, v in whole.stored.items() if k.split(".")[2] in NAMES["events"]}
    for after in range(len(of_events)):
        snaps = DyingSnaps(after)
        with pytest.raises(BusUnavailableError):
            await keep("events", day.events, snaps)
        again = await keep("events", day.events, Over(snaps.stored))
        assert again.messages == len(of_events) - after
        assert snaps.stored == of_events


async def test_a_state_of_many_parts_is_whole_or_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    day, _ = kept_day()
    monkeypatch.setattr(machine_snaps, "PART_BYTES", 2000)
    snaps = MemorySnaps()
    await keep("events", day.events, snaps)
    many = [subject for subject in snaps.stored if not subject.endswith(".1.0")]
    assert many
    moment = Moment(ordinal=len(day.cells) - 1)
    state = await ask(snaps, moment, names=NAMES["events"])
    subject = f"snap.v1.orders.2.day.{LOG_ID[::-1].hex()}.{state.snapshots['orders']}."
    newest = [name for name in many if name.startswith(subject)]
    assert len(newest) > 1
    torn = await ask(Over({k: v for k, v in snaps.stored.items() if k != newest[1]}), moment, names=NAMES["events"])
    assert torn.digests() == state.digests()
    assert torn.snapshots["orders"] < state.snapshots["orders"]
    assert torn.snapshots["positions"] == state.snapshots["positions"]


async def test_a_state_that_is_too_large_is_not_kept_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    day, _ = kept_day()
    monkeypatch.setattr(machine_snaps, "PART_BYTES", 500)
    monkeypatch.setattr(machine_snaps, "PARTS_MAX", 4)
    snaps = MemorySnaps()
    kept = await keep("events", day.events, snaps)
    assert kept.too_large["orders"] > 0
    moment = Moment(ordinal=len(day.cells) - 1)
    state = await ask(snaps, moment, names=NAMES["events"])
    assert of_events(state) == refolded("events", len(day.outputs))


# What is damaged, foreign or gone.


async def test_a_damaged_state_is_told_and_the_one_before_is_used() -> None:
    day, whole = kept_day()
    moment = Moment(ordinal=len(day.cells) - 1)
    good = await ask(whole, moment, names=["orders"])
    (subject,) = [
        name for name in whole.stored if f"orders.2.day.{LOG_ID[::-1].hex()}.{good.snapshots['orders']}." in name
    ]
    for at in range(0, len(whole.stored[subject]), 97):
        damaged = bytearray(whole.stored[subject])
        damaged[at] ^= 1
        state = await ask(Over({**whole.stored, subject: bytes(damaged)}), moment, names=["orders"])
        assert len(state.refused) == 1
        assert state.refused[0].startswith(f"orders at cell {good.snapshots['orders']}, sequence ")
        assert state.digests() == good.digests()
        assert state.cells_folded["orders"] > good.cells_folded["orders"]
    for other in whole.stored:  # Another's bytes under its subject, also of another machine or place.
        if other != subject:
            state = await ask(Over({**whole.stored, subject: whole.stored[other]}), moment, names=["orders"])
            assert "says something else than its subject" in state.refused[0]
            assert state.digests() == good.digests()


async def test_states_of_another_branch_or_version_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    day, whole = kept_day()
    restored = MemoryLog("EVENTS_day", branches=(Branch(log_id=b"other log id 16b"),))
    writer = await FrameWriter.open(restored, writer=2)
    for start, end in split(day.outputs, 50):
        await writer.append(day.outputs[start:end])
    state = await read_state_at(day.tape, restored, whole, name="day", names=["orders"])
    assert (state.snapshots, state.refused) == ({"orders": None}, [])
    monkeypatch.setattr("tapehouse.desk.orders_projection.OrdersProjection.version", 99)
    newer = await ask(whole, None, names=["orders", "positions"])
    assert newer.snapshots["orders"] is None
    assert newer.snapshots["positions"] is not None
    assert of_events(newer) == refolded("events", len(day.outputs))


async def test_a_trimmed_log_is_read_from_its_states() -> None:
    day, whole = await make_day(seed=4, records=1500, frame_cells=50), kept_day()[1]
    moment = Moment(ordinal=len(day.cells) - 1)
    await day.events.trim((await day.events.extent()).last - 12)
    state = await read_state_at(day.tape, day.events, whole, name="day", moment=moment, names=NAMES["events"])
    assert of_events(state) == refolded("events", len(day.outputs))
    with pytest.raises(GapError, match="was trimmed"):
        await read_state_at(day.tape, day.events, None, name="day", moment=moment, names=["orders"])


async def test_a_state_whose_place_is_no_end_of_a_frame_halts() -> None:
    """The log has other frames than the one that the states were taken of, under one id."""
    day, whole = kept_day()
    other = MemoryLog("EVENTS_day", log_id=LOG_ID[::-1])
    writer = await FrameWriter.open(other, writer=2)
    for start, end in split(day.outputs, 37):
        await writer.append(day.outputs[start:end])
    with pytest.raises((IntegrityError, GapError)):
        await read_state_at(day.tape, other, whole, name="day", names=["orders"])


# What cannot be answered.


async def test_a_moment_outside_of_the_tape_is_told_with_its_range() -> None:
    day, whole = kept_day()
    end = int(day.cells["ts_recv"][day.cells["cells"] > 0].max())
    between = r"its records are of 2026-01-05T14:30:00.0+Z to 2026-01-05T14:30:"
    for snaps in (whole, None):
        with pytest.raises(MissingError, match=f"the tape begins after 2026-01-05T14:29:59.9+Z .{between}"):
            await ask(snaps, Moment(time=START - 1))
        with pytest.raises(UsageError, match=f"the tape has not come to 2026-01-05T14:30:.*{between}"):
            await ask(snaps, Moment(time=end + 1))
        assert (await ask(snaps, Moment(time=end))).positions["tape"].next_ordinal == len(day.cells)
        with pytest.raises(
            UsageError, match=f"has not come to cell {len(day.cells)} .its cells are 0 to {len(day.cells) - 1}"
        ):
            await ask(snaps, Moment(ordinal=len(day.cells)))
    with pytest.raises(MissingError, match="the tape is empty"):
        await read_state_at(MemoryLog("TAPE_day"), None, None, name="day")


async def test_a_tape_without_a_desk_has_prices_alone() -> None:
    day, _ = kept_day()
    state = await read_state_at(day.tape, None, None, name="day")
    assert set(state.digests()) == set(NAMES["tape"])
    assert state.complete is None
    with pytest.raises(MissingError, match="the tape has no desk"):
        await read_state_at(day.tape, None, None, name="day", names=["orders"])


async def test_a_key_that_was_not_there_yet_is_told_with_its_neighbours() -> None:
    _, whole = kept_day()
    state = await ask(whole, None)
    assert state.get("positions/strategy/AAPL") == state.items("positions/strategy/")["positions/strategy/AAPL"]
    with pytest.raises(MissingError, match=r"positions/strategy/APPL: no such key .nearest: positions/strategy/AAPL"):
        state.get("positions/strategy/APPL")
    begin = await ask(whole, Moment(ordinal=0))
    assert begin.items() == {}
