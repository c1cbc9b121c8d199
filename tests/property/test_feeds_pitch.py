"""PITCH lines against a slow decoder on streams of every kind, arbitrary bytes, and flipped bits of a real file."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError
from tapehouse.feeds import byte_blocks
from tapehouse.feeds.formats import check_source
from tapehouse.feeds.new_york import midnight_ns
from tapehouse.feeds.pitch import PitchFeed
from tests.support import itch, pitch

DAY = date(2009, 3, 2)
TIMES = st.integers(0, 99_999_999)
REFS = st.one_of(st.integers(0, 8), st.integers(0, 36**12 - 1))
SIDES = st.sampled_from("BS")
SHARES = st.one_of(st.integers(1, 3), st.integers(1, 999_999))
SYMBOLS = st.sampled_from(["A", "ZVZZT", "BRK.A", "ABCDEF"])
PRICES = st.integers(1, 10**10 - 1)
LINES = st.one_of(
    st.builds(pitch.add, TIMES, REFS, SIDES, SHARES, SYMBOLS, PRICES, st.sampled_from(["", "MPID", "MPIDC"])),
    st.builds(pitch.add, TIMES, REFS, SIDES, SHARES, SYMBOLS, PRICES),
    st.builds(pitch.execute, TIMES, REFS, SHARES, REFS),
    st.builds(pitch.cancel, TIMES, REFS, SHARES),
    st.builds(pitch.trade, TIMES, REFS, SIDES, SHARES, SYMBOLS, PRICES, REFS, st.booleans()),
    st.builds(pitch.broken, TIMES, REFS),
    st.builds(pitch.clear, TIMES, SYMBOLS),
    st.builds(lambda time: f"S{time:08}Hwhatever", TIMES),
)
SCRATCH = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SCRATCH
@given(
    lines=st.lists(LINES, min_size=1, max_size=40),
    end=st.sampled_from(["\n", "\r\n"]),
    ended=st.booleans(),
    batch=st.integers(1, 9),
    block=st.integers(1, 200),
)
def test_the_kernels_decode_as_the_slow_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], end: str, ended: bool, batch: int, block: int
) -> None:
    path = tmp_path / "some.txt"
    path.write_bytes((end.join(lines) + (end if ended else "")).encode())
    sided = any(line[9] in "Pr" and line[22] == "S" for line in lines)
    slow = pitch.SlowDecoder(midnight_ns(DAY), sided)
    blocks = byte_blocks.byte_blocks
    with monkeypatch.context() as patched:
        patched.setattr("tapehouse.feeds.pitch.byte_blocks", lambda path, size=block: blocks(path, size))
        feed = PitchFeed(path, day=DAY, batch_cells=batch)
        batches = list(feed.batches())
    assert [row for cells in batches for row in itch.rows_of(cells)] == slow.decode(lines)
    assert max(map(len, batches), default=0) <= batch + 2
    symbols = {instrument.symbol: instrument.id for instrument in feed.instruments}
    assert symbols == slow.instruments


@SCRATCH
@given(data=st.data())
def test_arbitrary_and_mutated_lines_end_in_cells_or_a_decode_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray("\n".join(data.draw(st.lists(LINES, max_size=12))).encode())
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content += data.draw(st.binary(max_size=600))
    path = tmp_path / "some"
    path.write_bytes(content)
    try:
        check_source("pitch", [path])
        feed = PitchFeed(path, day=DAY)
        for cells in feed.batches():
            assert (np.diff(cells["ts_recv"]) >= 0).all()
            assert cells["instrument"].max() <= len(feed.instruments)
    except DecodeError as caught:
        assert_names(caught)


def assert_names(error: DecodeError) -> None:
    assert error.subject == "some"


@pytest.fixture(scope="module")
def real(market_data: Path) -> list[bytes]:
    """The lines up to the fourth execution."""
    lines = gzip.decompress((market_data / "cboe_pitch" / "pitch_example_data.gz").read_bytes()).splitlines()
    fourth = [at for at, line in enumerate(lines) if line[9:10] == b"E"][3]
    return lines[: fourth + 1]


# Columns of a line in which any flipped bit can be known to be wrong, by type; S and the type itself always.
KNOWABLE = {"A": (0, 22, *range(35, 46)), "E": (0, *range(10, 21)), "X": (0, 22), "P": (0, 22)}


def knowable(line: bytes | bytearray, column: int, bit: int) -> bool:
    """Digits and letters have neighbours that are digits and letters too."""
    old, new = line[column], line[column] ^ 1 << bit
    if column == 0 or (line[9:10] in b"AP" and column == 22):
        return True
    if line[9:10] == b"E":
        return True
    return not (chr(old).isdigit() and chr(new).isdigit())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_flipped_bit_that_can_be_known_is_found(tmp_path: Path, real: list[bytes], data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from("AEXP"), label="type")
    at = data.draw(st.sampled_from([at for at, line in enumerate(real) if line[9:10] == kind.encode()]), label="line")
    column = data.draw(st.sampled_from(KNOWABLE[kind]), label="column")
    bit = data.draw(st.integers(0, 7), label="bit")
    line = bytearray(real[at])
    if not knowable(line, column, bit):
        return
    line[column] ^= 1 << bit
    path = tmp_path / "some"
    path.write_bytes(b"\n".join([*real[:at], bytes(line), *real[at + 1 :]]) + b"\n")
    try:
        check = check_source("pitch", [path])
    except DecodeError as caught:
        assert_names(caught)
        return
    assert check.mismatches > 0, (kind, column, bit, bytes(line))
