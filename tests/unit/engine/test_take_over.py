"""Taking a tape over: what a successor knows and where it writes are of one place."""

from __future__ import annotations

import pytest

from tapehouse.core.errors import ConflictError
from tapehouse.engine import take_tape
from tapehouse.log import Extent, FrameWriter, MemoryLog
from tests.support.cells import market_cells


class Growing(MemoryLog):
    """Whenever somebody looks, an append comes that was under way, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__("TAPE")
        self.times, self.before = times, None

    async def extent(self) -> Extent:
        found = await super().extent()
        if self.before is not None and self.times:
            self.times -= 1
            await self.before.append(market_cells(1, 3))
        return found


async def grown(times: int) -> Growing:
    log = Growing(times)
    writer = await FrameWriter.open(log, writer=1)
    await writer.append(market_cells(1, 3))
    log.before = writer  # type: ignore[assignment]
    return log


async def test_an_append_that_comes_between_is_known() -> None:
    log = await grown(1)
    state, writer = await take_tape(log, writer=2)
    assert state.progress is not None
    assert (
        (state.progress.sequence, state.progress.next_ordinal) == (writer.last_sequence, writer.next_ordinal) == (2, 6)
    )


async def test_a_tape_that_goes_on_growing_is_somebody_elses() -> None:
    log = await grown(1_000)
    with pytest.raises(ConflictError, match="somebody writes it"):
        await take_tape(log, writer=2)
