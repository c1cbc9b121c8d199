"""Compile every kernel once, into the cache that all later processes load from.

A small day goes through everything that is compiled: feeds, frames, books, engine with both kinds of strategies,
pricing, projections, the KV and its gateway. The two halves run in processes of their own, because Numba compiles on
one core. Python's own bytecode is written too, where it is not there yet: without it (PYTHONDONTWRITEBYTECODE, a fresh
checkout) every start compiles our sources again, for a tenth of a second.
"""

from __future__ import annotations

import asyncio
import compileall
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tapehouse.core.errors import MissingError
from tapehouse.core.kernel import cache_directory, source_digest
from tapehouse.core.sources import source_roots

HALVES = ("engine", "readers")
CELLS = 4_000
# Two messages and the book after each: enough to compile what reads them.
LOBSTER_ROWS = (
    "34200.1,1,11,100,1000000,1\n34200.2,3,11,100,1000000,1\n",
    "1010000,50,1000000,100\n1010000,50,990000,70\n",
)
MARKER = "warm"


def is_warm() -> bool:
    """Whether this version's kernels have been compiled on this machine."""
    return _marker().exists()


def _marker() -> Path:
    """Numba caches by the path of a source, so each place where tapehouse is installed has a marker of its own."""
    places = "\0".join(str(root) for root in source_roots())
    place = hashlib.blake2b(places.encode(), digest_size=8).hexdigest()
    return cache_directory() / f"{MARKER}-{source_digest()}-{place}"


def warm() -> None:
    """Compile what is missing.

    Raises:
        MissingError: A half failed; its last words are in the message.
    """
    command = [sys.executable, "-m", "tapehouse.app.warm"]
    halves = [subprocess.Popen([*command, half], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for half in HALVES]
    try:
        said = [child.communicate()[1] for child in halves]
    finally:
        for child in halves:
            child.kill()
            child.wait()
    for child, words in zip(halves, said, strict=True):
        if child.returncode:
            lines = words.decode(errors="replace").strip().splitlines()
            raise MissingError("a kernel did not compile", hint=lines[-1] if lines else "no output")
    for root in source_roots():
        compileall.compile_dir(root, quiet=2)  # Where it can't be written, starts are slower, and nothing else.
    _marker().touch()


async def _engine() -> None:
    from tapehouse.app.ahead import record_ahead
    from tapehouse.app.ahead_desk import AheadOptions
    from tapehouse.app.live import Logs, record
    from tapehouse.app.sidecars import SidecarTask
    from tapehouse.core import SystemClock
    from tapehouse.feeds import GeneratedDay
    from tapehouse.log import MemoryLog, MemorySnapshots
    from tapehouse.ring import CELLS_MIN, Ring
    from tapehouse.strategies import maker, watcher

    for strategy in (maker(), watcher()):
        logs = Logs(tape=MemoryLog("TAPE_warm"), events=MemoryLog("EVENTS_warm"))
        feed = GeneratedDay(cells=CELLS)
        await record(feed, logs, strategy=strategy, clock=SystemClock(), snapshots=MemorySnapshots())
    with tempfile.TemporaryDirectory(prefix="tapehouse-warm-") as scratch:
        rings = Path(scratch)
        with Ring.produce("warm", cells=CELLS_MIN, directory=rings) as ring:
            ring.append_one(0, 0, 0, 0, 0, 0, 1 << 56, 0)
        logs = Logs(tape=MemoryLog("TAPE_warm"), events=MemoryLog("EVENTS_warm"))
        sidecar = SidecarTask(logs.tape, clock=SystemClock(), spill=rings / "spill", rings=rings)
        await record_ahead(
            "warm",
            GeneratedDay(cells=CELLS),
            logs,
            strategy=maker(),
            sidecar=sidecar,
            clock=SystemClock(),
            options=AheadOptions(rings=rings, journal_cells=1 << 14),
            timings=rings / "stages",
        )


async def _readers() -> None:
    from tapehouse.app.book_keeper import BookKeeper
    from tapehouse.app.kv_warm import warm_kv
    from tapehouse.app.live import Logs, record
    from tapehouse.app.projector import Projector
    from tapehouse.core import SystemClock
    from tapehouse.feeds import GeneratedDay, check_lobster, open_feed
    from tapehouse.log import MemoryLog, MemorySnapshots
    from tapehouse.log.snaps import MemorySnaps
    from tapehouse.query.analytics import AnalyticsOptions, read_analytics
    from tapehouse.query.bars import BarsOptions, read_bars
    from tapehouse.query.books import read_book_at

    logs = Logs(tape=MemoryLog("TAPE_warm"), events=MemoryLog("EVENTS_warm"))
    await record(GeneratedDay(cells=CELLS), logs, strategy=None, clock=SystemClock())
    await read_analytics(logs.tape, AnalyticsOptions(every="1m", ladders=True))
    await read_bars(logs.tape, BarsOptions())
    projector = Projector(logs.tape, logs.events, MemorySnapshots())
    await projector.open()
    await projector.run()
    projector.save()
    snaps = MemorySnaps()
    for _ in range(2):  # The second reads what the first stored.
        await BookKeeper(logs.tape, snaps, cells_every=CELLS // 4).run()
    for store in (snaps, None):
        await read_book_at(logs.tape, store, "ALFA")
    with tempfile.TemporaryDirectory(prefix="tapehouse-warm-") as scratch:
        pair = [Path(scratch, f"WARM_2012-06-21_34200000_57600000_{role}_1.csv") for role in ("message", "orderbook")]
        for path, text in zip(pair, LOBSTER_ROWS, strict=True):
            path.write_text(text, encoding="ascii")
        check_lobster(pair)
        assert sum(len(cells) for cells in open_feed("lobster", pair).batches())
    await warm_kv()


if __name__ == "__main__":
    asyncio.run(_engine() if sys.argv[1:] == ["engine"] else _readers())
