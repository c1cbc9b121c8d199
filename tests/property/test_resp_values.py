"""Compiled runs of values are the bulk strings that plain Python writes, whatever the room for them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.gateway.resp_values import ValueWriter


def written(values: list[bytes | None], room: int, version: int) -> list[bytes]:
    arena = b"\x00" + b"".join(value for value in values if value is not None)
    rows, at = [], 1
    for value in values:
        rows.append((at, -1 if value is None else len(value)))
        at += len(value or b"")
    table = np.array(rows, np.int64).reshape(-1, 2)
    return ValueWriter(room).write(np.frombuffer(arena, np.uint8), table, version)


@settings(deadline=None)
@given(st.lists(st.none() | st.binary(max_size=120), max_size=20), st.integers(24, 200), st.sampled_from([2, 3]))
def test_they_are_what_python_writes(values: list[bytes | None], room: int, version: int) -> None:
    null = b"$-1\r\n" if version == 2 else b"_\r\n"
    expected = [null if value is None else b"$%d\r\n%b\r\n" % (len(value), value) for value in values]
    chunks = written(values, room, version)
    assert b"".join(chunks) == b"".join(expected)
    assert all(len(chunk) <= max(room, 120 + 24) for chunk in chunks)


@pytest.mark.parametrize("size", [0, 9, 10, 99, 100, 9_999, 10_000, 512 * 1024])
def test_lengths_of_every_width(size: int) -> None:
    assert b"".join(written([b"v" * size], 24, 2)) == b"$%d\r\n%b\r\n" % (size, b"v" * size)
