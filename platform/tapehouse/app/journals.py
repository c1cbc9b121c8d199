"""A journal seen from outside: what a killed host left in it, and how far its sidecar has brought it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapehouse.app.sidecars import SidecarRunner
from tapehouse.core.clock import Clock
from tapehouse.core.errors import BusUnavailableError, ConflictError, MissingError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.engine import read_tape
from tapehouse.engine.journal import JOURNAL, LOGGED, TAKEN_CELLS, TAKEN_HEAD, TAKEN_SOURCE, JournalView
from tapehouse.engine.sequencer import FeedKey
from tapehouse.log import Extent, Log
from tapehouse.ring import Ring, RingObserver, remove

POLL_NS = 1_000_000
DRAIN_TIMEOUT_NS = 120 * NS_PER_SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """The last burst that a killed host put into its journal: the feed's ring may not have been told."""

    source: int  # of the feed on the tape; 0 where there was no burst
    cells: int  # the feed ring's index after it


def ring_prefix(tape: str, extent: Extent) -> str:
    """What the names of the rings of a tape's desk begin with: another log of that name has others."""
    return f"{tape}-{extent.log_id.hex()[:8]}"


def journal_of(tape: str, extent: Extent) -> str:
    """The name of a tape's journal."""
    return f"{ring_prefix(tape, extent)}-journal"


async def finish_leftover(
    tape: str, log: Log, sidecar: SidecarRunner, clock: Clock, *, directory: Path | None = None
) -> None:
    """Bring to TAPE what a killed host in `ahead` mode left, for one who goes on in `gated` mode.

    Raises:
        As `finish_journal`.
    """
    name = journal_of(tape, await log.extent())
    leftover = await finish_journal(name, sidecar, clock, directory=directory)
    if leftover is not None:
        forget_journal(name, leftover, (await read_tape(log)).feeds, directory=directory)


async def finish_journal(
    name: str, sidecar: SidecarRunner, clock: Clock, *, directory: Path | None = None
) -> Leftover | None:
    """Bring to TAPE what an earlier host left in its journal; None where there is none. `forget_journal` comes next.

    Raises:
        ConflictError: That host lives; or its journal was fenced off, and cells in it are not on TAPE.
        BusUnavailableError: It could not be brought to TAPE in time.
    """
    try:
        ring = Ring.observe(name, directory=directory)
    except MissingError:
        return None
    with ring:
        if ring.producer_alive:
            raise ConflictError(
                f"process {ring.producer_pid} runs this tape", subject=str(ring.path), hint="stop that host first"
            )
        words = JournalView(ring)
        if words.purpose == LOGGED and ring.lag:
            raise ConflictError(
                f"{ring.lag} cells of an earlier host are not in files yet", subject=str(ring.path), hint=_kept(name)
            )
        if words.purpose == JOURNAL and words.committed < ring.head:
            await _drain(name, ring, words, sidecar, clock)
        deadline = clock.monotonic_ns() + DRAIN_TIMEOUT_NS
        while ring.consumer_alive and clock.monotonic_ns() < deadline:  # Its sidecar is about to end.
            await clock.sleep_until(clock.monotonic_ns() + POLL_NS)
        if words.purpose == JOURNAL and 0 < ring.word(TAKEN_HEAD) <= ring.head:
            return Leftover(source=ring.word(TAKEN_SOURCE), cells=ring.word(TAKEN_CELLS))
        return Leftover(source=0, cells=0)


async def _drain(name: str, ring: RingObserver, words: JournalView, sidecar: SidecarRunner, clock: Clock) -> None:
    """Wait for the sidecar that is still at it; where there is none, or it dies too, start one."""
    tasks: list[asyncio.Task[None]] = []
    deadline = clock.monotonic_ns() + DRAIN_TIMEOUT_NS
    try:
        while words.committed < ring.head and not words.is_fenced:
            if not tasks and not ring.consumer_alive:
                await sidecar.start(name)
                tasks.append(asyncio.create_task(sidecar.failed()))
            _raise_failure(tasks)
            _require_time(ring.head - words.committed, deadline, clock)
            await clock.sleep_until(clock.monotonic_ns() + POLL_NS)
        if tasks and not words.is_fenced:
            await sidecar.stop()
    except ConflictError:
        if not words.is_fenced:
            raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if words.is_fenced and words.committed < ring.head:
        raise ConflictError(
            f"{ring.head - words.committed} cells of an earlier host are not on TAPE: it was fenced off",
            subject=str(ring.path),
            hint=_kept(name),
        )


def _kept(name: str) -> str:
    return f"keep them with tapehouse drain {name} --to DIR, and start again"


def forget_journal(
    name: str, leftover: Leftover, feeds: Mapping[str, FeedKey], *, directory: Path | None = None
) -> None:
    """Remove a finished journal, but first tell the feed's ring what is on the tape of it.

    In this order, so that whoever is killed between the two leaves it to the next: else the burst would come twice.

    Args:
        feeds: Those that the tape knows, by the names of their rings.
    """
    for feed, key in feeds.items():
        if key.source == leftover.source:
            _pass_over(feed, key, leftover.cells, directory)
    remove(name, directory=directory)


def _pass_over(feed: str, key: FeedKey, index: int, directory: Path | None) -> None:
    """Release a feed's ring up to an index, if it is still the ring that the tape knows."""
    try:
        ring = Ring.consume(feed, directory=directory)
    except MissingError:
        return
    with ring:
        if ring.creation.hex() == key.ring and ring.tail < index <= ring.head:
            ring.release(index - ring.tail)


async def committed(words: JournalView, index: int, clock: Clock, tasks: Sequence[asyncio.Task[None]] = ()) -> None:
    """Return when TAPE has acknowledged a journal through an index.

    Args:
        tasks: What must not fail meanwhile; raises what one of them raised.

    Raises:
        ConflictError: Another writer took TAPE over.
        BusUnavailableError: It did not happen within DRAIN_TIMEOUT_NS.
    """
    deadline = clock.monotonic_ns() + DRAIN_TIMEOUT_NS
    while words.committed < index:
        if words.is_fenced:
            raise ConflictError("another writer has taken the tape over", hint="this host is fenced off and must stop")
        _raise_failure(tasks)
        _require_time(index - words.committed, deadline, clock)
        await clock.sleep_until(clock.monotonic_ns() + POLL_NS)


def _raise_failure(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()


def _require_time(cells: int, deadline_ns: int, clock: Clock) -> None:
    if clock.monotonic_ns() >= deadline_ns:
        raise BusUnavailableError(
            f"the sidecar did not bring {cells} cells to TAPE in time",
            hint="they stay in the journal; is a majority of the brokers up? see tapehouse status",
        )
