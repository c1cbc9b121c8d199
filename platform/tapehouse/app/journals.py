"""A journal seen from outside: what a killed host left in it, and how far its sidecar has brought it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tapehouse.app.sidecars import SidecarRunner
from tapehouse.core.clock import Clock
from tapehouse.core.errors import BusUnavailableError, ConflictError, MissingError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.engine.journal import NO_JOURNAL, TAKEN_CELLS, TAKEN_HEAD, TAKEN_SOURCE, JournalView
from tapehouse.ring import Ring, remove

POLL_NS = 1_000_000
DRAIN_TIMEOUT_NS = 120 * NS_PER_SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """The last burst that a killed host put into its journal: the feed's ring may not have been told."""

    source: int
    cells: int  # the feed ring's index after it


async def finish_journal(
    name: str, sidecar: SidecarRunner, clock: Clock, *, directory: Path | None = None
) -> Leftover | None:
    """Bring to TAPE what an earlier host left in its journal, and remove the journal.

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
        if words.purpose != NO_JOURNAL and words.committed < ring.head:
            if words.is_fenced:
                raise ConflictError(
                    f"{ring.head - words.committed} cells of an earlier host are not on TAPE: it was fenced off",
                    subject=str(ring.path),
                    hint=f"keep them with tapehouse drain {name} --to DIR, then remove the file",
                )
            if not ring.consumer_alive:
                await sidecar.start(name)
                await sidecar.stop()
            await committed(words, ring.head, clock)
        leftover = None
        if 0 < ring.word(TAKEN_HEAD) <= ring.head:
            leftover = Leftover(source=ring.word(TAKEN_SOURCE), cells=ring.word(TAKEN_CELLS))
        deadline = clock.monotonic_ns() + DRAIN_TIMEOUT_NS
        while ring.consumer_alive and clock.monotonic_ns() < deadline:  # Its sidecar is about to end.
            await clock.sleep_until(clock.monotonic_ns() + POLL_NS)
    remove(name, directory=directory)
    return leftover


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
        for task in tasks:
            if task.done() and not task.cancelled():
                task.result()
        if clock.monotonic_ns() >= deadline:
            raise BusUnavailableError(
                f"the sidecar did not bring {index - words.committed} cells to TAPE in time",
                hint="they stay in the journal; is a majority of the brokers up? see tapehouse status",
            )
        await clock.sleep_until(clock.monotonic_ns() + POLL_NS)
