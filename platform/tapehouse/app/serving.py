"""One tape served: its lease, its desk, its projections, the service that answers reads, and the keepers of its past.

A host follows the tape until it leads it: one that was started as a standby for as long as another leads, any other
only while it starts. A standby opens the desk's doors while it follows, and answers by none of them; what only writes
and is waited for by nobody (keepers of the past, copies of what was parked) begins once the desk takes commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tapehouse.app.ahead import serve_ahead
from tapehouse.app.ahead_desk import AheadOptions
from tapehouse.app.book_keeper import BookKeeper
from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.app.desk_doors import DeskDoors
from tapehouse.app.following import Follower
from tapehouse.app.journals import finish_leftover
from tapehouse.app.kv_service import serve_kv
from tapehouse.app.leadership import Leadership, TakeOver, holder_name, is_dead, lease_name, process_name
from tapehouse.app.live import serve
from tapehouse.app.logs import Logs
from tapehouse.app.parked_stream import ParkedStream
from tapehouse.app.projector import Projector
from tapehouse.app.recording import Mode
from tapehouse.app.roll_call import answering
from tapehouse.app.sidecars import SidecarProcess
from tapehouse.app.state_keeper import StateKeeper
from tapehouse.app.strategies import load_strategy
from tapehouse.bus import JetStreamLog, LeaseBucket
from tapehouse.bus.lease import POLLS_PER_TTL, TTL_S, Lease
from tapehouse.core import SystemClock
from tapehouse.core.errors import ConflictError, TransientError
from tapehouse.core.metrics import Metrics
from tapehouse.core.tasks import cancel_all, first_failure
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.engine import Strategy
from tapehouse.log import Log, PatientLog, SharedLog, SnapshotStore
from tapehouse.log.snaps import Snaps

KEEP_AGAIN_S = 5.0  # between two tries to reach SNAPS
_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """How a host runs, whichever tape it is."""

    nats: str | None = None
    home: Path | None = None
    strategy: str = "maker"
    parameters: str | None = None
    mode: Mode = "gated"
    ahead: AheadOptions = field(default_factory=AheadOptions)
    cpus: str | None = None
    out: bool = True  # bring EVENTS to OUT as JSON
    standby: bool = False  # follow while another leads, and after handing over
    lease_ttl_s: float = TTL_S


@dataclass(frozen=True, slots=True, kw_only=True)
class _Streams:
    """What tapes share, and a leader writes."""

    out: JetStreamLog | None
    parked: Log
    snaps: Snaps

    @classmethod
    async def open(cls, platform: Platform, *, out: bool) -> _Streams:
        """Make or find them."""
        return cls(
            out=await platform.out(create=True) if out else None,
            parked=await platform.parked(),
            snaps=await platform.make_snaps(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostEvents:
    """Whom a host tells what it is now."""

    on_ready: Callable[[], None] = lambda: None  # it serves
    on_standby: Callable[[], None] = lambda: None  # it follows
    on_take_over: Callable[[TakeOver], None] = lambda _: None


async def serve_tape(tape: str, options: HostOptions, events: HostEvents) -> None:
    """Serve a tape, or follow it until it is to be served, until cancelled; or until it was handed over.

    Raises:
        ConflictError: Another host leads the tape, or took it over.
        GapError, DecodeError, IntegrityError: A log is damaged, or the leader decides otherwise; the place is named.
    """
    strategy = load_strategy(options.strategy, options.parameters)
    # A desk in `ahead` mode goes on without brokers, and a standby waits for them; so does what runs beside them.
    async with open_platform(
        options.nats, home=options.home, patient=options.mode == "ahead" or options.standby
    ) as platform:
        host = await _TapeHost.open(tape, platform, options, events, strategy)
        await host.run()


class _TapeHost:
    """One host of one tape, in one of its two roles."""

    def __init__(
        self, tape: str, platform: Platform, options: HostOptions, events: HostEvents, strategy: Strategy, logs: Logs,
        unhurried: Logs, streams: _Streams, snapshots: SnapshotStore, bucket: LeaseBucket,
    ) -> None:  # fmt: skip
        self._tape, self._platform, self._options, self._events = tape, platform, options, events
        self._strategy, self._logs, self._snapshots, self._bucket = strategy, logs, snapshots, bucket
        self._streams = streams
        self._clock = SystemClock()
        self._metrics = Metrics()
        self._unhurried = unhurried  # the same, for what nobody who has sent a command waits for
        self._projector = Projector(unhurried.tape, unhurried.events, snapshots)
        self._holder = holder_name()
        self._follower: Follower | None = None
        self._sidecar: SidecarProcess | None = None
        self._leadership: Leadership | None = None
        self._serving: asyncio.Task[None] | None = None
        self._asked_to_hand_over = False

    @classmethod
    async def open(
        cls, tape: str, platform: Platform, options: HostOptions, events: HostEvents, strategy: Strategy
    ) -> _TapeHost:
        """Make or find everything that the host needs on the broker."""
        made = [
            await platform.tape(tape, create=True),
            await platform.events(tape, create=True),
            await platform.commands(tape, create=True),
        ]
        patient = options.mode == "ahead" or options.standby
        shared = [SharedLog(log, subject=log.subject) for log in made]
        logs = _logs(list(shared), patient=patient)
        unhurried = _logs([log.unhurried() for log in shared], patient=patient)
        snapshots, bucket = await platform.snapshots(tape), await LeaseBucket.open(platform.bus)
        streams = await _Streams.open(platform, out=options.out)
        return cls(tape, platform, options, events, strategy, logs, unhurried, streams, snapshots, bucket)

    async def run(self) -> None:
        """Follow and lead in turns, until cancelled or handed over."""
        options = self._options
        await self._projector.open()
        beside = [asyncio.create_task(self._projector.run(follow=True))]
        try:
            async with AsyncExitStack() as stack:
                news = await stack.enter_async_context(self._bucket.news(lease_name(self._tape)))
                await stack.enter_async_context(
                    answering(self._platform.bus, self._tape, roll=self._roll, hand_over=self._hand_over)
                )
                while True:
                    lease = Lease(
                        self._bucket, lease_name(self._tape), holder=self._holder, clock=self._clock,
                        ttl_s=options.lease_ttl_s, process=process_name(), is_dead=is_dead, news=news,
                    )  # fmt: skip
                    async with AsyncExitStack() as opened:
                        doors, tasks = await self._open_doors(lease, beside, opened)
                        handed_over_from = lease.generation
                        await self._lead(lease, beside, doors, tasks, opened)
                    if not options.standby:
                        return
                    await self._step_aside(handed_over_from)
        except asyncio.CancelledError:
            self._projector.save()  # Stopped on purpose: the next start begins from here.
            raise
        finally:
            await cancel_all(beside)

    # Following.

    async def _open_doors(
        self, lease: Lease, beside: list[asyncio.Task[None]], opened: AsyncExitStack
    ) -> tuple[DeskDoors, list[asyncio.Task[None]]]:
        """Hold the lease, and have the doors open; a standby opens them first. They close with `opened`."""
        doors = DeskDoors(
            self._tape, self._logs, self._unhurried, mode=self._options.mode, position=self._projector.position
        )
        opened.push_async_callback(doors.stop)
        patient, is_standby = isinstance(self._logs.tape, PatientLog), self._options.standby
        self._sidecar = SidecarProcess(
            self._tape, nats=self._options.nats, home=self._platform.home, rings=self._options.ahead.rings,
            cpus=self._options.cpus,
        )  # fmt: skip
        if is_standby and self._options.mode == "ahead":
            await self._sidecar.prepare()
            opened.push_async_callback(self._sidecar.dismiss)
        if not is_standby:
            await first_failure(asyncio.create_task(self._until_leading(lease)), beside)
        tasks = await doors.open(self._streams.out, self._snapshots, patient=patient)
        opened.push_async_callback(cancel_all, tasks)
        if is_standby:
            await first_failure(asyncio.create_task(self._until_leading(lease)), [*beside, *tasks])
        return doors, tasks

    async def _until_leading(self, lease: Lease) -> None:
        """Hold the lease, having followed the tape to its end."""
        self._follower = Follower(self._logs, strategy=self._strategy, snapshots=self._snapshots)
        if not self._options.standby:
            try:
                await lease.acquire(patience_s=None, while_silent=True)
            except ConflictError as error:
                raise ConflictError(
                    error.message,
                    subject=f"tape {self._tape}",
                    hint="stop that host, or follow it and take over when it ends: --standby",
                ) from error
            return
        await self._follower.open()
        following = asyncio.create_task(self._follower.run())
        try:
            await first_failure(asyncio.create_task(self._warm()), [following])
            self._events.on_standby()
            await first_failure(asyncio.create_task(self._acquire(lease)), [following])
        finally:
            await cancel_all([following])

    async def _warm(self) -> None:
        """Return when the follower stands where the tape ended when it began: a cold one would lead late."""
        assert self._follower is not None
        while not self._follower.is_warm:
            await self._clock.sleep_until(self._clock.monotonic_ns() + _NS_PER_MS)

    async def _acquire(self, lease: Lease) -> None:
        await lease.acquire(patience_s=None)

    async def _step_aside(self, generation: int) -> None:
        """Let another take the lease that was given up; for the time that it lives, no longer."""
        ttl_ns = int(self._options.lease_ttl_s * NS_PER_SECOND)
        deadline_ns = self._clock.monotonic_ns() + ttl_ns
        reader = Lease(self._bucket, lease_name(self._tape), holder=self._holder, clock=self._clock)
        while self._clock.monotonic_ns() < deadline_ns:
            with suppress(TransientError):
                entry = await reader.look()
                if entry is None or entry.generation != generation:
                    return
            await self._clock.sleep_until(self._clock.monotonic_ns() + ttl_ns // POLLS_PER_TTL)

    # Leading.

    async def _lead(
        self, lease: Lease, beside: list[asyncio.Task[None]], doors: DeskDoors, tasks: list[asyncio.Task[None]],
        opened: AsyncExitStack,
    ) -> None:  # fmt: skip
        """Serve the tape until it is to be handed over; give the lease up at the end, whatever the end is."""
        leadership = Leadership(lease, clock=self._clock, metrics=self._metrics)
        self._leadership, self._asked_to_hand_over = leadership, False
        streams, patient = self._streams, isinstance(self._logs.tape, PatientLog)
        self._platform.bus.on_reconnect(leadership.reconnected)
        keeping = asyncio.create_task(leadership.keep())
        try:
            async with AsyncExitStack() as stack:
                reads = asyncio.create_task(self._serve_reads(stack))
                await stack.enter_async_context(opened.pop_all())  # They close before the lease is given up.

                async def ready() -> None:
                    await reads
                    self._ready(leadership)

                tasks.append(asyncio.create_task(doors.serve(self._platform.bus, ready)))
                for make in _followers(self._tape, self._unhurried, streams, doors.metrics):
                    tasks.append(asyncio.create_task(_follow(make, patient=patient, after=doors.served)))
                self._serving = asyncio.create_task(self._serve(leadership, doors.hooks))
                try:
                    await first_failure(self._serving, [*beside, *tasks, keeping])
                except asyncio.CancelledError:
                    doors.save()
                    task = asyncio.current_task()
                    if not self._asked_to_hand_over or (task is not None and task.cancelling()):
                        raise
        finally:
            leadership.on_deadline = None
            self._platform.bus.off_reconnect(leadership.reconnected)
            self._leadership = self._serving = None
            await leadership.give_up()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _serve_reads(self, stack: AsyncExitStack) -> None:
        """Answer reads, once they see no less than was there now."""
        tape, events = await asyncio.gather(self._logs.tape.extent(), self._logs.events.extent())
        await self._projector.until(tape=tape.last, events=events.last)
        await stack.enter_async_context(await serve_kv(self._platform.bus, self._tape, self._projector))

    def _ready(self, leadership: Leadership) -> None:
        """Commands are taken, by every door."""
        take_over = leadership.served()
        self._events.on_ready()
        if take_over is not None and self._options.standby:
            self._events.on_take_over(take_over)

    async def _serve(self, leadership: Leadership, hooks: dict[str, Any]) -> None:
        """Run the desk; it ends by being cancelled, and then everything that it decided is durable."""
        options, logs, follower = self._options, self._logs, self._follower
        sidecar = self._sidecar
        assert follower is not None
        assert sidecar is not None
        try:
            if options.mode == "ahead":
                await serve_ahead(
                    self._tape, logs, strategy=self._strategy, sidecar=sidecar, clock=self._clock,
                    snapshots=self._snapshots, options=options.ahead, metrics=self._metrics,
                    timings=self._platform.timings(self._tape, await logs.tape.extent()), **hooks,
                    follower=follower, leadership=leadership,
                )  # fmt: skip
            else:
                await finish_leftover(self._tape, logs.tape, sidecar, self._clock, directory=options.ahead.rings)
                await serve(
                    logs, strategy=self._strategy, clock=self._clock, snapshots=self._snapshots, **hooks,
                    follower=follower, leadership=leadership,
                )  # fmt: skip
        finally:
            self._follower = None

    # What others ask.

    def _roll(self) -> dict[str, Any]:
        """Who this host is now, and how far it has come."""
        told: dict[str, Any] = {
            "holder": self._holder, "role": "standby" if self._leadership is None else "leader",
            "mode": self._options.mode, "standby": self._options.standby,
        }  # fmt: skip
        if self._leadership is not None:
            take_over = self._leadership.take_over
            told["generation"] = self._leadership.lease.generation
            told["role"] = "leader" if take_over else "taking over"
            told["take_over"] = take_over.table() if take_over else None
        elif self._follower is not None:
            gated = self._follower.gated
            told |= {"sequence": gated.sequence, "ordinal": gated.ordinal, "held_cells": gated.held_cells}
        return told

    def _hand_over(self) -> dict[str, Any] | None:
        """Begin to hand over, where this host leads."""
        if self._leadership is None or self._serving is None or self._leadership.take_over is None:
            return None
        self._asked_to_hand_over = True
        self._serving.cancel()
        return {"holder": self._holder, "generation": self._leadership.lease.generation}


class Beside(Protocol):
    """What goes on beside the desk and keeps its place elsewhere."""

    async def run(self, *, follow: bool = False) -> object:
        """Do what is there; with `follow`, go on with what comes until cancelled."""
        ...


def _logs(made: list[Log], *, patient: bool) -> Logs:
    tape, events, commands = (PatientLog(log) for log in made) if patient else made
    return Logs(tape=tape, events=events, commands=commands)


def _followers(tape: str, logs: Logs, streams: _Streams, metrics: Metrics) -> list[Callable[[], Beside]]:
    """What makes each anew: keepers of the tape's books and of the projections of either log, copies of the parked."""
    return [
        lambda: BookKeeper(logs.tape, streams.snaps),
        lambda: StateKeeper(logs.tape, streams.snaps, tape=tape, source="tape"),
        lambda: StateKeeper(logs.events, streams.snaps, tape=tape, source="events"),
        lambda: ParkedStream(tape, logs.tape, logs.events, streams.parked, metrics=metrics),
    ]


async def _follow(make: Callable[[], Beside], *, patient: bool, after: Callable[[], Awaitable[None]]) -> None:
    """Have a follower go on until cancelled.

    Args:
        patient: Where the broker stays away, go on when it is back; else that is an error.
        after: Returns when it is to begin.
    """
    await after()
    while True:
        try:
            await make().run(follow=True)
        except TransientError:
            if not patient:
                raise
        await asyncio.sleep(KEEP_AGAIN_S)
