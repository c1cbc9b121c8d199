"""OUT's JSON stays what it was: a frame of EVENTS with every kind of decision, and the messages that it became.

The files were made by `python -m tests.golden.test_out_format`, which refuses to touch one that is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.app.out import out_subject
from tapehouse.desk.out_events import ORDER_TYPES, OutEvents
from tapehouse.log import Codec, FrameHeader, decode_frame, encode_frame
from tapehouse.market import Action, Cells, Instrument, extend
from tests.support.decided_day import NOW, SHARES, TICK, event_record, fill_record, order_record

FOLDER = Path(__file__).parent / "formats"
FRAME_FILE, OUT_FILE = FOLDER / "out-v1.bin", FOLDER / "out-v1.ndjson"
TAPE = "golden"
EVENT_FIELDS = {
    "id", "type", "version", "tape", "position", "causation", "correlation", "time", "time_ns", "body",
}  # fmt: skip


def told(frame: bytes) -> list[str]:
    """Each message as a line: its subject, a space, its bytes."""
    header, cells = decode_frame(frame)
    machine = OutEvents(TAPE)
    machine.apply(header, cells)
    return [f"{out_subject(TAPE, each.type)} {each.payload.decode()}" for each in machine.take()]


def test_a_frame_of_events_is_told_in_the_same_bytes() -> None:
    assert told(FRAME_FILE.read_bytes()) == OUT_FILE.read_text(encoding="utf-8").splitlines()


def test_the_file_holds_every_type_and_every_message_has_every_field() -> None:
    messages = [json.loads(line.partition(" ")[2]) for line in OUT_FILE.read_text(encoding="utf-8").splitlines()]
    assert {message["type"] for message in messages} == {
        *ORDER_TYPES.values(), "order.filled", "instrument.defined", "account.opened", "command.outcome",
    }  # fmt: skip
    assert all(set(message) == EVENT_FIELDS for message in messages)
    bodies: dict[str, Any] = {name: value for message in messages for name, value in message["body"].items()}
    assert {"stop", "display", "expiry", "replaced", "counter_order", "left", "fee", "strike"} <= set(bodies)


def test_the_older_frame_of_events_can_be_told_too() -> None:
    lines = told((FOLDER / "events-v1.bin").read_bytes())
    assert len(lines) == len(json.loads((FOLDER / "events-v1.json").read_text())["records"])


# How the files were made.


def decided() -> Cells:
    """Three inputs: a command, a market record, and a command of another account."""
    share, coin = SHARES
    option = Instrument(
        id=3, symbol="ALFA C1", asset_class="option", underlying=1, strike=100 * TICK, right="C", expiry_ns=NOW
    )
    buy, stop, gone, bad = ((100 << 12) + index for index in (1, 2, 3, 4))
    inputs = {
        100: [
            share.definition(ts_recv=NOW),
            order_record(Action.ACCEPTED, buy, share, 30, number=7, display=10),
            order_record(Action.ACCEPTED, stop, share, 20, number=7, stop=105 * TICK, expiry=NOW + 60_000_000_000),
            order_record(Action.ACCEPTED, gone, share, 5, number=7),
            order_record(Action.REJECTED, bad, share, 9, number=7),
            event_record("account.opened", 100, 5, "command-1", "chain-1", {"account": "alice", "number": 0}),
            event_record("command.outcome", 100, 6, "command-1", "chain-1", {"outcome": "accepted", "position": 100}),
        ],
        107: [
            fill_record(buy, share, 30, 1),
            order_record(Action.TRIGGERED, stop, share, 20),
            order_record(Action.EXPIRED, gone, share, 5),
            option.definition(ts_recv=NOW),
        ],
        110: [
            coin.definition(ts_recv=NOW),
            order_record(Action.ACCEPTED, (110 << 12) + 1, share, 12, replaced=stop),
            order_record(Action.CANCELLED, stop, share, 20),
            fill_record((110 << 12) + 1, share, 2, 2, counter=buy),
            order_record(Action.REPEATED, buy, share, 0, number=7),
            event_record("command.outcome", 110, 5, "command-2", "chain-2", {"outcome": "accepted", "position": 110}),
        ],
    }
    parts = []
    for ordinal, records in inputs.items():
        for index, record in enumerate(records):
            starts = record["cells"] > 0
            record["sequence"][starts], record["count"][starts] = ordinal, index
            record["ts_event"][starts] = record["ts_recv"][starts] = NOW + ordinal
            extend(record)
            parts.append(record)
    return np.concatenate(parts)


def write_golden() -> None:
    """Write what is not there yet."""
    header = FrameHeader(
        log_id=bytes(range(16)), writer=7, epoch=2, first_ordinal=40, codec=Codec.PLAIN, input_ordinal=120
    )
    frame = encode_frame(decided(), header)
    for path, data in ((FRAME_FILE, frame), (OUT_FILE, ("\n".join(told(frame)) + "\n").encode())):
        if path.exists():
            print(f"kept {path.name}")
        else:
            path.write_bytes(data)
            print(f"wrote {path.name}, {len(data)} bytes")


if __name__ == "__main__":
    write_golden()
