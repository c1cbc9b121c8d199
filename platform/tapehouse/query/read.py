"""Reading whole logs for a query: every frame from the first cell on, up to a moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np

from tapehouse.log import FrameHeader, Log, Progress, open_frame
from tapehouse.market import Cells


async def read_frames(log: Log, *, as_of: int | None = None) -> AsyncIterator[tuple[FrameHeader, Cells]]:
    """Every frame of a log in order.

    Args:
        as_of: Engine time, UTC ns: only the records up to and at that moment; None for all that are there now.

    Raises:
        GapError: The log's beginning was trimmed away, or something in it is missing.
        DecodeError, IntegrityError: It is damaged; the sequence is named.
    """
    extent = await log.extent()
    progress = Progress(log_id=extent.log_id_at(extent.first), sequence=extent.first - 1, next_ordinal=0)
    async for message in log.read(extent.first, through=extent.last):
        header, cells = open_frame(log.name, message, extent, progress)
        progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
        end = len(cells) if as_of is None else cut_at(cells, as_of)
        if end:
            yield replace(header, count=end), cells[:end]
        if end < len(cells):
            return
        await asyncio.sleep(0)


def cut_at(cells: Cells, as_of: int) -> int:
    """How many cells come before the first record that was received after `as_of`."""
    late = np.flatnonzero((cells["cells"] > 0) & (cells["ts_recv"] > as_of))
    return int(late[0]) if len(late) else len(cells)
