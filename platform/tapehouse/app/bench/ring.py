"""The shared-memory ring: appended to by a compiled loop, by Python, in bulk; between two processes; beside ofstream.

What is in the ring survives the process: so does what a `std::ofstream` has flushed, by a system call a record, and
that is the peer. The one that buffers is shown too, and loses its buffer in a crash.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from tapehouse.app.bench import ring_loops as loops
from tapehouse.app.bench.measure import Goal, Measure, Peer, measure, not_measured, peer_of
from tapehouse.app.bench.peer import SCRIPTS, absent, find_compiler
from tapehouse.app.bench.registry import Options
from tapehouse.app.bench.timer import middle, new_histogram
from tapehouse.core.check import check
from tapehouse.core.errors import MissingError
from tapehouse.market import words
from tapehouse.ring import RING_CELLS, Ring, RingProducer, default_directory, remove

APPENDS = 20_000_000
CALLS = 500_000  # from Python
VERIFIED = 30_000_000  # between two processes
BATCHES = (64, 1_024, 65_536)
STREAMED = 1_000_000  # by the peer
COMPILE_SECONDS_MAX = 120.0
CONSUMER_SECONDS_MAX = 300.0
SPINS = 50_000_000
GOALS = (Goal(figure="p99", at_most=30.0), Goal(figure="throughput", at_least=100.0))
FLUSH_GOALS = (Goal(figure="ratio", at_least=100.0),)
CALL_GOALS = (Goal(at_most=60.0),)


@contextmanager
def scratch_ring(directory: Path | None = None) -> Iterator[RingProducer]:
    """A ring of the default size, attached as producer, every page of it touched; removed at the end."""
    name = f"bench-{os.getpid()}"
    place = directory or default_directory()
    producer = Ring.produce(name, directory=place, cells=RING_CELLS)
    try:
        loops.append_numbered(producer.address, RING_CELLS)
        loops.release_all(producer.address)
        yield producer
    finally:
        producer.close()
        remove(name, directory=place)


def run(options: Options) -> Iterator[Measure]:
    """One process first, then two."""
    with scratch_ring() as ring:
        yield from _one_by_one(options, ring)
        yield from _recordings(options, ring)
        yield from _bulk(options, ring)
    for verify in (False, True):
        yield _two_processes(options, verify=verify)


def _one_by_one(options: Options, ring: RingProducer) -> Iterator[Measure]:
    """A compiled loop, and calls of the built-in from Python."""
    options.on_step("append in a compiled loop")
    timer, count = options.timer, options.count(APPENDS, 20_000)
    values, spreads = [], []
    for _ in range(options.repeat):
        values.append(timer.ns_each(partial(loops.append_numbered, ring.address, count), count))
        histogram = new_histogram()
        loops.append_timed(ring.address, count, timer.overhead, histogram)
        spreads.append(timer.spread(histogram))
    cells = f"cells of 64 bytes into a ring of {RING_CELLS:,}"
    note = f"{count:,} {cells}; percentiles of single appends between fences"
    yield measure("append, compiled loop", "ns", values, goals=GOALS, note=note, **middle(spreads))
    for flush, goals in ((True, FLUSH_GOALS), (False, ())):
        peer = _ofstream(options, flush=flush)
        kept = "both survive the process" if flush else "only the ring survives the process"
        name = f"append beside ofstream, {'flushed a record' if flush else 'buffered'}"
        yield measure(name, "ns", values, goals=goals, peers=(peer,), note=f"{cells}; {kept}")

    options.on_step("append from CPython")
    calls = options.count(CALLS, 1_000)
    append_one = ring.append_one
    small = (15 << 48) | (1 << 56)
    values = []

    def work() -> None:
        for number in range(calls):
            append_one(number, number, number, number, number, number, small, number)

    for _ in range(1 + options.repeat):
        loops.release_all(ring.address)
        values.append(timer.ns_each(work, calls))
    note = "append_one(), the loop of Python included"
    yield measure("append, one call from CPython", "ns", values[1:], goals=CALL_GOALS, note=note)


def _recordings(options: Options, ring: RingProducer) -> Iterator[Measure]:
    """Whole records of each data set, with their extensions."""
    for material in options.materials:
        name = "append of records, compiled loop"
        if material.feed is None:
            yield not_measured(name, "ns", material.missing, data=material.name)
            continue
        options.on_step(f"{material.name}: append of records")
        rows = words(material.feed_cells)
        count = options.count(APPENDS // 4, 20_000)
        cells = int(loops.append_records(ring.address, rows, count))
        work = partial(loops.append_records, ring.address, rows, count)
        values = [options.timer.ns_each(work, count) for _ in range(options.repeat)]
        yield measure(name, "ns", values, data=material.name, note=f"{count:,} records of {cells / count:.2f} cells")


def _bulk(options: Options, ring: RingProducer) -> Iterator[Measure]:
    """Many records at once: by kernels, and by the producer's own method."""
    count = options.count(APPENDS, 20_000)
    loops.release_all(ring.address)
    loops.append_numbered(ring.address, max(BATCHES))
    for size in BATCHES:
        options.on_step(f"append in bulk, {size:,}")
        rows = np.zeros((size, 8), np.int64)
        rows[:, 6] = (15 << 48) | (1 << 56)
        batches = max(1, count // size)
        work = partial(loops.append_batches, ring.address, rows, batches)
        work()
        values = [options.timer.ns_each(work, batches * size) for _ in range(options.repeat)]
        yield measure(f"append in bulk of {size:,}, a record", "ns", values, note="in a compiled loop")


def _two_processes(options: Options, *, verify: bool) -> Measure:
    """This process produces, another consumes."""
    options.on_step(f"two processes, {'verifying' if verify else 'discarding'}")
    count = options.count(VERIFIED if verify else APPENDS, 20_000)
    rates = [_transfer(options, count, verify=verify) for _ in range(options.repeat)]
    how = "every field compared, 0 lost or torn" if verify else "discarded unread"
    return measure(
        f"two processes, {'verified' if verify else 'discarded'}", "M cells/s", rates, note=f"{count:,}, {how}"
    )


def _transfer(options: Options, count: int, *, verify: bool) -> float:
    """Millions of cells a second from the first append to the consumer's last word."""
    with scratch_ring() as ring:
        told = {"name": ring.path.stem, "directory": str(ring.path.parent), "count": count, "verify": verify}
        start = int(ring.head)
        check(start == RING_CELLS, f"a scratch ring begins at {start}", subject=str(ring.path))
        command = [sys.executable, "-m", "tapehouse.app.bench.ring_consumer", json.dumps(told)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            try:
                assert child.stdout is not None
                if child.stdout.readline().strip() != "ready":
                    raise MissingError("it did not attach", subject="the consumer of the ring's benchmark")
                loops.produce(ring.address, 0, 0, 1)
                answer: list[str] = []
                seconds = options.timer.seconds(lambda: answer.append(_exchange(child, ring, count)))
            finally:
                child.kill()
        said = json.loads(answer[0])
        check(said == {"received": count, "wrong": 0}, f"of {count} cells it got {said}", subject=str(ring.path))
    return count / seconds / 1e6


def _exchange(child: subprocess.Popen[str], ring: RingProducer, count: int) -> str:
    """Produce everything, and wait for the consumer's last line."""
    number = 0
    while number < count:
        following = int(loops.produce(ring.address, number, count, SPINS))
        if following == number and not ring.consumer_alive():
            raise MissingError("it died", subject="the consumer of the ring's benchmark")
        number = following
    assert child.stdout is not None
    return child.stdout.readline()


def _ofstream(options: Options, *, flush: bool) -> Peer:
    """std::ofstream writing records of 64 bytes, compiled here and now."""
    name = f"std::ofstream, {'flushed' if flush else 'buffered'}"
    compiler = find_compiler()
    if compiler is None:
        return absent(name, "peer not installed: no C++ compiler")
    options.on_step(name)
    program, target = options.scratch / "ofstream", options.scratch / "ofstream.records"
    if not program.exists():
        command = [compiler, "-O2", "-std=c++17", str(SCRIPTS / "ofstream.cpp"), "-o", str(program)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS_MAX, check=False)
        if done.returncode:
            return absent(name, f"it did not compile: {done.stderr.strip().splitlines()[-1]}")
    count = options.count(STREAMED, 2_000)
    values = []
    for _ in range(options.repeat):
        arguments = [str(program), str(target), str(count), "1" if flush else "0"]
        said = subprocess.run(arguments, capture_output=True, text=True, timeout=CONSUMER_SECONDS_MAX, check=True)
        check(target.stat().st_size == count * 64, "it did not write everything", subject=name)
        target.unlink()
        values.append(float(said.stdout))
    version = subprocess.run([compiler, "-dumpversion"], capture_output=True, text=True, check=True).stdout.strip()
    return peer_of(f"{name} ({Path(compiler).name} {version} -O2)", values, "to a file in the page cache")
