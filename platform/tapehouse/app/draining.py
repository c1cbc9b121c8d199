"""A ring drained by its name: a journal into its tape, any other ring into files; and what can be seen of one."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapehouse.app.bootstrap import home_directory
from tapehouse.app.returning_log import ReturningLog
from tapehouse.bus import tape_spec
from tapehouse.core.clock import Clock
from tapehouse.core.errors import BusUnavailableError, UsageError
from tapehouse.core.ids import check_name, new_log_id, new_writer_id
from tapehouse.core.metrics import Metrics
from tapehouse.engine.frame_files import FrameFiles, SyncPolicy
from tapehouse.engine.journal import JOURNAL, LOGGED, NO_JOURNAL, Journal, JournalIdentity, JournalView
from tapehouse.engine.sidecar import Sidecar
from tapehouse.engine.spill import SPILL_BYTES_MAX, Spill, spill_directory
from tapehouse.log import Codec
from tapehouse.ring import Ring, RingConsumer

CODECS = {"plain": Codec.PLAIN, "columns": Codec.COLUMNS, "zstd": Codec.COLUMNS_ZSTD}
CONNECT_PATIENCE_S = 2.0  # for the broker, before cells are taken from the ring


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainOptions:
    """What is the same wherever a ring is drained to."""

    rings: Path | None = None  # the directory of the rings; None for the usual one
    codec: Codec = Codec.COLUMNS_ZSTD
    sync: SyncPolicy = SyncPolicy.INTERVAL  # of files
    spill: Path | None = None  # the directory of the spills; None for the one in the home directory
    spill_sync: SyncPolicy = SyncPolicy.FRAME
    spill_bytes_max: int = SPILL_BYTES_MAX
    stay: bool = False


def tape_log(tape: str, *, nats: str | None = None, home: Path | None = None) -> ReturningLog:
    """The log of a tape, whether its broker is there or not."""
    return ReturningLog(tape_spec(check_name(tape, "tape")), nats=nats, directory=home_directory(home) / "cluster")


async def reach(log: ReturningLog) -> None:
    """Connect to the log's broker; where it is not there, the spill is what there is."""
    with suppress(BusUnavailableError, TimeoutError):
        async with asyncio.timeout(CONNECT_PATIENCE_S):
            await log.extent()


