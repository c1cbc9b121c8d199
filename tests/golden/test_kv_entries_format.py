"""A KV frame with every kind of entry stays readable for ever, also by the page alone.

`python -m tests.golden.test_kv_entries_format` made the files; it is run by hand for a *new* version.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tapehouse.kv import moves
from tapehouse.kv.entries import Entry, Op, encode_entry, entry_frame, open_entry_frame, read_entries, slots_value
from tapehouse.kv.reference import given

FOLDER = Path(__file__).parent / "formats"
NAME = "kv-entries-v1"
ENTRIES = [
    Entry(op=Op.OWN, value=slots_value(0, 8_191, 3)),
    Entry(op=Op.PUT, key=b"price/BTC", value=b"64000.5", flags=1 | 16, expiry=1_800_000_000_000_000_000),
    Entry(op=Op.ADD, key=b"count", value=(-5).to_bytes(8, "little", signed=True), flags=8),
    Entry(op=Op.BATCH, value=(2).to_bytes(4, "little")),
    Entry(op=Op.DELETE, key=b"{t}a", flags=2),
    Entry(op=Op.EXPIRE, key=b"{t}b", flags=4, expiry=-1, revision=2**63 + 7),
    Entry(op=Op.BARRIER),
    *(Entry(op=op, key=b"k", value=slots_value(1, 2, 4)) for op in (Op.FREEZE, Op.COPY, Op.GIVE, Op.FORGET)),
]


MOVES = [  # of a run of slots, one of its rows, and what is dropped where it came from
    moves.receive(0, 8_191, 3),
    moves.freeze(0, 8_191, 3, 1_700_000_005_000_000_000),
    moves.copy(b"price/BTC", b"64000.5", expiry=1_800_000_000_000_000_000, revision=2 << 48 | 77 << 12 | 5),
    moves.give(0, 8_191, 3),
    moves.own_copied(0, 8_191, 3, count=1, digest=2**64 - 2, time=1_700_000_000_123_456_789),
    moves.forget(b"price/BTC", given(2)),
]
DIGEST = 13875326021996623412  # of a row, worked out once
FRAMES = {NAME: ENTRIES, "kv-entries-v1-moves": MOVES}


def golden_frame(name: str) -> bytes:
    bodies = [encode_entry(entry) for entry in FRAMES[name]]
    return entry_frame(bodies, log_id=bytes(range(16)), writer=2**63 + 1, number=17, time=1_700_000_000_123_456_789)


def read_by_the_page(frame: bytes) -> dict[str, Any]:
    """What docs/formats/kv.md says is there, in its own numbers."""
    (count,), (writer,), (number,) = (
        struct.unpack_from(kind, frame, at) for kind, at in (("<I", 12), ("<Q", 24), ("<Q", 40))
    )
    entries, at = [], 128
    while at < len(frame):
        size, kind, flags, key_bytes, value_bytes, _, expiry, revision = struct.unpack_from("<IBBHIIqQ", frame, at)
        key, value = frame[at + 32 : at + 32 + key_bytes], frame[at + 32 + key_bytes : at + size]
        assert len(value) == value_bytes
        entries.append([kind, flags, key.hex(), value.hex(), expiry, revision])
        at += size
    (time,) = struct.unpack_from("<q", frame, 64)
    return {"count": count, "writer": writer, "number": number, "time": time, "entries": entries}


@pytest.mark.parametrize("name", FRAMES)
def test_the_committed_frame_is_read_by_the_page_and_by_us(name: str) -> None:
    frame = (FOLDER / f"{name}.bin").read_bytes()
    assert read_by_the_page(frame) == json.loads((FOLDER / f"{name}.json").read_text())
    header, body = open_entry_frame(frame)
    assert read_entries(bytes(body), header.count) == FRAMES[name]


@pytest.mark.parametrize("name", FRAMES)
def test_the_same_entries_have_the_committed_bytes(name: str) -> None:
    assert golden_frame(name) == (FOLDER / f"{name}.bin").read_bytes()


def test_every_kind_is_in_it() -> None:
    assert {entry.op for entries in FRAMES.values() for entry in entries} == set(Op)


def test_what_a_move_says_is_where_the_page_has_it() -> None:
    """Count and digest of OWN, the kept epoch of FORGET, the digest of a row."""
    frame = read_by_the_page((FOLDER / "kv-entries-v1-moves.bin").read_bytes())
    own, dropped = (bytes.fromhex(frame["entries"][place][3]) for place in (4, 5))
    assert struct.unpack("<HHIQQ", own) == (0, 8_191, 3, 1, 2**64 - 2)
    assert struct.unpack("<q", dropped) == (-2 - 2,)
    assert moves.row_digest(b"price/BTC", b"64000.5", 5, 2 << 48) == DIGEST


def main() -> None:
    """Write the files, where there are none."""
    name = list(FRAMES)[-1]
    path = FOLDER / f"{name}.bin"
    assert not path.exists(), "golden files are never rewritten"
    path.write_bytes(golden_frame(name))
    path.with_suffix(".json").write_text(json.dumps(read_by_the_page(golden_frame(name)), indent=1) + "\n")


if __name__ == "__main__":
    main()
