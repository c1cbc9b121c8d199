"""The measurements of the tape: into three durable brokers, replayed from them and from memory, bytes a cell.

Every figure is the median of repeated runs with its spread; the codecs stand beside their peer (the same cells through
plain zstd) in the same run.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import zstandard

from tapehouse.app.bootstrap import open_platform
from tapehouse.app.live import Logs, record
from tapehouse.app.strategies import load_strategy
from tapehouse.bus import Cluster, ClusterConfig
from tapehouse.core import SystemClock
from tapehouse.core.ids import new_writer_id
from tapehouse.engine import Engine, Strategy
from tapehouse.feeds.port import Feed
from tapehouse.log import Codec, FrameHeader, FrameWriter, Log, MemoryLog, decode_frame, encode_frame
from tapehouse.market import Cells, whole_records
from tapehouse.replay import Session

FRAME_SIZES = (8_192, 32_768)
PEER_LEVEL = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One row: the median of several runs and their spread."""

    name: str
    unit: str
    median: float
    low: float
    high: float
    note: str = ""


class TapeBench:
    """Measures one feed's cells."""

    def __init__(
        self, feed: Feed, *, repeat: int, nodes: int, on_step: Callable[[str], None], source_bytes: int = 0
    ) -> None:
        self._feed = feed
        self._source_bytes = source_bytes
        self._repeat = repeat
        self._nodes = nodes
        self._on_step = on_step
        self._clock = SystemClock()
        self.rows: list[Measure] = []

    async def run(self) -> list[Measure]:
        """All measurements, in order."""
        tape = MemoryLog("TAPE_bench")
        self._on_step("record into memory")
        await record(self._feed, Logs(tape=tape, events=MemoryLog("EVENTS_bench")), strategy=None, clock=self._clock)
        cells = np.concatenate([decode_frame(m.payload)[1] async for m in tape.read(1)])
        self._codecs(cells)
        await self._replay("replay from memory", tape, "frames decoded, engine with the maker")
        with tempfile.TemporaryDirectory(prefix="tapehouse-bench-") as scratch:
            await self._durable(cells, Path(scratch))
        return self.rows

    def _add(self, name: str, unit: str, values: list[float], note: str = "") -> None:
        row = Measure(
            name=name, unit=unit, median=statistics.median(values), low=min(values), high=max(values), note=note
        )
        self.rows.append(row)

    def _codecs(self, cells: Cells) -> None:
        """Bytes a cell and speed of each codec, beside plain zstd of the same bytes."""
        self._on_step("codecs")
        frames = split(cells, FRAME_SIZES[0])
        compressor = zstandard.ZstdCompressor(level=PEER_LEVEL)
        for codec in (Codec.COLUMNS, Codec.COLUMNS_ZSTD):
            header = FrameHeader(log_id=bytes(16), writer=1, epoch=1, first_ordinal=0, codec=codec)
            encoded = _encode(frames, header)
            size = sum(map(len, encoded)) / len(cells)
            name = codec.name.lower()
            self._add(f"{name}: size", "bytes a cell", [size], "frames of 8,192 cells, headers included")
            runs = range(self._repeat)
            encode_rates = [self._rate(partial(_encode, frames, header), len(cells)) for _ in runs]
            decode_rates = [self._rate(partial(_decode, encoded), len(cells)) for _ in runs]
            self._add(f"{name}: encode", "M cells/s", encode_rates, "one core")
            self._add(f"{name}: decode", "M cells/s", decode_rates, "one core")
        peer = sum(len(compressor.compress(part.tobytes())) for part in frames) / len(cells)
        self._add("peer, zstd 1 of plain cells: size", "bytes a cell", [peer])
        if self._source_bytes:
            self._add("peer, the file itself: size", "bytes a cell", [self._source_bytes / len(cells)], self._feed.name)

    def _rate(self, work: Callable[[], object], cells: int) -> float:
        start = self._clock.monotonic_ns()
        work()
        return cells * 1e3 / (self._clock.monotonic_ns() - start)

    async def _timed(self, work: Callable[[], Awaitable[object]], cells: int) -> float:
        start = self._clock.monotonic_ns()
        await work()
        return cells * 1e3 / (self._clock.monotonic_ns() - start)

    async def _replay(self, name: str, tape: Log, note: str) -> None:
        rates = []
        for _ in range(1 + self._repeat):
            self._on_step(name)
            engine = Engine(maker())
            report = await Session(name, tape, engine, clock=self._clock).run()
            rates.append(report.cells_per_second / 1e6)
        self._add(name, "M cells/s", rates[1:], note)  # The first run pays for kernels and fresh pages.

    async def _durable(self, cells: Cells, scratch: Path) -> None:
        config = ClusterConfig(
            nodes=self._nodes, directory=scratch / "cluster", client_port=0, route_port=0, monitor_port=0
        )
        cluster = Cluster(config)
        self._on_step(f"start {self._nodes} brokers")
        await asyncio.to_thread(cluster.start)
        try:
            async with open_platform(",".join(cluster.urls), home=scratch) as platform:
                for size in FRAME_SIZES:
                    rates = []
                    for attempt in range(self._repeat):
                        self._on_step(f"durable tape, frames of {size:,}")
                        log = await platform.tape(f"bench-{size}-{attempt}", create=True)
                        rates.append(await self._timed(partial(write, log, cells, size), len(cells)))
                    note = f"R{min(3, self._nodes)}, fsync, every frame fenced and awaited; brokers on the same cores"
                    self._add(f"into the durable tape, frames of {size:,}", "M cells/s", rates, note)
                tape = await platform.tape(f"bench-{FRAME_SIZES[0]}-0")
                rates = []
                for _ in range(self._repeat):
                    self._on_step("read and decode")
                    rates.append(await self._timed(partial(read, tape), len(cells)))
                self._add("read and decode from the durable tape", "M cells/s", rates)
                await self._replay("replay from the durable tape", tape, "read, decoded, engine with the maker")
        finally:
            await asyncio.to_thread(cluster.stop)


def _encode(frames: list[Cells], header: FrameHeader) -> list[bytes]:
    return [encode_frame(part, header) for part in frames]


def _decode(frames: list[bytes]) -> None:
    for frame in frames:
        decode_frame(frame)


def maker() -> Strategy:
    """The sample market maker, which every measurement runs."""
    return load_strategy("maker")


def split(cells: Cells, size: int) -> list[Cells]:
    """Whole records in frames of at most `size` cells."""
    frames = []
    start = 0
    while start < len(cells):
        end = start + whole_records(cells[start:], size)
        frames.append(cells[start:end])
        start = end
    return frames


async def write(log: Log, cells: Cells, size: int) -> None:
    """Append all cells in frames of a given size, the next one encoded while the last one is acknowledged."""
    writer = await FrameWriter.open(log, writer=new_writer_id(), frame_cells=size)
    await writer.append(cells)


async def read(log: Log) -> int:
    """Read and decode a whole log; returns its cells."""
    total = 0
    async for message in log.read(1):
        total += len(decode_frame(message.payload)[1])
    return total
