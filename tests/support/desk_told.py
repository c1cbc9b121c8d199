"""What a real desk said and holds, in the words of the oracle: records of EVENTS, and an engine's state."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tapehouse.core.units import UNDEFINED
from tapehouse.desk import working_orders
from tapehouse.desk.bulk import CLIENTS
from tapehouse.desk.ledger_state import MAKER_FEE, METHOD, METHODS, MODE, MODES
from tapehouse.desk.state import (
    CASH,
    COST,
    FEES,
    FILLS,
    LIMIT_MESSAGES,
    POSITION,
    REALISED,
    SELF_MATCH,
    SWITCHED_OFF,
)
from tapehouse.engine import Engine
from tapehouse.market import Cells, Kind, record_starts, unpack_payload, words
from tests.support.desk_slow import ACCOUNTS_MAX, Told

MONEY = (POSITION, CASH, FEES, COST, REALISED, FILLS)


def told_by(record: Cells) -> Told:
    """One record of EVENTS as the oracle tells it."""
    first = record[0]
    told: Told = {"input": int(first["sequence"]), "index": int(first["count"]), "now": int(first["ts_recv"])}
    kind = int(first["kind"])
    if kind == Kind.EVENT:
        said = json.loads(unpack_payload(record))
        told |= {"kind": "event"} | {name: said[name] for name in ("id", "type", "version", "causation", "correlation")}
        return told | {"body": said["body"]}
    told["instrument"] = int(first["instrument"])
    if kind == Kind.DEFINITION:
        return {**told, "kind": "definition"}
    more = words(record)[1].tolist()
    told |= {name: int(first[name]) for name in ("side", "order_id", "price", "size")}
    if kind == Kind.ORDER:
        told |= {"kind": "order", "action": int(first["action"]), "reason": int(first["depth"])}
        told |= dict(zip(("account", "number", "stop", "display", "expiry", "replaced"), more, strict=False))
        if len(record) == 3:
            client, *answer = words(record)[2].tolist()[:4]
            told["answer"] = client % 2**64, *answer
        return told
    assert kind == Kind.FILL
    told |= {"kind": "fill", "liquidity": int(first["depth"]), "closes": int(first["flags"]) & 127 == 2}
    return told | dict(zip(("match", "fee", "counter", "account", "position", "cash"), more, strict=False))


def decisions_in(cells: Cells) -> list[Told]:
    """Every record of EVENTS, as the oracle tells it."""
    starts = record_starts(cells).tolist()
    return [told_by(cells[at : at + int(cells["cells"][at])]) for at in starts]


def state_of(engine: Engine) -> Told:
    """An engine's state as `SlowDesk.state` tells it."""
    desk, commands = engine.desk, engine._commands
    slots = {engine.route(number): number for number in engine.instruments}
    money = desk.accounts[:ACCOUNTS_MAX, :, MONEY]
    known: Any = commands._clients._outcomes
    return {
        "money": {
            (account, slots[slot]): tuple(money[account, slot].tolist())
            for account, slot in np.argwhere(money.any(axis=2)).tolist()
        },
        "working": {
            number: [
                (o.order_id, o.account, o.side, o.price, o.left, o.shown, o.ahead, o.waits)
                for o in sorted(working_orders(desk, slot), key=lambda o: (o.waits, o.side))
            ]
            for slot, number in slots.items()
        },
        "limits": [tuple(desk.limits[account, slot, :5].tolist()) for account in range(ACCOUNTS_MAX) for slot in slots],
        "conduct": [(bool(row[SWITCHED_OFF]), int(row[SELF_MATCH]), int(row[LIMIT_MESSAGES]))
                    for row in desk.conduct[:ACCOUNTS_MAX]],
        "bookings": [
            (MODES[row[MODE]], METHODS[row[METHOD]], *(None if fee == UNDEFINED else fee for fee in row[MAKER_FEE:]))
            for row in desk.booking[:ACCOUNTS_MAX].tolist()
        ],
        "cash": {
            (account, currency, exponent, kind): amount
            for account in range(ACCOUNTS_MAX)
            for (currency, exponent), kinds in commands.cash.of(account).items()
            for kind, amount in kinds.items()
            if amount
        },
        "accounts": commands._accounts,
        "clients": [[client, sorted(window.items())] for client, window in known.items()],
        "senders": _senders(engine),
        "strategy": (engine.control.is_running, _parameters(engine)),
    }  # fmt: skip


def _senders(engine: Engine) -> Told:
    bulk, found = engine._routes.bulk, {}
    for place in range(int(bulk.counts[CLIENTS])):
        client, last, _ = bulk.clients[place].tolist()
        kept = [row for row in bulk.outcomes[place].tolist() if row[0] > max(0, last - bulk.outcomes.shape[1])]
        found[client % 2**64] = last, {number: (order_id, reason) for number, order_id, reason in kept}
    return found  # type: ignore[return-value]


def _parameters(engine: Engine) -> dict[str, int]:
    names = engine.control._names
    return dict(zip(names, engine.control.parameters.tolist(), strict=False))
