"""A stored frame of orders, what became of it on TAPE, and answers in EVENTS, stay readable for ever.

The files were made by `python -m tests.golden.test_order_frames_format`, which refuses to touch one that is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.desk.order_frames import consumed_through, decode_orders, encode_orders, make_orders, place_orders
from tapehouse.desk.requests import IOC, LIMIT, POST_ONLY_FLAG, REASONS, REDUCE_ONLY_FLAG, STOP_LIMIT
from tapehouse.engine.sequencer import DESK_SOURCE
from tapehouse.log import Codec, FrameHeader, decode_frame, encode_frame
from tapehouse.market import ANSWER_EXTENSION, ORDER_EXTENSION, Action, Cells, Kind, Side, record_starts
from tests.support.bench import LOG_ID, NOW, SHARE, TICK, EngineBench, level
from tests.support.bulk_orders import orders

FOLDER = Path(__file__).parent / "formats"
CMDS_FILE, TAPE_FILE, EVENTS_FILE = (FOLDER / f"orders-v1-{name}.bin" for name in ("cmds", "tape", "events"))
CLIENT = 2**64 - 59
FIELDS = ("ts_recv", "sequence", "order_id", "price", "size", "instrument", "source", "depth", "flags", "count")
SEQUENCE = 12


def meaning(cells: Cells) -> list[dict[str, Any]]:
    """Every ORDER record in words, as docs/formats/decisions.md says."""
    told = []
    for start in record_starts(cells).tolist():
        record = cells[start : start + int(cells["cells"][start])]
        if record["kind"][0] != Kind.ORDER:
            continue
        first = record[0]
        said = record[1:2].view(ORDER_EXTENSION)[0]
        row: dict[str, Any] = {
            "action": Action(int(first["action"])).name,
            "side": Side(int(first["side"])).name,
            **{name: int(first[name]) for name in FIELDS},
            **{name: int(said[name]) for name in ORDER_EXTENSION.names[:-1]},
        }
        if len(record) == 3:
            answer = record[2:].view(ANSWER_EXTENSION)[0]
            row["answer"] = {name: int(answer[name]) for name in ANSWER_EXTENSION.names[:-1]}
            row["reason"] = REASONS[int(answer["reason"])]
        told.append(row)
    return told


def want(path: Path) -> Any:
    return json.loads(path.with_suffix(".json").read_text())


def test_the_frame_in_cmds_is_still_read_and_made() -> None:
    payload = CMDS_FILE.read_bytes()
    cells = decode_orders(payload)
    assert meaning(cells) == want(CMDS_FILE)
    assert np.array_equal(decode_orders(encode_orders(asked())), cells)


def test_the_orders_on_tape_are_still_read_and_placed() -> None:
    _, cells = decode_frame(TAPE_FILE.read_bytes())
    assert meaning(cells) == want(TAPE_FILE)
    placed = place_orders(decode_orders(CMDS_FILE.read_bytes()), sequence=SEQUENCE, now=NOW, source=DESK_SOURCE)
    assert np.array_equal(placed, cells)
    assert consumed_through(cells, 0, DESK_SOURCE) == SEQUENCE
    assert consumed_through(cells[:-2], 0, DESK_SOURCE) == 0


def test_the_answers_are_still_read_and_written() -> None:
    _, cells = decode_frame(EVENTS_FILE.read_bytes())
    told = meaning(cells)
    assert told == want(EVENTS_FILE)
    assert {row["action"] for row in told if "answer" in row} == {"ACCEPTED", "REJECTED", "REPEATED", "CANCELLED"}
    assert np.array_equal(answered(), cells)


# How the files were made.


def asked() -> Cells:
    """Orders in which every field says something."""
    cells = make_orders(3, client=CLIENT, number=41)
    first, said = cells[::2], cells[1::2].view(ORDER_EXTENSION)
    first["instrument"], first["count"], first["price"], first["size"] = 1, 2, [99 * TICK, 101 * TICK, 0], [10, 20, 0]
    first["action"] = [Action.ADD, Action.MODIFY, Action.CANCEL]
    first["side"] = [Side.BID, Side.ASK, Side.BID]
    first["order_id"] = [0, 4096, 2**63 - 1]
    first["depth"] = [STOP_LIMIT | 5 << 4, LIMIT | IOC << 4, 0]
    first["flags"] = [REDUCE_ONLY_FLAG, POST_ONLY_FLAG, 0]
    said["stop"], said["display"], said["expiry"] = [98 * TICK, 2**63 - 1, 0], [5, 0, 0], [NOW + 10**9, 0, 0]
    return cells


def answered() -> Cells:
    """Decisions with every kind of answer."""
    bench = EngineBench(share=None)
    parts = [bench.feed(SHARE.definition(ts_recv=NOW)), bench.feed(level("sell", 101, 20))]
    working = bench.ordinal
    for at, made in enumerate(
        (
            orders(CLIENT, 1),
            orders(CLIENT, 2, ticks=101, size=5, depth=LIMIT | IOC << 4),
            orders(CLIENT, 3, price=1),
            orders(CLIENT, 4, instrument=9),
            orders(CLIENT, 5, account=7),
            orders(CLIENT, 6, action=int(Action.CANCEL), order_id=working << 12),
            orders(CLIENT, 1),
            orders(CLIENT, 3),
            orders(CLIENT, 100_000, ticks=97),
            orders(CLIENT, 7),
        )
    ):
        placed = place_orders(decode_orders(encode_orders(made)), sequence=at + 1, now=NOW, source=DESK_SOURCE)
        parts.append(bench.feed(placed))
    return np.concatenate(parts)


def write_golden() -> None:
    """Write what is not there yet."""
    header = FrameHeader(log_id=LOG_ID, writer=7, epoch=2, first_ordinal=0, codec=Codec.PLAIN, input_ordinal=SEQUENCE)
    placed = place_orders(decode_orders(encode_orders(asked())), sequence=SEQUENCE, now=NOW, source=DESK_SOURCE)
    files = {
        CMDS_FILE: encode_orders(asked()),
        TAPE_FILE: encode_frame(placed, header),
        EVENTS_FILE: encode_frame(answered(), header),
    }
    for path, data in files.items():
        if path.exists():
            print(f"kept {path.name}")
            continue
        path.write_bytes(data)
        path.with_suffix(".json").write_text(json.dumps(meaning(decode_frame(data)[1]), indent=1) + "\n")
        print(f"wrote {path.name}, {len(data)} bytes")


if __name__ == "__main__":
    write_golden()
