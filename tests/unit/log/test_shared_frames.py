"""A frame is decoded for its first reader; each reader's cells are its own."""

from __future__ import annotations

import pytest

from tapehouse.core.errors import DecodeError
from tapehouse.log import FrameHeader, Message, decode_frame, decode_message, encode_frame, shared_frames
from tapehouse.market import Cells, Kind, empty_cells


def frame(cells: int = 3) -> tuple[Cells, bytes]:
    made = empty_cells(cells)
    made["kind"], made["cells"], made["ts_recv"] = Kind.CLOCK, 1, range(cells)
    return made, encode_frame(made, FrameHeader(log_id=bytes(16), writer=1, epoch=1, first_ordinal=0))


def message(payload: bytes) -> Message:
    return Message(sequence=1, subject="s", payload=payload)


def test_each_gets_cells_of_its_own() -> None:
    cells, payload = frame()
    (_, one), (_, other) = decode_message(message(payload)), decode_message(message(payload))
    one["ts_recv"] = 0
    assert (other == cells).all()
    other["ts_recv"] = 0
    header, third = decode_message(message(payload))
    assert (third == cells).all()
    assert header == decode_frame(payload)[0]


def test_one_that_only_looks_alike_is_decoded_and_a_damaged_one_refused_again() -> None:
    cells, payload = frame()
    decode_message(message(payload))
    copied = bytes(bytearray(payload))
    assert (decode_message(message(copied))[1] == cells).all()
    damaged = payload[:-1] + bytes([payload[-1] ^ 1])
    for _ in range(2):
        with pytest.raises(DecodeError):
            decode_message(message(damaged))


def test_few_and_small_ones_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = [frame(3 + at)[1] for at in range(shared_frames.FRAMES_KEPT + 2)]
    for payload in payloads:
        decode_message(message(payload))
    kept = [payload for payload, _, _ in shared_frames._kept]
    assert kept == payloads[: -shared_frames.FRAMES_KEPT - 1 : -1]
    monkeypatch.setattr(shared_frames, "KEPT_CELLS_MAX", 2)
    decode_message(message(frame()[1]))
    assert [payload for payload, _, _ in shared_frames._kept] == kept
