"""The engine's process of the tick-to-order benchmark: the loop of `ahead` mode on a core of its own.

Called with a line of JSON (`told`); says "ready" when the loop runs, and after a line from the other side what came of
it. The loop is the product's: feed ring, journal, book, strategy, risk, order, output rings. Nobody drains the journal
to a tape here, and nobody publishes what was decided: the feed's process frees both rings as a reader would.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.app.bench.engines import fresh_engine, header
from tapehouse.app.bench.spans import spans_of
from tapehouse.app.bench.tick_to_order_loops import LOG_WORDS, answer, spin
from tapehouse.core import SystemClock
from tapehouse.core.ids import new_log_id, new_writer_id
from tapehouse.engine import CompiledStrategy, Engine, Sequencer
from tapehouse.engine.ahead import AheadEngine, FeedRing, JournalWriter, Outlets
from tapehouse.engine.journal import create_journal
from tapehouse.engine.sequencer import FEED_SOURCE, TapeState
from tapehouse.log import FrameWriter, MemoryLog
from tapehouse.market import Cells
from tapehouse.ring import Policy, Ring
from tapehouse.ring.kernels import touch
from tapehouse.ring.layout import HEADER_BYTES

FEED, ORDERS, DECIDED, STAGES, GAPS, JOURNAL, UNREAD = (
    "feed", "orders", "decided", "stages", "gaps", "journal", "unread",
)  # fmt: skip
SMALL_CELLS = 1 << 12  # of the rings of ticks and orders: they stay in a core's own cache
DECIDED_CELLS = 1 << 18
TIMING_CELLS = 1 << 16
UNREAD_CELLS = 64
CELL_BYTES = 64


def strategy() -> CompiledStrategy:
    """The strategy of the benchmark: one order a turn."""
    return CompiledStrategy(name="answer", on_market=answer)


def warmed_engine(cells: Cells) -> Engine:
    """An engine that stands behind the first cells of its tape."""
    engine = fresh_engine(strategy())
    engine.apply(header(0), cells)
    engine.take_outputs()
    return engine


IDLE_WAIT_NS = 5_000_000_000  # for the last ticks, when the feed has ended
IDLE_POLL_NS = 1_000_000


def prefault(address: int, cells: int) -> None:
    """Touch every page of a ring in this process, both mappings of its slots."""
    touch(address, HEADER_BYTES + 2 * cells * CELL_BYTES)


def main() -> None:
    """Run the engine until the other side says so."""
    told = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {told["core"]})
    asyncio.run(_run(told))


async def _run(told: dict[str, Any]) -> None:
    place = Path(told["directory"])
    clock = SystemClock()
    cells = np.load(told["warm"])
    engine = await asyncio.to_thread(warmed_engine, cells)
    log = MemoryLog("TAPE_bench", log_id=new_log_id())
    with ExitStack() as rings:
        journal = create_journal(
            JOURNAL, log_id=new_log_id(), writer=new_writer_id(), epoch=1, base_ordinal=len(cells),
            commands_through=0, directory=place,
        )  # fmt: skip
        rings.callback(journal.close)
        produced = {}
        for name, size, policy in (
            (ORDERS, SMALL_CELLS, Policy.BLOCK),
            (DECIDED, DECIDED_CELLS, Policy.BLOCK),
            (STAGES, TIMING_CELLS, Policy.DROP),
            (GAPS, TIMING_CELLS, Policy.DROP),
        ):
            produced[name] = rings.enter_context(Ring.produce(name, cells=size, policy=policy, directory=place))
        Ring.create(UNREAD, cells=UNREAD_CELLS, directory=place)
        outlets = Outlets(
            decided=produced[DECIDED],
            published=rings.enter_context(Ring.consume(UNREAD, directory=place)),
            orders=produced[ORDERS],
            stages=produced[STAGES],
            gaps=produced[GAPS],
            gap_counts=told["gap"],
        )
        feed = rings.enter_context(Ring.consume(FEED, directory=place))
        state = TapeState(clock="history")
        sequencer = Sequencer(log, JournalWriter(journal), state, clock_source="history", clock=clock, code="")
        events = await FrameWriter.open(MemoryLog("EVENTS_bench"), writer=new_writer_id())
        ahead = AheadEngine(engine, sequencer, events, journal, outlets, clock=clock, busy=True)
        table = np.arange(told["ids"], dtype=np.uint32)
        ahead.add_feed(FeedRing(name=FEED, source=FEED_SOURCE, ring=feed), table)
        for ring in (*produced.values(), journal, feed):
            prefault(ring.address, ring.cells)
        log_words = np.zeros(LOG_WORDS, np.int64)
        spin(1, 1 << 40, log_words)
        log_words[:] = 0
        _say("attached")
        await asyncio.to_thread(sys.stdin.readline)
        spin(told["spin"], told["gap"], log_words)
        np.save(told["spun"], spans_of(log_words))
        ahead.start()
        _say("ready")
        heard = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        failed = asyncio.create_task(ahead.failed())
        await asyncio.wait({heard, failed}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()
        deadline = clock.monotonic_ns() + IDLE_WAIT_NS
        while not ahead.idle and not failed.done() and clock.monotonic_ns() < deadline:  # It may be some ticks behind.
            await clock.sleep_until(clock.monotonic_ns() + IDLE_POLL_NS)
        await ahead.stop()
        failed.cancel()
        _say(json.dumps({"folded": engine.cells - len(cells), "state": engine.digests().state.hex()}))
        await asyncio.to_thread(sys.stdin.readline)  # Rings are let go when the other side has looked at them.


def _say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    main()
