"""A stored frame of EVENTS and one of TAPE stay readable for ever: every decision with what it meant when it was made.

The files were made by `python -m tests.golden.test_decisions_format`, which refuses to touch one that is there.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.desk.commands import COMMANDS, EVENTS
from tapehouse.desk.requests import REASONS
from tapehouse.engine import read_tape
from tapehouse.engine.sequencer import DESK_SOURCE
from tapehouse.log import Codec, FrameHeader, MemoryLog, decode_frame, encode_frame
from tapehouse.market import (
    FILL_EXTENSION,
    ORDER_EXTENSION,
    Action,
    Cells,
    Kind,
    Side,
    pack_payload,
    read_definition,
    record_starts,
    unpack_payload,
)
from tests.support.bench import LOG_ID, NOW, SHARE, SIDES, EngineBench, command_bytes, level, trade

FOLDER = Path(__file__).parent / "formats"
EVENTS_FILE, TAPE_FILE = FOLDER / "events-v1.bin", FOLDER / "tape-v1.bin"
HEADER = ("writer", "epoch", "first_ordinal", "count", "input_ordinal", "output_index", "flags")


def meaning(cells: Cells) -> list[dict[str, Any]]:
    """Every record of EVENTS in words."""
    told = []
    for start in record_starts(cells).tolist():
        record = cells[start : start + int(cells["cells"][start])]
        first = record[0]
        common = {
            "record": Kind(int(first["kind"])).name,
            "input_ordinal": int(first["sequence"]),
            "index": int(first["count"]),
            "now": int(first["ts_recv"]),
        }
        told.append({**common, **MEANINGS[Kind(int(first["kind"]))](record)})
    return told


def _order(record: Cells) -> dict[str, Any]:
    extension = record[1:].view(ORDER_EXTENSION)[0]
    return {
        **_place(record),
        "what": Action(int(record["action"][0])).name,
        "reason": REASONS[int(record["depth"][0])],
        "left": int(extension["display"]),
        "account": int(extension["client"]),
        "number": int(extension["number"]),
    }


def _fill(record: Cells) -> dict[str, Any]:
    extension = record[1:].view(FILL_EXTENSION)[0]
    return {
        **_place(record),
        "liquidity": ("maker", "taker")[int(record["depth"][0])],
        "fill": int(extension["match_id"]),
        "fee": int(extension["fee"]),
        "account": int(extension["client"]),
        "position": int(extension["position"]),
        "cash": int(extension["cash"]),
    }


def _place(record: Cells) -> dict[str, Any]:
    first = record[0]
    return {
        "instrument": int(first["instrument"]),
        "side": Side(int(first["side"])).name,
        "price": int(first["price"]),
        "size": int(first["size"]),
        "order_id": int(first["order_id"]),
        "input_of_order": int(first["order_id"]) >> 12,
        "index_of_order": int(first["order_id"]) & 4095,
    }


def _event(record: Cells) -> dict[str, Any]:
    envelope, _ = EVENTS.decode(unpack_payload(record))
    return {"envelope": envelope.model_dump()}


MEANINGS = {
    Kind.ORDER: _order,
    Kind.FILL: _fill,
    Kind.EVENT: _event,
    Kind.DEFINITION: lambda record: {"instrument": read_definition(record).terms()},
}


def test_events_v1() -> None:
    header, cells = decode_frame(EVENTS_FILE.read_bytes())
    want = json.loads(EVENTS_FILE.with_suffix(".json").read_text())
    assert {name: getattr(header, name) for name in HEADER} == want["header"]
    assert meaning(cells) == want["records"]


def test_the_file_holds_every_shape_of_a_decision() -> None:
    records = json.loads(EVENTS_FILE.with_suffix(".json").read_text())["records"]
    assert {record["record"] for record in records} == {"DEFINITION", "ORDER", "FILL", "EVENT"}
    assert {record["what"] for record in records if "what" in record} == {"ACCEPTED", "REJECTED", "CANCELLED"}
    assert {record["liquidity"] for record in records if "liquidity" in record} == {"maker", "taker"}
    outcomes = [record["envelope"]["body"] for record in records if "envelope" in record]
    assert {body["outcome"] for body in outcomes if "outcome" in body} == {"accepted", "rejected", "repeated"}


def test_the_engine_still_writes_these_cells() -> None:
    _, cells = decode_frame(EVENTS_FILE.read_bytes())
    assert np.array_equal(decided()[0], cells)


async def test_tape_v1() -> None:
    want = json.loads(TAPE_FILE.with_suffix(".json").read_text())
    header, cells = decode_frame(TAPE_FILE.read_bytes())
    log = MemoryLog("TAPE_golden", log_id=header.log_id)
    await log.append(TAPE_FILE.read_bytes(), expected_last=0)
    state = await read_tape(log)
    assert (state.clock, state.feed, state.now) == (want["clock"], want["feed"], want["now"])
    assert (state.commands_through, state.feed_cells) == (want["commands_through"], want["feed_cells"])
    assert {str(number): instrument.terms() for number, instrument in state.instruments.items()} == want["instruments"]
    kinds = {int(cells["kind"][start]): int(start) for start in record_starts(cells)}
    epoch = cells[kinds[Kind.EPOCH] : kinds[Kind.DEFINITION]]
    assert json.loads(unpack_payload(epoch)) == want["epoch"]
    command = cells[kinds[Kind.COMMAND] :]
    envelope, body = COMMANDS.decode(unpack_payload(command[: int(command["cells"][0])]))
    assert envelope.model_dump() == want["command"]
    assert want["body"].items() <= body.model_dump(mode="json").items()  # upcast since: fields were added


# How the files were made.


def decided() -> tuple[Cells, int]:
    """A short session in which every kind of decision occurs, and how many cells of TAPE it took."""
    bench = EngineBench(share=None)
    parts = [bench.feed(replace(SHARE, multiplier=2).definition(ts_recv=NOW))]
    parts.append(bench.feed(level("buy", 99, 20), level("sell", 101, 20)))
    orders: list[dict[str, Any]] = [
        {"side": "buy", "price": "1.01", "size": "30", "account": "alice", "client": "desk-1", "number": 1},
        {"side": "buy", "price": "1.01", "size": "30", "account": "alice", "client": "desk-1", "number": 1},
        {"side": "sell", "price": "0.99", "size": "25", "account": "bob", "time_in_force": "ioc"},
        {"side": "sell", "price": "1.005", "size": "5", "account": "bob", "client": "desk-1", "number": 2},
        {"side": "buy", "price": "0.98", "size": "7", "account": "alice"},
    ]
    for order in orders:
        bench.order(**order)
        parts.append(bench.outputs)
    parts.append(bench.feed(trade(SIDES["sell"], 100, 4)))
    bench.send("account.kill", account="alice")
    parts.append(bench.outputs)
    return np.concatenate(parts), bench.ordinal


def write_golden() -> None:
    """Write what is not there yet."""
    outputs, consumed = decided()
    header = FrameHeader(log_id=LOG_ID, writer=7, epoch=2, first_ordinal=0, codec=Codec.PLAIN, input_ordinal=consumed)
    frame = encode_frame(outputs, header)
    filled, cells = decode_frame(frame)
    _write(EVENTS_FILE, frame, {"header": {name: getattr(filled, name) for name in HEADER}, "records": meaning(cells)})
    epoch = {
        "type": "epoch", "version": 1, "mode": "gated", "clock": "history", "code": "0123456789abcdef0123", "epoch": 2,
        "feed": "golden",
    }  # fmt: skip
    body = {"instrument": "ALFA", "side": "buy", "price": "1.01", "size": "30"}
    payload = command_bytes(4, "order.submit", body)
    market = level("buy", 99, 20)
    market["ts_event"], market["ts_recv"], market["source"] = NOW, NOW + 5, 1
    parts = [
        pack_payload(
            Kind.EPOCH, json.dumps(epoch, sort_keys=True, separators=(",", ":")).encode(), ts_event=NOW, ts_recv=NOW,
            source=DESK_SOURCE,
        ),
        SHARE.definition(ts_recv=NOW, source=DESK_SOURCE),
        market,
        pack_payload(
            Kind.COMMAND, payload, ts_event=NOW + 5, ts_recv=NOW + 5, sequence=9, source=DESK_SOURCE
        ),
    ]  # fmt: skip
    frame = encode_frame(np.concatenate(parts), replace(header, input_ordinal=9))
    envelope, command = COMMANDS.decode(payload)
    told = {
        "clock": "history", "feed": "golden", "now": NOW + 5, "commands_through": 9, "feed_cells": 1, "epoch": epoch,
        "instruments": {"1": SHARE.terms()}, "command": envelope.model_dump(), "body": command.model_dump(mode="json"),
    }  # fmt: skip
    _write(TAPE_FILE, frame, told)


def _write(path: Path, data: bytes, told: object) -> None:
    if path.exists():
        print(f"kept {path.name}")
        return
    path.write_bytes(data)
    path.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    print(f"wrote {path.name}, {len(data)} bytes")


if __name__ == "__main__":
    write_golden()
