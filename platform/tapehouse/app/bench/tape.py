"""The durable tape: appended, read back and replayed through real brokers, and how many bytes a cell takes there.

Every append is fenced and acknowledged by a majority that has synced it. The codecs stand beside plain zstd of the same
cells, and beside the file that the cells came from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import uvloop
import zstandard

from tapehouse.app.bench.engines import batches, maker
from tapehouse.app.bench.material import Material
from tapehouse.app.bench.measure import Goal, Measure, measure, not_measured, peer_of
from tapehouse.app.bench.registry import Options
from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.bus import Cluster, ClusterConfig
from tapehouse.core.ids import new_writer_id
from tapehouse.engine import Engine
from tapehouse.log import Codec, FrameHeader, FrameWriter, Log, decode_frame, encode_frame
from tapehouse.market import Cells
from tapehouse.replay import Session

FRAME_SIZES = (8_192, 32_768)
PEER_LEVEL = 1
APPEND_GOALS = {FRAME_SIZES[-1]: (Goal(at_least=4.0),)}
REPLAY_GOALS = (Goal(at_least=5.0),)
OF_THE_FILE = 0.6  # what a cell may take of a record of .dbn.zst
UNIT, SIZE_UNIT = "M cells/s", "bytes a cell"


def run(options: Options) -> Iterator[Measure]:
    """The codecs and the brokers, a data set at a time."""
    for material in options.materials:
        if material.feed is None:
            yield not_measured("into the durable tape", UNIT, material.missing, data=material.name)
            continue
        yield from _codecs(options, material)
        yield from _durable(options, material)


def _codecs(options: Options, material: Material) -> Iterator[Measure]:
    """Bytes a cell and speed of each codec."""
    cells, timer, name = material.tape_cells, options.timer, material.name
    frames = list(batches(cells, FRAME_SIZES[0]))
    options.on_step(f"{name}: peers of the codecs")
    compressor = zstandard.ZstdCompressor(level=PEER_LEVEL)
    plain = sum(len(compressor.compress(part.tobytes())) for part in frames) / len(cells)
    peers = [peer_of(f"zstd {PEER_LEVEL} of plain cells", [plain])]
    goals: tuple[Goal, ...] = ()
    if material.path is not None:
        own = material.path.stat().st_size / len(cells)
        peers.append(peer_of("the file itself", [own], "".join(material.path.suffixes[-2:])))
        if material.path.name.endswith(".dbn.zst"):
            goals = (Goal(at_most=OF_THE_FILE * own),)
    for codec in (Codec.COLUMNS, Codec.COLUMNS_ZSTD):
        options.on_step(f"{name}: {codec.name.lower()}")
        header = FrameHeader(log_id=bytes(16), writer=1, epoch=1, first_ordinal=0, codec=codec)
        encoded = _encode(frames, header)
        size = sum(map(len, encoded)) / len(cells)
        note = f"frames of {FRAME_SIZES[0]:,} cells, headers included"
        label = f"codec {codec.name.lower()}"
        yield measure(
            f"{label}: size",
            SIZE_UNIT,
            [size],
            data=name,
            goals=goals if codec is Codec.COLUMNS_ZSTD else (),
            peers=tuple(peers),
            note=note,
        )
        for verb, work in (("encode", partial(_encode, frames, header)), ("decode", partial(_decode, encoded))):
            rates = [1e3 / timer.ns_each(work, len(cells)) for _ in range(options.repeat)]
            yield measure(f"{label}: {verb}", UNIT, rates, data=name, note="one core")


def _durable(options: Options, material: Material) -> Iterator[Measure]:
    """Through brokers on the same cores."""
    home = options.scratch / f"tape-{material.name}"
    config = ClusterConfig(nodes=options.nodes, directory=home / "cluster", client_port=0, route_port=0, monitor_port=0)
    cluster = Cluster(config)
    options.on_step(f"{material.name}: start {options.nodes} brokers")
    cluster.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            opened = open_platform(",".join(cluster.urls), home=home)
            platform = runner.run(_entered(opened.__aenter__))
            try:
                yield from _appended(options, material, platform, runner)
                yield from _read_back(options, material, platform, runner)
            finally:
                runner.run(_left(opened.__aexit__))
    finally:
        cluster.stop()


async def _entered(enter: Callable[[], Awaitable[Platform]]) -> Platform:
    return await enter()


async def _left(leave: Callable[..., Awaitable[bool | None]]) -> None:
    await leave(None, None, None)


def _appended(options: Options, material: Material, platform: Platform, runner: asyncio.Runner) -> Iterator[Measure]:
    cells = material.tape_cells
    for size in FRAME_SIZES:
        rates = []
        for attempt in range(options.repeat):
            options.on_step(f"{material.name}: durable tape, frames of {size:,}")
            log = runner.run(platform.tape(_tape_name(size, attempt), create=True))
            work = partial(_run_write, runner, log, cells, size)
            rates.append(len(cells) / options.timer.seconds(work) / 1e6)
        note = f"R{min(3, options.nodes)}, fsync, every frame fenced and awaited; brokers on the same cores"
        yield measure(
            f"into the durable tape, frames of {size:,}",
            UNIT,
            rates,
            data=material.name,
            goals=APPEND_GOALS.get(size, ()),
            note=note,
        )


def _read_back(options: Options, material: Material, platform: Platform, runner: asyncio.Runner) -> Iterator[Measure]:
    cells, name = material.tape_cells, material.name
    tape = runner.run(platform.tape(_tape_name(FRAME_SIZES[0], 0)))
    options.on_step(f"{name}: read and decode")
    rates = [len(cells) / options.timer.seconds(lambda: runner.run(read(tape))) / 1e6 for _ in range(options.repeat)]
    yield measure("read and decode from the durable tape", UNIT, rates, data=name)
    rates = []
    for attempt in range(1 + options.repeat):
        options.on_step(f"{name}: replay from the durable tape")
        session = Session(name, tape, Engine(maker()), clock=options.timer.clock)
        report = runner.run(session.run())
        if attempt:  # The first run pays for kernels and fresh pages.
            rates.append(report.cells_per_second / 1e6)
    note = "read, decoded, engine with the maker"
    yield measure("replay from the durable tape", UNIT, rates, data=name, goals=REPLAY_GOALS, note=note)


def _tape_name(size: int, attempt: int) -> str:
    return f"bench-{size}-{attempt}"


def _encode(frames: list[Cells], header: FrameHeader) -> list[bytes]:
    return [encode_frame(part, header) for part in frames]


def _decode(frames: list[bytes]) -> None:
    for frame in frames:
        decode_frame(frame)


def _run_write(runner: asyncio.Runner, log: Log, cells: Cells, size: int) -> None:
    runner.run(write(log, cells, size))


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
