"""One tape served: its desk, its projections, the service that answers reads of them, and the keepers of its past."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tapehouse.app.ahead import serve_ahead
from tapehouse.app.ahead_desk import AheadOptions
from tapehouse.app.book_keeper import BookKeeper
from tapehouse.app.bootstrap import open_platform
from tapehouse.app.desk_doors import DeskDoors
from tapehouse.app.journals import finish_leftover
from tapehouse.app.kv_service import serve_kv
from tapehouse.app.live import Logs, cancel_all, first_failure, serve
from tapehouse.app.parked_stream import ParkedStream
from tapehouse.app.projector import Projector
from tapehouse.app.recording import Mode
from tapehouse.app.sidecars import SidecarProcess
from tapehouse.app.state_keeper import StateKeeper
from tapehouse.app.strategies import load_strategy
from tapehouse.bus.service import ServiceHost
from tapehouse.core import SystemClock
from tapehouse.core.errors import TransientError
from tapehouse.log import Log, PatientLog
from tapehouse.log.snaps import Snaps

KEEP_AGAIN_S = 5.0  # between two tries to reach SNAPS


async def serve_tape(
    tape: str,
    *,
    nats: str | None,
    home: Path | None,
    strategy: str,
    parameters: str | None = None,
    mode: Mode = "gated",
    options: AheadOptions | None = None,
    cpus: str | None = None,
    out: bool = True,
    on_ready: Callable[[], None],
) -> None:
    """Serve until cancelled.

    Args:
        out: Bring EVENTS to OUT as JSON.

    Raises:
        ConflictError: Another host took the tape over.
        GapError, DecodeError, IntegrityError: A log is damaged; the sequence is named.
    """
    loaded = load_strategy(strategy, parameters)
    ahead = mode == "ahead"  # It goes on without brokers, so what runs beside it waits for them.
    async with open_platform(nats, home=home, patient=ahead) as platform:
        made: list[Log] = [
            await platform.tape(tape, create=True),
            await platform.events(tape, create=True),
            await platform.commands(tape, create=True),
        ]
        opened = [PatientLog(log) for log in made] if ahead else made
        logs = Logs(tape=opened[0], events=opened[1], commands=opened[2])
        snapshots = await platform.snapshots(tape)
        projector = Projector(logs.tape, logs.events, snapshots)
        await projector.open()
        beside = [asyncio.create_task(projector.run(follow=True))]
        service: ServiceHost | None = None
        doors = DeskDoors(tape, logs, mode=mode, position=projector.position)
        try:
            ends = [(await log.extent()).last for log in (logs.tape, logs.events)]
            await projector.until(tape=ends[0], events=ends[1])  # Readers never see less than was there at the start.
            service = await serve_kv(platform.bus, tape, projector)
            beside += await doors.open(await platform.out(create=True) if out else None, snapshots, patient=ahead)
            beside.append(asyncio.create_task(doors.serve(platform.bus, on_ready)))
            snaps = await platform.make_snaps()
            parked = await platform.parked()
            for follower in _followers(tape, logs, snaps, parked):
                beside.append(asyncio.create_task(_follow(follower, patient=ahead)))
            rings = options.rings if options else None
            sidecar = SidecarProcess(tape, nats=nats, home=platform.home, rings=rings, cpus=cpus)
            if not ahead:
                await finish_leftover(tape, logs.tape, sidecar, SystemClock(), directory=rings)
                serving = serve(logs, strategy=loaded, clock=SystemClock(), snapshots=snapshots, **doors.hooks)
            else:
                serving = serve_ahead(
                    tape, logs, strategy=loaded, sidecar=sidecar, clock=SystemClock(), snapshots=snapshots,
                    options=options, timings=platform.timings(tape, await logs.tape.extent()), **doors.hooks,
                )  # fmt: skip
            await first_failure(asyncio.create_task(serving), beside)
        except asyncio.CancelledError:
            projector.save()  # Stopped on purpose: the next start begins from here.
            doors.save()
            raise
        finally:
            await doors.stop()
            await cancel_all(beside)
            if service is not None:
                await service.stop()


class Follower(Protocol):
    """What goes on beside the desk and keeps its place elsewhere."""

    async def run(self, *, follow: bool = False) -> object:
        """Do what is there; with `follow`, go on with what comes until cancelled."""
        ...


def _followers(tape: str, logs: Logs, snaps: Snaps, parked: Log) -> list[Callable[[], Follower]]:
    """What makes each anew: keepers of the tape's books and of the projections of either log, copies of the parked."""
    return [
        lambda: BookKeeper(logs.tape, snaps),
        lambda: StateKeeper(logs.tape, snaps, tape=tape, source="tape"),
        lambda: StateKeeper(logs.events, snaps, tape=tape, source="events"),
        lambda: ParkedStream(tape, logs.tape, logs.events, parked),
    ]


async def _follow(make: Callable[[], Follower], *, patient: bool) -> None:
    """Have a follower go on until cancelled.

    Args:
        patient: Where the broker stays away, go on when it is back; else that is an error.
    """
    while True:
        try:
            await make().run(follow=True)
        except TransientError:
            if not patient:
                raise
        await asyncio.sleep(KEEP_AGAIN_S)
