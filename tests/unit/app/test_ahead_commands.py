"""In `ahead` mode too registrations define, timers fire and commands steer: as the fold of the tape does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapehouse.log import Message
from tapehouse.market import Kind, read_definition, records_of
from tapehouse.ring import Ring
from tests.support.ahead import desk, refolded, until
from tests.support.bench import NOW, SHARE, cells_of, command_bytes, events_in, level, new_logs
from tests.unit.engine.test_wakes import Ticker, compiled

PERIOD = 1_000_000
PLAN: list[tuple[str, dict[str, Any]]] = [
    ("instrument.register", {"symbol": "GOLD", "venue": "internal", "calendar": "24/7"}),
    ("instrument.register", {"symbol": "ALFA", "venue": "TEST", "calendar": "24/7"}),
    ("order.submit", {"instrument": "GOLD", "side": "buy", "price": "10", "size": "1"}),
    ("strategy.stop", {"cancel_orders": False}),
    ("strategy.start", {}),
    ("strategy.configure", {"parameters": {"period": 3}}),
]


@pytest.mark.parametrize("make", [lambda: compiled(PERIOD, 9), lambda: Ticker(PERIOD, 9)], ids=["compiled", "python"])
async def test_what_runs_ahead_is_the_fold_of_its_tape(make: Any, ring_directory: Path) -> None:
    logs = new_logs()
    with Ring.produce("east", cells=1 << 10, directory=ring_directory) as ring:
        async with desk(logs, ring_directory, make(), feeds=("east",)) as running:
            for number, (kind, body) in enumerate(PLAN, 1):
                await running.admit(
                    Message(sequence=number, subject=f"cmd.v1.day.{kind}", payload=command_bytes(number, kind, body))
                )
                if number == 2:  # The feed has an instrument that a command registered a moment ago.
                    await asyncio.to_thread(ring.append, SHARE.definition(ts_recv=NOW))
                    await asyncio.to_thread(ring.append, level("buy", 99, 20, ts_recv=NOW))
                    await until(lambda: running.engine.idle, running.tasks)
                await running.tick()
            for _ in range(20):
                await running.tick()
            await until(lambda: running.engine.idle, running.tasks)
    tape = await cells_of(logs.tape)
    told = [read_definition(record) for _, record in records_of(tape, Kind.DEFINITION)]
    assert [(i.symbol, i.revision) for i in told] == [("GOLD", 1), ("GOLD", 2), ("ALFA", 1), ("ALFA", 2)]
    engine, decided = await refolded(logs, make)
    assert np.array_equal(await cells_of(logs.events), decided)
    assert engine.digests() == running.engine.engine.digests()
    outcomes = [event["body"] for event in events_in(decided) if event["type"] == "command.outcome"]
    last = "rejected" if isinstance(engine.strategy, Ticker) else "accepted"  # the Python one takes no parameters
    assert [body["outcome"] for body in outcomes] == [*["accepted"] * 5, last]
    assert [body["instrument"] for body in outcomes[:2]] == [1, 2]
    assert engine.instruments[1].session_close_ns > 0
    sent = decided[(decided["kind"] == Kind.ORDER) & (decided["cells"] > 0)]
    assert len(sent) > 2  # the order, the first call, and what woke it
