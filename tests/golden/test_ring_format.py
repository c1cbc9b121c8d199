"""A ring's header of layout 1, committed, against what it says: read by the offsets of docs/formats/ring.md and by us.

`python -m tests.golden.test_ring_format` made the files; it is run by hand for a *new* layout, and refuses to touch a
file that is there.
"""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

from tapehouse.ring import Policy, Ring
from tapehouse.ring.file import create
from tapehouse.ring.layout import HEADER_BYTES, Identity, decode_header, encode_header, file_bytes

FOLDER = Path(__file__).parent / "formats"
CELLS = 64
# What the page says, in its own numbers: name, byte, type.
FIELDS = [
    ("magic", 0, "4s"),
    ("version", 4, "<H"),
    ("cell_bytes", 6, "<H"),
    ("cells", 8, "<q"),
    ("identity", 16, "16s"),
    ("policy", 32, "<q"),
    ("producer_pid", 64, "<q"),
    ("producer_started", 72, "<q"),
    ("producer_epoch", 80, "<q"),
    ("closed", 88, "<q"),
    ("head", 128, "<q"),
    ("cached_tail", 192, "<q"),
    ("told", 200, "<q"),
    ("told_after", 208, "<q"),
    ("gap_index", 216, "<q"),
    ("missing_ts_event", 224, "<q"),
    ("missing_ts_recv", 232, "<q"),
    ("tail", 256, "<q"),
    ("cached_head", 320, "<q"),
    ("dropped_records", 384, "<q"),
    ("dropped_cells", 392, "<q"),
    ("consumer_pid", 448, "<q"),
    ("consumer_started", 456, "<q"),
    ("consumer_epoch", 464, "<q"),
]
WORDS_AT, WORDS = 512, 64
OURS_TO_NAME = (
    "producer_pid",
    "producer_started",
    "consumer_pid",
    "consumer_started",
)  # this machine's, not the file's


def read_by_the_page(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, at, kind in FIELDS:
        (value,) = struct.unpack_from(kind, data, at)
        found[name] = value.hex() if isinstance(value, bytes) else value
    found["words"] = list(struct.unpack_from(f"<{WORDS}q", data, WORDS_AT))
    return found


def golden() -> tuple[bytes, dict[str, Any]]:
    return (FOLDER / "ring-v1.bin").read_bytes(), json.loads((FOLDER / "ring-v1.json").read_text())


def test_the_page_reads_it() -> None:
    data, want = golden()
    assert len(data) == HEADER_BYTES
    assert read_by_the_page(data) == want
    used = {at + i for _, at, kind in FIELDS for i in range(struct.calcsize(kind))}
    used |= set(range(WORDS_AT, WORDS_AT + 8 * WORDS))
    assert not any(data[at] for at in range(HEADER_BYTES) if at not in used)  # reserved bytes are zero


def test_we_read_it(ring_directory: Path) -> None:
    data, want = golden()
    identity = decode_header(data, size=file_bytes(CELLS), subject="golden")
    assert (identity.cells, identity.policy, identity.creation.hex()) == (CELLS, Policy.DROP, want["identity"])
    (ring_directory / "old.ring").write_bytes(data + bytes(CELLS * 64))
    with Ring.observe("old", directory=ring_directory) as ring:
        assert (ring.head, ring.tail, ring.lag) == (want["head"], want["tail"], want["head"] - want["tail"])
        assert (ring.dropped, ring.dropped_cells) == (want["dropped_records"], want["dropped_cells"])
        assert (ring.producer_pid, ring.producer_epoch) == (want["producer_pid"], want["producer_epoch"])
        assert (ring.consumer_pid, ring.consumer_epoch) == (want["consumer_pid"], want["consumer_epoch"])
        assert ring.closed_by_producer is bool(want["closed"])
        assert [ring.word(number) for number in range(WORDS)] == want["words"]
        assert not ring.producer_alive
    with Ring.produce("old", directory=ring_directory) as producer:
        assert producer.epoch == want["producer_epoch"] + 1
        assert (producer.head, producer.tail) == (want["head"], want["tail"])


def test_a_fresh_header_is_still_written_so() -> None:
    data, want = golden()
    fresh = bytearray(HEADER_BYTES)
    fresh[:40] = data[:40]
    identity = Identity(cells=CELLS, policy=Policy.DROP, creation=bytes.fromhex(want["identity"]))
    assert encode_header(identity) == bytes(fresh)


def write_golden() -> None:
    """A ring with something in every field."""
    from tests.support.cells import market_cells

    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        path = Path(scratch, "golden.ring")
        create(path, Identity(cells=CELLS, policy=Policy.DROP, creation=bytes(range(16))), reclaim=False)
        for _ in range(2):
            Ring.produce("golden", directory=Path(scratch)).close()
        consumer = Ring.consume("golden", directory=Path(scratch))
        producer = Ring.produce("golden", directory=Path(scratch))
        producer.append(market_cells(1, CELLS + 5))
        consumer.readable()
        consumer.release(20)
        producer.append(market_cells(2, 60))
        for number in range(WORDS):
            producer.set_word(number, (number + 1) * (-1) ** number * 10**12)
        producer._let_go()
        consumer._let_go()
        data = bytearray(path.read_bytes()[:HEADER_BYTES])
    for number, name in enumerate(OURS_TO_NAME):
        at = next(at for found, at, _ in FIELDS if found == name)
        struct.pack_into("<q", data, at, 4_000_000 + number)  # a process that this machine cannot have
    for name, content in (
        ("ring-v1.bin", bytes(data)),
        ("ring-v1.json", json.dumps(read_by_the_page(bytes(data)), indent=1).encode() + b"\n"),
    ):
        with (FOLDER / name).open("xb") as file:
            file.write(content)


if __name__ == "__main__":
    write_golden()
