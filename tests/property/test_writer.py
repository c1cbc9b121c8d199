"""The single writer: whatever becomes of its acknowledgements, every cell is there once, in order.

`FaultyLog` loses, delays and refuses; `check_log` says whether anything was lost or doubled. A writer that retries
blindly and one that gives up quietly are the controls that the checker must catch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import (
    AmbiguousAppendError,
    BusUnavailableError,
    ConflictError,
    DecodeError,
    IntegrityError,
    InvariantError,
)
from tapehouse.log import (
    Codec,
    FrameHeader,
    FrameWriter,
    MemoryLog,
    Message,
    Tail,
    decode_frame,
    encode_frame,
    read_tail,
)
from tapehouse.log.writer import APPEND_ATTEMPTS_MAX, ENCODE_ASIDE_CELLS, FRAME_CELLS_MAX
from tapehouse.market import Cells, empty_cells, extend, record_starts
from tests.support.cells import LOG_ID, batches, market_cells

FAULTS = ("fine", "lost", "unheard", "late", "refused", "blind")


class FaultyLog(MemoryLog):
    """A log in memory whose appends go wrong as scheduled; when the schedule is over they go well.

    `lost` and `unheard` give no acknowledgement, without and with the message stored; `late` gives none either, and
    the message arrives just before the next append; `refused` stores nothing and says so; after `blind`, which is
    like `unheard`, the next look at the last message fails too.
    """

    def __init__(self, faults: Iterable[str] = (), *, first: int = 1) -> None:
        super().__init__("TAPE_test", log_id=LOG_ID, first=first)
        self._faults = list(faults)
        self._late: tuple[bytes, int | None] | None = None
        self._blind = False
        self.appends = 0

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        self.appends += 1
        await self.arrive()
        fault = self._faults.pop(0) if self._faults else "fine"
        if fault == "refused":
            raise BusUnavailableError("no broker answers")
        if fault == "late":
            self._late = payload, expected_last
            raise AmbiguousAppendError("no acknowledgement came")
        if fault != "fine":
            self.fail_next_append(stored=fault != "lost")
            self._blind = fault == "blind"
        return await super().append(payload, expected_last=expected_last, subject=subject, headers=headers)

    async def arrive(self) -> None:
        """Let a message that is under way arrive, if its fence still holds."""
        late, self._late = self._late, None
        if late is not None:
            with contextlib.suppress(ConflictError):  # As a broker would: too late, and nobody waits for the answer.
                await super().append(late[0], expected_last=late[1])

    async def last(self) -> Message | None:
        if self._blind:
            self._blind = False
            raise BusUnavailableError("no broker answers")
        return await super().last()


async def frames_of(log: MemoryLog) -> list[tuple[FrameHeader, Cells]]:
    return [decode_frame(message.payload) async for message in log.read((await log.extent()).first)]


async def check_log(log: MemoryLog, appended: list[Cells]) -> None:
    """Every appended cell is there once and in order, in whole records, under contiguous ordinals."""
    ordinal = 0
    found = []
    for header, cells in await frames_of(log):
        assert header.first_ordinal == ordinal, f"ordinal {header.first_ordinal} where {ordinal} was due"
        assert record_starts(cells)[0] == 0
        assert len(cells) <= FRAME_CELLS_MAX
        found.append(cells)
        ordinal = header.next_ordinal
    there = np.concatenate([*found, empty_cells(0)]).tobytes()
    assert there == np.concatenate([*appended, empty_cells(0)]).tobytes(), "cells were lost or doubled"


async def no_pause(_: float) -> None:
    await asyncio.sleep(0)


async def open_writer(log: MemoryLog, writer: int = 1, *, cls: type[FrameWriter] = FrameWriter) -> FrameWriter:
    opened = await cls.open(log, writer=writer, codec=Codec.PLAIN)
    opened._pause = no_pause
    return opened


def run(coroutine: object) -> None:
    asyncio.run(coroutine)  # type: ignore[arg-type]


async def test_appends_are_contiguous_and_split_at_whole_records() -> None:
    log = MemoryLog("TAPE_test", log_id=LOG_ID, first=40)
    writer = await FrameWriter.open(log, writer=7)
    cells = market_cells(1, 2 * FRAME_CELLS_MAX + 100)
    for at in (FRAME_CELLS_MAX - 2, 2 * FRAME_CELLS_MAX - 3):  # records that cross where a frame would be full
        cells["cells"][at] = 5
        extend(cells[at : at + 5])
    assert await writer.append(cells, input_ordinal=9, output_index=4) == 42
    assert await writer.append(cells[:10], input_ordinal=10) == 43
    await check_log(log, [cells, cells[:10]])
    headers = [header for header, _ in await frames_of(log)]
    assert [header.count for header in headers] == [FRAME_CELLS_MAX - 2, FRAME_CELLS_MAX - 1, 103, 10]
    assert [header.is_partial for header in headers] == [True, True, False, False]
    assert [(header.input_ordinal, header.output_index) for header in headers] == [(9, 4)] * 3 + [(10, 0)]
    assert {(header.writer, header.epoch, header.log_id) for header in headers} == {(7, 1, LOG_ID)}
    assert (writer.last_sequence, writer.next_ordinal) == (43, len(cells) + 10)
    assert writer.metrics.table() == {"cells_written_total": len(cells) + 10, "frames_written_total": 4}
    assert writer.bytes_written == sum([len(message.payload) async for message in log.read(40)])


async def test_nothing_to_append_writes_nothing() -> None:
    log = MemoryLog("TAPE_test")
    writer = await FrameWriter.open(log, writer=1)
    assert await writer.append(empty_cells(0)) == 0
    assert (await log.extent()).last == 0


@pytest.mark.parametrize("cells", [empty_cells(3), market_cells(0, 3)], ids=["inside a record", "cut off"])
async def test_parts_of_records_are_refused_before_anything_is_written(cells: Cells) -> None:
    if cells["cells"][0]:
        cells["cells"][2] = 2
    log = MemoryLog("TAPE_test")
    writer = await FrameWriter.open(log, writer=1)
    with pytest.raises(DecodeError):
        await writer.append(cells)
    assert (await log.extent()).last == 0


async def test_a_successor_goes_on_in_the_next_epoch_and_its_predecessor_is_fenced_off() -> None:
    log = FaultyLog()
    old = await open_writer(log, 1)
    await old.append(market_cells(1, 10))
    new = await open_writer(log, 2)
    assert (old.epoch, new.epoch, new.next_ordinal) == (1, 2, 10)
    await new.append(market_cells(2, 5))
    with pytest.raises(ConflictError, match=r"another writer appended sequence 2.*must stop"):
        await old.append(market_cells(3, 1))
    await check_log(log, [market_cells(1, 10), market_cells(2, 5)])
    assert (await read_tail(log)).next_ordinal == 15


async def test_of_two_writers_exactly_one_gets_through() -> None:
    for order in ((0, 1), (1, 0)):
        log = FaultyLog()
        writers = [await open_writer(log, number) for number in (1, 2)]
        results = await asyncio.gather(
            *(writers[number].append(market_cells(number, 8)) for number in order), return_exceptions=True
        )
        assert [isinstance(result, ConflictError) for result in results] == [False, True]
        assert results[0] == 1
        await check_log(log, [market_cells(order[0], 8)])


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("size", [3, ENCODE_ASIDE_CELLS + 1, FRAME_CELLS_MAX + 1])
async def test_one_fault_of_each_kind_costs_nothing(fault: str, size: int) -> None:
    log = FaultyLog(["fine", fault])
    writer = await open_writer(log)
    batches_ = [market_cells(seed, size) for seed in range(3)]
    for cells in batches_:
        await writer.append(cells)
    await check_log(log, batches_)


@given(
    faults=st.lists(st.sampled_from(FAULTS), max_size=APPEND_ATTEMPTS_MAX - 1),
    cells=st.lists(batches(12), min_size=1, max_size=12),
    first=st.integers(1, 10**6),
)
@settings(deadline=None, max_examples=150)
def test_any_schedule_of_faults_loses_and_doubles_nothing(faults: list[str], cells: list[Cells], first: int) -> None:
    async def scenario() -> None:
        log = FaultyLog(faults, first=first)
        writer = await open_writer(log)
        for batch in cells:
            await writer.append(batch)
        await check_log(log, cells)
        assert writer.last_sequence == (await log.extent()).last

    run(scenario())


@given(
    faults=st.lists(st.sampled_from(FAULTS), max_size=20),
    schedule=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=15),
)
@settings(deadline=None, max_examples=150)
def test_writers_that_take_over_from_each_other_share_one_history(
    faults: list[str], schedule: list[tuple[int, int]]
) -> None:
    """Three writers in any order; one that finds itself fenced off opens anew, as a new life with a new number."""

    async def scenario() -> None:
        log = FaultyLog(faults)
        writers: dict[int, FrameWriter] = {}
        history: list[Cells] = []
        lives = 0
        for number, (name, size) in enumerate(schedule):
            cells = market_cells(number, size)
            if name not in writers:
                lives += 1
                writers[name] = await open_writer(log, lives)
            try:
                await writers[name].append(cells)
            except ConflictError:
                del writers[name]
                continue
            history.append(cells)
        await log.arrive()
        await check_log(log, history)
        epochs = [header.epoch for header, _ in await frames_of(log)]
        assert epochs == sorted(epochs)

    run(scenario())


async def test_a_broker_that_stays_away_is_given_up_after_a_bounded_number_of_attempts() -> None:
    log = FaultyLog(["refused"] * 1000)
    writer = await open_writer(log)
    with pytest.raises(BusUnavailableError, match="in 40 attempts"):
        await writer.append(market_cells(0, 2))
    assert log.appends == APPEND_ATTEMPTS_MAX
    assert (await log.extent()).last == 0
    log._faults.clear()
    await writer.append(market_cells(0, 2))
    await check_log(log, [market_cells(0, 2)])


async def test_acknowledged_data_that_is_gone_halts_the_writer() -> None:
    log = FaultyLog()
    writer = await open_writer(log)
    for seed in range(3):
        await writer.append(market_cells(seed, 2))
    del log._messages[1:]
    with pytest.raises(IntegrityError, match="ends at 1, behind the acknowledged 3"):
        await writer.append(market_cells(4, 2))


async def test_a_log_that_answers_another_sequence_than_the_fence_allows_is_a_bug() -> None:
    class Lying(MemoryLog):
        async def append(self, payload: bytes, **_: object) -> int:  # type: ignore[override]
            return 17

    writer = await FrameWriter.open(Lying("TAPE_test"), writer=1)
    with pytest.raises(InvariantError, match="answered 17 to a fence at 0"):
        await writer.append(market_cells(0, 1))


async def test_a_cancelled_append_leaves_a_writer_that_cannot_fork_the_log() -> None:
    class Slow(FaultyLog):
        slow = True
        stored = asyncio.Event()

        async def append(self, payload: bytes, **fences: object) -> int:  # type: ignore[override]
            sequence = await super().append(payload, **fences)  # type: ignore[arg-type]
            self.stored.set()
            if self.slow:
                await asyncio.Event().wait()  # stored, but the acknowledgement never comes
            return sequence

    log = Slow()
    writer = await open_writer(log)
    task = asyncio.create_task(writer.append(market_cells(0, 2)))
    await log.stored.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    log.slow = False
    with pytest.raises(ConflictError):
        await writer.append(market_cells(1, 2))
    await check_log(log, [market_cells(0, 2)])


async def test_the_tail_of_a_log() -> None:
    log = MemoryLog("TAPE_test", log_id=LOG_ID, first=7)
    assert await read_tail(log) == Tail(sequence=6, header=None)
    header = FrameHeader(log_id=LOG_ID, writer=1, epoch=5, first_ordinal=100)
    await log.append(encode_frame(market_cells(0, 20), header), expected_last=6)
    tail = await read_tail(log)
    assert (tail.sequence, tail.next_ordinal) == (7, 120)
    assert (await FrameWriter.open(log, writer=2)).epoch == 6
    await log.append(b"no frame", expected_last=7)
    with pytest.raises(DecodeError):
        await read_tail(log)


# Controls: the checker must catch these writers.


class BlindWriter(FrameWriter):
    """Retries without looking whether its frame is there."""

    async def _append_fenced(self, frame: bytes) -> int:
        for _ in range(APPEND_ATTEMPTS_MAX):
            try:
                return await self._log.append(frame, expected_last=(await self._log.extent()).last)
            except (AmbiguousAppendError, BusUnavailableError):
                self.last_sequence = (await self._log.extent()).last
        raise AssertionError("the schedule was longer than the attempts")


class CarelessWriter(FrameWriter):
    """Takes no answer for a yes."""

    async def _append_fenced(self, frame: bytes) -> int:
        try:
            return await self._log.append(frame, expected_last=(await self._log.extent()).last)
        except (AmbiguousAppendError, BusUnavailableError):
            return self.last_sequence + 1


@pytest.mark.parametrize(
    ("cls", "fault"),
    [(BlindWriter, "unheard"), (BlindWriter, "blind"), (CarelessWriter, "lost"), (CarelessWriter, "refused")],
)
async def test_control_a_writer_that_does_not_look_is_caught(cls: type[FrameWriter], fault: str) -> None:
    log = FaultyLog(["fine", fault])
    writer = await open_writer(log, cls=cls)
    appended = [market_cells(seed, 4) for seed in range(3)]
    caught = False
    try:
        for cells in appended:
            await writer.append(cells)
        await check_log(log, appended)
    except (AssertionError, InvariantError):
        caught = True
    assert caught
    await check_log(FaultyLog(), [])
