"""One record of a log by its ordinal: found by halving, so that a log's length costs little."""

from __future__ import annotations

from tapehouse.core.errors import DataError, GapError, MissingError
from tapehouse.log import Log, decode_frame, read_header
from tapehouse.market import Cells


async def frame_holding(log: Log, ordinal: int) -> int:
    """The sequence of the frame that holds a cell, or of the one that comes after the last.

    Raises:
        DecodeError: A message is no frame.
    """
    extent = await log.extent()
    low, high = extent.first, extent.last + 1
    while low < high:  # the first frame that ends beyond `ordinal`
        middle = (low + high) // 2
        async for message in log.read(middle, through=middle):
            if read_header(message.payload).next_ordinal > ordinal:
                high = middle
            else:
                low = middle + 1
    return low


async def read_record(log: Log, ordinal: int) -> Cells:
    """The record that begins at an ordinal.

    Raises:
        GapError: It was trimmed away.
        MissingError: The log has not come to it.
        DataError: No record begins there.
    """
    position = f"cell {ordinal}"
    sequence = await frame_holding(log, ordinal)
    async for message in log.read(sequence, through=sequence):
        header, cells = decode_frame(message.payload)
        at = ordinal - header.first_ordinal
        if at < 0:
            break
        length = int(cells["cells"][at])
        if not length:
            raise DataError("no record begins there", subject=log.name, position=position)
        return cells[at : at + length]
    extent = await log.extent()
    if sequence > extent.last:
        raise MissingError("the log has not come to it", subject=log.name, position=position)
    raise GapError("it was trimmed away", subject=log.name, position=position, hint="read the segments of a backup")
