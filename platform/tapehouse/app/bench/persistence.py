"""Cells made durable: in the journal, where they outlive the process; on the tape, where a majority has synced them; in
files, beside what the disk can take.

The tape is written by the product's sidecar, out of a journal, to brokers on the same cores. Quiet means a record at a
time, with a pause behind each: then a cell waits for nobody but the sidecar, the brokers and the disk.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path

import numpy as np
import uvloop

from tapehouse.app.bench.histogram import new_histogram, record_value
from tapehouse.app.bench.material import Material
from tapehouse.app.bench.measure import Goal, Measure, measure, not_measured, peer_of
from tapehouse.app.bench.persistence_loops import append_timed
from tapehouse.app.bench.registry import Options
from tapehouse.app.bench.timer import Timer, middle
from tapehouse.app.bootstrap import open_platform
from tapehouse.app.draining import DrainOptions, logging_sidecar
from tapehouse.bus import Cluster, ClusterConfig
from tapehouse.core.check import check
from tapehouse.core.errors import BusUnavailableError
from tapehouse.core.ids import new_log_id, new_writer_id
from tapehouse.engine.frame_files import SyncPolicy, verify_directory
from tapehouse.engine.journal import Journal, create_journal
from tapehouse.engine.sidecar import Sidecar
from tapehouse.engine.spill import Spill
from tapehouse.log import Codec, Log
from tapehouse.market import CELL_BYTES, Cells, whole_records, words
from tapehouse.ring import Policy, Ring, RingProducer, default_directory

APPENDS = 5_000_000
LOGGED = 1 << 22  # cells into files: 256 MiB
QUIET_RECORDS, QUIET_RECORDS_QUICK = 300, 5
QUIET_PAUSE_NS = 10_000_000
POLL_NS = 100_000
PATIENCE_NS = 120_000_000_000
PIECE_CELLS = 1 << 16
DISK_CHUNK_BYTES = 2 << 20  # a frame
DISK_SYNC_BYTES = 64 << 20  # a segment
APPEND_GOALS = (Goal(at_most=1_000.0), Goal(figure="p99", at_most=1_000.0))
ACKED_GOALS = (Goal(at_least=4.0),)
FILE_GOALS = (Goal(figure="ratio", at_least=0.9),)
UNIT = "M cells/s"


def run(options: Options) -> Iterator[Measure]:
    """A data set at a time: the journal, the tape, files."""
    for material in options.materials:
        if material.feed is None:
            yield not_measured("event persistence", "ns", material.missing, data=material.name)
            continue
        yield _journal(options, material)
        yield from _acknowledged(options, material)
        yield _files(options, material)


def _place() -> Path:
    place = default_directory()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place


def _make_journal(directory: Path, log_id: bytes) -> RingProducer:
    """A journal of the default size that continues an empty log."""
    return create_journal(
        "journal", log_id=log_id, writer=new_writer_id(), epoch=1, base_ordinal=0, commands_through=0,
        directory=directory,
    )  # fmt: skip


def _journal(options: Options, material: Material) -> Measure:
    """Records into the journal, one by one: from then on they survive the process."""
    name, timer = "event persistence: survives the process", options.timer
    options.on_step(f"{material.name}: {name}")
    rows = words(material.feed_cells)
    count = options.count(APPENDS, 5_000)
    spreads = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_place(), prefix="bench-")))
        journal = stack.enter_context(closing(_make_journal(directory, new_log_id())))
        append_timed(journal.address, rows, journal.cells, timer.overhead, new_histogram())
        for _ in range(options.repeat):
            histogram = new_histogram()
            taken = append_timed(journal.address, rows, count, timer.overhead, histogram)
            check(taken == count, f"{taken} of {count} records were taken", subject=name)
            spreads.append(timer.spread(histogram))
    note = f"{count:,} records appended to the journal in shared memory, each between fences; the mean is theirs too"
    return measure(
        name, "ns", [spread.mean for spread in spreads], data=material.name, goals=APPEND_GOALS, note=note,
        **middle(spreads),
    )  # fmt: skip


# The tape.


def _acknowledged(options: Options, material: Material) -> Iterator[Measure]:
    """Through the sidecar to brokers on the same cores: saturated, then quiet."""
    home = options.scratch / f"persistence-{material.name}"
    config = ClusterConfig(nodes=options.nodes, directory=home / "cluster", client_port=0, route_port=0, monitor_port=0)
    cells = material.tape_cells
    options.on_step(f"{material.name}: start {options.nodes} brokers")
    cluster = Cluster(config)
    cluster.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rates, histograms = runner.run(_drained(options, material.name, cells, cluster, home))
    finally:
        cluster.stop()
    brokers = f"R{min(3, options.nodes)}, fsync, brokers on the same cores"
    yield measure(
        "event persistence: acknowledged, saturated", UNIT, rates, data=material.name, goals=ACKED_GOALS,
        note=f"journal, sidecar, fenced frames; {brokers}; until the last cell is committed",
    )  # fmt: skip
    spreads = [options.timer.spread(histogram) for histogram in histograms]
    records = options.count(QUIET_RECORDS, QUIET_RECORDS_QUICK)
    yield measure(
        "event persistence: acknowledged, quiet", "ns", [spread.p50 for spread in spreads], data=material.name,
        note=f"append to committed, {records} records with pauses; {brokers}; looked at every {POLL_NS // 1000} us",
        **middle(spreads),
    )  # fmt: skip


async def _drained(
    options: Options, name: str, cells: Cells, cluster: Cluster, home: Path
) -> tuple[list[float], list[np.ndarray]]:
    rates, histograms = [], []
    async with open_platform(",".join(cluster.urls), home=home) as platform:
        for attempt in range(options.repeat):
            options.on_step(f"{name}: journal to tape, run {attempt + 1} of {options.repeat}")
            tape = await platform.tape(f"persistence-{attempt}", create=True)
            async with _sidecar(tape, home / f"spill-{attempt}", options.timer) as journal:
                rates.append(await _saturated(journal, cells, options.timer))
                histograms.append(await _quiet(journal, cells, options))
    return rates, histograms


@asynccontextmanager
async def _sidecar(tape: Log, spill_directory: Path, timer: Timer) -> AsyncIterator[RingProducer]:
    """A fresh journal of a tape, and the sidecar that drains it beside the caller."""
    log_id = (await tape.extent()).log_id
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_place(), prefix="bench-")))
        journal = stack.enter_context(closing(_make_journal(directory, log_id)))
        consumer = stack.enter_context(Ring.consume("journal", directory=directory))
        identity = Journal(consumer).identity()
        spill = stack.enter_context(closing(Spill(spill_directory, identity, name=tape.name, clock=timer.clock)))
        sidecar = Sidecar(consumer, clock=timer.clock, log=tape, spill=spill)
        draining = asyncio.create_task(sidecar.run())
        try:
            yield journal
        finally:
            journal.close()
            report = await draining
            check(report.left_cells == 0, f"{report.left_cells} cells are left", subject="the sidecar of the benchmark")


async def _committed(journal: RingProducer, index: int, timer: Timer) -> None:
    """Return when the tape has everything below an index of the journal."""
    view, clock = Journal(journal), timer.clock
    limit = clock.monotonic_ns() + PATIENCE_NS
    while view.committed < index:
        if clock.monotonic_ns() > limit:
            raise BusUnavailableError("the tape did not acknowledge in time", subject=str(journal.path))
        await clock.sleep_until(clock.monotonic_ns() + POLL_NS)


async def _saturated(journal: RingProducer, cells: Cells, timer: Timer) -> float:
    """Millions of cells a second from the first append to the last acknowledgement."""
    start, head = timer.clock.monotonic_ns(), journal.head
    await asyncio.to_thread(_append_all, journal, cells)
    await _committed(journal, head + len(cells), timer)
    return len(cells) * 1e3 / (timer.clock.monotonic_ns() - start)


def _append_all(ring: RingProducer, cells: Cells) -> None:
    at = 0
    while at < len(cells):
        end = at + whole_records(cells[at:], PIECE_CELLS)
        ring.append(cells[at:end])
        at = end


async def _quiet(journal: RingProducer, cells: Cells, options: Options) -> np.ndarray:
    """From the append of single records to their acknowledgement, in counts of the timer."""
    timer, clock = options.timer, options.timer.clock
    histogram = new_histogram()
    record = cells[: whole_records(cells, int(cells["cells"][0]))]
    for _ in range(options.count(QUIET_RECORDS, QUIET_RECORDS_QUICK)):
        await clock.sleep_until(clock.monotonic_ns() + QUIET_PAUSE_NS)
        start = clock.monotonic_ns()
        journal.append(record)
        await _committed(journal, journal.head, timer)
        record_value(histogram, int((clock.monotonic_ns() - start) / timer.ns_per_count))
    return histogram


# Files.


def _files(options: Options, material: Material) -> Measure:
    """A ring drained into segment files, and in the same minute the disk's own rate of writing and syncing."""
    name = "ring to file by the sidecar"
    cells = material.feed_cells
    count = options.count(LOGGED, 20_000)
    laps = -(-count // len(cells))
    values, disk = [], []
    for attempt in range(options.repeat):
        options.on_step(f"{material.name}: {name}, run {attempt + 1} of {options.repeat}")
        disk.append(_disk_rate(options.scratch, laps * len(cells) * CELL_BYTES, options.timer))
        values.append(_logged(options, cells, laps, attempt))
    note = f"{laps * len(cells):,} cells, codec plain, synced every 0.1 s and whole at the end"
    peer = peer_of("the disk, write and fsync", disk, f"chunks of 2 MiB, synced every {DISK_SYNC_BYTES >> 20} MiB")
    return measure(name, UNIT, values, data=material.name, goals=FILE_GOALS, peers=(peer,), note=note)


def _disk_rate(directory: Path, total: int, timer: Timer) -> float:
    """Millions of cells' bytes a second into one plain file."""
    path = directory / "disk-rate"
    chunk = np.random.default_rng(1).bytes(min(DISK_CHUNK_BYTES, total))

    def work() -> None:
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL)
        try:
            written = synced = 0
            while written < total:
                written += os.write(descriptor, chunk)
                if written - synced >= DISK_SYNC_BYTES:
                    os.fsync(descriptor)
                    synced = written
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    seconds = timer.seconds(work)
    path.unlink()
    return total / CELL_BYTES / seconds / 1e6


def _logged(options: Options, cells: Cells, laps: int, attempt: int) -> float:
    """Millions of cells a second through a ring into files, the last one finished."""
    target = options.scratch / f"logged-{attempt}"
    total = laps * len(cells)
    seconds = options.timer.seconds(partial(asyncio.run, _log(target, cells, laps, options.timer)))
    report = verify_directory(target)
    check(report.cells == total, f"{report.cells} of {total} cells are in the files", subject=str(target))
    for path in target.iterdir():
        path.unlink()
    return total / seconds / 1e6


async def _log(target: Path, cells: Cells, laps: int, timer: Timer) -> None:
    with tempfile.TemporaryDirectory(dir=_place(), prefix="bench-") as name:
        directory = Path(name)
        options = DrainOptions(rings=directory, codec=Codec.PLAIN, sync=SyncPolicy.INTERVAL)
        with (
            closing(Ring.produce("logged", policy=Policy.BLOCK, directory=directory)) as ring,
            logging_sidecar("logged", target, clock=timer.clock, options=options) as sidecar,
        ):
            draining = asyncio.create_task(sidecar.run())
            for _ in range(laps):
                await asyncio.to_thread(_append_all, ring, cells)
            ring.close()
            await draining
