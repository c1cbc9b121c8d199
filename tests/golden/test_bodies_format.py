"""Bodies of commands and events stay readable for ever, in every version that was ever written.

For a new type or version add its examples below and run `python -m tests.golden.test_bodies_format`: it writes what is
not there yet, never touches a file that is, and renews `newest.json`, whose difference says what old bodies mean now.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tapehouse.core.errors import DataError
from tapehouse.desk.commands import COMMANDS, EVENTS
from tapehouse.desk.order_commands import SubmitOrder
from tapehouse.log import Registry
from tests.support.golden_bodies import HASHES, NEWEST, Bodies, files_of, problems, stored, write

FORMATS = Path(__file__).parent / "formats"
REGISTRIES = {"commands": COMMANDS, "events": EVENTS}

_BUY = {"instrument": "AMZN", "side": "buy", "price": "220.10", "size": "100"}
_SELL = {"instrument": "BTC-PERP", "side": "sell", "size": "0.25"}
_SUBMIT_2: Bodies = [
    _BUY,
    {**_BUY, "type": "limit", "time_in_force": "gtd", "expires_at": 1_767_623_400_000_000_000, "post_only": True},
    {**_BUY, "display": "10", "reduce_only": True, "account": "alice"},
    {**_SELL, "type": "market"},
    {**_SELL, "type": "market", "time_in_force": "fok"},
    {**_SELL, "type": "stop", "stop": "61000.5", "time_in_force": "day"},
    {**_SELL, "type": "stop_limit", "stop": "61000.5", "price": "61000"},
]
COMMAND_EXAMPLES: dict[str, dict[int, Bodies]] = {
    "order.submit": {
        1: [
            _BUY,
            {**_BUY, "time_in_force": "ioc", "account": "alice"},
            {**_BUY, "side": "sell", "time_in_force": "post_only"},
            {**_BUY, "price": 220.1, "size": 100, "time_in_force": "gtc"},
        ],
        2: _SUBMIT_2,
        3: [*_SUBMIT_2, {**_BUY, "tag": "hedge 7"}],
    },
    "order.replace": {1: [{"order_id": 4096, "price": "220.2"}, {"order_id": 4096, "size": "50", "tag": "less"}]},
    "order.cancel": {
        1: [{"instrument": "AMZN", "order_id": 4096}, {"instrument": "AMZN", "order_id": 0, "account": "alice"}],
        2: [{"order_id": 4096}, {"order_id": 4096, "instrument": "AMZN", "account": "alice"}],
    },
    "order.mass_cancel": {1: [{}, {"account": "alice", "instrument": "AMZN", "side": "sell"}]},
    "account.open": {1: [{"account": "alice"}]},
    "account.kill": {1: [{"account": "alice"}, {"account": "alice", "on": False}]},
    "account.configure": {1: [{"account": "alice", "mode": "hedging", "method": "fifo", "taker_fee_ppm": 30}]},
    "cash.book": {1: [{"account": "alice", "currency": "USD", "amount": "1000000", "reason": "capital"}]},
    "desk.ping": {1: [{}]},
    "desk.poison": {1: [{"policy": "park"}, {"policy": "halt"}]},
    "instrument.register": {1: [{"symbol": "GOLD", "venue": "internal", "tick_size": "0.01"}]},
    "kill.switch": {1: [{"scope": "all"}, {"scope": "account", "account": "alice", "on": False}]},
    "parked.drop": {1: [{"position": 4711}]},
    "parked.replay": {1: [{"position": 4711}]},
    "position.correct": {1: [{"account": "alice", "instrument": "AMZN", "size": "-5", "price": "220.1"}]},
    "risk.set_limits": {
        1: [
            {"account": "alice", "order_size": 100, "notional": "50000", "self_match": "cancel_oldest"},
            {"account": "alice", "instrument": "AMZN", "position": 500, "open_orders": 10},
        ]
    },
    "strategy.configure": {1: [{"parameters": {"interval_ms": 50}, "strategy": "maker"}]},
    "strategy.start": {1: [{}, {"strategy": "maker"}]},
    "strategy.stop": {1: [{}, {"strategy": "maker", "cancel_orders": False}]},
}
EVENT_EXAMPLES: dict[str, dict[int, Bodies]] = {
    "command.outcome": {
        1: [
            {"outcome": "accepted", "order_id": 4096, "position": 1},
            {"outcome": "rejected", "reason": "kill switch is on", "order_id": 4096, "position": 1},
            {"outcome": "repeated", "first": "accepted", "position": 2},
            {"outcome": "expired", "reason": "number 2 is below this client's window", "position": 2},
        ],
        2: [
            {"outcome": "accepted", "order_id": 4096, "position": 1, "input": 3, "number": 7, "tag": "hedge 7"},
            {"outcome": "parked", "reason": "envelope: no JSON", "position": 9, "input": 4, "number": 0},
        ],
    },
    "account.opened": {1: [{"account": "alice", "number": 1}]},
    "account.configured": {1: [{"account": "alice", "mode": "hedging", "method": "fifo", "taker_fee_ppm": 30}]},
    "cash.booked": {
        1: [{"account": "alice", "currency": "USD", "exponent": -9, "amount": "1000000", "kind": "deposit"}]
    },
    "command.dropped": {1: [{"position": 4711, "sequence": 9, "why": "asked"}]},
    "command.parked": {
        1: [
            {"reason": "envelope: no JSON", "sequence": 9, "size": 3, "hash": "ab" * 32},
            {
                "reason": "unknown type 'order.shout'", "sequence": 9, "client": "al", "number": 7,
                "type": "order.shout", "version": 1, "size": 120, "hash": "ab" * 32,
            },
        ]
    },
    "command.unparked": {1: [{"position": 4711, "sequence": 9}]},
    "desk.poison_set": {1: [{"policy": "park"}]},
    "input.parked": {
        1: [{"reason": "record kind 127 is unknown", "ordinal": 5, "kind": 127, "cells": 2, "instrument": 9}]
    },
    "instrument.registered": {1: [{"instrument": 3, "symbol": "GOLD", "venue": "internal"}]},
    "kill.switched": {1: [{"scope": "all", "on": True, "count": 4}, {"scope": "account", "account": "a", "on": False}]},
    "limits.set": {1: [{"account": "alice", "limits": {"order_size": 100, "self_match": "cancel_oldest"}}]},
    "position.corrected": {1: [{"account": "alice", "instrument": "AMZN", "size": "-5", "price": "220.1"}]},
    "strategy.configured": {1: [{"strategy": "maker", "parameters": {"interval_ms": 50}}]},
    "strategy.started": {1: [{"strategy": "maker"}]},
    "strategy.stopped": {1: [{"strategy": "maker", "count": 2}]},
}  # fmt: skip
EXAMPLES = {"commands": COMMAND_EXAMPLES, "events": EVENT_EXAMPLES}


@pytest.mark.parametrize("folder", sorted(REGISTRIES))
def test_every_version_ever_written_is_read_as_it_was_meant(folder: str) -> None:
    assert problems(FORMATS / folder, REGISTRIES[folder]) == []


def test_the_chain_of_submit_ends_alike() -> None:
    newest = json.loads((FORMATS / "commands" / NEWEST).read_text())
    first, second, third = (newest[f"order.submit-v{version}.json"] for version in (1, 2, 3))
    assert second[0] == third[0] == {**first[0], "time_in_force": None}  # which is gtc, unless said
    assert (first[2]["post_only"], first[2]["time_in_force"]) == (True, "gtc")
    assert second == third[: len(second)]


# The checker must catch what it is for.


class Body2(BaseModel):
    account: str
    on: Literal["yes", "no"]


def broken(name: str, tmp_path: Path) -> list[str]:
    folder = tmp_path / "commands"
    shutil.copytree(FORMATS / "commands", folder)
    registry = COMMANDS
    path = folder / "account.kill-v1.json"
    if name == "edited":
        path.write_bytes(path.read_bytes().replace(b"alice", b"carol"))
    elif name == "gone":
        path.unlink()
    elif name == "unlisted":
        lines = (folder / HASHES).read_text().splitlines(keepends=True)
        (folder / HASHES).write_text("".join(line for line in lines if not line.startswith("account.kill")))
    elif name == "foreign":
        (folder / "account.kill-v2.json").write_text("[{}]")
    elif name in ("another meaning", "unreadable", "no upcaster", "new version without a file"):
        registry = Registry()
        for kind in COMMANDS.names():
            if kind != "account.kill":
                registry._types[kind] = COMMANDS._types[kind]
        registry.register("account.kill", 2, Body2)
        if name == "another meaning":
            registry.upcast("account.kill", 1, lambda body: {"account": "bob", "on": "yes"})
        elif name == "unreadable":
            registry.upcast("account.kill", 1, lambda body: {"account": body["name"]})
        elif name == "new version without a file":
            registry.upcast("account.kill", 1, lambda body: {**body, "on": "yes" if body.get("on", True) else "no"})
    return problems(folder, registry)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("edited", "account.kill-v1.json was edited"),
        ("gone", "account.kill version 1 has no golden file"),
        ("unlisted", "account.kill-v1.json was edited, or is not in hashes.txt"),
        ("foreign", "account.kill-v2.json is of a version that nobody registered"),
        ("another meaning", "account.kill-v1.json is read otherwise"),
        ("unreadable", "account.kill-v1.json can no longer be read"),
        ("no upcaster", "account.kill-v1.json can no longer be read"),
        ("new version without a file", "account.kill version 2 has no golden file"),
    ],
)
def test_the_checker_catches(name: str, told: str, tmp_path: Path) -> None:
    assert any(problem.startswith(told) for problem in broken(name, tmp_path))


def test_the_writer_never_touches_a_file_that_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "commands"
    shutil.copytree(FORMATS / "commands", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert write(folder, COMMANDS, {"account.kill": {1: [{"account": "bob"}]}}) == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# Upcasters meet whatever lies on a log.

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "buy", "gtc", "post_only", "market", "220.10", "1e999999", "-0", "NaN", "alice", "AMZN"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "type"]), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
VERSIONS = [
    (folder, kind, version)
    for folder, registry in REGISTRIES.items()
    for kind in registry.names()
    for version in range(1, registry.version(kind) + 1)
]


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_body_of_any_version_is_read_or_refused_with_words(data: st.DataObject) -> None:
    folder, kind, version = data.draw(st.sampled_from(VERSIONS))
    registry = REGISTRIES[folder]
    model = registry.model(kind)
    body = dict(data.draw(st.sampled_from(EXAMPLES[folder][kind][version])))
    names = sorted({*body, *model.model_fields, "colour"})
    changed = data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=2))
    removed = data.draw(st.sets(st.sampled_from(names), max_size=1))
    body = {name: value for name, value in {**body, **changed}.items() if name not in removed}
    before = json.dumps(body, sort_keys=True)
    results = []
    for _ in range(2):
        try:
            results.append(registry.decode(stored(kind, version, body))[1])
        except DataError as error:
            results.append(str(error))
    assert results[0] == results[1]
    assert json.dumps(body, sort_keys=True) == before
    if not isinstance(results[0], str):
        # What was read can be written in the newest version, and says the same there.
        again = results[0].model_dump(mode="json")
        assert registry.decode(stored(kind, registry.version(kind), again))[1] == results[0]


@settings(deadline=None, max_examples=100)
@given(
    st.fixed_dictionaries(
        {
            "instrument": st.sampled_from(["AMZN", "X"]),
            "side": st.sampled_from(["buy", "sell"]),
            "price": st.decimals("0.01", "1e9", places=2).map(str),
            "size": st.integers(1, 10**9),
        },
        optional={
            "time_in_force": st.sampled_from(["gtc", "ioc", "post_only"]),
            "account": st.sampled_from(["manual", "alice"]),
        },
    )
)
def test_a_first_order_means_what_it_meant(body: dict[str, Any]) -> None:
    _, order = COMMANDS.decode(stored("order.submit", 1, body))
    assert isinstance(order, SubmitOrder)
    in_force = body.get("time_in_force", "gtc")
    assert (order.instrument, order.side, order.type) == (body["instrument"], body["side"], "limit")
    assert (str(order.price), int(order.size)) == (body["price"], body["size"])
    assert (order.in_force, order.post_only) == (("gtc", True) if in_force == "post_only" else (in_force, False))
    assert (order.account, order.tag, order.display, order.stop) == (body.get("account", "manual"), "", None, None)
    assert not order.reduce_only


def test_the_examples_are_what_the_files_hold() -> None:
    for folder, kinds in EXAMPLES.items():
        held = {place: json.loads((FORMATS / folder / name).read_text()) for name, place in
                files_of(FORMATS / folder).items()}  # fmt: skip
        assert held == {(kind, version): bodies for kind, each in kinds.items() for version, bodies in each.items()}


if __name__ == "__main__":
    for name, registry in REGISTRIES.items():
        print(name, write(FORMATS / name, registry, EXAMPLES[name]))
