"""The proof of a whole day: recorded live on a fresh cluster, then reached again by every other path.

live -> replayed paced -> replayed at full speed -> replayed from the backup's segments -> the cluster is wiped ->
restored and replayed. Every path must arrive at the same decision digest and the same state digest. `tapehouse demo`
and `tapehouse prove` are two faces of this.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.app.live import Logs, RecordReport, record
from tapehouse.app.plot import collect, draw
from tapehouse.app.projector import Projector
from tapehouse.app.recovery import backup_tapes, restore_cluster
from tapehouse.app.warm import is_warm, warm
from tapehouse.bus import Cluster, ClusterConfig
from tapehouse.core.clock import Clock
from tapehouse.core.errors import IntegrityError, InvariantError
from tapehouse.core.ids import new_writer_id, slug
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.desk.commands import COMMANDS
from tapehouse.dr import BackupReport, ObjectStore, Repository, RestoreReport, SegmentLog
from tapehouse.engine import Engine, GatedEngine, Strategy
from tapehouse.feeds.port import Feed
from tapehouse.log import Envelope, Log, decode_frame, deterministic_id
from tapehouse.market import Cells, Kind, read_definition, records_of
from tapehouse.replay import Pace, PathResult, Proof, Session, verdict

Advance = Callable[[int], None]


class Reporter(Protocol):
    """Where progress goes: a step has a label, a total and a unit, and is told how far it is."""

    def step(self, label: str, total: int | None, unit: str) -> AbstractContextManager[Advance]:
        """Begin a step; it ends with the context."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofOptions:
    """What to prove, and where.

    Args:
        strategy: Makes a fresh strategy for every path.
        directory: Clusters and snapshots live below it; it is the caller's to remove.
        store: Opens the object store, once it is up; called once, when the first backup is due.
        speed: Of the paced path, held for `paced_ns` of tape time, then as fast as possible.
    """

    feed: Feed
    strategy: Callable[[], Strategy]
    directory: Path
    store: Callable[[], Awaitable[ObjectStore]]
    clock: Clock
    guard: bool = True
    nodes: int = 3
    profile: str = "durable"
    speed: float = 10.0
    paced_ns: int = 100 * NS_PER_SECOND


@dataclass(slots=True)
class DayProof:
    """Everything that was found on the way."""

    proof: Proof
    record: RecordReport
    backup: BackupReport
    restore: RestoreReport
    rpo_cells: int
    rto_seconds: float
    lateness_p50_us: float
    lateness_p99_us: float
    outputs: dict[str, Cells] = field(default_factory=dict)
    projections: dict[str, str] = field(default_factory=dict)


