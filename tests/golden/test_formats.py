"""Stored bytes of every format version stay readable for ever: committed files against what they said when written.

Only reading is compared. `write_golden` made the files and is run by hand, for a *new* version of a format:
`python -m tests.golden.test_formats`; it refuses to touch a file that is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapehouse.log import (
    Codec,
    Envelope,
    FrameHeader,
    Progress,
    Snapshot,
    decode_frame,
    encode_frame,
    may_hold,
    read_envelope,
)
from tapehouse.market import (
    CELL,
    FILL_EXTENSION,
    Cells,
    Instrument,
    Kind,
    empty_cells,
    extend,
    pack_payload,
    read_definition,
    record_starts,
    unpack_payload,
)

FOLDER = Path(__file__).parent / "formats"
LOG_ID = bytes(range(16))
FRAMES = {
    "frame-v1-plain.bin": Codec.PLAIN,
    "frame-v1-columns.bin": Codec.COLUMNS,
    "frame-v1-columns-zstd.bin": Codec.COLUMNS_ZSTD,
}
HEADER_NAMES = [
    *("writer", "epoch", "first_ordinal", "flags", "count", "plain_bytes", "output_index", "input_ordinal"),
    *("first_time", "last_time", "filter_low", "filter_high"),
]


def cells_as_json(cells: Cells) -> list[dict[str, int]]:
    return [dict(zip(CELL.names, cell.tolist(), strict=True)) for cell in cells]


def expected(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


@pytest.mark.parametrize("name", FRAMES)
def test_frame_v1(name: str) -> None:
    header, cells = decode_frame((FOLDER / name).read_bytes())
    want = expected("frame-v1.json")
    assert header.codec is FRAMES[name]
    assert header.log_id.hex() == want["log_id"]
    assert {field: getattr(header, field) for field in HEADER_NAMES} == want["header"]
    assert cells_as_json(cells) == want["cells"]
    assert record_starts(cells).tolist() == want["record_starts"]
    for instrument in want["instruments"]:
        assert may_hold(header, instrument)


def test_plain_and_columns_bytes_are_still_written_so() -> None:
    """The two codecs whose bytes no library decides are canonical: the same cells give the same bytes."""
    header, cells = decode_frame((FOLDER / "frame-v1-plain.bin").read_bytes())
    for name in ("frame-v1-plain.bin", "frame-v1-columns.bin"):
        bare = FrameHeader(**{**asdict(header), "codec": FRAMES[name]})
        assert encode_frame(cells, bare) == (FOLDER / name).read_bytes()


def test_envelope_v1() -> None:
    data = (FOLDER / "envelope-v1.bin").read_bytes()
    envelope = read_envelope(data)
    assert envelope.model_dump() == expected("envelope-v1.json")
    assert envelope.encode() == data


def test_snapshot_v1() -> None:
    data = (FOLDER / "snapshot-v1.bin").read_bytes()
    snapshot = Snapshot.decode(data)
    want = expected("snapshot-v1.json")
    assert snapshot.progress == Progress(
        log_id=bytes.fromhex(want["log_id"]), sequence=want["sequence"], next_ordinal=want["next_ordinal"]
    )
    assert (snapshot.machine_version, snapshot.state.hex()) == (want["machine_version"], want["state"])
    assert snapshot.encode() == data


def test_definition_v1() -> None:
    record = np.frombuffer((FOLDER / "definition-v1.bin").read_bytes(), CELL)
    want = expected("definition-v1.json")
    assert read_definition(record).terms() == want["instrument"]
    assert json.loads(unpack_payload(record)) == want["payload"]
    assert cells_as_json(record[:1])[0] == want["first_cell"]


def test_every_stored_version_has_its_files() -> None:
    versions = {"frame-v1.json", "envelope-v1.json", "snapshot-v1.json", "definition-v1.json"}
    assert versions <= {path.name for path in FOLDER.iterdir()}


# How the files were made.


def golden_cells() -> Cells:
    """One record of nearly every shape: negative and undefined prices, extensions, a payload, edges of the types."""
    book = empty_cells(6)
    book["ts_event"] = 1_340_285_400_000_000_000 + np.arange(6) * 1_000_003
    book["ts_recv"] = book["ts_event"] + [900, 900, 1_200, 850, 70_000, 900]
    book["sequence"] = [1, 2, 3, 3, 5, 2**64 - 1]
    book["order_id"] = [11, 12, 11, 13, 0, 2**64 - 1]
    book["price"] = [585_330_000_000, -40_000_000, 585_340_000_000, 0, 2**63 - 1, 585_310_000_000]
    book["size"] = [100, 18, 0, 200, 2**63 - 1, 7]
    book["instrument"] = [1, 2, 1, 1, 2, 2**32 - 1]
    book["source"], book["kind"], book["cells"] = 1, [1, 1, 1, 4, 5, 200], 1
    book["action"], book["side"] = [65, 65, 67, 84, 82, 77], [66, 65, 66, 65, 78, 66]
    book["flags"], book["depth"], book["count"] = (
        [128, 0, 128, 1, 4, 255],
        [0, 1, 2, 3, 0, 255],
        [0, 1, 0, 0, 9, 2**32 - 1],
    )
    quote = book[:2].copy()
    quote["kind"], quote["cells"][0] = Kind.QUOTE, 2
    extend(quote)
    fill = empty_cells(2)
    fill["ts_event"][0] = fill["ts_recv"][0] = 1_340_285_400_009_000_000
    fill["price"][0], fill["size"][0], fill["instrument"][0] = 585_330_000_000, 100, 1
    fill["kind"][0], fill["cells"][0], fill["action"][0], fill["side"][0] = Kind.FILL, 2, ord("F"), ord("B")
    extend(fill)
    extension = fill[1:].view(FILL_EXTENSION)
    extension["match_id"], extension["fee"], extension["counter_order"] = 77, -250_000, 78
    extension["client"], extension["position"], extension["cash"] = 5, -100, 58_533_000_000_000
    command = pack_payload(
        Kind.COMMAND, b'{"hello":"tape"}' * 5, ts_event=1_340_285_400_009_000_001, ts_recv=1_340_285_400_009_000_001
    )
    return np.concatenate([book, quote, fill, command])


def write_golden() -> None:
    """Write what is not there yet."""
    cells = golden_cells()
    header = FrameHeader(
        log_id=LOG_ID, writer=2**62 + 1, epoch=3, first_ordinal=2**40, flags=1, input_ordinal=99, output_index=7
    )
    files: dict[str, bytes] = {}
    for name, codec in FRAMES.items():
        files[name] = encode_frame(cells, FrameHeader(**{**asdict(header), "codec": codec}))
    filled, _ = decode_frame(files["frame-v1-plain.bin"])
    files["frame-v1.json"] = as_json(
        {
            "log_id": LOG_ID.hex(),
            "header": {field: getattr(filled, field) for field in HEADER_NAMES},
            "record_starts": record_starts(cells).tolist(),
            "instruments": sorted(set(cells["instrument"].tolist())),
            "cells": cells_as_json(cells),
        }
    )
    envelope = Envelope(
        id="3f0c7a52-7a5e-5b0e-9b53-3f2d3a1f9d11",
        type="order.submit",
        version=2,
        client="alice",
        number=41,
        causation="screen-7",
        correlation="day-2012-06-21",
        time=1_340_285_400_000_000_000,
        body={"instrument": "AMZN", "note": "größer", "limit": None, "legs": [{"size": -1}], "price": "585.33"},
    )
    files["envelope-v1.bin"] = envelope.encode()
    files["envelope-v1.json"] = as_json(envelope.model_dump())
    progress = Progress(log_id=LOG_ID, sequence=1234, next_ordinal=2**41)
    snapshot = Snapshot(progress=progress, machine_version=3, state=bytes(range(256)))
    files["snapshot-v1.bin"] = snapshot.encode()
    files["snapshot-v1.json"] = as_json(
        {
            "log_id": LOG_ID.hex(),
            "sequence": 1234,
            "next_ordinal": 2**41,
            "machine_version": 3,
            "state": snapshot.state.hex(),
        }
    )
    option = Instrument(
        id=9,
        symbol="BTC-27DEC24-100000-C",
        venue="DERIBIT",
        asset_class="option",
        price_exponent=-4,
        size_exponent=-1,
        tick_size=5,
        lot_size=1,
        currency="BTC",
        currency_exponent=-8,
        multiplier=1,
        underlying=1,
        strike=1_000_000_000,
        expiry_ns=1_735_286_400_000_000_000,
        right="C",
    )
    record = option.definition(ts_recv=1_733_000_000_000_000_000, source=2)
    files["definition-v1.bin"] = record.tobytes()
    files["definition-v1.json"] = as_json(
        {
            "instrument": asdict(option),
            "payload": json.loads(unpack_payload(record)),
            "first_cell": cells_as_json(record[:1])[0],
        }
    )
    FOLDER.mkdir(exist_ok=True)
    for name, data in files.items():
        if (FOLDER / name).exists():
            print(f"kept {name}")
        else:
            (FOLDER / name).write_bytes(data)
            print(f"wrote {name}, {len(data)} bytes")


def as_json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    write_golden()
