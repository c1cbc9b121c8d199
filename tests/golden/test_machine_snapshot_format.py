"""Stored states of machines stay readable for ever, and no bytes whatever bring their decoder down.

`write_golden` made the files and is run by hand for a new version:
`python -m tests.golden.test_machine_snapshot_format`.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import xxhash
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DataError, DecodeError, IntegrityError
from tapehouse.desk.projection import PositionsProjection
from tapehouse.log import FrameHeader, Progress, Snapshot, machine_snaps
from tapehouse.log.machine_snaps import (
    HEADER_BYTES,
    PART_BYTES,
    PARTS_MAX,
    StateTooLargeError,
    StoredState,
    decode_state,
    encode_state,
)
from tests.support.desk_day import LOG_ID, START, shared_day

FOLDER = Path(__file__).parent / "formats"
NAME = "machine-snapshot-v1-positions.bin"
REFUSALS = (DecodeError, IntegrityError)


def stored(state: bytes, machine: str = "positions") -> StoredState:
    progress = Progress(log_id=LOG_ID, sequence=123_456, next_ordinal=2**40 + 7)
    snapshot = Snapshot(progress=progress, machine_version=1, state=state)
    return StoredState(machine=machine, time=START + 5, reached=2**41, snapshot=snapshot)


def golden_message() -> bytes:
    machine = PositionsProjection()
    machine.apply(FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0), shared_day().outputs)
    (message,) = encode_state(stored(machine.snapshot()))
    return message


def meaning(message: bytes) -> dict[str, Any]:
    """What a message says, ready for JSON."""
    said = decode_state([message])
    place = said.place
    return {
        "machine": said.machine, "machine_version": said.snapshot.machine_version, "ordinal": place.ordinal,
        "sequence": place.sequence, "time": place.time, "reached": place.reached, "log_id": place.log_id.hex(),
        "state": said.snapshot.state.hex(),
    }  # fmt: skip


@pytest.mark.parametrize("path", sorted(FOLDER.glob("machine-snapshot-v1-*.bin")), ids=lambda path: path.name)
def test_a_stored_message_is_read(path: Path) -> None:
    assert meaning(path.read_bytes()) == json.loads((FOLDER / "machine-snapshot-v1.json").read_text())[path.name]


def test_there_is_a_file() -> None:
    assert (FOLDER / NAME).exists()


def test_the_header_is_where_the_format_page_says() -> None:
    (message,) = encode_state(stored(b"state"))
    assert HEADER_BYTES == 64
    assert struct.unpack_from("<4sHBB16sqQ", message) == (
        b"THMS",
        1,
        1,
        0,
        b"positions".ljust(16, b"\0"),
        START + 5,
        2**41,
    )
    assert struct.unpack_from("<QQ", message, 40) == (72 + 5, len(message) - 64)
    assert int.from_bytes(message[56:64], "little") == xxhash.xxh3_64_intdigest(message[:56] + message[64:])


# Parts.


def noise(length: int) -> bytes:
    """Bytes that do not compress."""
    return blake3(b"noise").digest(length=length)


def test_a_long_state_is_cut_into_parts_and_put_together() -> None:
    state = noise(3 * PART_BYTES - 1000)
    messages = encode_state(stored(state))
    assert len(messages) == 3
    assert decode_state(messages) == stored(state)
    for wrong in (messages[:2], messages[1:], [messages[1], messages[0], messages[2]], [], [*messages, messages[2]]):
        with pytest.raises(DecodeError):
            decode_state(wrong)
    other = encode_state(stored(noise(3 * PART_BYTES - 1000)[::-1]))
    with pytest.raises(REFUSALS):
        decode_state([messages[0], other[1], messages[2]])


def test_what_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StateTooLargeError, match=r"positions: a state of 8389\d+ bytes"):
        encode_state(stored(noise(PARTS_MAX * PART_BYTES + 1000)))
    monkeypatch.setattr(machine_snaps, "PLAIN_BYTES_MAX", 1000)
    with pytest.raises(StateTooLargeError):
        encode_state(stored(bytes(1000)))
    with pytest.raises(DataError, match="1 to 16 bytes"):
        encode_state(stored(b"", machine="a name that is too long"))


# Bytes that are none.


def test_every_flipped_bit_is_found() -> None:
    (message,) = encode_state(stored(bytes(range(40))))
    for at in range(len(message) * 8):
        flipped = bytearray(message)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(REFUSALS):
            decode_state([bytes(flipped)])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_bytes_bring_the_decoder_down(data: st.DataObject) -> None:
    """Sealed again, so that what lies behind the checksum is reached."""
    (message,) = encode_state(stored(bytes(range(40))))
    body = bytearray(message)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(4, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = body[: data.draw(st.integers(HEADER_BYTES, len(body)))]
    cut[56:64] = xxhash.xxh3_64_intdigest(bytes(cut[:56] + cut[64:])).to_bytes(8, "little")
    try:
        assert decode_state([bytes(cut)]).snapshot.state == bytes(range(40))
    except REFUSALS:
        return


def write_golden() -> None:
    """Write what is not there yet."""
    path = FOLDER / "machine-snapshot-v1.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if not (FOLDER / NAME).exists():
        message = golden_message()
        (FOLDER / NAME).write_bytes(message)
        known[NAME] = meaning(message)
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write_golden()
