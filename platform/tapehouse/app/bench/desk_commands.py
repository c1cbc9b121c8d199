"""The first frames of a stream as JSON commands: the same requests, one message each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tapehouse.app.bench.desk_stream import Part, Stream, account_name, command
from tapehouse.desk.order_frames import CANCELLED, REPLACED, SUBMITTED
from tapehouse.desk.requests import LIMIT, ORDER_TYPES, POST_ONLY_FLAG, TIMES_IN_FORCE
from tapehouse.desk.state import INDEX_BITS
from tapehouse.log.envelope import Body
from tapehouse.market import Cells, Instrument, Side

_TYPES = {SUBMITTED: "order.submit", REPLACED: "order.replace", CANCELLED: "order.cancel"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AsCommands:
    """The beginning of a stream twice: as it is, and as commands.

    Args:
        count: Commands.
    """

    parts_in_frames: tuple[Part, ...]
    parts: tuple[Part, ...]
    count: int


def as_commands(stream: Stream, frames: int) -> AsCommands:
    """The stream up to the end of its first `frames` frames of orders."""
    parts, before, count = [], [], 0
    ids: dict[int, int] = {}  # of the frames' orders: what the commands' orders are called
    ordinal = asked = len(stream.opening)
    for part in stream.parts:
        if frames == 0:
            break
        before.append(part)
        if part.is_orders:
            frames -= 1
            said = []
            for at, cell in enumerate(part.cells[::2]):
                ids[(asked + 2 * at) << INDEX_BITS] = ordinal << INDEX_BITS
                count += 1
                kind = _TYPES[int(cell["action"])]
                made = command(count, kind, _body(cell, stream.instrument, ids), client=f"client-{cell['source']}")
                made["ts_event"][0] = made["ts_recv"][0] = cell["ts_recv"]
                said.append(made)
                ordinal += len(made)
            parts.append(Part(cells=np.concatenate(said), is_orders=True))
        else:
            parts.append(part)
            ordinal += len(part.cells)
        asked += len(part.cells)
    return AsCommands(parts_in_frames=tuple(before), parts=tuple(parts), count=count)


def _body(cell: Cells, instrument: Instrument, ids: dict[int, int]) -> Body:
    """What a command says for an order of a frame."""
    account = account_name(int(cell["count"]))
    action = int(cell["action"])
    if action == CANCELLED:
        return {"account": account, "instrument": instrument.symbol, "order_id": ids[int(cell["order_id"])]}
    price, size = str(instrument.price(int(cell["price"]))), str(instrument.size(int(cell["size"])))
    if action == REPLACED:
        order_id = ids[int(cell["order_id"])]
        return {
            "account": account, "instrument": instrument.symbol, "order_id": order_id, "price": price, "size": size,
        }  # fmt: skip
    kind = int(cell["depth"]) & 15
    body: Body = {
        "account": account,
        "instrument": instrument.symbol,
        "side": "buy" if cell["side"] == Side.BID else "sell",
        "type": ORDER_TYPES[kind],
        "size": size,
        "time_in_force": TIMES_IN_FORCE[int(cell["depth"]) >> 4],
    }
    if kind == LIMIT:
        body["price"] = price
    if int(cell["flags"]) & POST_ONLY_FLAG:
        body["post_only"] = True
    return body
