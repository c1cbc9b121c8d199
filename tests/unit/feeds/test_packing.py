"""Cells written by kernels are the cells of `market`."""

from __future__ import annotations

import numpy as np

from tapehouse.feeds import packing
from tapehouse.market import CELL, from_words


def test_a_written_cell_reads_back_field_by_field() -> None:
    out = np.zeros((2, 8), np.int64)
    head = packing.head_word(0xFFFF_FFFF, 0xFFFF, 15, 127)
    tail = packing.tail_word(ord("A"), ord("B"), 255, 254) | (7 << packing.COUNT_SHIFT)
    assert packing.put_cell(out, 1, 11, 12, 13, 14, -15, 16, head, tail) == 2
    expected = (11, 12, 13, 14, -15, 16, 0xFFFF_FFFF, 0xFFFF, 15, 127, ord("A"), ord("B"), 255, 254, 7)
    assert from_words(out)[1].item() == expected
    assert len(expected) == len(CELL.names or ())
    assert not out[0].any()
