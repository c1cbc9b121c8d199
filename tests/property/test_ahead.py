"""However inputs reach the journal, and however often the loop is interrupted: the fold of TAPE decides the same."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.engine.sequencer import FEED_SOURCE
from tapehouse.feeds import GeneratedDay
from tapehouse.log import Message
from tapehouse.market import CELLS_MAX, whole_records
from tapehouse.ring import Ring
from tests.support.ahead import desk, refolded, until
from tests.support.bench import cells_of, command_bytes, new_logs, quick_maker, quick_watcher

PIECES_MAX = 12
FEEDS = ("east", "west")


@st.composite
def plans(draw: st.DrawFn) -> list[tuple[int, int]]:
    """What happens in which order: (0 or 1: so many cells of that feed, at least; 2: a command; 3: a clock cell)."""
    step = st.tuples(st.integers(0, 3), st.integers(CELLS_MAX, 1_500))
    return draw(st.lists(step, min_size=1, max_size=PIECES_MAX))


async def _run(plan: list[tuple[int, int]], python: bool, directory: Path) -> None:
    make = quick_watcher if python else quick_maker
    logs = new_logs()
    days = [GeneratedDay(seed=seed, cells=3_000) for seed in (3, 4)]
    cells = [np.concatenate(list(day.batches())) for day in days]
    rings = [Ring.produce(name, cells=1 << 10, directory=directory) for name in FEEDS]
    at = [0, 0]
    number = 0
    async with desk(logs, directory, make(), feeds=FEEDS) as running:
        for ring, day in zip(rings, days, strict=True):
            for instrument in day.instruments:
                await asyncio.to_thread(ring.append, instrument.definition(ts_recv=1))
        for what, size in plan:
            if what < 2:
                end = at[what] + whole_records(cells[what][at[what] :], size)
                await asyncio.to_thread(rings[what].append, cells[what][at[what] : end])
                at[what] = end
            elif what == 2:
                number += 1
                order = {"instrument": "ALFA", "side": "buy", "price": "1.00", "size": "1", "account": "alice"}
                await running.admit(_message(number, command_bytes(number, "order.submit", order)))
            else:
                await running.tick()
        await until(lambda: running.engine.idle, running.tasks)
    for ring in rings:
        ring.close()
    tape = await cells_of(logs.tape)
    for source, feed in enumerate((16, 17)):
        taped = tape[(tape["source"] == feed)]
        assert np.array_equal(taped["order_id"], cells[source][: at[source]]["order_id"]), "each feed in its own order"
    assert not (tape["source"] == FEED_SOURCE).any()
    engine, decided = await refolded(logs, make)
    assert np.array_equal(await cells_of(logs.events), decided)
    assert engine.digests() == running.engine.engine.digests()


def _message(sequence: int, payload: bytes) -> Message:
    return Message(sequence=sequence, subject="cmd.v1.day.order.submit", payload=payload)


@settings(max_examples=25, deadline=None)
@given(plan=plans(), python=st.booleans())
def test_what_runs_ahead_decides_as_the_fold_of_its_tape(plan: list[tuple[int, int]], python: bool) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        asyncio.run(_run(plan, python, Path(directory)))
