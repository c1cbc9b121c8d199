"""A frame that several followers in this process fold one after the other, decoded for the first of them."""

from __future__ import annotations

from tapehouse.log.frame import FrameHeader, decode_frame
from tapehouse.log.port import Message
from tapehouse.market.cell import Cells

FRAMES_KEPT = 4
KEPT_CELLS_MAX = 4096  # of a frame; decoding larger ones costs little a cell, and they are read for long ranges

_kept: tuple[tuple[bytes, FrameHeader, Cells], ...] = ()  # newest first; replaced whole, so any thread may look


def decode_message(message: Message) -> tuple[FrameHeader, Cells]:
    """As `decode_frame` of its payload; the cells are the caller's own.

    Raises:
        DecodeError: As `decode_frame`.
    """
    global _kept
    payload = message.payload
    for known, header, cells in _kept:
        if known is payload:  # The same object, which never changes: nothing is taken for another that looks alike.
            return header, cells.copy()
    header, cells = decode_frame(payload)
    if header.count <= KEPT_CELLS_MAX:
        _kept = ((payload, header, cells.copy()), *_kept[: FRAMES_KEPT - 1])
    return header, cells
