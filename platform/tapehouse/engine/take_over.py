"""Becoming the writer of a TAPE: what it holds, and a writer that goes on exactly there.

Both are needed of the same place. An append of the writer before may still be under way; where it comes between the
two, a successor would not know of its commands and admit them again, and no fence would tell. So it looks again.
"""

from __future__ import annotations

from tapehouse.core.errors import ConflictError
from tapehouse.engine.sequencer import TapeFold, TapeState
from tapehouse.log import FrameWriter, Log
from tapehouse.log.writer import FRAME_CELLS_MAX

LOOKS_MAX = 5  # at a tape that grows meanwhile


async def take_tape(
    log: Log, *, writer: int, chain_feed: bool = False, frame_cells: int = FRAME_CELLS_MAX
) -> tuple[TapeState, FrameWriter]:
    """What the next sequencer of a tape must know, and a writer that begins where that ends.

    Raises:
        ConflictError: Somebody goes on writing it.
    """
    fold = TapeFold(log, chain_feed=chain_feed)
    for _ in range(LOOKS_MAX):
        state = await fold.catch_up()
        opened = await FrameWriter.open(log, writer=writer, frame_cells=frame_cells)
        if opened.last_sequence == fold.sequence:
            return state, opened
    raise ConflictError("somebody writes it", subject=log.name, hint="stop the other host or recorder first")


__all__ = ["take_tape"]
