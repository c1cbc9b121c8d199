"""A sequencer that dies between two frames of one append leaves a successor that loses no command."""

from __future__ import annotations

import pytest

from tapehouse.core import VirtualClock
from tapehouse.engine.sequencer import Sequencer, read_tape
from tapehouse.log import FrameWriter, MemoryLog, Message, decode_frame
from tapehouse.log.writer import FRAME_CELLS_MAX
from tapehouse.market import Instrument, Kind, records_of
from tests.support.cells import market_cells


class CrashError(Exception):
    """The process is gone."""


class Crashing(MemoryLog):
    """A log whose writer dies once it has appended so many messages more."""

    left = 1_000_000

    async def append(self, payload: bytes, **fences: object) -> int:  # type: ignore[override]
        if not self.left:
            raise CrashError
        self.left -= 1
        return await super().append(payload, **fences)  # type: ignore[arg-type]


def command(sequence: int) -> Message:
    return Message(sequence=sequence, subject="cmd.v1.demo.order.submit", payload=b'{"number":%d}' % sequence)


async def opened(log: MemoryLog, writer: int) -> Sequencer:
    sequencer = Sequencer(
        log,
        await FrameWriter.open(log, writer=writer),
        await read_tape(log),
        clock_source="history",
        clock=VirtualClock(1),
        code="test",
    )
    await sequencer.begin()
    return sequencer


async def commands_on(log: MemoryLog) -> list[int]:
    return [
        int(record["sequence"][0])
        async for message in log.read(1)
        for _, record in records_of(decode_frame(message.payload)[1], Kind.COMMAND)
    ]


@pytest.mark.parametrize("frames", [0, 1, 2])
async def test_commands_of_an_append_that_was_cut_short_are_taken_again(frames: int) -> None:
    log = Crashing("TAPE_test")
    sequencer = await opened(log, 1)
    table = sequencer.define(tuple(Instrument(id=number, symbol=f"S{number}") for number in (1, 2, 3)))
    await sequencer.offer_command(command(1))
    await sequencer.feed(market_cells(0, FRAME_CELLS_MAX + 100), table)
    await sequencer.offer_command(command(2))
    sequencer.admit_commands()
    log.left = frames
    if frames < 2:
        with pytest.raises(CrashError):
            await sequencer.flush()
    else:
        await sequencer.flush()
    log.left = 1_000_000
    successor = await opened(log, 2)
    for sequence in (1, 2, 3):
        await successor.offer_command(command(sequence))
    successor.admit_commands()
    await successor.flush()
    assert await commands_on(log) == [1, 2, 3]