async def told_ring() -> str:
    """The name of a ring, one line on standard input; empty where whoever was to tell it has ended."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return (await reader.readline()).decode().strip()


@asynccontextmanager
async def journal_sidecar(
    ring: str,
    *,
    tape: str,
    clock: Clock,
    options: DrainOptions,
    segment: Path | None = None,
    nats: str | None = None,
    home: Path | None = None,
    log: ReturningLog | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> AsyncIterator[Sidecar]:
    """The sidecar of a journal, whether its broker is there or not.

    Args:
        segment: A directory that gets a copy of every frame.
        log: The tape's, where it was opened before; it is closed at the end.

    Raises:
        MissingError: There is no such ring, or no such tape.
        UsageError: The ring is no journal.
        ConflictError: It has a sidecar, or was fenced off.
    """
    spec = tape_spec(check_name(tape, "tape"))
    log = log or tape_log(tape, nats=nats, home=home)
    home = home_directory(home)
    try:
        with ExitStack() as stack:
            consumer = stack.enter_context(Ring.consume(ring, directory=options.rings))
            journal = Journal(consumer)
            if journal.purpose != JOURNAL:
                raise UsageError(
                    "this ring is no journal", subject=str(consumer.path), hint="log it into files: --to DIR"
                )
            identity = journal.identity()
            directory = spill_directory(options.spill or home / "spill", spec.name, identity)
            spill = Spill(
                directory,
                identity,
                name=spec.name,
                clock=clock,
                bytes_max=options.spill_bytes_max,
                sync=options.spill_sync,
            )
            stack.callback(spill.close)
            files = None
            if segment is not None:
                files = FrameFiles(segment, name=spec.name, log_id=identity.log_id, clock=clock, sync=options.sync)
                stack.enter_context(_closing(files))
            await reach(log)
            yield Sidecar(
                consumer,
                clock=clock,
                log=log,
                spill=spill,
                files=files,
                codec=options.codec,
                stay=options.stay,
                metrics=Metrics(),
                on_progress=on_progress,
            )
    finally:
        await log.close()


@contextmanager
def logging_sidecar(
    ring: str,
    directory: Path,
    *,
    clock: Clock,
    options: DrainOptions,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[Sidecar]:
    """The sidecar of any ring into the segment files of a directory; what is there is gone on with.

    Raises:
        MissingError: There is no such ring.
        UsageError: The ring is a journal whose tape can still have it.
        ConflictError: The ring has a consumer, or the directory a writer.
    """
    with ExitStack() as stack:
        consumer = stack.enter_context(Ring.consume(ring, directory=options.rings))
        _refuse_journal(consumer)
        files = FrameFiles(directory, name=ring, log_id=new_log_id(), clock=clock, sync=options.sync)
        stack.enter_context(_closing(files))
        _begin_logging(consumer, files)
        yield Sidecar(
            consumer,
            clock=clock,
            files=files,
            codec=options.codec,
            stay=options.stay,
            metrics=Metrics(),
            on_progress=on_progress,
        )


@contextmanager
def _closing(files: FrameFiles) -> Iterator[None]:
    """Complete the last file at a good end; leave it as it is, to be gone on with, at any other."""
    try:
        yield
        files.finish()
    finally:
        files.close()


def _refuse_journal(consumer: RingConsumer) -> None:
    journal = Journal(consumer)
    if journal.purpose == JOURNAL and (not journal.is_fenced or consumer.producer_alive()):
        raise UsageError(
            "this ring is a journal: its cells belong to a tape",
            subject=str(consumer.path),
            hint="give --tape, and --segment DIR for a copy in files",
        )


def _begin_logging(consumer: RingConsumer, files: FrameFiles) -> None:
    """Say in the ring's words which ordinals its cells have in the directory, unless that is said already."""
    journal = Journal(consumer)
    following = files.next_ordinal or 0
    if journal.purpose == LOGGED:
        identity = journal.identity()
        first = identity.base_ordinal + consumer.tail
        is_last = files.last is not None and (files.last.writer, files.last.epoch) == (identity.writer, identity.epoch)
        is_ahead = is_last and first <= following <= identity.base_ordinal + consumer.head
        if identity.log_id == files.log_id and (following == first or is_ahead):
            return
    journal.begin(
        JournalIdentity(
            log_id=files.log_id,
            writer=new_writer_id(),
            epoch=files.last.epoch + 1 if files.last is not None else 1,
            base_ordinal=following - consumer.tail,
        ),
        LOGGED,
    )
    journal.mark_commands(consumer.tail, 0, tail=-1)


def ring_status(ring: str, *, rings: Path | None = None) -> dict[str, Any]:
    """What the header of a ring says, without taking part in it.

    Raises:
        MissingError: There is no such ring.
    """
    with Ring.observe(ring, directory=rings) as seen:
        view = JournalView(seen)
        purpose = {NO_JOURNAL: "ring", JOURNAL: "journal", LOGGED: "logged"}.get(view.purpose, "unknown")
        status: dict[str, Any] = {
            "ring": ring,
            "path": os.fspath(seen.path),
            "purpose": purpose,
            "cells": seen.cells,
            "head": seen.head,
            "tail": seen.tail,
            "dropped_records": seen.dropped,
            "producer": seen.producer_pid if seen.producer_alive else 0,
            "consumer": seen.consumer_pid if seen.consumer_alive else 0,
            "closed": seen.closed_by_producer,
            "lag_cells": seen.head - (view.committed if purpose == "journal" else seen.tail),
            "lag_cells_max": view.lag_cells_max,
            "lag_ms_max": round(view.lag_ns_max / 1e6, 3),
        }
        if purpose == "journal":
            identity = view.identity()
            status |= {
                "log_id": identity.log_id.hex(),
                "epoch": identity.epoch,
                "base_ordinal": identity.base_ordinal,
                "committed": view.committed,
                "committed_ordinal": identity.base_ordinal + view.committed,
                "committed_sequence": view.committed_sequence,
                "spilled_cells": view.spilled,
                "fenced": view.is_fenced,
            }
        return status


def require_one(**given: object) -> None:
    """Raise UsageError unless exactly one of several options was given."""
    names = [f"--{name}" for name, value in given.items() if value is not None]
    if len(names) != 1:
        known = ", ".join(f"--{name}" for name in given)
        raise UsageError(f"{' and '.join(names) or 'nothing'} says where to", hint=f"give one of {known}")


__all__ = [
    "CODECS",
    "DrainOptions",
    "journal_sidecar",
    "logging_sidecar",
    "reach",
    "require_one",
    "ring_status",
    "tape_log",
    "told_ring",
]
