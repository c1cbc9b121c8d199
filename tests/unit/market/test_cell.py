"""The cell's layout and numbers, pinned for ever: a change here is a change of every stored byte."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tapehouse.market import (
    ANSWER_EXTENSION,
    CELL,
    CELL_BYTES,
    CELLS_MAX,
    FILL_EXTENSION,
    KIND_SKIPPED_FROM,
    OPTION_EXTENSION,
    ORDER_EXTENSION,
    PAYLOAD_BYTES_MAX,
    Action,
    Flag,
    Kind,
    Side,
    empty_cells,
    words,
)
from tapehouse.market.cell import OWNED_BYTES

FIELDS = {
    "ts_event": (0, "<i8"),
    "ts_recv": (8, "<i8"),
    "sequence": (16, "<u8"),
    "order_id": (24, "<u8"),
    "price": (32, "<i8"),
    "size": (40, "<i8"),
    "instrument": (48, "<u4"),
    "source": (52, "<u2"),
    "kind": (54, "|u1"),
    "cells": (55, "|u1"),
    "action": (56, "|u1"),
    "side": (57, "|u1"),
    "flags": (58, "|u1"),
    "depth": (59, "|u1"),
    "count": (60, "<u4"),
}
KINDS = {
    "MBO": 1,
    "MBP": 2,
    "QUOTE": 3,
    "TRADE": 4,
    "STATUS": 5,
    "OPTION_QUOTE": 6,
    "ORDER": 7,
    "FILL": 8,
    "COMMAND": 9,
    "EVENT": 10,
    "DEFINITION": 11,
    "CLOCK": 12,
    "EPOCH": 13,
    "GAP": 14,
    "RAW": 15,
    "WIDE_ID": 128,
    "BAR": 129,
    "STATISTIC": 130,
    "IMBALANCE": 131,
}
ACTIONS = {
    "NONE": "N",
    "ADD": "A",
    "CANCEL": "C",
    "MODIFY": "M",
    "CLEAR": "R",
    "TRADE": "T",
    "FILL": "F",
    "ACCEPTED": "a",
    "REJECTED": "j",
    "CANCELLED": "c",
    "EXPIRED": "x",
    "TRIGGERED": "t",
    "REPEATED": "r",
}
FLAGS = {
    "LAST": 128,
    "TOP_OF_BOOK": 64,
    "SNAPSHOT": 32,
    "BY_PRICE": 16,
    "BAD_TS_RECV": 8,
    "MAYBE_BAD_BOOK": 4,
    "CONTINUED": 2,
    "SYNTHETIC": 1,
}
EXTENSIONS = {
    "option": (OPTION_EXTENSION, "forward mark bid_volatility ask_volatility mark_volatility open_interest", "qqqqqq"),
    "order": (ORDER_EXTENSION, "client number stop display expiry replaced", "QQqqqQ"),
    "answer": (ANSWER_EXTENSION, "client number order_id reason reserved_1 reserved_2", "QQQqqq"),
    "fill": (FILL_EXTENSION, "match_id fee counter_order client position cash", "QqQQqq"),
}


def test_the_cell_is_pinned() -> None:
    assert CELL.itemsize == CELL_BYTES == 64
    assert {name: (CELL.fields[name][1], CELL.fields[name][0].str) for name in CELL.names} == FIELDS
    assert all(offset % CELL.fields[name][0].itemsize == 0 for name, (offset, _) in FIELDS.items()), "aligned"


def test_the_bounds_are_pinned() -> None:
    assert (OWNED_BYTES, CELLS_MAX, PAYLOAD_BYTES_MAX, KIND_SKIPPED_FROM) == (48, 255, 12_192, 128)


def test_the_numbers_are_pinned() -> None:
    assert {kind.name: kind.value for kind in Kind} == KINDS
    assert {action.name: chr(action) for action in Action} == ACTIONS
    assert {side.name: chr(side) for side in Side} == {"NONE": "N", "BID": "B", "ASK": "A"}
    assert {flag.name: flag.value for flag in Flag} == FLAGS


@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_extension_owns_48_bytes_and_leaves_the_rest(name: str) -> None:
    dtype, names, formats = EXTENSIONS[name]
    assert dtype.itemsize == 64
    assert [*names.split(), "head"] == list(dtype.names)
    assert [dtype.fields[field][1] for field in dtype.names] == [0, 8, 16, 24, 32, 40, 48]
    cell = empty_cells(1)
    values = [-(index + 1) if code == "q" else 2**63 + index for index, code in enumerate(formats)]
    for field, value in zip(names.split(), values, strict=True):
        cell.view(dtype)[field] = value
    assert cell.tobytes() == struct.pack("<" + formats, *values) + bytes(16)


def test_a_cell_is_what_struct_packs() -> None:
    values = (1, 2, 3, 2**64 - 1, -5, -6, 2**32 - 1, 65_535, 15, 255, 84, 66, 255, 9, 2**32 - 1)
    cell = np.array([values], CELL)
    assert cell.tobytes() == struct.pack("<qqQQqqIHBBBBBBI", *values)
    assert words(cell).tolist() == [list(struct.unpack("<8q", cell.tobytes()))]


def test_empty_cells_are_zero_and_words_of_a_view_are_its_cells() -> None:
    cells = empty_cells(6)
    assert cells.tobytes() == bytes(384)
    cells["price"] = range(6)
    assert words(cells[::2])[:, 4].tolist() == [0, 2, 4]
    assert words(empty_cells(0)).shape == (0, 8)
