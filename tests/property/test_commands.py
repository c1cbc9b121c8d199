"""Whatever is sent to a desk as a command is answered by one outcome, and never ends the engine."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.desk.commands import COMMANDS, EVENTS
from tests.support.bench import EngineBench, events_in, level

AMOUNTS = ["0", "1", "0.98", "1.01", "-1", "5", "1e6", "1e30", "1e-30", "NaN", "0.985", 7, 2**70, None, "x"]
TEXTS = ["", "ALFA", "BETA", "alice", "bob", "strategy", "XNYS", "é" * 40, "a b", "USD", 3, None]
CHOICES = ["buy", "sell", "limit", "market", "stop", "stop_limit", "gtc", "day", "gtd", "ioc", "fok", "all", "account"]
MORE_CHOICES = ["internal", "hedging", "fifo", "deposit", "fee", "future", "option", "park"]
NUMBERS = [0, 1, -1, 4096 * 3, 2**62, 2**63, True, 1.5, None]
ANY = st.sampled_from(
    [*AMOUNTS, *TEXTS, *CHOICES, *MORE_CHOICES, *NUMBERS, [], {}, {"size": 3}, "2026-01-05T21:00:00Z", "2300-01-01"]
)


@cache
def fields(kind: str) -> tuple[list[str], dict[str, Any]]:
    """The names of a command's fields, and what its schema says of each."""
    properties = COMMANDS.model(kind).model_json_schema()["properties"] if COMMANDS.model(kind).model_fields else {}
    return sorted(properties), properties


@st.composite
def commands(draw: st.DrawFn) -> tuple[str, int, dict[str, Any]]:
    kind = draw(st.sampled_from(COMMANDS.names()))
    names, properties = fields(kind)
    body: dict[str, Any] = {}
    for name in names:
        if name in COMMANDS.model(kind).model_json_schema().get("required", []) or draw(st.booleans()):
            allowed = properties[name].get("enum")
            body[name] = draw(st.sampled_from(allowed) if allowed and draw(st.booleans()) else ANY)
    if draw(st.integers(0, 20)) == 0:
        body[draw(st.text(max_size=4))] = 1
    return kind, draw(st.integers(1, COMMANDS.version(kind))), body


@cache
def bench() -> EngineBench:
    made = EngineBench()
    made.feed(level("buy", 99, 20), level("sell", 101, 20))
    return made


@settings(max_examples=400, deadline=None)
@given(command=commands(), number=st.integers(0, 5))
def test_any_body_is_answered_once(command: tuple[str, int, dict[str, Any]], number: int) -> None:
    kind, version, body = command
    desk = bench()
    outcome = desk.send(kind, client="fuzz" if number else "", number=number, version=version, **body)
    assert outcome["outcome"] in ("accepted", "rejected", "repeated", "expired", "parked")
    assert outcome["outcome"] == "accepted" or outcome.get("reason") or outcome.get("first") == "accepted"
    events = events_in(desk.outputs)
    assert events[-1]["type"] == "command.outcome"
    for event in events:
        EVENTS.decode(json.dumps(event).encode())