class DayProver:
    """Runs the paths one after the other."""

    def __init__(self, options: ProofOptions, report: Reporter) -> None:
        self._options = options
        self._report = report
        self._tape_name = slug(options.feed.name)
        self._results: list[PathResult] = []
        self._outputs: dict[str, Cells] = {}
        self._lateness = (0.0, 0.0)

    async def run(self, plot: Path | None = None) -> DayProof:
        """All paths; the verdict is in the result, only what prevents a path raises.

        Args:
            plot: Where to write a picture of the live session.
        """
        options = self._options
        if not is_warm():
            with self._report.step("compile the kernels, once", None, ""):
                await asyncio.to_thread(warm)
        store: ObjectStore | None = None
        try:
            async with self._cluster("first") as platform:
                recorded = await self._live(platform)
                tape = await platform.tape(self._tape_name)
                await self._replays(tape, recorded.cells)
                projections = await self._project(platform)
                with self._report.step("wait for the object store", None, ""):
                    store = await options.store()
                backed_up = await self._back_up(platform, store)
                await self._from_segments(store, recorded.cells)
                if plot is not None:
                    await self._draw(tape, plot)
            shutil.rmtree(options.directory / "first")
            async with self._cluster("second") as platform:
                restored, rto_seconds = await self._restore(platform, store, recorded)
                again = await self._project(platform)
        finally:
            if store is not None:
                await store.close()
        if projections != again:
            raise IntegrityError("the projections differ after the restore", subject=self._tape_name)
        return DayProof(
            proof=verdict(self._results, self._outputs),
            record=recorded,
            backup=backed_up,
            restore=restored,
            rpo_cells=recorded.cells - self._results[-1].cells,
            rto_seconds=rto_seconds,
            lateness_p50_us=self._lateness[0],
            lateness_p99_us=self._lateness[1],
            outputs=self._outputs,
            projections=projections,
        )

    @asynccontextmanager
    async def _cluster(self, name: str) -> AsyncIterator[Platform]:
        """A fresh embedded cluster of our own, stopped with the context."""
        options = self._options
        home = options.directory / name
        config = ClusterConfig(
            nodes=options.nodes,
            profile=options.profile,  # type: ignore[arg-type]
            directory=home / "cluster",
            client_port=0,
            route_port=0,
            monitor_port=0,
        )
        cluster = Cluster(config)
        try:
            with self._report.step(f"start {options.nodes} broker{'s' if options.nodes > 1 else ''}", None, ""):
                await _to_the_end(cluster.start)
            async with open_platform(",".join(cluster.urls), home=home) as platform:
                yield platform
        finally:
            await _to_the_end(cluster.stop)

    async def _live(self, platform: Platform) -> RecordReport:
        options = self._options
        logs = Logs(
            tape=await platform.tape(self._tape_name, create=True),
            events=await platform.events(self._tape_name, create=True),
            commands=await platform.commands(self._tape_name, create=True),
        )
        await self._send_commands(logs)
        with self._report.step("record, the strategy live", options.feed.cells_estimate, "cells") as advance:
            report = await record(
                options.feed,
                logs,
                strategy=options.strategy(),
                clock=options.clock,
                guard=options.guard,
                snapshots=await platform.snapshots(self._tape_name),
                on_progress=advance,
            )
        digests = report.digests
        if digests is None:
            raise InvariantError("a recording with a strategy has digests")
        self._outputs["live"] = await read_outputs(logs.events)
        self._results.append(
            PathResult(
                name="live",
                decision_digest=digests.decision.hex(),
                state_digest=digests.state.hex(),
                cells=digests.cells,
                decisions=digests.decisions,
                seconds=report.seconds,
                note="R3, fsync, gated" if options.nodes > 1 else "R1, gated",
            )
        )
        return report

    async def _send_commands(self, logs: Logs) -> None:
        """Two commands in the inbox, the second a repeat of the first: it must have no second effect."""
        instrument = self._options.feed.instruments[0]
        body = {
            "instrument": instrument.symbol,
            "side": "buy",
            "price": str(instrument.price(instrument.tick_size)),
            "size": str(instrument.lot_size),
        }
        assert logs.commands is not None
        for attempt in range(2):
            envelope = Envelope(
                id=deterministic_id(self._tape_name, "command", attempt),
                type="order.submit",
                version=COMMANDS.version("order.submit"),
                client="demo",
                number=1,
                correlation=self._tape_name[:64],
                time=self._options.clock.time_ns(),
                body=body,
            )
            subject = f"cmd.v1.{self._tape_name}.order.submit"
            await logs.commands.append(envelope.encode(), expected_last=None, subject=subject)

    async def _replay(self, name: str, tape: Log, cells: int, pace: Pace, note: str) -> None:
        options = self._options
        engine = Engine(options.strategy(), guard=options.guard)
        outputs: list[Cells] = []
        with self._report.step(name, cells, "cells") as advance:
            session = Session(
                name,
                tape,
                engine,
                clock=options.clock,
                pace=pace,
                on_progress=advance,
                on_outputs=outputs.append,
            )
            report = await session.run()
        if pace.speed is not None:
            self._lateness = (report.lateness_p50_us, report.lateness_p99_us)
            note = f"{note}; paced {report.paced_seconds:.1f} s, late p99 {report.lateness_p99_us:.0f} us"
        self._outputs[name] = np.concatenate(outputs) if outputs else self._outputs["live"][:0]
        self._results.append(PathResult.of(report, note=note))

    async def _replays(self, tape: Log, cells: int) -> None:
        options = self._options
        seconds = options.paced_ns / NS_PER_SECOND
        pace = Pace(speed=options.speed, paced_ns=options.paced_ns)
        note = f"{options.speed:g}x for the first {seconds:g} s of the tape, then max"
        await self._replay(f"replay {options.speed:g}x", tape, cells, pace, note)
        await self._replay("replay max", tape, cells, Pace(), "from the durable log")

    async def _project(self, platform: Platform) -> dict[str, str]:
        tape, events = await platform.tape(self._tape_name), await platform.events(self._tape_name)
        projector = Projector(tape, events, await platform.snapshots(self._tape_name))
        with self._report.step("fold the projections", None, ""):
            await projector.open()
            await projector.run()
            projector.save()
        return projector.digests()

    async def _back_up(self, platform: Platform, store: ObjectStore) -> BackupReport:
        with self._report.step("back up to the store", None, "messages") as advance:
            return await backup_tapes(
                platform,
                store,
                [self._tape_name],
                self._options.clock,
                progress=lambda _log, done, _total: advance(done),
            )

    async def _from_segments(self, store: ObjectStore, cells: int) -> None:
        repository = await Repository.open(store)
        manifest = await repository.latest()
        if manifest is None:
            raise InvariantError("a backup that was just written is not there", subject=self._tape_name)
        segments = SegmentLog.of(repository, manifest, f"TAPE_{self._tape_name}")
        await self._replay("from segments", segments, cells, Pace(), "straight from the object store")

    async def _restore(
        self, platform: Platform, store: ObjectStore, recorded: RecordReport
    ) -> tuple[RestoreReport, float]:
        options = self._options
        start = options.clock.monotonic_ns()
        with self._report.step("restore the wiped cluster", None, "messages") as advance:
            report = await restore_cluster(
                platform, store, options.clock, progress=lambda _log, done, _total: advance(done)
            )
        tape = await platform.tape(self._tape_name)
        engine = Engine(options.strategy(), guard=options.guard)
        desk = GatedEngine(
            engine,
            tape,
            await platform.events(self._tape_name),
            writer=new_writer_id(),
            snapshots=await platform.snapshots(self._tape_name),
        )
        with self._report.step("desk up from snapshot and tail", None, ""):
            await desk.open()
            await desk.run()
        rto_seconds = (options.clock.monotonic_ns() - start) / 1e9
        if recorded.digests is None or engine.digests() != recorded.digests:
            raise IntegrityError("the restored desk is not in the state of the lost one", subject=self._tape_name)
        await self._replay("restored", tape, recorded.cells, Pace(), "replayed from the restored log")
        return report, rto_seconds

    async def _draw(self, tape: Log, path: Path) -> None:
        live = self._outputs["live"]
        traded = [read_definition(record) for _, record in records_of(live, Kind.DEFINITION)]
        with self._report.step("draw the session", None, ""):
            lines = await collect(tape, traded[0], live)
            strategy = self._options.strategy().name
            await asyncio.to_thread(draw, lines, path, title=f"{self._tape_name}: {strategy} on {traded[0].symbol}")


async def _to_the_end(work: Callable[[], object]) -> None:
    """Do blocking work in a thread, and return only when it is done: a server is never left half started."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # Starting and stopping have time limits of their own.
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        raise


async def read_outputs(events: Log) -> Cells:
    """Every decision record that EVENTS holds."""
    extent = await events.extent()
    parts = [decode_frame(message.payload)[1] async for message in events.read(extent.first)]
    if not parts:
        raise InvariantError("EVENTS is empty after a recording", subject=events.name)
    return np.concatenate(parts)
